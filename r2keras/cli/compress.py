r"""Finds the bits of each layer that give the smallest .tflite file within limits, from a model and unlabeled inputs.

    r2keras-compress --model=m.keras --data=x.npz --max_drop=0.01 --out=out/small

--data has the inputs `x`, or one array by the name of each input; a thousand samples are good. With class numbers `y`
the drop is one of accuracy. Without, it is what accuracy is expected to drop by, from the float model's probabilities.

The best quality within a number of bytes, and the smallest file within both limits:

    r2keras-compress --model=m.keras --data=x.npz --max_bytes=40000 --out=out/small
    r2keras-compress --model=m.keras --data=x.npz --max_bytes=40000 --max_drop=0.02 --out=out/small

A file for microcontrollers, on integers; and ten epochs of training without labels where nothing else is small enough:

    r2keras-compress --model=m.keras --data=x.npz --max_drop=0.01 --target=mcu --out=out/small
    r2keras-compress --model=m.keras --data=x.npz --max_drop=0.01 --train=10 --out=out/small

--out receives model.tflite, model.keras, model.record.npz, recipe.yaml, results.json, report.html (with the extra
`report`), and the file of every candidate. Stop it with Ctrl-C; the same command continues.

Exit code: 0, 1 if nothing meets the limits (the nearest candidate is written), 2 after an error, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from absl import flags

from r2keras.cli import common

FLAGS = flags.FlagValues()
MISSED = 1

flags.DEFINE_string("model", None, "The float Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Inputs `x` and, optionally, class numbers `y`, .npz.", flag_values=FLAGS)
flags.DEFINE_string("out", None, "The folder for the file, the report and all candidates.", flag_values=FLAGS)
flags.DEFINE_integer("max_bytes", None, "The most bytes of the file.", flag_values=FLAGS)
flags.DEFINE_float("max_drop", None, "The largest loss of quality: 0.01 is one point of accuracy.", flag_values=FLAGS)
flags.DEFINE_list("bits", ["8", "4", "2"], "Numbers of bits per weight to choose from, 1 to 8.", flag_values=FLAGS)
flags.DEFINE_string("target", "cpu", "What the file is for: any, cpu, browser or mcu.", flag_values=FLAGS)
flags.DEFINE_boolean(
    "palettes", None, "Whether palettes compete with grids; by default where the target takes them.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "integer", None, "Whether the file computes on integers of 8 bits; by default where it must.", flag_values=FLAGS
)
flags.DEFINE_integer("train", None, "Epochs of training without labels for smaller files.", flag_values=FLAGS)
flags.DEFINE_string(
    "metric",
    None,
    "accuracy, expected_accuracy, agreement or output_error; by default accuracy if there are labels.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("max_samples", None, "The number of samples to use; by default all.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, compress, argv, required=("model", "data", "out"))


def compress() -> int:
    """Compresses the model that the flags name."""
    try:
        bits = [int(text) for text in FLAGS.bits]
    except ValueError as error:
        raise ValueError(f"--bits={','.join(FLAGS.bits)} is not a list of numbers such as 8,4,2") from error
    model = common.load_model(FLAGS.model)
    inputs, others = common.load_inputs(FLAGS.data, model)
    import r2keras

    with _Stages():
        result = r2keras.compress(
            model,
            list(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values())),
            max_bytes=FLAGS.max_bytes,
            max_drop=FLAGS.max_drop,
            labels=others.get("y") if FLAGS.metric in (None, "accuracy") else None,
            metric=FLAGS.metric,
            bits=bits,
            target=FLAGS.target,
            palettes=FLAGS.palettes,
            integer=FLAGS.integer,
            train=FLAGS.train,
            folder=FLAGS.out,
            max_samples=FLAGS.max_samples,
        )
    print(result)
    report = Path(FLAGS.out, "report.html")
    beside = " and report.html beside it" if report.exists() else "; report.html needs pip install 'r2keras[report]'"
    print(f"Written: {Path(FLAGS.out, 'model.tflite')}{beside}.")
    return 0 if result.is_met else MISSED


class _Stages:
    """While it is open, the stages that are logged go to standard error, with the seconds since the start."""

    def __init__(self) -> None:
        self.handler = logging.StreamHandler(sys.stderr)
        self.logger = logging.getLogger("r2keras.automatic")

    def __enter__(self) -> None:
        start = time.time()
        self.handler.setFormatter(logging.Formatter("%(message)s ..."))
        self.handler.addFilter(lambda record: _timed(record, start))
        self.logger.addHandler(self.handler)
        self.level, self.logger.propagate = self.logger.level, False
        self.logger.setLevel(logging.INFO)

    def __exit__(self, *exception: object) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.setLevel(self.level)
        self.logger.propagate = True


def _timed(record: logging.LogRecord, start: float) -> bool:
    """Puts the seconds since the start in front of a record's text."""
    record.msg = f"{record.created - start:6.1f} s  {record.msg}"
    return True


if __name__ == "__main__":
    sys.exit(main())
