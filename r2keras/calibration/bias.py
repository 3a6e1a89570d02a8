"""Bias correction: what quantization moved in the mean of each output channel, taken back by the bias."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import layers

from r2keras import _model
from r2keras._errors import DataNeededError
from r2keras.calibration import graph, linear
from r2keras.calibration.data import batches
from r2keras.calibration.expected import expected_inputs
from r2keras.calibration.taps import Tapped


def correct_bias(
    model: keras.Model,
    small: keras.Model,
    data=None,
    *,
    means: dict[str, np.ndarray] | None = None,
    batch_size: int = 128,
) -> keras.Model:
    """Returns a copy of a quantized model whose output channels have the float model's means again.

    Quantization moves the mean of a layer's output channel by `(W_q - W) E[x]`; the bias takes that back:
    `b -= (W_q - W) E[x]`. With `data` the outputs before the activation are measured, layer by layer in order, with the
    layers before already corrected: `b -= E[y_q] - E[y]`, which takes back what came from those layers too. Without
    data, `E[x]` comes from the batch normalisation before the layer (`expected_inputs`); padding is not seen then.

    Args:
        model: the float model. It is left untouched.
        small: the model with quantized kernels and the same layers. It is left untouched.
        data: unlabelled inputs: an array, a list of arrays (one an input), a dict by name, or an iterable of batches.
            None goes by the batch normalisations.
        means: used without data: `E[x]` by layer path; None takes `expected_inputs(model)`. Needed where `model` has
            its batch normalisations folded: take it from the model before.
        batch_size: samples a batch where `data` is an array.

    Returns:
        A copy of `small`. Dense layers and convolutions whose kernels differ from the float model's have new biases,
        and a bias if they had none; kernels stay.

    Raises:
        TypeError: a subclassed model.
        ValueError: models with different layers; data that are empty, not finite or of another shape; no data and no
            layer behind a batch normalisation.

    Warns:
        UserWarning: layers that stay uncorrected because no batch normalisation tells the mean of their inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", name="head")])
    >>> small = keras.models.clone_model(model)
    >>> small.set_weights([np.array([[1.5]]), np.zeros(1)])
    >>> better = correct_bias(model, small, np.array([[1.0], [3.0]], "float32"))
    >>> float(better.get_layer("head").bias[0])
    -1.0

    Source: Nagel et al., arXiv 1906.04721, section 4.2 and appendix B.
    """
    paths = _changed(model, small)
    result, copies = graph.rebuild_without(small, lambda path, layer: _with_bias(layer) if path in paths else None)
    graph.copy_weights(small, copies)
    found = dict(_model.leaf_layers(result))
    if data is not None:
        biases = _measured(model, result, paths, list(batches(model, data, batch_size)))
    else:
        biases = _predicted(model, found, paths, expected_inputs(model) if means is None else means)
    for path, bias in biases.items():
        found[path].bias.assign(bias)
    return result


def _changed(model: keras.Model, small: keras.Model) -> list[str]:
    """Returns the paths of the linear layers whose kernels differ between two models, in order."""
    floats, found = dict(_model.leaf_layers(model)), []
    for path, layer in _model.leaf_layers(small):
        if not linear.is_linear(layer):
            continue
        pairs = zip(_kernels(floats.get(path)), _kernels(layer), strict=False)
        if [k.shape for k in _kernels(floats.get(path))] != [k.shape for k in _kernels(layer)]:
            raise ValueError(
                f"The float model has no layer {path!r} with the quantized model's kernels. Expected the model that "
                "the quantized one was made from. Fold batch norm in both or in neither."
            )
        if any(not np.array_equal(a, b) for a, b in pairs):
            found.append(path)
    return found


def _kernels(layer: keras.Layer | None) -> list[np.ndarray]:
    return [] if layer is None else [_model.to_numpy(variable) for _, variable in _model.kernels(layer)]


def _with_bias(layer: keras.Layer) -> keras.Layer | None:
    """Returns an unbuilt copy of a layer that has a bias; None if it has one already."""
    config = layer.get_config()
    if isinstance(layer, layers.EinsumDense) or config["use_bias"]:
        return None
    return type(layer).from_config({**config, "use_bias": True})


def _measured(model: keras.Model, small: keras.Model, paths: list[str], data: list) -> dict[str, np.ndarray]:
    """Measures the output means of both models and corrects layer after layer."""
    paths = [path for path in paths if dict(_model.leaf_layers(small))[path].bias is not None]
    floats, quantized = Tapped(model, paths), Tapped(small, paths)
    wanted, biases = floats.output_means(paths, floats.model, data), {}
    for path in paths:
        bias = quantized.layer(path).bias
        shift = quantized.output_means([path], quantized.until(path), data)[path] - wanted[path]
        biases[path] = (_model.to_numpy(bias) - _bias_shaped(quantized.layer(path), shift)).astype(np.float32)
        bias.assign(biases[path])
    return biases


def _bias_shaped(layer: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Averages the mean output of one sample over the axes that the layer's bias does not have."""
    if linear.output_axis(layer) == 1:
        mean = np.moveaxis(mean, 0, -1)
    shape = (1,) * (mean.ndim - len(layer.bias.shape)) + tuple(layer.bias.shape)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return mean.mean(axis=axes, keepdims=True).reshape(layer.bias.shape)


def _predicted(model: keras.Model, found: dict, paths: list[str], means: dict) -> dict[str, np.ndarray]:
    """Returns the biases that the expected inputs give."""
    without = [path for path in paths if path not in means]
    if len(without) == len(paths):
        raise DataNeededError(
            f"No quantized layer of {model.name!r} has its inputs from a batch normalisation, whose statistics would "
            "tell their means. Expected data, or means=expected_inputs(model before folding). Pass unlabelled data."
        )
    if without:
        warnings.warn(
            f"These layers keep their bias, as no batch normalisation tells the mean of their inputs: "
            f"{', '.join(without)}. Pass data to correct them too.",
            UserWarning,
            stacklevel=3,
        )
    floats = dict(_model.leaf_layers(model))
    return {p: _predicted_bias(floats[p], found[p], means[p]) for p in paths if p in means}


def _predicted_bias(layer: keras.Layer, small: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Returns `b - (W_q - W) E[x]`; the kernel's places all see the same mean."""
    shift = _response(small, mean) - _response(layer, mean)
    return (_model.to_numpy(small.bias) - shift).astype(np.float32)


def _response(layer: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Returns `W x` for constant inputs, in float64."""
    if isinstance(layer, linear.SEPARABLE):
        middle = _depthwise_response(_model.to_numpy(layer.depthwise_kernel), mean)
        return middle @ _model.to_numpy(layer.pointwise_kernel).reshape(len(middle), -1)
    kernel = _model.to_numpy(layer.kernel).astype(np.float64)
    if isinstance(layer, linear.DEPTHWISE):
        return _depthwise_response(kernel, mean)
    kernel = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
    groups = getattr(layer, "groups", 1)
    split = kernel.reshape(len(kernel), groups, -1)
    return np.einsum("gi,igo->go", mean.reshape(groups, -1), split).reshape(-1)


def _depthwise_response(kernel: np.ndarray, mean: np.ndarray) -> np.ndarray:
    places = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0, dtype=np.float64)
    return (places * mean[:, None]).reshape(-1)
