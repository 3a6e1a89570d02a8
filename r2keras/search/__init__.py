"""Search over bits, widths and methods under a byte budget, in a study that can be resumed and shared."""

from r2keras.search.outcome import Outcome
from r2keras.search.processes import load, run
from r2keras.search.settings import Search

__all__ = ["Outcome", "Search", "load", "run"]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
