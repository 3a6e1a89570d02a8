"""Unbuilt copies of single layers from their configs, with the caller's own classes and functions."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from r2keras._models.keras_internals import lambda_output_shape, parts_of
from r2keras._util.errors import invalid_part


def copy_layer(layer: keras.Layer, /, **changes: Any) -> keras.Layer:
    """Returns a new, unbuilt layer of the same config, except for the entries that `changes` replaces.

    Args:
        layer: any layer.
        **changes: entries of its config to replace.

    Raises:
        ValueError: the layer's config does not create it again.

    Example:

    >>> copy_layer(keras.layers.Dense(2), use_bias=False).use_bias
    False
    """
    if type(layer) is keras.layers.Lambda:
        # Keras creates no function from a config, because a file could hide code in it. The function itself is safe.
        own = {"output_shape": lambda_output_shape(layer), "mask": layer.mask, "arguments": layer.arguments}
        return keras.layers.Lambda(layer.function, **own | {"name": layer.name, "dtype": layer.dtype_policy} | changes)
    return recreate(layer, config_of(layer), changes=changes)


def config_of(layer: keras.Layer) -> dict[str, Any]:
    """Returns a layer's config.

    Raises:
        ValueError: the class has no `get_config()`, or it fails.
    """
    try:
        return {**named(layer), **layer.get_config()}
    except Exception as error:
        raise ValueError(_not_copied(layer, "get_config()", error)) from error


def named(layer: keras.Layer) -> dict[str, Any]:
    """Returns the entry of a config for a layer's name; an empty one if its class accepts none.

    Keras' own `get_config()` leaves the name out if `__init__` has no parameter called `name` or `kwargs`.
    """
    return {"name": layer.name} if isinstance(layer, keras.Layer) and "name" in _parameters(type(layer)) else {}


def recreate(
    layer: keras.Layer,
    config: dict[str, Any],
    kind: type[keras.Layer] | None = None,
    changes: dict[str, Any] | None = None,
) -> keras.Layer:
    """Returns a new, unbuilt layer from a changed config of another one.

    Functions of the caller, also lambdas, are taken from the layer itself. Name and `trainable` are kept if the config
    has neither.

    Args:
        layer: the layer that the config comes from.
        config: its config, with any changes.
        kind: the class of the new layer; None uses that of `layer`.
        changes: entries that replace those of the config, also where these are functions of the caller.

    Raises:
        ValueError: the class does not accept the config.

    Example:

    >>> layer = keras.layers.Dense(2, activation=lambda x: 3 * x)
    >>> recreate(layer, layer.get_config()).activation(2)
    6
    """
    kind = kind or type(layer)
    known = _parameters(kind)
    # An __init__ without **kwargs takes none of these; they are set afterwards.
    common = {name for name in ("name", "trainable", "dtype") if name not in known and isinstance(layer, keras.Layer)}
    tokens = functions_by_token(layer)
    with _registered({**tokens, **_references()}):
        config = _with_functions(_with_stand_ins(config), layer, tokens) | (changes or {})
        try:
            new = kind.from_config({name: value for name, value in config.items() if name not in common})
        except Exception as error:
            if kind is not type(layer):
                raise
            raise ValueError(_not_copied(layer, "from_config(get_config())", error)) from error
    lost = [old.name for old, other in _held(layer) if not any(part is other for part in _parts(new))]
    if lost:
        raise ValueError(_not_copied(layer, "config", ValueError(f"the copy does not hold the layer {lost[0]!r}")))
    if "name" in common or "name" not in config:
        new.name = layer.name
    if isinstance(layer, keras.Layer) and ("trainable" in common or "trainable" not in config):
        new.trainable = layer.trainable
    if "dtype" in common and new.dtype_policy.name != layer.dtype_policy.name:
        new.dtype_policy = layer.dtype_policy
    return new


@contextlib.contextmanager
def stand_ins(pairs: list[tuple[keras.Layer, keras.Layer]]) -> Iterator[None]:
    """Lets copies of layers hold the copy of another layer where the old ones hold that layer.

    Args:
        pairs: old layers and their copies, either of which may be wrapped.
    """
    bare = [(unwrap(old, new), unwrap(new, old)) for old, new in pairs]
    inner = [(_bare(old), _bare(new)) for old, new in bare]
    distinct = {(id(old), id(new)): (old, new) for old, new in (*bare, *inner)}
    token = _STAND_INS.set(tuple(distinct.values()))
    try:
        yield
    finally:
        _STAND_INS.reset(token)


def deserialize(config: dict[str, Any], held: list[keras.Layer]) -> keras.Layer:
    """Returns the layer of a serialized form, which holds existing layers in place of new ones of the same names.

    Args:
        config: the result of `keras.saving.serialize_keras_object`.
        held: the existing layers, possibly wrapped.
    """
    with stand_ins([(layer, layer) for layer in held]), _registered(_references()):
        return keras.saving.deserialize_keras_object(_with_stand_ins(config))


def unwrap(layer: keras.Layer, other: keras.Layer) -> keras.Layer:
    """Returns the layer inside a wrapper if the other layer is its bare form; else the layer."""
    inner = getattr(layer, "layer", None)
    return inner if isinstance(inner, type(other)) and not isinstance(layer, type(other)) else layer


def own_objects(layer: keras.Operation) -> dict[str, object]:
    """Returns the caller's own functions and classes in a layer by name, of which Keras finds only registered ones."""
    fields = _fields(layer)
    functions = [field for field in fields if inspect.isfunction(field)]
    classes = [type(part) for part in (*_parts(layer), *fields) if hasattr(part, "get_config")]
    return by_name([*functions, *classes])


def by_name(objects: list[Any]) -> dict[str, object]:
    """Returns functions and classes by name, except those of Python and Keras."""
    return {part.__name__: part for part in objects if _is_own(part) and part.__name__ != "<lambda>"}


def functions_by_token(layer: keras.Operation) -> dict[str, Any]:
    """Returns the caller's own functions in a layer, lambdas too, each by a name that no other function has."""
    functions = {id(field): field for field in _fields(layer) if inspect.isfunction(field) and _is_own(field)}
    return {f"r2keras_function_{key}": function for key, function in functions.items()}


_STAND_INS: contextvars.ContextVar[tuple[tuple[keras.Layer, keras.Layer], ...]] = contextvars.ContextVar(
    "stand_ins", default=()
)


class _Reference:
    """A class whose config stands for a layer that exists already."""

    layer: keras.Layer

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.Layer:
        """Returns the layer."""
        return cls.layer


def _references() -> dict[str, type]:
    """Returns a class for each stand-in, by the name that configs hold."""
    return {_token(old): type("Reference", (_Reference,), {"layer": new}) for old, new in _STAND_INS.get()}


def _bare(layer: keras.Layer) -> keras.Layer:
    """Returns the layer inside a wrapper of r2keras, or the layer."""
    return layer.layer if getattr(layer, "is_r2keras_wrapper", False) else layer


def _token(layer: keras.Layer) -> str:
    """Returns a name that no other layer has."""
    return f"r2keras_layer_{id(layer)}"


def _held(layer: keras.Operation) -> list[tuple[keras.Layer, keras.Layer]]:
    """Returns the layers with a stand-in that a layer holds, and the stand-ins."""
    parts = {id(part) for part in _parts(layer)[1:]}
    return [(old, new) for old, new in _STAND_INS.get() if id(old) in parts]


def _with_stand_ins(value: Any) -> Any:
    """Returns a config with references to the stand-ins in place of the layers for which they stand."""
    if isinstance(value, dict):
        config = value.get("config")
        inner = config if isinstance(config, dict) else {}
        for old, _ in _STAND_INS.get() if isinstance(config, dict) else ():
            # Keras' own get_config() may leave the name out.
            if (value.get("class_name"), inner.get("name", old.name)) == (type(old).__name__, old.name):
                token = _token(old)
                return {"module": None, "class_name": token, "config": {}, "registered_name": token}
        return {key: _with_stand_ins(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_with_stand_ins(entry) for entry in value])
    return next((new for old, new in _STAND_INS.get() if value is old), value)


@contextlib.contextmanager
def _registered(functions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Registers functions at Keras for a while."""
    # Not by `custom_object_scope`, which would hide the names of the scope around it.
    table = keras.saving.get_custom_objects()
    table.update(functions)
    try:
        yield functions
    finally:
        for token in functions:
            table.pop(token, None)


def _with_functions(config: Any, layer: Any, tokens: dict[str, Any]) -> Any:
    """Returns a config in which each of the caller's functions has its token in place of its name or code."""
    if not tokens:
        return config
    serialized = [(token, form) for token, function in tokens.items() for form in _forms(function)]
    return _replaced(config, layer, {part.name: part for part in _parts(layer)}, tokens, serialized)


def _replaced(value: Any, layer: Any, parts: dict[str, Any], tokens: dict[str, Any], forms: list) -> Any:
    """Returns a part of a config with tokens; `layer` is the one that this part describes, or None."""
    if isinstance(value, dict):
        inner = value.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str) and "class_name" in value:
            described = parts.get(inner["name"])
            return {**value, "config": _replaced(inner, described, parts, tokens, forms)}
        token = next((token for token, form in forms if form == value), None)
        if token is not None:
            return _reference(token)
        return {key: _entry(key, entry, layer, parts, tokens, forms) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_replaced(entry, None, parts, tokens, forms) for entry in value])
    return value


def _entry(key: str, value: Any, layer: Any, parts: dict[str, Any], tokens: dict[str, Any], forms: list) -> Any:
    """Returns one entry of a layer's config with tokens: several functions may have one name, so attributes decide."""
    function = getattr(layer, key, None) if layer is not None and isinstance(value, (dict, str)) else None
    for token, own in tokens.items():
        if function is own:
            return _reference(token)
    return _replaced(value, None, parts, tokens, forms)


def _reference(token: str) -> dict[str, Any]:
    """Returns the serialized form of a function that is registered under a token."""
    return {"module": "builtins", "class_name": "function", "config": token, "registered_name": token}


def _forms(function: Any) -> list[Any]:
    """Returns the forms in which configs hold a function."""
    return [keras.saving.serialize_keras_object(function), keras.activations.serialize(function)]


def _parts(layer: keras.Operation) -> list[Any]:
    """Returns a layer and all layers inside it; `x + y` is an operation that is not a layer."""
    return parts_of(layer) if isinstance(layer, keras.Layer) else [layer]


def _fields(layer: keras.Operation) -> list[Any]:
    """Returns the values of all attributes of a layer and the layers inside it, without its methods."""
    items = [(part, *item) for part in _parts(layer) for item in vars(part).items()]
    # Keras puts wrapped methods such as `build` into the instance.
    return [value for part, name, value in items if not callable(getattr(type(part), name, None))]


def _is_own(part: Any) -> bool:
    """Whether a function or class is neither Python's nor Keras'."""
    return part.__module__.partition(".")[0] not in ("builtins", "keras")


def _parameters(kind: type) -> list[str]:
    """Returns the names that a class' constructor accepts, with those of every layer if it accepts any."""
    # The class itself has the signature of Keras' __new__.
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return [*parameters, "name", "trainable", "dtype"] if any_name else [*parameters]


def _not_copied(layer: keras.Layer, failing: str, error: Exception) -> str:
    """Returns the message for a layer whose config does not create it again."""
    kind, reason = type(layer).__name__, " ".join(str(error).split())[:200]
    received = f"the layer {layer.name!r} ({kind}), whose {failing} raises {type(error).__name__}: {reason}"
    expected = "layers that `from_config(get_config())` reproduces"
    if _is_own(type(layer)):
        fix = (
            f"Give {kind} a get_config() that returns the arguments of its __init__, and an __init__ that accepts them"
        )
    else:
        fix = "Pass functions to it as a def, not as another object"
    return invalid_part("model", expected, received, fix)
