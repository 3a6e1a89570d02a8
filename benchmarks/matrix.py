"""Every layer kind under every recipe in every form of file, against Keras: is any combination silently wrong?

    python benchmarks/matrix.py --cells=1000 --jobs=2    # continues where it stopped; rows go to results/matrix.json
    python benchmarks/matrix.py --cell=17-integer        # one cell again, with its model and recipe
    python benchmarks/matrix.py --table                  # the tables below, from the rows

A seed gives a random small model, a random recipe and random data. The recipe is applied by `prepare`, one training
step and `finalize`, or by `calibrate`; then the model goes through every form of file. Files run on ai-edge-litert
(built-in kernels) and tflite-micro themselves, not through `r2keras.export.verify`. A cell is one seed in one form:

- exact: the kernels equal the record, and the file's outputs those of `keras.Model.predict`: to 5e-5 of the range or,
  where operators compute on integers, to one step of the output's grid for 99 % of the outputs, with equal decisions.
- rounded: the outputs are further off, but less than Keras' are when its activations are one code off and, with
  `data=`, what only the file rounds is rounded; and each integer operator, compared with exact arithmetic on the inputs
  that it had, is off by one code at most.
- In files with `activations="dynamic"`, which run with XNNPACK: exact is `dynamic_twin` to 1e-6 of the range in the
  median, and to 1 % where values lie on ties; rounded is 3 % in the mean, or what rounding rows changes in Keras.
- refused: an error that says what was expected, before any training.
- wrong: other outputs than Keras', and no error. There must be none.
- fault: any other error, a crash, or a refusal after training. There must be none.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, markdown, revision
from benchmarks.matrix_verdicts import BAD, EXACT, FAULT, FORMS, KERAS, PLAIN, REFUSED, ROUNDED, VERDICTS, VERSION
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "matrix.json"
# Seconds after which a cell counts as hung.
PATIENCE = 600

FLAGS = flags.FlagValues()
flags.DEFINE_integer("cells", 1000, "Cells to have at least.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("jobs", 1, "Processes.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("first", 0, "The seed to start from.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("cell", None, "Run one cell (SEED-FORM), or one seed (SEED), and keep no rows.", flag_values=FLAGS)
flags.DEFINE_list("forms", list(FORMS), "The forms to run.", flag_values=FLAGS)
flags.DEFINE_bool("again", False, "Run the cells again that are wrong or a fault.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)


def worker(pipe: Connection) -> None:
    """Runs the seeds that come through a pipe; sends their rows, and None after each seed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks.matrix_cells import run_seed

    while True:
        seed, skip = pipe.recv()
        if seed is None:
            return
        for row in run_seed(seed, skip):
            pipe.send(row)
        pipe.send(None)


@dataclasses.dataclass
class Worker:
    """A process and the seed that it runs; the process is new after a crash, which ends no other cell.

    Args:
        seed: the seed, or None between seeds.
        rows: the rows of that seed so far.
        since: when the last row came.
        skip: forms that are left out.
    """

    seed: int | None = None
    rows: list[Row] = dataclasses.field(default_factory=list)
    since: float = 0.0
    skip: frozenset[str] = frozenset()

    def __post_init__(self):
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=worker, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def give(self, seed: int) -> None:
        """Starts a seed."""
        self.seed, self.rows, self.since = seed, [], time.monotonic()
        self.pipe.send((seed, self.skip))

    def take(self, is_ready: bool) -> list[Row] | None:
        """Reads what has come; returns the rows of the seed once it is done, crashed or hung."""
        assert self.seed is not None
        if not is_ready and time.monotonic() - self.since < PATIENCE:
            return None
        try:
            row = self.pipe.recv() if is_ready else self._stop("hangs")
        except EOFError:
            self.process.join()
            row = self._stop(f"its process ended with exit status {self.process.exitcode}")
        if row is not None:
            self.rows.append(row)
            self.since = time.monotonic()
            if row["cell"] != f"{self.seed}-crash":
                return None
        rows, self.seed, self.rows = self.rows, None, []
        return rows

    def _stop(self, reason: str) -> Row:
        """Replaces the process; returns the row of the cell that ended it."""
        self.process.kill()
        self._start()
        done = [row["cell"] for row in self.rows]
        last = self.rows[-1] if self.rows else {"kinds": [], "recipe": ""}
        kept = {"version": VERSION, "kinds": last["kinds"], "recipe": last["recipe"]}
        text = f"{reason}, after {', '.join(done) or 'no cell'}"
        return {"cell": f"{self.seed}-crash", "verdict": FAULT, "reason": text, "difference": None, **kept}

    def end(self) -> None:
        """Lets the process go."""
        self.pipe.send((None, self.skip))
        self.process.join()


def seeds_to_run(rows: list[Row], first: int, again: bool, forms: Sequence[str] = FORMS) -> Iterator[int]:
    """Yields the seeds without rows, and with `again` those with a cell that is wrong or a fault, without end.

    Args:
        rows: the rows so far.
        first: the first seed.
        again: whether bad cells run again.
        forms: a seed is done if it has a row of one of these, or was refused.
    """
    refused = {seed_of(row) for row in rows if _form(row) == KERAS and row["verdict"] in (REFUSED, FAULT)}
    done = {seed_of(row) for row in rows if _form(row) in forms or seed_of(row) in refused}
    bad = {seed_of(row) for row in rows if row["verdict"] in BAD}
    yield from sorted(bad) if again else ()
    seed = first
    while True:
        if seed not in done:
            yield seed
        seed += 1


def seed_of(row: Row) -> int:
    """Returns the seed of a row."""
    return int(row["cell"].partition("-")[0])


def run(rows: Rows, cells: int, jobs: int, first: int, again: bool, forms: Sequence[str] = FORMS) -> None:
    """Runs seeds until there are enough cells; keeps the rows of each seed as soon as it is done."""
    about = revision()
    rows.rows = [row for row in rows.rows if row["version"] == VERSION]
    seeds = seeds_to_run(rows.rows, first, again, forms)
    waiting = len({seed_of(row) for row in rows.rows if row["verdict"] in BAD}) if again else 0
    workers = [Worker(skip=frozenset(FORMS) - set(forms)) for _ in range(jobs)]
    while True:
        for idle in (w for w in workers if w.seed is None):
            if waiting > 0 or len(rows.rows) < cells:
                waiting -= 1
                idle.give(next(seeds))
        busy = {w.pipe: w for w in workers if w.seed is not None}
        if not busy:
            break
        ready = wait(list(busy), timeout=5)
        for pipe, one in busy.items():
            seed = one.seed
            found = one.take(pipe in ready)
            if found is not None:
                replaced = {*forms, *map(_form, found)}
                rows.rows = [row for row in rows.rows if seed_of(row) != seed or _form(row) not in replaced]
                rows.add([{**row, "revision": about} for row in found])
                _tell(found, len(rows.rows), cells)
    for one in workers:
        one.end()


def _tell(found: list[Row], count: int, cells: int) -> None:
    """Prints the progress, and what is wrong."""
    counts = collections.Counter(row["verdict"] for row in found)
    seed = seed_of(found[0])
    print(f"{count}/{cells} seed {seed}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}", flush=True)
    for row in found:
        if row["verdict"] in BAD:
            print(f"  {row['cell']} {row['verdict']}: {row['reason']}\n    {row['recipe']}", flush=True)


def show(cell: str) -> int:
    """Runs one cell or seed and prints its model, its recipe and its verdict; returns 1 if it is wrong or a fault."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    seed, _, form = cell.partition("-")
    if not seed.isdigit() or form not in ("", *FORMS):
        raise ValueError(f"--cell={cell} is not a cell. Expected SEED-FORM, with a form of {', '.join(FORMS)}.")
    from benchmarks.matrix_cells import run_seed
    from benchmarks.matrix_models import build

    build(int(seed)).model.summary(expand_nested=True)
    # Files that others are made of are always written.
    skip = {name for name in FORMS if form not in ("", name)} - {PLAIN}
    rows = [
        row
        for row in run_seed(int(seed), frozenset(skip))
        if row["cell"] == cell or not form or row["cell"] == f"{seed}-{KERAS}"
    ]
    print(rows[0]["recipe"])
    for row in rows:
        print(f"{row['cell']} {row['verdict']} {row['difference']} {row['reason']}")
    return int(any(row["verdict"] in BAD for row in rows))


def table(rows: list[Row]) -> str:
    """Returns the counts by form, then those of exact and refused cells by layer kind and form, as Markdown tables."""
    forms = [form for form in (*FORMS, "crash") if any(_form(row) == form for row in rows)]
    counts = collections.Counter((_form(row), row["verdict"]) for row in rows)
    first = [[form, *(f"{counts[form, verdict]:,}" for verdict in VERDICTS)] for form in forms]
    total = ["all", *(f"{sum(row['verdict'] == verdict for row in rows):,}" for verdict in VERDICTS)]
    by_kind: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in rows:
        for kind in row["kinds"]:
            by_kind[kind, _form(row)][row["verdict"]] += 1
    kinds = sorted({kind for kind, _ in by_kind})
    second = [[kind, *(_counts(by_kind[kind, form]) for form in forms)] for kind in kinds]
    parts = [markdown(["form", *VERDICTS], [*first, total]), markdown(["contains", *forms], second)]
    return "\n\n".join(parts)


def _form(row: Row) -> str:
    """Returns the form of a row."""
    return row["cell"].partition("-")[2]


def _counts(counts: collections.Counter[str]) -> str:
    """Returns exact and rounded cells, then refused ones in brackets, then bad ones in bold."""
    bad = sum(counts[verdict] for verdict in BAD)
    refused = f" ({counts[REFUSED]})" if counts[REFUSED] else ""
    return f"{counts[EXACT] + counts[ROUNDED]}{refused}{f' **{bad}**' if bad else ''}"


def main() -> int:
    """Runs the cells that are missing, and prints the tables; returns 1 if any cell is wrong or a fault."""
    if FLAGS.cell is not None:
        return show(FLAGS.cell)
    rows = Rows(FLAGS.out, ("cell",))
    if not FLAGS.table:
        run(rows, FLAGS.cells, FLAGS.jobs, FLAGS.first, FLAGS.again, FLAGS.forms)
    print(table(rows.rows))
    return int(any(row["verdict"] in BAD for row in rows.rows))


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
