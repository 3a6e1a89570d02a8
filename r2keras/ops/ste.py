"""Straight-through estimators: exact values forward, a chosen gradient backward."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops


def custom_gradient(function: Callable) -> Callable:
    """Makes `function(*tensors) -> (value, backward)` a differentiable operation on every backend.

    Unlike with `x + stop_gradient(q - x)`, the value is exactly as computed: no rounding error moves it off its grid.

    Args:
        function: takes tensors; returns the value and `backward(upstream)`, which returns one gradient per tensor
            (a tuple, or a bare tensor for a function of one tensor).

    Returns:
        A function of the same tensors that returns the value.

    Example:

    >>> halved = custom_gradient(lambda x: (ops.round(x), lambda upstream: 0.5 * upstream))
    >>> float(halved(ops.convert_to_tensor(1.7)))
    2.0
    """

    def forward(*tensors):
        value, backward = function(*tensors)

        # TensorFlow and JAX call grad(upstream), PyTorch calls grad(*tensors, upstream=upstream).
        def grad(*arguments, upstream=None):
            return backward(arguments[0] if upstream is None else upstream)

        return value, grad

    return ops.custom_gradient(forward)


def round_through(x):
    """Rounds half to even with a straight-through gradient: `y = round(x)`, `dy/dx = 1`.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor of the same shape and type.

    Example:

    >>> [float(v) for v in ops.convert_to_numpy(round_through(ops.convert_to_tensor([0.5, 1.5, -0.6])))]
    [0.0, 2.0, -1.0]

    Source: Bengio et al., arXiv 1308.3432, section 4.
    """
    return custom_gradient(lambda t: (ops.round(t), lambda upstream: upstream))(x)
