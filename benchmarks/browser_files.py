"""The files of `browser.py`: the nets and forms of `arm_files.py` with batches of one sample, and larger nets."""

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

OPEN = File("dense", "W4", "open batch")
# The nets that are timed, and what they are.
TIMED = {
    "dense": "784-512-512-10",
    "resnet8": "ResNet-8 at 32 x 32",
    "lstm": "LSTM of 256 units in a loop of 16 steps of 64 features, dense layer of 64",
}


def files() -> list[File]:
    """Returns every file of the matrix: those of `arm_files.py`, and one with an open batch."""
    return [*arm_files.files(), OPEN]


def write(file: File, path: Path) -> list[np.ndarray]:
    """Writes a file; returns inputs for it."""
    from r2keras.export import expand, streaming, to_litert

    is_open = file == OPEN
    small, record = _compressed(file.net, file.weights, file.form in INTEGER_FORMS, is_open)
    model = streaming(small) if file.form.endswith("step") else small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The comparison is not about which operators stay float.
        to_litert(model, path, record, **FORMS["exact" if is_open else file.form])  # type: ignore[arg-type]
    if file.form == "expanded":
        path.write_bytes(expand(path))
    return arm_files.inputs_of(model)


def write_timed(net: str, folder: Path) -> tuple[dict[str, Path], np.ndarray]:
    """Writes the files of a net that are timed, the float one first; returns them by name, and inputs."""
    import r2keras
    from r2keras.export import to_litert

    model = _timed_net(net)
    x = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    paths = {"float": folder / f"{net} float.tflite"}
    to_litert(model, paths["float"])
    forms = {"W4 exact": (4, "float"), "W4 packed": (4, "dynamic"), "W8A8": (8, "int8"), "W4A8": (4, "int8")}
    for name, (bits, activations) in forms.items():
        if (net == "resnet8" and activations == "dynamic") or (net == "lstm" and activations == "int8"):
            continue  # Packed products of floats are those of dense and recurrent layers; integers are not recurrent.
        is_integer = activations == "int8"
        spec = r2keras.QuantSpec(num_bits=bits, granularity="per_channel", activation_bits=8 if is_integer else None)
        small, record = r2keras.calibrate(model, r2keras.Recipe([(".*", spec)]), x, integer=is_integer, progress=False)
        paths[name] = folder / f"{net} {name}.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            to_litert(small, paths[name], record, activations=activations)
    return paths, x


def one_sample(model: keras.Model) -> keras.Model:
    """Returns a model of one input with a batch of one sample, without the values of its weights."""
    import keras

    (source,) = model.inputs
    if source.shape[0] is not None:
        return model
    tensor = keras.Input(source.shape[1:], batch_size=1, dtype=source.dtype)
    return keras.models.clone_model(model, [tensor] if isinstance(model, keras.Sequential) else tensor)


def _timed_net(net: str) -> keras.Model:
    """Returns a net of `TIMED`, with random weights."""
    import keras

    from r2keras.workloads import nets

    keras.utils.set_random_seed(0)
    layers = keras.layers
    if net == "resnet8":
        return one_sample(nets.build("resnet8", (32, 32, 3), 10))
    if net == "lstm":
        return keras.Sequential([keras.Input((16, 64), batch_size=1), layers.LSTM(256), layers.Dense(64)])
    hidden = [layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,), batch_size=1), *hidden, layers.Dense(10)])


@functools.lru_cache(maxsize=4)
def _compressed(
    net: str, weights: str, is_integer: bool, is_open: bool
) -> tuple[keras.Model, r2keras.CompressionRecord | None]:
    """Returns a net with random weights at few bits, and its record."""
    import keras

    import r2keras
    from benchmarks.matrix_models import random_weights

    keras.utils.set_random_seed(0)
    model = NETS[net]() if is_open else one_sample(NETS[net]())
    random_weights(model, np.random.default_rng(0))
    if weights == "float":
        return model, None
    recipe = r2keras.Recipe([(".*", arm_files.spec(weights, is_integer))])
    return r2keras.calibrate(model, recipe, arm_files.inputs_of(model)[0], integer=is_integer, progress=False)
