"""What the gates of a recurrent layer have in common: products with kernels, masked and normalised gate by gate."""

from __future__ import annotations

from keras import ops

EPSILON = 1e-5


def gate_product(x, kernel, gates, *, gain=None, bias=None):
    """Returns what a tensor adds to the pre-activations of all gates: `norm(x W) * gain + bias`.

    Args:
        x: float tensor `(batch, features)`, or a list of such, one a gate (`masked`).
        kernel: float tensor `(features, gates * units)`.
        gates: how many gates stand side by side in the kernel.
        gain: `(gates * units,)`: the products of every gate are brought to mean 0 and variance 1 over its units and
            multiplied by it; None: they stay as they are.
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
        parts = zip(x, ops.split(kernel, gates, axis=-1), strict=True)
        product = ops.concatenate([ops.matmul(own, part) for own, part in parts], axis=-1)
    else:
        product = ops.matmul(x, kernel)
    if gain is not None:
        product = normalized(product, gates) * gain
    return product if bias is None else product + bias


def masked(x, masks):
    """Returns what is left of a tensor under dropout: `x m`, or a list where each gate has a mask of its own.

    Args:
        x: float tensor.
        masks: a tensor that broadcasts against `x`, a list of them, or None: no dropout.

    Example:

    >>> masked(1.0, [0.0, 2.0])
    [0.0, 2.0]

    Source: Gal and Ghahramani, arXiv 1512.05287, section 4.
    """
    if masks is None:
        return x
    return [x * mask for mask in masks] if isinstance(masks, list) else x * masks


def normalized(products, gates):
    """Returns every gate's products minus their mean over the units, divided by their standard deviation.

    Args:
        products: float tensor `(batch, gates * units)`.
        gates: how many gates stand side by side.

    Returns:
        Float tensor of the same shape.

    Example:

    >>> ops.convert_to_numpy(normalized(ops.convert_to_tensor([[1.0, 3.0, 5.0, 9.0]]), 2)).round(3).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]

    Source: Ba et al., arXiv 1607.06450, section 3.1.
    """
    parts = ops.split(products, gates, axis=-1)
    centred = [part - ops.mean(part, axis=-1, keepdims=True) for part in parts]
    scaled = [c * ops.rsqrt(ops.mean(ops.square(c), axis=-1, keepdims=True) + EPSILON) for c in centred]
    return ops.concatenate(scaled, axis=-1)


def unit_columns(kernel, gain):
    """Returns a kernel whose columns have the lengths `gain`: `gain * W / |W|`, column by column.

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
    return kernel * (gain * ops.rsqrt(ops.sum(ops.square(kernel), axis=0, keepdims=True) + EPSILON**2))
