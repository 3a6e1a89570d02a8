"""Checks of a file for microcontrollers, whose runtime trusts shapes and look-up tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.flatbuffer import BrokenFileError
from r2keras.export.tflite.operator_shapes import check_shapes
from r2keras.export.tflite.schema import FLOAT32, INT8
from r2keras.export.tflite.structure import unreadable
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs
from r2keras.export.weights.decode_operator import is_decode
from r2keras.export.weights.huffman import decode, is_huffman
from r2keras.export.weights.lookup_table import HEADER_BYTES, HEADER_VERSION, LUT, LUT_VERSION, MAX_BITS, ONE_TABLE

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT

# Operators that read only the first scale of an input, and the input.
ONE_SCALE = {"DEQUANTIZE": 0, "EMBEDDING_LOOKUP": 1}


def check_for_microcontrollers(file: ModelT, name: str) -> None:
    """Raises ValueError unless the shapes of a file follow from its operators, and its indices lie in their tables.

    LiteRT for Microcontrollers computes no shapes: it reads and writes as many values as the file says, also where it
    has no memory for them.

    Args:
        file: the parsed file.
        name: what errors call it.
    """
    try:
        check_shapes(file, strict=True)
        for graph in subgraphs(file):
            for operator in graph.operators:
                if is_decode(file, operator):
                    _check_decode(graph, operator)
    except BrokenFileError as error:
        raise unreadable(name, error) from error


def check_scales(file: ModelT, name: str) -> None:
    """Raises ValueError for codes with several scales where LiteRT for Microcontrollers applies the first one to all.

    Args:
        file: the parsed file.
        name: what errors call it.
    """
    for graph in subgraphs(file):
        for operator in graph.operators:
            position = ONE_SCALE.get(graph.kind(operator))
            grid = None if position is None else graph.tensor(inputs_of(operator)[position]).quantization
            if grid is not None and grid.scale is not None and len(grid.scale) > 1:
                raise ValueError(
                    f"LiteRT for Microcontrollers cannot run {name} ({graph.kind(operator)} of codes with "
                    f"{len(grid.scale)} scales, of which it would apply one to all). Expected one scale. Write the "
                    "file with `to_tflm`, or with `to_litert(..., target='mcu')`."
                )


def _check_decode(graph: Subgraph, operator: OperatorT) -> None:
    """Checks a look-up of tensors in their tables: two inputs for each result."""
    inputs, outputs = inputs_of(operator), outputs_of(operator)
    _need(len(inputs) == 2 * len(outputs), f"has {len(inputs)} inputs")
    for number, output in enumerate(outputs):
        packed, ancillary = (graph.data(inputs[2 * number + i]) for i in (0, 1))
        shape = graph.shape(output)
        if is_huffman(ancillary):
            _check_huffman(packed, ancillary, math.prod(shape), graph.tensor(output).type)
            continue
        _need(len(ancillary) > HEADER_BYTES and graph.tensor(output).type == FLOAT32, "has no table")
        kind, version, _, _, lut_version, parameters, entries = ancillary[:7].tolist()
        bits, axis = parameters & 7, parameters >> 4
        is_known = (kind, version, lut_version) == (LUT, HEADER_VERSION, LUT_VERSION)
        _need(is_known and 1 <= bits <= MAX_BITS, "has an unknown kind of table")
        tables = 1 if axis == ONE_TABLE else shape[axis] if axis < len(shape) else 0
        _need(8 * len(packed) >= math.prod(shape) * bits, f"has too few indices for the shape {shape}")
        found, expected = len(ancillary) - HEADER_BYTES, 4 * entries * tables
        _need(found == expected > 0, f"has {found} bytes of tables instead of {expected}")
        _need(_largest_index(packed, bits, math.prod(shape)) < entries, "has an index beyond its table")


def _check_huffman(packed: np.ndarray, ancillary: np.ndarray, count: int, kind: int) -> None:
    """Checks Huffman codes: the runtime reads neither beyond them nor beyond their tables."""
    _need(kind == INT8, "decodes to another type than int8")
    try:
        decode(packed, ancillary, count)
    except ValueError as error:
        _need(False, f"has Huffman codes that cannot be decoded ({error})")


def _largest_index(packed: np.ndarray, bits: int, count: int) -> int:
    """Returns the largest of packed indices."""
    unpacked = np.unpackbits(packed)[: count * bits].reshape(-1, bits)
    return int((unpacked @ (1 << np.arange(bits)[::-1])).max(initial=0))


def _need(condition: bool, reason: str) -> None:
    """Raises unless a condition holds."""
    if not condition:
        raise BrokenFileError(f"an operator that looks up tables {reason}")
