"""Translation of layers between Keras versions, by their configs."""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any, TypeAlias

import keras
import numpy as np
import tf_keras

from r2keras.tfmot.conversion.own_objects import own_object

Layer: TypeAlias = keras.Layer | tf_keras.layers.Layer

KERAS_NAMES = {"keras": "Keras 3", "tf_keras": "tf_keras"}
# The regularizers of r2keras, registered under equal names in both.
_OURS = ("R2Linf", "R2Margin", "R2SoftMinMax", "Kurtosis")
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha", ("LeakyReLU", "alpha"): "negative_slope"}
# Entries that only one version saves and that do not change the outputs: build shapes, random number streams, the order
# of equal sums, the implementation of the recurrent loop.
_IGNORED = ("batch_input_shape", "query_shape", "key_shape", "value_shape", "seed", "rng_type", "implementation")
# Arguments that tf_keras' recurrent layers accept through `**kwargs`.
_RECURRENT_KWARGS = {"zero_output_for_mask"}
# hard_sigmoid is 0.2 x + 0.5 in tf_keras, x / 6 + 0.5 in Keras 3.
_DIFFERENT_ACTIVATIONS = ("hard_sigmoid",)
_FLOATS = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")
_DTYPES = (*_FLOATS, "bool", "string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


class NoCounterpartError(Exception):
    """The other Keras lacks a class, an option or a function; the message names it."""


class Translator:
    """Creates layers of one Keras version from layers of the other.

    Args:
        source: the module of the given layers, `keras` or `tf_keras`.
        target: the module of the new layers, the other of the two.
    """

    def __init__(self, source: ModuleType, target: ModuleType):
        self.source = source
        self.target = target

    def layer(self, layer: Layer) -> Layer:
        """Returns a new, unbuilt layer of the target with the config of `layer`.

        Raises:
            NoCounterpartError: the target lacks the layer's class, one of its options, or a part of it.
        """
        name = type(layer).__name__
        if getattr(self.source.layers, name, None) is not type(layer):
            raise NoCounterpartError(f"{name} is not a layer of {KERAS_NAMES[self.source.__name__]}")
        target = self._in_target("layers", name)
        try:
            own = own_object(layer, self.source, self.target)
            if own is not None:
                raise NoCounterpartError(own)
            return _from_config(target, self._config(type(layer), target, layer.get_config()))
        except (TypeError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise NoCounterpartError(f"{name} of {self._name(self.target)}: {reason}") from error

    def _config(self, source: type, target: type, config: dict) -> dict:
        """Returns the config for the target class, without options of the source alone that have their defaults."""
        accepted = _arguments(target)
        new: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        for key, value in config.items():
            renamed = _RENAMED.get((source.__name__, key), key)
            if renamed in accepted:
                new[renamed] = self._dtype(value) if key == "dtype" else self._value(key, value)
            elif key not in _IGNORED:
                unknown[key] = value
        used = _non_default(source, config, unknown)
        if used:
            options = ", ".join(f"{key}={value!r}" for key, value in used.items())
            raise NoCounterpartError(f"{source.__name__} of {self._name(self.target)} has no {options}")
        return new

    def _value(self, key: str, value: Any) -> Any:
        """Returns one entry of a config with its serialized objects translated."""
        if isinstance(value, dict) and "class_name" in value:
            return self._object(value)
        if isinstance(value, dict):
            return {inner: self._value(inner, part) for inner, part in value.items()}
        if key == "axis" and isinstance(value, list) and len(value) == 1:
            # tf_keras saves the axis of a normalization layer as a list, which Keras 3 does not accept.
            return value[0]
        if isinstance(value, (list, tuple)):
            parts = [self._value(key, part) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, str) and key.endswith("activation"):
            self._check_activation(value)
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    def _object(self, value: dict) -> dict | str | None:
        """Returns a serialized initializer, regularizer, constraint, layer or dtype policy."""
        name, config = value["class_name"].rpartition(">")[2], value.get("config")
        if name in _OURS:
            return {**value, "class_name": name, "registered_name": f"r2keras>{name}"}
        if name.endswith("Policy"):
            return self._dtype(value)
        for kind in ("initializers", "regularizers", "constraints", "layers"):
            source = getattr(getattr(self.source, kind), name, None)
            if inspect.isclass(source) and isinstance(config, dict):
                config = self._config(source, self._in_target(kind, name), config)
                return {"module": f"keras.{kind}", "class_name": name, "config": config, "registered_name": None}
        part = config if name == "function" else name
        raise NoCounterpartError(f"{part} is not a part of {KERAS_NAMES[self.source.__name__]}")

    def _in_target(self, kind: str, name: str) -> type:
        """Returns the target's class of that name, from its module `layers`, `initializers`..."""
        cls = getattr(getattr(self.target, kind), name, None)
        if cls is None:
            raise NoCounterpartError(f"{self._name(self.target)} has no {name}")
        return cls

    def _check_activation(self, name: str) -> None:
        """Raises for an activation that the target does not have or computes differently."""
        if name in _DIFFERENT_ACTIVATIONS:
            raise NoCounterpartError(f"the activation {name} is another function in {self._name(self.target)}")
        try:
            self.target.activations.get(name)
        except ValueError as error:
            raise NoCounterpartError(f"{self._name(self.target)} has no activation {name}") from error

    def _dtype(self, value: str | dict | None) -> str | None:
        """Returns the name of a dtype policy that both versions have."""
        if value is None:
            return None
        # A policy of its own class, such as a quantized one, may have no name.
        name = value if isinstance(value, str) else value["config"].get("name") or value["class_name"]
        if name not in _DTYPES:
            raise NoCounterpartError(f"{self._name(self.target)} has no dtype policy {name}")
        return name

    def _name(self, module: ModuleType) -> str:
        """Returns the name of a Keras version for messages."""
        return KERAS_NAMES[module.__name__]


def _arguments(cls: type) -> set[str]:
    """Returns the arguments that a constructor takes, including those it passes to its base classes."""
    names: set[str] = set()
    for part in cls.__mro__:
        if "__init__" in vars(part):
            parameters = inspect.signature(vars(part)["__init__"]).parameters.values()
            names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    recurrent = any(part.__name__ == "RNN" for part in cls.__mro__)
    return names - {"self"} | (_RECURRENT_KWARGS if recurrent else set())


def _from_config(cls: type[Any], config: dict) -> Any:
    """Returns an instance of a class from its config."""
    # tf_keras' `MultiHeadAttention.from_config` requires the shapes that the layer was built with.
    return cls(**config) if cls.__name__ == "MultiHeadAttention" else cls.from_config(config)


def _non_default(cls: type[Any], config: dict, entries: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the config entries that differ from the class's defaults."""
    if not entries:
        return {}
    parameters = inspect.signature(cls.__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.name in config]
    plain = _from_config(cls, {name: config[name] for name in required}).get_config()
    return {key: value for key, value in entries.items() if _text(plain.get(key)) != _text(value)}


def _text(value: Any) -> str:
    """Returns a config entry as text, so that lists and tuples compare equal."""
    return json.dumps(value, default=str, sort_keys=True)
