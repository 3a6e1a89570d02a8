r"""Expands a compact .tflite file to the plain float one, where a model is installed or loaded.

    python tools/expand.py --input=small.tflite --output=float.tflite

Codes, palette indices and tables are decoded as LiteRT would at its first call, bit for bit. The float file runs at the
speed of one that was never compressed; ship the small one.

For a loader that knows no flatbuffers (docs/bundle_layout.md), a bundle: skeleton, codes, tables, and where each goes.

    python tools/expand.py --input=small.tflite --output=small.bundle

After an installation the same program is called r2keras-expand. Exit code: 0, or 2 if nothing was written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import flags

if __package__:
    from . import _cli
else:  # Run as a script: this folder itself is on the path.
    import _cli

FLAGS = flags.FlagValues()

flags.DEFINE_string("input", None, "The compact .tflite file.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The file to write: .tflite (float) or .bundle.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns its exit code."""
    return _cli.run(FLAGS, __doc__, expand, argv)


def expand() -> int:
    """Writes what the flags say and prints both sizes."""
    _cli.need(FLAGS, "input", "output")
    suffix = Path(FLAGS.output).suffix
    if suffix not in (".tflite", ".bundle"):
        raise ValueError(f"--output={FLAGS.output} should end in .tflite or .bundle")
    export = _cli.load_r2keras().export
    from r2keras._files import atomic_write_bytes

    data = (export.expand if suffix == ".tflite" else export.bundle)(FLAGS.input)
    atomic_write_bytes(FLAGS.output, data)
    print(f"{FLAGS.input}: {os.path.getsize(FLAGS.input):,} bytes\n{FLAGS.output}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
