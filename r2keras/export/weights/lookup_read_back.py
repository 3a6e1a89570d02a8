"""Read-back of the weights in a file for microcontrollers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.schema import FLOAT32, SEPARATOR
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.weights.huffman import decode, is_huffman
from r2keras.export.weights.lookup_forms import HuffmanIntegers, Integers
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
        packed, ancillary = (graph.data(i) for i in _decoded_from(producer, tensor))
        # Huffman codes are decoded to integers, which a DEQUANTIZE makes floats.
        return None if is_huffman(ancillary) else read_lookup(packed, ancillary, shape)
    if graph.kind(producer) != "DEQUANTIZE":
        return None
    source = graph.tensor(inputs[0])
    decoder = graph.producer(inputs[0])
    if decoder is not None and is_decode(graph.file, decoder):
        packed, ancillary = (graph.data(i) for i in _decoded_from(decoder, inputs[0]))
        codes: np.ndarray = decode(packed, ancillary, math.prod(shape))
    elif graph.is_constant(inputs[0]):
        codes = graph.data(inputs[0]).view("<i2" if source.type == INT16 else "i1")
    else:
        return None
    kind = Integers if decoder is None else HuffmanIntegers
    return kind(codes.reshape(shape), float(source.quantization.scale[0]), int(source.quantization.zeroPoint[0]))


def _decoded_from(decoder: OperatorT, tensor: int) -> list[int]:
    """Returns the two constants that a DECODE computes a tensor from: codes, and header with tables."""
    first = 2 * outputs_of(decoder).index(tensor)
    return inputs_of(decoder)[first : first + 2]


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
                    named = inputs_of(op)[2 * number]
                    decoder = graph.producer(named)
                    name = names[named if decoder is None else inputs_of(decoder)[0]]
                    stored_by_names[name] = (store.bits, store.note + (OUTSIDE if name in floats else ""))
        stored_by_names.update(dict.fromkeys(floats - set(stored_by_names), (32, STAYS_FLOAT)))
    return {name: stored for names, stored in stored_by_names.items() for name in names.decode().split(SEPARATOR)}
