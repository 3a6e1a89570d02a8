"""Read-back of the weights in a file for microcontrollers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.tflite.schema import FLOAT32, SEPARATOR
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.weights.lookup_forms import Integers
from r2keras.export.weights.lookup_table import LookupTable, read_lookup

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# The custom operator of LiteRT for Microcontrollers, and the description that marks the files of `to_tflm`.
DECODE, MARK = b"TFLM_DECODE", b"TFLM"
# Value of the schema's TensorType.
INT16 = 7
STAYS_FLOAT, OUTSIDE = "stays float", ", one factor per channel after the operator"


def is_for_microcontrollers(file: ModelT) -> bool:
    """Whether `to_tflm` wrote a file."""
    return file.description == MARK


def is_decode(file: ModelT, op: OperatorT) -> bool:
    """Whether an operator looks up tensors in their tables."""
    return file.operatorCodes[op.opcodeIndex].customCode == DECODE


def stored_form(graph: Subgraph, tensor: int) -> LookupTable | Integers | None:
    """Returns the stored form that a float tensor is computed from; None if it is not computed from one."""
    producer = graph.producer(tensor)
    if producer is None:
        return None
    inputs, shape = inputs_of(producer), graph.shape(tensor)
    if is_decode(graph.file, producer):
        # DECODE reads two tensors, the indices and the tables, for each tensor that it computes.
        first = 2 * outputs_of(producer).index(tensor)
        return read_lookup(graph.data(inputs[first]), graph.data(inputs[first + 1]), shape)
    if graph.kind(producer) != "DEQUANTIZE" or not graph.is_constant(inputs[0]):
        return None
    source = graph.tensor(inputs[0])
    codes = graph.data(inputs[0]).view("<i2" if source.type == INT16 else "i1").reshape(shape)
    return Integers(codes, float(source.quantization.scale[0]), int(source.quantization.zeroPoint[0]))


def stored_as(file: ModelT) -> dict[str, tuple[int, str]]:
    """Returns, by weight name, the bits per value and a note on what is stored."""
    stored_by_names: dict[bytes, tuple[int, str]] = {}
    for graph in subgraphs(file):
        names = {i: tensor.name for i, tensor in enumerate(graph.schema.tensors) if tensor.name}
        floats = {name for i, name in names.items() if graph.tensor(i).type == FLOAT32 and graph.is_constant(i)}
        for op in graph.operators:
            for number, output in enumerate(outputs_of(op)):
                store = stored_form(graph, output)
                if store is not None:
                    name = names[inputs_of(op)[2 * number]]
                    stored_by_names[name] = (store.bits, store.note + (OUTSIDE if name in floats else ""))
        stored_by_names.update(dict.fromkeys(floats - set(stored_by_names), (32, STAYS_FLOAT)))
    return {name: stored for names, stored in stored_by_names.items() for name in names.decode().split(SEPARATOR)}
