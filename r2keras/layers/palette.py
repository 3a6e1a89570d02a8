"""One weight's palette: the codebook, how soft it is by now, and what the weight becomes under it."""

from __future__ import annotations

import functools
from statistics import NormalDist

import keras
import numpy as np
from keras import ops

from r2keras import _centroids
from r2keras.ops import dkm, kmeans, tables
from r2keras.palette_layout import PaletteLayout
from r2keras.palette_spec import PaletteSpec
from r2keras.palettized import PalettizedTensor
from r2keras.record import RangeFigures


class Palette(keras.layers.Layer):
    """Turns a weight into soft (training) or hard (inference) table entries; owns the table and the step counter.

    Args:
        spec: the palette's spec.
        layout: which weights make a vector, and which vectors share a table.
        channel_axes: the weight's axes that its output channels run along.
    """

    is_r2keras_quantizer = True

    def __init__(self, spec: PaletteSpec, layout: PaletteLayout, channel_axes: tuple[int, ...], **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.spec, self.layout, self.channel_axes = spec, layout, tuple(channel_axes)
        shape = (layout.groups, spec.entries, spec.dim)
        fixed = {"initializer": "zeros", "trainable": False, "dtype": "float32", "autocast": False}
        self.codebook = self.add_weight(name="codebook", shape=shape, **fixed)
        self.taken = self.add_weight(name="steps", shape=(), **fixed)
        self.schedule = self.add_weight(name="schedule", shape=(3,), **fixed)
        last = 1.0 if spec.final_temperature is None else spec.final_temperature / spec.temperature
        self.anneal(1.0, last, spec.anneal_steps or 1)
        self.built = True

    def anneal(self, start: float, final: float, steps: int) -> None:
        """Lets the temperature go geometrically from `start` to `final` times the spec's, from now on.

        Args:
            start: multiple of `spec.temperature` now, above 0.
            final: multiple after `steps` training steps, above 0.
            steps: training steps, at least 1.
        """
        self.schedule.assign([start, final, steps])
        self.taken.assign(0.0)

    def initialize(self, weight, *, search: bool = True, importance: np.ndarray | None = None) -> None:
        """Sets the codebook from a weight: to the optimum of hard k-means, or without a search to typical places.

        Args:
            weight: float tensor.
            search: whether to search; False where the weights have not been trained.
            importance: array of the weight's shape, not negative: how much each squared error counts.
        """
        vectors = ops.stop_gradient(self.vectors(weight))
        if search:
            weights = None if importance is None else self.layout.split(importance, np).sum(axis=-1)
            start = _centroids.start(ops.convert_to_numpy(vectors), self.spec.entries, weights)
        else:
            start = _typical(vectors, self.spec.entries)
        self.codebook.assign(start)
        self.taken.assign(0.0)

    def call(self, weight, training=None):
        """Returns the soft values of a weight and moves the codebook on, or the hard values in inference."""
        scale, vectors = self.scale(weight), self.vectors(weight)
        if training:
            values, codebook = self.soft(vectors)
            self.codebook.assign(codebook)
            self.taken.assign(self.taken + 1.0)
        else:
            table = self.table()
            values = kmeans.look_up(table, kmeans.nearest(vectors, table))
        return ops.cast(self.layout.join(values, ops) * scale, weight.dtype)

    def soft(self, vectors, updates: int | None = None):
        """Returns the soft values of vectors, and the codebook after as many updates (None: as the spec says)."""
        snap = None if self.spec.table_dtype == "float32" else self._snap
        steps = self.spec.updates if updates is None else updates
        return dkm.soft_palette(
            vectors, ops.convert_to_tensor(self.codebook), temperature=self.temperature, steps=steps, snap=snap
        )

    @property
    def temperature(self):
        """The temperature by now, a scalar tensor: `t start (final / start)^min(taken / steps, 1)`."""
        start, final, steps = ops.unstack(ops.convert_to_tensor(self.schedule), 3)
        done = ops.minimum(ops.convert_to_tensor(self.taken) / steps, 1.0)
        return self.spec.temperature * start * ops.power(final / start, done)

    def table(self):
        """Returns the codebook as a file holds it, in float32."""
        return self._snap(ops.convert_to_tensor(self.codebook))

    def vectors(self, weight):
        """Returns the palette vectors of a weight, divided by the channels' scales, float32 `(groups, n, dim)`."""
        return self.layout.split(ops.cast(weight, "float32") / self.scale(weight), ops)

    def scale(self, weight):
        """Returns the largest magnitude of each output channel, without a gradient, or ones; the weight's rank.

        A channel of zeros gets `2^-64`, so that it stays as good as zero.
        """
        rank = len(self.layout.shape)
        if not self.spec.channel_scale:
            return ops.ones((1,) * rank, "float32")
        rest = tuple(axis for axis in range(rank) if axis not in self.channel_axes)
        largest = ops.max(ops.abs(ops.cast(ops.stop_gradient(weight), "float32")), axis=rest, keepdims=True)
        return ops.maximum(largest, tables.MIN_SCALE)

    def gap(self, weight) -> tuple[float, float]:
        """Returns `|soft - hard|` and `|weight - hard|`, norms relative to the weight's (0 for a weight of zeros)."""
        vectors, table = ops.stop_gradient(self.vectors(weight)), self.table()
        hard = kmeans.look_up(table, kmeans.nearest(vectors, table))
        size = max(float(ops.norm(ops.reshape(vectors, (-1,)))), 1e-30)
        others = self.soft(vectors, updates=0)[0], vectors
        soft, error = (float(ops.norm(ops.reshape(other - hard, (-1,)))) / size for other in others)
        return soft, error

    def tensor(self, name: str, weight, values: np.ndarray) -> PalettizedTensor:
        """Returns the weight's indices and table, for the record.

        Args:
            name: full name of the weight.
            weight: the weight.
            values: the same as a float32 array.
        """
        vectors = self.vectors(weight)
        codes, table_scale = tables.stored(ops.convert_to_tensor(self.codebook), self.spec.table_dtype)
        indices = ops.convert_to_numpy(kmeans.nearest(vectors, self.table()))
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
    def _snap(self):
        """What rounds a codebook to the type of the table."""
        return functools.partial(tables.snapped, dtype=self.spec.table_dtype)


def _typical(vectors, entries: int):
    """Returns centroids without a search: the best places for a normal distribution, or evenly chosen vectors."""
    _, n, dim = vectors.shape
    if dim > 1:
        places = np.linspace(0, n - 1, entries).round().astype("int32")
        return ops.take(vectors, places, axis=1)
    # The optimal density of centroids is the cube root of the weights': a normal one, sqrt(3) times as wide.
    shares = [NormalDist(0.0, 3.0**0.5).inv_cdf((place + 0.5) / entries) for place in range(entries)]
    steps = ops.reshape(ops.convert_to_tensor(shares, "float32"), (1, entries, 1))
    return ops.mean(vectors, axis=1, keepdims=True) + ops.std(vectors, axis=1, keepdims=True) * steps
