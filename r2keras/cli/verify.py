"""Compares a .tflite file with its Keras model on the same inputs, and fails if they disagree.

The data are an .npz with the array `x`, or with one array by the name of each input. With an array `y` of integer
class labels, the accuracy of both is printed too.

    r2keras-verify --model=small.keras --file=small.tflite --data=test.npz

A file that r2keras exported computes what its model computes, up to float32 rounding; the default tolerance, 1e-5 of
the output's range, is for that. Compare it with the COMPRESSED model (r2keras-convert --model_output writes it). The
float model that it came from differs by what quantization costs, and needs a tolerance of your choice:

    r2keras-verify --model=m.keras --file=small.tflite --data=test.npz --tolerance=0.05

A file of integer operators (r2keras-convert --activations=int8) rounds in places where its model does not: judge it by
its decisions.

    r2keras-verify --model=small.keras --file=small.tflite --data=test.npz --min_agreement=0.99

Which layer is the first to differ, with --layers: every layer's output beside the file's tensor, the signal to noise
ratio in decibels, and the share of values at the ends of their grid. For files that you trust: these run here.

    r2keras-verify --model=small.keras --file=small.tflite --data=test.npz --layers

Otherwise the file runs in a process of its own: one that is damaged cannot crash this program.

Exit code: 0 if they agree, 1 if they do not, 2 if they could not be compared.
"""

from __future__ import annotations

import sys

from absl import flags

import r2keras
from r2keras.cli import common

FLAGS = flags.FlagValues()
DISAGREE = 1

flags.DEFINE_string("model", None, "The Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("file", None, "The .tflite file.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Inputs `x` and, optionally, labels `y`, .npz.", flag_values=FLAGS)
flags.DEFINE_float(
    "tolerance", 1e-5, "The largest difference allowed, relative to the output's range.", flag_values=FLAGS
)
flags.DEFINE_float(
    "min_agreement",
    None,
    "The least share of equal decisions, 0 to 1, judged instead of --tolerance; for files of integer operators.",
    flag_values=FLAGS,
)

flags.DEFINE_boolean("layers", False, "Whether to compare layer by layer, too.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, verify, argv, required=("model", "file", "data"))


def verify() -> int:
    """Compares file and model, prints the comparison and returns the exit code."""
    if not 0 <= FLAGS.tolerance < float("inf"):
        raise ValueError(f"--tolerance={FLAGS.tolerance} is out of range: expected a number of at least 0")
    if FLAGS.min_agreement is not None and not 0 <= FLAGS.min_agreement <= 1:
        raise ValueError(f"--min_agreement={FLAGS.min_agreement} is out of range: expected a number from 0 to 1")
    model = common.load_model(FLAGS.model)
    inputs, others = common.load_inputs(FLAGS.data, model)
    data = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    labels = others.get("y")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.size != len(next(iter(inputs.values())))):
        raise ValueError(
            f"The array `y` in --data={FLAGS.data} is of type {labels.dtype} and shape {labels.shape}. Expected "
            "integer class labels, one per sample"
        )
    verification = r2keras.export.verify(model, FLAGS.file, data, labels=labels, isolated=True)
    agree = verification.passed(FLAGS.tolerance, min_agreement=FLAGS.min_agreement)
    print(verification)
    if FLAGS.min_agreement is None:
        limit = f"within {FLAGS.tolerance:g} of the output range"
    else:
        limit = f"in {FLAGS.min_agreement:.2%} of the decisions"
    if FLAGS.layers:
        print(r2keras.compare(model, FLAGS.file, list(inputs.values())))
    print(f"{'agree' if agree else 'DISAGREE'} {limit}")
    return 0 if agree else DISAGREE


if __name__ == "__main__":
    sys.exit(main())
