r"""Expands a compact .tflite file to a plain float one, when a model is installed or loaded.

    r2keras-expand --input=small.tflite --output=float.tflite

Codes, palette indices and tables are decoded bit for bit as LiteRT would decode them at its first call. The float file
runs as fast as one that was never compressed; ship the small one. No runtime opens the file: it is decoded with NumPy.

A bundle, for loaders that cannot read flatbuffers (docs/deploy/bundle_layout.md): the skeleton of the file, codes,
tables, and where each of them goes.

    r2keras-expand --input=small.tflite --output=small.bundle

Exit code: 0, or 2 if nothing was written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import flags

import r2keras
from r2keras._util.files import atomic_write_bytes
from r2keras.cli import common

FLAGS = flags.FlagValues()

flags.DEFINE_string("input", None, "The compact .tflite file.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The file to write: .tflite (float) or .bundle.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, expand, argv, required=("input", "output"))


def expand() -> int:
    """Writes the file that the flags name and prints the sizes of both."""
    suffix = Path(FLAGS.output).suffix
    if suffix not in (".tflite", ".bundle"):
        raise ValueError(f"--output={FLAGS.output} should end in .tflite or .bundle")
    common.keep_inputs(FLAGS, ["input"], ["output"])
    common.import_keras()
    write = r2keras.export.expand if suffix == ".tflite" else r2keras.export.bundle
    data = write(FLAGS.input)
    atomic_write_bytes(FLAGS.output, data)
    print(f"{FLAGS.input}: {os.path.getsize(FLAGS.input):,} bytes\n{FLAGS.output}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
