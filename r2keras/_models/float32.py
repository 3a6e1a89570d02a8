"""Copies of models that compute in float32, as files do, from models trained in other precisions."""

from __future__ import annotations

from typing import Any

import keras

from r2keras._models import rebuild
from r2keras._models.keras_internals import parts_of
from r2keras._models.walk import ModelView, view_of

FLOAT32 = "float32"
OTHER_FLOATS = ("float16", "bfloat16", "float64")
# The names of dtype policies, and of plain dtypes, that become float32.
REPLACED = (*OTHER_FLOATS, "mixed_float16", "mixed_bfloat16")


def in_float32(view: ModelView) -> ModelView:
    """Returns a copy of a model that computes in float32, with the same names and values; the view itself if it does.

    Args:
        view: a model of any dtype policies, such as `"mixed_float16"`.
    """
    parts = [part for _, layer in view.layers for part in parts_of(layer)]
    if all(part.compute_dtype not in OTHER_FLOATS for part in parts):
        return view
    return view_of(rebuild.rebuild(view, lambda path, layer: _copy(layer), dtype=FLOAT32))


def _copy(layer: keras.Layer) -> keras.Layer:
    """Returns a new, unbuilt layer of the same config in float32, the layers inside it too."""
    config = layer.get_config()
    changes = {key: _in_float32(key, value) for key, value in config.items()}
    return rebuild.copy_layer(layer, **{key: value for key, value in changes.items() if value is not config[key]})


def _in_float32(key: str, value: Any) -> Any:
    """Returns an entry of a config with float32 in place of other float policies; the entry itself if it has none."""
    if key == "dtype" and _policy_name(value) in REPLACED:
        return FLOAT32
    if isinstance(value, dict):
        new = {name: _in_float32(name, part) for name, part in value.items()}
        return new if any(new[name] is not part for name, part in value.items()) else value
    if isinstance(value, (list, tuple)):
        parts = [_in_float32("", part) for part in value]
        return type(value)(parts) if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    return value


def _policy_name(value: Any) -> str | None:
    """Returns the name of a dtype or of a serialized dtype policy; that of a map's default policy for a map."""
    if isinstance(value, keras.DTypePolicy):
        return value.name
    if not isinstance(value, dict):
        return value if isinstance(value, str) else None
    config = value.get("config") or {}
    return config.get("name") or _policy_name(config.get("default_policy"))
