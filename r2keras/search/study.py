"""The study on disk: Optuna's journal, who works on what, and who is given up."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._files import atomic_write_text
from r2keras.search.settings import FLOAT, Search, load_optuna
from r2keras.search.space import Candidate, Space
from r2keras.search.training import quality

NAME = "r2keras"
JOURNAL, SETTINGS = "journal.log", "search.json"
# A process that was killed between asking for a trial and signing it.
UNSIGNED_SECONDS = 60


def open_study(folder: str | os.PathLike, search: Search, space: Space, worker: int = 0) -> Any:
    """Opens the study of a folder, or starts it; several processes may have it open."""
    optuna = load_optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(Path(folder, JOURNAL)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            study_name=NAME,
            storage=optuna.storages.JournalStorage(backend),
            directions=["maximize", "minimize"],
            sampler=_sampler(optuna, search, space, worker),
            load_if_exists=True,
        )


def save_settings(folder: str | os.PathLike, search: Search, space: Space) -> None:
    """Writes what the study is of, or compares it with what is there.

    Raises:
        ValueError: the folder holds the study of another search.
    """
    path, own = Path(folder, SETTINGS), search.fingerprint()
    if path.exists():
        before = _read(path)["fingerprint"]
        other = [name for name in own if before.get(name) != own[name]]
        if other:
            name = other[0]
            what = "other contents" if name in ("model", "data") else f"{name}={before.get(name)!r}, not {own[name]!r}"
            raise ValueError(
                f"{folder} holds the study of another search ({name}: {what}). Expected the same settings, beside "
                "bits, widths, limits and trials. Choose another study folder, or go back to these settings."
            )
    config = {"fingerprint": own, "settings": search.to_dict(), "space": space.to_dict()}
    atomic_write_text(path, json.dumps(config, indent=1) + "\n")


def load_settings(folder: str | os.PathLike) -> tuple[Search, Space]:
    """Reads what `save_settings` wrote.

    Raises:
        ValueError: the file is corrupt.
        OSError: there is no study in the folder.
    """
    path = Path(folder, SETTINGS)
    config = _read(path)
    return Search.from_dict(config["settings"]), Space.from_dict(config["space"])


def claim(study: Any, search: Search, space: Space) -> tuple[Any, Candidate] | None:
    """Returns a trial and the candidate that it is for, which no other process has; None when all are taken."""
    while untried(study, search, space):
        trial = study.ask(_distributions(load_optuna(), search))
        trial.set_user_attr("owner", [socket.gethostname(), os.getpid()])
        candidate = space.find(trial.params)
        others = [t for t in _live(study) if t.number != trial.number and t.params == trial.params]
        if candidate is not None and not others:
            return trial, candidate
        # Two processes that see each other's claim both step back; chance tells them apart the next time.
        release(study, trial.number)
        time.sleep(np.random.default_rng().uniform(0, 0.2))
    return None


def release(study: Any, number: int) -> None:
    """Gives a trial up without a result, so that its candidate is untried again."""
    study.tell(number, state=load_optuna().trial.TrialState.FAIL)


def release_dead(study: Any) -> int:
    """Releases the running trials of processes on this machine that are gone; returns how many."""
    dead = [t.number for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING" and not _alive(t)]
    for number in dead:
        release(study, number)
    return len(dead)


def untried(study: Any, search: Search, space: Space) -> list[Candidate]:
    """Returns the candidates that nobody has trained or is training; float controls alone while any is left."""
    taken = [t.params for t in _live(study)]
    left = [c for c in space.candidates if c.params not in taken]
    controls = [c for c in left if c.is_control]
    done = sum(params.get("method") != FLOAT for params in taken)
    return controls or ([] if search.trials is not None and done >= search.trials else left)


def ahead(study: Any, search: Search, candidate: Candidate, epoch: int, values: list[float]) -> str | None:
    """Returns the smaller candidate that was ahead at the same epoch, or None if there is none.

    A trial is judged by its best epoch so far, and not at all in the first half of the epochs: few bits catch up late.
    """
    if candidate.is_control or not search.early_stopping or epoch >= search.epochs or epoch <= search.epochs // 2:
        return None
    own = max(quality(search.metric, value) for value in values)
    for trial in _live(study):
        reported = trial.user_attrs.get("values", [])[:epoch]
        if trial.params == candidate.params or len(reported) < epoch or trial.user_attrs["bytes"] > candidate.bytes:
            continue
        if max(quality(search.metric, value) for value in reported) > own:
            return trial.user_attrs["label"]
    return None


def _live(study: Any) -> list[Any]:
    """Returns the trials that count: running, finished, given up early, or failed for good."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.params]
    return [t for t in trials if t.state.name != "FAIL" or "failed" in t.user_attrs]


def _alive(trial: Any) -> bool:
    """Whether the process of a running trial is there; other machines are believed."""
    host, pid = trial.user_attrs.get("owner", (None, None))
    if host is None:
        age = datetime.datetime.now() - trial.datetime_start
        return age.total_seconds() < UNSIGNED_SECONDS
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _distributions(optuna: Any, search: Search) -> dict[str, Any]:
    """Returns the parameters; ranges, not lists, so that a later run may add bits and widths."""
    found = optuna.distributions
    return {
        "method": found.CategoricalDistribution([FLOAT, *search.methods]),
        "num_bits": found.IntDistribution(1, 32),
        "width": found.FloatDistribution(min(0.01, *search.widths), max(16.0, *search.widths)),
    }


def _sampler(optuna: Any, search: Search, space: Space, worker: int) -> Any:
    """Returns a TPE sampler that only draws candidates nobody has tried."""
    rng = np.random.default_rng([search.seed, worker])

    class UntriedTPE(optuna.samplers.TPESampler):
        """Takes the untried candidate nearest to what TPE asks for; at random while TPE knows too little."""

        def infer_relative_search_space(self, study, trial):
            return _distributions(optuna, search)

        def sample_relative(self, study, trial, search_space):
            left = untried(study, search, space)
            if not left:
                return {}
            if left[0].is_control:
                return left[0].params
            wish = super().sample_relative(study, trial, search_space)
            chosen = min(left, key=lambda c: _distance(c, wish)) if wish else left[rng.integers(len(left))]
            return chosen.params

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return UntriedTPE(seed=search.seed + worker, multivariate=True)


def _distance(candidate: Candidate, wish: dict[str, Any]) -> tuple[float, bool]:
    """Returns how far a candidate is from what was asked for: bits and width as ratios, then the method."""
    ratios = [candidate.num_bits / wish["num_bits"], candidate.width / wish["width"]]
    return float(np.abs(np.log(ratios)).sum()), candidate.method != wish["method"]


def _read(path: Path) -> dict[str, Any]:
    """Reads the settings of a study."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not the settings of a search ({error}). Choose another study folder.") from error
