"""Differentiable k-means (DKM): the soft palette values of a weight in training."""

from __future__ import annotations

from keras import ops

from r2keras.ops import dkm_scalar, dkm_vector, kmeans


def soft_palette(vectors, codebook, *, temperature, steps: int = 3, snap=None):
    """Updates centroids to the soft means of the weights, then looks every weight up in them, softly.

    Forward: `y_i = sum_j A_ij c_j` with `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`, after `steps` updates
    `c_j <- sum_i A_ij w_i / sum_i A_ij`; `tau = temperature * variance(w)`. Gradient: through the weights in the
    look-up and, through the centroids, through all updates; `tau` and the first codebook are constants. Large scalar
    weights use tables (`dkm_scalar`), all others are processed in pieces (`dkm_vector`). Neither keeps the assignments.

    Args:
        vectors: float32 tensor `(groups, n, dim)`; each group has its own codebook.
        codebook: tensor `(groups, k, dim)`, the start.
        temperature: softness relative to the weights' variance (the mean over the coordinates), above 0.
        steps: number of centroid updates, at least 0.
        snap: a function that rounds the last codebook to what a file can hold; None leaves it as it is.

    Returns:
        The values, `(groups, n, dim)`, and the new codebook, which is not rounded and has no gradient.

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
    detached = ops.stop_gradient(vectors)
    tau = temperature * kmeans.scale_of_distances(
        kmeans.variance(detached), ops.mean(ops.square(detached), axis=(1, 2), keepdims=True)
    )
    books, sums = dkm_vector.iterate(detached, ops.stop_gradient(codebook), tau, steps)
    last = None if snap is None else snap(books[-1])
    return dkm_vector.soft_palette(vectors, books, sums, tau, last), books[-1]
