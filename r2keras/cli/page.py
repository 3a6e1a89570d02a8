r"""Writes a web page that runs .tflite files on any phone or laptop: checks outputs, measures latency.

    r2keras-page --files=float.tflite,small.tflite --data=test.npz --output=page
    npm install --prefix page @litertjs/core@2.5.3
    python -m http.server 8000 --directory page

A phone in the same network opens http://ADDRESS:8000 with the address of this machine (docs/deploy/browser.md); nothing
is installed there. The page shows a table and exports it as JSON, which is read here:

    r2keras-page --read=device.json

The data are an .npz with the array `x`, or one array by the name of each input; the first --samples are run. The files
need a fixed batch: r2keras-convert --target=browser writes them.

Exit code: 0; 1 if --read names results with a wrong output; 2 if nothing was written or read.
"""

from __future__ import annotations

import sys

from absl import flags

import r2keras
from r2keras._util.files import read_npz
from r2keras.cli import common

FLAGS = flags.FlagValues()
FAILED = 1

flags.DEFINE_list(
    "files", None, "The .tflite files, separated by commas; the first is the reference.", flag_values=FLAGS
)
flags.DEFINE_string("data", None, "Inputs, .npz.", flag_values=FLAGS)
flags.DEFINE_integer("samples", 8, "The number of samples that are compared.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The folder to write.", flag_values=FLAGS)
flags.DEFINE_string(
    "litert_js", None, "The folder in which `npm install @litertjs/core@2.5.3` ran, to copy it.", flag_values=FLAGS
)
flags.DEFINE_string("title", "Files on this device", "The heading of the page.", flag_values=FLAGS)
flags.DEFINE_string("read", None, "Results that a page exported, .json; prints them.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, page, argv)


def page() -> int:
    """Writes the page, or prints results."""
    if FLAGS.read:
        others = [name for name in ("files", "data", "output") if FLAGS[name].value]
        if others:
            raise ValueError(f"--read prints results; --{others[0]} writes a page: give one of them")
        common.import_keras()
        results = r2keras.export.DeviceResults.load(FLAGS.read)
        print(results)
        return FAILED if any(result.passed is False for result in results.results) else 0
    common.need(FLAGS, "files", "data", "output")
    if FLAGS.samples < 1:
        raise ValueError(f"--samples={FLAGS.samples} is too small: expected at least 1")
    arrays = read_npz(FLAGS.data)
    common.import_keras()
    from r2keras.export.devices.golden import first_samples

    first = FLAGS.files[0]
    inputs = first_samples(arrays, r2keras.export.LiteRTModel(first).input_names, FLAGS.samples, first)
    path = r2keras.export.web_page(FLAGS.files, inputs, FLAGS.output, litert_js=FLAGS.litert_js, title=FLAGS.title)
    print(f"{path}\n")
    if not FLAGS.litert_js:
        print(f"npm install --prefix {FLAGS.output} @litertjs/core@2.5.3")
    print(f"python -m http.server 8000 --directory {FLAGS.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
