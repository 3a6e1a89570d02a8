"""The cost of compression in a training step: R2 losses against L2, fake quantization against float, and TFMOT.

All variants of a group train the same net in one process, with their steps interleaved, so that a slowdown of the
machine affects all of them. Each round gives one ratio per variant; the table shows the median ratio and its quartiles.
A second copy of the baseline is among the variants: its ratio shows the noise of the machine. Each group and net runs
in its own process, and its rows are written as soon as it is finished; a second run replaces the rows that it measures
again.

    python benchmarks/training_step.py                                    # all groups: half an hour on 2 cores
    python benchmarks/training_step.py --nets=resnet20 --variants='linf,mse_*'
    python benchmarks/training_step.py --table                            # the table of the rows in --out
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import step_plan
from absl import app, flags
from common import Row, Rows, interleave, machine
from step_plan import GROUPS, IMPORT, NETS, Job
from step_rows import KEYS, rows_of, table

RESULTS = Path(__file__).parent / "results" / "training_step.json"
SMOKE_RESULTS = Path("out") / "benchmarks" / "training_step.json"
# TFMOT's own quantization is the baseline of `tfmot_config`.
SMOKE_VARIANTS = ["margin", "mse_2bit_per_channel", "tfmot_8bit_weights_only", "tfmot_config", IMPORT]
SMOKE = {"nets": ["cnn"], "variants": SMOKE_VARIANTS, "rounds": 1, "steps": 1}
MAX_IMPORTS = 7
IMPORT_CODE = (
    "import time; start = time.perf_counter(); import keras; middle = time.perf_counter(); import r2keras; "
    "print(middle - start, time.perf_counter() - middle)"
)
ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

Progress = Callable[[str], object]

flags.DEFINE_list("nets", ["resnet20", "mobilenet_v2_035"], f"Any of {', '.join(NETS)}.")
flags.DEFINE_list("variants", ["*"], f"Shell patterns over the names of variants and groups ({', '.join(GROUPS)}).")
flags.DEFINE_integer("rounds", 30, "Rounds; each gives one ratio per variant.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Steps per variant and round; their median is used.", lower_bound=1)
flags.DEFINE_string("out", None, f"The results file; results/{RESULTS.name} by default, {SMOKE_RESULTS} if --smoke.")
flags.DEFINE_bool("smoke", False, "Run for a minute instead of half an hour; the figures are meaningless.")
flags.DEFINE_bool("table", False, "Print the table of the results file and measure nothing.")


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ |= ENVIRONMENT
    options = _options()
    unknown = [f"--nets={name}" for name in options["nets"] if name not in NETS]
    unknown += [f"--variants={pattern}" for pattern in step_plan.unknown(options["variants"])]
    if argv[1:]:
        return _fail(f"Unexpected argument {argv[1]!r}: write --flag=value. See --helpshort.", 2)
    if unknown:
        return _fail(f"{unknown[0]} is unknown. See --helpshort.", 2)
    if not options["nets"] or not options["variants"]:
        return _fail(f"--{'variants' if options['nets'] else 'nets'} is empty. See --helpshort.", 2)
    try:
        store = Rows(options["out"], KEYS)
        if not flags.FLAGS.table:
            run(step_plan.jobs_of(*(options[name] for name in ("nets", "variants", "rounds", "steps"))), store)
        print(table(store.rows))
    except KeyboardInterrupt:
        return _fail(f"Stopped. Finished rows are in {options['out']}.", 130)
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(str(error), 1)
    return 0


def run(jobs: list[Job], store: Rows) -> None:
    """Measures the jobs one after another and writes their rows."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    about, console = machine(), Console(stderr=True)
    store.add([])  # An --out that cannot be written fails here, not after the first group.
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=sum(_work(job) for job in jobs))
        for job in jobs:
            name = f"{job.group} {job.net}".strip()

            def progress(message: str, name: str = name) -> None:
                bar.update(task, advance=1, description=f"{name}: {message}")

            bar.update(task, description=f"{name}: building")
            figures = _import_times(job, progress) if job.group == "import" else _in_process(job, progress)
            store.add(rows_of(job, figures, about))
            console.print(f"{name}: done", highlight=False)


def measure(job: Job, report: Connection) -> None:
    """Measures a job; sends ("progress", message) on the way, then ("figures", by variant) or ("error", message)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        report.send(("figures", step_times(job, lambda message: report.send(("progress", message)))))
    except Exception as error:  # noqa: BLE001 (raised again by the parent process)
        report.send(("error", f"{job.group} {job.net} failed: {type(error).__name__}: {error}"))


def step_times(job: Job, progress: Progress) -> dict[str, list[float]]:
    """Returns the seconds of a step in each round, by variant, baseline included."""
    import numpy as np

    if job.group.startswith("tfmot"):
        import tfmot_steps as library
    else:
        import keras_steps as library
    generator = np.random.default_rng(0)
    images = generator.normal(size=(job.batch_size, *job.image)).astype("float32")
    labels = generator.integers(0, step_plan.NUM_CLASSES, job.batch_size)
    steps = {}
    for variant in (job.baseline, *job.variants):
        steps[variant] = library.training_step(library.build(job, variant), images, labels)
        progress(f"built {variant}")
    return interleave(steps, job.rounds, job.steps, lambda: progress("measuring"))


def _in_process(job: Job, progress: Progress) -> dict[str, list[float]]:
    """Runs `measure` in a fresh process, which separates Keras 3 from tf_keras and frees the memory afterwards."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "figures":
                return value
            if kind == "error":
                raise RuntimeError(value)
            progress(value)
    except EOFError:
        raise RuntimeError(f"The process that measured {job.group} {job.net} ended without a result.") from None
    finally:
        process.join()


def _import_times(job: Job, progress: Progress) -> dict[str, list[float]]:
    """Returns the seconds of both imports, with one fresh interpreter per round."""
    figures: dict[str, list[float]] = {job.baseline: [], IMPORT: []}
    for _ in range(min(job.rounds, MAX_IMPORTS)):
        done = subprocess.run([sys.executable, "-c", IMPORT_CODE], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"import r2keras failed: {done.stderr.strip().splitlines()[-1]}")
        for values, seconds in zip(figures.values(), done.stdout.split(), strict=True):
            values.append(float(seconds))
        progress("measuring")
    return figures


def _work(job: Job) -> int:
    """Returns the number of progress messages of a job."""
    return min(job.rounds, MAX_IMPORTS) if job.group == "import" else job.rounds + len(job.variants) + 1


def _options() -> Row:
    """Returns the flags; with `--smoke`, small values for those not given."""
    options = {name: flags.FLAGS[name].value for name in ("nets", "variants", "rounds", "steps", "out")}
    if flags.FLAGS.smoke:
        options |= {name: value for name, value in SMOKE.items() if not flags.FLAGS[name].present}
    options["out"] = options["out"] or (SMOKE_RESULTS if flags.FLAGS.smoke else RESULTS)
    return options


def _fail(message: str, code: int) -> int:
    """Writes the error as one line; returns the exit code."""
    sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    app.run(main)
