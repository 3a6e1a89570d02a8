"""Quantized recurrent layers in a model: their entries in the record, and their final form."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from r2keras._models import rebuild
from r2keras._models.layer_copies import config_of, recreate
from r2keras._models.values import finite
from r2keras._models.walk import Kernel
from r2keras.layers.kernels.compressor import too_small
from r2keras.layers.recurrent.layers import QuantizedGRU, QuantizedLSTM, QuantizedRNN, QuantizedSimpleRNN
from r2keras.layers.recurrent.parts import CELL_KERNELS
from r2keras.layers.recurrent.specs import STATE_METHODS
from r2keras.record import QuantizedActivation, Tensor
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec, Spec
from r2keras.specs.dynamic import is_dynamic

QUANTIZED = {
    keras.layers.SimpleRNN: QuantizedSimpleRNN,
    keras.layers.LSTM: QuantizedLSTM,
    keras.layers.GRU: QuantizedGRU,
}
PLAIN = {quantized: plain for plain, quantized in QUANTIZED.items()}


def quantized_parts(path: str, layer: keras.Layer) -> list[tuple[str, QuantizedRNN]]:
    """Returns the quantized recurrent layers in a layer, itself or inside a `Bidirectional`, with their paths."""
    if isinstance(layer, keras.layers.Bidirectional):
        halves = (layer.forward_layer, layer.backward_layer)
        return [part for half in halves for part in quantized_parts(f"{path}/{half.name}", half)]
    return [(path, layer)] if isinstance(layer, QuantizedRNN) and layer.specs.any else []


def compressors(path: str, layer: keras.Layer) -> list[tuple[Kernel, keras.Layer]]:
    """Returns the kernels that a layer compresses by itself, each with the quantizer or palette that does so."""
    return [(kernel, part) for kernel, _, part in _kernels(path, layer) if part is not None]


def tensors(path: str, layer: keras.Layer) -> dict[str, Tensor]:
    """Returns the kernels that a layer compresses by itself with their current values, by full name.

    Raises:
        ValueError: a kernel with NaN or infinite values.
    """
    by_name = {}
    for kernel, part in compressors(path, layer):
        values = finite(kernel.full_name, kernel.variable)
        by_name[kernel.full_name] = part.tensor(kernel.full_name, kernel.variable.value, values)
    return by_name


def kept_float(path: str, layer: keras.Layer) -> dict[str, str]:
    """Returns the reasons why kernels that have a spec stay float, by full name."""
    return {
        kernel.full_name: too_small(spec, kernel.variable.shape)
        for kernel, spec, part in _kernels(path, layer)
        if isinstance(spec, PaletteSpec) and part is None
    }


def _kernels(path: str, layer: keras.Layer) -> Iterator[tuple[Kernel, Spec | None, keras.Layer | None]]:
    """Yields the kernels of quantized recurrent layers in a layer, with their specs and quantizers or palettes."""
    for part_path, part in quantized_parts(path, layer):
        for name, spec in zip(CELL_KERNELS, (part.specs.kernel, part.specs.recurrent), strict=True):
            kernel = Kernel(f"{part_path}/{part.cell.name}", name, getattr(part.cell, name))
            yield kernel, spec, part.parts.compressors.get(name)


def grids(path: str, layer: keras.Layer) -> dict[str, QuantizedActivation]:
    """Returns the grids of states, by their layers' paths, and of inputs; codes fitted at run time have none."""
    by_name: dict[str, QuantizedActivation] = {}
    for part_path, part in quantized_parts(path, layer):
        for rounder, name in ((part.parts.state, part_path), (part.parts.inputs, f"{part_path}/input")):
            grid = None if rounder is None else rounder.grid(name)
            if grid is not None:
                by_name[name] = grid
    return by_name


def frozen(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Returns an unbuilt copy of a layer that quantizes only its state and input, on fixed grids.

    Args:
        path: the layer's path, for errors.
        layer: any layer.

    Returns:
        A Keras layer if neither is quantized; None for a layer without a quantized recurrent layer.

    Raises:
        ValueError: the range of an input was never observed.
    """
    if not quantized_parts(path, layer):
        return None
    if isinstance(layer, keras.layers.Bidirectional):
        halves = (layer.forward_layer, layer.backward_layer)
        forward, backward = (frozen(f"{path}/{half.name}", half) or rebuild.copy_layer(half) for half in halves)
        return rebuild.copy_bidirectional(layer, forward, backward)
    config = config_of(layer)
    parts = layer.parts
    fixed = {"kernel_spec": None, "recurrent_spec": None}
    for name, rounder in (("state_spec", parts.state), ("input_spec", parts.inputs)):
        fixed[name] = None if rounder is None else rounder.grid("") or rounder.spec
    if not any(fixed.values()) and layer.normalization is None and not layer.dynamic_products:
        own = (*fixed, "normalization", "dynamic_products")
        plain = {name: value for name, value in config.items() if name not in own}
        return recreate(layer, plain, PLAIN[type(layer)])
    return rebuild.copy_layer(layer, **fixed)


def with_state(layer: keras.Layer, spec: QuantSpec | PaletteSpec) -> keras.Layer | None:
    """Returns an unbuilt copy of a recurrent layer whose state is quantized by the `activation_bits` of a spec.

    Args:
        layer: any layer.
        spec: the spec of its kernels. Under `activation_method="dynamic"`, the copy rounds the rows of its input and
            of its state.

    Returns:
        None if the layer is not a plain LSTM, GRU or SimpleRNN or a `Bidirectional` of these, or if the spec has no
        `activation_bits`.
    """
    if isinstance(spec, PaletteSpec) or spec.activation_bits is None:
        return None
    if is_dynamic(spec):
        return with_dynamic_products(layer) if halves_of(layer) else None
    if type(layer) is keras.layers.Bidirectional:
        halves = [with_state(half, spec) for half in (layer.forward_layer, layer.backward_layer)]
        return rebuild.copy_bidirectional(layer, *halves) if all(halves) else None
    if type(layer) not in QUANTIZED:
        return None
    return recreate(layer, {**config_of(layer), "state_spec": state_spec(spec)}, QUANTIZED[type(layer)])


def halves_of(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the LSTM, GRU or SimpleRNN layers, plain or quantized, that a layer is or has; empty for other layers."""
    if type(layer) is keras.layers.Bidirectional:
        halves = [halves_of(half) for half in (layer.forward_layer, layer.backward_layer)]
        return [half for (half,) in halves] if all(halves) else []
    return [layer] if isinstance(layer, QuantizedRNN) or type(layer) in QUANTIZED else []


def with_dynamic_products(layer: keras.Layer) -> keras.Layer:
    """Returns an unbuilt copy of a layer of `halves_of` that rounds the rows in front of its kernels."""
    if type(layer) is keras.layers.Bidirectional:
        halves = (layer.forward_layer, layer.backward_layer)
        return rebuild.copy_bidirectional(layer, *map(with_dynamic_products, halves))
    config = {**config_of(layer), "dynamic_products": True}
    return recreate(layer, config, QUANTIZED.get(type(layer), type(layer)))


def state_spec(spec: QuantSpec) -> QuantSpec | ActivationSpec | None:
    """Returns the spec of a recurrent state under the `activation_bits` of its kernels' spec; None without them."""
    if spec.activation_bits is None or is_dynamic(spec):
        return None
    if spec.activation_method in STATE_METHODS:
        return QuantSpec(num_bits=spec.activation_bits, method=spec.activation_method)
    return spec.activation()
