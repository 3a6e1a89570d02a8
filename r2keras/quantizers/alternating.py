"""Alternating multi-bit weights and states: a few signs per value, each with one coefficient per row."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from r2keras.ops import affine
from r2keras.ops.alternating import alternating, weighted_sum
from r2keras.ops.fuse import fused
from r2keras.ops.ste import custom_gradient
from r2keras.quantizers.base import WeightQuantizer
from r2keras.record import PaletteLayout, PalettizedTensor, RangeFigures
from r2keras.specs import PaletteSpec


@keras.saving.register_keras_serializable(package="r2keras")
class AlternatingQuantizer(WeightQuantizer):
    """Approximates a weight by `b` sign tensors with a coefficient each: `2^b` unevenly spaced values per row.

    Forward: `w_q = sum_i a_i b_i`, `b_i` in {-1, +1}: a greedy start, then two rounds of least-squares coefficients for
    the signs and nearest signs for the coefficients (`ops.alternating`). Gradient: `dw_q/dw = 1`, except 0 for a weight
    more than half a step beyond the outermost value, `|w| > sum_i a_i + a_b`, that a gradient step would move further
    out. Its quantized value could not follow, and such weights would drag the coefficients along.

    A row is an output unit (`granularity="per_channel"`); for an embedding, it is a word. The values of a row are a
    palette of `2^b` centroids. The record stores them as one: a `PalettizedTensor` with one table per row.

    Args:
        spec: a spec with `method="alternating"`, 1 to 4 bits.
        shape: shape of the weight.
        scale_shape: shape of the coefficients, one entry per row.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = AlternatingQuantizer(QuantSpec(num_bits=2, method="alternating"), (4, 1), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-3.1], [-0.9], [1.1], [2.9]]))).round(3).tolist()
    [[-3.0], [-1.0], [1.0], [3.0]]

    Source: Xu et al., arXiv 1802.00150, section 3.
    """

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        quantize = _fused_quantizer(self.spec.num_bits, self.shape, self.scale_shape)

        @custom_gradient
        def fitted(weight):
            values, excess = quantize(ops.cast(weight, "float32"))

            def backward(upstream):
                moves_out = ops.cast(upstream, "float32") * excess < 0
                return ops.where(moves_out, ops.zeros_like(upstream), upstream)

            return ops.cast(values, weight.dtype), backward

        return fitted(ops.convert_to_tensor(weight))

    def tensor(self, name: str, weight, values: np.ndarray) -> PalettizedTensor:
        """Returns the weight's signs as indices, and each row's values as a table, for the record."""
        weight = ops.cast(ops.convert_to_tensor(weight), "float32")
        coefficients, signs = _fit(weight, self.spec.num_bits, self.scale_shape)
        layout = row_layout(self.shape, self.scale_shape)
        indices = sum((ops.convert_to_numpy(sign) > 0).astype(np.uint8) << i for i, sign in enumerate(signs))
        # Each row's coefficients once, from its first weight.
        rows = [layout.split(np.broadcast_to(ops.convert_to_numpy(a), self.shape), np)[:, 0, 0] for a in coefficients]
        # Entry i of a table has the signs that are the bits of i, lowest bit first.
        bit_signs = itertools.product((-1.0, 1.0), repeat=len(rows))
        table = np.stack([weighted_sum(rows, highest_first[::-1]) for highest_first in bit_signs], axis=1)[..., None]
        return row_palette(name, indices, table.astype(np.float32), layout, RangeFigures.of(values))


@functools.cache
def _fused_quantizer(num_bits: int, shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> Callable:
    """Returns a fused function of a float32 weight: its quantized values, and its excess beyond their range.

    All weights of one shape share one function, so that it is compiled only once for them.
    """
    del shape  # Only a key of the cache.

    def quantize(weight):
        coefficients, signs = _fit(weight, num_bits, scale_shape)
        end = sum(coefficients, coefficients[-1])
        return weighted_sum(coefficients, signs), weight - ops.clip(weight, -end, end)

    return fused(quantize)


def _fit(weight, num_bits: int, scale_shape: tuple[int, ...]):
    """Returns coefficients and signs of a float32 weight."""

    def mean(values):
        return affine.expand(affine.reduce(ops.mean, values, scale_shape), weight.shape)

    return alternating(weight, num_bits, mean)


def row_layout(shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> PaletteLayout:
    """Returns the layout of a weight's rows, a row being the weights that share coefficients."""
    axes = [axis for axis, size in enumerate(scale_shape) if size > 1]
    if not axes:
        return PaletteLayout(shape, 1, (len(shape) - 1,), None)
    channels = int(np.prod([shape[axis] for axis in axes]))
    return PaletteLayout(shape, 1, tuple(axes), channels // int(np.prod(scale_shape)))


def row_palette(name: str, indices, table: np.ndarray, layout: PaletteLayout, before: RangeFigures) -> PalettizedTensor:
    """Returns a weight as the record stores it, with a table of `2^b` values per row."""
    spec = PaletteSpec(
        num_bits=table.shape[1].bit_length() - 1,
        granularity="per_tensor" if layout.group_size is None else "per_group",
        group_size=layout.group_size,
    )
    one = np.ones((1,) * len(layout.shape), np.float32)
    return PalettizedTensor(name, indices, table, np.ones(layout.groups, np.float32), one, spec, layout, before)


def alternating_rows(x, num_bits: int):
    """Rounds each row of a tensor to its own `2^num_bits` values, fitted at run time.

    Forward: `sum_i a_i b_i` along the last axis (`ops.alternating`). Gradient: `dy/dx = 1`.

    Args:
        x: float tensor; float16 and bfloat16 are computed in float32.
        num_bits: signs per value, 1 to 4.

    Returns:
        Tensor of `x`'s shape and type.

    Example:

    >>> ops.convert_to_numpy(alternating_rows(ops.convert_to_tensor([[-1.0, 3.0]]), 1)).tolist()
    [[-2.0, 2.0]]

    Source: Xu et al., arXiv 1802.00150, section 4.
    """

    @custom_gradient
    def fitted(x):
        parts = alternating(ops.cast(x, "float32"), num_bits, lambda t: ops.mean(t, axis=-1, keepdims=True))
        return ops.cast(weighted_sum(*parts), x.dtype), lambda upstream: upstream

    return fitted(x)
