"""Bias correction: biases that cancel the shift of each output channel's mean through quantization."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from keras import layers

from r2keras._models import layer_by_layer, rebuild, values, walk
from r2keras._models.neighbors import nodes
from r2keras._models.row_products import rounding_layers, without_rounding
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid, invalid_part
from r2keras.calibration import as_matrix
from r2keras.calibration.batch_norm import joined
from r2keras.calibration.data import Data, kept_batches
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.expected_means import expected_inputs_of
from r2keras.calibration.frontier import Frontier
from r2keras.calibration.taps import Tap, Tapped
from r2keras.compression.dynamic_twin import with_rounding_at


def correct_bias(
    model: keras.Model,
    small: keras.Model,
    data: Data | None = None,
    *,
    means: dict[str, np.ndarray] | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
) -> keras.Model:
    """Returns a copy of a quantized model with corrected biases, so that its output channels have the float means.

    Quantization shifts the mean of a layer's output channel by `(W_q - W) E[x]`, and the bias is changed by the
    negative: `b -= (W_q - W) E[x]`. With `data`, the outputs `y` before the activation are measured layer by layer,
    with the layers before already corrected: `b -= E[y_q] - E[y]`. This also cancels the shift that comes from those
    layers. Without data, `E[x]` comes from the batch normalization before the layer (`expected_inputs`), and the effect
    of padding is ignored.

    Args:
        model: the float model; left untouched.
        small: the model with quantized kernels and the same layers; left untouched.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
            None uses the statistics of the batch-norm layers.
        means: used without data: `E[x]` by layer path; None uses `expected_inputs(model)`. Required if the batch-norm
            layers of `model` are folded: compute it from the model before folding.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but of an iterable that does not say how many batches it has 16,384, and of one kept in memory 1 GiB.

    Returns:
        A copy of `small`. Dense layers and convolutions whose kernels differ from the float model's have new biases,
        even if they had no bias; kernels do not change.

    Raises:
        TypeError: a model is subclassed.
        ValueError: the models have different layers; the data are empty, not finite or of another shape; there are no
            data and no layer follows a batch normalization.

    Warns:
        UserWarning: layers that stay uncorrected because their inputs do not come from a batch normalization.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", name="head")])
    >>> small = keras.models.clone_model(model)
    >>> small.set_weights([np.array([[1.5]]), np.zeros(1)])
    >>> better = correct_bias(model, small, np.array([[1.0], [3.0]], "float32"))
    >>> float(better.get_layer("head").bias[0])
    -1.0

    Source: Nagel et al., arXiv 1906.04721, section 4.2 and appendix B.
    """
    view, quantized = view_of(model), view_of(small, "small")
    rounding = rounding_layers(quantized)
    quantized = without_rounding(quantized)
    # The models are checked before any data are read.
    paths = _changed(view, quantized)
    checked = None if data is None else kept_batches(view, data, batch_size, max_samples)
    result = _corrected(view, quantized, paths, checked, means)
    return (with_rounding_at(result, rounding) if rounding else result).model


def corrected(
    view: ModelView, small: ModelView, data: list[Batch] | None, means: dict[str, np.ndarray] | None
) -> ModelView:
    """Returns the result of `correct_bias` for views and checked batches, as a view."""
    return _corrected(view, small, _changed(view, small), data, means)


def corrected_ends(view: ModelView, small: ModelView, data: list[Batch]) -> ModelView | None:
    """As `corrected`, for the layers alone that no batch normalization follows; None if there is none to correct.

    Re-estimated statistics already cancel the shift of the other layers' means.
    """
    neighbors = nodes(small)

    def is_normalized(path: str) -> bool:
        follower = neighbors.get(neighbors[path].consumer or "")
        return follower is not None and isinstance(follower.layer, keras.layers.BatchNormalization)

    paths = [path for path in _changed(view, small) if not is_normalized(path)]
    return _corrected(view, small, paths, data, None) if paths else None


def _corrected(
    view: ModelView,
    small: ModelView,
    paths: list[str],
    data: list[Batch] | None,
    means: dict[str, np.ndarray] | None,
) -> ModelView:
    """Returns a copy of the quantized model with corrected biases in the layers at some paths."""

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        return as_matrix.with_bias(layer) if path in paths and not _has_bias(layer) else None

    copy = view_of(rebuild.rebuild(small, replace, carry=as_matrix.carry_kernels))
    if data is not None:
        biases = _measured(view, copy, paths, data)
    else:
        biases = _predicted(view, copy, paths, expected_inputs_of(view) if means is None else means)
    for path, bias in biases.items():
        copy.layers_by_path[path].bias.assign(bias)
    return copy


def _changed(view: ModelView, small: ModelView) -> list[str]:
    """Returns the paths of the linear layers whose kernels differ between two models, in order."""
    changed: list[str] = []
    for path, layer in small.layers:
        if not as_matrix.is_linear(layer):
            continue
        float_kernels = _kernels(view.layers_by_path.get(path))
        quantized_kernels = _kernels(layer)
        if [kernel.shape for kernel in float_kernels] != [kernel.shape for kernel in quantized_kernels]:
            expected = f"the float model of `small`, with kernels of equal shapes in the layer {path!r}"
            received = f"a model with no layer {path!r} of such kernels"
            raise ValueError(invalid_part("model", expected, received, "Fold batch norm in both models or in neither"))
        pairs = zip(float_kernels, quantized_kernels, strict=True)
        if any(not np.array_equal(before, after) for before, after in pairs):
            changed.append(path)
    return changed


def _kernels(layer: keras.Layer | None) -> list[np.ndarray]:
    """Returns the kernels of a layer; an empty list for None."""
    return [] if layer is None else [values.to_numpy(variable) for _, variable in walk.kernels(layer)]


def _has_bias(layer: keras.Layer) -> bool:
    """Whether a linear layer has a bias, or cannot get one: an EinsumDense's `bias_axes` stay as they are."""
    return isinstance(layer, layers.EinsumDense) or layer.get_config()["use_bias"]


def _measured(view: ModelView, small: ModelView, paths: list[str], data: list[Batch]) -> dict[str, np.ndarray]:
    """Returns the biases that make the measured output means equal, corrected layer by layer."""
    paths = [path for path in paths if small.layers_by_path[path].bias is not None]
    floats = Tapped(view, paths)
    quantized = Tapped(small, paths)
    float_means = floats.output_means(paths, floats.model, (values.packed(floats.model, batch) for batch in data))
    paths = [path for path in paths if path in float_means]
    parts = joined(small, data)
    if len(parts) == 1 and all(quantized.is_called_once(path) for path in paths):
        return _measured_in_one_run(quantized, parts[0], float_means)
    frontier = Frontier(quantized, data, paths)
    biases: dict[str, np.ndarray] = {}
    for path in paths:
        means = quantized.output_means([path], *frontier.inputs_of(path))
        biases[path] = _without_shift(quantized.layer(path), means[path] - float_means[path])
        # The next layers are measured with this layer corrected.
        quantized.layer(path).bias.assign(biases[path])
        frontier.finish(path)
    return biases


def _measured_in_one_run(quantized: Tapped, data: Batch, float_means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the biases that make the output means of each layer equal, with all data in memory at once."""
    biases: dict[str, np.ndarray] = {}

    def call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if path in float_means and isinstance(layer, Tap):
            mean = as_matrix.numpy(layer.layer(*args, **kwargs)).mean(axis=0, dtype=np.float64)
            biases[path] = _without_shift(layer.layer, mean - float_means[path])
            # The following layers are measured with this one corrected. The run leaves the model as it is.
            layer.layer.bias.assign(biases[path])
        return layer(*args, **kwargs)

    layer_by_layer.run(quantized.model, data, call)
    return biases


def _without_shift(layer: keras.Layer, shift: np.ndarray) -> np.ndarray:
    """Returns a layer's bias less the shift of the mean output of a sample."""
    return (values.to_numpy(layer.bias) - _bias_shaped(layer, shift)).astype(np.float32)


def _bias_shaped(layer: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Averages the mean output of one sample over the axes that the layer's bias does not have."""
    if as_matrix.output_axis(layer) == 1:
        mean = np.moveaxis(mean, 0, -1)
    shape = (1,) * (mean.ndim - len(layer.bias.shape)) + tuple(layer.bias.shape)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return mean.mean(axis=axes, keepdims=True).reshape(layer.bias.shape)


def _predicted(
    view: ModelView, small: ModelView, paths: list[str], means: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the biases that follow from the expected inputs."""
    unknown = [path for path in paths if path not in means]
    if len(unknown) == len(paths):
        expected = (
            f"inputs, because no quantized layer of {view.model.name!r} gets its inputs from a batch normalization, "
            "whose statistics could replace them"
        )
        fix = "Pass unlabeled data, or means=expected_inputs(model) of the model before folding"
        raise DataNeededError(invalid("data", expected, None, fix))
    if unknown:
        warnings.warn(
            f"These layers keep their bias, because their inputs do not come from a batch normalization: "
            f"{', '.join(unknown)}. Pass data to correct them too.",
            UserWarning,
            stacklevel=5,
        )
    floats, quantized = view.layers_by_path, small.layers_by_path
    return {path: _predicted_bias(floats[path], quantized[path], means[path]) for path in paths if path in means}


def _predicted_bias(layer: keras.Layer, small: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Returns `b - (W_q - W) E[x]`; all positions of the kernel are assumed to see the same mean."""
    shift = _response(small, mean) - _response(layer, mean)
    return (values.to_numpy(small.bias) - shift).astype(np.float32)


def _response(layer: keras.Layer, mean: np.ndarray) -> np.ndarray:
    """Returns `W x` for constant inputs, in float64."""
    if isinstance(layer, as_matrix.SEPARABLE):
        middle = _depthwise_response(values.to_numpy(layer.depthwise_kernel), mean)
        return middle @ values.to_numpy(layer.pointwise_kernel).reshape(len(middle), -1)
    kernel = values.to_numpy(layer.kernel).astype(np.float64)
    if isinstance(layer, as_matrix.DEPTHWISE):
        return _depthwise_response(kernel, mean)
    kernel = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
    groups = getattr(layer, "groups", 1)
    split = kernel.reshape(len(kernel), groups, -1)
    return np.einsum("gi,igo->go", mean.reshape(groups, -1), split).reshape(-1)


def _depthwise_response(kernel: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns `W x` of a depthwise kernel for constant inputs, in float64."""
    summed = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0, dtype=np.float64)
    return (summed * mean[:, None]).reshape(-1)
