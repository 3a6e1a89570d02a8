"""Convolutions of 4-bit weights as FULLY_CONNECTED, whose packed kernels are as fast as those of 8 bits.

XNNPACK runs FULLY_CONNECTED on 4- and 2-bit weights, but no convolution: LiteRT's built-in kernels do, and unpack the
weights at every call. A convolution of one pixel is such a product, whose rows are the pixels. A larger one is, once
the patches of its input lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.integer.patches import Constants, Patches, Window, window_of
from r2keras.export.integer.weights import IntegerWeight
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.schema import INT8, TYPES, operator, quantization, set_data, set_kind
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Scales per channel from version 12 on, 2-bit weights from 14 on.
VERSIONS = {8: 12, 4: 12, 2: 14}
# With fewer input channels, patches cost more than the packed kernel saves (x86, `benchmarks/fast_bits.py`).
FEWEST_CHANNELS = 16
# With fewer than these, XNNPACK fills most of its vectors with zeros, and the built-in 4-bit kernel is faster.
FEWEST_FOR_XNNPACK = 3
# XNNPACK takes 2-bit rows of a multiple of four weights; in 4-bit rows of an odd number, it rounds some sums up.
ROW_MULTIPLES = {8: 1, 4: 2, 2: 4}
# Bytes that the operators of patches take in the file.
PATCH_OPERATORS = 1300
# Kernels of 8 bits are faster than patches, the more so the fewer weights they have (x86 with VNNI instructions,
# `benchmarks/fast_bits.py`), so patches have to save at least this many bytes in the file ...
FEWEST_BYTES_SAVED = 2048
# ... and take at most this much memory.
MOST_PATCH_BYTES = 2**20
# Operators that LiteRT for Microcontrollers runs on 8-bit weights only.
WITHOUT_4_BITS = {"FULLY_CONNECTED"}


def pack_products(graph: Subgraph, weights: Sequence[IntegerWeight]) -> None:
    """Gives every weight of 4 bits or less the operator that runs it fastest, and the narrowest integers it takes.

    - FULLY_CONNECTED, and convolutions of one pixel: FULLY_CONNECTED, 2-bit codes in 2-bit integers.
    - Larger convolutions with 16 input channels or more: the same, where `MOST_PATCH_BYTES` hold the patches and the
      file gets smaller by `FEWEST_BYTES_SAVED` than with 8 bits.
    - Other convolutions of three channels or more, and depthwise ones: codes in 8-bit integers, which XNNPACK runs.
    - Convolutions of one or two channels: as they are.

    Args:
        graph: the first subgraph, edited in place.
        weights: its integer weights; their tensors keep their indices.
    """
    constants: Constants = {}
    for weight in weights:
        if weight.kernel.bits < 8:
            _pack(graph, weight, constants)


def _pack(graph: Subgraph, weight: IntegerWeight, constants: Constants) -> None:
    """Replaces the operators of a weight, or widens it."""
    readers, codes = list(graph.consumers(weight.tensors[0])), weight.kernel.codes
    kinds = {graph.kind(op) for op in readers}
    windows = [window_of(graph, op, codes.shape) if graph.kind(op) == "CONV_2D" else None for op in readers]
    if kinds == {"FULLY_CONNECTED"} or (kinds == {"CONV_2D"} and all(_is_worth(window, codes) for window in windows)):
        # A product may flatten its input; its rows then do not lie along the last axis.
        lasts = [graph.shape(inputs_of(op)[0])[-1] for op in readers]
        has_rows = kinds == {"CONV_2D"} or all(last == codes.shape[1] for last in lasts)
        bits, extra = _store(graph, weight, has_rows)
        for op, window in zip(readers, windows, strict=True):
            patches = Patches(graph, inputs_of(op)[0], constants)
            if window is not None:
                patches.lay(window)
            patches.lengthen(extra)
            keeps_rank = window is not None or bool(op.builtinOptions.keepNumDims)
            shares_scale = window is None and weight.kernel.scale.size == 1
            version = RULES["FULLY_CONNECTED"].narrow if shares_scale and bits == 4 else VERSIONS[bits]
            graph.replace(op, _product(graph, op, patches, keeps_rank, version))
    elif kinds == {"DEPTHWISE_CONV_2D"} or codes.shape[-1] >= FEWEST_FOR_XNNPACK:
        widen(graph, weight)


def widen_products(graph: Subgraph, weights: Sequence[IntegerWeight]) -> None:
    """Stores the codes of products in 8-bit integers, as LiteRT for Microcontrollers needs them.

    Args:
        graph: the first subgraph, edited in place.
        weights: its integer weights.
    """
    for weight in weights:
        kinds = {graph.kind(op) for op in graph.consumers(weight.tensors[0])}
        if weight.kernel.bits < 8 and kinds & WITHOUT_4_BITS:
            widen(graph, weight)


def widen(graph: Subgraph, weight: IntegerWeight) -> None:
    """Stores codes in 8-bit integers, or tells their operators that they are decoded to such."""
    tensor = graph.tensor(weight.tensors[0])
    if not weight.coded:
        set_data(graph.file, tensor, pack(weight.kernel.codes, 8))
    tensor.type = INT8
    for op in graph.consumers(weight.tensors[0]):
        kind = graph.kind(op)
        set_kind(graph.file, op, kind, RULES[kind].version)


def _is_worth(window: Window | None, codes: np.ndarray) -> bool:
    """Whether a convolution becomes a product: its patches have to save bytes, and to fit in memory."""
    if window is None or window.channels < FEWEST_CHANNELS:
        return False
    if window.size == (1, 1):
        return True
    bits, _ = row_container(codes.reshape(len(codes), -1), 4, True)
    saved = codes.size * (8 - bits) // 8 - PATCH_OPERATORS
    return saved >= FEWEST_BYTES_SAVED and math.prod(window.output) * codes[0].size <= MOST_PATCH_BYTES


def row_container(rows: np.ndarray, bits: int, can_lengthen: bool) -> tuple[int, int]:
    """Returns the width of the integers for rows of codes, and how many zeros each row needs at its end.

    Args:
        rows: codes, one row per output.
        bits: 4 or 8, a width that holds them.
        can_lengthen: whether zeros may be added.
    """
    fits = bits < 8 and rows.min(initial=0) >= -2 and rows.max(initial=0) <= 1
    widths = [width for width in (2, 4, 8) if width >= (2 if fits else bits)]
    extras = [(width, -rows.shape[1] % ROW_MULTIPLES[width]) for width in widths]
    return next((width, extra) for width, extra in extras if can_lengthen or not extra)


def _store(graph: Subgraph, weight: IntegerWeight, can_lengthen: bool) -> tuple[int, int]:
    """Stores codes as rows of a FULLY_CONNECTED; returns the width of the integers, and the zeros after each row."""
    tensor, codes = graph.tensor(weight.tensors[0]), weight.kernel.codes
    rows = codes.reshape(codes.shape[0], -1)
    bits, extra = row_container(rows, 4, can_lengthen)
    rows = np.pad(rows, ((0, 0), (0, extra)))
    tensor.shape = np.asarray(rows.shape, np.int32)
    set_data(graph.file, tensor, pack(rows, bits))
    tensor.type = TYPES[bits]
    if bits == 2 and weight.kernel.scale.size == 1:
        # XNNPACK takes 2-bit weights with one scale per row only; the bias has as many.
        for index in weight.tensors:
            if index >= 0:
                scale = np.broadcast_to(graph.tensor(index).quantization.scale, len(rows))
                graph.tensor(index).quantization = quantization(scale)
    return bits, extra


def _product(graph: Subgraph, op: OperatorT, patches: Patches, keeps_rank: bool, version: int) -> list[OperatorT]:
    """Returns the operators that lay the patches side by side and multiply them by the weights."""
    activation = op.builtinOptions.fusedActivationFunction
    inputs, outputs = [patches.tensor, *inputs_of(op)[1:]], outputs_of(op)
    options = {"keepNumDims": keeps_rank, "fusedActivationFunction": activation}
    product = operator(graph.file, "FULLY_CONNECTED", version, inputs, outputs, "FullyConnectedOptions", **options)
    return [*patches.operators, product]
