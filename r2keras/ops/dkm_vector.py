"""Differentiable k-means on vectors, piece by piece: memory that depends neither on the steps nor on the weights."""

from __future__ import annotations

from keras import ops

from r2keras.ops import kmeans
from r2keras.ops.ste import custom_gradient

# Small enough for its tensors to stay in a processor's cache.
PIECE = 1_048_576


def iterate(vectors, codebook, tau, steps: int):
    """Moves centroids to the soft means of the vectors, `steps` times.

    `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`, `c_j <- sum_i A_ij w_i / sum_i A_ij`. No gradient of its own: see
    `soft_palette`.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.
        codebook: tensor `(groups, k, dim)`, the start.
        tau: positive tensor `(groups, 1, 1)`, in units of a squared distance.
        steps: how often.

    Returns:
        Two lists: `steps + 1` codebooks, the start first, and the `steps` sums that gave them (`kmeans.moments`).

    Example:

    >>> vectors = ops.convert_to_tensor([[[0.0], [1.0], [9.0]]])
    >>> books, _ = iterate(vectors, ops.convert_to_tensor([[[0.0], [10.0]]]), 0.1 * ops.ones((1, 1, 1)), 1)
    >>> ops.convert_to_numpy(books[-1]).tolist()
    [[[0.5], [9.0]]]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    return iterate_rows([(kmeans.padded(part), None) for part in _pieces(vectors, codebook)], codebook, tau, steps)


def iterate_rows(parts, codebook, tau, steps: int):
    """As `iterate`, for pairs of padded vectors and their masses `(groups, n, 1)` (None: all 1)."""
    books, sums = [codebook], []
    for _ in range(steps):
        found = [kmeans.moments(kmeans.assign(rows, books[-1], tau), weighed(rows, mass)) for rows, mass in parts]
        sums.append(sum(found[1:], found[0]))
        books.append(kmeans.update(sums[-1], books[-1]))
    return books, sums


def weighed(rows, mass):
    """Returns padded vectors times their masses (None: all 1)."""
    return rows if mass is None else rows * mass


def soft_palette(vectors, books, sums, tau, last=None):
    """Soft look-up in the codebook that `iterate` found, with the gradient through all its steps.

    Forward: `y_i = sum_j A_ij c_j` with the last codebook. Gradient: for `v_ij = dL/dA_ij` and
    `p_ij = A_ij (v_ij - sum_l A_il v_il)`, `dL/dw_i = 2 / tau sum_j p_ij c_j` and
    `dL/dc_j = sum_i A_ij dL/dy_i + 2 / tau sum_i p_ij (w_i - c_j)`, and so on through each update; `tau` and the first
    codebook count as constants. Assignments are computed again on the way back, not kept.

    Args:
        vectors: float32 tensor `(groups, n, dim)`.
        books: codebooks of `iterate`.
        sums: sums of `iterate`.
        tau: see `iterate`.
        last: a codebook to use in place of the last, with its gradient (rounded centroids); None: the last.

    Returns:
        Tensor `(groups, n, dim)`.

    Example:

    >>> vectors, tau = ops.convert_to_tensor([[[0.0], [1.0], [9.0]]]), 0.1 * ops.ones((1, 1, 1))
    >>> found = iterate(vectors, ops.convert_to_tensor([[[0.0], [10.0]]]), tau, 1)
    >>> ops.convert_to_numpy(soft_palette(vectors, *found, tau)).tolist()
    [[[0.5], [0.5], [9.0]]]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3; recomputing is what eDKM (arXiv 2309.00964) calls memory.
    """
    table = books[-1] if last is None else last

    @custom_gradient
    def function(vectors):
        parts = [kmeans.padded(part) for part in _pieces(vectors, table)]
        values = ops.concatenate([ops.matmul(kmeans.assign(rows, table, tau), table) for rows in parts], axis=1)

        def backward(upstream):
            again = _anew(table, upstream[:, :1])
            gradients = [look_up_gradient(*part, again, tau) for part in _beside(parts, upstream)]
            to_rows = [gradient for gradient, _ in gradients]
            to_book = sum([gradient for _, gradient in gradients[1:]], gradients[0][1])
            pairs = [(rows, None) for rows in parts]
            more = unrolled_gradient(pairs, books, sums, tau, to_book, anew=True)
            return ops.concatenate([a if b is None else a + b for a, b in zip(to_rows, more, strict=True)], axis=1)

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


def unrolled_gradient(parts, books, sums, tau, upstream, *, anew: bool = False) -> list:
    """Returns, for each piece, the gradient that reaches its vectors through the updates of the codebook.

    Args:
        parts: pairs of padded vectors and masses, as in `iterate_rows`; gradients are those of one unit of
            mass.
        books: codebooks of `iterate`.
        sums: sums of `iterate`.
        tau: `(groups, 1, 1)`.
        upstream: gradient with respect to the last codebook.
        anew: whether compiled code, too, computes assignments again in place of keeping those of the way forward.
    """
    totals = [None] * len(parts)
    for step in reversed(range(len(sums))):
        pushed, upstream = kmeans.update_gradient(upstream, sums[step])
        before = _anew(books[step], pushed[:, :1]) if anew else books[step]
        found = [_step_gradient(rows, mass, before, books[step + 1], pushed, tau) for rows, mass in parts]
        totals = [a if t is None else t + a for t, (a, _) in zip(totals, found, strict=True)]
        upstream = sum((b for _, b in found), upstream)
    return totals


def centroid_gradient(pull, rows, codebook, tau):
    """Returns `2 / tau sum_i p_ij (w_i - c_j)`."""
    sums = kmeans.moments(pull, rows)
    return 2.0 / tau * (sums[..., :-1] - sums[..., -1:] * codebook)


def _step_gradient(rows, mass, before, after, pushed, tau):
    """Returns the gradients of one update with respect to the vectors and the codebook before."""
    shares = kmeans.assign(rows, before, tau)
    # The slope of A_ij is pushed_j . (w_i - c_j): one product with the padded vectors.
    plane = ops.concatenate([pushed, -ops.sum(pushed * after, axis=-1, keepdims=True)], axis=-1)
    pull = kmeans.assign_gradient(shares, ops.einsum("gnd,gkd->gnk", rows, plane))
    to_rows = ops.matmul(shares, pushed) + 2.0 / tau * ops.matmul(pull, before)
    return to_rows, centroid_gradient(pull, weighed(rows, mass), before, tau)


def _anew(codebook, upstream):
    """Returns the same codebook, but as something that follows from a gradient, a tensor `(groups, 1, dim)`.

    Else a compiler sees that assignments are computed twice, and keeps those of every step in memory.
    """
    return codebook + ops.minimum(ops.abs(upstream), 0.0)


def _pieces(vectors, codebook) -> list:
    """Returns the vectors in pieces."""
    return kmeans.pieces(vectors, codebook.shape[1], PIECE)


def _beside(parts, whole) -> list:
    """Pairs pieces with those of another tensor."""
    pairs, start = [], 0
    for part in parts:
        pairs.append((part, whole[:, start : start + part.shape[1]]))
        start += part.shape[1]
    return pairs
