"""Time and memory of one differentiable palette, forward and backward, against the naive formula and coremltools.

    python benchmarks/dkm.py                                            # r2keras and the naive formula
    python benchmarks/dkm.py --peer=coremltools_dkm.py --peer_python=venv/bin/python
    python benchmarks/dkm.py --configs=2/1,4/4                          # measure these bits/dim again
    python benchmarks/dkm.py --scaling                                  # against weights, bits and updates; a plot
    python benchmarks/dkm.py --table                                    # both tables and the plot, from results/

Each row is measured in a fresh process with 2 threads. Finished rows are kept in `results/dkm.json` and
`results/dkm_scaling.json`, so the same command resumes a killed run. The peer's script prints `RESULT {...}` for
`--one '{"shape": ...}'`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from absl import app, flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import dkm_scaling
from benchmarks.common import Row, Rows, machine, machine_lines, markdown
from benchmarks.dkm_step import WAYS, apart

CONFIGS = ((4, 1), (2, 1), (4, 4), (4, 2))
SHAPE = (512, 512, 3, 3)
PEER = "coremltools"
RESULTS = Path(__file__).with_name("results") / "dkm.json"
SCALING = RESULTS.with_name("dkm_scaling.json")

FLAGS = flags.FLAGS
flags.DEFINE_string("peer", None, "The peer's script.")
flags.DEFINE_string("peer_python", sys.executable, "The Python interpreter with the peer's packages.")
flags.DEFINE_list("configs", None, "bits/dim to measure, even if they have rows; by default those without rows.")
flags.DEFINE_bool("scaling", False, "Vary the number of weights, the bits and the updates instead, and draw the plot.")
flags.DEFINE_float("minutes", None, "With --scaling: start no row after this time; the same command resumes later.")
flags.DEFINE_bool("table", False, "Print the tables of the results files, draw the plot, and stop.")


def peer(script: str, python: str, num_bits: int, dim: int) -> Row:
    """Measures the peer by its own script."""
    config = {"shape": SHAPE, "n_bits": num_bits, "dim": dim, "n_init": 1}
    command = [python, script, "--one", json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    row = json.loads(next(line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")))
    extra = row["peak_rss_mb"] - row["rss_before_mb"]
    return {"step_s": row["step_min_s"], "cpu_s": row["cpu_min_s"], "extra_mb": extra, "start_s": row["init_s"]}


def chosen(words: list[str] | None, rows: list[Row], ways: tuple[str, ...]) -> list[tuple[int, int]]:
    """Returns the configs to measure: those in `words`; if that is None, those that lack a row for one of the ways.

    Raises:
        ValueError: a word is not a config.
    """
    known = {f"{num_bits}/{dim}": (num_bits, dim) for num_bits, dim in CONFIGS}
    if words is None:
        finished = {(row["num_bits"], row["dim"], row["way"]) for row in rows}
        return [config for config in CONFIGS if any((*config, way) not in finished for way in ways)]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"--configs={unknown[0]} is unknown. Expected bits/dim of: {', '.join(known)}.")
    return [known[word] for word in words]


def measured(num_bits: int, dim: int, about: Row) -> list[Row]:
    """Returns the rows of one config."""
    config = {"num_bits": num_bits, "dim": dim, "size": math.prod(SHAPE)}
    measurements = {way: apart({"way": way, **config}) for way in WAYS}
    if FLAGS.peer:
        measurements[PEER] = peer(FLAGS.peer, FLAGS.peer_python, num_bits, dim)
    key = {"num_bits": num_bits, "dim": dim}
    return [{**key, "way": way, **row, "machine": about} for way, row in measurements.items()]


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table, and the machines they come from: by config if they differ."""
    header = ["bits / dim", "who", "step, s", "processor, s", "extra memory, MiB", "start, s"]
    ordered = sorted(rows, key=lambda row: CONFIGS.index((row["num_bits"], row["dim"])))
    cells = [
        [
            _name(row),
            row["way"],
            *(f"{row[name]:.3f}" for name in ("step_s", "cpu_s")),
            f"{row['extra_mb']:.0f}",
            f"{row['start_s']:.2f}",
        ]
        for row in ordered
    ]
    return markdown(header, cells) + "\n\n" + machine_lines(ordered, _name)


def scaling_table(rows: list[Row]) -> str:
    """Returns the rows of `--scaling` as a Markdown table, and the machines they come from."""
    header = ["weights", "bits / dim", "updates", "who", "step, s", "processor, s", "extra memory, MiB"]
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in ("way", "dim", "size", "num_bits", "updates")))
    cells = [
        [
            f"{row['size']:,}",
            _name(row),
            str(row["updates"]),
            row["way"],
            *(f"{row[name]:.4f}" for name in ("step_s", "cpu_s")),
            f"{row['extra_mb']:.0f}",
        ]
        for row in ordered
    ]
    return markdown(header, cells) + "\n\n" + machine_lines(ordered, lambda row: f"{_name(row)}, {row['size']:,}")


def show_scaling(rows: list[Row]) -> None:
    """Prints the table of `--scaling` and draws its plot, if there are rows."""
    if not rows:
        return
    dkm_scaling.write_plot(rows, SCALING.with_suffix(".svg"))
    print(scaling_table(rows), f"The plot is {SCALING.with_suffix('.svg')}.", sep="\n\n")


def main(argv: list[str]) -> None:
    del argv
    rows, scaling = Rows(RESULTS, ("num_bits", "dim", "way")), Rows(SCALING, dkm_scaling.KEYS)
    if FLAGS.scaling:
        if not dkm_scaling.run(scaling, FLAGS.minutes):
            finished = f"{len(scaling.rows)} of {len(dkm_scaling.points())} rows are finished"
            print(f"{finished}. Run the same command again to resume.")
        show_scaling(scaling.rows)
        return
    if not FLAGS.table:
        about, ways = machine(), (*WAYS, PEER) if FLAGS.peer else WAYS
        for num_bits, dim in chosen(FLAGS.configs, rows.rows, ways):
            rows.add(measured(num_bits, dim, about))
    if rows.rows:
        print(table(rows.rows))
    if FLAGS.table:
        show_scaling(scaling.rows)


def _name(row: Row) -> str:
    return f"{row['num_bits']} / {row['dim']}"


if __name__ == "__main__":
    app.run(main)
