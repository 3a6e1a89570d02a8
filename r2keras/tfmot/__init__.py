"""Low-bit training and palettes for tf_keras models, through TensorFlow Model Optimization (TFMOT).

Importing this package imports TFMOT, which sets the environment variable `TF_USE_LEGACY_KERAS=1` for the process: after
that TensorFlow's own `tf` + `.keras` is tf_keras. Import `keras` and `tf_keras` by their names. `import r2keras` alone
does neither. Keras has to run on TensorFlow (`KERAS_BACKEND=tensorflow`), because the arithmetic is r2keras' own.

Files of a model that `quantize_apply` made: `save(qat, "folder")` and `load("folder")` (SavedModel), or
`save(qat, "qat.weights.h5")` and `load_weights` into a model that was annotated and applied again. TFMOT cannot read
its own wrappers back from whole-model `.keras` and `.h5` files: `save` refuses these. What `finalize` returned goes
into any file.
"""

from r2keras.tfmot import _requirements  # noqa: F401  # isort: skip  (raises what is missing before it is needed)
from r2keras.tfmot.annotate import annotate
from r2keras.tfmot.attach import regularize
from r2keras.tfmot.configs import LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.files import load, save, scope
from r2keras.tfmot.finalize import finalize
from r2keras.tfmot.layers import GridActivation
from r2keras.tfmot.models import from_keras3, to_keras3
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
