"""TFMOT pipelines below 8 bits: tf_keras models through `quantize_apply` with r2keras' scheme, down to the `.tflite`.

    python examples/tfmot_qat.py --data_dir=DIR --model=resnet8 --regularizers=none,linf      # from scratch
    python examples/tfmot_qat.py --data_dir=DIR --model=DIR/mlperf_tiny/kws_dscnn.h5 --qat_epochs=20
    python examples/tfmot_qat.py --data_dir=DIR --model=DIR/mlperf_tiny/kws_dscnn.h5 --variants=w4a8,palette2

DIR holds the CIFAR-10 `.npz` files, and `mlperf_tiny` for MLPerf Tiny's pretrained models. `resnet8` and `mobilenet`
(width 0.25) are trained on CIFAR-10's labels. A `.h5` file is taken as it is and fine-tuned without labels, towards
the outputs of the float model: `ic_resnet8` on CIFAR-10's training images, `kws_dscnn` on the first 500 of the
benchmark's 1,000 inputs and judged by the others. There are no labelled images for `vww_96`: photographs of ImageNet in
DIR's folder `imagenet` stand in, 500 and 500, judged by how many of the float model's decisions are kept.

A variant is `w<bits>` (activations float), `w<bits>a8` (activations of 8 bits; a second file computes on integers) or
`palette<bits>`. Below 4 bits the first and the last kernel stay at 8. Rows are the pilot's (`r2keras.report`), and a
killed run resumes: give the same command again. `--smoke` takes seconds; its figures mean nothing.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import warnings
from pathlib import Path

from absl import app, flags
from pilot_lib.quiet import quiet_start

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "resnet8", "resnet8, mobilenet, or a tf_keras .h5 file: one of MLPerf Tiny's.")
flags.DEFINE_string("data_dir", None, "Folder with the data sets and the folder mlperf_tiny.")
flags.DEFINE_list("variants", ["w8a8", "w4a8", "w2a8", "palette2"], "Any of w<bits>, w<bits>a8, palette<bits>.")
flags.DEFINE_list("regularizers", ["none"], "Any of none, linf, soft_min_max, kurtosis; for models trained here.")
flags.DEFINE_list("seeds", ["0"], "Integers.")
flags.DEFINE_integer("epochs", 10, "Epochs of the float training; a .h5 file has none.")
flags.DEFINE_integer("qat_epochs", 3, "Epochs of training under compression.")
flags.DEFINE_integer("batch_size", 64, "Images a training step.")
flags.DEFINE_float("learning_rate", 1e-3, "Adam's, falling to 0 along a cosine, in both trainings.")
flags.DEFINE_string("method", "ste", "How weights of w<bits> variants are trained below 8 bits: ste, lsq, ewgs...")
flags.DEFINE_string("out", "out/tfmot_qat", "Folder for the files and results.json; finished rows are kept.")
flags.DEFINE_bool("smoke", False, "Few random inputs, one epoch.")

EDGE_BELOW = 4
NETS = ("resnet8", "mobilenet")
FORMS = {
    "linf": ("R2Linf", 0.01, {"scale_free": True}),
    "soft_min_max": ("R2SoftMinMax", 0.03, {"scale_free": True}),
    "kurtosis": ("Kurtosis", 1.0, {}),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Inputs and targets to train on, inputs and classes to judge by, and what the model comes from."""

    name: str
    dataset: str
    x: object
    y: object
    x_test: object
    y_test: object
    file: Path | None


def main(argv: list[str]) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if FLAGS.smoke and not FLAGS["variants"].present:
        FLAGS.variants = ["w2a8", "palette2"]
    try:
        variants = checked(argv)
    except ValueError as error:
        return told(f"{error} See --helpshort.", 2)
    try:
        with quiet_start():
            import r2keras.tfmot  # noqa: F401  (TensorFlow comes with it)
        return run(variants)
    except (ValueError, OSError, ImportError) as error:
        return told(" ".join(str(error).split()), 1)
    except KeyboardInterrupt:
        return told("Stopped. Finished rows are kept; the same command goes on there.", 130)


def told(sentence: str, code: int) -> int:
    """Writes a sentence to standard error; returns the exit code."""
    sys.stderr.write(f"{sentence}\n")
    return code


def checked(argv: list[str]) -> list[tuple[str, int]]:
    """Returns the variants; raises ValueError for flags that nothing can be made of."""
    if argv[1:]:
        raise ValueError(f"Unexpected argument {argv[1]!r}: write --flag=value.")
    if not FLAGS.smoke and FLAGS.data_dir is None:
        raise ValueError("--data_dir is missing: the folder with the data sets and mlperf_tiny. Or try --smoke.")
    for name in ("epochs", "qat_epochs", "batch_size", "learning_rate"):
        if not 0 < FLAGS[name].value < float("inf"):
            raise ValueError(f"--{name}={FLAGS[name].value} is out of range: expected a number above 0.")
    for word in FLAGS.seeds:
        if not word.isdecimal():
            raise ValueError(f"--seeds={word}: expected integers of at least 0 with commas between them.")
    for word in FLAGS.regularizers:
        if word not in ("none", *FORMS):
            raise ValueError(f"--regularizers={word} is unknown: expected any of none, {', '.join(FORMS)}.")
    if FLAGS.model not in NETS and not FLAGS.model.endswith(".h5"):
        raise ValueError(f"--model={FLAGS.model} is unknown: expected {', '.join(NETS)} or a .h5 file.")
    return [parse(word) for word in FLAGS.variants]


def parse(word: str) -> tuple[str, int]:
    """Returns what a row calls a variant, and its bits."""
    found = re.fullmatch(r"w([1-8])(a8)?|palette([1-8])", word)
    if found is None:
        raise ValueError(f"--variants={word} is unknown: expected w<bits>, w<bits>a8 or palette<bits> of 1 to 8 bits.")
    bits, integers, entries = found.groups()
    return ("palette", int(entries)) if entries else ("qat_a8" if integers else "qat", int(bits))


def run(variants: list[tuple[str, int]]) -> int:
    """Fills results.json, then prints the table."""
    from rich.console import Console
    from rich.progress import track

    from r2keras import report

    for variant in variants:
        spec_of(*variant)  # Tells a bad --method now, not after the float training.
    results = report.Results(Path(FLAGS.out) / "results.json")
    task = load()
    regularizers = ["none"] if task.file else FLAGS.regularizers
    for seed in map(int, FLAGS.seeds):
        for regularizer in regularizers:
            name = {"dataset": task.dataset, "model": task.name, "regularizer": regularizer, "seed": seed}
            kinds = [("float", 32), *variants]
            todo = [k for k in kinds if results.find(**settings(task, name, *k)) is None]
            if not todo:
                continue
            model = float_model(task, regularizer, seed)
            for method, bits in track(todo, f"{regularizer}, seed {seed}", disable=not sys.stdout.isatty()):
                results.add({**settings(task, name, method, bits), **measure(task, model, method, bits, name)})
    Console(width=None if sys.stdout.isatty() else 120).print(report.results_table(results.rows))
    return 0


def settings(task: Task, name: dict, method: str, bits: int) -> dict[str, object]:
    """Returns what tells a row apart; one of other epochs, rate or batch is measured anew."""
    epochs = 0 if task.file else FLAGS.epochs
    compression = {} if method == "float" else {"qat_epochs": FLAGS.qat_epochs, "weight_method": FLAGS.method}
    training = {flag: FLAGS[flag].value for flag in ("learning_rate", "batch_size")} if epochs or compression else {}
    return {**name, "method": method, "num_bits": bits, "epochs": epochs, **compression, **training}


def measure(task: Task, model, method: str, bits: int, name: dict) -> dict[str, object]:
    """Compresses, exports, and runs the file; returns the figures of a row."""
    import numpy as np

    from r2keras import export
    from r2keras.record import RangeFigures
    from r2keras.workloads.training import accuracy

    path = Path(FLAGS.out) / "files" / f"{task.name}_{name['regularizer']}_seed{name['seed']}_{method}{bits}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain, record = (model, None) if method == "float" else compress(task, model, method, bits, name["seed"])
    sizes = export.to_litert(plain, path, record)
    file = export.LiteRTModel(path)
    kernels = [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]
    return {
        "float_accuracy": accuracy(predict(model, task.x_test), task.y_test),
        "accuracy": accuracy(predict(plain, task.x_test), task.y_test),
        "file_accuracy": accuracy(file.predict(task.x_test), task.y_test),
        "file_bytes": sizes.file_bytes,
        "ideal_bytes": sizes.ideal_bytes,
        "latency_ms": file.latency().median_ms,
        "max_over_std": float(np.mean([RangeFigures.of(w).max_over_std for w in kernels])),
        "path": str(path),
        **(integers(task, plain, record, path) if method == "qat_a8" else {}),
        **shipped(task),
    }


def integers(task: Task, plain, record, exact: Path) -> dict[str, object]:
    """Writes the file whose operators compute on integers, and runs it."""
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


def shipped(task: Task) -> dict[str, object]:
    """Runs the int8 file that MLPerf ships beside the model."""
    from r2keras import export
    from r2keras.workloads.training import accuracy

    path = task.file and task.file.with_name(f"{task.file.stem}_int8.tflite")
    if path is None or not path.is_file():
        return {}
    outputs = export.LiteRTModel(path).predict(task.x_test)
    return {"shipped_int8_accuracy": accuracy(outputs, task.y_test), "shipped_int8_bytes": path.stat().st_size}


def compress(task: Task, model, method: str, bits: int, seed: int):
    """Trains under TFMOT's wrappers; returns the plain model and its record."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from r2keras import tfmot as r2

    recipe = recipe_of(model, method, bits, steps_of(task, FLAGS.qat_epochs))
    tf_keras.utils.set_random_seed(seed)
    scheme = r2.LowBitScheme(recipe, input_bits=8 if method == "qat_a8" else None)
    qat = tfmot.quantization.keras.quantize_apply(r2.annotate(model, recipe), scheme=scheme)
    fit(qat, task, FLAGS.qat_epochs)
    return r2.finalize(qat)


def recipe_of(model, method: str, bits: int, steps: int):
    """Returns what every kernel becomes in as many training steps; below 4 bits the first and the last stay at 8."""
    from r2keras import Recipe

    spec = spec_of(method, bits)
    if method == "palette":
        spec = spec.annealed(max(1, 4 * steps // 5))
    rules = [(".*", spec)]
    if bits < EDGE_BELOW:
        names = [layer.name for layer in model.layers if any(len(v.shape) > 1 for v in layer.trainable_variables)]
        edge = spec_of("qat_a8" if method == "qat_a8" else "qat", 8)
        rules.insert(0, (f"^({re.escape(names[0])}|{re.escape(names[-1])})$", edge))
    return Recipe(rules)


def spec_of(method: str, bits: int):
    """Returns what a variant makes of a kernel; at 8 bits by min-max, whatever the method."""
    from r2keras import PaletteSpec, QuantSpec

    if method == "palette":
        return PaletteSpec(num_bits=bits, min_size=0)
    outputs = {"activation_bits": 8, "activation_method": "ste"} if method == "qat_a8" else {}
    return QuantSpec(num_bits=bits, **({"range": "min_max"} if bits == 8 else {"method": FLAGS.method}), **outputs)


def fit(model, task: Task, epochs: int) -> None:
    """Trains with Adam along a cosine, on classes or towards the float model's outputs."""
    import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps_of(task, epochs))
    soft = task.y.ndim == 2
    loss = tf_keras.losses.KLDivergence() if soft else tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(schedule), loss, jit_compile=False)
    model.fit(task.x, task.y, FLAGS.batch_size, epochs, verbose=0)


def steps_of(task: Task, epochs: int) -> int:
    """Returns the number of training steps."""
    return epochs * -(-len(task.x) // FLAGS.batch_size)


def float_model(task: Task, regularizer: str, seed: int):
    """Returns the model of the file, or trains one and takes its regularizers off."""
    import tf_keras

    if task.file:
        return tf_keras.models.load_model(task.file, compile=False)
    tf_keras.utils.set_random_seed(seed)
    model = build(task.name, task.x.shape[1:], regularizer)
    fit(model, task, FLAGS.epochs)
    return without_regularizers(model)


def build(name: str, shape: tuple[int, ...], regularizer: str):
    """Returns a net with a fresh regularizer on every kernel."""
    import tf_keras

    if name == "resnet8":
        model = resnet8(shape)
    else:
        options = {"alpha": 0.25, "weights": None, "classes": 10, "classifier_activation": None}
        model = tf_keras.applications.MobileNet(shape, **options)
    return tf_keras.models.clone_model(model, clone_function=lambda layer: regularized(layer, regularizer))


def regularized(layer, regularizer: str):
    """Returns a copy of a layer whose kernel carries a regularizer."""
    from r2keras import tfmot as r2

    config = layer.get_config()
    if regularizer != "none":
        form, factor, options = FORMS[regularizer]
        for key in {"kernel_regularizer", "depthwise_regularizer"} & set(config):
            config[key] = getattr(r2, form)(factor, **options)
    return type(layer).from_config(config)


def without_regularizers(model):
    """Returns a copy with the same weights and no regularizer."""
    import tf_keras

    def bare(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, **{k: None for k in config if k.endswith("_regularizer")}})

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
    """Loads the data of the model, or its stand-in."""
    from r2keras.workloads import data

    file = Path(FLAGS.model) if FLAGS.model.endswith(".h5") else None
    if FLAGS.smoke:
        return stand_in(file)
    folder = Path(FLAGS.data_dir)
    if file is None:
        found = data.load("cifar10", folder)
        return Task(FLAGS.model, "cifar10", found.x_train, found.y_train, found.x_test, found.y_test, None)
    if "kws" in file.stem:
        words = data.load("speech_commands_eval", file.parent)
        return taught(file, "speech_commands_eval", words.x_test[:500], words.x_test[500:], words.y_test[500:])
    if "vww" in file.stem:
        photographs = reduced(data.load("imagenet_samples", folder / "imagenet").x_test)
        return taught(file, "imagenet_samples", photographs[:500], photographs[500:])
    images = data.load("cifar10", folder, scaled=False)
    return taught(file, "cifar10", images.x_train, images.x_test, images.y_test)


def reduced(photographs):
    """Returns photographs of 224 x 224 pixels, -1 to 1, as the person detector takes them: 96 x 96, 0 to 1."""
    import tensorflow as tf

    return tf.image.resize((photographs + 1) / 2, (96, 96), method="area").numpy()


def taught(file: Path, dataset: str, x, x_test, y_test=None) -> Task:
    """Returns the task of keeping a file's outputs; without classes it is judged by the float model's decisions."""
    import tf_keras

    model = tf_keras.models.load_model(file, compile=False)
    classes = predict(model, x_test).argmax(-1) if y_test is None else y_test
    return Task(file.stem, dataset, x, predict(model, x), x_test, classes, file)


def stand_in(file: Path | None) -> Task:
    """Returns a task of random inputs and one epoch."""
    import numpy as np
    import tf_keras

    FLAGS.epochs = FLAGS.qat_epochs = 1
    shape = tf_keras.models.load_model(file, compile=False).input_shape[1:] if file else (32, 32, 3)
    x = np.random.default_rng(0).random((16, *shape), np.float32)
    classes = np.arange(16) % 10
    return taught(file, "random", x, x) if file else Task(FLAGS.model, "random", x, classes, x, classes, None)


def predict(model, x):
    """Returns a model's outputs."""
    return model.predict(x, 250, verbose=0)


if __name__ == "__main__":
    app.run(main)
