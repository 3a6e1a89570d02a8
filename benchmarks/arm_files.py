"""The files of `arm.py`: small nets of each kind, in every form of the exporter."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import arm_operators

if TYPE_CHECKING:
    import keras

    import r2keras

SAMPLES, WORDS, LENGTH = 12, 40, 6


def dense() -> keras.Model:
    """Rows of a length that kernels like."""
    return _sequential((64,), "Dense 48 relu", "Dense 12")


def odd() -> keras.Model:
    """Rows of odd lengths."""
    return _sequential((45,), "Dense 31 tanh", "Dense 19 sigmoid", "Dense 7 softmax")


def conv() -> keras.Model:
    """3 x 3 convolutions of stride 1 and 2, a pointwise one, batch normalization."""
    words = ("Conv 16 3 1 relu", "Norm", "Conv 24 3 2", "Norm", "Relu", "Conv 16 1 1 relu", "Pool", "Dense 10")
    return _sequential((8, 8, 3), *words)


def depthwise() -> keras.Model:
    """Depthwise convolutions of stride 1 and 2 between pointwise ones."""
    words = ("Depth 3 1", "Relu6", "Conv 16 1 1", "Relu6", "Depth 3 2", "Relu6", "Conv 20 1 1 relu", "Pool", "Dense 10")
    return _sequential((9, 9, 8), *words)


def joined() -> keras.Model:
    """What joins and bends: addition, product, concatenation, pooling, swish, sigmoid, transposed convolution."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="silu")(x)
    x = layers.Add()([x, y])
    gate = layers.Conv2D(16, 1, activation="sigmoid")(x)
    x = layers.Multiply()([x, gate])
    x = layers.Concatenate()([layers.AveragePooling2D(2)(x), layers.MaxPooling2D(2)(x)])
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def lstm() -> keras.Model:
    return _recurrent("LSTM")


def gru() -> keras.Model:
    return _recurrent("GRU")


def simple_rnn() -> keras.Model:
    return _recurrent("SimpleRNN")


def bidirectional() -> keras.Model:
    """An LSTM in both directions."""
    import keras

    inputs = keras.Input((LENGTH, 12), batch_size=1)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Bidirectional(keras.layers.LSTM(10))(inputs)))


def transformer() -> keras.Model:
    """One block of a transformer."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((8, 16), batch_size=1)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(16)(layers.Dense(32, activation="gelu")(y))
    return keras.Model(inputs, layers.Add()([x, y]))


def embedding() -> keras.Model:
    """A table of words, averaged."""
    import keras

    inputs = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(WORDS, 16)(inputs))
    return keras.Model(inputs, keras.layers.Dense(8)(x))


CONVOLUTIONAL, RECURRENT = (conv, depthwise, joined), (lstm, gru, simple_rnn, bidirectional)
NETS: dict[str, Callable[[], keras.Model]] = {
    net.__name__: net for net in (dense, odd, *CONVOLUTIONAL, *RECURRENT, transformer, embedding)
}
INTEGER_FORMS = {
    "integer": {},
    "integer, int8 io": {"io": "int8"},
    "integer, memory": {"optimize": "memory"},
    "integer, memory, int8 io": {"optimize": "memory", "io": "int8"},
}
FORMS: dict[str, dict[str, str]] = {
    "exact": {},
    "exact, memory": {"optimize": "memory"},
    "exact, latency": {"optimize": "latency"},
    "expanded": {},
    "fused": {"recurrent": "fused"},
    "step": {},
    "dynamic": {"activations": "dynamic"},
    "dynamic step": {"activations": "dynamic"},
    **{name: {"activations": "int8", **options} for name, options in INTEGER_FORMS.items()},
}


@dataclasses.dataclass(frozen=True)
class File:
    """One file.

    Args:
        net: of `NETS`.
        weights: `"float"`, `"W4"`, `"W2 mid_tread"`, `"palette 4"`, `"palette 4 dim 2"` or `"alternating 2"`.
        form: of `FORMS`.
    """

    net: str
    weights: str
    form: str

    @property
    def name(self) -> str:
        """A name without spaces, for the disk."""
        return "-".join((self.net, self.weights, self.form)).replace(", ", "_").replace(" ", "_")


def files() -> list[File]:
    """Returns every file, those of a net and its weights in a row."""
    found = []
    for net in NETS:
        is_recurrent = any(net == function.__name__ for function in RECURRENT)
        steps = ["step"] if is_recurrent and net != "bidirectional" else []
        fused = ["fused"] if net in ("lstm", "bidirectional") else []
        uniform = ["exact", *steps, *fused]
        forms_by_weights: dict[str, list[str]] = {"float": list(uniform)}
        for bits in (8, 4, 3, 2, 1):
            forms_by_weights[f"W{bits}"] = [*uniform, *(["expanded"] if bits in (4, 2) else [])]
        if net not in ("odd", "joined", "embedding"):
            for weights in ("W4", "W2", "W2 mid_tread"):
                dynamic = ["dynamic", *(f"dynamic {step}" for step in steps)]
                forms_by_weights.setdefault(weights, []).extend(dynamic)
        if any(net == function.__name__ for function in (dense, odd, *CONVOLUTIONAL)):
            for weights in ("W8", "W4", "W2", "W2 mid_tread"):
                forms_by_weights.setdefault(weights, []).extend(INTEGER_FORMS)
        if net in ("dense", "conv", "lstm"):
            palettes = ["exact", "exact, memory", "exact, latency", "expanded"]
            forms_by_weights |= {"palette 4": palettes, "palette 2": palettes, "palette 4 dim 2": palettes}
            forms_by_weights |= {f"alternating {bits}": ["exact", "expanded"] for bits in (2, 3)}
        found += [File(net, weights, form) for weights, forms in forms_by_weights.items() for form in forms]
    return found


def inputs_of(model: keras.Model) -> list[np.ndarray]:
    """Returns random inputs of a model; integers are words."""
    rng = np.random.default_rng(1)
    arrays = []
    for tensor in model.inputs:
        shape = (SAMPLES, *tensor.shape[1:])
        is_word = "int" in tensor.dtype
        values = rng.integers(0, WORDS, shape) if is_word else rng.normal(size=shape)
        arrays.append(values.astype(tensor.dtype))
    return arrays


def write(file: File, path: Path) -> None:
    """Writes a file, its inputs beside it, and for integer files the one whose outputs are all results."""
    from r2keras.export import expand, streaming, to_litert

    small, record = _compressed(file.net, file.weights, file.form in INTEGER_FORMS)
    model = streaming(small) if file.form.endswith("step") else small
    inputs = inputs_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The comparison is not about which operators stay float.
        to_litert(model, path, record, **FORMS[file.form])  # type: ignore[arg-type]
    if file.form == "expanded":
        path.write_bytes(expand(path))
    if file.form.endswith("int8 io"):
        inputs = [_codes(path, inputs[0])]
    if file.form in INTEGER_FORMS:
        arm_operators.write(path)
    np.savez(path.with_suffix(".npz"), **{str(i): array for i, array in enumerate(inputs)})  # type: ignore[arg-type]


def _codes(path: Path, values: np.ndarray) -> np.ndarray:
    """Returns inputs on the grid of an integer file."""
    from r2keras.export.tflite.interpreter import open_interpreter

    scale, zero = open_interpreter(path.read_bytes(), "", delegate=False).get_input_details()[0]["quantization"]
    return np.clip(np.rint(values / np.float32(scale)) + zero, -128, 127).astype(np.int8)


@functools.lru_cache(maxsize=4)
def _compressed(net: str, weights: str, is_integer: bool) -> tuple[keras.Model, r2keras.CompressionRecord | None]:
    """Returns a net with random weights at few bits, and its record."""
    import keras

    import r2keras
    from benchmarks.matrix_models import random_weights

    keras.utils.set_random_seed(0)
    model = NETS[net]()
    random_weights(model, np.random.default_rng(0))
    if weights == "float":
        return model, None
    recipe = r2keras.Recipe([(".*", spec(weights, is_integer))])
    return r2keras.calibrate(model, recipe, inputs_of(model)[0], integer=is_integer, progress=False)


def spec(weights: str, is_integer: bool) -> Any:
    """Returns the spec that a name stands for."""
    import r2keras

    kind, _, rest = weights.partition(" ")
    if kind == "palette":
        bits, _, dim = rest.partition(" dim ")
        return r2keras.PaletteSpec(num_bits=int(bits), dim=int(dim or 1), table_dtype="int8", min_size=0)
    options: dict[str, Any] = {"granularity": "per_channel", "activation_bits": 8 if is_integer else None}
    if kind == "alternating":
        return r2keras.QuantSpec(num_bits=int(rest), method="alternating", **options)
    return r2keras.QuantSpec(num_bits=int(kind[1:]), levels=rest or None, **options)


def _sequential(shape: tuple[int, ...], *words: str) -> keras.Model:
    """Returns a chain of layers: "Dense UNITS ...", "Conv FILTERS SIZE STRIDE ...", "Depth SIZE STRIDE", and others."""
    import keras

    layers = keras.layers
    chain: list[Any] = [keras.Input(shape)]
    plain = {"Norm": layers.BatchNormalization, "Relu": layers.ReLU, "Pool": layers.GlobalAveragePooling2D}
    for word in words:
        kind, *rest = word.split()
        numbers = [int(part) for part in rest if part.isdigit()]
        function = next((part for part in rest if not part.isdigit()), None)
        if kind == "Dense":
            chain.append(layers.Dense(numbers[0], activation=function))
        elif kind == "Conv":
            filters, size, stride = numbers
            chain.append(layers.Conv2D(filters, size, strides=stride, padding="same", activation=function))
        elif kind == "Depth":
            chain.append(layers.DepthwiseConv2D(numbers[0], strides=numbers[1], padding="same"))
        else:
            chain.append(layers.ReLU(6.0) if kind == "Relu6" else plain[kind]())
    return keras.Sequential(chain)


def _recurrent(kind: str) -> keras.Model:
    """Returns a recurrent layer that gives every step, and a dense layer."""
    import keras

    inputs = keras.Input((LENGTH, 12), batch_size=1)
    x = getattr(keras.layers, kind)(16, return_sequences=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(x))
