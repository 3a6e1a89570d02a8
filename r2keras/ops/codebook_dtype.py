"""Rounding of codebooks to the storage type of a file."""

from __future__ import annotations

from keras import ops

from r2keras.ops.affine import floored


def stored(codebook, dtype: str):
    """Rounds a table to a storage type; for `"int8"`, `codes = round(c / s)` with `s = max|c| / 127` per group.

    Args:
        codebook: float32 tensor `(groups, k, dim)`.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        The codes, float32 numbers that the type represents exactly, and the scales `(groups, 1, 1)`, which are 1 except
        for `"int8"`. Not intended for gradients.

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
    scale = floored(largest / 127.0)
    return ops.clip(ops.round(codebook / scale), -127.0, 127.0), scale


def snapped(codebook, dtype: str):
    """Returns the float32 values of a table after `stored` has rounded it.

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
