"""A test of R2's claim: how much range regularizers in float training improve accuracy after low-bit quantization.

For every net, seed and regularizer a float model is trained in the same way (the baseline as long as the others), then
quantized in every way of the table. Each finished cell is written as a JSON row at once, and the same command resumes a
killed run. The most informative cells come first, so that a run that is cut short leaves a readable table.

    python benchmarks/r2_accuracy.py --data_dir=DIR                        # all cells: many hours on 2 cores
    python benchmarks/r2_accuracy.py --data_dir=DIR --nets=fashion_cnn --bits=2 --seeds=0,1,2
    python benchmarks/r2_accuracy.py --data_dir=DIR --split=validation --factors=0.001,0.01,0.1 --bits=2
    python benchmarks/r2_accuracy.py --table
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import r2_plan
from absl import app, flags
from common import Row, Rows
from r2_plan import BITS, COLUMNS, METHODS, NETS, PALETTES, Job
from r2_table import table

KEYS = (
    *("net", "regularizer", "form", "factor", "method", "weight_bits", "activation_bits", "batch_norm"),
    *("granularity", "dim", "seed", "split", "epochs"),
)
FILE = "r2_accuracy.json"
SMOKE = {"nets": ["digits"], "regularizers": ["none", "linf_scale_free"], "seeds": ["0"], "bits": ["2"]}

flags.DEFINE_string("data_dir", None, "Folder of the data sets' .npz files; without it Keras downloads those it has.")
flags.DEFINE_string("test_file", None, "Another .npz file of test images, with arrays x and y like the data set's.")
flags.DEFINE_list("nets", ["resnet20", "fashion_cnn"], f"Any of {', '.join(NETS)}.")
flags.DEFINE_list("regularizers", list(COLUMNS), f"Any of {', '.join(COLUMNS)}.")
flags.DEFINE_list("factors", [], "Strengths instead of each regularizer's own, for an ablation.")
flags.DEFINE_list("methods", ["*"], f"Shell patterns over {', '.join(METHODS)}.")
flags.DEFINE_list("bits", [str(bits) for bits in BITS], "Bits of the weights.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.DEFINE_enum("split", "test", ["test", "validation"], "Images for evaluation; use validation to choose settings.")
flags.DEFINE_string("out", None, "Folder of the rows; benchmarks/results by default, out/benchmarks if --smoke.")
flags.DEFINE_string("work", "out/r2_accuracy", "Folder for the trained float models.")
flags.DEFINE_bool("smoke", False, "Run for a minute on the embedded digits; the figures are meaningless.")
flags.DEFINE_bool("table", False, "Print the table of the rows in --out and measure nothing.")


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ |= {"KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    options = _options()
    try:
        _check(argv, options)
        store = Rows(Path(options["out"]) / FILE, KEYS)
        if not options["table"]:
            run(list(_open_jobs(options, store)), store, options)
        print(table(store.rows))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Finished work is kept; run the same command again to resume.\n")
        return 130
    except UsageError as error:
        sys.stderr.write(f"{error}. See --helpshort.\n")
        return 2
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    return 0


class UsageError(ValueError):
    """A bad command line."""


def run(jobs: list[Job], store: Rows, options: dict) -> None:
    """Trains and measures; writes one row per cell."""
    from r2_watch import Watch

    from r2keras.workloads.training import release

    store.add([])  # An --out that cannot be written fails here, not after the first training.
    with Watch(sum(len(job.cells) for job in jobs)) as watch:
        for job in jobs:
            for row in measure(job, options, watch):
                store.add([row])
            release()


def measure(job: Job, options: dict, watch) -> Iterator[Row]:
    """Yields the rows of the cells of one float model."""
    import r2_cells

    net = NETS[job.net]
    data = _data(net.dataset, options)
    name = f"{job.net}_{job.column.name}_{job.column.factor:g}_seed{job.seed}.keras"
    title = f"{job.net}, {job.column.name}, seed {job.seed}"
    watch.say(f"{title}: float training")
    path = Path(options["work"]) / name
    model = r2_cells.float_model(net, job.column, job.seed, data, options["data_dir"] or "", path, watch.callback())
    figures = r2_cells.float_figures(model, data, options["split"])
    for cell in job.cells:
        watch.say(f"{title}: {cell.method} W{cell.weight_bits}")
        small, record, student = r2_cells.quantize(model, cell, net, data, job.seed, watch.callback())
        accuracy = r2_cells.evaluate(small, data, options["split"])
        columns = dict(figures)
        if cell.method in PALETTES:
            file = path.with_name(f"{path.stem}_{cell.method}_w{cell.weight_bits}_dim{cell.dim}.keras")
            columns |= r2_cells.palette_figures(small, record, student, data, options["split"], file)
        watch.done()
        yield r2_cells.row_of(job, cell, net, columns, accuracy, options["split"])


def _data(name: str, options: dict):
    """Returns a data set, with the test images of `--test_file` if it is given; the last result is cached."""
    from r2keras.workloads import data

    key = (name, options["data_dir"], options["test_file"])
    if _data.__dict__.get("key") != key:
        loaded = data.load(name, options["data_dir"])
        if options["test_file"]:
            x, y = data.read_test(name, options["test_file"])
            loaded = dataclasses.replace(loaded, x_test=x, y_test=y)
        _data.key, _data.value = key, loaded
    return _data.value


def _open_jobs(options: dict, store: Rows) -> Iterator[Job]:
    """Yields the jobs with the cells that have no row yet."""
    columns = [COLUMNS[name] for name in options["regularizers"]]
    if options["factors"]:
        regularized = [column for column in columns if column.regularizer != "none"]
        factors = [float(word) for word in options["factors"]]
        columns = [dataclasses.replace(column, factor=factor) for factor in factors for column in regularized]
    bits, seeds = ([int(word) for word in options[flag]] for flag in ("bits", "seeds"))
    finished = {tuple(row[key] for key in KEYS) for row in store.rows}
    for job in r2_plan.jobs_of(options["nets"], columns, options["methods"], bits, seeds):
        cells = tuple(cell for cell in job.cells if _key(job, cell, options["split"]) not in finished)
        if cells:
            yield dataclasses.replace(job, cells=cells)


def _key(job: Job, cell: r2_plan.Cell, split: str) -> tuple:
    """Returns the values that identify a row."""
    row = {"net": job.net, "seed": job.seed, "split": split, "epochs": NETS[job.net].epochs}
    row |= dataclasses.asdict(job.column) | dataclasses.asdict(cell)
    return tuple(row[key] for key in KEYS)


def _options() -> dict:
    """Returns the flags; with `--smoke`, small values for those not given."""
    own = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
    values = {flag.name: flag.value for flag in own}
    if values["smoke"]:
        values |= {name: small for name, small in SMOKE.items() if not flags.FLAGS[name].present}
    values["out"] = values["out"] or ("out/benchmarks" if values["smoke"] else str(Path(__file__).parent / "results"))
    return values


def _check(argv: list[str], options: dict) -> None:
    """Raises UsageError for a bad flag."""
    if argv[1:]:
        raise UsageError(f"Unexpected argument {argv[1]!r}: write --flag=value")
    for flag, known in (("nets", NETS), ("regularizers", COLUMNS), ("bits", [str(b) for b in BITS])):
        for word in options[flag]:
            if word not in known:
                raise UsageError(f"--{flag}={word} is unknown: expected any of {', '.join(known)}")
    for pattern in options["methods"]:
        if not fnmatch.filter(METHODS, pattern):
            raise UsageError(f"--methods={pattern} matches none of {', '.join(METHODS)}")
    for flag, kind in (("seeds", int), ("factors", float)):
        for word in options[flag]:
            try:
                valid = kind(word) >= 0
            except ValueError:
                valid = False
            if not valid:
                raise UsageError(f"--{flag}={word}: expected numbers of at least 0, separated by commas")
    for flag in ("nets", "regularizers", "methods", "bits", "seeds"):
        if not options[flag]:
            raise UsageError(f"--{flag} is empty")


if __name__ == "__main__":
    app.run(main)
