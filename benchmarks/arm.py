"""Files on an emulated ARM processor against the same files on x86: do they compute the same?

    apt-get install qemu-user
    python benchmarks/arm.py                     # an hour on 2 cores; finished files are kept in results/arm.json
    python benchmarks/arm.py --files='dense-*' --cpus=sme,cortex-a7
    python benchmarks/arm.py --table             # the tables, from the results file

Debian's Python for ARM and the wheels of ai-edge-litert and NumPy for it are fetched into --root; nothing is installed
on the host. QEMU runs them on processors without dot products (cortex-a53), with them (cortex-a76), with 8-bit matrix
products (i8mm), and with SME (sme). On a 32-bit one (cortex-a7) tflite-runtime of 2023 runs. Small nets of each kind
are written in each form of file. Every file runs with XNNPACK and on the built-in kernels, one thread, four samples one
by one and twelve in a batch. A row compares the outputs of one file, processor and kind of kernels with those of the
same kind of kernels of ai-edge-litert on x86. Emulation says nothing about time.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import arm_files, arm_rows, arm_system, arm_table
from benchmarks.arm_files import File
from benchmarks.common import Row, Rows, machine, revision
from r2keras.cli import common as cli

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "arm.json"
KEYS = ("file", "cpu", "kernels")

FLAGS = flags.FlagValues()
flags.DEFINE_string("root", str(HERE.parent / "out" / "arm"), "Folder of the ARM system.", flag_values=FLAGS)
flags.DEFINE_string("qemu_dir", None, "Folder of QEMU's programs; sme needs QEMU 10.", flag_values=FLAGS)
flags.DEFINE_list("files", ["*"], "Shell patterns over the names of files.", flag_values=FLAGS)
flags.DEFINE_list(
    "cpus", ["cortex-a53", "cortex-a76", "i8mm"], f"Any of {', '.join(arm_system.CPUS)}.", flag_values=FLAGS
)
flags.DEFINE_string(
    "out", str(RESULTS), "The results file; rows that it has are not measured again.", flag_values=FLAGS
)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)


def planned(patterns: list[str], cpus: list[str], rows: list[Row]) -> dict[File, list[str]]:
    """Returns the files with rows to measure, and the processors of each."""
    done = {(row["file"], row["cpu"]) for row in rows}
    chosen = [f for f in arm_files.files() if any(fnmatch.fnmatchcase(f.name, pattern) for pattern in patterns)]
    plan = {file: [cpu for cpu in cpus if (file.name, cpu) not in done] for file in chosen}
    return {file: missing for file, missing in plan.items() if missing}


def run_each(command: list[str], folder: Path, results: Path, names: list[str]) -> Iterator[Row]:
    """Runs files in a process; yields what it says of each, and starts another for the rest where it crashes.

    Args:
        command: runs a Python; the script and its arguments are added.
        folder: holds the files and their inputs.
        results: gets the outputs.
        names: the files.
    """
    results.mkdir(parents=True, exist_ok=True)
    left = list(names)
    while left:
        words = [*command, str(HERE / "arm_runner.py"), str(folder), str(results), *left]
        with (
            tempfile.TemporaryFile("w+") as log,
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                left.pop(0)
                yield json.loads(line)
            process.wait()
            log.seek(0)
            error = log.read().strip().splitlines()
        if left and process.returncode:
            text = f"exit status {process.returncode}: {error[-1][:200] if error else 'no message'}"
            yield {
                "name": left.pop(0),
                "features": [],
                "delegated": {},
                "refused": dict.fromkeys(arm_rows.KERNELS, text),
            }
        elif left:
            raise RuntimeError(
                f"The runner ended before {left[0]}. Expected a line for each file. Run {words[0]} by hand."
            )


def run(store: Rows, root: Path, patterns: list[str], cpus: list[str]) -> None:
    """Measures the rows that the results file lacks, net by net."""
    plan = planned(patterns, cpus, store.rows)
    if not plan:
        return
    systems = {cpu: arm_system.system_of(cpu, FLAGS.qemu_dir) for cpu in cpus}
    for system in systems.values():
        arm_system.prepare(system, root / system.architecture)
    versions = {cpu: arm_system.checked_version(system, cpu) for cpu, system in systems.items()}
    about: Row = {"qemu": "", "revision": revision()}
    on_x86 = about | {"machine": machine()}
    work = root / "files"
    for net, group in itertools.groupby(plan, lambda file: file.net):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        files = {file.name: file for file in group}
        for file in files.values():
            arm_files.write(file, work / f"{file.name}.tflite")
        x86 = {line["name"]: line for line in run_each([sys.executable], work, work / "x86", list(files))}
        store.add([arm_rows.row_on_x86(files[name], line, work) | on_x86 for name, line in x86.items()])
        for cpu in cpus:
            names = [name for name, file in files.items() if cpu in plan[file]]
            folder, told = root / systems[cpu].architecture, about | {"qemu": versions[cpu]}
            arm_system.describe_processor(folder, cpu)
            for line in run_each(arm_system.run_command(systems[cpu], folder, cpu), work, work / cpu, names):
                found = arm_rows.rows(files[line["name"]], cpu, line, x86[line["name"]], work)
                store.add([row | told for row in found])
        print(f"{net}: {len(files)} files", file=sys.stderr, flush=True)


def main() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    unknown = [cpu for cpu in FLAGS.cpus if cpu not in arm_system.CPUS]
    if unknown:
        raise ValueError(f"--cpus={unknown[0]} is unknown; expected any of {', '.join(arm_system.CPUS)}")
    store = Rows(FLAGS.out, KEYS)
    if not FLAGS.table:
        run(store, Path(FLAGS.root).resolve(), FLAGS.files, FLAGS.cpus)
    print(arm_table.tables(store.rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
