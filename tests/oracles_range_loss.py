"""The range losses in NumPy, written from their formulas in float64."""

from __future__ import annotations

import numpy as np


def subvectors(w: np.ndarray, dim: int) -> np.ndarray:
    """Cuts the last axis into runs of `dim`, one row each, and drops what is left over."""
    w = np.asarray(w, np.float64)
    if dim == 1:
        return w.reshape(-1, 1)
    rows = w.reshape(-1, w.shape[-1])
    cuts = range(0, w.shape[-1] - dim + 1, dim)
    return np.array([row[cut : cut + dim] for row in rows for cut in cuts])


def linf(w: np.ndarray, dim: int = 1) -> float:
    """Sum over the coordinates of max|w|."""
    return sum(np.abs(column).max() for column in subvectors(w, dim).T)


def margin(w: np.ndarray, limit: np.ndarray | float, dim: int = 1) -> float:
    """Sum over the coordinates of min(|M|, max|w|) + sum max(|w| - |M|, 0)."""
    columns = np.abs(subvectors(w, dim).T)
    limits = np.abs(np.broadcast_to(limit, (dim,)))
    return sum(min(m, c.max()) + np.maximum(c - m, 0).sum() for m, c in zip(limits, columns, strict=True))


def soft_min_max(w: np.ndarray, sharpness: np.ndarray | float, dim: int = 1) -> float:
    """Sum over the coordinates of s_max - s_min + exp(-a)."""
    total = 0.0
    for a, column in zip(np.broadcast_to(sharpness, (dim,)), subvectors(w, dim).T, strict=True):
        p, q = np.exp(a * (column - column.max())), np.exp(-a * (column - column.min()))
        total += (p * column).sum() / p.sum() - (q * column).sum() / q.sum() + np.exp(-a)
    return total


def channels(w: np.ndarray, axes: int | tuple[int, ...] = -1) -> list[np.ndarray]:
    """Returns the weights of every channel, flat, in the order of the channels."""
    w = np.asarray(w, np.float64)
    axes = [axis % w.ndim for axis in np.atleast_1d(axes)]
    places = np.ndindex(*(w.shape[axis] for axis in axes))
    return [
        w[tuple(place[axes.index(a)] if a in axes else slice(None) for a in range(w.ndim))].ravel() for place in places
    ]


def floor(w: np.ndarray) -> float:
    """A hundredth of the standard deviation of a tensor: the least that a channel counts as having."""
    return 0.01 * np.std(w, dtype=np.float64)


def channel_units(w: np.ndarray, axes: int | tuple[int, ...] = -1, least: float | None = None) -> list[float]:
    """Standard deviation of every channel, at least a hundredth of the whole tensor's, or `least`."""
    return [max(part.std(), floor(w) if least is None else least) for part in channels(w, axes)]


def by_channel(loss, w: np.ndarray, axes: int | tuple[int, ...] = -1, units=None) -> float:
    """Mean over the channels of a loss of `(the channel's weights / its unit, its place)`."""
    parts = channels(w, axes)
    units = [1.0] * len(parts) if units is None else units
    return sum(loss(part / unit, c) for c, (part, unit) in enumerate(zip(parts, units, strict=True))) / len(parts)


def kurtosis(w: np.ndarray) -> float:
    """Fourth central moment over the squared second."""
    centered = np.asarray(w, np.float64) - np.mean(w, dtype=np.float64)
    return np.mean(centered**4) / np.mean(centered**2) ** 2
