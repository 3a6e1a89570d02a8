"""Activation functions of Keras as operations that 8 bits hold well, for those without an integer operator.

An exponential is taken of numbers up to 0 only: one grid cannot hold `exp(x)` of a large and of a small `x`.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import KerasTensor, ops

# Constants of SELU: Klambauer et al., arXiv 1706.02515, section 2.
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _softplus(x: KerasTensor) -> KerasTensor:
    """Returns `log(1 + exp(x))` as `relu(x) + log(1 + exp(-|x|))`."""
    return ops.relu(x) + ops.log(1.0 + ops.exp(-1.0 * ops.absolute(x)))


def _mish(x: KerasTensor) -> KerasTensor:
    """Returns `x tanh(softplus(x))`."""
    return x * ops.tanh(_softplus(x))


def _selu(x: KerasTensor) -> KerasTensor:
    """Returns `s x` above 0, `s a (exp(x) - 1)` below."""
    return _SELU_SCALE * ops.relu(x) + _SELU_SCALE * _SELU_ALPHA * ops.minimum(ops.elu(x), 0.0)


def _celu(x: KerasTensor) -> KerasTensor:
    """Returns `x` above 0, `exp(x) - 1` below; with its default `alpha` it is ELU."""
    return ops.elu(x)


def _softsign(x: KerasTensor) -> KerasTensor:
    """Returns `x / (1 + |x|)`; LiteRT divides no 8-bit integers."""
    return x * ops.exp(-1.0 * ops.log(1.0 + ops.absolute(x)))


# By the name of the function in `keras.activations`.
COMPOSED: dict[str, Callable[[KerasTensor], KerasTensor]] = {
    "softplus": _softplus,
    "mish": _mish,
    "selu": _selu,
    "celu": _celu,
    "softsign": _softsign,
}
