"""Data sets, nets and training steps of the examples and benchmarks.

They ship with the package so that `make pilot` and the code in the documents run from an installation.
"""

from r2keras.workloads import data, nets, text, training

__all__ = ["data", "nets", "text", "training"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
