"""Differentiable k-means on vectors, in pieces: memory for assignments grows neither with the steps nor the weights."""

from __future__ import annotations

from keras import ops

from r2keras.ops import kmeans
from r2keras.ops.ste import custom_gradient

# Assignments in one piece: small enough for its tensors to stay in a processor's cache.
PIECE = 1_048_576


def iterate(vectors, codebook, tau, steps: int):
    """Updates centroids to the soft means of the vectors, `steps` times.

    `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`, `c_j <- sum_i A_ij w_i / sum_i A_ij`. Defines no gradient; `soft_palette`
    does.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.
        codebook: tensor `(groups, k, dim)`, the start.
        tau: positive tensor `(groups, 1, 1)`, in units of a squared distance.
        steps: number of updates.

    Returns:
        Two lists: `steps + 1` codebooks, the start first, and the `steps` sums they were computed from
        (`kmeans.moments`).

    Example:

    >>> vectors = ops.convert_to_tensor([[[0.0], [1.0], [9.0]]])
    >>> books, _ = iterate(vectors, ops.convert_to_tensor([[[0.0], [10.0]]]), 0.1 * ops.ones((1, 1, 1)), 1)
    >>> ops.convert_to_numpy(books[-1]).tolist()
    [[[0.5], [9.0]]]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    return iterate_rows([(kmeans.padded(part), None) for part in _pieces(vectors, codebook)], codebook, tau, steps)


def iterate_rows(parts, codebook, tau, steps: int):
    """Does the same as `iterate`, for pairs of padded vectors and their masses `(groups, n, 1)` (None: all 1)."""
    books, sums = [codebook], []
    for _ in range(steps):
        moments = [kmeans.moments(kmeans.assign(rows, books[-1], tau), weighed(rows, mass)) for rows, mass in parts]
        sums.append(sum(moments[1:], moments[0]))
        books.append(kmeans.update(sums[-1], books[-1]))
    return books, sums


def weighed(rows, mass):
    """Returns padded vectors times their masses (None: all 1)."""
    return rows if mass is None else rows * mass


def soft_palette(vectors, books, sums, tau, last=None):
    """Looks vectors up softly in the codebook that `iterate` returned, with the gradient through all its steps.

    Forward: `y_i = sum_j A_ij c_j` with the last codebook. Gradient: for `v_ij = dL/dA_ij` and
    `p_ij = A_ij (v_ij - sum_l A_il v_il)`, `dL/dw_i = 2 / tau sum_j p_ij c_j` and
    `dL/dc_j = sum_i A_ij dL/dy_i + 2 / tau sum_i p_ij (w_i - c_j)`, and so on through each update; `tau` and the first
    codebook are constants. The backward pass computes the assignments again instead of keeping them.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.
        books: the codebooks that `iterate` returned.
        sums: the sums that `iterate` returned.
        tau: see `iterate`.
        last: a codebook that replaces the last one, with the same gradient (rounded centroids); None uses the last.

    Returns:
        Tensor `(groups, n, dim)`.

    Example:

    >>> vectors, tau = ops.convert_to_tensor([[[0.0], [1.0], [9.0]]]), 0.1 * ops.ones((1, 1, 1))
    >>> books, sums = iterate(vectors, ops.convert_to_tensor([[[0.0], [10.0]]]), tau, 1)
    >>> ops.convert_to_numpy(soft_palette(vectors, books, sums, tau)).tolist()
    [[[0.5], [0.5], [9.0]]]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    table = books[-1] if last is None else last

    @custom_gradient
    def function(vectors):
        parts = [kmeans.padded(part) for part in _pieces(vectors, table)]
        values = ops.concatenate([ops.matmul(kmeans.assign(rows, table, tau), table) for rows in parts], axis=1)

        def backward(upstream):
            last_table = _recomputed(table, upstream[:, :1])
            gradients = [look_up_gradient(*pair, last_table, tau) for pair in _paired(parts, upstream)]
            direct = [to_rows for to_rows, _ in gradients]
            to_book = sum([to_table for _, to_table in gradients[1:]], gradients[0][1])
            pairs = [(rows, None) for rows in parts]
            through_updates = unrolled_gradient(pairs, books, sums, tau, to_book, recompute=True)
            totals = [a if b is None else a + b for a, b in zip(direct, through_updates, strict=True)]
            return ops.concatenate(totals, axis=1)

        return values, backward

    return function(vectors)


def look_up_gradient(rows, upstream, table, tau):
    """Returns the gradients of `y = A C` with respect to the vectors and the codebook (`soft_palette`).

    Args:
        rows: padded vectors `(groups, n, dim + 1)`.
        upstream: `(groups, n, dim)`.
        table: the codebook `(groups, k, dim)`.
        tau: `(groups, 1, 1)`.
    """
    shares = kmeans.assign(rows, table, tau)
    pull = kmeans.assign_gradient(shares, ops.einsum("gnd,gkd->gnk", upstream, table))
    to_table = kmeans.moments(shares, upstream) + centroid_gradient(pull, rows, table, tau)
    return 2.0 / tau * ops.matmul(pull, table), to_table


def unrolled_gradient(parts, books, sums, tau, upstream, *, recompute: bool = False) -> list:
    """Returns, for each piece, the gradient that reaches its vectors through the updates of the codebook.

    Args:
        parts: pairs of padded vectors and masses, as in `iterate_rows`; gradients are per unit of mass.
        books: the codebooks that `iterate` returned.
        sums: the sums that `iterate` returned.
        tau: `(groups, 1, 1)`.
        upstream: gradient with respect to the last codebook.
        recompute: whether compiled code, too, computes assignments again instead of keeping those of the forward pass.

    Returns:
        One tensor `(groups, n, dim)` per piece; None for each piece if there were no updates.
    """
    totals = [None] * len(parts)
    for step in reversed(range(len(sums))):
        to_sums, upstream = kmeans.update_gradient(upstream, sums[step])
        before = _recomputed(books[step], to_sums[:, :1]) if recompute else books[step]
        gradients = [_step_gradient(rows, mass, before, books[step + 1], to_sums, tau) for rows, mass in parts]
        totals = [
            to_rows if total is None else total + to_rows for total, (to_rows, _) in zip(totals, gradients, strict=True)
        ]
        upstream = sum((to_book for _, to_book in gradients), upstream)
    return totals


def centroid_gradient(pull, rows, codebook, tau):
    """Returns `2 / tau sum_i p_ij (w_i - c_j)`."""
    sums = kmeans.moments(pull, rows)
    return 2.0 / tau * (sums[..., :-1] - sums[..., -1:] * codebook)


def _step_gradient(rows, mass, before, after, to_sums, tau):
    """Returns the gradients of one update with respect to the vectors and the codebook before."""
    shares = kmeans.assign(rows, before, tau)
    # The slope of A_ij is to_sums_j . (w_i - c_j), one product with the padded vectors.
    plane = ops.concatenate([to_sums, -ops.sum(to_sums * after, axis=-1, keepdims=True)], axis=-1)
    pull = kmeans.assign_gradient(shares, ops.einsum("gnd,gkd->gnk", rows, plane))
    to_rows = ops.matmul(shares, to_sums) + 2.0 / tau * ops.matmul(pull, before)
    return to_rows, centroid_gradient(pull, weighed(rows, mass), before, tau)


def _recomputed(codebook, upstream):
    """Returns the same codebook with a data dependency on a gradient, a tensor `(groups, 1, dim)`.

    Without it, a compiler sees that assignments are computed twice and keeps those of every step in memory.
    """
    return codebook + ops.minimum(ops.abs(upstream), 0.0)


def _pieces(vectors, codebook) -> list:
    """Splits vectors into pieces of at most about `PIECE` assignments."""
    return kmeans.pieces(vectors, codebook.shape[1], PIECE)


def _paired(parts, whole) -> list:
    """Pairs pieces with the matching slices of another tensor."""
    pairs, start = [], 0
    for part in parts:
        pairs.append((part, whole[:, start : start + part.shape[1]]))
        start += part.shape[1]
    return pairs
