"""What widening does to the last axis of a tensor and to the axes of a weight."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np


class FixedError(Exception):
    """Layers that cannot be widened, because a tensor they make has to keep its size.

    Args:
        sources: their paths.
    """

    def __init__(self, sources: frozenset[str]):
        super().__init__(*sorted(sources))
        self.sources = sources


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The last axis of a tensor in the wider model.

    Args:
        index: int vector of the new size: which old channel each new one copies.
        size: how many channels there were.
        sources: paths of the widened layers that decide about the size; none where it stays.
    """

    index: np.ndarray
    size: int
    sources: frozenset[str] = frozenset()

    @property
    def even(self) -> bool:
        """Whether every old channel has equally many copies."""
        copies = np.bincount(self.index, minlength=self.size)
        return bool((copies == copies[0]).all())

    def repeat(self, times: int) -> Channels:
        """Returns the channels where each becomes `times` neighbours, as a depth multiplier makes them."""
        index = (self.index[:, None] * times + np.arange(times)).ravel()
        return Channels(index, self.size * times, self.sources)

    def tile(self, times: int) -> Channels:
        """Returns the channels `times` over, as flattened positions and blocks of gates are."""
        index = (np.arange(times)[:, None] * self.size + self.index).ravel()
        return Channels(index, self.size * times, self.sources)


def kept(size: int) -> Channels:
    """Returns the channels of an axis that stays as it is."""
    return Channels(np.arange(size), size)


def widened(path: str, size: int, new: int) -> Channels:
    """Returns the channels of a widened layer: the old ones, then copies of them in turn.

    >>> widened("lstm", 3, 5).index.tolist()
    [0, 1, 2, 0, 1]
    """
    return Channels(np.arange(new) % size, size, frozenset([path]))


def new_size(size: int, factor: float) -> int:
    """Returns the nearest whole number of units, halves upwards.

    >>> new_size(5, 1.5), new_size(300, 1.25)
    (8, 375)
    """
    return math.floor(size * factor + 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a weight in the wider model.

    Args:
        axis: its place.
        channels: what its entries copy.
        summed: whether products are summed over it, so that copies share the old weight among them.
    """

    axis: int
    channels: Channels
    summed: bool = False


@dataclasses.dataclass(eq=False)
class Resized:
    """A layer in the wider model.

    Args:
        config: its new `get_config`; None: unchanged.
        axes: the axes that change, by the weight's name relative to the layer.
    """

    config: dict[str, Any] | None = None
    axes: dict[str, list[Axis]] = dataclasses.field(default_factory=dict)

    def same_as(self, other: Resized) -> bool:
        """Whether two calls of a shared layer want the same of it."""
        if self.axes.keys() != other.axes.keys():
            return False
        pairs = [pair for name in self.axes for pair in zip(self.axes[name], other.axes[name], strict=True)]
        return all(np.array_equal(a.channels.index, b.channels.index) for a, b in pairs)


def wider_weight(values: np.ndarray, axes: list[Axis], jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a weight of the wider model that computes what the old one did (Net2Wider).

    Args:
        values: the old weight.
        axes: what becomes of its axes.
        jitter: how unevenly copies share a summed weight, from 0 up to, not including, 1.
        rng: draws the shares.
    """
    for part in axes:
        values = np.take(values, part.channels.index, part.axis)
        if part.summed:
            along = [1] * values.ndim
            along[part.axis] = -1
            values = values * shares(part.channels, jitter, rng).reshape(along)
    return values.astype(np.float32)


def shares(channels: Channels, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Returns what each copy contributes; the shares of one old channel add up to 1.

    >>> shares(widened("lstm", 2, 3), 0.0, np.random.default_rng(0)).tolist()
    [0.5, 1.0, 0.5]
    """
    raw = 1.0 + jitter * rng.uniform(-1.0, 1.0, channels.index.size)
    return raw / np.bincount(channels.index, raw, channels.size)[channels.index]


def without_builds(config: Any) -> Any:
    """Returns a config without the shapes that inner layers were built with: they are built anew, for other shapes."""
    if isinstance(config, dict):
        return {key: without_builds(value) for key, value in config.items() if key != "build_config"}
    return [without_builds(part) for part in config] if isinstance(config, list) else config


def last(weight: keras.Variable) -> int:
    """Returns the place of a weight's last axis."""
    return len(weight.shape) - 1
