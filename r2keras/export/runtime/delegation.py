"""Which operators of a file XNNPACK runs, and why not the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras._util.native_log import quiet
from r2keras.export.tflite.interpreter import open_interpreter
from r2keras.export.tflite.schema import FLOAT16, FLOAT32, INT2, INT4, INT8, WIDTHS
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"}
BY_CHOICE = "XNNPACK does not take it with these types, shapes or options"


def delegated(data: bytes, name: str) -> set[int]:
    """Returns the positions of the operators of the first subgraph that XNNPACK runs.

    Args:
        data: the file's bytes.
        name: what errors call it.

    Raises:
        ValueError: LiteRT rejects the file.
    """
    interpreter = open_interpreter(data, name, delegate=True)
    with quiet():
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            raise ValueError(f"LiteRT cannot run {name} ({' '.join(str(error).split())}).") from error
        # The only place where LiteRT tells what was delegated: each part is one more operator at the end.
        details = interpreter._get_ops_details()
    producers = {int(tensor): item for item in details if not _is_part(item) for tensor in item["outputs"]}
    found: set[int] = set()
    for part in filter(_is_part, details):
        _collect(part, producers, found)
    return found


def _is_part(item: dict) -> bool:
    """Whether an entry of the interpreter's list stands for operators that a delegate took."""
    return item["op_name"] == "DELEGATE"


def _collect(part: dict, producers: dict[int, dict], found: set[int]) -> None:
    """Adds the operators between the inputs and the outputs of a part."""
    inputs = {int(tensor) for tensor in part["inputs"]}
    tensors = [int(tensor) for tensor in part["outputs"]]
    while tensors:
        producer = producers.get(tensors.pop())
        if producer is not None and producer["index"] not in found:
            found.add(producer["index"])
            tensors += [int(tensor) for tensor in producer["inputs"] if tensor >= 0 and int(tensor) not in inputs]


def why_not(graph: Subgraph, operator: OperatorT) -> str:
    """Returns the likely reason why XNNPACK does not run an operator."""
    tensors = [graph.tensor(index) for index in inputs_of(operator) if index >= 0]
    types = {tensor.type for tensor in tensors}
    kind = graph.kind(operator)
    if types & {INT4, INT2} and kind not in ("FULLY_CONNECTED", "DEQUANTIZE"):
        bits = min(WIDTHS[kind] for kind in types & {INT4, INT2})
        return f"weights of {bits} bits: XNNPACK takes them in FULLY_CONNECTED only"
    weights = inputs_of(operator)[1:2]
    if kind in PRODUCTS and weights and not graph.is_constant(weights[0]):
        return "its weights are computed at run time: XNNPACK takes constants"
    if kind in ("WHILE", "IF", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"):
        return "control flow or a state: the interpreter runs it"
    results = {graph.tensor(index).type for index in outputs_of(operator)}
    if not (types | results) & {FLOAT32, FLOAT16, INT8, INT4, INT2}:
        return "sizes and indices: the interpreter computes them"
    return BY_CHOICE
