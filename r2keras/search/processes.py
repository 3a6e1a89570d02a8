"""`run`: the processes of a search, their progress, and its outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from r2keras._util.errors import invalid
from r2keras._util.numeric import as_int
from r2keras._util.progress import progress_bar
from r2keras.search import study as studies
from r2keras.search.data import load_data
from r2keras.search.outcome import Outcome, outcome_of
from r2keras.search.settings import FLOAT, Search
from r2keras.search.space import Space, space_of

if TYPE_CHECKING:
    from optuna import Study

# Between two looks at the processes.
POLL_SECONDS = 0.5
# Until processes that ignore the interrupt are killed.
STOP_SECONDS = 20


def run(search: Search, study: str | os.PathLike, *, jobs: int = 1, progress: bool = False) -> Outcome:
    """Trains the candidates of a search, or the remaining ones of an earlier run.

    Candidates over the budget are never trained. Optuna's TPE sampler picks the others, each once, to find the Pareto
    front of quality against bytes. The study is written to disk after every epoch, so a stopped run can be resumed;
    candidates that were in training at that time start over. Other processes and machines may call `run` on the same
    folder.

    Args:
        search: the settings of the search.
        study: the folder of the study; it is created if it does not exist.
        jobs: number of processes; 1 trains in this process.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The outcome, including earlier runs and other processes.

    Raises:
        ValueError: the data do not fit the model; the model cannot be widened to a width; the budget is below the
            smallest candidate; the folder has the study of another search; `jobs` is below 1.
        RuntimeError: a process ended with an error.
        OSError: a file cannot be read or written.
        ImportError: Optuna is not installed.

    Example:

    >>> run(Search(model="m.keras", data="x.npz"), "study", jobs=0)
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `jobs`. Expected an integer of at least 1. Received: jobs=0.
    """
    if (as_int(jobs) or 0) < 1:
        raise ValueError(invalid("jobs", "an integer of at least 1", jobs))
    space = _begin(search, study)
    opened = studies.open_study(study, search, space)
    studies.release_dead(opened)
    with _progress_bar(opened, search, space, progress) as refresh:
        if jobs == 1:
            # Not at the top: `python -m r2keras.search.worker` imports this package before it runs that module.
            from r2keras.search.worker import work

            work(study, 0, refresh)
        else:
            _run_processes(study, jobs, refresh)
    _delete_dominated(outcome_of(opened, search, space, study))
    return outcome_of(opened, search, space, study)


def load(study: str | os.PathLike) -> Outcome:
    """Returns the outcome of a study so far, which may still be running.

    Args:
        study: the folder of the study.

    Raises:
        ValueError: the files of the study are corrupt.
        OSError: the folder has no study.
        ImportError: Optuna is not installed.

    Example:

    >>> load("no such folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: Invalid value for argument `study`. Expected a folder of a search, which has a search.json. \
Received: 'no such folder/search.json', which does not exist. Check the path.
    """
    search, space = studies.load_settings(study)
    return outcome_of(studies.open_study(study, search, space), search, space, study)


def _begin(search: Search, folder: str | os.PathLike) -> Space:
    """Checks model, data and budget before any training, and writes the settings."""
    model = keras.models.load_model(search.model, compile=False)
    load_data(search, model)
    space = space_of(search, model)
    studies.save_settings(folder, search, space)
    return space


def _delete_dominated(outcome: Outcome) -> None:
    """Deletes the saved models and records that are no longer on the Pareto front."""
    for row in outcome.rows:
        if row["path"] and not row["on_front"]:
            Path(row["path"]).unlink(missing_ok=True)
            Path(row["path"]).with_suffix(".record.npz").unlink(missing_ok=True)


def _run_processes(folder: str | os.PathLike, jobs: int, refresh: Callable[[], None]) -> None:
    """Runs workers in parallel until no candidate is left; Ctrl-C stops all of them."""
    for worker in range(jobs):
        Path(folder, f"worker{worker}.error").unlink(missing_ok=True)
    processes = [_start(folder, worker, jobs) for worker in range(jobs)]
    try:
        while any(process.poll() is None for process in processes):
            refresh()
            time.sleep(POLL_SECONDS)
    finally:
        _stop(processes)
    refresh()
    for worker, process in enumerate(processes):
        if process.returncode:
            reason = _error_of(folder, worker, process.returncode)
            raise RuntimeError(f"Process {worker} of the search failed: {reason}.")


def _start(folder: str | os.PathLike, worker: int, jobs: int) -> subprocess.Popen:
    """Starts a worker with its share of the cores, in its own session: Ctrl-C reaches it only through `_stop`."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    # The worker imports this copy of the package, whether it is installed or not.
    root = str(Path(__file__).parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "r2keras.search.worker", str(folder), str(worker)]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdin=null, stdout=null, stderr=null, start_new_session=True)


def _stop(processes: list[subprocess.Popen]) -> None:
    """Interrupts the running workers and waits until they have released their candidates."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error_of(folder: str | os.PathLike, worker: int, code: int) -> str:
    """Returns the error that a worker left, or its exit code."""
    path = Path(folder, f"worker{worker}.error")
    return path.read_text(encoding="utf-8") if path.exists() else f"exit code {code}"


@contextlib.contextmanager
def _progress_bar(study: Study, search: Search, space: Space, progress: bool) -> Iterator[Callable[[], None]]:
    """Shows a progress bar and yields the function that updates it."""
    controls = sum(c.is_control for c in space.candidates)
    quantized = len(space.candidates) - controls
    total = controls + min(quantized, search.trials or quantized)
    with progress_bar(progress, total, "search") as update:
        yield lambda: update(*_progress(study, search)) if progress else None


def _progress(study: Study, search: Search) -> tuple[int, str]:
    """Returns the number of finished trials, and a description of the running ones and of the best one."""
    trials = study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state.name in ("COMPLETE", "PRUNED") or "failed" in t.user_attrs]
    running = [t for t in trials if t.state.name == "RUNNING" and "label" in t.user_attrs]
    texts = [f"{t.user_attrs['label']} {len(t.user_attrs.get('values', []))}/{search.epochs}" for t in running]
    complete = [t for t in ended if t.state.name == "COMPLETE" and t.params["method"] != FLOAT]
    best = max(complete, key=lambda t: t.values[0], default=None)
    if best is not None:
        texts.append(f"best {best.user_attrs['value']:.4g} ({best.user_attrs['label']})")
    return len(ended), "; ".join(texts) or "search"
