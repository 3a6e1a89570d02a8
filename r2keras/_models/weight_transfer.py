"""Weights copied from a layer to a copy of it, matched by their places in the layer."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from r2keras._models import weight_names
from r2keras._models.keras_internals import parts_of
from r2keras._models.layer_copies import unwrap
from r2keras._models.weight_names import Place
from r2keras._util.errors import invalid_part

# Weights with their names in the layer.
Named = Sequence[tuple[str, Place]]


def transfer(path: str, old: keras.Layer, new: keras.Layer) -> None:
    """Copies the weights of `old` to those of `new`, and which of its parts are frozen.

    Weights are matched by their names in the layer, which copies share, or else by order. A regularizer's scalars are
    copied only to equal ones.

    Args:
        path: the layer's path, for errors.
        old: a built layer, or a wrapper around one.
        new: its built copy, or a wrapper around that.

    Raises:
        ValueError: the two have other weights.
    """
    layers = unwrap(old, new), unwrap(new, old)
    sources, targets = map(_own_weights, layers)
    if not _alike(sources, targets):
        # One of them has quantizers of its own, as recurrent layers do, and the other does not.
        ids = set().union(*map(quantizer_weights, layers))
        sources, targets = ([pair for pair in pairs if id(pair[1].variable) not in ids] for pairs in (sources, targets))
    if not _alike(sources, targets):
        raise ValueError(_no_counterpart(path, old, sources))
    by_name = dict(targets)
    if {name: _form(place) for name, place in sources} == {name: _form(place) for name, place in targets}:
        targets = [(name, by_name[name]) for name, _ in sources]
    for (_, source), (_, target) in zip(sources, targets, strict=True):
        _carry(source, target)
    for part in parts_of(new):
        if isinstance(part, keras.layers.Normalization):
            # `Normalization` computes with copies of its weights.
            part.finalize_state()


def quantizer_weights(layer: keras.Layer) -> set[int]:
    """Returns the `id` of every variable of r2keras' quantizers inside a layer."""
    parts = (part for part in parts_of(layer) if getattr(part, "is_r2keras_quantizer", False))
    return {id(variable) for part in parts for variable in part.weights}


def _carry(source: Place, target: Place) -> None:
    """Copies the value of one weight to another, and freezes what is frozen."""
    _copy_value(source.variable, target.variable)
    learned, copies = _scalars(source.variable), _scalars(target.variable)
    if [_shape(scalar) for scalar in learned] == [_shape(scalar) for scalar in copies]:
        for scalar, copy in zip(learned, copies, strict=True):
            _copy_value(scalar, copy)
    for part, copy in zip(source.parts, target.parts, strict=False):
        if copy.trainable != part.trainable:
            copy.trainable = part.trainable


def _copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Assigns the value of one weight to another."""
    # Through NumPy: a shared JAX buffer would be donated, and so deleted, by the first step of either model.
    target.assign(keras.ops.convert_to_numpy(source))


def _no_counterpart(path: str, old: keras.Layer, sources: Named) -> str:
    """Returns the message for a layer whose copy has other weights."""
    names = ", ".join(name for name, _ in sources)
    received = f"{path} ({type(old).__name__}), whose weights ({names}) have no counterpart in its copy"
    expected = "layers that `from_config(get_config())` reproduces"
    return invalid_part("model", expected, received, "Check its get_config()")


def _own_weights(layer: keras.Layer) -> Named:
    """Returns the weights of a layer without the learned scalars of its regularizers."""
    scalars = {id(scalar) for variable in layer.weights for scalar in _scalars(variable)}
    pairs = zip(weight_names.relative_names(layer), weight_names.places_of(layer), strict=True)
    return [pair for pair in pairs if id(pair[1].variable) not in scalars]


def _alike(first: Named, second: Named) -> bool:
    """Whether two lists hold weights of the same names and shapes, in any order; or of the same forms, in order."""
    if {(name, _shape(place.variable)) for name, place in first} == {(n, _shape(p.variable)) for n, p in second}:
        return len(first) == len(second)
    return [_form(place) for _, place in first] == [_form(place) for _, place in second]


def _form(place: Place) -> tuple[str, tuple[int, ...]]:
    """Returns the name of a weight, without the count of an unnamed one, and its shape."""
    return weight_names.without_count(place.variable.name), _shape(place.variable)


def _shape(variable: keras.Variable) -> tuple[int, ...]:
    """Returns the shape of a weight."""
    return tuple(variable.shape)


def _scalars(variable: keras.Variable) -> list[keras.Variable]:
    """Returns the variables that the regularizer of a weight learns."""
    regularizer = variable.regularizer
    return list(regularizer.weights) if isinstance(regularizer, keras.Layer) else []
