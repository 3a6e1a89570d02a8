r"""Searches bits x width x method for the smallest model that keeps the quality, or the best one within a byte budget.

Each candidate is the model widened (r2keras.widen), quantized and trained for a few epochs. Its bytes are known
beforehand (r2keras.footprint), so candidates over --max_bytes cost nothing. Each width is trained as float too, as a
control that shows what widening alone brings.

An image classifier, inputs `x` and class numbers `y` in an .npz (and `x_val`, `y_val`, otherwise a fifth is held out):

    r2keras-search --model=m.keras --data=x.npz --bits=2,4,8 --widths=1,1.5,2 --methods=ste,ewgs,palette \
        --max_bytes=60000 --max_drop=0.01 --epochs=5 --out=out/search

A language model that ends in a softmax over the words, text as two vectors `train` and `valid` of word numbers:

    r2keras-search --model=lstm.keras --data=ptb.npz --metric=perplexity --match="lstm|words" \
        --bits=2,3,4,8 --widths=1,1.25,1.5,2 --max_drop=0.02 --granularity=per_tensor --epochs=4 --out=out/ptb

Stop it with Ctrl-C; the same command resumes it, and may add --trials, --bits or --widths. --jobs=4 trains four
candidates at a time. Other machines may work on the same --study folder, too.

--out receives results.json (one row per candidate, the Pareto front, the recommendation), front.png and front.svg. The
models on the Pareto front and their records, ready for r2keras-convert, are in the folder `models` of the study.

Exit code: 0, 1 if nothing meets the limits or no candidate could be trained, 2 after a user error, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

import r2keras
from r2keras.cli import common

FLAGS = flags.FlagValues()
MISSED = 1
# The flags that are settings of `r2keras.search.Search`, by the same name.
SETTINGS = (
    *("model", "data", "metric", "max_bytes", "max_drop", "epochs", "seed", "trials", "match", "keep_float"),
    *("granularity", "activation_bits", "activation_method", "start", "learning_rate", "batch_size", "length"),
    *("early_stopping", "count"),
)

flags.DEFINE_string("model", None, "The float Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Samples and labels, or text, .npz.", flag_values=FLAGS)
flags.DEFINE_string("out", None, "The folder for results.json and the plots.", flag_values=FLAGS)
flags.DEFINE_string("study", None, "The folder of the study; by default `study` in --out.", flag_values=FLAGS)
flags.DEFINE_list("bits", ["2", "3", "4", "8"], "Numbers of bits per weight to try, 1 to 8.", flag_values=FLAGS)
flags.DEFINE_list("widths", ["1", "1.25", "1.5", "2"], "Factors of the layers' widths to try.", flag_values=FLAGS)
flags.DEFINE_list("methods", ["ste"], "Methods to try: those of r2keras.QuantSpec, or palette.", flag_values=FLAGS)
flags.DEFINE_integer("max_bytes", None, "The most bytes that the weights may take.", flag_values=FLAGS)
flags.DEFINE_float(
    "max_drop",
    None,
    "The largest loss of accuracy (0.01 is one point), or relative rise of perplexity (0.01 is 1%).",
    flag_values=FLAGS,
)
flags.DEFINE_string("metric", "accuracy", "The quality measure: accuracy or perplexity.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 3, "Epochs of each training.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.", flag_values=FLAGS)
flags.DEFINE_integer(
    "trials", None, "The most candidates to train, not counting float controls; by default all.", flag_values=FLAGS
)
flags.DEFINE_integer("jobs", 1, "Candidates to train at a time, each in its own process.", flag_values=FLAGS)
flags.DEFINE_string(
    "match",
    None,
    "A regular expression for the layers to widen; by default the recurrent ones, or all if there are none.",
    flag_values=FLAGS,
)
flags.DEFINE_string("keep_float", None, "A regular expression for the kernels that stay float.", flag_values=FLAGS)
flags.DEFINE_string(
    "granularity", "per_channel", "Which weights share a scale: per_channel or per_tensor.", flag_values=FLAGS
)
flags.DEFINE_integer("activation_bits", None, "Bits of layer outputs and states, 2 to 8.", flag_values=FLAGS)
flags.DEFINE_string(
    "activation_method", None, "Their method; by default the counterpart of the weights' method.", flag_values=FLAGS
)
flags.DEFINE_string("start", "trained", "The initial weights: trained (widened) or fresh.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of Adam.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Samples per step.", flag_values=FLAGS)
flags.DEFINE_integer("length", 30, "Words per window of text.", flag_values=FLAGS)
flags.DEFINE_boolean(
    "early_stopping",
    True,
    "In the second half of the epochs, stop candidates that a smaller one is ahead of.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "count", "packed", "How to count bytes: packed codes, or the containers of a .tflite file.", flag_values=FLAGS
)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, search, argv, required=("model", "data", "out"))


def search() -> int:
    """Runs the search that the flags describe, or resumes it, and writes its results."""
    lists = {"bits": numbers("bits", int), "widths": numbers("widths", float), "methods": FLAGS.methods}
    folder = FLAGS.study or str(Path(FLAGS.out, "study"))
    common.import_keras()
    settings = r2keras.search.Search(**lists, **{name: FLAGS[name].value for name in SETTINGS})
    common.load_model(FLAGS.model)  # Raises for a model that cannot be read, before the study is opened.
    try:
        outcome = r2keras.search.run(settings, folder, jobs=FLAGS.jobs, progress=True)
    except KeyboardInterrupt:
        if Path(folder, "search.json").exists():
            write(r2keras.search.load(folder))
            sys.stderr.write("The same command resumes the search. ")
        raise
    write(outcome)
    print(outcome)
    limited = settings.max_bytes is not None or settings.max_drop is not None
    return 0 if outcome.front and (outcome.chosen is not None or not limited) else MISSED


def numbers(name: str, kind: type) -> list:
    """Returns the numbers of a list flag."""
    try:
        return [kind(text) for text in FLAGS[name].value]
    except ValueError as error:
        raise ValueError(f"--{name}={','.join(FLAGS[name].value)} is not a list of numbers such as 1,2") from error


def write(outcome) -> None:
    """Writes the rows, and the plots if any candidate is finished."""
    outcome.save(Path(FLAGS.out, "results.json"))
    if any(row["state"] == "complete" for row in outcome.rows):
        for suffix in ("png", "svg"):
            outcome.plot(Path(FLAGS.out, f"front.{suffix}"))


if __name__ == "__main__":
    sys.exit(main())
