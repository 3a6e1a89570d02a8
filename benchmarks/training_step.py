"""What compression adds to a training step: R2 losses against L2, fake-quantization against float, TFMOT beside them.

All variants of a group train the same net in one process, taking turns step by step, so that a machine that slows down
slows all of them; each round gives one ratio a variant, and the median ratio and its quartiles are reported. Each
group and net has a process of its own. Rows are on disk as soon as their group is finished; a second run replaces
the rows it measures again.

    python benchmarks/training_step.py                                    # everything, about half an hour on 2 cores
    python benchmarks/training_step.py --nets=resnet20 --variants=linf,mse_*
    python benchmarks/training_step.py --table                            # the table of the rows in --out
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import step_plan
from absl import app, flags
from common import Row, Rows, interleave, machine, markdown, quartiles
from step_plan import CONTROL, GROUPS, IMPORT, NETS, Job

RESULTS = Path(__file__).parent / "results" / "training_step.json"
SMOKE_RESULTS = Path("out") / "benchmarks" / "training_step.json"
SMOKE = {
    "nets": ["cnn"],
    "variants": ["linf", "margin", "mse_2bit_per_channel", "tfmot", IMPORT],
    "rounds": 2,
    "steps": 1,
}
KEYS = ("group", "net", "variant")
IMPORT_CODE = (
    "import time; a = time.perf_counter(); import keras; b = time.perf_counter(); import r2keras; "
    "print(b - a, time.perf_counter() - b)"
)

flags.DEFINE_list("nets", ["resnet20", "mobilenet_v2_035"], f"Any of {', '.join(NETS)}.")
flags.DEFINE_list("variants", ["*"], f"Shell patterns over names of variants and groups ({', '.join(GROUPS)}).")
flags.DEFINE_integer("rounds", 30, "Rounds; each gives one ratio a variant.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Steps of every variant in a round; their median counts.", lower_bound=1)
flags.DEFINE_string("out", None, f"The results file; {RESULTS} by default, {SMOKE_RESULTS} with --smoke.")
flags.DEFINE_bool("smoke", False, "Seconds instead of half an hour; the figures mean nothing.")
flags.DEFINE_bool("table", False, "Print the table of the results file and measure nothing.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        return _fail(f"Unexpected argument {argv[1]!r}: write --flag=value.", 2)
    options = _options()
    for flag, bad in (("nets", set(options["nets"]) - set(NETS)), ("variants", step_plan.unknown(options["variants"]))):
        if bad or not options[flag]:
            return _fail(f"--{flag}={','.join(bad)} is unknown. See --helpshort.", 2)
    try:
        store = Rows(options["out"], KEYS)
        if not flags.FLAGS.table:
            run(step_plan.jobs_of(options["nets"], options["variants"], options["rounds"], options["steps"]), store)
        print(table(store.rows))
    except KeyboardInterrupt:
        return _fail(f"Stopped. What is finished is in {options['out']}.", 130)
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(str(error), 1)
    return 0


def run(jobs: list[Job], store: Rows) -> None:
    """Measures the jobs one after another, each in a process of its own, and keeps their rows."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=sum(_work(job) for job in jobs))
        for job in jobs:
            name = f"{job.group} {job.net}".strip()
            store.add(
                _in_process(job, lambda words, name=name: bar.update(task, advance=1, description=f"{name}: {words}"))
            )
            console.print(f"{name}: done", highlight=False)


def table(rows: list[Row]) -> str:
    """Returns the rows as markdown, a table a group."""
    parts = []
    for name, group in GROUPS.items():
        own = sorted((row for row in rows if row["group"] == name), key=lambda row: _place(row, group))
        own += [row for row in rows if name == "tfmot" and row["variant"] == "mse_8bit_per_channel"] if own else []
        if own:
            header = ["net", "variant", group.unit, "quartiles", "goal", "met", "ms a step"]
            parts.append(f"### {group.title}\n\n" + markdown(header, [_cells(row) for row in own]))
    return "\n\n".join(parts) or "No rows yet."


def measure(job: Job, report: Connection) -> None:
    """Measures a job and sends ("progress", words) on the way, then ("rows", rows) or ("error", words)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        figures = _times(job, lambda words: report.send(("progress", words)))
        report.send(("rows", _rows(job, figures)))
    except Exception as error:  # noqa: BLE001 (it is raised again on the other side)
        report.send(("error", f"{job.group} {job.net}: {type(error).__name__}: {error}"))
    report.close()


def _in_process(job: Job, progress) -> list[Row]:
    """Runs `measure` in a fresh process: Keras 3 and tf_keras do not meet, and its memory is given back."""
    if job.group == "import":
        return _rows(job, _import_times(job.rounds, progress))
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "rows":
                return value
            if kind == "error":
                raise RuntimeError(value)
            progress(value)
    except EOFError:
        raise RuntimeError(f"The process that measured {job.group} {job.net} ended without a result.") from None
    finally:
        process.join()


def _times(job: Job, progress) -> dict[str, list[float]]:
    """Returns per variant the seconds of a step in each round."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np

    if job.group == "tfmot":
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


def _import_times(rounds: int, progress) -> dict[str, list[float]]:
    """Returns the seconds of both imports, one fresh interpreter a round."""
    figures: dict[str, list[float]] = {GROUPS["import"].baseline: [], IMPORT: []}
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    for _ in range(min(rounds, 7)):
        done = subprocess.run([sys.executable, "-c", IMPORT_CODE], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"import r2keras failed: {done.stderr.strip().splitlines()[-1]}")
        for values, seconds in zip(figures.values(), done.stdout.split(), strict=True):
            values.append(float(seconds))
        progress("measuring")
    return figures


def _rows(job: Job, figures: dict[str, list[float]]) -> list[Row]:
    """Returns one row a variant."""
    base = figures[job.baseline]
    shared = {
        "group": job.group,
        "net": job.net,
        "batch_size": job.batch_size if job.net else None,
        "baseline": job.baseline,
        "unit": GROUPS[job.group].unit,
        "rounds": len(base),
        "steps": job.steps,
    }
    about = machine()
    rows = []
    for variant in job.variants:
        own = figures[variant]
        ratios = own if job.group == "import" else [a / b for a, b in zip(own, base, strict=True)]
        low, middle, high = quartiles(ratios)
        # An import has a true cost, and everything else on the machine only adds to it.
        value = min(ratios) if job.group == "import" else middle
        rows.append(
            {
                **shared,
                "variant": variant,
                "value": round(value, 4),
                "lower_quartile": round(low, 4),
                "upper_quartile": round(high, 4),
                "goal": None if variant == CONTROL else GROUPS[job.group].goal,
                "seconds": round(quartiles(own)[1], 5),
                "baseline_seconds": round(quartiles(base)[1], 5),
                **about,
            }
        )
    return rows


def _cells(row: Row) -> list[str]:
    """Returns a row in words."""
    name = f"{row['baseline']}, a second copy" if row["variant"] == CONTROL else row["variant"]
    goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
    met = "" if row["goal"] is None else "yes" if row["value"] <= row["goal"] else "no"
    spread = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
    times = f"{1000 * row['seconds']:.0f}, {row['baseline']} {1000 * row['baseline_seconds']:.0f}"
    return [row["net"] or "-", name, f"{row['value']:.3f}", spread, goal, met, times]


def _place(row: Row, group: step_plan.Group) -> tuple[int, int]:
    """Returns where a row stands in the table of its group."""
    order = (CONTROL, *group.variants)
    return list(NETS).index(row["net"]) if row["net"] else -1, order.index(row["variant"])


def _work(job: Job) -> int:
    """Returns the number of progress messages of a job."""
    return min(job.rounds, 7) if job.group == "import" else job.rounds + len(job.variants) + 1


def _options() -> dict:
    """Returns the flags; what --smoke decides stands in for flags not given."""
    options = {name: flags.FLAGS[name].value for name in ("nets", "variants", "rounds", "steps", "out")}
    if flags.FLAGS.smoke:
        options |= {name: value for name, value in SMOKE.items() if not flags.FLAGS[name].present}
    options["out"] = options["out"] or (SMOKE_RESULTS if flags.FLAGS.smoke else RESULTS)
    return options


def _fail(words: str, code: int) -> int:
    """Says what went wrong on one line."""
    sys.stderr.write(words + "\n")
    return code


if __name__ == "__main__":
    app.run(main)
