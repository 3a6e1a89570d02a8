"""The config of a layer of one Keras, said in the words of the other."""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any

import numpy as np

KERAS_NAMES = {"keras": "Keras 3", "tf_keras": "tf_keras"}
# Learned scalars or not, they are registered under one name in both.
_OURS = ("R2Linf", "R2Margin", "R2SoftMinMax", "Kurtosis")
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha", ("LeakyReLU", "alpha"): "negative_slope"}
# What only one side writes down, and no output depends on: shapes it was built with, streams of random numbers, the
# order of equal sums, how the loop is run.
_NO_MATTER = ("batch_input_shape", "query_shape", "key_shape", "value_shape", "seed", "rng_type", "implementation")
# What tf_keras' recurrent layers take without naming it in their signatures.
_RECURRENT = {"zero_output_for_mask"}
# 0.2 x + 0.5 in tf_keras, x / 6 + 0.5 in Keras 3.
_UNLIKE = ("hard_sigmoid",)
_FLOATS = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")
_DTYPES = (*_FLOATS, "bool", "string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


class NoCounterpartError(Exception):
    """Something that the other Keras does not have; its text says what."""


class Translator:
    """Makes layers of one Keras from layers of the other.

    Args:
        source: `keras` or `tf_keras`, where the layers come from.
        target: the other one.
    """

    def __init__(self, source: ModuleType, target: ModuleType):
        self.source, self.target = source, target

    def layer(self, layer):
        """Returns a new, unbuilt layer like `layer`.

        Raises:
            NoCounterpartError: a class, an option or a part of the layer that the target does not have.
        """
        name = type(layer).__name__
        if getattr(self.source.layers, name, None) is not type(layer):
            raise NoCounterpartError(f"{name} is no layer of {KERAS_NAMES[self.source.__name__]}")
        target = self._in_target("layers", name)
        try:
            return _made(target, self._config(type(layer), target, layer.get_config()))
        except (TypeError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise NoCounterpartError(f"{name} of {self._name(self.target)}: {reason}") from error

    def _config(self, source: type, target: type, config: dict) -> dict:
        """Returns the config for the target class; leaves out what only the source class knows, if it is unused."""
        accepted, new = _arguments(target), {}
        unknown = {}
        for key, value in config.items():
            renamed = _RENAMED.get((source.__name__, key), key)
            if renamed in accepted:
                new[renamed] = self._dtype(value) if key == "dtype" else self._value(key, value)
            elif key not in _NO_MATTER:
                unknown[key] = value
        used = _not_default(source, config, unknown)
        if used:
            options = ", ".join(f"{key}={value!r}" for key, value in used.items())
            raise NoCounterpartError(f"{source.__name__} of {self._name(self.target)} has no {options}")
        return new

    def _value(self, key: str, value) -> Any:
        """Returns one entry of a config, serialized parts translated."""
        if isinstance(value, dict) and "class_name" in value:
            return self._object(value)
        if isinstance(value, dict):
            return {inner: self._value(inner, part) for inner, part in value.items()}
        if key == "axis" and isinstance(value, list) and len(value) == 1:
            # tf_keras writes the axis of a normalisation as a list, which Keras 3 does not take.
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
        raise NoCounterpartError(f"{part} is no part of {KERAS_NAMES[self.source.__name__]}")

    def _in_target(self, kind: str, name: str) -> type:
        """Returns the class of that name in the target."""
        found = getattr(getattr(self.target, kind), name, None)
        if found is None:
            raise NoCounterpartError(f"{self._name(self.target)} has no {name}")
        return found

    def _check_activation(self, name: str) -> None:
        """Refuses activations that the target does not have, or computes differently."""
        if name in _UNLIKE:
            raise NoCounterpartError(f"the activation {name} is another function in {self._name(self.target)}")
        try:
            self.target.activations.get(name)
        except ValueError as error:
            raise NoCounterpartError(f"{self._name(self.target)} has no activation {name}") from error

    def _dtype(self, value) -> str | None:
        """Returns the name of a dtype policy that both have."""
        name = value if value is None or isinstance(value, str) else value["config"].get("name")
        if value is not None and name not in _DTYPES:
            raise NoCounterpartError(f"{self._name(self.target)} has no dtype policy {name or value['class_name']}")
        return name

    def _name(self, module: ModuleType) -> str:
        """Returns how messages call a Keras."""
        return KERAS_NAMES[module.__name__]


def _arguments(cls: type) -> set[str]:
    """Returns the arguments that a constructor takes, those it hands on to the classes above it included."""
    names: set[str] = set()
    for part in cls.__mro__:
        if "__init__" in vars(part):
            parameters = inspect.signature(vars(part)["__init__"]).parameters.values()
            names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    recurrent = any(part.__name__ == "RNN" for part in cls.__mro__)
    return names - {"self"} | (_RECURRENT if recurrent else set())


def _made(cls: type[Any], config: dict):
    """Returns an instance of a class that is made from its config."""
    # tf_keras' `from_config` of this one wants the shapes that it was built with.
    return cls(**config) if cls.__name__ == "MultiHeadAttention" else cls.from_config(config)


def _not_default(cls: type[Any], config: dict, keys: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the entries that differ from what the class does when they are left out."""
    if not keys:
        return {}
    parameters = inspect.signature(cls.__init__).parameters.values()
    named = [p.name for p in parameters if p.default is p.empty and p.name in config]
    plain = _made(cls, {name: config[name] for name in named}).get_config()
    return {key: value for key, value in keys.items() if _text(plain.get(key)) != _text(value)}


def _text(value) -> str:
    """Returns a config entry in a form that compares."""
    return json.dumps(value, default=str, sort_keys=True)
