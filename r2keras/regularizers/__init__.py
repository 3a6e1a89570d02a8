"""Regularizers that restrict the range of weights, so that they can be stored in few bits."""

from r2keras.regularizers.attach import regularize
from r2keras.regularizers.kurtosis import Kurtosis
from r2keras.regularizers.linf import R2Linf
from r2keras.regularizers.margin import R2Margin
from r2keras.regularizers.soft_min_max import R2SoftMinMax

__all__ = ["Kurtosis", "R2Linf", "R2Margin", "R2SoftMinMax", "regularize"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
