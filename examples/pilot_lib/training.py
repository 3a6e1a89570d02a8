"""Float training with a regularizer, and quantization-aware fine-tuning without it."""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import r2keras
from pilot_lib.settings import Settings, UsageError
from r2keras import workloads

SCALE_FREE = {"scale_free": True}
# Class, strength and options of each word of --regularizers; --factor replaces the strength. The scale-free forms
# need no search for a strength that fits the scale of the weights.
REGULARIZERS: dict[str, tuple[Callable[..., keras.regularizers.Regularizer], float, dict[str, Any]]] = {
    "l2": (keras.regularizers.L2, 1e-4, {}),
    "kurtosis": (r2keras.Kurtosis, 1.0, {}),
    "linf": (r2keras.R2Linf, 0.01, SCALE_FREE),
    "margin": (r2keras.R2Margin, 0.01, SCALE_FREE),
    "soft_min_max": (r2keras.R2SoftMinMax, 0.03, SCALE_FREE),
}
SMOKE_IMAGES = 256
BATCH = 250
FINE_TUNING = 1 / 3


def check_backend() -> None:
    """Raises unless Keras runs on TensorFlow, which the export needs."""
    found = keras.backend.backend()
    if found != "tensorflow":
        raise UsageError(f"Keras runs on {found}, but a .tflite file needs TensorFlow: set KERAS_BACKEND=tensorflow.")


def load_data(settings: Settings) -> workloads.data.Dataset:
    """Loads the images; `--smoke` keeps a few of each part."""
    data = workloads.data.load(settings.dataset, settings.data_dir, scaled=not settings.raw_pixels)
    if not settings.smoke:
        return data
    parts = ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test")
    return dataclasses.replace(data, **{part: getattr(data, part)[:SMOKE_IMAGES] for part in parts})


def start_model(settings: Settings, data: workloads.data.Dataset) -> keras.Model:
    """Builds the net, or loads the file that `--model` names, without any regularizer."""
    if not settings.starts_trained:
        return workloads.nets.build(settings.model, data.input_shape, data.num_classes)
    model = without_regularizers(workloads.nets.load_mlperf(settings.model))
    if model.input_shape[1:] != data.input_shape or model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"--model={settings.model} takes {model.input_shape[1:]} and gives {model.output_shape[1:]}, but "
            f"--dataset={settings.dataset} has {data.input_shape} and {data.num_classes} classes."
        )
    return model


def train_float(
    settings: Settings, data: workloads.data.Dataset, regularizer: str, seed: int, callback: keras.callbacks.Callback
) -> keras.Model:
    """Trains one float model with a regularizer and returns it without; weights start equal for equal seeds."""
    keras.utils.set_random_seed(seed)
    model = start_model(settings, data)
    if not settings.epochs:
        return model
    model = regularized(model, regularizer, settings.factor)
    keras.utils.set_random_seed(seed)
    fit(model, settings, data, settings.epochs, settings.learning_rate, callback)
    return without_regularizers(model)


def regularized(model: keras.Model, name: str, factor: float | None) -> keras.Model:
    """Returns a copy whose every kernel carries the regularizer; `none` is the model itself.

    Kurtosis follows its paper: the mean over the kernels, the first convolution left out.
    """
    if name == "none":
        return model
    make, strength, options = REGULARIZERS[name]
    strength = factor or strength
    if name != "kurtosis":
        return r2keras.regularize(model, make(strength, **options))
    first, *rest = kernel_layers(model)
    return r2keras.regularize(model, make(strength / max(len(rest), 1)), match=f"^(?!{re.escape(first)}(/|$))")


def kernel_layers(model: keras.Model) -> list[str]:
    """Returns the names of the layers with a kernel, first to last."""
    return [layer.name for layer in model.layers if any(len(v.shape) > 1 for v in layer.trainable_variables)]


def fine_tune(
    model: keras.Model,
    recipe: r2keras.Recipe,
    settings: Settings,
    data: workloads.data.Dataset,
    seed: int,
    callback: keras.callbacks.Callback,
) -> tuple[keras.Model, r2keras.CompressionRecord]:
    """Trains on under quantization and returns the model with its weights on the grid, and the record."""
    keras.utils.set_random_seed(seed)
    student = r2keras.prepare(model, recipe)
    fit(student, settings, data, settings.qat_epochs, settings.learning_rate * FINE_TUNING, callback)
    return r2keras.finalize(student)


def fit(model, settings, data, epochs, learning_rate, callback) -> None:
    """Trains with Adam along a cosine: the same for every regularizer and for fine-tuning."""
    steps = epochs * -(-len(data.x_train) // settings.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model)),
        jit_compile=False,
    )
    model.fit(data.x_train, data.y_train, settings.batch_size, epochs, verbose=0, callbacks=[callback])


def gives_logits(model: keras.Model) -> bool:
    """Whether the last layer has no softmax."""
    last = model.layers[-1]
    last = getattr(last, "layer", last)
    activation = getattr(last, "activation", None)
    return not (isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax)


def without_regularizers(model: keras.Model) -> keras.Model:
    """Returns a copy with the same weights and no regularizer, learned scalars included."""
    plain = keras.models.clone_model(model, clone_function=_without_regularizer)
    values = {variable.path: variable for variable in model.variables}
    for variable in plain.variables:
        variable.assign(values[variable.path])
    return plain


def _without_regularizer(layer: keras.Layer) -> keras.Layer:
    config = layer.get_config()
    off = {key: None for key in config if key.endswith("_regularizer")}
    return type(layer).from_config(config | off)


def scores(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Returns the model's outputs, batch by batch; `predict` would trace every model anew, which takes longer."""
    parts = [model(x[start : start + BATCH], training=False) for start in range(0, len(x), BATCH)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def accuracy(outputs: np.ndarray, classes: np.ndarray) -> float:
    """Returns the fraction of rows whose largest output is the class."""
    return float(np.mean(np.argmax(outputs, axis=-1) == classes))


def release() -> None:
    """Frees the graphs of models that are gone."""
    keras.backend.clear_session()
    gc.collect()
