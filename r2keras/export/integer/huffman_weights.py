"""Weights of integer files as Huffman codes, which LiteRT for Microcontrollers expands to 8-bit integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from r2keras.export.integer.packed_products import widen, widen_products
from r2keras.export.integer.weights import IntegerWeight
from r2keras.export.tflite.schema import INT8, UINT8
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.decode_operator import OPERATOR_BYTES, decode_operator
from r2keras.export.weights.huffman import encode


def encode_products(graph: Subgraph, weights: Sequence[IntegerWeight]) -> None:
    """Stores the codes of products as Huffman codes where the file gets smaller, others as `widen_products` does.

    A DECODE directly before each product expands them, so that memory holds the codes of one product at a time.

    Args:
        graph: the first subgraph, edited in place.
        weights: its integer weights.
    """
    widen_products(graph, weights)
    # A layer that is used twice has two weights, whose equal codes the file holds once.
    copies = Counter(weight.kernel.codes.tobytes() for weight in weights)
    for weight in weights:
        codes = weight.kernel.codes
        weight.coded = encode_constant(graph, weight.tensors[0], codes, copies[codes.tobytes()])
        if weight.coded:
            widen(graph, weight)


def encode_constant(graph: Subgraph, tensor: int, codes: np.ndarray, copies: int = 1) -> list[int]:
    """Makes a constant of codes the result of a DECODE of Huffman codes, if the file gets smaller.

    Args:
        graph: the subgraph, edited in place.
        tensor: the constant, with 4- or 8-bit codes, and consumers.
        codes: its codes, int8.
        copies: the number of constants with these codes.

    Returns:
        The constants with the codewords, and with their tables; nothing if the codes stay as they are.
    """
    stored = encode(codes)
    if stored.num_bytes + copies * OPERATOR_BYTES >= graph.data(tensor).size:
        return []
    expanded = graph.tensor(tensor)
    coded = [graph.add_tensor(part.shape, UINT8, part, expanded.name) for part in stored]
    expanded.buffer, expanded.type = 0, INT8
    graph.insert_before(graph.consumers(tensor)[0], [decode_operator(graph.file, coded, [tensor])])
    return coded
