"""Widened channels of tensors and weights, and the weights that keep the function."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np


class FixedWidthError(Exception):
    """Layers that cannot be widened because one of their output tensors has to keep its size.

    Args:
        sources: the paths of the layers.
    """

    def __init__(self, sources: frozenset[str]):
        super().__init__(*sorted(sources))
        self.sources = sources


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The last axis of a tensor in the wider model.

    Args:
        index: integer vector with one entry per new channel: the old channel that it copies.
        size: the old number of channels.
        sources: paths of the widened layers that determine the new size; empty if the size stays.
    """

    index: np.ndarray
    size: int
    sources: frozenset[str] = frozenset()

    @property
    def even(self) -> bool:
        """Whether every old channel has the same number of copies."""
        copies = np.bincount(self.index, minlength=self.size)
        return bool((copies == copies[0]).all())

    def repeat(self, times: int) -> Channels:
        """Returns channels in which each channel becomes `times` adjacent ones, as a depth multiplier orders them."""
        index = (self.index[:, None] * times + np.arange(times)).ravel()
        return Channels(index, self.size * times, self.sources)

    def tile(self, times: int) -> Channels:
        """Returns the channels repeated `times` as a block, as flattened positions and blocks of gates are ordered."""
        index = (np.arange(times)[:, None] * self.size + self.index).ravel()
        return Channels(index, self.size * times, self.sources)


# The channels of a layer's input tensors; None for a tensor whose channels are not tracked.
Inputs = list[Channels | None]


def unchanged(size: int) -> Channels:
    """Returns the channels of an axis that does not change."""
    return Channels(np.arange(size), size)


def widened(path: str, size: int, new: int) -> Channels:
    """Returns the output channels of a widened layer: the old ones, then copies of them in the same order.

    >>> widened("lstm", 3, 5).index.tolist()
    [0, 1, 2, 0, 1]
    """
    return Channels(np.arange(new) % size, size, frozenset([path]))


def merged(inputs: Inputs) -> Channels | None:
    """Returns the channels of the result of an elementwise operation, such as a sum of tensors."""
    wider = [channels for channels in inputs if channels is not None and channels.sources]
    if not wider:
        return inputs[0]
    # A single channel is broadcast and fits any width.
    fixed = [channels for channels in inputs if channels is None or (not channels.sources and channels.size > 1)]
    sources = frozenset().union(*(channels.sources for channels in wider))
    if fixed or any(not np.array_equal(channels.index, wider[0].index) for channels in wider):
        raise FixedWidthError(sources)
    return Channels(wider[0].index, wider[0].size, sources)


def is_wider(channels: Channels | None) -> bool:
    """Whether a tensor has more channels than before."""
    return if_wider(channels) is not None


def if_wider(channels: Channels | None) -> Channels | None:
    """Returns the channels of a tensor that has more of them than before, else None."""
    return channels if channels is not None and channels.sources else None


def new_size(size: int, factor: float) -> int:
    """Returns the new number of units, rounded to the nearest integer, halves up.

    >>> new_size(5, 1.5), new_size(300, 1.25)
    (8, 375)
    """
    return math.floor(size * factor + 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightAxis:
    """One axis of a weight in the wider model.

    Args:
        axis: its index.
        channels: the old entries that its new entries copy.
        summed: whether the layer sums products over it, so that the copies of an entry share the old weight.
    """

    axis: int
    channels: Channels
    summed: bool = False


@dataclasses.dataclass(eq=False)
class ResizedLayer:
    """The changes of a layer in the wider model.

    Args:
        config: its new config; None if the config does not change.
        axes: the weight axes that change, by the weight's name relative to the layer.
    """

    config: dict[str, Any] | None = None
    axes: dict[str, list[WeightAxis]] = dataclasses.field(default_factory=dict)

    def same_as(self, other: ResizedLayer) -> bool:
        """Whether two calls of a shared layer require the same changes."""
        if self.axes.keys() != other.axes.keys():
            return False
        pairs = [pair for name in self.axes for pair in zip(self.axes[name], other.axes[name], strict=True)]
        return all(np.array_equal(a.channels.index, b.channels.index) for a, b in pairs)


def wider_weight(values: np.ndarray, axes: list[WeightAxis], jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the weight with which the wider model computes the same function (Net2Wider).

    Args:
        values: the old weight.
        axes: the axes that change.
        jitter: unevenness of the shares of copies in a summed weight, in `[0, 1)`; see `shares`.
        rng: the generator that draws the shares.
    """
    for weight_axis in axes:
        values = np.take(values, weight_axis.channels.index, weight_axis.axis)
        if weight_axis.summed:
            broadcast_shape = [1] * values.ndim
            broadcast_shape[weight_axis.axis] = -1
            values = values * shares(weight_axis.channels, jitter, rng).reshape(broadcast_shape)
    return values.astype(np.float32)


def shares(channels: Channels, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the share of each copy, drawn around equal shares; the shares of one old channel add up to 1.

    >>> shares(widened("lstm", 2, 3), 0.0, np.random.default_rng(0)).tolist()
    [0.5, 1.0, 0.5]
    """
    raw = 1.0 + jitter * rng.uniform(-1.0, 1.0, channels.index.size)
    return raw / np.bincount(channels.index, raw, channels.size)[channels.index]


def without_builds(config: Any) -> Any:
    """Returns a config without the build shapes of inner layers, whose shapes differ in the wider model."""
    if isinstance(config, dict):
        return {key: without_builds(value) for key, value in config.items() if key != "build_config"}
    if isinstance(config, list):
        return [without_builds(part) for part in config]
    return config


def last_axis(weight: keras.Variable) -> int:
    """Returns the index of a weight's last axis."""
    return len(weight.shape) - 1
