"""Names of weights relative to their layer, equal in every copy of the layer and in saved files."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from r2keras._models.keras_internals import children_of

_COUNT = re.compile(r"_\d+$")
# The name that Keras gives to a weight for which `add_weight` receives none.
_UNNAMED = re.compile(r"(^|/)variable(_\d+)?$")


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """The place of a weight in a layer.

    Args:
        variable: the weight.
        parts: the layers inside the layer that lead to it, outermost first; the last one owns it. Empty if the layer
            itself owns it.
    """

    variable: keras.Variable
    parts: tuple[keras.Layer, ...]

    def local_name(self, layer: keras.Layer) -> str:
        """Returns the weight's name in its owner: its path after the owner's name."""
        owner = self.parts[-1] if self.parts else layer
        scopes = self.variable.path.split("/")[:-1]
        if owner.name not in scopes:
            return self.variable.name
        return "/".join([*scopes[len(scopes) - scopes[::-1].index(owner.name) :], self.variable.name])


def relative_names(layer: keras.Layer) -> list[str]:
    """Returns the names of all weights of a layer, relative to the layer.

    A name follows the layers that lead to the weight, not `variable.path`, which depends on how a copy was built. Keras
    numbers unnamed layers and weights through the whole process, so that every copy has other numbers. Here they are
    numbered within the layer: the kernel of its second unnamed `Dense` is `"dense_1/kernel"`. A name that the layer's
    config keeps stays as it is. If two weights still have one name, the second one is numbered.

    Args:
        layer: a built layer.

    Example:

    >>> layer = keras.layers.LSTM(2)
    >>> layer.build((None, 5, 3))
    >>> relative_names(layer)
    ['lstm_cell/kernel', 'lstm_cell/recurrent_kernel', 'lstm_cell/bias']
    """
    places = places_of(layer)
    part_names = _part_names(layer)
    if getattr(layer, "is_r2keras_wrapper", False):
        # A wrapper and the layer inside it are one layer with one name.
        inner = {id(v): name for v, name in zip(layer.layer.weights, relative_names(layer.layer), strict=True)}
        return [inner.get(id(place.variable)) or _joined(place, layer, part_names, full=False) for place in places]
    names = [_joined(place, layer, part_names, full=False) for place in places]
    if len(set(names)) < len(names):
        names = [_joined(place, layer, part_names, full=True) for place in places]
    return _distinct(_with_own_counts(names))


def places_of(layer: keras.Layer) -> list[Place]:
    """Returns the places of all weights of a layer, in the order of `layer.weights`.

    >>> layer = keras.layers.LSTM(2)
    >>> layer.build((None, 5, 3))
    >>> [[part.name for part in place.parts] for place in places_of(layer)]
    [['lstm_cell'], ['lstm_cell'], ['lstm_cell']]
    """
    chains: dict[int, tuple[keras.Layer, ...]] = {}
    for part, parts in _tree(layer):
        # Those of inner parts replace those of the parts around them.
        chains |= {id(variable): parts for variable in part.weights if _is_beginning(chains.get(id(variable)), parts)}
    return [Place(variable, chains[id(variable)]) for variable in layer.weights]


def without_count(name: str) -> str:
    """Returns the name of a weight; that of an unnamed weight without its number.

    >>> without_count("variable_17"), without_count("kernel_2")
    ('variable', 'kernel_2')
    """
    return _COUNT.sub("", name) if _UNNAMED.search(name) else name


def _tree(layer: keras.Layer) -> list[tuple[keras.Layer, tuple[keras.Layer, ...]]]:
    """Returns a layer and the layers inside it, each once, with the parts that lead to it, itself the last."""
    found: dict[int, tuple[keras.Layer, tuple[keras.Layer, ...]]] = {id(layer): (layer, ())}
    # Keras lists the layers inside a part in reverse order of their creation; saved names depend on that order.
    queue: list[tuple[keras.Layer, tuple[keras.Layer, ...]]] = [
        (part, (part,)) for part in reversed(children_of(layer))
    ]
    while queue:
        part, parts = queue.pop()
        if id(part) not in found:
            found[id(part)] = part, parts
            queue += [(inner, (*parts, inner)) for inner in children_of(part)]
    return list(found.values())


def _is_beginning(first: tuple | None, second: tuple) -> bool:
    """Whether the second chain of parts continues the first one."""
    return first is None or (all(a is b for a, b in zip(first, second, strict=False)) and len(first) <= len(second))


def _joined(place: Place, layer: keras.Layer, part_names: dict[int, str], *, full: bool) -> str:
    """Returns the name of a weight; without the layers that leave no trace in the paths of their weights."""
    parents = (layer, *place.parts)
    scopes = [part_names[id(part)] for parent, part in itertools.pairwise(parents) if full or _is_scope(parent, part)]
    return "/".join([*scopes, place.local_name(layer)])


def _is_scope(parent: keras.Layer, part: keras.Layer) -> bool:
    """Whether a layer's name is in the names of its weights: not that of a Functional model or a stack of cells."""
    if isinstance(part, keras.layers.StackedRNNCells):
        return False
    return isinstance(part, keras.Sequential) or not isinstance(part, keras.Function)


def _part_names(layer: keras.Layer) -> dict[int, str]:
    """Returns the names of the layers inside a layer by their identity, those that Keras counted up numbered anew."""
    tree = [(part, parts) for part, parts in _tree(layer) if parts]
    names = {id(part): part.name for part, _ in tree}
    # A name that several parts have is not a counted one, such as that of an LSTM's cell.
    uses = Counter(part.name for part, _ in tree)
    automatic = [(part, _automatic_stem(part)) for part, _ in tree if uses[part.name] == 1]
    stems = {id(part): stem for part, stem in automatic if stem is not None}
    if not stems:
        return names
    kept = _names_in(_config_of(layer))
    unnamed = [part for part, _ in tree if id(part) in stems and part.name not in kept]
    used_names = {part.name for part, _ in tree} - {part.name for part in unnamed}
    numbered = {stem: _numbered(stem, used_names) for stem in stems.values()}
    names |= {id(part): next(numbered[stems[id(part)]]) for part in unnamed}
    for part, parts in tree:
        for owner in parts[:-1]:
            # Names like `self.name + "_query"`, and that of a wrapper of r2keras, which is its layer's.
            if part.name != owner.name and part.name.startswith(f"{owner.name}_") and id(part) not in stems:
                names[id(part)] = names[id(owner)] + part.name[len(owner.name) :]
        if getattr(part, "is_r2keras_wrapper", False) and part.name == part.layer.name:
            names[id(part)] = names[id(part.layer)]
    return names


def _automatic_stem(part: keras.Layer) -> str | None:
    """Returns the name that Keras gives to a layer of this class, without its number; None if it has another name."""
    kind = type(part).__name__.lower().replace("_", "")
    for stem in (part.name, _COUNT.sub("", part.name)):
        # Keras writes "private" for a leading underscore, and Bidirectional names its two layers after the one given.
        if stem.replace("_", "") in (kind, f"private{kind}", f"forward{kind}", f"backward{kind}"):
            return stem
    return None


def _with_own_counts(names: list[str]) -> list[str]:
    """Returns the names of weights, the unnamed ones numbered from 0 in each scope."""
    if not any(_UNNAMED.search(name) and _COUNT.search(name) for name in names):
        return names
    stems = [without_count(name) for name in names]
    numbered = {stem: _numbered(stem, set()) for stem in stems}
    return [next(numbered[stem]) if _UNNAMED.search(stem) else stem for stem in stems]


def _distinct(names: list[str]) -> list[str]:
    """Returns the names of weights, repeated ones numbered."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    numbered = {name: _numbered(name, set(names) - {name}) for name in repeated}
    return [next(numbered[name]) if name in numbered else name for name in names]


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
