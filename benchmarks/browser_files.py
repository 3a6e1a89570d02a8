"""The files of `browser.py`: the nets and forms of `arm_files.py`, with a batch of one sample."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import arm_files
from benchmarks.arm_files import FORMS, INTEGER_FORMS, NETS, File

if TYPE_CHECKING:
    import keras

    import r2keras


def write(file: File, path: Path) -> list[np.ndarray]:
    """Writes a file; returns inputs for it."""
    from r2keras.export import expand, streaming, to_litert

    small, record = _compressed(file.net, file.weights, file.form in INTEGER_FORMS)
    model = streaming(small) if file.form.endswith("step") else small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The comparison is not about which operators stay float.
        to_litert(model, path, record, **FORMS[file.form])  # type: ignore[arg-type]
    if file.form == "expanded":
        path.write_bytes(expand(path))
    return arm_files.inputs_of(model)


def one_sample(model: keras.Model) -> keras.Model:
    """Returns a model of one input with a batch of one sample, without the values of its weights."""
    import keras

    (source,) = model.inputs
    if source.shape[0] is not None:
        return model
    tensor = keras.Input(source.shape[1:], batch_size=1, dtype=source.dtype)
    return keras.models.clone_model(model, [tensor] if isinstance(model, keras.Sequential) else tensor)


@functools.lru_cache(maxsize=4)
def _compressed(net: str, weights: str, is_integer: bool) -> tuple[keras.Model, r2keras.CompressionRecord | None]:
    """Returns a net with random weights at few bits, and its record."""
    import keras

    import r2keras
    from benchmarks.matrix_models import random_weights

    keras.utils.set_random_seed(0)
    model = one_sample(NETS[net]())
    random_weights(model, np.random.default_rng(0))
    if weights == "float":
        return model, None
    recipe = r2keras.Recipe([(".*", arm_files.spec(weights, is_integer))])
    return r2keras.calibrate(model, recipe, arm_files.inputs_of(model)[0], integer=is_integer, progress=False)
