"""Soft and hard k-means on tensors: the arithmetic of differentiable palettes.

Vectors have the shape `(groups, n, dim)`, codebooks `(groups, k, dim)`; each group has its own codebook. Softness is
`tau`, shape `(groups, 1, 1)`, in units of a squared distance. Vectors with a one appended, `(groups, n, dim + 1)`, are
called `padded`: one product then gives sums and counts, or distances, at once.
"""

from __future__ import annotations

from keras import ops

# A centroid that is assigned less than this fraction of one weight stays where it is: its mean would be 0 / 0.
EMPTY = 1e-6
# The variance of a weight, relative to its mean square, below which it consists of rounding errors.
LEAST_VARIANCE = 2.0**-34
# Assignments in one piece: 16 MiB of float32.
PIECE = 4_194_304


def padded(vectors):
    """Appends a one to every vector.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.

    Returns:
        Tensor `(groups, n, dim + 1)`.

    Example:

    >>> ops.convert_to_numpy(padded(ops.convert_to_tensor([[[3.0], [5.0]]]))).tolist()
    [[[3.0, 1.0], [5.0, 1.0]]]
    """
    return ops.concatenate([vectors, ops.ones_like(vectors[..., :1])], axis=-1)


def scale_of_distances(variance, mean_square):
    """Returns the variance of a weight to divide distances by; of a constant weight, the mean square.

    Gradients are divided by it, and the variance of a constant weight is 0 or rounding errors: one step would throw
    such a weight far away.

    Args:
        variance: the variance of a weight.
        mean_square: its mean square.

    Example:

    >>> [float(scale_of_distances(x, 4.0 * ops.ones(()))) for x in (ops.zeros(()), 0.5 * ops.ones(()))]
    [4.0, 0.5]
    """
    return ops.where(variance > LEAST_VARIANCE * mean_square, variance, ops.maximum(mean_square, 1e-30))


def variance(vectors):
    """Returns the variance of the coordinates, averaged over them.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.

    Returns:
        Tensor `(groups, 1, 1)`. Not intended for gradients.

    Example:

    >>> ops.convert_to_numpy(variance(ops.convert_to_tensor([[[1.0], [3.0]]]))).tolist()
    [[[1.0]]]
    """
    return ops.mean(ops.var(vectors, axis=1, keepdims=True), axis=2, keepdims=True)


def assign(rows, codebook, tau):
    """Assigns vectors to centroids softly: `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`.

    Args:
        rows: padded vectors `(groups, n, dim + 1)`.
        codebook: tensor `(groups, k, dim)`.
        tau: positive tensor `(groups, 1, 1)`.

    Returns:
        Tensor `(groups, n, k)`; rows add up to 1.

    Example:

    >>> rows = padded(ops.convert_to_tensor([[[0.0], [1.0]]]))
    >>> shares = assign(rows, ops.convert_to_tensor([[[0.0], [2.0]]]), ops.ones((1, 1, 1)))
    >>> [round(float(share), 3) for share in ops.convert_to_numpy(shares).ravel()]
    [0.982, 0.018, 0.5, 0.5]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    return ops.softmax(closeness(rows, codebook) / tau, axis=-1)


def closeness(rows, codebook):
    """Returns `-|w_i - c_j|^2`, up to a constant per vector: the nearest centroid has the largest value.

    Args:
        rows: padded vectors `(groups, n, dim + 1)`.
        codebook: tensor `(groups, k, dim)`.

    Returns:
        Tensor `(groups, n, k)`.

    Example:

    >>> rows = padded(ops.convert_to_tensor([[[1.0]]]))
    >>> ops.convert_to_numpy(closeness(rows, ops.convert_to_tensor([[[0.0], [3.0]]]))).tolist()
    [[[-1.0, -4.0]]]
    """
    columns = ops.swapaxes(codebook, 1, 2)
    if codebook.shape[-1] == 1:
        # |w|^2 - 2 w c + |c|^2 suffers from cancellation, too much for the many close centroids of a scalar table.
        return -ops.square(rows[..., :1] - columns)
    squared_norms = ops.sum(columns * columns, axis=1, keepdims=True)
    return ops.matmul(rows, ops.concatenate([2.0 * columns, -squared_norms], axis=1))


def moments(shares, rows):
    """Returns the sums and counts assigned to each centroid: `sum_i A_ij (w_i, 1)`.

    Args:
        shares: assignments `A`, tensor `(groups, n, k)`.
        rows: padded vectors `(groups, n, dim + 1)`, multiplied by the vectors' masses if these are not 1.

    Returns:
        Tensor `(groups, k, dim + 1)`.

    Example:

    >>> rows = padded(ops.convert_to_tensor([[[3.0], [5.0]]]))
    >>> ops.convert_to_numpy(moments(ops.ones((1, 2, 1)), rows)).tolist()
    [[[8.0, 2.0]]]
    """
    return ops.einsum("gnk,gnd->gkd", shares, rows)


def update(sums, codebook):
    """Updates centroids: `c_j = sum_i A_ij w_i / sum_i A_ij`; a centroid that is assigned nothing stays.

    Args:
        sums: tensor `(groups, k, dim + 1)`, see `moments`.
        codebook: the centroids before the update, `(groups, k, dim)`.

    Returns:
        Tensor `(groups, k, dim)`.

    Example:

    >>> sums = ops.convert_to_tensor([[[8.0, 2.0], [0.0, 0.0]]])
    >>> ops.convert_to_numpy(update(sums, ops.convert_to_tensor([[[1.0], [7.0]]]))).tolist()
    [[[4.0], [7.0]]]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    live, mass = _mass(sums)
    return ops.where(live, sums[..., :-1] / mass, codebook)


def update_gradient(upstream, sums):
    """Returns the gradients of `update`: with respect to the sums, and to the centroids before the update.

    Args:
        upstream: gradient with respect to the new centroids, `(groups, k, dim)`.
        sums: see `update`.

    Returns:
        Two tensors `(groups, k, dim)`: `upstream / sum_i A_ij` for centroids that moved and 0 for the others; 0 for
        centroids that moved and `upstream` for the others.

    Example:

    >>> parts = update_gradient(ops.ones((1, 1, 1)), ops.convert_to_tensor([[[8.0, 2.0]]]))
    >>> [float(part[0, 0, 0]) for part in parts]
    [0.5, 0.0]
    """
    live, mass = _mass(sums)
    zeros = ops.zeros_like(upstream)
    return ops.where(live, upstream / mass, zeros), ops.where(live, zeros, upstream)


def assign_gradient(shares, slopes):
    """Returns the gradient with respect to `-|w_i - c_j|^2 / tau`: `A_ij (v_ij - sum_l A_il v_il)`.

    Args:
        shares: assignments `A`, tensor `(groups, n, k)`.
        slopes: gradient `v` with respect to `A`.

    Returns:
        Tensor `(groups, n, k)`; rows add up to 0.

    Example:

    >>> shares = ops.convert_to_tensor([[[0.5, 0.5]]])
    >>> ops.convert_to_numpy(assign_gradient(shares, ops.convert_to_tensor([[[1.0, 0.0]]]))).tolist()
    [[[0.25, -0.25]]]
    """
    return shares * (slopes - ops.sum(shares * slopes, axis=-1, keepdims=True))


def nearest(vectors, codebook):
    """Assigns vectors to centroids: returns the index of the nearest one.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.
        codebook: tensor `(groups, k, dim)`.

    Returns:
        int32 tensor `(groups, n)`. No gradient.

    Example:

    >>> vectors, codebook = ops.convert_to_tensor([[[0.1], [1.9]]]), ops.convert_to_tensor([[[0.0], [2.0]]])
    >>> ops.convert_to_numpy(nearest(vectors, codebook)).tolist()
    [[0, 1]]
    """
    if codebook.shape[0] == 1 and codebook.shape[2] == 1:
        return _nearest_scalar(vectors, codebook)
    parts = pieces(vectors, codebook.shape[1])
    indices = [ops.cast(ops.argmax(closeness(padded(part), codebook), axis=-1), "int32") for part in parts]
    return ops.concatenate(indices, axis=1)


def look_up(codebook, indices):
    """Returns the centroids at the given indices.

    Args:
        codebook: tensor `(groups, k, dim)`.
        indices: int tensor `(groups, n)`.

    Returns:
        Tensor `(groups, n, dim)`.

    Example:

    >>> indices = ops.convert_to_tensor([[1, 0]])
    >>> ops.convert_to_numpy(look_up(ops.convert_to_tensor([[[3.0], [5.0]]]), indices)).tolist()
    [[[5.0], [3.0]]]
    """
    groups, k, dim = codebook.shape
    start = ops.reshape(ops.arange(groups, dtype="int32") * k, (groups, 1))
    return ops.take(ops.reshape(codebook, (groups * k, dim)), ops.cast(indices, "int32") + start, axis=0)


def pieces(vectors, k: int, size: int = PIECE) -> list:
    """Splits vectors along `n` so that the assignments of a piece to `k` centroids are at most about `size` numbers.

    Args:
        vectors: tensor `(groups, n, ...)`.
        k: number of centroids per group.
        size: numbers per piece. There are never more than 32 pieces, which bounds the operators of a compiled graph.

    Example:

    >>> [piece.shape[1] for piece in pieces(ops.ones((1, 5, 1)), 2, 4)]
    [2, 2, 1]
    """
    groups, n = vectors.shape[:2]
    step = max(size // (groups * k), -(-n // 32), 1)
    return [vectors[:, start : start + step] for start in range(0, n, step)] if step < n else [vectors]


def _nearest_scalar(vectors, codebook):
    """Finds the nearest scalar centroid by bisection: `log k` steps per weight instead of `k`."""
    centroids = ops.reshape(codebook, (-1,))
    order = ops.argsort(centroids)
    ascending = ops.take(centroids, order)
    midpoints = 0.5 * (ascending[1:] + ascending[:-1])
    if not midpoints.shape[0]:
        return ops.zeros(vectors.shape[:2], "int32")
    ranks = ops.searchsorted(midpoints, ops.reshape(vectors, (-1,)))
    return ops.reshape(ops.cast(ops.take(order, ranks), "int32"), vectors.shape[:2])


def _mass(sums):
    """Returns which centroids are assigned something, and the mass assigned (1 where there is none)."""
    mass = sums[..., -1:]
    live = mass > EMPTY
    return live, ops.where(live, mass, ops.ones_like(mass))
