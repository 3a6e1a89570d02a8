"""r2keras for models of tf_keras and pipelines of TFMOT; the one part that imports either.

Importing it imports TFMOT, which sets the environment variable `TF_USE_LEGACY_KERAS=1`: from then on `tf.keras` is
tf_keras. Import `keras` and `tf_keras` by their names.
"""

from r2keras.tfmot import _requirements  # noqa: F401, says what is missing before anything needs it
from r2keras.tfmot.attach import regularize
from r2keras.tfmot.models import from_keras3, to_keras3
from r2keras.tfmot.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax

__all__ = ["Kurtosis", "R2Linf", "R2Margin", "R2SoftMinMax", "from_keras3", "regularize", "to_keras3"]
