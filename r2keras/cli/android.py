r"""Runs .tflite files on an Android phone: latency, memory, delegated operators, and whether the outputs are right.

The phone needs USB debugging, this computer the program adb (Debian and Ubuntu: apt-get install adb). The work on the
phone is done by LiteRT's own android_aarch64_benchmark_model, which is not part of this package; download it from
https://developers.google.com/edge/litert/models/measurement.

A phone at hand: send the files, run them, print a table and keep it in results.json. Runs that the file holds already
are not repeated, so a run that was stopped goes on when it is called again. Runs that failed, that were not checked
with the same samples and expected outputs, or that were timed fewer times than --num_runs, are repeated.

    r2keras-android run --files=float.tflite,small.tflite --data=test.npz \
        --benchmark_model=android_aarch64_benchmark_model

A phone elsewhere: write one .zip. A colleague unpacks it, puts benchmark_model beside run.sh, and runs `sh run.sh`,
which needs adb alone. The results that come back are read here.

    r2keras-android bundle --files=float.tflite,small.tflite --data=test.npz --output=phone.zip
    r2keras-android read --logs=results.zip

The data are an .npz with the array `x`, or one array by the name of each input. The outputs of the first --samples are
computed here and compared with those of the phone: outside the tolerance of r2keras.export.golden they fail. Outputs
are written by a benchmark_model of 2023 or later; of an older one, and without --data, they are not checked.

Each file runs with every number of --threads on every one of --kernels: once for the times, once for the memory, since
watching it costs time, and once per sample for the outputs.

Exit code: 0; 1 if a file failed or its outputs differ; 2 if nothing could be run or read; 130 after Ctrl-C, which keeps
what is finished and removes the files from the phone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from r2keras._util.files import atomic_write_bytes, read_npz
from r2keras._util.text import to_text
from r2keras.cli import common

if TYPE_CHECKING:
    from r2keras.export import DeviceResults
    from r2keras.export.devices.android.plan import Plan

FLAGS = flags.FlagValues()
FAILED = 1

flags.DEFINE_list("files", None, "bundle, run: the .tflite files, separated by commas.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "bundle, run: inputs whose outputs are compared, .npz.", flag_values=FLAGS)
flags.DEFINE_integer("samples", 4, "bundle, run: the number of samples that are compared.", flag_values=FLAGS)
flags.DEFINE_list("threads", ["1", "4"], "bundle, run: numbers of threads.", flag_values=FLAGS)
flags.DEFINE_list(
    "kernels",
    ["xnnpack", "builtin"],
    "bundle, run: xnnpack, as apps run files, or builtin, LiteRT's own kernels, or both.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("num_runs", 50, "bundle, run: the least number of timed runs.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "bundle: the .zip to write.", flag_values=FLAGS)
flags.DEFINE_string(
    "benchmark_model", None, "run: LiteRT's android_aarch64_benchmark_model on this computer.", flag_values=FLAGS
)
flags.DEFINE_string("serial", None, "run: the serial number of the phone, if several are connected.", flag_values=FLAGS)
flags.DEFINE_boolean("fresh", False, "run: start over, in place of continuing --results.", flag_values=FLAGS)
flags.DEFINE_string("logs", None, "read: the folder results, or results.zip, of run.sh.", flag_values=FLAGS)
flags.DEFINE_string("results", "results.json", "run, read: the file of results to write, .json.", flag_values=FLAGS)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    argv = list(sys.argv if argv is None else argv)
    named = argv[1:2] if argv[1:2] and not argv[1].startswith("-") else []
    program = COMMANDS.get(named[0], lambda: _unknown(named)) if named else lambda: _unknown(named)
    return common.run(FLAGS, __doc__, program, [argv[0], *argv[1 + len(named) :]])


def bundle() -> int:
    """Writes the .zip for a phone elsewhere."""
    common.need(FLAGS, "files", "output")
    if not FLAGS.output.endswith(".zip"):
        raise ValueError(f"--output={FLAGS.output} should end in .zip")
    plan = _plan()
    from r2keras.export.devices.android.kit import write_kit

    data = write_kit(FLAGS.files, plan)
    atomic_write_bytes(FLAGS.output, data)
    print(
        f"{FLAGS.output}: {len(data):,} bytes, runs to do: {len(plan.runs())}. Beside run.sh belongs benchmark_model."
    )
    return 0


def run() -> int:
    """Runs files on a connected phone."""
    common.need(FLAGS, "files", "benchmark_model")
    common.import_keras()
    from r2keras.export.devices.android.binary import check_binary

    check_binary(FLAGS.benchmark_model)
    plan = _plan()
    from r2keras.export.devices.android.phone import run_on_phone

    results = run_on_phone(
        FLAGS.files,
        plan,
        FLAGS.benchmark_model,
        FLAGS.results,
        serial=FLAGS.serial,
        fresh=FLAGS.fresh,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return _show(results)


def read() -> int:
    """Reads what a colleague sent back."""
    common.need(FLAGS, "logs")
    common.import_keras()
    from r2keras.export.devices.android.logs import read_logs

    results = read_logs(FLAGS.logs)
    results.save(FLAGS.results)
    return _show(results)


COMMANDS: dict[str, Callable[[], int]] = {"bundle": bundle, "run": run, "read": read}


def _unknown(named: list[str]) -> int:
    """Raises the error for a first argument that is not a command."""
    received = f"Received: {named[0]!r}" if named else "Received none"
    raise flags.Error(f"The first argument should be bundle, run or read. {received}")


def _plan() -> Plan:
    """Returns what the flags ask a phone to run."""
    try:
        threads = [int(text) for text in FLAGS.threads]
    except ValueError as error:
        raise ValueError(f"--threads={','.join(FLAGS.threads)} should be numbers, such as 1,4") from error
    data = read_npz(FLAGS.data) if FLAGS.data else None
    common.import_keras()
    from r2keras.export.devices.android.plan import make_plan

    return make_plan(
        FLAGS.files, data, threads=threads, kernels=FLAGS.kernels, num_runs=FLAGS.num_runs, samples=FLAGS.samples
    )


def _show(results: DeviceResults) -> int:
    """Prints results and returns the exit code."""
    from r2keras.export.devices.android.table import phone_table

    print(to_text(phone_table(results)))
    print(f"{FLAGS.results}: {len(results.results)} results")
    return FAILED if any(r.error is not None or r.passed is False for r in results.results) else 0


if __name__ == "__main__":
    sys.exit(main())
