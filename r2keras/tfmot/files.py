"""Saving and loading of models in TFMOT's wrappers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import tensorflow_model_optimization as tfmot
import tf_keras

from r2keras._util.errors import invalid
from r2keras.tfmot.configs import LowBitQuantizeConfig, NoOpQuantizeConfig, PalettizeQuantizeConfig
from r2keras.tfmot.layers import GridActivation
from r2keras.tfmot.quantizers import ActivationQuantizer

WEIGHTS = ".weights.h5"
OBJECTS = (LowBitQuantizeConfig, PalettizeQuantizeConfig, NoOpQuantizeConfig, ActivationQuantizer, GridActivation)


def scope() -> contextlib.AbstractContextManager[None]:
    """Returns TFMOT's `quantize_scope` with r2keras' classes in it: for `load_model`, `clone_model`, `from_config`.

    Example:

    >>> with scope():
    ...     config = tf_keras.utils.get_custom_objects()
    """
    return tfmot.quantization.keras.quantize_scope({cls.__name__: cls for cls in OBJECTS})


def save(qat: tf_keras.Model, path: str | os.PathLike) -> None:
    """Saves a model that `quantize_apply` made, in a format that can be read back.

    Args:
        qat: the model.
        path: a folder, for a SavedModel that `load` reads; or a name ending in `.weights.h5`, for the weights alone,
            which `load_weights` reads into a model annotated with the same recipe and passed through `quantize_apply`.

    Raises:
        ValueError: a name that ends in `.keras` or `.h5`: TFMOT cannot read its wrappers back from these.

    Example:

    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    >>> save(model, "model.h5")
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `path`. Expected a folder, or a file name ending in .weights.h5. ...
    """
    text = str(path)
    if text.endswith(WEIGHTS):
        qat.save_weights(text)
        return
    if Path(text).suffix in (".keras", ".h5", ".hdf5"):
        fix = (
            "TFMOT 0.8 cannot read its own wrappers back from whole-model .keras and .h5 files. "
            "Save a folder (SavedModel), or finalize first: the finalized model goes into any file"
        )
        raise ValueError(invalid("path", "a folder, or a file name ending in .weights.h5", text, fix))
    qat.save(text, save_format="tf")


def load(path: str | os.PathLike) -> tf_keras.Model:
    """Reads a SavedModel that `save` wrote; the model can be trained further or finalized.

    Args:
        path: the folder.

    Raises:
        OSError: the folder is not a SavedModel.

    Example:

    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    OSError: nowhere is not a SavedModel. Expected a folder that r2keras.tfmot.save wrote. ...
    """
    if not (Path(path) / "saved_model.pb").is_file():
        raise OSError(f"{path} is not a SavedModel. Expected a folder that r2keras.tfmot.save wrote. Check the path.")
    with scope():
        return tf_keras.models.load_model(str(path))
