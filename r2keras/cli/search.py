r"""Searches bits x width x method: the smallest model that keeps the quality, or the best one in so many bytes.

Every candidate is the model widened (r2keras.widen), quantized and trained for a few epochs. Its bytes are known before
(r2keras.footprint), so candidates over --max_bytes cost nothing. Each width is trained as float too: that control says
what widening alone brings.

An image classifier, inputs `x` and class numbers `y` in an .npz (and `x_val`, `y_val`, else a fifth is held out):

    python tools/search.py --model=m.keras --data=x.npz --bits=2,4,8 --widths=1,1.5,2 --methods=ste,ewgs,palette \
        --max_bytes=60000 --max_drop=0.01 --epochs=5 --out=out/search

A language model that ends in a softmax over the words, text as two vectors `train` and `valid` of word numbers:

    python tools/search.py --model=lstm.keras --data=ptb.npz --metric=perplexity --match="lstm|words" \
        --bits=2,3,4,8 --widths=1,1.25,1.5,2 --max_drop=0.02 --granularity=per_tensor --epochs=4 --out=out/ptb

Stop it with Ctrl-C; the same command goes on where it was, and may ask for more --trials, --bits or --widths. --jobs=4
trains four candidates at a time. Other machines may share the --study folder, too.

In --out: results.json (a row a candidate, the front, the recommendation), front.png and front.svg. The models of the
front and their records, ready for r2keras-convert, are in the study's folder `models`.

After an installation the same program is called r2keras-search. Exit code: 0, 1 if nothing meets the limits or no
candidate could be trained, 2 after a mistake, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

if __package__:
    from . import _cli
else:  # Run as a script: this folder itself is on the path.
    import _cli

FLAGS = flags.FlagValues()
MISSED = 1
# Flags that are settings of the search, by the same name.
SETTINGS = (
    *("model", "data", "metric", "max_bytes", "max_drop", "epochs", "seed", "trials", "match", "keep_float"),
    *("granularity", "activation_bits", "activation_method", "start", "learning_rate", "batch_size", "length"),
    *("early_stopping", "count"),
)

flags.DEFINE_string("model", None, "The float Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Samples and labels, or text, .npz.", flag_values=FLAGS)
flags.DEFINE_string("out", None, "The folder for results.json and the plots.", flag_values=FLAGS)
flags.DEFINE_string("study", None, "The folder of the study; by default `study` in --out.", flag_values=FLAGS)
flags.DEFINE_list("bits", ["2", "3", "4", "8"], "Bits a weight, 1 to 8 each.", flag_values=FLAGS)
flags.DEFINE_list("widths", ["1", "1.25", "1.5", "2"], "Factors of the layers' widths.", flag_values=FLAGS)
flags.DEFINE_list("methods", ["ste"], "Methods of r2keras.QuantSpec, or palette.", flag_values=FLAGS)
flags.DEFINE_integer("max_bytes", None, "Bytes that the weights may take.", flag_values=FLAGS)
flags.DEFINE_float(
    "max_drop",
    None,
    "Accuracy that may be lost (0.01: a point), or the rise of perplexity (0.01: 1%).",
    flag_values=FLAGS,
)
flags.DEFINE_string("metric", "accuracy", "What is judged: accuracy or perplexity.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 3, "Epochs of each training.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of everything random.", flag_values=FLAGS)
flags.DEFINE_integer("trials", None, "Candidates at most, float controls not counted; all.", flag_values=FLAGS)
flags.DEFINE_integer("jobs", 1, "Candidates trained at a time, each in a process.", flag_values=FLAGS)
flags.DEFINE_string("match", None, "Layers to widen, a regular expression; recurrent ones, or all.", flag_values=FLAGS)
flags.DEFINE_string("keep_float", None, "Kernels that stay float, a regular expression.", flag_values=FLAGS)
flags.DEFINE_string("granularity", "per_channel", "Who shares a scale: per_channel or per_tensor.", flag_values=FLAGS)
flags.DEFINE_integer("activation_bits", None, "Bits of layers' outputs and states, 2 to 8.", flag_values=FLAGS)
flags.DEFINE_string("activation_method", None, "Their method; by default that of the weights.", flag_values=FLAGS)
flags.DEFINE_string("start", "trained", "Widen the trained weights, or begin fresh.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 1e-3, "Of Adam.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Samples a step.", flag_values=FLAGS)
flags.DEFINE_integer("length", 30, "Words a window of text.", flag_values=FLAGS)
flags.DEFINE_boolean("early_stopping", True, "Half way on, give up what a smaller one is ahead of.", flag_values=FLAGS)
flags.DEFINE_string("count", "packed", "Count codes packed, or in the containers of a .tflite.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns its exit code."""
    return _cli.run(FLAGS, __doc__, search, argv)


def search() -> int:
    """Runs the search that the flags describe, or what is left of it, and writes what it found."""
    _cli.need(FLAGS, "model", "data", "out")
    lists = {"bits": numbers("bits", int), "widths": numbers("widths", float), "methods": FLAGS.methods}
    folder = FLAGS.study or str(Path(FLAGS.out, "study"))
    r2keras = _cli.load_r2keras()
    settings = r2keras.search.Search(**lists, **{name: FLAGS[name].value for name in SETTINGS})
    _cli.load_model(FLAGS.model)
    try:
        outcome = r2keras.search.run(settings, folder, jobs=FLAGS.jobs, progress=True)
    except KeyboardInterrupt:
        if Path(folder, "search.json").exists():
            write(r2keras.search.load(folder))
            sys.stderr.write("The same command goes on from here. ")
        raise
    write(outcome)
    print(outcome)
    limited = settings.max_bytes is not None or settings.max_drop is not None
    return 0 if outcome.front and (outcome.chosen is not None or not limited) else MISSED


def numbers(name: str, kind: type) -> list:
    """Returns the numbers of a flag that is a list."""
    try:
        return [kind(text) for text in FLAGS[name].value]
    except ValueError as error:
        raise ValueError(f"--{name}={','.join(FLAGS[name].value)} is no list of numbers, such as 1,2") from error


def write(outcome) -> None:
    """Writes rows and plots; without a finished candidate there is nothing to plot."""
    outcome.save(Path(FLAGS.out, "results.json"))
    if any(row["state"] == "complete" for row in outcome.rows):
        for suffix in ("png", "svg"):
            outcome.plot(Path(FLAGS.out, f"front.{suffix}"))


if __name__ == "__main__":
    sys.exit(main())
