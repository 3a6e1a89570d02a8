"""Parameterized clipping activation."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.quantizers.activation import ActivationQuantizer

DECAY = 1e-4


@keras.saving.register_keras_serializable(package="r2keras")
class PACTActivation(ActivationQuantizer):
    """Clips a tensor at a trained bound `a` and rounds it to `2^b - 1` steps below.

    Forward: `y = round(clip(x, 0, a) n / a) a / n`, `n = 2^b - 1`.
    Gradient: `dy/dx = 1` where `0 <= x <= a`, else 0; `dy/da = 1` where `x > a`, else 0.

    `a` starts where LSQ would (`quantizers.LSQActivation`; the paper: at a constant) and shrinks by an L2 penalty of
    1e-4 on its ratio to that. A tensor with negative values has a lower bound too, which moves alike: ours.

    Args:
        spec: a spec with `method="pact"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = PACTActivation(ActivationSpec(num_bits=2, method="pact", unsigned=True))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([0.0, 1.4, 3.0]))).tolist()
    [0.0, 1.0, 3.0]

    Source: Choi et al., arXiv 1805.06085, section 3.
    """

    inner = 0.0

    def make_variables(self) -> None:
        """Adds the bound, relative to the stored one."""
        self.bound = self.gain("bound", keras.regularizers.L2(DECAY))

    def learned(self, low, high):
        """Returns the stored range times the learned bound."""
        bound = ops.abs(self.bound + 0.0)
        return low * bound, high * bound

    def gradient_share(self, x) -> float:
        """Returns 1: the paper scales no gradient."""
        return 1.0
