"""How a weight lies in the file: an axis permutation followed by a reshape, and points to try it on cheaply."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

SAMPLED_CHANNELS = 8
SAMPLED_PER_CHANNEL = 24


@dataclasses.dataclass(frozen=True)
class Layout:
    """`target = source.transpose(order).reshape(shape)`.

    Args:
        order: the source's axes in their new order.
        shape: the target's shape.

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
        """Returns the source, of shape `source_shape`: `invert(apply(x), x.shape) == x`."""
        moved = tuple(source_shape[axis] for axis in self.order)
        return target.reshape(moved).transpose(np.argsort(self.order))


def layouts(source_shape: tuple[int, ...], shape: tuple[int, ...]) -> list[Layout]:
    """Returns every layout of `source_shape` as `shape`; axes of size 1 are not permuted.

    Example:

    >>> [layout.order for layout in layouts((3, 1, 2), (1, 2, 3))]
    [(0, 2, 1), (2, 0, 1)]
    """
    wide = [axis for axis, size in enumerate(source_shape) if size != 1]
    thin = tuple(axis for axis, size in enumerate(source_shape) if size == 1)
    return [Layout(order + thin, shape) for order in itertools.permutations(wide)]


@functools.lru_cache(maxsize=4096)
def sample(layout: Layout, source_shape: tuple[int, ...], axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns some points of a tensor, as flat positions in the target and in the source.

    Args:
        layout: how the source lies in the target.
        source_shape: the source's shape.
        axis: the target's axis along which a factor may vary; None: one factor for all.

    Returns:
        `(in_target, in_source)`, both `[channels, points]`: a row's points share their index along `axis`.
    """
    in_target = _rows(layout.shape, axis)
    moved = tuple(source_shape[a] for a in layout.order)
    index = np.unravel_index(in_target, moved)
    places = [index[layout.order.index(a)] for a in range(len(source_shape))]
    return in_target, np.ravel_multi_index(places, source_shape)


@functools.lru_cache(maxsize=512)
def _rows(shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    """Returns flat positions `[channels, points]`, the same ones at every call."""
    rng = np.random.default_rng(0)
    if axis is None:
        size = math.prod(shape)
        return _pick(rng, size, SAMPLED_CHANNELS * SAMPLED_PER_CHANNEL)[None]
    rest = shape[:axis] + shape[axis + 1 :]
    points = np.unravel_index(_pick(rng, math.prod(rest), SAMPLED_PER_CHANNEL), rest) if rest else ()
    channels = _pick(rng, shape[axis], SAMPLED_CHANNELS)[:, None]
    count = len(points[0]) if rest else 1
    index = [np.broadcast_to(p, (len(channels), count)) for p in points]
    index.insert(axis, np.broadcast_to(channels, (len(channels), count)))
    return np.ravel_multi_index(index, shape)


def _pick(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Returns up to `count` different positions below `size`, sorted."""
    return np.arange(size) if size <= count else np.unique(rng.integers(0, size, count))
