"""Axis order of a weight in the file (a permutation, then a reshape), and sample points to test one cheaply."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

# Enough points to reject a wrong layout before the whole tensor is compared.
SAMPLED_CHANNELS = 8
SAMPLED_PER_CHANNEL = 24


@dataclasses.dataclass(frozen=True)
class Layout:
    """`target = source.transpose(order).reshape(shape)`.

    Args:
        order: axes of the source in their new order.
        shape: shape of the target.

    Example:

    >>> Layout((1, 0), (3, 2)).apply(np.arange(6).reshape(2, 3)).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]

    def apply(self, source: np.ndarray) -> np.ndarray:
        """Returns the target."""
        return source.transpose(self.order).reshape(self.shape)

    def invert(self, target: np.ndarray, source_shape: tuple[int, ...]) -> np.ndarray:
        """Returns the source, with shape `source_shape`: `invert(apply(x), x.shape) == x`."""
        transposed_shape = tuple(source_shape[axis] for axis in self.order)
        return target.reshape(transposed_shape).transpose(np.argsort(self.order))


def layouts(source_shape: tuple[int, ...], shape: tuple[int, ...]) -> list[Layout]:
    """Returns every layout that turns `source_shape` into `shape`; axes of size 1 are not permuted.

    Example:

    >>> [layout.order for layout in layouts((3, 1, 2), (1, 2, 3))]
    [(0, 2, 1), (2, 0, 1)]
    """
    long_axes = [axis for axis, size in enumerate(source_shape) if size != 1]
    unit_axes = tuple(axis for axis, size in enumerate(source_shape) if size == 1)
    return [Layout(order + unit_axes, shape) for order in itertools.permutations(long_axes)]


@functools.lru_cache(maxsize=4096)
def sample(layout: Layout, source_shape: tuple[int, ...], axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns sample points of a tensor, as flat positions in the target and in the source.

    Args:
        layout: maps the source to the target.
        source_shape: shape of the source.
        axis: axis of the target along which a factor may vary; None: one factor for the whole tensor.

    Returns:
        `(in_target, in_source)`, both `[channels, points]`: the points of a row share their index along `axis`.
    """
    in_target = _sample_rows(layout.shape, axis)
    transposed_shape = tuple(source_shape[a] for a in layout.order)
    transposed_index = np.unravel_index(in_target, transposed_shape)
    source_index = [transposed_index[layout.order.index(a)] for a in range(len(source_shape))]
    return in_target, np.ravel_multi_index(source_index, source_shape)


@functools.lru_cache(maxsize=512)
def _sample_rows(shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    """Returns flat positions `[channels, points]`, the same for every call."""
    rng = np.random.default_rng(0)
    if axis is None:
        size = math.prod(shape)
        return _draw(rng, size, SAMPLED_CHANNELS * SAMPLED_PER_CHANNEL)[None]
    rest = shape[:axis] + shape[axis + 1 :]
    points = np.unravel_index(_draw(rng, math.prod(rest), SAMPLED_PER_CHANNEL), rest) if rest else ()
    channels = _draw(rng, shape[axis], SAMPLED_CHANNELS)[:, None]
    count = len(points[0]) if rest else 1
    index = [np.broadcast_to(p, (len(channels), count)) for p in points]
    index.insert(axis, np.broadcast_to(channels, (len(channels), count)))
    return np.ravel_multi_index(index, shape)


def _draw(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Returns up to `count` distinct positions below `size`, sorted."""
    return np.arange(size) if size <= count else np.unique(rng.integers(0, size, count))
