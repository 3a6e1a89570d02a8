"""Quantized activations in NumPy, from the papers' formulas."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(7)
X = RNG.normal(0.2, 1.0, (16, 6)).astype("float32")
UPSTREAM = RNG.normal(size=X.shape).astype("float32")


def data(unsigned):
    return np.maximum(X, 0) if unsigned else X


def oracle(x, low, high, bits, *, inner=1.0, delta=0.0):
    """Value, and gradients to x, low and high for UPSTREAM: the papers' formulas on a range nudged to hold zero."""
    n = 2**bits - 1
    step = (high - low) / n
    low = step * np.rint(low / step + 1e-3)
    high = low + n * step
    free = (x.astype("float64") - low) / (high - low)
    unit = np.clip(free, 0, 1)
    rounded = np.rint(n * unit) / n
    inside = (free >= 0) & (free <= 1)
    scaled = UPSTREAM * (1 + delta * np.sign(UPSTREAM) * (unit - rounded))
    to_low = inner * inside * (UPSTREAM * (1 - rounded) - scaled * (1 - unit)) + UPSTREAM * (free < 0)
    to_high = inner * inside * (UPSTREAM * rounded - scaled * unit) + UPSTREAM * (free > 1)
    return low + (high - low) * rounded, scaled * inside, to_low.sum(), to_high.sum()


def learned_range(method, x, unsigned):
    """The start values of the papers; LSQ's where a paper has none."""
    if method == "dorefa":
        return (0.0 if unsigned else -1.0), 1.0
    if method == "ste":
        return min(x.min(), 0), x.max()
    if method == "ewgs" and unsigned:
        return 0.0, 3 * x.std() / np.sqrt(1 - 2 / np.pi)
    reach = 2 * np.sqrt((7 if unsigned else 3.5) * 2 / np.pi * np.mean(x**2))
    return max(x.min(), -reach), min(x.max(), reach)


def dynamic_rows(rows):
    """Returns the rounded rows and their codes, one row after another, as XNNPACK computes them."""
    f32, result, codes = np.float32, np.empty_like(rows), np.empty(rows.shape, int)
    for i, row in enumerate(rows):
        low, high = min(f32(0), row.min()), max(f32(0), row.max())
        scale = f32(1) if low == high else f32(255) / f32(high - low)
        low_error, high_error = f32(-128) + low * scale, f32(127) + high * scale
        zero = f32(-128) - low * scale if low_error + high_error > 0 else f32(127) - high * scale
        zero = np.rint(np.clip(zero, -128, 127))
        codes[i] = np.clip(np.rint(row * scale) + zero, -128, 127)
        result[i] = (codes[i] - zero) / scale
    return result, codes
