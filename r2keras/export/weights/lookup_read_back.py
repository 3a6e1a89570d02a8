"""Read-back of the weights in a file for microcontrollers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras.export.tflite.schema import FLOAT32, SEPARATOR
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.weights.decode_operator import INTEGER_MARK, decoded_from, huffman_codes, is_decode
from r2keras.export.weights.huffman import is_huffman
from r2keras.export.weights.lookup_forms import HuffmanIntegers, Integers
from r2keras.export.weights.lookup_table import LookupTable, read_lookup

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

# Value of the schema's TensorType.
INT16 = 7
STAYS_FLOAT, OUTSIDE = "stays float", ", one factor per channel after the operator"


def stored_form(graph: Subgraph, tensor: int) -> LookupTable | Integers | None:
    """Returns the stored form that a float tensor is computed from; None if it is not computed from one."""
    producer = graph.producer(tensor)
    if producer is None:
        return None
    shape = graph.shape(tensor)
    if is_decode(graph.file, producer):
        packed, ancillary = (graph.data(i) for i in decoded_from(producer, tensor))
        # Huffman codes are decoded to integers, which a DEQUANTIZE makes floats.
        return None if is_huffman(ancillary) else read_lookup(packed, ancillary, shape)
    if graph.kind(producer) != "DEQUANTIZE":
        return None
    source = inputs_of(producer)[0]
    grid = graph.tensor(source).quantization
    decoded = huffman_codes(graph, source)
    if decoded is not None:
        return HuffmanIntegers(decoded.reshape(shape), float(grid.scale[0]), int(grid.zeroPoint[0]))
    if not graph.is_constant(source):
        return None
    codes = graph.data(source).view("<i2" if graph.tensor(source).type == INT16 else "i1")
    return Integers(codes.reshape(shape), float(grid.scale[0]), int(grid.zeroPoint[0]))


def stored_as(file: ModelT) -> dict[str, tuple[int, str]]:
    """Returns, by weight name, the bits per value and a note on what is stored; in integer files, of Huffman codes."""
    if file.description == INTEGER_MARK:
        return _huffman_notes(file)
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
    return _by_name(stored_by_names)


def _huffman_notes(file: ModelT) -> dict[str, tuple[int, str]]:
    """Returns, by weight name, the bits per code and a note on Huffman codes."""
    stored_by_names: dict[bytes, tuple[int, str]] = {}
    for graph in subgraphs(file):
        for op in graph.operators:
            for output in outputs_of(op) if is_decode(file, op) else []:
                codes = huffman_codes(graph, output)
                if codes is not None:
                    store = HuffmanIntegers(codes, 1.0, 0)
                    stored_by_names[graph.tensor(decoded_from(op, output)[0]).name] = (store.bits, store.note)
    return _by_name(stored_by_names)


def _by_name(stored_by_names: dict[bytes, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Returns what is stored for each of the weights that share a constant."""
    return {name: stored for names, stored in stored_by_names.items() for name in names.decode().split(SEPARATOR)}
