"""Low-bit training and palettes for tf_keras models, through TensorFlow Model Optimization (TFMOT).

Importing this package imports TFMOT, which sets the environment variable `TF_USE_LEGACY_KERAS=1` for the process. From
then on TensorFlow's own `tf` + `.keras` is tf_keras, so import `keras` and `tf_keras` by their own names.
`import r2keras` alone imports neither TFMOT nor tf_keras. Keras must run on TensorFlow (`KERAS_BACKEND=tensorflow`),
because this package computes with the Keras 3 quantizers of r2keras.

A model that `quantize_apply` made is saved by `save(qat, "folder")` and read by `load("folder")` (SavedModel), or saved
by `save(qat, "qat.weights.h5")` and read by `load_weights` into a model that was annotated and applied again. TFMOT
cannot read its own wrappers back from whole-model `.keras` and `.h5` files, so `save` refuses these. A model that
`finalize` returned can be saved in any format.
"""

from r2keras.tfmot import requirements  # noqa: F401  # isort: skip  (raises for a missing package before the others need it)
from r2keras.tfmot.annotation import annotate
from r2keras.tfmot.attach import regularize
from r2keras.tfmot.configs import LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.conversion.models import from_keras3, to_keras3
from r2keras.tfmot.files import load, save, scope
from r2keras.tfmot.finalization import finalize
from r2keras.tfmot.layers import GridActivation
from r2keras.tfmot.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax
from r2keras.tfmot.scheme import LowBitScheme

__all__ = [
    "GridActivation",
    "Kurtosis",
    "LowBitQuantizeConfig",
    "LowBitScheme",
    "NoOpQuantizeConfig",
    "PalettizeQuantizeConfig",
    "R2Linf",
    "R2Margin",
    "R2SoftMinMax",
    "annotate",
    "finalize",
    "from_keras3",
    "load",
    "regularize",
    "save",
    "scope",
    "to_keras3",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
