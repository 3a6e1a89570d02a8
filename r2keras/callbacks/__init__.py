"""Callbacks for training under compression."""

from r2keras.callbacks.anneal_palettes import AnnealPalettes
from r2keras.callbacks.ewgs_delta import EWGSDelta
from r2keras.callbacks.freeze_batch_norm import FreezeBatchNorm

__all__ = ["AnnealPalettes", "EWGSDelta", "FreezeBatchNorm"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
