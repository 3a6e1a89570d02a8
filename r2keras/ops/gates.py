"""Gate arithmetic of recurrent layers: products with kernels, dropout masks and normalization, gate by gate."""

from __future__ import annotations

from keras import ops

# Keeps divisions finite where a gate's products are all equal or a column is zero.
EPSILON = 1e-5


def gate_product(x, kernel, gates, *, gain=None, bias=None):
    """Returns a tensor's contribution to the pre-activations of all gates: `norm(x W) * gain + bias`.

    Args:
        x: float tensor `(batch, features)`, or a list of them, one per gate (`masked`).
        kernel: float tensor `(features, gates * units)`.
        gates: number of gates side by side in the kernel.
        gain: `(gates * units,)`; the products of every gate are normalized to mean 0 and variance 1 over its units and
            multiplied by the gain. None skips the normalization.
        bias: `(gates * units,)`, or None.

    Returns:
        Float tensor `(batch, gates * units)`.

    Example:

    >>> x, kernel = ops.ones((1, 2)), ops.ones((2, 4))
    >>> ops.convert_to_numpy(gate_product(x, kernel, 2, bias=ops.ones((4,)))).tolist()
    [[3.0, 3.0, 3.0, 3.0]]

    Source: Hou et al., NeurIPS 2019, section 3 (norms).
    """
    if isinstance(x, list):
        per_gate = zip(x, ops.split(kernel, gates, axis=-1), strict=True)
        product = ops.concatenate([ops.matmul(inputs, gate_kernel) for inputs, gate_kernel in per_gate], axis=-1)
    else:
        product = ops.matmul(x, kernel)
    if gain is not None:
        product = normalized(product, gates) * gain
    return product if bias is None else product + bias


def masked(x, masks):
    """Applies dropout masks: returns `x m`, or a list if each gate has its own mask.

    Args:
        x: float tensor.
        masks: a tensor that broadcasts against `x`, a list of them, or None for no dropout.

    Example:

    >>> masked(1.0, [0.0, 2.0])
    [0.0, 2.0]

    Source: Gal and Ghahramani, arXiv 1512.05287, section 4.
    """
    if masks is None:
        return x
    return [x * mask for mask in masks] if isinstance(masks, list) else x * masks


def normalized(products, gates):
    """Normalizes every gate's products: subtracts their mean over the units and divides by their standard deviation.

    Args:
        products: float tensor `(batch, gates * units)`.
        gates: number of gates side by side.

    Returns:
        Float tensor of the same shape.

    Example:

    >>> ops.convert_to_numpy(normalized(ops.convert_to_tensor([[1.0, 3.0, 5.0, 9.0]]), 2)).round(3).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]

    Source: Ba et al., arXiv 1607.06450, section 3.1.
    """
    parts = ops.split(products, gates, axis=-1)
    centered = [part - ops.mean(part, axis=-1, keepdims=True) for part in parts]
    scaled = [c * ops.rsqrt(ops.mean(ops.square(c), axis=-1, keepdims=True) + EPSILON) for c in centered]
    return ops.concatenate(scaled, axis=-1)


def unit_columns(kernel, gain):
    """Rescales the columns of a kernel to the lengths `gain`: `gain * W / |W|`, column by column.

    Args:
        kernel: float tensor `(features, columns)`.
        gain: `(columns,)`.

    Returns:
        Float tensor of the kernel's shape. The gradient flows through the lengths too.

    Example:

    >>> ops.convert_to_numpy(unit_columns(ops.convert_to_tensor([[3.0], [4.0]]), ops.ones((1,)))).round(3).tolist()
    [[0.6000000238418579], [0.800000011920929]]

    Source: Salimans and Kingma, arXiv 1602.07868, equation 2.
    """
    # Squared, because it is added to a squared length.
    return kernel * (gain * ops.rsqrt(ops.sum(ops.square(kernel), axis=0, keepdims=True) + EPSILON**2))
