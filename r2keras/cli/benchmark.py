r"""Times .tflite files in turns on this machine, and prints ratios with their spread.

    r2keras-benchmark --files=float.tflite,w8.tflite,w4.tflite

Every round runs every file, in a random order, so that a slowdown of the machine affects all of them; the ratio of each
round is to the first file. Times of another processor than the device's say little about the device: r2keras-android
measures on a phone, and r2keras.export.web_page in a browser.

    r2keras-benchmark --files=a.tflite,b.tflite --threads=4 --rounds=50 --json=times.json

With --operators a second table per file shows where its time goes: each operator alone, its bytes, and whether it reads
few-bit weights as they are stored ("packed") or decodes them at every call.

    r2keras-benchmark --files=small.tflite --operators

Exit code: 0, or 2 if a file cannot be run.
"""

from __future__ import annotations

import json
import sys

from absl import flags

import r2keras
from r2keras._util.errors import MOST_THREADS
from r2keras._util.files import atomic_write_text
from r2keras.cli import common

FLAGS = flags.FlagValues()

flags.DEFINE_list("files", None, "The .tflite files, separated by commas.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 25, "Rounds, in each of which every file runs.", flag_values=FLAGS)
flags.DEFINE_integer("runs", 20, "Runs of each file per round.", flag_values=FLAGS)
flags.DEFINE_integer("threads", 1, "Threads of the interpreter, 1 to 1024.", flag_values=FLAGS)
flags.DEFINE_boolean("xnnpack", True, "Whether XNNPACK may run operators, as on phones.", flag_values=FLAGS)
flags.DEFINE_boolean("operators", False, "Whether to time each operator too.", flag_values=FLAGS)
flags.DEFINE_string("json", None, "Where to write the figures as JSON.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, benchmark, argv, required=("files",))


def benchmark() -> int:
    """Times the files and prints the table."""
    repeated = [name for name in FLAGS.files if FLAGS.files.count(name) > 1]
    if repeated:
        raise ValueError(f"--files names {repeated[0]} twice")
    if not 1 <= FLAGS.threads <= MOST_THREADS:
        raise ValueError(f"--threads={FLAGS.threads} should be a number from 1 to {MOST_THREADS}")
    common.import_keras()
    result = r2keras.export.benchmark(
        {name: name for name in FLAGS.files},
        rounds=FLAGS.rounds,
        runs=FLAGS.runs,
        num_threads=FLAGS.threads,
        xnnpack=FLAGS.xnnpack,
        isolated=True,
        progress=sys.stderr.isatty(),
    )
    options = {"num_threads": FLAGS.threads, "xnnpack": FLAGS.xnnpack, "progress": sys.stderr.isatty()}
    profiles = [r2keras.export.profile(name, **options) for name in FLAGS.files if FLAGS.operators]
    if FLAGS.json:
        operators = {"operators": [found.to_dict() for found in profiles]} if FLAGS.operators else {}
        atomic_write_text(FLAGS.json, json.dumps(result.to_dict() | operators, indent=1) + "\n")
    for table in (result, *profiles):
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
