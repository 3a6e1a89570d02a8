"""The palette of one weight: its codebook, its temperature, and the palettized values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._util.errors import invalid_part
from r2keras.layers.kernels import initial_codebook
from r2keras.ops import affine, codebook_dtype, dkm, kmeans
from r2keras.record import PaletteLayout, PalettizedTensor, RangeFigures
from r2keras.specs import PaletteSpec

# A table whose entries move by more than this fraction of the largest one is refused.
TABLE_ERROR = 0.01


class Palette(keras.layers.Layer):
    """Maps a weight to soft (training) or hard (inference) codebook entries; owns codebook and step counter.

    Args:
        spec: the palette's spec.
        layout: the grouping of weights into vectors, and of vectors into groups that share a codebook.
        channel_axes: the weight's axes of output channels.
    """

    is_r2keras_quantizer = True

    def __init__(self, spec: PaletteSpec, layout: PaletteLayout, channel_axes: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.spec = spec
        self.layout = layout
        self.channel_axes = tuple(channel_axes)
        shape = (layout.groups, spec.entries, spec.dim)
        untrained = {"initializer": "zeros", "trainable": False, "dtype": "float32", "autocast": False}
        self.codebook = self.add_weight(name="codebook", shape=shape, **untrained)
        self.steps_done = self.add_weight(name="steps", shape=(), **untrained)
        self.schedule = self.add_weight(name="schedule", shape=(3,), **untrained)
        assert spec.temperature is not None  # `PaletteSpec.__post_init__` sets it.
        final = 1.0 if spec.final_temperature is None else spec.final_temperature / spec.temperature
        self.anneal(1.0, final, spec.anneal_steps or 1)
        self.built = True

    def anneal(self, start: float, final: float, steps: int) -> None:
        """Starts to change the temperature geometrically from `start` to `final` times the spec's.

        Args:
            start: multiple of `spec.temperature` now, above 0.
            final: multiple after `steps` training steps, above 0.
            steps: number of training steps, at least 1.
        """
        self.schedule.assign([start, final, steps])
        self.steps_done.assign(0.0)

    def initialize(self, weight, *, search: bool = True, importance: np.ndarray | None = None) -> None:
        """Sets the codebook from a weight: to the optimum of hard k-means, or without a search to typical values.

        Args:
            weight: float tensor.
            search: whether to run k-means; False for weights that have not been trained.
            importance: non-negative array of the weight's shape, the weight of each squared error.
        """
        vectors = ops.stop_gradient(self.vectors(weight))
        if search:
            vector_weights = None if importance is None else self.layout.split(importance, np).sum(axis=-1)
            codebook = initial_codebook.start(ops.convert_to_numpy(vectors), self.spec.entries, vector_weights)
        else:
            codebook = _typical_centroids(vectors, self.spec.entries)
        self.codebook.assign(codebook)
        self.steps_done.assign(0.0)

    def call(self, weight, training: bool | None = None):
        """Returns the soft values of a weight and updates the codebook; in inference, returns the hard values."""
        scale, vectors = self.scale(weight), self.vectors(weight)
        if training:
            values, codebook = self.soft(vectors)
            self.codebook.assign(codebook)
            self.steps_done.assign(self.steps_done + 1.0)
        else:
            table = self.table()
            values = kmeans.look_up(table, _nearest(vectors, table))
        return ops.cast(self.layout.join(values, ops) * scale, weight.dtype)

    def soft(self, vectors, updates: int | None = None):
        """Returns the soft values of vectors and the updated codebook.

        Args:
            vectors: float32 tensor `(groups, n, dim)`.
            updates: number of centroid updates; None uses the spec's.
        """
        codebook = ops.convert_to_tensor(self.codebook)
        unit = _unit(codebook)
        snap = None if self.spec.table_dtype == "float32" else lambda table: unit * self._snap(table / unit)
        steps = self.spec.updates if updates is None else updates
        values, codebook = dkm.soft_palette(
            unit * vectors, unit * codebook, temperature=self.temperature, steps=steps, snap=snap
        )
        return values / unit, codebook / unit

    def check_table(self, path: str) -> None:
        """Raises ValueError if the type of the table cannot hold the codebook: float16 ends at 65,504 and at 6e-8.

        Args:
            path: name of the weight, for the error.
        """
        codebook, table = (ops.convert_to_numpy(part) for part in (self.codebook, self.table()))
        largest = np.abs(codebook).max()
        if np.isfinite(largest) and not np.abs(table - codebook).max() <= TABLE_ERROR * largest:
            received = f"values up to {largest:.3g} in the weight {path}, which {self.spec.table_dtype} does not hold"
            fix = "Use table_dtype='float32', or channel_scale=True, which divides every channel by its largest value"
            raise ValueError(invalid_part("table_dtype", "a type that holds the weight's values", received, fix))

    @property
    def temperature(self):
        """The current temperature, a scalar tensor: `t start (final / start)^min(steps_done / steps, 1)`."""
        start, final, steps = ops.unstack(ops.convert_to_tensor(self.schedule), 3)
        progress = ops.minimum(ops.convert_to_tensor(self.steps_done) / steps, 1.0)
        return self.spec.temperature * start * ops.power(final / start, progress)

    def table(self):
        """Returns the codebook with the rounding of the file, in float32."""
        return self._snap(ops.convert_to_tensor(self.codebook))

    def vectors(self, weight):
        """Returns the palette vectors of a weight, divided by the channels' scales, float32 `(groups, n, dim)`."""
        return self.layout.split(ops.cast(weight, "float32") / self.scale(weight), ops)

    def scale(self, weight):
        """Returns the scale of each output channel, without a gradient, in the weight's rank.

        It is the largest magnitude of the channel, or `2^-64`, so that a channel of zeros stays practically zero.
        Without `channel_scale` it is 1.
        """
        rank = len(self.layout.shape)
        if not self.spec.channel_scale:
            return ops.ones((1,) * rank, "float32")
        other_axes = tuple(axis for axis in range(rank) if axis not in self.channel_axes)
        largest = ops.max(ops.abs(ops.cast(ops.stop_gradient(weight), "float32")), axis=other_axes, keepdims=True)
        return affine.floored(largest)

    def gap(self, weight) -> tuple[float, float]:
        """Returns `|soft - hard|` and `|weight - hard|` relative to `|weight|` (0 for a weight of zeros)."""
        vectors, table = ops.stop_gradient(self.vectors(weight)), self.table()
        hard = kmeans.look_up(table, _nearest(vectors, table))
        soft, _ = self.soft(vectors, updates=0)
        unit = _unit(table)
        norm = max(_norm(unit * vectors), 1e-30)
        return _norm(unit * (soft - hard)) / norm, _norm(unit * (vectors - hard)) / norm

    def tensor(self, name: str, weight, values: np.ndarray) -> PalettizedTensor:
        """Returns the weight's indices and table, for the record.

        Args:
            name: full name of the weight.
            weight: the weight.
            values: the weight as a float32 array.
        """
        vectors = self.vectors(weight)
        codes, table_scale = codebook_dtype.stored(ops.convert_to_tensor(self.codebook), self.spec.table_dtype)
        indices = ops.convert_to_numpy(_nearest(vectors, self.table()))
        return PalettizedTensor(
            name,
            self.layout.join_indices(indices, np).astype(np.uint8),
            ops.convert_to_numpy(codes).astype(self.spec.table_dtype),
            ops.convert_to_numpy(table_scale).reshape(-1),
            ops.convert_to_numpy(self.scale(weight)),
            self.spec,
            self.layout,
            RangeFigures.of(values),
        )

    @property
    def _snap(self) -> Callable:
        """The function that rounds a codebook to the type of the table."""
        return functools.partial(codebook_dtype.snapped, dtype=self.spec.table_dtype)


def _nearest(vectors, table):
    """Returns the index of the entry nearest to each vector, of any magnitude."""
    unit = _unit(table)
    return kmeans.nearest(unit * vectors, unit * table)


def _unit(table):
    """Returns the powers of two that bring each group's entries near 1 if float32 does not hold their squares."""
    return affine.unit(ops.max(ops.abs(ops.stop_gradient(table)), axis=(1, 2), keepdims=True))


def _norm(x) -> float:
    """Returns the norm of all values of a tensor."""
    return float(ops.norm(ops.reshape(x, (-1,))))


def _typical_centroids(vectors, entries: int):
    """Returns centroids without a search: near-optimal scalars for normal weights, or evenly chosen vectors."""
    _, n, dim = vectors.shape
    if dim > 1:
        index = np.linspace(0, n - 1, entries).round().astype("int32")
        return ops.take(vectors, index, axis=1)
    # The optimal density of centroids is the cube root of the weights' density. For normal weights, that is a normal
    # density sqrt(3) times as wide.
    quantiles = [NormalDist(0.0, 3.0**0.5).inv_cdf((entry + 0.5) / entries) for entry in range(entries)]
    deviations = ops.reshape(ops.convert_to_tensor(quantiles, "float32"), (1, entries, 1))
    return ops.mean(vectors, axis=1, keepdims=True) + ops.std(vectors, axis=1, keepdims=True) * deviations
