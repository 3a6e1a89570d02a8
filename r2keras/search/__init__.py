"""The search: bits x width x method under a byte budget, on a study that processes share and a killed run keeps."""

from r2keras.search.outcome import Outcome
from r2keras.search.processes import load, run
from r2keras.search.settings import Search

__all__ = ["Outcome", "Search", "load", "run"]
