"""Damaged compact files: `expand` and `bundle` refuse them clearly or return a whole file, in little memory."""

import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from r2keras.export import bundle, expand
from r2keras.export.tflite import schema
from r2keras.export.tflite.interpreter import open_interpreter, parse
from r2keras.export.tflite.schema import FLOAT32, INT32
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.tflite.writer import write
from tests.damage import MANY, QUICK, check_refusal, damaged_bytes, examples, peak_megabytes
from tests.export import bundle_loader
from tests.export.install.compact_file import SIZE, compact_file

# The most bytes that a file of one kilobyte expands to.
MOST_BYTES = 10**6


@pytest.fixture(scope="module")
def data():
    return compact_file()


def outputs(content):
    """Returns what LiteRT computes for one input."""
    interpreter = open_interpreter(content, "the file")
    interpreter.allocate_tensors()
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)[None]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_the_whole_file_expands(data):
    large, packed = expand(data), bundle(data)
    assert kinds_of(large) == ["FULLY_CONNECTED"] * 3
    assert struct.unpack_from("<I", packed, 8)[0] == 3
    np.testing.assert_array_equal(outputs(large), outputs(data))
    np.testing.assert_array_equal(outputs(bundle_loader.load(packed)), outputs(data))


def run(content):
    """Expands a file in both forms, or asserts that the refusal is clear."""
    for function in (expand, bundle):
        try:
            result = function(content)
        except ValueError as error:
            check_refusal(error, "small`")
        else:
            assert len(result) < MOST_BYTES
            if function is expand:
                parse(result)


SIZES = [0, 1, 2, 7, 8, 9, 64, 1024, 2**20, 2**31 - 1, -1]
FLOATS = [0.0, -1.0, 1e30, -1e-30, float("inf"), float("nan")]


@st.composite
def edited_files(draw, data):
    """Draws a file of which one to three fields are exchanged, still a flatbuffer."""
    file = parse(data)
    for _ in range(draw(st.integers(1, 3))):
        graph = draw(st.sampled_from(file.subgraphs))
        tensor, op = draw(st.sampled_from(graph.tensors)), draw(st.sampled_from(graph.operators))
        kind = draw(st.sampled_from(sorted(EDITS)))
        EDITS[kind](draw, file, graph, tensor, op)
    try:
        return write(file)
    except (struct.error, TypeError, AttributeError, OverflowError, ValueError):
        assume(False)


def _shape(draw, file, graph, tensor, op):
    shape = list(tensor.shape)
    if draw(st.booleans()) and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(SIZES))
    else:
        shape = draw(st.lists(st.sampled_from(SIZES), max_size=5))
    tensor.shape = np.asarray(shape, np.int32)


def _inputs(draw, file, graph, tensor, op):
    values = list(op.inputs)
    kind = draw(st.sampled_from(["one", "drop", "add", "swap"]))
    other = draw(st.integers(-1, len(graph.tensors)))
    if kind == "one" and values:
        values[draw(st.integers(0, len(values) - 1))] = other
    elif kind == "drop":
        values = values[:-1]
    elif kind == "add":
        values.append(other)
    else:
        values.reverse()
    op.inputs = np.asarray(values, np.int32)


def _operators(draw, file, graph, tensor, op):
    kind = draw(st.sampled_from(["drop", "twice", "move", "code", "options", "foreign"]))
    if kind == "drop":
        graph.operators = [other for other in graph.operators if other is not op]
    elif kind == "twice":
        graph.operators = [*graph.operators, op]
    elif kind == "move":
        graph.operators = draw(st.permutations(graph.operators))
    elif kind == "code":
        op.opcodeIndex = draw(st.integers(0, len(file.operatorCodes)))
    elif kind == "options":
        op.builtinOptions, op.builtinOptionsType = None, 0
    else:
        names = ["DEQUANTIZE", "ADD", "MUL", "CAST", "GATHER", "RESHAPE", "EMBEDDING_LOOKUP", "READ_VARIABLE", "WHILE"]
        schema.set_kind(file, op, draw(st.sampled_from(names)), 1)
    graph.operators = graph.operators or [op]


def _quantization(draw, file, graph, tensor, op):
    grid = tensor.quantization
    kind = draw(st.sampled_from(["none", "axis", "scale", "zero", "no scale", "no zero", "given"]))
    if kind == "none" or grid is None:
        tensor.quantization = schema.quantization(np.ones(draw(st.sampled_from([1, 2, 8])))) if grid is None else None
    elif kind == "axis":
        grid.quantizedDimension = draw(st.sampled_from([0, 1, 2, -1, 2**31 - 1]))
    elif kind == "scale":
        count = draw(st.sampled_from([0, 1, 2, 8, 64]))
        grid.scale = np.full(count, draw(st.sampled_from(FLOATS)), np.float32)
    elif kind == "zero":
        grid.zeroPoint = np.full(draw(st.sampled_from([0, 1, 2, 8])), draw(st.sampled_from(SIZES)), np.int64)
    elif kind == "no scale":
        grid.scale = None
    else:
        grid.zeroPoint = None


def _buffer(draw, file, graph, tensor, op):
    kind = draw(st.sampled_from(["other", "data", "none", "offset", "numbers"]))
    buffer = file.buffers[tensor.buffer]
    if kind == "other":
        tensor.buffer = draw(st.integers(0, len(file.buffers)))
    elif kind == "data":
        count = draw(st.sampled_from([1, 3, 4, 32, 64, 256]))
        buffer.data = np.full(count, draw(st.integers(0, 255)), np.uint8)
    elif kind == "none":
        buffer.data = None
    elif kind == "offset":
        buffer.offset, buffer.size = draw(st.sampled_from([1, 2, 8, 2**40])), draw(st.sampled_from([0, 8, 2**40]))
    elif buffer.data is not None and len(buffer.data) % 4 == 0:
        odd = draw(st.sampled_from([*FLOATS, 1e9, -5]))
        buffer.data = np.full(len(buffer.data) // 4, odd, np.float32).view(np.uint8)


def _ends(draw, file, graph, tensor, op):
    name = draw(st.sampled_from(["inputs", "outputs"]))
    setattr(graph, name, np.asarray(draw(st.lists(st.integers(-1, len(graph.tensors)), max_size=3)), np.int32))


def _options(draw, file, graph, tensor, op):
    fields = {} if op.builtinOptions is None else vars(op.builtinOptions)
    if fields:
        name = draw(st.sampled_from(sorted(fields)))
        value = draw(st.sampled_from([0, 1, -1, 2, 255])) if isinstance(fields[name], int) else b"r2keras"
        setattr(op.builtinOptions, name, value)


def _type(draw, file, graph, tensor, op):
    tensor.type = draw(st.integers(0, 21))


def _graphs(draw, file, graph, tensor, op):
    if draw(st.booleans()):
        file.subgraphs = [*file.subgraphs, graph]
    elif len(file.subgraphs) > 1:
        file.subgraphs = file.subgraphs[::-1] if draw(st.booleans()) else file.subgraphs[:-1]


EDITS = {
    "shape": _shape,
    "type": _type,
    "inputs": _inputs,
    "operators": _operators,
    "quantization": _quantization,
    "buffer": _buffer,
    "ends": _ends,
    "options": _options,
    "graphs": _graphs,
}


def check(number):
    before, content = peak_megabytes(), compact_file()

    @examples(number)
    @given(st.data())
    def damaged(data):
        strategy = damaged_bytes(content) if data.draw(st.integers(0, 2)) == 0 else edited_files(content)
        run(data.draw(strategy))

    damaged()
    assert peak_megabytes() - before < 200


def test_damaged_files():
    check(QUICK // 5)


@pytest.mark.slow
def test_many_damaged_files():
    check(MANY)


def changed(data, edit):
    file = parse(data)
    edit(Subgraph(file))
    return write(file)


def kinds_of(content):
    graph = Subgraph(parse(content))
    return [graph.kind(op) for op in graph.operators]


def operator_of(graph, kind):
    return next(op for op in graph.operators if graph.kind(op) == kind)


def widen(graph):
    """Makes the result of a MUL as large as a tensor can be."""
    graph.tensor(operator_of(graph, "MUL").outputs[0]).shape = np.asarray([2**14, 2**14], np.int32)


def double(graph):
    """Adds a weight to itself again and again, which doubles what there is to compute every time."""
    multiply = operator_of(graph, "MUL")
    tensor = int(multiply.outputs[0])
    reader = next(op for op in graph.operators if tensor in op.inputs)
    added = []
    for _ in range(60):
        result = graph.add_tensor((SIZE, SIZE), FLOAT32)
        added.append(schema.operator(graph.file, "ADD", 1, [tensor, tensor], [result]))
        tensor = result
    graph.insert_after(multiply, added)
    graph.set_inputs(reader, [tensor if i == int(multiply.outputs[0]) else i for i in reader.inputs])


def chain(graph):
    """Puts hundreds of operators between a weight and its layer."""
    multiply = operator_of(graph, "MUL")
    tensor = int(multiply.outputs[0])
    added = []
    for _ in range(400):
        result = graph.add_tensor((SIZE, SIZE), FLOAT32)
        added.append(schema.operator(graph.file, "RESHAPE", 1, [tensor], [result]))
        tensor = result
    graph.insert_after(multiply, added)


def square(graph):
    """Multiplies a column by a row, which gives far more values than the file holds."""
    column = graph.add_tensor((5000, 1), FLOAT32, np.ones((5000, 1), np.float32))
    row = graph.add_tensor((1, 5000), FLOAT32, np.ones((1, 5000), np.float32))
    result = graph.add_tensor((5000, 5000), FLOAT32)
    graph.append([schema.operator(graph.file, "MUL", 1, [column, row], [result])])
    graph.schema.outputs = np.append(graph.outputs, result).astype(np.int32)


def copies(graph):
    """Looks up forty rows of a thousand values a hundred times."""
    table = graph.add_tensor((1, 1000), FLOAT32, np.ones((1, 1000), np.float32))
    rows = graph.add_tensor((40,), INT32, np.zeros(40, np.int32))
    results = [graph.add_tensor((40, 1000), FLOAT32) for _ in range(100)]
    graph.append([schema.operator(graph.file, "GATHER", 1, [table, rows], [result]) for result in results])
    graph.schema.outputs = np.asarray([*graph.outputs, *results], np.int32)


@pytest.mark.parametrize("zero_point", [2**24, -(2**24)])
def test_zero_points_far_apart_make_no_large_table(data, zero_point):
    file, before = parse(data), peak_megabytes()
    codes = Subgraph(file, 1).tensor(operator_of(Subgraph(file, 1), "DEQUANTIZE").inputs[0])
    codes.quantization.zeroPoint = np.asarray([zero_point] + [0] * (SIZE - 1), np.int64)
    content = write(file)
    packed = bundle(content)
    assert len(packed) < 2 * len(data) and struct.unpack_from("<I", packed, 8)[0] == 2
    np.testing.assert_array_equal(outputs(bundle_loader.load(packed)), outputs(expand(content)))
    assert peak_megabytes() - before < 30


@pytest.mark.parametrize("edit", [double, chain, square])
def test_what_is_no_weight_is_not_expanded(data, edit):
    content, before = changed(data, edit), peak_megabytes()
    large = expand(content)
    assert len(large) < len(content) + MOST_BYTES
    assert len(parse(large).subgraphs[0].operators) > 3 or edit is chain
    bundle(content)
    assert peak_megabytes() - before < 60


def test_hostile_sizes_are_refused_before_anything_is_computed(data):
    content, before = changed(data, copies), peak_megabytes()
    for function in (expand, bundle):
        with pytest.raises(ValueError, match="has too few bytes for weights of 4,000,192 values"):
            function(content)
    assert peak_megabytes() - before < 30


def test_a_shape_that_no_operator_gives_is_not_expanded(data):
    content, before = changed(data, widen), peak_megabytes()
    try:
        large = expand(content)
    except ValueError as error:
        check_refusal(error, "small`")
    else:
        assert "MUL" in kinds_of(large)
    assert peak_megabytes() - before < 30


def _far(graph):
    table = operator_of(graph, "GATHER").inputs[0]
    half = next(op for op in graph.operators if graph.kind(op) == "ADD" and graph.shape(int(op.outputs[0])) == (8, 4))
    graph.file.buffers[graph.tensor(int(half.inputs[1])).buffer].data = np.asarray([99], "<f4").view(np.uint8)
    assert graph.shape(int(table)) == (16, 2)


def _begin(graph):
    once = Subgraph(graph.file, 1)
    begin = int(operator_of(once, "SLICE").inputs[1])
    graph.file.buffers[once.tensor(begin).buffer].data = np.asarray([0, 5], "<i4").view(np.uint8)


def _order(graph):
    once = Subgraph(graph.file, 1)
    order = int(operator_of(once, "TRANSPOSE").inputs[1])
    graph.file.buffers[once.tensor(order).buffer].data = np.asarray([1, 1], "<i4").view(np.uint8)


@pytest.mark.parametrize(
    ("edit", "words"),
    [(_far, "reads rows 91 to .* of a table of 16"), (_begin, "SLICE, takes .* of "), (_order, "has the order")],
)
def test_values_that_no_runtime_computes_are_refused(data, edit, words):
    content = changed(data, edit)
    for function in (expand, bundle):
        with pytest.raises(ValueError, match=f"`small` is not a readable .tflite .*{words}"):
            function(content)


def test_a_variable_that_is_set_twice_is_not_expanded(data):
    file = parse(data)
    once = Subgraph(file, 1)
    once.append([operator_of(once, "ASSIGN_VARIABLE")])
    try:
        assert "READ_VARIABLE" in kinds_of(expand(write(file)))
    except ValueError as error:
        check_refusal(error, "small`")


def test_a_variable_of_the_model_itself_is_kept(data):
    """The subgraph that runs once may do more than decode weights."""
    file = parse(data)
    once = Subgraph(file, 1)
    value = once.add_tensor((2,), INT32, np.arange(2, dtype=np.int32))
    handle = once.add_tensor((), schema.RESOURCE)
    options = {"container": "own", "sharedName": "state"}
    once.append(
        [
            schema.operator(file, "VAR_HANDLE", 1, [], [handle], "VarHandleOptions", **options),
            schema.operator(file, "ASSIGN_VARIABLE", 1, [handle, value], [], "AssignVariableOptions"),
        ]
    )
    large = expand(write(file))
    assert len(parse(large).subgraphs) == 2
    assert "CALL_ONCE" in kinds_of(large)
