"""Rounding a table of centroids to what a file can hold."""

from __future__ import annotations

from keras import ops

# Stands in for the scale of a table of zeros.
MIN_SCALE = 2.0**-64


def stored(codebook, dtype: str):
    """Rounds a table to a storage type: `codes = round(c / s)` with `s = max|c| / 127` a group for `"int8"`.

    Args:
        codebook: float32 tensor `(groups, k, dim)`.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        The codes, float32 numbers that the type holds exactly, and the scales `(groups, 1, 1)`, 1 but for `"int8"`. No
        gradient is meant for them.

    Example:

    >>> codes, scale = stored(ops.convert_to_tensor([[[-1.27], [0.004]]]), "int8")
    >>> ops.convert_to_numpy(codes).tolist(), round(float(scale[0, 0, 0]), 4)
    ([[[-127.0], [0.0]]], 0.01)
    """
    one = ops.ones((codebook.shape[0], 1, 1), "float32")
    if dtype == "float32":
        return codebook, one
    if dtype == "float16":
        return ops.cast(ops.cast(codebook, "float16"), "float32"), one
    largest = ops.max(ops.abs(codebook), axis=(1, 2), keepdims=True)
    scale = ops.maximum(largest / 127.0, MIN_SCALE)
    return ops.clip(ops.round(codebook / scale), -127.0, 127.0), scale


def snapped(codebook, dtype: str):
    """Returns a table as `stored` keeps it, in float32.

    Args:
        codebook: float32 tensor `(groups, k, dim)`.
        dtype: see `stored`.

    Example:

    >>> float(snapped(ops.convert_to_tensor([[[0.1]]]), "float16")[0, 0, 0])
    0.0999755859375
    """
    if dtype == "float32":
        return codebook
    codes, scale = stored(codebook, dtype)
    return codes * scale
