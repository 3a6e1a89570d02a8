"""The activation quantizer whose grid LiteRT prescribes: that of sigmoid, softmax and tanh."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from r2keras.quantizers.activation import ActivationQuantizer

# The lowest and the highest value of LiteRT's grids, of steps 1/256 and 1/128.
LIMITS = {"sigmoid": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}


@keras.saving.register_keras_serializable(package="r2keras")
class FixedActivation(ActivationQuantizer):
    """Rounds the outputs of a sigmoid, softmax or tanh to the one grid that LiteRT's integer operators have for them.

    Forward: `y = scale * (clip(round(x / scale + zero_point), -128, 127) - zero_point)`, with a scale of 1/256 and a
    zero point of -128, or for tanh 1/128 and 0. Gradient: `dy/dx = 1` inside the range, 0 outside.

    Args:
        spec: a spec with `range="sigmoid"` or `range="tanh"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = FixedActivation(ActivationSpec(range="sigmoid", unsigned=True))
    >>> ops.convert_to_numpy(256 * quantizer(ops.convert_to_tensor([0.1, 0.5, 1.0]), training=True)).tolist()
    [26.0, 128.0, 255.0]

    Source: Jacob et al., arXiv 1712.05877, section 2.1.
    """

    inner = 0.0

    def find(self, x):
        """Returns the prescribed range."""
        low, high = LIMITS[self.spec.range]
        return ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32")

    def fit(self, *observed: Any) -> None:
        """Sets the prescribed range, whatever was observed."""
        self._store(*self.find(observed))
