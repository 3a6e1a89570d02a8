"""The papers' weight quantizers in NumPy, written from their formulas, block by block, in double precision.

Each returns the quantized weight, its gradient for a given upstream gradient, and the gradients of its scalars by name.
"""

from __future__ import annotations

import numpy as np

from tests.reference import blocks


def by_block(function, w: np.ndarray, upstream: np.ndarray, scale_shape: tuple[int, ...], **scalars):
    """Applies a formula to every block of weights that shares its scalars; puts the results together again."""
    value, gradient = np.empty(w.shape), np.empty(w.shape)
    learned = {name: np.empty(scale_shape) for name in scalars}
    for index, part in blocks(w.shape, scale_shape):
        own = {name: np.float64(values[index]) for name, values in scalars.items()}
        value[part], gradient[part], slopes = function(w[part].astype(np.float64), upstream[part], **own)
        for name in learned:
            learned[name][index] = slopes[name]
    return value, gradient, learned


def lsq(num_bits: int, rise: bool):
    """Esser et al., equations 1 to 5; a mid-rise grid is the mid-tread one shifted by half a step."""
    top = 2 ** (num_bits - 1) - 1
    bottom, shift = (-top - 1, 0.5) if rise else (-top, 0.0)

    def formula(w, upstream, scale):
        ratio = w / scale - shift
        level = np.rint(np.clip(ratio, bottom, top))
        slope = np.where(ratio <= bottom, bottom + shift, np.where(ratio >= top, top + shift, level - ratio))
        passed = (bottom < ratio) & (ratio < top)
        to_scale = (upstream * slope).sum() / np.sqrt(w.size * (top + shift))
        return scale * (level + shift), upstream * passed, {"scale": to_scale}

    return formula


def ewgs(num_bits: int, delta: float):
    """Lee et al., equations 1 to 6, with the output scale `a = scale n / 2`."""
    steps = 2**num_bits - 1

    def formula(w, upstream, lower, upper, scale):
        free = (w - lower) / (upper - lower)
        unit = np.clip(free, 0, 1)
        rounded = np.rint(steps * unit) / steps
        amplitude = scale * steps / 2
        to_rounded = upstream * 2 * amplitude
        to_unit = to_rounded * (1 + delta * np.sign(to_rounded) * (unit - rounded)) * (free == unit)
        share = 1 / np.sqrt(w.size * steps / 2)
        scalars = {
            "lower": share * (to_unit * (w - upper)).sum() / (upper - lower) ** 2,
            "upper": -share * (to_unit * (w - lower)).sum() / (upper - lower) ** 2,
            "scale": share * (upstream * (2 * rounded - 1)).sum() * steps / 2,
        }
        return amplitude * (2 * rounded - 1), to_unit / (upper - lower), scalars

    return formula


def dorefa(num_bits: int):
    """Zhou et al., equations 7 (1 bit) and 9."""
    steps = 2**num_bits - 1

    def formula(w, upstream):
        if num_bits == 1:
            return np.where(w >= 0, 1.0, -1.0) * np.abs(w).mean(), upstream, {}
        squashed = np.tanh(w)
        largest = np.abs(squashed).max()
        value = 2 * np.rint(steps * (squashed / (2 * largest) + 0.5)) / steps - 1
        return value, upstream * (1 - squashed**2) / largest, {}

    return formula


def wrpn(num_bits: int):
    """Mishra et al., section 5."""
    steps = 2 ** (num_bits - 1) - 1

    def formula(w, upstream):
        return np.rint(steps * np.clip(w, -1, 1)) / steps, upstream * (np.abs(w) <= 1), {}

    return formula


def binary(w, upstream):
    """Rastegari et al., section 3.1."""
    return np.where(w >= 0, 1.0, -1.0) * np.abs(w).mean(), upstream * (np.abs(w) <= 1), {}


def ternary(w, upstream):
    """Li et al., section 2.2."""
    kept = np.abs(w) > 0.7 * np.abs(w).mean()
    return np.sign(w) * kept * (np.abs(w[kept]).mean() if kept.any() else 0), upstream, {}


def balanced(num_bits: int):
    """He et al., section 2.2."""
    steps = 2**num_bits - 1

    def formula(w, upstream):
        squashed = np.tanh(w)
        reach = 2.5 * np.abs(squashed).mean()
        place = np.clip(squashed / reach, -0.5, 0.5) + 0.5
        inside = np.abs(squashed) <= reach / 2
        return reach * (np.rint(steps * place) / steps - 0.5), upstream * inside * (1 - squashed**2), {}

    return formula
