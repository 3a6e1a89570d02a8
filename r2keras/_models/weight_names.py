"""Names of weights relative to their layer, equal in every copy of the layer and in saved files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import keras

from r2keras._models.keras_internals import parts_of

_COUNT = re.compile(r"_\d+$")
# The name that Keras gives to a weight for which `add_weight` receives none.
_UNNAMED = re.compile(r"(^|/)variable(_\d+)?$")


def relative_names(layer: keras.Layer) -> list[str]:
    """Returns the names of all weights of a layer, relative to the layer.

    Keras numbers unnamed layers and weights through the whole process, so that every copy has other numbers. Here they
    are numbered within the layer: the kernel of its second unnamed `Dense` is `"dense_1/kernel"`. A name that the
    layer's config keeps stays as it is.

    Args:
        layer: a built layer.

    Example:

    >>> layer = keras.layers.LSTM(2)
    >>> layer.build((None, 5, 3))
    >>> relative_names(layer)
    ['lstm_cell/kernel', 'lstm_cell/recurrent_kernel', 'lstm_cell/bias']
    """
    names = [_after(variable.path, layer.name, last=True) for variable in layer.weights]
    if len(set(names)) < len(names):
        names = [_after(variable.path, layer.name, last=False) for variable in layer.weights]
    parts = parts_of(layer)[1:]
    # The cells of a copy are built before their stack, so their paths lack its name.
    stacks = {part.name for part in parts if isinstance(part, keras.layers.StackedRNNCells)}
    renamed = _renamed_parts(layer, parts)
    scopes = [[renamed.get(scope, scope) for scope in name.split("/") if scope not in stacks] for name in names]
    return _with_own_counts(["/".join(scope) for scope in scopes])


def without_count(name: str) -> str:
    """Returns the name of a weight; that of an unnamed weight without its number.

    >>> without_count("variable_17"), without_count("kernel_2")
    ('variable', 'kernel_2')
    """
    return _COUNT.sub("", name) if _UNNAMED.search(name) else name


def _after(path: str, layer_name: str, last: bool) -> str:
    """Returns what follows the layer's name in a variable's path."""
    *scopes, name = path.split("/")
    if layer_name not in scopes:
        return path
    index = len(scopes) - 1 - scopes[::-1].index(layer_name) if last else scopes.index(layer_name)
    return "/".join([*scopes[index + 1 :], name])


def _renamed_parts(layer: keras.Layer, parts: list[keras.Layer]) -> dict[str, str]:
    """Returns new names for the layers inside a layer that Keras named and whose names its config does not keep."""
    unnamed = [part for part in parts if _COUNT.sub("", part.name).replace("_", "") == type(part).__name__.lower()]
    if not any(_COUNT.search(part.name) for part in unnamed):
        return {}
    config_names = _names_in(_config_of(layer))
    unnamed = [part for part in unnamed if part.name not in config_names]
    used_names = {part.name for part in parts} - {part.name for part in unnamed}
    stems = [_COUNT.sub("", part.name) for part in unnamed]
    numbered = {stem: _numbered(stem, used_names) for stem in stems}
    return {part.name: next(numbered[stem]) for part, stem in zip(unnamed, stems, strict=True)}


def _with_own_counts(names: list[str]) -> list[str]:
    """Returns the names of weights, the unnamed ones numbered from 0 in each scope."""
    if not any(_UNNAMED.search(name) and _COUNT.search(name) for name in names):
        return names
    stems = [without_count(name) for name in names]
    numbered = {stem: _numbered(stem, set()) for stem in stems}
    return [next(numbered[stem]) if _UNNAMED.search(stem) else stem for stem in stems]


def _numbered(stem: str, used_names: set[str]) -> Iterator[str]:
    """Yields `"dense"`, `"dense_1"`, `"dense_2"`... except the names that are used already."""
    names = (f"{stem}_{number}" if number else stem for number in itertools.count())
    return (name for name in names if name not in used_names)


def _config_of(layer: keras.Layer) -> dict[str, Any]:
    """Returns a layer's config; an empty one if the class does not implement it."""
    try:
        return layer.get_config()
    except NotImplementedError:
        return {}


def _names_in(config: Any) -> set[str]:
    """Returns the names of all layers that a config describes."""
    if isinstance(config, dict):
        own = {config["name"]} if isinstance(config.get("name"), str) else set()
        return own.union(*map(_names_in, config.values()))
    if isinstance(config, (list, tuple)):
        return set().union(*map(_names_in, config))
    return set()
