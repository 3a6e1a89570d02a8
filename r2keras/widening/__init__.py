"""Wider copies of models, to make up for fewer bits, optionally with the trained function."""

from r2keras.widening.net2wider import widen

__all__ = ["widen"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
