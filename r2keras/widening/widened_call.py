"""A call of a layer that is widened: its width, its channels, and the changes of its weights and config."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import keras

from r2keras._models import walk
from r2keras.widening.channels import (
    Channels,
    Inputs,
    ResizedLayer,
    WeightAxis,
    unchanged,
    widened,
    without_builds,
)

CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")


TRANSPOSED = tuple(f"{kind}Transpose" for kind in CONVOLUTIONS)


@dataclasses.dataclass(eq=False)
class WidenedCall:
    """One call of a layer in the model that is being widened.

    Args:
        path: the layer's path.
        layer: the layer; None for an operation.
        inputs: the channels of the input tensors; None for a tensor whose channels are not tracked and do not change.
        units: the layer's width in the new model; None if it stays.
        exact: whether the model has to compute the same function.
        resized: the changes of the layer, which the rule of its kind fills in.
    """

    path: str
    layer: keras.Layer | None
    inputs: Inputs
    units: int | None
    exact: bool
    resized: ResizedLayer = dataclasses.field(default_factory=ResizedLayer)

    @property
    def first(self) -> Channels | None:
        """The channels of the first input."""
        return self.inputs[0]

    @property
    def own_layer(self) -> keras.Layer:
        """The layer, for rules that no operation has."""
        assert self.layer is not None  # `run` has no rule for an operation.
        return self.layer

    @property
    def width(self) -> int:
        """The layer's old number of units, filters or embedding dimensions."""
        width = width_of(self.own_layer)
        if width is None:
            raise self.error("has no number of units or filters")
        return width

    def output_channels(self, size: int) -> Channels:
        """Returns the channels of the layer's own units or filters, of which it had `size`."""
        return unchanged(size) if self.units is None else widened(self.path, size, self.units)

    def change(self, name: str, *axes: WeightAxis) -> None:
        """Records the changed axes of a weight."""
        changed = [axis for axis in axes if axis.channels.sources]
        if changed:
            self.resized.axes[name] = changed

    def error(self, reason: str) -> ValueError:
        """Returns the error of a layer that cannot take more channels."""
        sources = sorted(set().union(*(channels.sources for channels in self.inputs if channels is not None)))
        fed = f" It is fed by {', '.join(sources)}." if sources else ""
        return ValueError(
            f"The layer {self.path!r} {reason}.{fed} Expected layers that take any number of channels. "
            "Exclude the layers that feed it from `match`."
        )


def width_of(layer: keras.Layer) -> int | None:
    """Returns a layer's number of units, filters or embedding dimensions; None if it has no such number.

    Example:

    >>> width_of(keras.layers.Bidirectional(keras.layers.LSTM(3))), width_of(keras.layers.ReLU())
    (3, None)
    """
    entry = width_entry(layer.get_config())
    if entry is None:
        return None
    config, key = entry
    return config[key]


def is_recurrent(layer: keras.Layer) -> bool:
    """Whether a layer, or the layer it wraps, runs a cell with `units` over time steps."""
    weights = walk.relative_weights(layer)
    has_cell = any(name.endswith("recurrent_kernel") and len(weight.shape) == 2 for name, weight in weights)
    return has_cell and width_of(layer) is not None


def is_image_kind(layer: keras.Layer) -> bool:
    """Whether a layer is a dense layer or an ungrouped convolution whose filters or units can be widened."""
    inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
    kinds = (*CONVOLUTIONS, *TRANSPOSED, "Dense", "SeparableConv1D", "SeparableConv2D")
    return kind_of(inner, kinds) is not None and getattr(inner, "groups", 1) == 1


def kind_of(layer: keras.Layer, names: Container[str]) -> str | None:
    """Returns the name of a layer's class or of the nearest base class among `names`."""
    return next((base.__name__ for base in type(layer).__mro__ if base.__name__ in names), None)


def width_entry(config: dict) -> tuple[dict, str] | None:
    """Returns the (inner) config that has the width, and the key of the width in it."""
    for key in ("units", "filters", "output_dim"):
        if isinstance(config.get(key), int):
            return config, key
    for key in ("layer", "cell"):
        inner = config.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            return width_entry(inner["config"])
    return None


def resize_config(call: WidenedCall) -> None:
    """Writes the new width into the config of a layer whose weights change."""
    if not call.resized.axes:
        return
    # The inner layer of a wrapper is saved with the shape that it was built for.
    call.resized.config = without_builds(call.own_layer.get_config())
    if call.units is None:
        return
    configs = [call.resized.config]
    backward = call.resized.config.get("backward_layer")
    if backward:
        configs.append(backward["config"])
    for outer in configs:
        entry = width_entry(outer)
        if entry is not None:
            config, key = entry
            config[key] = call.units
