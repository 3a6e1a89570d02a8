"""From training to a really small file: which regularizer, method and bit width your model survives.

For each seed and regularizer: a float training, then every method at every bit width, each exported to `.tflite`, and
the FILE measured on ai-edge-litert. The end is a table, `results.json`, `report.html` and the file to take.

    python examples/pilot.py                                       # embedded digits, a few minutes
    python examples/pilot.py --dataset=cifar10 --data_dir=DIR --model=resnet8 --regularizers=none,linf,kurtosis

Below 4 bits the first and the last kernel stay at 8 bits (`--edge_bits`), as is common: they hold few weights and
matter most. A killed run resumes: give the same command again.
"""

from __future__ import annotations

import signal
import sys

from absl import app
from pilot_lib.quiet import quiet_start
from pilot_lib.settings import Settings, UsageError, fail, parse_flags, settings_from_flags

FLOAT = ("float", 32)


def main(argv: list[str]) -> int:
    del argv
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(settings_from_flags())
    except UsageError as error:
        return fail(error, 2)
    except (ValueError, OSError, ImportError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. What is finished is kept; the same command resumes there.\n")
        return 130


def run(settings: Settings) -> int:
    """Does what is not finished yet, then reports; returns the exit code."""
    with quiet_start():  # TensorFlow comes with these: not before the flags are known to be good.
        from pilot_lib.ending import report
        from pilot_lib.store import Store
        from pilot_lib.training import check_backend, load_data, start_model
        from rich.console import Console
    console = Console(width=None if sys.stdout.isatty() else 120)
    check_backend()
    store = Store(settings)
    data = load_data(settings)
    start_model(settings, data)  # A bad --model ends the run here, not after the first training.
    try:
        work(settings, store, data, console)
    except KeyboardInterrupt:
        done = len(store.results)
        console.print(f"\nStopped. Rows finished: {done}, kept in {store.folder}; the same command resumes there.")
        report(settings, store, data, console)
        return 130
    report(settings, store, data, console)
    return 0


def work(settings: Settings, store, data, console) -> None:
    """Trains and measures everything that has no row yet."""
    from pilot_lib.progress import Board
    from pilot_lib.rows import FloatModel, measure

    from r2keras.workloads.training import release

    todo = plan(settings, store)
    kinds = [kind for jobs in todo.values() for kind in ("training", *(method for method, _ in jobs))]
    with Board(kinds, console) as board:
        for (seed, regularizer), jobs in todo.items():
            name = f"{regularizer}, seed {seed}"
            with board.piece("training", f"{name}: float training"):
                model = trained_model(settings, store, data, regularizer, seed, board)
                trained = FloatModel.of(model, regularizer, seed, data)
            for method, num_bits in jobs:
                with board.piece(method, f"{name}: {method}, {num_bits} bit{'s' * (num_bits > 1)}"):
                    store.results.add(measure(trained, method, num_bits, settings, data, store, board))
            del model, trained
            release()


def plan(settings: Settings, store) -> dict[tuple[int, str], list[tuple[str, int]]]:
    """Returns per (seed, regularizer) the (method, bits) without a row; seed by seed, so that a cut run compares."""
    jobs = [FLOAT, *settings.jobs]
    found = {}
    for seed in settings.seeds:
        for name in settings.regularizers:
            open_jobs = [job for job in jobs if not store.finished(name, seed, *job)]
            if open_jobs:
                found[seed, name] = open_jobs
    return found


def trained_model(settings: Settings, store, data, regularizer: str, seed: int, board):
    """Returns the float model that is kept, or trains and keeps it."""
    from pilot_lib.training import train_float

    from r2keras.workloads.nets import load_mlperf

    path = store.model_path(regularizer, seed)
    if path.exists():
        return load_mlperf(path)
    model = train_float(settings, data, regularizer, seed, board.epochs(settings.epochs))
    store.write(path, model.save)
    return model


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
