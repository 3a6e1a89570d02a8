"""Parameterized clipping activation (PACT)."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.quantizers.activation import ActivationQuantizer

# L2 penalty on the bound's ratio to its start.
DECAY = 1e-4


@keras.saving.register_keras_serializable(package="r2keras")
class PACTActivation(ActivationQuantizer):
    """Clips a tensor at a trained bound `a` and rounds it to `2^b - 1` steps below it.

    Forward: `y = round(clip(x, 0, a) n / a) a / n`, `n = 2^b - 1`.
    Gradient: `dy/dx = 1` where `0 <= x <= a`, else 0; `dy/da = 1` where `x > a`, else 0.

    `a` starts as in LSQ (`quantizers.LSQActivation`; in the paper, at a constant), and an L2 penalty of 1e-4 on its
    ratio to the start shrinks it. As an extension of the paper, a tensor with negative values also has a lower bound,
    scaled by the same ratio.

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
        """Returns the stored range times the trained ratio."""
        bound = ops.abs(self.bound + 0.0)
        return low * bound, high * bound

    def gradient_share(self, x) -> float:
        """Returns 1, because the paper does not scale gradients."""
        return 1.0
