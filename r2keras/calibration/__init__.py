"""Post-training quantization: the recipe of `prepare`, without labels and without `fit`."""

from r2keras.calibration.activations import set_activation_ranges
from r2keras.calibration.batch_norm import reestimate_batch_norm
from r2keras.calibration.post_training import calibrate

__all__ = ["calibrate", "reestimate_batch_norm", "set_activation_ranges"]
