"""Bits x width: a small float model is trained, then wider ones at fewer bits are searched for as good a model in less.

    python examples/bits_and_widths.py                                              # embedded digits: filters x bits
    python examples/bits_and_widths.py --dataset=fashion_mnist --data_dir=DIR       # the same on real images
    python examples/bits_and_widths.py --dataset=text                               # a small text: LSTM units x bits
    python examples/bits_and_widths.py --dataset=text --data_dir=DIR                # Penn Treebank

It writes `model.keras` and `data.npz` to --out and searches as r2keras-search does, whose command for the same search
is printed. Then: a table, results.json, front.png, front.svg, and the models of the front. Images are judged by a tenth
of the training images that nothing is trained on, text by the perplexity of its validation part, in windows that each
begin at a state of zeros (examples/ptb_lstm.py keeps the state). A killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path

from absl import app, flags
from pilot_lib.quiet import quiet_start

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ("digits", "fashion_mnist", "cifar10", "text"), "Images, or a text.")
flags.DEFINE_string("data_dir", None, "Folder of the data; digits and a small text need none.")
flags.DEFINE_integer("size", None, "Training images or words to take, the first ones; all by default.")
flags.DEFINE_integer("units", 100, "Units of the LSTM and length of an embedding; for text.")
flags.DEFINE_integer("epochs", 10, "Epochs of the float training.")
flags.DEFINE_integer("search_epochs", 3, "Epochs of each candidate.")
flags.DEFINE_list("bits", ["2", "3", "4"], "Bits a weight.")
flags.DEFINE_list("widths", ["1", "1.5", "2"], "Factors of filters and units.")
flags.DEFINE_list("methods", ["lsq"], "How weights are quantized; methods of r2keras.QuantSpec, or palette.")
flags.DEFINE_integer("activation_bits", None, "Bits of layers' outputs and states; float by default.")
flags.DEFINE_string("activation_method", None, "Their method; by default that of the weights.")
flags.DEFINE_float("learning_rate", 1e-3, "Of Adam, in the float training and the search.")
flags.DEFINE_float("max_drop", 0.01, "Accuracy, or share of perplexity, that may be lost.")
flags.DEFINE_integer("max_bytes", None, "Bytes that the weights may take.")
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_integer("jobs", 1, "Candidates trained at a time.")
flags.DEFINE_string("out", "out/bits_and_widths", "Folder for everything that is written.")
flags.DEFINE_bool("smoke", False, "Seconds: little data, one epoch, two candidates; its figures mean nothing.")

SMOKE = {"size": 400, "units": 8, "epochs": 1, "search_epochs": 1, "bits": ["2"], "widths": ["1.5"]}
COUNTS = ("size", "units", "epochs", "search_epochs", "jobs")
LISTS = ("bits", "widths", "methods")
# Samples a step: images in the float training, windows of text in both.
BATCH, TEXT_BATCH, LENGTH = 64, 20, 30


def main(argv: list[str]) -> int:
    if FLAGS.smoke:
        for name in [name for name in SMOKE if not FLAGS[name].present]:
            FLAGS[name].value = SMOKE[name]
    try:
        check(argv)
    except ValueError as error:
        return told(f"{error} See --helpshort.", 2)
    try:
        with quiet_start():
            import r2keras.search  # noqa: F401  (Keras and its backend come with it)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # It advises against training several models.
        return search()
    except (ValueError, OSError, ImportError) as error:
        return told(" ".join(str(error).split()), 1)
    except KeyboardInterrupt:
        return told("Stopped. What is finished is kept; the same command goes on there.", 130)


def told(sentence: str, code: int) -> int:
    """Writes a sentence to standard error; returns the exit code."""
    sys.stderr.write(f"{sentence}\n")
    return code


def check(argv: list[str]) -> None:
    """Raises ValueError for a command line that cannot be carried out."""
    if argv[1:]:
        raise ValueError(f"Unexpected argument {argv[1]!r}: write --flag=value.")
    for name in COUNTS:
        if FLAGS[name].value is not None and FLAGS[name].value < 1:
            raise ValueError(f"--{name}={FLAGS[name].value} is out of range: expected a number of at least 1.")
    if not 0 < FLAGS.learning_rate < float("inf"):
        raise ValueError(f"--learning_rate={FLAGS.learning_rate} is out of range: expected a number above 0.")
    for name, kind in (("bits", int), ("widths", float)):
        try:
            FLAGS[name].value = [kind(word) for word in FLAGS[name].value]
        except ValueError:
            raise ValueError(f"--{name}={','.join(FLAGS[name].value)} is no list of numbers, such as 1,2.") from None


def search() -> int:
    """Trains the float model if there is none yet, searches, and writes what was found."""
    import r2keras

    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    start(folder / "model.keras", folder / "data.npz")
    settings = r2keras.search.Search(**asked(folder))
    print(f"The same search: {command(asked(folder), folder)}")
    outcome = r2keras.search.run(settings, folder / "study", jobs=FLAGS.jobs, progress=True)
    outcome.save(folder / "results.json")
    for suffix in ("png", "svg"):
        outcome.plot(folder / f"front.{suffix}")
    print(outcome)
    return 0


def asked(folder: Path) -> dict:
    """Returns the settings of the search."""
    names = (*LISTS, "activation_bits", "activation_method", "learning_rate", "max_drop", "max_bytes", "seed")
    own = {"metric": "accuracy"}
    if FLAGS.dataset == "text":
        own = {"metric": "perplexity", "match": "lstm|words", "length": LENGTH, "batch_size": TEXT_BATCH}
    files = {"model": str(folder / "model.keras"), "data": str(folder / "data.npz")}
    return files | {name: FLAGS[name].value for name in names} | own | {"epochs": FLAGS.search_epochs}


def command(settings: dict, folder: Path) -> str:
    """Returns the command line of the same search."""
    words = {name: value for name, value in settings.items() if value is not None}
    lists = {name: ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in words[name]) for name in LISTS}
    more = {"study": folder / "study", "out": folder, "jobs": FLAGS.jobs}
    given = " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in (words | lists | more).items())
    return f"r2keras-search {given}"


def start(model_file: Path, data_file: Path) -> None:
    """Writes the data, and the float model trained on them; what is there from a run before stays."""
    import keras
    import numpy as np

    from r2keras._files import atomic_write_text, replacing

    of = {name: FLAGS[name].value for name in ("dataset", "size", "units", "epochs", "learning_rate", "seed")}
    settings = model_file.with_name("start.json")
    if model_file.exists():
        if json.loads(settings.read_text()) != of:
            raise ValueError(f"{model_file} was made with other flags. Choose another --out, or its flags again.")
        return
    text = FLAGS.dataset == "text"
    arrays = text_arrays() if text else image_arrays()
    keras.utils.set_random_seed(FLAGS.seed)
    model, x, y = language_model(arrays) if text else convnet(arrays)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not text)
    model.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss)
    batch, verbose = TEXT_BATCH if text else BATCH, 1 if sys.stdout.isatty() else 2
    model.fit(x, y, batch_size=batch, epochs=FLAGS.epochs, verbose=verbose)
    with replacing(data_file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    atomic_write_text(settings, json.dumps(of))
    with replacing(model_file) as temporary:  # Last: where it is, the others are.
        model.save(temporary)


def image_arrays() -> dict:
    """Returns images and classes, to train on and to judge by."""
    from r2keras.workloads import data

    found = data.load(FLAGS.dataset, FLAGS.data_dir)
    x, y = found.x_train[: FLAGS.size], found.y_train[: FLAGS.size]
    return {"x": x, "y": y, "x_val": found.x_validation, "y_val": found.y_validation}


def text_arrays() -> dict:
    """Returns a text as word numbers, to train on and to judge by."""
    from r2keras.workloads import text

    found = text.load(FLAGS.data_dir)
    return {"train": found.train[: FLAGS.size], "valid": found.validation}


def convnet(arrays: dict) -> tuple:
    """Returns three convolutions with batch norm and a dense layer, and what they are trained on."""
    from r2keras.workloads import nets

    x, y = arrays["x"], arrays["y"]
    return nets.build("cnn", x.shape[1:], int(y.max()) + 1), x, y


def language_model(arrays: dict) -> tuple:
    """Returns an embedding, an LSTM and a softmax over the words, and the windows they are trained on."""
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
        raise ValueError(f"--size={len(train)} leaves no window: expected at least {LENGTH + 1} words.")
    ids = train[: count * LENGTH + 1]
    return model, ids[:-1].reshape(count, LENGTH), ids[1:].reshape(count, LENGTH)


if __name__ == "__main__":
    app.run(main)
