"""Differentiable k-means: what a weight becomes in training under a palette, by the faster of two ways."""

from __future__ import annotations

from keras import ops

from r2keras.ops import dkm_scalar, dkm_vector, kmeans


def soft_palette(vectors, codebook, *, temperature, steps: int = 3, snap=None):
    """Moves centroids to the soft means of the weights and looks every weight up in them, softly.

    Forward: `y_i = sum_j A_ij c_j` with `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`, after `steps` updates
    `c_j <- sum_i A_ij w_i / sum_i A_ij`; `tau = temperature * variance(w)`. Gradient: through the weights in the
    look-up and, by way of the centroids, through all updates; `tau` and the first codebook are constants. Scalars are
    looked up in tables (`dkm_scalar`), vectors go piece by piece (`dkm_vector`); neither keeps the assignments.

    Args:
        vectors: float32 tensor `(groups, n, dim)`; each group has its own codebook.
        codebook: tensor `(groups, k, dim)`, the start.
        temperature: softness relative to the weights' variance (the mean over the coordinates), above 0.
        steps: updates of the centroids, at least 0.
        snap: a function that rounds the last codebook to what a file can hold; None: it stays as it is.

    Returns:
        The values, `(groups, n, dim)`, and the new codebook (not rounded, without a gradient).

    Example:

    >>> vectors = ops.convert_to_tensor([[[0.0], [1.0], [8.0], [10.0]]])
    >>> values, book = soft_palette(vectors, ops.convert_to_tensor([[[0.0], [10.0]]]), temperature=0.01)
    >>> ops.convert_to_numpy(values).round(3).ravel().tolist()
    [0.5, 0.5, 9.0, 9.0]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """
    if codebook.shape[-1] == 1 and vectors.shape[1] >= dkm_scalar.MIN_SIZE:
        flat = vectors[..., 0]
        values, book = dkm_scalar.soft_palette(flat, codebook, temperature, steps, snap)
        return ops.expand_dims(values, -1), book
    still = ops.stop_gradient(vectors)
    tau = temperature * ops.maximum(kmeans.variance(still), 1e-30)
    books, sums = dkm_vector.iterate(still, ops.stop_gradient(codebook), tau, steps)
    last = None if snap is None else snap(books[-1])
    return dkm_vector.soft_palette(vectors, books, sums, tau, last), books[-1]
