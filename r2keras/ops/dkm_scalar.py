"""Differentiable k-means on scalars in time that does not grow with the centroids or the steps.

With one weight a centroid, the soft assignment is a function of the weight's value alone. So the values are counted in
262,144 bins, centroids are moved on 16,385 nodes between them, and what a weight becomes, and its gradient, are
read from tables. Bins are finest near the mean: outliers do not coarsen the rest.
"""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import dkm_vector, kmeans
from r2keras.ops.ste import custom_gradient

BINS = 262_144
CELLS = 16_384
# Below this many weights, counting costs more than it saves.
MIN_SIZE = 65_536
# The compander's half-way point, in standard deviations: half of all bins lie nearer to the mean.
HALF_WAY = 6.0
# Enough to know the spread to a few percent.
SAMPLE = 16_384


class Bins:
    """Where the weights lie: bins, nodes between them, and the way from one to the other.

    A weight `w` has the coordinate `u = x / (HALF_WAY std + |x|)`, `x = w - mean`. Bins divide the range of `u` evenly;
    every `BINS / CELLS` of them make a cell, and nodes are the ends of the cells.

    Args:
        values: float32 tensor `(groups, n)`.

    Example:

    >>> bins = Bins(ops.reshape(ops.linspace(-1.0, 1.0, 4096), (1, 4096)))
    >>> float(ops.sum(bins.mass)), bins.nodes.shape[1]
    (4096.0, 16385)
    """

    def __init__(self, values):
        self.groups = values.shape[0]
        sample = values[:, :: max(1, values.shape[1] // SAMPLE)]
        mean = ops.mean(sample, axis=1, keepdims=True)
        self.width = HALF_WAY * ops.maximum(ops.std(sample, axis=1, keepdims=True), 1e-30)
        low, high = (self._bent(end(values, axis=1, keepdims=True) - mean) for end in (ops.min, ops.max))
        span = ops.maximum(high - low, 1e-6)
        self.index = self._index(self._bent(values - mean), low, span)
        within = (ops.arange(BINS // CELLS, dtype="float32") + 0.5) / (BINS // CELLS)
        self.hats = ops.stack([1.0 - within, within])
        places = low + span * ops.arange(CELLS + 1, dtype="float32") / CELLS
        self.nodes = ops.expand_dims(mean + self.width * places / (1.0 - ops.abs(places)), -1)
        self.mass = self.deposit(None)

    def deposit(self, amounts):
        """Returns, for each node, what the weights near it bring: `sum_i amount_i max(0, 1 - distance in cells)`.

        Args:
            amounts: tensor `(groups, n)`; None: 1 each.

        Returns:
            Tensor `(groups, CELLS + 1, 1)`.
        """
        flat = None if amounts is None else ops.reshape(amounts, (-1,))
        counts = _count(ops.reshape(self.index, (-1,)), flat, self.groups * BINS)
        halves = ops.matmul(ops.reshape(counts, (self.groups, CELLS, -1)), ops.transpose(self.hats))
        pads = ((0, 0), (0, 1)), ((0, 0), (1, 0))
        left, right = (ops.pad(halves[..., side], pads[side]) for side in (0, 1))
        return ops.expand_dims(left + right, -1)

    def read(self, *tables):
        """Returns the values of functions, known at the nodes, at the weights, by linear interpolation.

        Args:
            *tables: tensors `(groups, CELLS + 1, 1)`.

        Returns:
            Tensor `(groups, n, tables)`.
        """
        fine = [self._fine(table) for table in tables]
        if len(fine) == 1:
            return ops.expand_dims(ops.take(fine[0], self.index), -1)
        return ops.take(ops.stack(fine, axis=-1), self.index, axis=0)

    def _fine(self, table):
        """Returns a table's values in the middle of every bin, `(groups * BINS,)`."""
        ends = ops.concatenate([table[:, :-1], table[:, 1:]], axis=-1)
        return ops.reshape(ops.matmul(ends, self.hats), (-1,))

    def _bent(self, x):
        """Returns the coordinate of `x = w - mean`."""
        return x / (ops.abs(x) + self.width)

    def _index(self, bent, low, span):
        """Returns the bins of coordinates, int32 `(groups, n)`, counted through all groups."""
        scale = (BINS - 1e-2) / span
        places = ops.clip(ops.cast((bent - low) * scale, "int32"), 0, BINS - 1)
        if self.groups == 1:
            return places
        return places + BINS * ops.reshape(ops.arange(self.groups, dtype="int32"), (-1, 1))


def soft_palette(values, codebook, temperature, steps: int, snap=None):
    """Moves centroids to the soft means of the weights `steps` times and looks every weight up in them, softly.

    Forward: `y_i = f(w_i)`, `f(w) = sum_j A_j(w) c_j`, `A_j(w) = softmax_j(-(w - c_j)^2 / tau)`,
    `tau = temperature * variance(w)`.
    Gradient: `dL/dw_i = f'(w_i) dL/dy_i + h'(w_i)`, where `f' = 2 / tau Var_A(c)` is the term through the weight, and
    `h(w)` what a unit of mass at `w` changes L by through the centroids. Both are read from tables: values are off by
    about 2e-5 of the weights' norm. Steps between centroids that are narrower than a cell (about 1/4000 of a standard
    deviation: temperatures far below the default) are as wide as a cell, which bounds their slope.

    Args:
        values: float32 tensor `(groups, n)`.
        codebook: tensor `(groups, k, 1)`.
        temperature: softness relative to the variance of the weights.
        steps: updates of the centroids.
        snap: a function that rounds the last codebook; None: it stays.

    Returns:
        The values, `(groups, n)`, and the new codebook, without a gradient.

    Example:

    >>> values = ops.reshape(ops.linspace(-1.0, 1.0, 70_000), (1, -1))
    >>> _, book = soft_palette(values, ops.convert_to_tensor([[[-0.4], [0.6]]]), 1e-3, 9)
    >>> ops.convert_to_numpy(book).round(2).ravel().tolist()
    [-0.5, 0.5]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3; the tables are ours.
    """
    still = ops.stop_gradient(values)
    bins = Bins(still)
    rows, tau = kmeans.padded(bins.nodes), temperature * _variance(bins)
    books, sums = dkm_vector.iterate_rows([(rows, bins.mass)], ops.stop_gradient(codebook), tau, steps)
    table = books[-1] if snap is None else snap(books[-1])

    @custom_gradient
    def function(values):
        found = bins.read(ops.matmul(kmeans.assign(rows, table, tau), table))[..., 0]

        def backward(upstream):
            slope, _ = dkm_vector.look_up_gradient(rows, ops.ones_like(bins.nodes), table, tau)
            _, to_book = dkm_vector.look_up_gradient(rows, bins.deposit(upstream), table, tau)
            (through,) = dkm_vector.unrolled_gradient([(rows, bins.mass)], books, sums, tau, to_book)
            if through is None:
                return upstream * bins.read(slope)[..., 0]
            both = bins.read(slope, through)
            return upstream * both[..., 0] + both[..., 1]

        return found, backward

    return function(values), books[-1]


def _variance(bins: Bins):
    """Returns the variance of the weights, `(groups, 1, 1)`, never 0."""
    total = ops.sum(bins.mass, axis=1, keepdims=True)
    mean = ops.sum(bins.mass * bins.nodes, axis=1, keepdims=True) / total
    return ops.maximum(ops.sum(bins.mass * ops.square(bins.nodes - mean), axis=1, keepdims=True) / total, 1e-30)


def _count(index, amounts, size: int):
    """Returns the sums of amounts (None: 1 each) by index, float32 `(size,)`."""
    if keras.backend.backend() == "tensorflow":
        # Eight times faster there than a segment sum.
        return ops.cast(ops.bincount(index, weights=amounts, minlength=size), "float32")
    amounts = ops.ones(index.shape, "float32") if amounts is None else amounts
    return ops.segment_sum(amounts, index, num_segments=size)
