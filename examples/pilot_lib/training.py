"""Float training with a regularizer, and quantization-aware fine-tuning without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from common_lib.flag_checks import UsageError

import r2keras
from pilot_lib.settings import Settings
from r2keras import workloads
from r2keras.workloads.training import gives_logits, regularized, without_regularizers

SCALE_FREE = {"scale_free": True}
# Class, strength and options of each name of --regularizers; --factor replaces the strength. The scale-free forms
# need no strength tuned to the scale of the weights.
REGULARIZERS: dict[str, tuple[Callable[..., keras.regularizers.Regularizer], float, dict[str, Any]]] = {
    "l2": (keras.regularizers.L2, 1e-4, {}),
    "kurtosis": (r2keras.Kurtosis, 1.0, {}),
    "linf": (r2keras.R2Linf, 0.01, SCALE_FREE),
    "margin": (r2keras.R2Margin, 0.01, SCALE_FREE),
    "soft_min_max": (r2keras.R2SoftMinMax, 0.01, SCALE_FREE),
}
SMOKE_IMAGES = 256
# Learning rate of fine-tuning, relative to that of float training.
FINE_TUNING_RATE = 1 / 3


def check_backend() -> None:
    """Raises unless the Keras backend is TensorFlow, which the export needs."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(f"Keras runs on {backend}, but the export needs TensorFlow: set KERAS_BACKEND=tensorflow.")


def load_data(settings: Settings) -> workloads.data.Dataset:
    """Loads the images; with `--smoke`, only a few of each split."""
    data = workloads.data.load(settings.dataset, settings.data_dir, scaled=not settings.raw_pixels)
    if not settings.smoke:
        return data
    names = ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test")
    return dataclasses.replace(data, **{name: getattr(data, name)[:SMOKE_IMAGES] for name in names})


def start_model(settings: Settings, data: workloads.data.Dataset) -> keras.Model:
    """Builds the model or loads the file that `--model` names; in both cases without regularizers."""
    if not settings.starts_trained:
        return workloads.nets.build(settings.model, data.input_shape, data.num_classes)
    model = without_regularizers(workloads.nets.load_mlperf(settings.model))
    if model.input_shape[1:] != data.input_shape or model.output_shape[1:] != (data.num_classes,):
        raise ValueError(
            f"--model={settings.model} maps {model.input_shape[1:]} to {model.output_shape[1:]}, but "
            f"--dataset={settings.dataset} has images of {data.input_shape} and {data.num_classes} classes."
        )
    return model


def train_float(
    settings: Settings, data: workloads.data.Dataset, regularizer: str, seed: int, callback: keras.callbacks.Callback
) -> keras.Model:
    """Trains a float model with a regularizer, then removes it; equal seeds give equal initial weights."""
    keras.utils.set_random_seed(seed)
    model = start_model(settings, data)
    if not settings.epochs:
        return model
    model = regularized(model, make_regularizer(regularizer, settings.factor))
    keras.utils.set_random_seed(seed)
    fit(model, settings, data, settings.epochs, settings.learning_rate, [callback])
    return without_regularizers(model)


def make_regularizer(name: str, factor: float | None) -> keras.regularizers.Regularizer | None:
    """Returns the regularizer for a name of --regularizers; None for `none`."""
    if name == "none":
        return None
    regularizer_class, strength, options = REGULARIZERS[name]
    return regularizer_class(factor or strength, **options)


def fine_tune(
    model: keras.Model,
    recipe: r2keras.Recipe,
    settings: Settings,
    data: workloads.data.Dataset,
    seed: int,
    callback: keras.callbacks.Callback,
) -> tuple[keras.Model, r2keras.CompressionRecord]:
    """Fine-tunes under quantization; returns the model with its weights on the grid, and the record."""
    keras.utils.set_random_seed(seed)
    student = r2keras.prepare(model, recipe, input_bits=settings.input_bits, integer=settings.integer)
    has_palettes = any(isinstance(spec, r2keras.PaletteSpec) for _, spec in recipe.rules)
    annealing = [r2keras.callbacks.AnnealPalettes()] if has_palettes else []
    fit(student, settings, data, settings.qat_epochs, settings.learning_rate * FINE_TUNING_RATE, [callback, *annealing])
    return r2keras.finalize(student)


def fit(model, settings, data, epochs, learning_rate, callbacks) -> None:
    """Trains with Adam and cosine decay; the same for every regularizer and for fine-tuning."""
    steps = epochs * -(-len(data.x_train) // settings.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model)),
        jit_compile=False,
    )
    model.fit(data.x_train, data.y_train, settings.batch_size, epochs, verbose=0, callbacks=callbacks)
