"""The pilot: compares regularizers, methods and bit widths on one model, from training to the recommended file.

For each seed and regularizer the pilot trains a float model, quantizes it with every method at every bit width, exports
each result to `.tflite`, and measures the FILE on ai-edge-litert. It ends with a table, `results.json`, `report.html`
and a recommendation: the smallest file within `--max_drop` on the validation images. Accuracies are those of the test
images.

    python examples/pilot.py                                       # embedded digits, a few minutes
    python examples/pilot.py --dataset=cifar10 --data_dir=DIR --model=resnet8 --regularizers=none,linf,kurtosis
    python examples/pilot.py --methods=ptq_mse,qat@2,dkm_vector@1 --bits=8,4 --max_drop=0.02 --max_bytes=8000

The digits are easy, so that the pilot makes them harder: one scale per kernel, and every kernel at the same width. On
other data, below 4 bits, the first and last kernels stay at 8 bits (`--edge_bits`), as is common: they hold few weights
and matter most. To resume a killed run, run the same command again.
"""

from __future__ import annotations

from absl import flags
from common_lib.program import INTERRUPTED, make_console, start
from pilot_lib import settings as flag_settings
from pilot_lib.settings import Settings, settings_from_flags

from r2keras._util.native_log import quiet_imports

flags.adopt_module_key_flags(flag_settings)  # So that --help lists them.

FLOAT = ("float", 32)


def main() -> int:
    """Does the unfinished work, then reports; returns the exit code."""
    settings = settings_from_flags()
    with quiet_imports():  # These import TensorFlow, so they wait until the flags are checked.
        from pilot_lib.ending import device_results, report
        from pilot_lib.store import Store
        from pilot_lib.training import check_backend, load_data, start_model
    console = make_console()
    check_backend()
    device_results(settings)  # A bad file fails here, not after the work.
    store = Store(settings)
    data = load_data(settings)
    start_model(settings, data)  # A bad --model fails here, not after the first training.
    try:
        work(settings, store, data, console)
    except KeyboardInterrupt:
        rows = len(store.results)
        message = f"\nStopped. Finished rows: {rows}, kept in {store.folder}. Run the same command again to resume."
        console.print(message, soft_wrap=True)
        report(settings, store, data, console)
        return INTERRUPTED
    report(settings, store, data, console)
    return 0


def work(settings: Settings, store, data, console) -> None:
    """Trains and measures everything that has no row yet."""
    from pilot_lib.progress import ProgressDisplay
    from pilot_lib.rows import FloatModel, measure

    from r2keras.workloads.training import release

    jobs_by_model = plan(settings, store)
    kinds = [kind for jobs in jobs_by_model.values() for kind in ("training", *(method for method, _ in jobs))]
    with ProgressDisplay(kinds, console) as progress:
        for (seed, regularizer), jobs in jobs_by_model.items():
            name = f"{regularizer}, seed {seed}"
            with progress.task("training", f"{name}: float training"):
                model = trained_model(settings, store, data, regularizer, seed, progress)
                trained = FloatModel.of(model, regularizer, seed, data)
            for method, num_bits in jobs:
                with progress.task(method, f"{name}: {method}, {num_bits} bit{'s' * (num_bits > 1)}"):
                    store.results.add(measure(trained, method, num_bits, settings, data, store, progress))
            del model, trained
            release()


def plan(settings: Settings, store) -> dict[tuple[int, str], list[tuple[str, int]]]:
    """Returns the (method, bits) pairs without a row, by (seed, regularizer).

    Seeds come one after the other, so that a run that is cut short can still compare the regularizers.
    """
    jobs = [FLOAT, *settings.jobs]
    unfinished = {}
    for seed in settings.seeds:
        for name in settings.regularizers:
            open_jobs = [job for job in jobs if not store.finished(name, seed, *job)]
            if open_jobs:
                unfinished[seed, name] = open_jobs
    return unfinished


def trained_model(settings: Settings, store, data, regularizer: str, seed: int, progress):
    """Returns the stored float model, or trains and stores it."""
    from pilot_lib.training import train_float

    from r2keras.workloads.nets import load_mlperf

    path = store.model_path(regularizer, seed)
    if path.exists():
        return load_mlperf(path)
    model = train_float(settings, data, regularizer, seed, progress.epochs(settings.epochs))
    store.write(path, model.save)
    return model


if __name__ == "__main__":
    start(main)
