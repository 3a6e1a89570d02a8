"""Post-training quantization by the same recipes as `prepare`, without labels or `fit`, and its single steps."""

from r2keras.calibration.activations import set_activation_ranges
from r2keras.calibration.batch_norm import reestimate_batch_norm
from r2keras.calibration.bias import correct_bias
from r2keras.calibration.equalization import equalize
from r2keras.calibration.expected_means import expected_inputs
from r2keras.calibration.folding import fold_batch_norm
from r2keras.calibration.post_training import calibrate
from r2keras.calibration.reconstruction.options import ReconstructOptions
from r2keras.calibration.reconstruction.reconstruct import reconstruct
from r2keras.calibration.rounding.adaround import adaround
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions
from r2keras.calibration.squared_gradients import weight_sensitivity

__all__ = [
    "AdaRoundOptions",
    "ReconstructOptions",
    "adaround",
    "calibrate",
    "correct_bias",
    "equalize",
    "expected_inputs",
    "fold_batch_norm",
    "reconstruct",
    "reestimate_batch_norm",
    "set_activation_ranges",
    "weight_sensitivity",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
