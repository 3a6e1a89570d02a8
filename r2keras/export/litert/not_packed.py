"""Reasons why the products of a file with float activations do not take a recorded weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.tflite.subgraph import Subgraph, inputs_of
from r2keras.record import PalettizedTensor, QuantizedTensor, sign_planes
from r2keras.specs.dynamic import LARGEST_CODE

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT

# Kinds of operators that read weights, in words.
READERS = {
    "DEPTHWISE_CONV_2D": "a depthwise convolution",
    "TRANSPOSE_CONV": "a transposed convolution",
    "CONV_3D": "a convolution in three dimensions",
    "GATHER": "an embedding table",
    "EMBEDDING_LOOKUP": "an embedding table",
    "BATCH_MATMUL": "a product for each entry of a batch",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "the fused LSTM operator",
}
# Weights that the message names.
MOST_NAMES = 4


def reader(graph: Subgraph, tensor: int, takes: OperatorT | None) -> str:
    """Says what reads a constant that is not a matrix product.

    Args:
        graph: the subgraph of the constant.
        tensor: its index.
        takes: the operator; None if the constant is an output of the subgraph, or nothing reads it.
    """
    if takes is None:
        return "an output of the file"
    kind, shape = graph.kind(takes), graph.shape(tensor)
    if kind == "CONV_2D" and inputs_of(takes)[1:2] == [tensor]:
        options = takes.builtinOptions
        strides = (options.strideH, options.strideW)
        if shape[1:3] == (1, 1) and strides == (1, 1):
            return "a grouped convolution"
        return f"a convolution of {shape[1]} by {shape[2]}" + (f", stride {max(strides)}" if max(strides) > 1 else "")
    return READERS.get(kind, f"also read by {kind}" if kind == "FULLY_CONNECTED" else f"read by {kind}")


def grid(weight: QuantizedTensor | PalettizedTensor) -> tuple[str, str]:
    """Returns why products do not take the codes of a weight, and what to quantize it with instead."""
    if isinstance(weight, PalettizedTensor):
        if weight.layout.dim > 1:
            return f"a palette of vectors of {weight.layout.dim}", "dim=1 and 1 or 2 bits"
        if sign_planes(weight) is None:
            return f"a palette of {weight.codebook.shape[1]} entries", "a palette of 1 or 2 bits, or a QuantSpec"
        return "tables or scales that vary along its inputs", "granularity='per_tensor'"
    if weight.spec.group_size is not None:
        return "a grid per group", "granularity='per_channel'"
    zero_point = np.asarray(weight.zero_point)
    if np.any(zero_point) and not np.all(zero_point == -0.5):
        return "an asymmetric grid", "symmetric=True"
    factor, shift = (2, 1) if np.all(zero_point == -0.5) else (1, 0)
    largest = int(np.abs(factor * weight.codes.astype(np.int16) + shift).max(initial=0))
    if largest > LARGEST_CODE:
        return f"codes up to {largest}, above {LARGEST_CODE}", "num_bits=7 or levels='mid_tread'"
    return "scales that vary along its inputs", "one scale per output channel: leave channel_axis out"


def no_product(reasons: Mapping[str, tuple[str, str]]) -> ValueError:
    """Returns the error of a model without a matrix product that takes low-bit weights.

    Args:
        reasons: by the name of each recorded weight, why it was not taken, and what to quantize it with; empty where
            no grid helps.
    """
    named = [f"{name!r} ({reason})" for name, (reason, _) in reasons.items()][:MOST_NAMES]
    more = f" and {len(reasons) - len(named)} more" if len(reasons) > len(named) else ""
    received = f"activations='dynamic' with {', '.join(named)}{more}" if named else "activations='dynamic'"
    expected = "'float' or 'int8' for a model without a matrix product that takes recorded weights"
    fixes = [f"Quantize {name!r} with {fix}" for name, (_, fix) in reasons.items() if fix]
    other = "Only Dense, EinsumDense, recurrent, attention and pointwise kernels are taken: leave activations out"
    return ValueError(invalid_part("activations", expected, received, fixes[0] if fixes else other))
