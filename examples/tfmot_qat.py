"""TFMOT pipelines below 8 bits: tf_keras models through `quantize_apply` with r2keras' scheme, exported to `.tflite`.

    python examples/tfmot_qat.py --data_dir=DIR --model=resnet8 --regularizers=none,linf      # from scratch
    python examples/tfmot_qat.py --data_dir=DIR --model=DIR/mlperf_tiny/kws_dscnn.h5 --qat_epochs=20
    python examples/tfmot_qat.py --data_dir=DIR --model=DIR/mlperf_tiny/kws_dscnn.h5 --variants=w4a8,palette2

DIR holds the CIFAR-10 `.npz` files, and a folder `mlperf_tiny` with MLPerf Tiny's pretrained models.

- `resnet8` and `mobilenet` (width 0.25) are trained on CIFAR-10 with labels.
- A `.h5` file is fine-tuned without labels, toward the outputs of its own float model: `ic_resnet8` on the CIFAR-10
  training images; `kws_dscnn` on the first 500 of the benchmark's 1,000 inputs, evaluated on the other 500.
- `vww_96`, for which DIR has no labeled images, uses ImageNet photographs from DIR's folder `imagenet`: 500 for
  fine-tuning and 500 for evaluation. Its accuracy is the share of the float model's decisions that are kept.

A variant is `w<bits>` (activations float), `w<bits>a8` (8-bit activations, and a second file with integer operators) or
`palette<bits>`. Below 4 bits the first and last kernels stay at 8 bits. The rows have the columns of the pilot
(`r2keras.report`). To resume a killed run, run the same command again. `--smoke` takes seconds; its figures are
meaningless.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from pathlib import Path

from absl import flags
from common_lib.flag_checks import UsageError, apply_smoke, check_positive, unique_integers, unique_words
from common_lib.images import resized
from common_lib.program import make_console, start

from r2keras._util.native_log import quiet_imports

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "resnet8", "resnet8, mobilenet, or a .h5 file of MLPerf Tiny.")
flags.DEFINE_string("data_dir", None, "Folder of the data sets, with the folder mlperf_tiny.")
flags.DEFINE_list("variants", ["w8a8", "w4a8", "w2a8", "palette2"], "Any of w<bits>, w<bits>a8, palette<bits>.")
flags.DEFINE_list("regularizers", ["none"], "Any of none, linf, soft_min_max, kurtosis; not for .h5 files.")
flags.DEFINE_list("seeds", ["0"], "Seeds, separated by commas.")
flags.DEFINE_integer("epochs", 10, "Epochs of the float training; not for .h5 files.")
flags.DEFINE_integer("qat_epochs", 3, "Epochs of training under quantization.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.")
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of Adam, with cosine decay to 0, in both trainings.")
flags.DEFINE_string("method", "ste", "Quantization method of w<bits> variants below 8 bits: ste, lsq, ewgs...")
flags.DEFINE_string("out", "out/tfmot_qat", "Folder for the files and results.json; finished rows are kept.")
flags.DEFINE_bool("smoke", False, "Run on a few random inputs for one epoch; the figures are meaningless.")

SMOKE = {"variants": ["w2a8", "palette2"]}
# Below this many bits, the first and last kernels get 8.
EDGE_BELOW = 4
NETS = ("resnet8", "mobilenet")
# Class in r2keras.tfmot, strength and options of each name of --regularizers.
REGULARIZERS = {
    "linf": ("R2Linf", 0.01, {"scale_free": True}),
    "soft_min_max": ("R2SoftMinMax", 0.03, {"scale_free": True}),
    "kurtosis": ("Kurtosis", 1.0, {}),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Training inputs and targets, test inputs and classes, and the file of the model, if it comes from one."""

    name: str
    dataset: str
    x: object
    y: object
    x_test: object
    y_test: object
    file: Path | None


def main() -> int:
    """Checks the flags and runs the variants; returns the exit code."""
    apply_smoke(SMOKE)
    variants = check_flags()
    with quiet_imports():
        import r2keras.tfmot  # noqa: F401  (imports TensorFlow)
    run(variants)
    return 0


def check_flags() -> list[tuple[str, int]]:
    """Returns the variants; raises UsageError for a bad flag."""
    if not FLAGS.smoke and FLAGS.data_dir is None:
        raise UsageError("--data_dir is missing: give the folder of the data sets and of mlperf_tiny, or try --smoke")
    for name in ("epochs", "qat_epochs", "batch_size", "learning_rate"):
        check_positive(name, FLAGS[name].value)
    unique_integers("seeds", FLAGS.seeds, 0, 2**31 - 1)
    unique_words("regularizers", FLAGS.regularizers, ("none", *REGULARIZERS))
    if FLAGS.model not in NETS and not FLAGS.model.endswith(".h5"):
        raise UsageError(f"--model={FLAGS.model} is unknown: expected {', '.join(NETS)} or a .h5 file")
    return [parse_variant(word) for word in FLAGS.variants]


def parse_variant(word: str) -> tuple[str, int]:
    """Returns the method of a variant, as rows name it, and its bits."""
    match = re.fullmatch(r"w([1-8])(a8)?|palette([1-8])", word)
    if match is None:
        expected = "w<bits>, w<bits>a8 or palette<bits> with 1 to 8 bits"
        raise UsageError(f"--variants={word} is unknown: expected {expected}")
    weight_bits, activations, palette_bits = match.groups()
    if palette_bits:
        return "palette", int(palette_bits)
    return ("qat_a8" if activations else "qat"), int(weight_bits)


def run(variants: list[tuple[str, int]]) -> None:
    """Fills results.json, then prints the table."""
    from rich.progress import track

    from r2keras import report

    for variant in variants:
        make_spec(*variant)  # A bad --method fails here, not after the float training.
    results = report.Results(Path(FLAGS.out) / "results.json")
    task = load()
    regularizers = ["none"] if task.file else FLAGS.regularizers
    for seed in map(int, FLAGS.seeds):
        for regularizer in regularizers:
            name = {"dataset": task.dataset, "model": task.name, "regularizer": regularizer, "seed": seed}
            jobs = [("float", 32), *variants]
            jobs = [job for job in jobs if results.find(**key_columns(task, name, *job)) is None]
            if not jobs:
                continue
            model = float_model(task, regularizer, seed)
            for method, bits in track(jobs, f"{regularizer}, seed {seed}", disable=not sys.stdout.isatty()):
                results.add({**key_columns(task, name, method, bits), **measure(task, model, method, bits, name)})
    make_console().print(report.results_table(results.rows))


def key_columns(task: Task, name: dict, method: str, bits: int) -> dict[str, object]:
    """Returns the columns that identify a row; other epochs, learning rates or batch sizes give another row."""
    epochs = 0 if task.file else FLAGS.epochs
    compression = {} if method == "float" else {"qat_epochs": FLAGS.qat_epochs, "weight_method": FLAGS.method}
    training = {flag: FLAGS[flag].value for flag in ("learning_rate", "batch_size")} if epochs or compression else {}
    return {**name, "method": method, "num_bits": bits, "epochs": epochs, **compression, **training}


def measure(task: Task, model, method: str, bits: int, name: dict) -> dict[str, object]:
    """Compresses, exports and runs the file; returns the measurements of a row."""
    import numpy as np

    from r2keras import export
    from r2keras.record import RangeFigures
    from r2keras.workloads.training import accuracy

    path = Path(FLAGS.out) / "files" / f"{task.name}_{name['regularizer']}_seed{name['seed']}_{method}{bits}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain, record = (model, None) if method == "float" else compress(task, model, method, bits, name["seed"])
    sizes = export.to_litert(plain, path, record)
    file = export.LiteRTModel(path)
    kernels = [variable.numpy() for variable in model.trainable_variables if len(variable.shape) > 1]
    return {
        "float_accuracy": accuracy(predict(model, task.x_test), task.y_test),
        "accuracy": accuracy(predict(plain, task.x_test), task.y_test),
        "file_accuracy": accuracy(file.predict(task.x_test), task.y_test),
        "file_bytes": sizes.file_bytes,
        "ideal_bytes": sizes.ideal_bytes,
        "latency_ms": file.latency().median_ms,
        "max_over_std": float(np.mean([RangeFigures.of(kernel).max_over_std for kernel in kernels])),
        "path": str(path),
        **(measure_integer_file(task, plain, record, path) if method == "qat_a8" else {}),
        **measure_shipped_file(task),
    }


def measure_integer_file(task: Task, plain, record, exact: Path) -> dict[str, object]:
    """Writes and runs the file of integer operators."""
    from r2keras import export
    from r2keras.workloads.training import accuracy

    path = exact.with_name(f"{exact.stem}_integer.tflite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sizes = export.to_litert(plain, path, record, activations="int8", data=task.x[:256])
    file = export.LiteRTModel(path)
    return {
        "integer_accuracy": accuracy(file.predict(task.x_test), task.y_test),
        "integer_bytes": sizes.file_bytes,
        "integer_ms": file.latency().median_ms,
    }


def measure_shipped_file(task: Task) -> dict[str, object]:
    """Runs the int8 file that MLPerf ships with the model, if there is one."""
    from r2keras import export
    from r2keras.workloads.training import accuracy

    path = task.file and task.file.with_name(f"{task.file.stem}_int8.tflite")
    if path is None or not path.is_file():
        return {}
    outputs = export.LiteRTModel(path).predict(task.x_test)
    return {"shipped_int8_accuracy": accuracy(outputs, task.y_test), "shipped_int8_bytes": path.stat().st_size}


def compress(task: Task, model, method: str, bits: int, seed: int):
    """Trains with TFMOT's wrappers; returns the plain model and its record."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from r2keras import tfmot as r2

    recipe = make_recipe(model, method, bits, num_steps(task, FLAGS.qat_epochs))
    tf_keras.utils.set_random_seed(seed)
    scheme = r2.LowBitScheme(recipe, input_bits=8 if method == "qat_a8" else None)
    qat = tfmot.quantization.keras.quantize_apply(r2.annotate(model, recipe), scheme=scheme)
    fit(qat, task, FLAGS.qat_epochs)
    return r2.finalize(qat)


def make_recipe(model, method: str, bits: int, steps: int):
    """Returns the recipe of a variant that trains for `steps`; below 4 bits the first and last kernels get 8."""
    from r2keras import Recipe

    spec = make_spec(method, bits)
    if method == "palette":
        spec = spec.annealed(max(1, 4 * steps // 5))  # The last fifth trains at the final temperature.
    rules = [(".*", spec)]
    if bits < EDGE_BELOW:
        names = [layer.name for layer in model.layers if any(len(v.shape) > 1 for v in layer.trainable_variables)]
        edge = make_spec("qat_a8" if method == "qat_a8" else "qat", 8)
        rules.insert(0, (f"^({re.escape(names[0])}|{re.escape(names[-1])})$", edge))
    return Recipe(rules)


def make_spec(method: str, bits: int):
    """Returns the spec of a kernel; at 8 bits with min-max ranges, whatever --method is."""
    from r2keras import PaletteSpec, QuantSpec

    if method == "palette":
        return PaletteSpec(num_bits=bits, min_size=0)
    weights = {"range": "min_max"} if bits == 8 else {"method": FLAGS.method}
    activations = {"activation_bits": 8, "activation_method": "ste"} if method == "qat_a8" else {}
    return QuantSpec(num_bits=bits, **weights, **activations)


def fit(model, task: Task, epochs: int) -> None:
    """Trains with Adam and cosine decay, on classes or toward the float model's outputs."""
    import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, num_steps(task, epochs))
    if task.y.ndim == 2:  # Outputs of the float model.
        loss = tf_keras.losses.KLDivergence()
    else:
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(schedule), loss, jit_compile=False)
    model.fit(task.x, task.y, FLAGS.batch_size, epochs, verbose=0)


def num_steps(task: Task, epochs: int) -> int:
    """Returns the number of training steps."""
    return epochs * -(-len(task.x) // FLAGS.batch_size)


def float_model(task: Task, regularizer: str, seed: int):
    """Returns the model of the file, or trains one and removes its regularizers."""
    import tf_keras

    if task.file:
        return tf_keras.models.load_model(task.file, compile=False)
    tf_keras.utils.set_random_seed(seed)
    model = build(task.name, task.x.shape[1:], regularizer)
    fit(model, task, FLAGS.epochs)
    return without_regularizers(model)


def build(name: str, shape: tuple[int, ...], regularizer: str):
    """Returns a net with a new regularizer on every kernel."""
    import tf_keras

    if name == "resnet8":
        model = resnet8(shape)
    else:
        options = {"alpha": 0.25, "weights": None, "classes": 10, "classifier_activation": None}
        model = tf_keras.applications.MobileNet(shape, **options)
    return tf_keras.models.clone_model(model, clone_function=lambda layer: regularized(layer, regularizer))


def regularized(layer, regularizer: str):
    """Returns a copy of a layer with a regularizer on its kernel."""
    from r2keras import tfmot as r2

    config = layer.get_config()
    if regularizer != "none":
        class_name, factor, options = REGULARIZERS[regularizer]
        for key in {"kernel_regularizer", "depthwise_regularizer"} & set(config):
            config[key] = getattr(r2, class_name)(factor, **options)
    return type(layer).from_config(config)


def without_regularizers(model):
    """Returns a copy with the same weights and no regularizers."""
    import tf_keras

    def bare(layer):
        config = layer.get_config()
        config |= {key: None for key in config if key.endswith("_regularizer")}
        return type(layer).from_config(config)

    plain = tf_keras.models.clone_model(model, clone_function=bare)
    values = {variable.name: variable for variable in model.variables}
    for variable in plain.variables:
        variable.assign(values[variable.name])
    return plain


def resnet8(shape: tuple[int, ...]):
    """Returns MLPerf Tiny's ResNet-8 with logits instead of softmax (Banbury et al., arXiv 2106.07597, section 3)."""
    from tf_keras import Input, Model, layers

    def conv(x, filters, size, stride, name):
        options = {"padding": "same", "kernel_initializer": "he_normal", "name": name}
        return layers.Conv2D(filters, size, stride, **options)(x)

    def normed(x, filters, stride, name):
        return layers.BatchNormalization(name=f"{name}_norm")(conv(x, filters, 3, stride, name))

    inputs = Input(shape, name="image")
    x = layers.ReLU(name="stem_relu")(normed(inputs, 16, 1, "stem"))
    for block, (filters, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
        name, shortcut = f"block{block}", x
        x = layers.ReLU(name=f"{name}_relu1")(normed(x, filters, stride, f"{name}_conv1"))
        x = normed(x, filters, 1, f"{name}_conv2")
        if stride > 1:
            shortcut = conv(shortcut, filters, 1, stride, f"{name}_shortcut")
        x = layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([shortcut, x]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return Model(inputs, layers.Dense(10, name="head")(x), name="resnet8")


def load() -> Task:
    """Loads the model and its data; with `--smoke`, random inputs."""
    from r2keras.workloads import data

    file = Path(FLAGS.model) if FLAGS.model.endswith(".h5") else None
    if FLAGS.smoke:
        return stand_in(file)
    folder = Path(FLAGS.data_dir)
    if file is None:
        images = data.load("cifar10", folder)
        return Task(FLAGS.model, "cifar10", images.x_train, images.y_train, images.x_test, images.y_test, None)
    if "kws" in file.stem:
        words = data.load("speech_commands_eval", file.parent)
        return distillation_task(
            file, "speech_commands_eval", words.x_test[:500], words.x_test[500:], words.y_test[500:]
        )
    if "vww" in file.stem:
        photographs = resized(data.load("imagenet_samples", folder / "imagenet").x_test)
        return distillation_task(file, "imagenet_samples", photographs[:500], photographs[500:])
    images = data.load("cifar10", folder, scaled=False)
    return distillation_task(file, "cifar10", images.x_train, images.x_test, images.y_test)


def distillation_task(file: Path, dataset: str, x, x_test, y_test=None) -> Task:
    """Returns a task whose targets are the float model's outputs; without `y_test`, so are its test classes."""
    import tf_keras

    model = tf_keras.models.load_model(file, compile=False)
    classes = predict(model, x_test).argmax(-1) if y_test is None else y_test
    return Task(file.stem, dataset, x, predict(model, x), x_test, classes, file)


def stand_in(file: Path | None) -> Task:
    """Returns a task with random inputs, and sets the epochs to 1."""
    import numpy as np
    import tf_keras

    FLAGS.epochs = FLAGS.qat_epochs = 1
    shape = tf_keras.models.load_model(file, compile=False).input_shape[1:] if file else (32, 32, 3)
    x = np.random.default_rng(0).random((16, *shape), np.float32)
    classes = np.arange(16) % 10
    if file:
        return distillation_task(file, "random", x, x)
    return Task(FLAGS.model, "random", x, classes, x, classes, None)


def predict(model, x):
    """Returns a model's outputs."""
    return model.predict(x, 250, verbose=0)


if __name__ == "__main__":
    start(main)
