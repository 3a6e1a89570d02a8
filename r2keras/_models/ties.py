"""Tied weights: layers that use the weights of another layer of the same model."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from r2keras._models.keras_internals import call_arguments, parts_of
from r2keras._models.layer_copies import functions_by_token
from r2keras._models.weight_names import places_of
from r2keras._util.errors import invalid_part

Layers = tuple[tuple[str, keras.Layer], ...]
_EXPECTED = "weights of one layer each, or a layer that holds the other one itself as an attribute"
_FIX = (
    "Give the layer that uses the weight the other layer as an argument, serialize that in its get_config(), and read "
    "the weight in call()"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Tie:
    """A layer that uses the weights of another layer of the model.

    Args:
        path: the path of the layer that uses the weights.
        source_path: the path of the layer that owns them.
        source: the layer that owns them, or a wrapper around it.
        variables: the weights.
        obstacle: what keeps a copy of the model from having the tie; None if the first layer holds the other one.
    """

    path: str
    source_path: str
    source: keras.Layer
    variables: tuple[keras.Variable, ...]
    obstacle: str | None = None

    def check(self) -> None:
        """Raises ValueError if a copy of the model would untie the two layers."""
        if self.obstacle is not None:
            raise self.error(self.obstacle)

    def error(self, obstacle: str) -> ValueError:
        """Returns the error for a function that does not keep the tie."""
        received = f"the layer {self.path!r}, whose weights are tied to those of {self.source_path!r} {obstacle}"
        return ValueError(invalid_part("model", _EXPECTED, received, _FIX))


def ties_of(layers: Layers, model: keras.Model | None = None) -> tuple[Tie, ...]:
    """Returns the ties between the layers of a model.

    Args:
        layers: every layer that is not itself a model, with its path.
        model: the model; None leaves out the weights that are arguments of calls.

    Example:

    >>> table = keras.layers.Embedding(4, 2, name="table")
    >>> model = keras.Sequential([keras.Input((3,), dtype="int32"), table])
    >>> ties_of((("table", table), ("again", keras.layers.TimeDistributed(table))))[0].source_path
    'table'
    """
    owners: dict[int, tuple[str, keras.Layer]] = {}
    shared: dict[tuple[str, str], tuple[keras.Layer, keras.Layer, list[keras.Variable]]] = {}
    for path, layer in layers:
        for variable in layer.weights:
            owner_path, owner = owners.setdefault(id(variable), (path, layer))
            if owner is not layer:
                shared.setdefault((owner_path, path), (owner, layer, []))[2].append(variable)
    return (
        *(_tie(*paths, *parts) for paths, parts in shared.items()),
        *_through_functions(layers),
        *_in_calls(layers, model),
    )


def _tie(
    first_path: str, second_path: str, first: keras.Layer, second: keras.Layer, variables: list[keras.Variable]
) -> Tie:
    """Returns the tie between two layers that share weights."""
    if _holds(second, first, variables):
        return Tie(second_path, first_path, first, tuple(variables))
    if _holds(first, second, variables):
        return Tie(first_path, second_path, second, tuple(variables))
    obstacle = f"through {', '.join(variable.path for variable in variables)}"
    return Tie(second_path, first_path, first, tuple(variables), obstacle)


def _holds(layer: keras.Layer, source: keras.Layer, variables: list[keras.Variable]) -> bool:
    """Whether a layer reaches shared weights through the layer that owns them, and not through a model around that."""
    ids = {id(variable) for variable in variables}
    chains = [place.parts for place in places_of(layer) if id(place.variable) in ids]
    bare = getattr(source, "layer", source) if getattr(source, "is_r2keras_wrapper", False) else source
    # A wrapper that substitutes weights has to be held itself; one that rounds inputs has the layer's own weights.
    anchors = (source, bare) if getattr(source, "is_dynamic_input", False) else (source,)
    if not any(part is anchor for part in parts_of(layer) for anchor in anchors):
        return False
    return all(_reaches(chain, (source, bare)) for chain in chains)


def _reaches(chain: tuple[keras.Layer, ...], sources: tuple[keras.Layer, ...]) -> bool:
    """Whether a chain of parts comes to a layer before any model."""
    for part in chain:
        if any(part is source for source in sources):
            return True
        if isinstance(part, keras.Model):
            return False
    return False


def _through_functions(layers: Layers) -> Iterator[Tie]:
    """Yields the ties of functions, as of a Lambda, that use another layer of the model or its weights."""
    functions = [(path, layer, f) for path, layer in layers for f in functions_by_token(layer).values()]
    if not functions:
        return
    owners = {id(part): (path, layer) for path, layer in layers for part in (*parts_of(layer), *layer.weights)}
    for path, layer, function in functions:
        for value in _outer_values(function):
            owner_path, owner = owners.get(id(value), (path, layer))
            if owner is not layer:
                yield Tie(path, owner_path, owner, (), f"through its function {function.__name__}")


def _in_calls(layers: Layers, model: keras.Model | None) -> Iterator[Tie]:
    """Yields the ties of calls that take a weight as an argument, such as `keras.ops.matmul(x, layer.kernel)`."""
    graphs = [part for part in parts_of(model) if isinstance(part, keras.Function)] if model is not None else []
    calls = [(call, value) for graph in graphs for call in graph.operations for value in call_arguments(call)]
    weights = [(call, value) for call, value in calls if isinstance(value, keras.Variable)]
    for call, variable in weights:
        for path, layer in layers:
            if any(variable is weight for weight in layer.weights):
                yield Tie(call.name, path, layer, (), "as an argument of its call")


def _outer_values(function: Any) -> Iterable[Any]:
    """Returns the values that a function takes from outside."""
    try:
        outer = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # A function without code, or with a name that is not assigned yet.
        return []
    values = [*outer.nonlocals.values(), *outer.globals.values(), *(inspect.unwrap(function).__defaults__ or ())]
    return [inner for value in values for inner in (value if isinstance(value, (list, tuple)) else [value])]


@contextlib.contextmanager
def named_in_errors(ties: list[Tie]) -> Iterator[None]:
    """Adds the tied layers to the error of a layer that cannot be copied."""
    try:
        yield
    except ValueError as error:
        if not ties:
            raise
        raise ties[0].error(f"and which cannot be copied: {error}") from error
