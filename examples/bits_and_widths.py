"""Bits x width: trains a float model, then searches for a wider one with fewer bits that is as good and smaller.

    python examples/bits_and_widths.py                                              # embedded digits: filters x bits
    python examples/bits_and_widths.py --dataset=fashion_mnist --data_dir=DIR       # the same on real images
    python examples/bits_and_widths.py --dataset=text                               # a small text: LSTM units x bits
    python examples/bits_and_widths.py --dataset=text --data_dir=DIR                # Penn Treebank

Writes `model.keras` and `data.npz` to --out, prints the r2keras-search command for the same search, and runs it. The
results are a table, results.json, front.png, front.svg, and the models of the Pareto front. Image models are compared
by their accuracy on a tenth of the training images, held out from training; language models by the perplexity of the
validation text, in windows that each start with a zero state (examples/ptb_lstm.py keeps the state). To resume a killed
run, run the same command again.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path

from absl import flags
from common_lib.flag_checks import UsageError, apply_smoke, check_at_least, check_positive
from common_lib.program import start

from r2keras._util.native_log import quiet_imports

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ("digits", "fashion_mnist", "cifar10", "text"), "A set of images, or a text.")
flags.DEFINE_string("data_dir", None, "Folder of the data; digits and the small text need none.")
flags.DEFINE_integer("size", None, "Number of training images or words, from the start; all by default.")
flags.DEFINE_integer("units", 100, "Units of the LSTM and length of an embedding, for text.")
flags.DEFINE_integer("epochs", 10, "Epochs of the float training.")
flags.DEFINE_integer("search_epochs", 3, "Epochs of each candidate.")
flags.DEFINE_list("bits", ["2", "3", "4"], "Bits per weight.")
flags.DEFINE_list("widths", ["1", "1.5", "2"], "Factors for filters and units.")
flags.DEFINE_list("methods", ["lsq"], "Quantization methods of the weights: methods of r2keras.QuantSpec, or palette.")
flags.DEFINE_integer("activation_bits", None, "Bits of layer outputs and states; float by default.")
flags.DEFINE_string(
    "activation_method", None, "Quantization method of the activations; that of the weights by default."
)
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of Adam, in the float training and the search.")
flags.DEFINE_float("max_drop", 0.01, "Accuracy, or fraction of the perplexity, that may be lost.")
flags.DEFINE_integer("max_bytes", None, "Most bytes of the weights.")
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.")
flags.DEFINE_integer("jobs", 1, "Candidates trained in parallel.")
flags.DEFINE_string("out", "out/bits_and_widths", "Folder for all results; a killed run resumes from it.")
flags.DEFINE_bool(
    "smoke", False, "Run in seconds on little data, for one epoch and two candidates; the figures are meaningless."
)

SMOKE = {"size": 400, "units": 8, "epochs": 1, "search_epochs": 1, "bits": ["2"], "widths": ["1.5"]}
COUNTS = ("size", "units", "epochs", "search_epochs", "jobs")
LISTS = ("bits", "widths", "methods")
# Batch sizes: of images in the float training, and of text windows in the float training and the search.
BATCH, TEXT_BATCH, LENGTH = 64, 20, 30


def main() -> int:
    """Checks the flags and searches; returns the exit code."""
    apply_smoke(SMOKE)
    check_flags()
    with quiet_imports():
        import r2keras.search  # noqa: F401  (imports Keras and its backend)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # It warns about training several models.
    search()
    return 0


def check_flags() -> None:
    """Raises UsageError for a bad flag; turns lists of numbers into numbers."""
    for name in COUNTS:
        check_at_least(name, FLAGS[name].value, 1)
    check_positive("learning_rate", FLAGS.learning_rate)
    for name, kind in (("bits", int), ("widths", float)):
        try:
            FLAGS[name].value = [kind(word) for word in FLAGS[name].value]
        except ValueError:
            words = ",".join(FLAGS[name].value)
            raise UsageError(f"--{name}={words} is not a list of numbers, such as 1,2") from None


def search() -> None:
    """Trains the float model if there is none yet, searches, and writes the results."""
    import r2keras

    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    prepare_files(folder / "model.keras", folder / "data.npz")
    settings = search_settings(folder)
    print(f"The same search: {command(settings, folder)}")
    outcome = r2keras.search.run(r2keras.search.Search(**settings), folder / "study", jobs=FLAGS.jobs, progress=True)
    outcome.save(folder / "results.json")
    for suffix in ("png", "svg"):
        outcome.plot(folder / f"front.{suffix}")
    print(outcome)


def search_settings(folder: Path) -> dict:
    """Returns the arguments of `r2keras.search.Search`."""
    names = (*LISTS, "activation_bits", "activation_method", "learning_rate", "max_drop", "max_bytes", "seed")
    by_task = {"metric": "accuracy"}
    if FLAGS.dataset == "text":
        by_task = {"metric": "perplexity", "match": "lstm|words", "length": LENGTH, "batch_size": TEXT_BATCH}
    files = {"model": str(folder / "model.keras"), "data": str(folder / "data.npz")}
    return files | {name: FLAGS[name].value for name in names} | by_task | {"epochs": FLAGS.search_epochs}


def command(settings: dict, folder: Path) -> str:
    """Returns the command line of the same search."""
    values = {name: value for name, value in settings.items() if value is not None}
    for name in LISTS:
        values[name] = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in values[name])
    values |= {"study": folder / "study", "out": folder, "jobs": FLAGS.jobs}
    return "r2keras-search " + " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in values.items())


def prepare_files(model_file: Path, data_file: Path) -> None:
    """Writes the data and the float model trained on it; files of an earlier run with the same flags are kept.

    Raises:
        ValueError: the files were written by a run with other flags.
    """
    import keras
    import numpy as np

    from r2keras._util.files import atomic_write_text, replacing

    own_flags = {name: FLAGS[name].value for name in ("dataset", "size", "units", "epochs", "learning_rate", "seed")}
    flags_file = model_file.with_name("start.json")
    if model_file.exists():
        if json.loads(flags_file.read_text()) != own_flags:
            raise ValueError(f"{model_file} was made with other flags. Choose another --out, or use the same flags.")
        return
    is_text = FLAGS.dataset == "text"
    arrays = text_arrays() if is_text else image_arrays()
    keras.utils.set_random_seed(FLAGS.seed)
    model, x, y = language_model(arrays) if is_text else convnet(arrays)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not is_text)
    model.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss)
    batch_size = TEXT_BATCH if is_text else BATCH
    model.fit(x, y, batch_size=batch_size, epochs=FLAGS.epochs, verbose=1 if sys.stdout.isatty() else 2)
    with replacing(data_file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    atomic_write_text(flags_file, json.dumps(own_flags))
    with replacing(model_file) as temporary:  # Last, because its presence says that the other files are complete.
        model.save(temporary)


def image_arrays() -> dict:
    """Returns images and classes for training and validation."""
    from r2keras.workloads import data

    images = data.load(FLAGS.dataset, FLAGS.data_dir)
    x, y = images.x_train[: FLAGS.size], images.y_train[: FLAGS.size]
    return {"x": x, "y": y, "x_val": images.x_validation, "y_val": images.y_validation}


def text_arrays() -> dict:
    """Returns a text as word ids for training and validation."""
    from r2keras.workloads import text

    words = text.load(FLAGS.data_dir)
    return {"train": words.train[: FLAGS.size], "valid": words.validation}


def convnet(arrays: dict) -> tuple:
    """Returns a net of three convolutions with batch norm and a dense layer, and its training data."""
    from r2keras.workloads import nets

    x, y = arrays["x"], arrays["y"]
    return nets.build("cnn", x.shape[1:], int(y.max()) + 1), x, y


def language_model(arrays: dict) -> tuple:
    """Returns a net of an embedding, an LSTM and a softmax over the words, and its training windows."""
    import keras
    from keras import layers

    train = arrays["train"]
    words = int(max(train.max(), arrays["valid"].max())) + 1
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(words, FLAGS.units, name="words")(inputs)
    x = layers.LSTM(FLAGS.units, return_sequences=True, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(words, activation="softmax", name="softmax")(layers.Dropout(0.3)(x)))
    count = (len(train) - 1) // LENGTH
    if count < 1:
        raise ValueError(f"--size={len(train)} is too small for a window: expected at least {LENGTH + 1} words.")
    ids = train[: count * LENGTH + 1]
    return model, ids[:-1].reshape(count, LENGTH), ids[1:].reshape(count, LENGTH)


if __name__ == "__main__":
    start(main)
