"""Runs a .tflite file beside its Keras model on the same inputs, and fails if they disagree.

The data are an .npz with the array `x`, or with one array by the name of each input. With an array `y` of integer
class labels the accuracy of both is shown too.

    python tools/verify.py --model=small.keras --file=small.tflite --data=test.npz

A file made by `r2keras.export` computes what its model does, up to the rounding of float32: the default tolerance,
1e-5 of the output's range, is for those. Compare with the COMPRESSED model (convert.py --model_output writes it); the
float model it came from differs by what quantization costs, and needs a tolerance of your own:

    python tools/verify.py --model=m.keras --file=small.tflite --data=test.npz --tolerance=0.05

A file of integer operators (convert.py --activations=int8) rounds where its model does not: judge it by its decisions.

    python tools/verify.py --model=small.keras --file=small.tflite --data=test.npz --min_agreement=0.99

After an installation the same program is called r2keras-verify. Exit code: 0 if they agree, 1 if they do not, 2 if the
two could not be compared.
"""

from __future__ import annotations

import sys

from absl import flags

if __package__:
    from . import _cli
else:  # Run as a script: this folder itself is on the path.
    import _cli

FLAGS = flags.FlagValues()
DISAGREE = 1

flags.DEFINE_string("model", None, "The Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("file", None, "The .tflite file.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Inputs `x`, and optionally labels `y`, .npz.", flag_values=FLAGS)
flags.DEFINE_float("tolerance", 1e-5, "Largest difference allowed, relative to the output's range.", flag_values=FLAGS)
flags.DEFINE_float(
    "min_agreement", None, "Least share of same decisions, judged instead: for integer files.", flag_values=FLAGS
)


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns its exit code."""
    return _cli.run(FLAGS, __doc__, verify, argv)


def verify() -> int:
    """Compares what the flags say, prints the comparison and returns the exit code."""
    _cli.need(FLAGS, "model", "file", "data")
    if not 0 <= FLAGS.tolerance < float("inf"):
        raise ValueError(f"--tolerance={FLAGS.tolerance} is out of range: expected a number from 0")
    if FLAGS.min_agreement is not None and not 0 <= FLAGS.min_agreement <= 1:
        raise ValueError(f"--min_agreement={FLAGS.min_agreement} is out of range: expected a number from 0 to 1")
    r2keras = _cli.load_r2keras()
    model = _cli.load_model(FLAGS.model)
    inputs, others = _cli.load_inputs(FLAGS.data, model)
    first = next(iter(inputs.values()))
    data = inputs if len(inputs) > 1 else first
    found = r2keras.export.verify(model, FLAGS.file, data, labels=others.get("y"))
    agree = found.passed(FLAGS.tolerance, min_agreement=FLAGS.min_agreement)
    print(found)
    least = FLAGS.min_agreement
    limit = f"within {FLAGS.tolerance:g} of the output range" if least is None else f"in {least:.2%} of the decisions"
    print(f"{'agree' if agree else 'DISAGREE'} {limit}")
    return 0 if agree else DISAGREE


if __name__ == "__main__":
    sys.exit(main())
