"""Conversions by TensorFlow, each made once: many files are made of the same float file."""

import hashlib
from collections.abc import Callable

import keras

from r2keras._models.either_keras import SourceModel
from r2keras._models.walk import ModelView
from r2keras.record import CompressionRecord

# The models are kept, since another one could get the id of one that is gone.
_KNOWN: dict[tuple, tuple[object, bytes]] = {}
_MARKED: dict[tuple, tuple[object, keras.Model]] = {}


def digest(model: keras.Model) -> str:
    """Returns a checksum of a model's weights."""
    return hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in model.weights)).hexdigest()


def marked_once(mark: Callable) -> Callable:
    """Returns a function that remembers the marked copy of every model, weights and grids: `once` knows it then."""

    def marked(view: ModelView, record: CompressionRecord) -> keras.Model:
        key = (id(view.model), digest(view.model), repr(record.activations))
        if key not in _MARKED:
            _MARKED[key] = (view.model, mark(view, record))
        return _MARKED[key][1]

    return marked


def once(convert: Callable) -> Callable:
    """Returns a converter that remembers the file of every model, weights and options."""

    def converted(source: SourceModel, *options):
        key = (id(source.model), digest(source.model), options)
        if key not in _KNOWN:
            _KNOWN[key] = (source.model, convert(source, *options))
        return _KNOWN[key][1]

    return converted
