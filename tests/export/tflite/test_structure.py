"""Checks of a file's structure: whole files pass, and each broken rule is named."""

import struct
import time

import numpy as np
import pytest

from r2keras._util import optional_packages
from r2keras.export.tflite import flatbuffer, schema
from r2keras.export.tflite.interpreter import parse
from r2keras.export.tflite.structure import check_structure
from r2keras.export.tflite.writer import write


@pytest.fixture(scope="module")
def data(exported):
    return exported[2].read_bytes()


def refused(data, words):
    with pytest.raises(ValueError, match=f"^it is not a readable .*{words}"):
        check_structure(bytes(data), "it")


def test_a_whole_file_is_returned_parsed(data):
    assert len(check_structure(data).subgraphs[0].operators) == len(parse(data).subgraphs[0].operators) > 1


def test_every_cut_is_refused(data):
    for length in range(0, len(data), 16):
        refused(data[:length], r"it has . bytes|truncated or corrupt|identifier|holds")


def test_every_offset_is_checked(data):
    """An offset of the whole file that points far outside is refused wherever it is, or is a plain number."""
    schema_classes = optional_packages.schema()
    for place in range(0, len(data) - 4, 12):
        changed = bytearray(data)
        struct.pack_into("<I", changed, place, 0x7FFFFFF0)
        try:
            check_structure(bytes(changed))
        except ValueError:
            continue
        schema_classes.ModelT.InitFromObj(schema_classes.Model.GetRootAs(changed, 0))


def test_tables_that_share_bytes_cost_no_time(data):
    """A vector of many references to one subgraph is refused at once."""
    file = parse(data)
    file.subgraphs = file.subgraphs[:1]
    content = bytearray(write(file))
    root = struct.unpack_from("<I", content, 0)[0]
    fields = root - struct.unpack_from("<i", content, root)[0]
    place = root + struct.unpack_from("<H", content, fields + 4 + 2 * 2)[0]  # the third field: subgraphs
    vector = place + struct.unpack_from("<I", content, place)[0]
    target = vector + 4 + struct.unpack_from("<I", content, vector + 4)[0]
    # The new vector stands in front of a copy of the file, because offsets count forwards.
    count = 10**5
    head = bytearray(content[:8]) + struct.pack("<I", count) + bytes(4 * count)
    for i in range(count):
        here = 12 + 4 * i
        struct.pack_into("<I", head, here, len(head) + target - here)
    struct.pack_into("<I", head, 0, len(head) + root)
    moved = head + content
    struct.pack_into("<I", moved, len(head) + place, 8 - (len(head) + place) & 0xFFFFFFFF)
    start = time.perf_counter()
    refused(moved, "wrong offset|too often")
    assert time.perf_counter() - start < 20


def edited(data, edit):
    file = parse(data)
    edit(file, file.subgraphs[0])
    return write(file)


def set_(target, field, value):
    setattr(target, field, value)


RULES = {
    "no subgraph": lambda file, graph: set_(file, "subgraphs", []),
    "no buffer": lambda file, graph: set_(file, "buffers", []),
    "missing code": lambda file, graph: set_(graph.operators[0], "opcodeIndex", 99),
    "not an operator code": lambda file, graph: set_(file.operatorCodes[0], "builtinCode", 2000),
    "custom operator has no name": lambda file, graph: set_(file.operatorCodes[0], "builtinCode", 32),
    "missing buffer": lambda file, graph: set_(graph.tensors[0], "buffer", 999),
    "outside of it": lambda file, graph: (set_(file.buffers[-1], "offset", 10**6), set_(file.buffers[-1], "size", 9)),
    "not a type": lambda file, graph: set_(graph.tensors[0], "type", 77),
    "negative size": lambda file, graph: set_(graph.tensors[0], "shape", np.array([-1, 16], np.int32)),
    "two shapes": lambda file, graph: set_(graph.tensors[0], "shapeSignature", np.array([-1, 17], np.int32)),
    "too large": lambda file, graph: set_(graph.tensors[0], "shape", np.array([2**16, 2**16], np.int32)),
    "its shape .* needs": lambda file, graph: set_(constant(file, graph), "shape", np.array([3, 3], np.int32)),
    "finite": lambda file, graph: set_(constant(file, graph).quantization, "scale", np.array([np.nan], np.float32)),
    "zero points": lambda file, graph: set_(constant(file, graph).quantization, "zeroPoint", np.zeros(3, np.int64)),
    "missing axis": lambda file, graph: set_(constant(file, graph).quantization, "quantizedDimension", 2),
    "along axis": lambda file, graph: set_(constant(file, graph).quantization, "quantizedDimension", 1),
    "returns the missing tensor": lambda file, graph: set_(graph, "outputs", np.array([99], np.int32)),
    "constant as an input": lambda file, graph: set_(graph, "inputs", [*graph.inputs, index_of_constant(file, graph)]),
    "takes one tensor twice": lambda file, graph: set_(graph, "inputs", [*graph.inputs, *graph.inputs]),
    "reads the missing": lambda file, graph: set_(graph.operators[0], "inputs", np.array([99], np.int32)),
    "before it is computed": lambda file, graph: set_(graph, "operators", graph.operators[::-1]),
    "writes the missing": lambda file, graph: set_(graph.operators[0], "outputs", np.array([-1], np.int32)),
    "which is an input": lambda file, graph: set_(graph.operators[0], "outputs", graph.inputs),
    "not computed": lambda file, graph: set_(graph, "operators", graph.operators[:-1]),
    "another operator": lambda file, graph: give_options(graph.operators[-1]),
    "lacks its input 1": lambda file, graph: set_(graph.operators[-1], "inputs", np.array([0, -1, -1], np.int32)),
    "runs the missing subgraph": lambda file, graph: call(file, graph, 5),
    "calls itself": lambda file, graph: call(file, graph, 0),
    "metadata": lambda file, graph: set_(file, "metadata", [schema_class("MetadataT")(name="a", buffer=99)]),
    "refers to a missing subgraph": lambda file, graph: set_(file.signatureDefs[0], "subgraphIndex", 7),
    "refers to a missing tensor": lambda file, graph: set_(file.signatureDefs[0].inputs[0], "tensorIndex", 99),
}


def schema_class(name):
    return getattr(optional_packages.schema(), name)


def index_of_constant(file, graph):
    """The first tensor of codes."""
    return next(i for i, tensor in enumerate(graph.tensors) if tensor.type in schema.WIDTHS)


def constant(file, graph):
    return graph.tensors[index_of_constant(file, graph)]


def give_options(operator):
    operator.builtinOptionsType = optional_packages.schema().BuiltinOptions.Conv2DOptions
    operator.builtinOptions = schema_class("Conv2DOptionsT")()


def call(file, graph, index):
    options = {"initSubgraphIndex": index}
    graph.operators.insert(0, schema.operator(file, "CALL_ONCE", 1, [], [], "CallOnceOptions", **options))


@pytest.mark.parametrize("words", RULES)
def test_broken_rule_is_named(data, words):
    refused(edited(data, RULES[words]), words)


def test_names_are_utf8(data):
    place = data.index(b"hidden/kernel")
    refused(data[:place] + b"\xff" + data[place + 1 :], "not UTF-8")


def test_the_layout_of_every_table_is_known():
    """The layouts come from generated code: each field has the width of its kind, each union its list of types."""
    members = vars(optional_packages.schema())
    tables = [name for name in members if f"{name}T" in members]
    assert len(tables) > 150
    for table in tables:
        fields = flatbuffer._layout(table)
        count = int(members[f"{table}Start"].__code__.co_consts[-1] or 0)
        assert len({field.slot for field in fields}) == len(fields) <= max(count, len(fields))
        for field in fields:
            assert field.width == 4 or field.kind == "scalar"
            if field.kind == "union":
                assert len(flatbuffer._union(field.of)) > 2
            elif field.kind in ("table", "tables"):
                assert f"{field.of}T" in members
    by_slot = {field.slot: field for field in flatbuffer._layout("Tensor")}
    assert (by_slot[0].kind, by_slot[3].kind, by_slot[4].of, by_slot[2].width) == (
        "scalars",
        "string",
        "QuantizationParameters",
        4,
    )


@pytest.mark.parametrize(
    ("code", "position", "words"),
    [
        (b"ethos-u", 2, None),
        (b"ethos-u", 3, None),
        (b"ethos-u", 1, "CUSTOM, reads tensor .* before it is computed"),
        (b"ethos-u", 4, "CUSTOM, reads tensor .* before it is computed"),
        (b"ethos-v", 2, "CUSTOM, reads tensor .* before it is computed"),
    ],
)
def test_only_the_scratch_memory_of_an_npu_is_never_computed(data, code, position, words):
    file = parse(data)
    graph = file.subgraphs[0]
    custom = optional_packages.schema().OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode=code)
    scratch = optional_packages.schema().TensorT(shape=np.array([8], np.int32), type=schema.UINT8, buffer=0)
    graph.tensors += [scratch, optional_packages.schema().TensorT(shape=np.array([8], np.int32), type=schema.UINT8)]
    inputs = np.full(5, graph.inputs[0], np.int32)
    inputs[position] = len(graph.tensors) - 2
    operator = optional_packages.schema().OperatorT(opcodeIndex=len(file.operatorCodes), inputs=inputs)
    operator.outputs = np.array([len(graph.tensors) - 1], np.int32)
    file.operatorCodes.append(custom)
    graph.operators.append(operator)
    if words:
        refused(write(file), words)
    else:
        check_structure(bytes(write(file)))
