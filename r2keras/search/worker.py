"""One process of a search, `python -m r2keras.search.worker FOLDER N`: trains candidates until none is left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from r2keras._util.files import atomic_write_text, one_line, replacing
from r2keras.search import study as studies
from r2keras.search.data import SearchData, load_data
from r2keras.search.settings import Search
from r2keras.search.space import Candidate
from r2keras.search.training import TrainedCandidate, quality, train
from r2keras.search.trials import model_name
from r2keras.workloads.training import release

if TYPE_CHECKING:
    from optuna import Study, Trial

# Longer error messages are cut before they are stored in the study.
MAX_REASON = 300


class _StoppedEarly(Exception):
    """Stops a training because a smaller candidate was ahead."""


def work(folder: str | os.PathLike, worker: int = 0, on_event: Callable[[], None] = lambda: None) -> None:
    """Trains candidates until none is left.

    Args:
        folder: the folder of the study.
        worker: number of the process. Each process draws its own random numbers.
        on_event: called whenever the study has changed.
    """
    search, space = studies.load_settings(folder)
    study = studies.open_study(folder, search, space, worker)
    model = keras.models.load_model(search.model, compile=False)
    data = load_data(search, model)
    while (claimed := studies.claim(study, search, space)) is not None:
        _CandidateTraining(folder, search, study, *claimed, on_event).run(model, data)
        on_event()
        release()


class _CandidateTraining:
    """The training of one candidate, reported to the study after every epoch."""

    def __init__(
        self,
        folder: str | os.PathLike,
        search: Search,
        study: Study,
        trial: Trial,
        candidate: Candidate,
        on_event: Callable[[], None],
    ):
        self.folder = Path(folder)
        self.search = search
        self.study = study
        self.trial = trial
        self.candidate = candidate
        self.on_event = on_event
        self.values: list[float] = []

    def run(self, model: keras.Model, data: SearchData) -> None:
        """Trains the candidate and reports the result, or the reason why there is none."""
        states = studies.load_optuna().trial.TrialState
        self._note(bytes=self.candidate.bytes, label=self.candidate.label)
        start = time.monotonic()
        try:
            trained = train(self.search, model, self.candidate, data, self._on_epoch)
            self._note(value=trained.value, seconds=round(time.monotonic() - start, 2), model=self._save(trained))
            objectives = (quality(self.search.metric, trained.value), float(self.candidate.bytes))
            self.study.tell(self.trial, objectives)
        except _StoppedEarly as stopped:
            self._note(given_up=str(stopped), seconds=round(time.monotonic() - start, 2))
            self.study.tell(self.trial, state=states.PRUNED)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            self._note(failed=one_line(error)[:MAX_REASON])
            self.study.tell(self.trial, state=states.FAIL)
        except BaseException:
            # Ctrl-C, for one: another run trains the candidate.
            studies.release(self.study, self.trial.number)
            raise

    def _on_epoch(self, epoch: int, value: float) -> None:
        """Reports an epoch; raises if a smaller candidate was ahead at the same epoch."""
        self.values.append(value)
        self._note(values=self.values)
        self.on_event()
        winner = studies.ahead(self.study, self.search, self.candidate, epoch, self.values)
        if winner is not None:
            raise _StoppedEarly(winner)

    def _note(self, **attributes: Any) -> None:
        """Stores attributes of the trial in the study."""
        for name, value in attributes.items():
            self.trial.set_user_attr(name, value)

    def _save(self, trained: TrainedCandidate) -> str | None:
        """Saves model and record if no smaller candidate is better so far; returns the name of the file, or None."""
        if trained.record is None:
            return None
        metric = self.search.metric
        smaller = [
            quality(metric, t.user_attrs["value"])
            for t in self.study.get_trials(deepcopy=False)
            if t.state.name == "COMPLETE" and t.user_attrs["bytes"] <= self.candidate.bytes
        ]
        if quality(metric, trained.value) <= max(smaller, default=float("-inf")):
            return None
        name = model_name(self.trial.number)
        path = self.folder / name
        with replacing(path) as temporary:
            trained.model.save(temporary)
        trained.record.save(path.with_suffix(".record.npz"))
        return name


def main(argv: list[str]) -> int:
    """Runs one process of a search. An error is written to the folder of the study as one line."""
    if len(argv) != 3 or not Path(argv[1]).is_dir() or not argv[2].isdecimal():
        sys.stderr.write(f"usage: python -m r2keras.search.worker STUDY_FOLDER WORKER_NUMBER\nReceived: {argv[1:]}\n")
        return 2
    folder, worker = argv[1], int(argv[2])
    try:
        work(folder, worker)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        atomic_write_text(Path(folder, f"worker{worker}.error"), one_line(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
