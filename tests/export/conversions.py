"""Conversions by TensorFlow, each made once: many files are made of the same float file."""

import hashlib
from collections.abc import Callable

from r2keras._models.either_keras import SourceModel

# The models are kept, since another one could get the id of one that is gone.
_KNOWN: dict[tuple, tuple[object, bytes]] = {}


def once(convert: Callable) -> Callable:
    """Returns a converter that remembers the file of every model, weights and options."""

    def converted(source: SourceModel, *options):
        weights = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in source.model.weights)).hexdigest()
        key = (id(source.model), weights, options)
        if key not in _KNOWN:
            _KNOWN[key] = (source.model, convert(source, *options))
        return _KNOWN[key][1]

    return converted
