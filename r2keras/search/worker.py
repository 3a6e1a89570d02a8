"""One process of a search, `python -m r2keras.search.worker FOLDER N`: takes candidates until none is left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from r2keras._files import atomic_write_text, one_line, replacing
from r2keras.search import study as studies
from r2keras.search.data import Data, load_data
from r2keras.search.settings import Search
from r2keras.search.space import Candidate, Space
from r2keras.search.training import Trained, quality, train
from r2keras.workloads.training import release

MODELS = "models"


class _GivenUpError(Exception):
    """A smaller candidate was ahead."""


def work(folder: str | os.PathLike, worker: int = 0, on_event: Callable[[], None] = lambda: None) -> None:
    """Trains candidates until none is left.

    Args:
        folder: of the study.
        worker: the process' number, which tells the processes' chance apart.
        on_event: called whenever there is something new in the study.
    """
    search, space = studies.load_settings(folder)
    study = studies.open_study(folder, search, space, worker)
    model = keras.models.load_model(search.model, compile=False)
    data = load_data(search, model)
    while (claimed := studies.claim(study, search, space)) is not None:
        _Trial(folder, search, space, study, *claimed, on_event).run(model, data)
        on_event()
        release()


class _Trial:
    """The training of one candidate, told to the study epoch by epoch."""

    def __init__(self, folder, search: Search, space: Space, study: Any, trial: Any, candidate: Candidate, on_event):
        self.folder, self.search, self.space, self.study = Path(folder), search, space, study
        self.trial, self.candidate, self.on_event = trial, candidate, on_event
        self.values: list[float] = []

    def run(self, model: keras.Model, data: Data) -> None:
        """Trains and tells how it ended; a candidate that cannot be trained ends with the reason."""
        states = studies.load_optuna().trial.TrialState
        self._note(bytes=self.candidate.bytes, label=self.candidate.label)
        started = time.monotonic()
        try:
            trained = train(self.search, model, self.candidate, data, self._epoch)
            self._note(value=trained.value, seconds=round(time.monotonic() - started, 2), model=self._save(trained))
            figures = (quality(self.search.metric, trained.value), float(self.candidate.bytes))
            self.study.tell(self.trial, figures)
        except _GivenUpError as reason:
            self._note(given_up=str(reason), seconds=round(time.monotonic() - started, 2))
            self.study.tell(self.trial, state=states.PRUNED)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            self._note(failed=one_line(error)[:300])
            self.study.tell(self.trial, state=states.FAIL)
        except BaseException:
            studies.release(self.study, self.trial.number)
            raise

    def _epoch(self, epoch: int, value: float) -> None:
        """Reports an epoch; raises when a smaller candidate was ahead."""
        self.values.append(value)
        self._note(values=self.values)
        self.on_event()
        winner = studies.ahead(self.study, self.search, self.candidate, epoch, self.values)
        if winner is not None:
            raise _GivenUpError(winner)

    def _note(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            self.trial.set_user_attr(name, value)

    def _save(self, trained: Trained) -> str | None:
        """Saves a model that nothing smaller beats so far, with its record; returns its name in the study."""
        best = max(
            (
                quality(self.search.metric, t.user_attrs["value"])
                for t in self.study.get_trials(deepcopy=False)
                if t.state.name == "COMPLETE" and t.user_attrs["bytes"] <= self.candidate.bytes
            ),
            default=float("-inf"),
        )
        if trained.record is None or quality(self.search.metric, trained.value) <= best:
            return None
        name = f"{MODELS}/trial{self.trial.number}.keras"
        path = self.folder / name
        with replacing(path) as temporary:
            trained.model.save(temporary)
        trained.record.save(path.with_suffix(".record.npz"))
        return name


def main(argv: list[str]) -> int:
    """Runs one process of a search; its complaint goes to the study's folder, in one sentence."""
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
