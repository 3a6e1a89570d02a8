"""`finalize`: a plain tf_keras model and its record, from a model in TFMOT's wrappers."""

from __future__ import annotations

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer

from r2keras._models.tf_keras_layers import kernels
from r2keras._models.walk import QUANTIZED_SUFFIX, full_name
from r2keras._util.errors import invalid, invalid_part
from r2keras.compression.finalize import KEPT_FLOAT
from r2keras.record import CompressionRecord, QuantizedActivation, Tensor
from r2keras.record.with_record import remember
from r2keras.tfmot.configs import KernelsConfig
from r2keras.tfmot.layers import GridActivation
from r2keras.tfmot.quantizers import ActivationQuantizer, Weights
from r2keras.tfmot.surgery import copy_layer, copy_model, insert_after

QuantizeWrapper = tfmot.quantization.keras.QuantizeWrapper


def finalize(qat: tf_keras.Model) -> tuple[tf_keras.Model, CompressionRecord]:
    """Returns a plain tf_keras model whose weights lie exactly on their grids, and the record of codes and scales.

    Args:
        qat: a model that `quantize_apply` made with `LowBitScheme`, trained or not. It is left untouched.

    Returns:
        `(model, record)`: the model has no TFMOT wrappers, and its layers have their original names; every recorded
        kernel equals the record's `values()` bit for bit. Each quantized output is followed by a `GridActivation`
        named `"<layer>_quantized"`. `r2keras.export.to_litert(model, path, record)` writes the file.

    Raises:
        TypeError: `qat` is not a tf_keras model.
        ValueError: nothing in the model is compressed, a wrapper has a config of another library, a weight is NaN or
            infinite, or an activation has no range yet.

    Example:

    >>> from r2keras import QuantSpec, Recipe
    >>> from r2keras.tfmot import LowBitScheme, annotate
    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="head")])
    >>> recipe = Recipe([("head", QuantSpec(num_bits=4))])
    >>> apply = tfmot.quantization.keras.quantize_apply
    >>> plain, record = finalize(apply(annotate(model, recipe), scheme=LowBitScheme(recipe)))
    >>> bool((plain.get_layer("head").kernel.numpy() == record.tensors["head/kernel"].values()).all())
    True
    """
    if not isinstance(qat, tf_keras.Model):
        raise TypeError(invalid("qat", "a tf_keras model that quantize_apply returned", qat))
    wrappers = {layer.name: layer for layer in qat.layers if isinstance(layer, QuantizeWrapper)}
    for wrapper in wrappers.values():
        _check_own(wrapper)
    tensors: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    grids: dict[str, QuantizedActivation] = {}
    for wrapper in wrappers.values():
        layer_tensors, layer_notes = _tensors(wrapper)
        tensors |= layer_tensors
        notes |= layer_notes
    if not tensors:
        expected = "a model from quantize_apply with a LowBitQuantizeConfig or a PalettizeQuantizeConfig"
        received = f"the model {qat.name!r}, which has no compressed kernel"
        raise ValueError(invalid_part("qat", expected, received, "Call annotate, then quantize_apply"))
    for layer in qat.layers:
        grids |= _grids(layer)
    plain = _plain(qat, wrappers, tensors, grids)
    outputs = [wrapper.layer.name for wrapper in wrappers.values()]
    model = insert_after(plain, {name: _frozen(grids[name]) for name in outputs if name in grids})
    kept_float = _kept_float(model, wrappers, tensors)
    remember(model)
    return model, CompressionRecord(tensors, kept_float, model.count_params(), model.name, grids, notes)


def _check_own(wrapper: tf_keras.layers.Wrapper) -> None:
    """Raises unless the wrapper has a config of r2keras."""
    if not isinstance(wrapper.quantize_config, KernelsConfig):
        kind = type(wrapper.quantize_config).__name__
        received = f"the layer {wrapper.layer.name!r}, which is quantized by a {kind}"
        fix = "Pass scheme=LowBitScheme(recipe) to quantize_apply"
        raise ValueError(invalid_part("qat", "configs of r2keras.tfmot only, which keep codes", received, fix))


def _tensors(wrapper: tf_keras.layers.Wrapper) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the compressed kernels of a wrapper, and notes on them, by full name."""
    tensors: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    for _, quantizer, weights in wrapper._weight_vars:
        path = full_name(wrapper.layer.name, quantizer.name)
        tensors[path] = quantizer.tensor(path, weights)
        note = quantizer.note(weights, tensors[path])
        if note is not None:
            notes[path] = note
    return tensors, notes


def _grids(layer: tf_keras.layers.Layer) -> dict[str, QuantizedActivation]:
    """Returns the grid of a layer's output by the name of the layer or input; empty if the output is float."""
    if isinstance(layer, QuantizeLayer) and isinstance(layer.quantizer, ActivationQuantizer):
        name = layer.name.removesuffix(QUANTIZED_SUFFIX)
        return {name: _grid(name, layer.quantizer, layer.quantizer_vars)}
    if isinstance(layer, QuantizeWrapper) and layer._output_quantizers:
        return {layer.layer.name: _grid(layer.layer.name, layer._output_quantizers[0], layer._output_quantizer_vars)}
    return {}


def _grid(name: str, quantizer: ActivationQuantizer, weights: Weights) -> QuantizedActivation:
    """Returns the grid of one activation."""
    grid = quantizer.grid(weights)
    if grid is None:
        raise ValueError(
            f"The activation {name!r} has no range yet. Expected a trained model. Call qat.fit(...), or run it "
            "once on data: qat(data, training=True)."
        )
    if not np.isfinite(grid).all():
        raise ValueError(
            f"The range of the activation {name!r} is not finite. Expected finite activations. "
            "Train again with a smaller learning rate, or check the data for NaN."
        )
    return QuantizedActivation(name, *grid, quantizer.spec.num_bits)


def _frozen(grid: QuantizedActivation) -> GridActivation:
    """Returns the layer that rounds to a grid."""
    return GridActivation(
        scale=grid.scale, zero_point=int(grid.zero_point), num_bits=grid.num_bits, name=grid.name + QUANTIZED_SUFFIX
    )


def _plain(
    qat: tf_keras.Model,
    wrappers: dict[str, tf_keras.layers.Wrapper],
    tensors: dict[str, Tensor],
    grids: dict[str, QuantizedActivation],
) -> tf_keras.Model:
    """Returns the model without wrappers, with grid values in its kernels and fixed grids after its inputs."""
    unwrapped: dict[str, tf_keras.layers.Layer] = {}

    def unwrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer | None:
        if isinstance(layer, QuantizeLayer):
            return _frozen(grids[layer.name.removesuffix(QUANTIZED_SUFFIX)])
        if layer.name not in wrappers:
            return None
        unwrapped[layer.name] = copy_layer(layer.layer)
        return unwrapped[layer.name]

    model = copy_model(qat, unwrap)
    for name, layer in unwrapped.items():
        _set_weights(layer, wrappers[name], tensors)
    return model


def _set_weights(layer: tf_keras.layers.Layer, wrapper: tf_keras.layers.Wrapper, tensors: dict[str, Tensor]) -> None:
    """Gives a plain layer the weights of a wrapped one, with the kernels on their grids."""
    latent = {quantizer.name: variable for variable, quantizer, _ in wrapper._weight_vars}
    own_kernels = dict(kernels(layer))
    latent_ids = {id(variable) for variable in latent.values()}
    compressed_ids = {id(own_kernels[name]) for name in latent}
    sources = [variable for variable in wrapper.layer.weights if id(variable) not in latent_ids]
    targets = [variable for variable in layer.weights if id(variable) not in compressed_ids]
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)
    for name in latent:
        values = tensors[full_name(layer.name, name)].values()
        own_kernels[name].assign(values)
        if not np.array_equal(own_kernels[name].numpy(), values):
            raise RuntimeError(
                f"The weight {full_name(layer.name, name)} does not hold the values of the record exactly. This is a "
                "defect of r2keras: please report the layer and the spec."
            )


def _kept_float(
    model: tf_keras.Model, wrappers: dict[str, tf_keras.layers.Wrapper], tensors: dict[str, Tensor]
) -> dict[str, str]:
    """Returns the reasons why kernels stay float, by full name."""
    reasons: dict[str, str] = {}
    for wrapper in wrappers.values():
        layer_reasons = wrapper.quantize_config.kept_float(wrapper.layer)
        reasons |= {full_name(wrapper.layer.name, name): reason for name, reason in layer_reasons.items()}
    names = [full_name(layer.name, name) for layer in model.layers for name, _ in kernels(layer)]
    return {name: reasons.get(name, KEPT_FLOAT) for name in names if name not in tensors}
