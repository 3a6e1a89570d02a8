"""Which operators of a network run on integers, in files of r2keras and of TFLite's converter, and how they decide.

    python benchmarks/integer_coverage.py --data_dir=DIR     # an hour on 2 cores; finished rows are kept
    python benchmarks/integer_coverage.py --table            # the tables, from results/integer_coverage.json

Every network is measured in a fresh process: r2keras (`Recipe.int8()`, `integer=True`, `activations="int8"`) and
TFLite's full-integer post-training quantization calibrate on the same samples, one after the other. Both files take and
return integers, and are compared with the float model on other samples. The networks of keras.applications have random
weights, whose batch-norm statistics are measured on random images (`applications.py`), and need no data, nor does the
U-Net: two levels, up by a transposed convolution and by bilinear interpolation. DIR holds the
pretrained nets of MLPerf Tiny and their inputs: CIFAR-10 for ResNet-8, speech commands for DS-CNN, spectrograms for the
wake word, ImageNet photographs for the visual wake word. The autoencoder takes random numbers.

Operators that move integers from one grid to another (QUANTIZE, DEQUANTIZE) and those that compute shapes do not count.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import applications
from benchmarks.common import Row, Rows, machine, machine_lines, markdown

if TYPE_CHECKING:
    import keras
    import numpy as np

RESULTS = Path(__file__).with_name("results") / "integer_coverage.json"
# Sizes in pixels: 64, or the smallest that the network takes; the time of EfficientNetB0 is compared at 96.
NETS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 96,
    "ResNet50": 64,
    "DenseNet121": 64,
    "Xception": 71,
    "InceptionV3": 75,
    "NASNetMobile": 64,
}
TINY = {"ResNet-8": "ic_resnet8", "DS-CNN": "kws_dscnn", "wake word": "sww_ref_model"}
TINY |= {"visual wake word": "vww_96", "autoencoder": "ad01"}
# Nets of this benchmark, with random weights: name and pixels.
OWN = {"U-Net": 64}
SAMPLES, TEST_IMAGES = 64, 256
# Seconds after which a network is stopped.
TIMEOUT = 3600
# Results of the two tools, in the order in which they run.
TOOLS = ("r2keras", "TFLite")

FLAGS = flags.FlagValues()
ALL = [*NETS, *TINY, *OWN]
flags.DEFINE_list("nets", ALL, f"Any of {', '.join(ALL)}.", flag_values=FLAGS)
flags.DEFINE_string("data_dir", None, "Folder of MLPerf Tiny's nets and their inputs.", flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)
flags.DEFINE_bool("again", False, "Measure finished rows again instead of keeping them.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool("smoke", False, "One small network; the figures are meaningless.", flag_values=FLAGS)
flags.DEFINE_list("one", None, "Measure one network (name, pixels) in this process.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A float model, the samples that calibrate it, and others that compare its files with it."""

    model: keras.Model
    samples: np.ndarray
    test: np.ndarray


def load(net: str, pixels: int, data_dir: str | None) -> Case:
    """Returns the case of a network."""
    if net in TINY:
        return _tiny(net, Path(data_dir or ""))
    if net in OWN:
        samples, test = (
            applications.images(n, pixels, seed) / 127.5 - 1 for n, seed in ((SAMPLES, 0), (TEST_IMAGES, 1))
        )
        return Case(_unet(pixels), samples, test)
    model, samples, _ = applications.build(net, pixels)
    return Case(model, samples, applications.scaled(model, applications.images(TEST_IMAGES, pixels, seed=1)))


def _unet(pixels: int) -> keras.Model:
    """Returns a U-Net of two levels with random weights."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    conv = functools.partial(layers.Conv2D, kernel_size=3, padding="same", activation="relu")
    inputs = keras.Input((pixels, pixels, 3))
    first = conv(16)(conv(16)(inputs))
    second = conv(32)(conv(32)(layers.MaxPooling2D()(first)))
    x = conv(64)(conv(64)(layers.MaxPooling2D()(second)))
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(x)
    x = conv(32)(conv(32)(layers.concatenate([x, second])))
    x = conv(16)(layers.UpSampling2D(interpolation="bilinear")(x))
    x = conv(16)(conv(16)(layers.concatenate([x, first])))
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def _tiny(net: str, folder: Path) -> Case:
    """Returns one of the pretrained nets with its inputs."""
    import numpy as np

    from r2keras.workloads import data, nets

    tiny = folder / "mlperf_tiny"
    model = nets.load_mlperf(tiny / f"{TINY[net]}.h5")
    if net == "ResNet-8":
        images = data.load("cifar10", folder, scaled=False)
        return Case(model, images.x_train[:256], images.x_test[:1000])
    if net == "DS-CNN":
        words = data.load("speech_commands_eval", tiny).x_test
        return Case(model, words[:256], words[500:])
    if net == "wake word":
        sounds = data.read_npz(tiny / "sww_calibration_samples.npz", {"specs": None})["specs"].astype("float32")
        return Case(model, sounds[::2], sounds[1::2])
    if net == "visual wake word":
        photographs = data.load("imagenet_samples", folder / "imagenet", scaled=False).x_test
        # 224 pixels to 96: means of 2 x 2 pixels, of which the middle is taken.
        small = photographs.reshape(-1, 112, 2, 112, 2, 3).mean(axis=(2, 4))[:, 8:104, 8:104] / 255
        return Case(model, small[:256].astype("float32"), small[500:].astype("float32"))
    sounds = np.random.default_rng(0).normal(-30, 15, (512, 640)).astype("float32")
    return Case(model, sounds[:256], sounds[256:])


def measure(case: Case) -> Row:
    """Writes both files of a case and compares them with the float model."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {tool: Path(folder) / f"{tool}.tflite" for tool in TOOLS}
        seconds = _write_own(case, paths["r2keras"]) | {"TFLite": _timed(lambda: _write_tflite(case, paths["TFLite"]))}
        results = {tool: _compared(case, path) for tool, path in paths.items()}
    equal = {tool: result.pop("equal") for tool, result in results.items()}
    row: Row = {"samples": len(case.samples), "test": len(case.test), "seconds": seconds, **results}
    if equal["r2keras"] is not None:
        # Inputs on which one file decides as the float model and the other does not.
        row["only_own"] = int((equal["r2keras"] & ~equal["TFLite"]).sum())
        row["only_TFLite"] = int((equal["TFLite"] & ~equal["r2keras"]).sum())
    return row


def _timed(job: Callable[[], object]) -> list[float]:
    """Returns the processor seconds and the seconds of a job."""
    start = time.process_time(), time.perf_counter()
    job()
    return [time.process_time() - start[0], time.perf_counter() - start[1]]


def _write_own(case: Case, path: Path) -> Row:
    """Writes the file of r2keras; returns the seconds of `calibrate` and of the file."""
    import r2keras

    found: list = []

    def calibrate() -> None:
        recipe = r2keras.Recipe.int8()
        found.extend(r2keras.calibrate(case.model, recipe, case.samples, integer=True, progress=False))

    def write() -> None:
        with warnings.catch_warnings():
            # A warning names the operators that compute in float; they are counted.
            warnings.simplefilter("ignore")
            r2keras.export.to_litert(found[0], path, found[1], activations="int8", io="int8")

    return {"calibrate": _timed(calibrate), "file": _timed(write)}


def _write_tflite(case: Case, path: Path) -> None:
    """Writes the file of TFLite's converter; operators without an integer form may stay float."""
    import tensorflow as tf
    import tf_keras  # noqa: F401  Without it, the converter refuses some Keras 3 models.

    converter = tf.lite.TFLiteConverter.from_keras_model(case.model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in case.samples)
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def _compared(case: Case, path: Path) -> Row:
    """Compares a file with the float model: equal decisions, where the outputs are classes, and the error."""
    import numpy as np

    import r2keras

    expected = case.model.predict(case.test, verbose=0)
    file = r2keras.export.LiteRTModel(path)
    (received,) = file.dequantized(file.predict(case.test))
    # An autoencoder decides nothing, and an output of images has no class.
    decides = expected.ndim == 2 and expected.shape != case.test.shape
    equal = received.argmax(axis=-1) == expected.argmax(axis=-1) if decides else None
    error = np.linalg.norm(received - expected) / np.linalg.norm(expected - expected.mean(axis=0))
    agreement = None if equal is None else float(equal.mean())
    counts = {"operators": operators(path), "bytes": path.stat().st_size}
    return {**counts, "agreement": agreement, "error": float(error), "equal": equal}


def operators(path: Path) -> dict[str, list[int]]:
    """Counts the operators of a file by kind: those on integers, and those on floats."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kinds)
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for op in interpreter._get_ops_details():
        kind = types[int(op["outputs"][0])]
        if op["op_name"] not in ("QUANTIZE", "DEQUANTIZE") and kind in ("int8", "float32"):
            counts[op["op_name"]][kind == "float32"] += 1
    return dict(counts)


def run(nets: dict[str, int], store: Rows, data_dir: str | None, again: bool) -> None:
    """Measures the networks that have no row yet, each in a fresh process, and stores their rows."""
    finished = {row["net"] for row in store.rows if "fault" not in row and not again}
    for net, pixels in nets.items():
        if net not in finished:
            about = machine()
            row = _in_fresh_process(net, pixels, data_dir)
            store.add([{"net": net, "pixels": pixels, **row, "machine": about}])
            sys.stderr.write(f"{net}: {row.get('fault') or 'measured'}\n")


def _in_fresh_process(net: str, pixels: int, data_dir: str | None) -> Row:
    """Measures one network in a fresh process; returns its row, with `fault` if it failed."""
    command = [sys.executable, __file__, f"--one={net},{pixels}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"fault": f"stopped after {TIMEOUT} s"}
    if done.returncode:
        return {"fault": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> str:
    """Returns the tables of the networks and of the time, and the machine."""
    header = ["network", "pixels", "operators on integers", "of TFLite", "decides as float", "TFLite's"]
    header += ["only r2keras does", "only TFLite does", "error", "TFLite's", "MB", "TFLite's"]
    timed = ["network", "samples", "calibrate, s", "file, s", "TFLite's converter, s", "calibrate / converter"]
    timed += ["calibrate and file / converter"]
    good = [row for row in rows if "fault" not in row]
    faults = [f"- {row['net']}: {row['fault']}" for row in rows if "fault" in row]
    tables = [markdown(header, [_cells(row) for row in good]), markdown(timed, [_times(row) for row in good])]
    steady = [row | {"machine": row["machine"] | {"load": "not recorded"}} for row in rows]
    lines = machine_lines(steady, lambda row: row["net"]).replace("; load not recorded before the run", "")
    return "\n\n".join([*tables, *(["\n".join(faults)] if faults else []), lines])


def _cells(row: Row) -> list[str]:
    """Returns the cells of one network."""
    own, rival = (row[tool] for tool in TOOLS)
    counts = [tool["operators"].values() for tool in (own, rival)]
    shares = [f"{sum(integers for integers, _ in kinds)} of {sum(map(sum, kinds))}" for kinds in counts]
    agreements = ["-" if tool["agreement"] is None else f"{tool['agreement']:.1%}" for tool in (own, rival)]
    only = [str(row.get(name, "-")) for name in ("only_own", "only_TFLite")]
    errors = [f"{tool['error']:.3f}" for tool in (own, rival)]
    sizes = [f"{tool['bytes'] / 1e6:.2f}" for tool in (own, rival)]
    return [row["net"], str(row["pixels"] or "-"), *shares, *agreements, *only, *errors, *sizes]


def _times(row: Row) -> list[str]:
    """Returns the cells of the times of one network."""
    calibrate, file, rival = (row["seconds"][name][0] for name in ("calibrate", "file", "TFLite"))
    seconds = [f"{value:.1f}" for value in (calibrate, file, rival)]
    return [row["net"], str(row["samples"]), *seconds, f"{calibrate / rival:.2f}", f"{(calibrate + file) / rival:.2f}"]


def main() -> int:
    argv = FLAGS(sys.argv)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if FLAGS.one:
        net, pixels = FLAGS.one
        print(json.dumps(measure(load(net, int(pixels), FLAGS.data_dir))))
        return 0
    unknown = [f"--nets={net}" for net in FLAGS.nets if net not in ALL]
    if argv[1:] or unknown:
        sys.stderr.write(f"{(unknown or argv[1:])[0]} is unknown. See --helpshort.\n")
        return 2
    store = Rows(FLAGS.out, ("net",))
    if not FLAGS.table:
        nets = {net: (NETS | OWN).get(net, 0) for net in FLAGS.nets}
        run({"MobileNet": 32} if FLAGS.smoke else nets, store, FLAGS.data_dir, FLAGS.again)
    print(table(store.rows))
    return 1 if any("fault" in row for row in store.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
