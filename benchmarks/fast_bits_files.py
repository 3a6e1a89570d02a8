"""The nets of `fast_bits.py` and their files: float, exact, packed, and those of litert-quantizer."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

    import r2keras

WORDS, STEPS = 2_000, 32
PTB_WORDS, PTB_UNITS, WIDE_UNITS = 10_000, 300, 450
# Name of a file -> its path.
Files = dict[str, Path]


def dense(folder: Path, data_dir: Path | None) -> Files:
    """784-512-512-10, batch 1."""
    return _dynamic(_classifier(), folder, (4, 2), rival=True)


def transformer(folder: Path, data_dir: Path | None) -> Files:
    """One block: 64 tokens of 128 features, 4 heads, feed-forward 512."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((64, 128), batch_size=1)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(128)(layers.Dense(512, activation="relu")(y))
    return _dynamic(keras.Model(inputs, layers.Add()([x, y])), folder, (4,), rival=True)


def lstm(folder: Path, data_dir: Path | None) -> Files:
    """Embedding, LSTM of 300 units over 32 words in a loop, softmax over 2,000 words."""
    return _dynamic(_language_model(WORDS, PTB_UNITS, STEPS), folder, (4, 2))


def word(folder: Path, data_dir: Path | None) -> Files:
    """One word of the Penn Treebank nets: float with 300 units; 2-bit weights and 3-bit states with 450."""
    import r2keras
    from r2keras.export import streaming, to_litert

    model = _language_model(PTB_WORDS, PTB_UNITS, 1)
    files = {"float": folder / "float.tflite"}
    to_litert(streaming(model), files["float"])
    wide = _language_model(PTB_WORDS, WIDE_UNITS, 1)
    spec = r2keras.QuantSpec(num_bits=2, granularity="per_channel", activation_bits=3)
    words = np.random.default_rng(0).integers(0, PTB_WORDS, (32, 1)).astype("int32")
    small, record = r2keras.calibrate(wide, r2keras.Recipe([(".*", spec)]), words, progress=False)
    return files | _pair(streaming(small), record, folder, "W2A3", "dynamic")


def alternating_word(folder: Path, data_dir: Path | None) -> Files:
    """The same word with alternating codes in weights and states, and with uniform weights and those states."""
    import r2keras
    from r2keras.export import streaming, to_litert

    files = {"float": folder / "float.tflite"}
    to_litert(streaming(_language_model(PTB_WORDS, PTB_UNITS, 1)), files["float"])
    states = r2keras.QuantSpec(num_bits=3, method="alternating")
    wide = _language_model(PTB_WORDS, WIDE_UNITS, 1, states)
    small, record = _fitted(wide, r2keras.QuantSpec(num_bits=2, granularity="per_channel", method="alternating"))
    files |= _pair(streaming(small), record, folder, "W2A3 alternating", "dynamic")
    words = np.random.default_rng(0).integers(0, PTB_WORDS, (32, 1)).astype("int32")
    uniform = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=2, granularity="per_channel"))])
    small, record = r2keras.calibrate(small, uniform, words, progress=False)
    return files | _pair(streaming(small), record, folder, "W2A3 uniform weights", "dynamic")


def planes(folder: Path, data_dir: Path | None) -> Files:
    """784-512-512-10, batch 1, with alternating codes and with palettes of four entries."""
    return _by_planes(_classifier(), folder)


def lstm_planes(folder: Path, data_dir: Path | None) -> Files:
    """The net of `lstm` with alternating codes and with palettes of four entries."""
    return _by_planes(_language_model(WORDS, PTB_UNITS, STEPS), folder)


def resnet8(folder: Path, data_dir: Path | None) -> Files:
    """ResNet-8 at 32 x 32 on integers."""
    from r2keras.workloads import nets

    return _integer(nets.build("resnet8", (32, 32, 3), 10), folder, (4, 2))


def ds_cnn(folder: Path, data_dir: Path | None) -> Files:
    """MLPerf Tiny's keyword spotting net on integers."""
    from r2keras.workloads import nets

    if data_dir is None:
        raise FileNotFoundError("ds_cnn needs --data_dir, the folder that holds mlperf_tiny/kws_dscnn.h5")
    return _integer(nets.load_mlperf(data_dir / "mlperf_tiny" / "kws_dscnn.h5"), folder, (4,))


def mobilenet(folder: Path, data_dir: Path | None) -> Files:
    """MobileNetV1 0.25 at 224 x 224 on integers."""
    import keras

    net = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(224, 224, 3), classifier_activation=None)
    return _integer(net, folder, (4,))


NETS: dict[str, Callable[[Path, Path | None], Files]] = {
    "dense": dense,
    "transformer": transformer,
    "lstm": lstm,
    "word": word,
    "alternating_word": alternating_word,
    "planes": planes,
    "lstm_planes": lstm_planes,
    "resnet8": resnet8,
    "ds_cnn": ds_cnn,
    "mobilenet": mobilenet,
}
# The file that the others are compared with, by net.
BASELINES = {"resnet8": "W8A8", "ds_cnn": "W8A8", "mobilenet": "W8A8"}


def baseline(net: str) -> str:
    """Returns the name of the file that a net's other files are compared with."""
    return BASELINES.get(net, "float")


def _classifier() -> keras.Model:
    import keras

    layers = keras.layers
    hidden = [layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])


def _language_model(words: int, units: int, steps: int, states: r2keras.QuantSpec | None = None) -> keras.Model:
    """Returns embedding, LSTM and softmax; the LSTM's state is rounded if a spec is given."""
    import keras

    import r2keras

    layers = keras.layers
    inputs = keras.Input((steps,), dtype="int32", batch_size=1)
    x = layers.Embedding(words, units)(inputs)
    if states is None:
        x = layers.LSTM(units, return_sequences=True)(x)
    else:
        # Without biases, sums of uniform codes are often 0 exactly, and rounding decides on the sign of a state.
        bias = keras.initializers.RandomNormal(stddev=0.1)
        options = {"return_sequences": True, "bias_initializer": bias, "unit_forget_bias": False}
        x = r2keras.layers.QuantizedLSTM(units, state_spec=states, **options)(x)
    return keras.Model(inputs, layers.Dense(words)(x))


def _fitted(
    model: keras.Model, spec: r2keras.QuantSpec | r2keras.PaletteSpec
) -> tuple[keras.Model, r2keras.CompressionRecord]:
    """Returns a model whose weights are rounded without training, and its record."""
    import r2keras

    return r2keras.finalize(r2keras.prepare(model, r2keras.Recipe([(".*", spec)])))


def _by_planes(model: keras.Model, folder: Path) -> Files:
    """Writes the float file, then exact and packed files of alternating codes and palettes."""
    import r2keras
    from r2keras.export import to_litert

    files = {"float": folder / "float.tflite"}
    to_litert(model, files["float"])
    specs = {
        f"W{bits} alternating": r2keras.QuantSpec(num_bits=bits, granularity="per_channel", method="alternating")
        for bits in (2, 3, 4)
    }
    for name, spec in {**specs, "palette of 4": r2keras.PaletteSpec(num_bits=2)}.items():
        files |= _pair(*_fitted(model, spec), folder, name, "dynamic")
    return files


def _dynamic(model: keras.Model, folder: Path, widths: tuple[int, ...], *, rival: bool = False) -> Files:
    """Writes the float file, and for each width the exact and the packed one."""
    import r2keras
    from r2keras.export import to_litert

    files = {"float": folder / "float.tflite"}
    to_litert(model, files["float"])
    for bits in widths:
        spec = r2keras.QuantSpec(num_bits=bits, granularity="per_channel")
        files |= _pair(*_calibrated(model, spec), folder, f"W{bits}", "dynamic")
    if rival:
        # 16 levels, as litert-quantizer has; the default leaves out the lowest one to have a zero in the middle.
        spec = r2keras.QuantSpec(num_bits=4, granularity="per_channel", levels="mid_rise")
        small, record = _calibrated(model, spec)
        files["W4 mid-rise packed"] = folder / "mid_rise.tflite"
        to_litert(small, files["W4 mid-rise packed"], record, activations="dynamic")
    return files | (dict(_rivals(files["float"], folder)) if rival else {})


def _calibrated(model: keras.Model, spec: r2keras.QuantSpec) -> tuple[keras.Model, r2keras.CompressionRecord]:
    """Returns a model with every kernel under one spec, and its record."""
    import r2keras

    return r2keras.calibrate(model, r2keras.Recipe([(".*", spec)]), inputs_of(model, 16), progress=False)


def _pair(model: keras.Model, record: r2keras.CompressionRecord, folder: Path, name: str, activations: str) -> Files:
    """Writes the exact and the packed file of a record."""
    from r2keras.export import to_litert

    files = {f"{name} exact": folder / f"{name}_exact.tflite", f"{name} packed": folder / f"{name}_packed.tflite"}
    to_litert(model, files[f"{name} exact"], record)
    to_litert(model, files[f"{name} packed"], record, activations=activations)
    return files


def _rivals(source: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Writes the dynamic 4-bit files of litert-quantizer, if it is installed."""
    if importlib.util.find_spec("litert_quantizer") is None:
        return
    from litert_quantizer import algorithm_manager, qtyping, quantizer

    for title, key in (("min-max", "MIN_MAX_UNIFORM_QUANT"), ("OCTAV", "OCTAV")):
        path = folder / f"rival_{title}.tflite"
        tool = quantizer.Quantizer(str(source))
        algorithm = algorithm_manager.AlgorithmName[key]
        tool.add_dynamic_config(".*", qtyping.TFLOperationName.FULLY_CONNECTED, 4, algorithm_key=algorithm)
        tool.quantize(None, enable_progress_report=False).export_model(str(path), overwrite=True)
        yield f"litert-quantizer W4 dynamic, {title}", path


def _integer(model: keras.Model, folder: Path, widths: tuple[int, ...]) -> Files:
    """Writes the integer files of a net at 8 bits and at fewer; 2-bit grids have a zero, so that they fit 2 bits."""
    import r2keras
    from r2keras.export import to_litert

    files = {}
    for bits in (8, *widths):
        spec = r2keras.QuantSpec(
            num_bits=bits, granularity="per_channel", activation_bits=8, levels="mid_tread" if bits == 2 else None
        )
        recipe = r2keras.Recipe([(".*", spec)])
        small, record = r2keras.calibrate(model, recipe, inputs_of(model, 8), integer=True, progress=False)
        files[f"W{bits}A8"] = folder / f"w{bits}a8.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            to_litert(small, files[f"W{bits}A8"], record, activations="int8")
    return files


def inputs_of(model: keras.Model, count: int) -> np.ndarray:
    """Returns random inputs."""
    generator, shape = np.random.default_rng(0), model.inputs[0].shape[1:]
    if "int" in model.inputs[0].dtype:
        return generator.integers(0, WORDS, (count, *shape)).astype("int32")
    return generator.normal(size=(count, *shape)).astype("float32")
