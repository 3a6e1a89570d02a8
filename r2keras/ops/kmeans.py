"""K-means on tensors, soft and hard: the arithmetic that differentiable palettes are made of.

Vectors have the shape `(groups, n, dim)`, codebooks `(groups, k, dim)`; each group has a table of its own. Softness is
`tau`, shape `(groups, 1, 1)`, in units of a squared distance. Vectors with a one behind them, `(groups, n, dim + 1)`,
are called `padded`: one product then gives sums and counts, or distances, at once.
"""

from __future__ import annotations

from keras import ops

# A centroid with less than this share of one weight stays where it is: its mean would be 0 / 0.
EMPTY = 1e-6
# Assignments in one piece: 16 MiB of float32.
PIECE = 4_194_304


def padded(vectors):
    """Puts a one behind every vector.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.

    Returns:
        Tensor `(groups, n, dim + 1)`.

    Example:

    >>> ops.convert_to_numpy(padded(ops.convert_to_tensor([[[3.0], [5.0]]]))).tolist()
    [[[3.0, 1.0], [5.0, 1.0]]]
    """
    return ops.concatenate([vectors, ops.ones_like(vectors[..., :1])], axis=-1)


def variance(vectors):
    """Returns the mean over the coordinates of their variance, a tensor `(groups, 1, 1)`; no gradient is meant for it.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.

    Example:

    >>> ops.convert_to_numpy(variance(ops.convert_to_tensor([[[1.0], [3.0]]]))).tolist()
    [[[1.0]]]
    """
    return ops.mean(ops.var(vectors, axis=1, keepdims=True), axis=2, keepdims=True)


def assign(rows, codebook, tau):
    """Soft assignment: `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`.

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
    """Returns `-|w_i - c_j|^2`, up to a number that a vector's centroids share: the nearest centroid has the largest.

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
    across = ops.swapaxes(codebook, 1, 2)
    if codebook.shape[-1] == 1:
        # |w|^2 - 2 w c + |c|^2 cancels, which the many close centroids of a scalar table would feel.
        return -ops.square(rows[..., :1] - across)
    return ops.matmul(rows, ops.concatenate([2.0 * across, -ops.sum(across * across, axis=1, keepdims=True)], axis=1))


def moments(shares, rows):
    """Returns what each centroid gets: `sum_i A_ij (w_i, 1)`, a tensor `(groups, k, dim + 1)`.

    Args:
        shares: tensor `(groups, n, k)`.
        rows: padded vectors `(groups, n, dim + 1)`, times the vectors' masses where these are not 1.

    Example:

    >>> rows = padded(ops.convert_to_tensor([[[3.0], [5.0]]]))
    >>> ops.convert_to_numpy(moments(ops.ones((1, 2, 1)), rows)).tolist()
    [[[8.0, 2.0]]]
    """
    return ops.einsum("gnk,gnd->gkd", shares, rows)


def update(sums, codebook):
    """Centroid update: `c_j = sum_i A_ij w_i / sum_i A_ij`; a centroid that gets nothing stays.

    Args:
        sums: tensor `(groups, k, dim + 1)`, see `moments`.
        codebook: the centroids before, `(groups, k, dim)`.

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
    """Returns, of `update`, the gradient divided by the mass (for the sums) and the gradient for the centroids before.

    Args:
        upstream: gradient with respect to the new centroids, `(groups, k, dim)`.
        sums: see `update`.

    Returns:
        Two tensors `(groups, k, dim)`: `upstream / sum_i A_ij` where a centroid got something, `upstream` elsewhere.

    Example:

    >>> parts = update_gradient(ops.ones((1, 1, 1)), ops.convert_to_tensor([[[8.0, 2.0]]]))
    >>> [float(part[0, 0, 0]) for part in parts]
    [0.5, 0.0]
    """
    live, mass = _mass(sums)
    none = ops.zeros_like(upstream)
    return ops.where(live, upstream / mass, none), ops.where(live, none, upstream)


def assign_gradient(shares, slopes):
    """Returns the gradient with respect to `-|w_i - c_j|^2 / tau`: `A_ij (v_ij - sum_l A_il v_il)`.

    Args:
        shares: `A`, tensor `(groups, n, k)`.
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
    """Hard assignment: the index of the nearest centroid.

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
    found = [ops.cast(ops.argmax(closeness(padded(part), codebook), axis=-1), "int32") for part in parts]
    return ops.concatenate(found, axis=1)


def look_up(codebook, indices):
    """Returns the centroids that indices name.

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
        k: centroids a group.
        size: numbers a piece. There are never more than 32 pieces, lest a graph of very many operators arise.

    Example:

    >>> [piece.shape[1] for piece in pieces(ops.ones((1, 5, 1)), 2, 4)]
    [2, 2, 1]
    """
    groups, n = vectors.shape[:2]
    step = max(size // (groups * k), -(-n // 32), 1)
    return [vectors[:, start : start + step] for start in range(0, n, step)] if step < n else [vectors]


def _nearest_scalar(vectors, codebook):
    """Finds the nearest of sorted numbers by bisection: `log k` steps a weight instead of `k`."""
    numbers = ops.reshape(codebook, (-1,))
    order = ops.argsort(numbers)
    ordered = ops.take(numbers, order)
    middles = 0.5 * (ordered[1:] + ordered[:-1])
    if not middles.shape[0]:
        return ops.zeros(vectors.shape[:2], "int32")
    places = ops.searchsorted(middles, ops.reshape(vectors, (-1,)))
    return ops.reshape(ops.cast(ops.take(order, places), "int32"), vectors.shape[:2])


def _mass(sums):
    """Returns which centroids got something, and how much (1 where nothing)."""
    mass = sums[..., -1:]
    live = mass > EMPTY
    return live, ops.where(live, mass, ops.ones_like(mass))
