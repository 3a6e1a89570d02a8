"""Differentiable k-means on scalars, in time independent of the number of centroids and updates.

With scalar centroids, the soft assignment of a weight depends on its value only. So the weights are counted in 262,144
bins, centroids are updated on the 16,385 nodes between cells of bins, and every weight's soft value and gradient are
read from tables. Bins are finest near the mean, so that outliers do not coarsen the rest.
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
# Half-way point of the companding, in standard deviations: half of the coordinate range lies nearer to the mean.
HALF_WAY = 6.0
# Weights sampled for mean and standard deviation: enough to know the spread to a few percent.
SAMPLE = 16_384


class Bins:
    """A histogram of the weights on a companded axis, with linear interpolation to and from its nodes.

    A weight `w` has the coordinate `u = x / (HALF_WAY std + |x|)`, `x = w - mean`. Bins divide the range of `u` evenly.
    Every `BINS / CELLS` of them make a cell, and the nodes are the ends of the cells.

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
        # The lower bounds of width and span only matter for constant weights.
        self.width = HALF_WAY * ops.maximum(ops.std(sample, axis=1, keepdims=True), 1e-30)
        low, high = (self._coordinate(end(values, axis=1, keepdims=True) - mean) for end in (ops.min, ops.max))
        span = ops.maximum(high - low, 1e-6)
        self.index = self._bin_index(self._coordinate(values - mean), low, span)
        # The position of each bin's center inside its cell, and its weights on the cell's two nodes.
        position = (ops.arange(BINS // CELLS, dtype="float32") + 0.5) / (BINS // CELLS)
        self.node_weights = ops.stack([1.0 - position, position])
        coordinates = low + span * ops.arange(CELLS + 1, dtype="float32") / CELLS
        self.nodes = ops.expand_dims(mean + self.width * coordinates / (1.0 - ops.abs(coordinates)), -1)
        self.mass = self.deposit(None)

    def deposit(self, amounts):
        """Distributes amounts at the weights to the nodes: `sum_i amount_i max(0, 1 - distance in cells)` per node.

        Args:
            amounts: tensor `(groups, n)`; None counts 1 each.

        Returns:
            Tensor `(groups, CELLS + 1, 1)`.
        """
        flat = None if amounts is None else ops.reshape(amounts, (-1,))
        counts = _count(ops.reshape(self.index, (-1,)), flat, self.groups * BINS)
        halves = ops.matmul(ops.reshape(counts, (self.groups, CELLS, -1)), ops.transpose(self.node_weights))
        # A cell's left node has the index of the cell, its right node the next one.
        left = ops.pad(halves[..., 0], ((0, 0), (0, 1)))
        right = ops.pad(halves[..., 1], ((0, 0), (1, 0)))
        return ops.expand_dims(left + right, -1)

    def read(self, *tables):
        """Interpolates functions that are known at the nodes linearly at the weights.

        Args:
            *tables: tensors `(groups, CELLS + 1, 1)`.

        Returns:
            Tensor `(groups, n, tables)`.
        """
        bin_values = [self._at_bins(table) for table in tables]
        if len(bin_values) == 1:
            return ops.expand_dims(ops.take(bin_values[0], self.index), -1)
        return ops.take(ops.stack(bin_values, axis=-1), self.index, axis=0)

    def _at_bins(self, table):
        """Returns a table's values at the center of every bin, `(groups * BINS,)`."""
        ends = ops.concatenate([table[:, :-1], table[:, 1:]], axis=-1)
        return ops.reshape(ops.matmul(ends, self.node_weights), (-1,))

    def _coordinate(self, x):
        """Returns the coordinate of `x = w - mean`."""
        return x / (ops.abs(x) + self.width)

    def _bin_index(self, coordinates, low, span):
        """Returns the bins of coordinates, int32 `(groups, n)`, numbered through all groups."""
        # Slightly less than BINS, so that the largest coordinate falls into the last bin.
        scale = (BINS - 1e-2) / span
        index = ops.clip(ops.cast((coordinates - low) * scale, "int32"), 0, BINS - 1)
        if self.groups == 1:
            return index
        return index + BINS * ops.reshape(ops.arange(self.groups, dtype="int32"), (-1, 1))


def soft_palette(values, codebook, temperature, steps: int, snap=None):
    """Updates centroids to the soft means of the weights `steps` times, then looks every weight up in them, softly.

    Forward: `y_i = f(w_i)`, `f(w) = sum_j A_j(w) c_j`, `A_j(w) = softmax_j(-(w - c_j)^2 / tau)`,
    `tau = temperature * variance(w)`.
    Gradient: `dL/dw_i = f'(w_i) dL/dy_i + h'(w_i)`, where `f' = 2 / tau Var_A(c)` is the term through the weight, and
    `h(w)` is the change of L through the centroids per unit of mass at `w`. Both are read from tables: values are off
    by about 2e-5 of the weights' norm. Transitions between centroids that are narrower than a cell (about 1/4000 of a
    standard deviation, at temperatures far below the default) become as wide as a cell, which bounds their slope.

    Args:
        values: float32 tensor `(groups, n)`.
        codebook: tensor `(groups, k, 1)`.
        temperature: softness relative to the variance of the weights.
        steps: number of centroid updates.
        snap: a function that rounds the last codebook; None leaves it as it is.

    Returns:
        The values, `(groups, n)`, and the new codebook, without a gradient.

    Example:

    >>> values = ops.reshape(ops.linspace(-1.0, 1.0, 70_000), (1, -1))
    >>> _, book = soft_palette(values, ops.convert_to_tensor([[[-0.4], [0.6]]]), 1e-3, 9)
    >>> ops.convert_to_numpy(book).round(2).ravel().tolist()
    [-0.5, 0.5]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3; the tables are ours.
    """
    bins = Bins(ops.stop_gradient(values))
    rows, tau = kmeans.padded(bins.nodes), temperature * _variance(bins)
    books, sums = dkm_vector.iterate_rows([(rows, bins.mass)], ops.stop_gradient(codebook), tau, steps)
    table = books[-1] if snap is None else snap(books[-1])

    @custom_gradient
    def function(values):
        soft_values = bins.read(ops.matmul(kmeans.assign(rows, table, tau), table))[..., 0]

        def backward(upstream):
            slope, _ = dkm_vector.look_up_gradient(rows, ops.ones_like(bins.nodes), table, tau)
            _, to_book = dkm_vector.look_up_gradient(rows, bins.deposit(upstream), table, tau)
            (through_centroids,) = dkm_vector.unrolled_gradient([(rows, bins.mass)], books, sums, tau, to_book)
            if through_centroids is None:
                return upstream * bins.read(slope)[..., 0]
            terms = bins.read(slope, through_centroids)
            return upstream * terms[..., 0] + terms[..., 1]

        return soft_values, backward

    return function(values), books[-1]


def _variance(bins: Bins):
    """Returns the variance of the weights, `(groups, 1, 1)`, never 0."""
    total = ops.sum(bins.mass, axis=1, keepdims=True)
    mean, mean_square = (ops.sum(bins.mass * x, axis=1, keepdims=True) / total for x in (bins.nodes, bins.nodes**2))
    variance = ops.sum(bins.mass * ops.square(bins.nodes - mean), axis=1, keepdims=True) / total
    return kmeans.scale_of_distances(variance, mean_square)


def _count(index, amounts, size: int):
    """Returns the sums of amounts (None counts 1 each) by index, float32 `(size,)`."""
    if keras.backend.backend() == "tensorflow":
        # Eight times faster on TensorFlow than a segment sum.
        return ops.cast(ops.bincount(index, weights=amounts, minlength=size), "float32")
    amounts = ops.ones(index.shape, "float32") if amounts is None else amounts
    return ops.segment_sum(amounts, index, num_segments=size)
