r"""Shows what a .tflite file holds, and what its runtimes do with it.

    r2keras-inspect --file=small.tflite

Inputs and outputs with their types and grids; operators, with those that XNNPACK leaves to LiteRT's slower kernels, and
why; the largest constants with their bits and bytes; whether LiteRT for Microcontrollers runs the file, and in how much
memory (needs `pip install 'r2keras[tflm]'`); what Arm's compiler puts on an Ethos-U NPU (`pip install 'r2keras[npu]'`).
The file may be of any tool. With --json the same goes to a file, complete:

    r2keras-inspect --file=small.tflite --json=small.json

Exit code: 0, or 2 if the file cannot be read.
"""

from __future__ import annotations

import json
import sys

from absl import flags

import r2keras
from r2keras._util.files import atomic_write_text
from r2keras.cli import common
from r2keras.cli.stages import stage

FLAGS = flags.FlagValues()

flags.DEFINE_string("file", None, "The .tflite file.", flag_values=FLAGS)
flags.DEFINE_string("json", None, "Where to write all of it as JSON.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, inspect, argv, required=("file",))


def inspect() -> int:
    """Prints the tables, and writes the JSON file if the flags name one."""
    common.keep_inputs(FLAGS, ["file"], ["json"])
    common.import_keras()
    with stage(f"Reading {FLAGS.file}", line=False):
        found = r2keras.export.inspect(FLAGS.file)
    if FLAGS.json:
        atomic_write_text(FLAGS.json, json.dumps(found.to_dict(), indent=1) + "\n")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
