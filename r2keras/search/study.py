"""The study on disk: Optuna's journal, claims of candidates by processes, early stopping."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.files import atomic_write_text, one_line, reading
from r2keras._util.json_text import member, parse_json
from r2keras._util.shown import shown
from r2keras.search.settings import FLOAT, Search, load_optuna
from r2keras.search.space import Candidate, Space
from r2keras.search.training import quality
from r2keras.search.trials import check_trials

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STUDY_NAME = "r2keras"
# File names in the folder of the study.
JOURNAL = "journal.log"
SETTINGS = "search.json"
# Of the settings; a candidate takes two hundred bytes.
LONGEST_SETTINGS = 4 * 2**20
# A trial without an owner after this time belongs to a process that was killed between creating and claiming it.
OWNERLESS_SECONDS = 60
# Processes that release a trial because another one claims it too try again after a random time up to this.
MAX_RETRY_SECONDS = 0.2


def open_study(folder: str | os.PathLike, search: Search, space: Space, worker: int = 0) -> Study:
    """Opens or creates the study in a folder. Several processes may have it open.

    Raises:
        ValueError: the journal of the study is corrupt.
        OSError: the journal cannot be read or written.
    """
    optuna = load_optuna()
    path = Path(folder, JOURNAL)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    sampler = _sampler(search, space, worker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            study = optuna.create_study(
                study_name=STUDY_NAME,
                storage=optuna.storages.JournalStorage(backend),
                directions=["maximize", "minimize"],
                sampler=sampler,
                load_if_exists=True,
            )
            check_trials(study)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is not a readable journal of a search ({one_line(error)}). Choose another study folder."
            ) from error
    return study


def save_settings(folder: str | os.PathLike, search: Search, space: Space) -> None:
    """Writes the settings of a study, after comparing them with those of an existing study.

    Raises:
        ValueError: the folder has the study of another search.
    """
    path, fingerprint = Path(folder, SETTINGS), search.fingerprint()
    if path.exists():
        existing = member(_read(path), "fingerprint", dict, "the file")
        for name, value in fingerprint.items():
            if existing.get(name) != value:
                change = f"{name}={shown(existing.get(name))}, not {shown(value)}"
                # The fingerprints of files are hashes, which say nothing to a reader.
                change = "different contents" if name in ("model", "data") else change
                raise ValueError(
                    f"{folder} has the study of another search ({name}: {change}). Expected the same settings, except "
                    "bits, widths, limits and trials. Choose another study folder, or restore these settings."
                )
    config = {"fingerprint": fingerprint, "settings": search.to_dict(), "space": space.to_dict()}
    atomic_write_text(path, json.dumps(config, indent=1) + "\n")


def load_settings(folder: str | os.PathLike) -> tuple[Search, Space]:
    """Reads the settings written by `save_settings`.

    Raises:
        ValueError: the file is corrupt.
        OSError: the folder has no study.
    """
    path = Path(folder, SETTINGS)
    config = _read(path)
    try:
        settings, space = (member(config, key, dict, "the file") for key in ("settings", "space"))
        return Search.from_dict(settings), Space.from_dict(space)
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def claim(study: Study, search: Search, space: Space) -> tuple[Trial, Candidate] | None:
    """Returns a trial and its candidate, which no other process trains; None if no candidate is left."""
    while untried(study, search, space):
        trial = study.ask(_distributions(search))
        trial.set_user_attr("owner", [socket.gethostname(), os.getpid()])
        candidate = space.find(trial.params)
        others = [t for t in _valid_trials(study) if t.number != trial.number and t.params == trial.params]
        if candidate is not None and not others:
            return trial, candidate
        # Two processes that see each other's claim both release it; the random delay separates them the next time.
        release(study, trial.number)
        time.sleep(np.random.default_rng().uniform(0, MAX_RETRY_SECONDS))
    return None


def release(study: Study, number: int) -> None:
    """Ends a trial without a result, so that its candidate is untried again."""
    study.tell(number, state=load_optuna().trial.TrialState.FAIL)


def release_dead(study: Study) -> int:
    """Releases the running trials of processes that no longer exist on this machine; returns their number."""
    dead = [t.number for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING" and not _is_alive(t)]
    for number in dead:
        release(study, number)
    return len(dead)


def untried(study: Study, search: Search, space: Space) -> list[Candidate]:
    """Returns the candidates that are neither trained nor in training; only float controls while any is left."""
    tried = [t.params for t in _valid_trials(study)]
    left = [c for c in space.candidates if c.params not in tried]
    controls = [c for c in left if c.is_control]
    if controls:
        return controls
    num_compressed = sum(params.get("method") != FLOAT for params in tried)
    return [] if search.trials is not None and num_compressed >= search.trials else left


def ahead(study: Study, search: Search, candidate: Candidate, epoch: int, values: list[float]) -> str | None:
    """Returns the label of a smaller candidate that was better at the same epoch, or None if there is none.

    Trials are compared by their best epoch so far. Nothing is compared in the first half of the epochs, because
    candidates of few bits catch up late.
    """
    if candidate.is_control or not search.early_stopping or epoch >= search.epochs or epoch <= search.epochs // 2:
        return None
    own = max(quality(search.metric, value) for value in values)
    for trial in _valid_trials(study):
        reported = trial.user_attrs.get("values", [])[:epoch]
        if trial.params == candidate.params or len(reported) < epoch or trial.user_attrs["bytes"] > candidate.bytes:
            continue
        if max(quality(search.metric, value) for value in reported) > own:
            return trial.user_attrs["label"]
    return None


def _valid_trials(study: Study) -> list[FrozenTrial]:
    """Returns the trials that are running, finished, stopped early or failed; released trials are left out."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.params]
    return [t for t in trials if t.state.name != "FAIL" or "failed" in t.user_attrs]


def _is_alive(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial exists; trials on other hosts are assumed to be running."""
    host, pid = trial.user_attrs.get("owner", (None, None))
    if host is None:
        started = trial.datetime_start
        return started is not None and (datetime.datetime.now() - started).total_seconds() < OWNERLESS_SECONDS
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _distributions(search: Search) -> dict[str, BaseDistribution]:
    """Returns the search parameters. They are ranges, not lists, so that a later run may add bits and widths."""
    distributions = load_optuna().distributions
    return {
        "method": distributions.CategoricalDistribution([FLOAT, *search.methods]),
        "num_bits": distributions.IntDistribution(1, 32),
        "width": distributions.FloatDistribution(min(0.01, *search.widths), max(16.0, *search.widths)),
    }


def _sampler(search: Search, space: Space, worker: int) -> BaseSampler:
    """Returns a TPE sampler that only draws untried candidates."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    rng = np.random.default_rng([search.seed, worker])

    class UntriedTPE(TPESampler):
        """Draws the untried candidate closest to the proposal of TPE, or a random one while TPE has no proposal."""

        def infer_relative_search_space(self, study, trial):
            return _distributions(search)

        def sample_relative(self, study, trial, search_space):
            left = untried(study, search, space)
            if not left:
                return {}
            if left[0].is_control:
                return left[0].params
            proposal = super().sample_relative(study, trial, search_space)
            if not proposal:
                return left[rng.integers(len(left))].params
            return min(left, key=lambda c: _distance(c, proposal)).params

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return UntriedTPE(seed=search.seed + worker, multivariate=True)


def _distance(candidate: Candidate, proposal: dict[str, Any]) -> tuple[float, bool]:
    """Returns the distance of a candidate from a proposal: ratios of bits and widths first, then the method."""
    ratios = [candidate.num_bits / proposal["num_bits"], candidate.width / proposal["width"]]
    return float(np.abs(np.log(ratios)).sum()), candidate.method != proposal["method"]


def _read(path: Path) -> dict[str, Any]:
    """Reads the settings of a study."""
    with reading(path, f"a folder of a search, which has a {SETTINGS}", "study") as file:
        data = file.read(LONGEST_SETTINGS + 1)
    try:
        if len(data) > LONGEST_SETTINGS:
            raise ValueError(f"it is longer than {LONGEST_SETTINGS:,} bytes")
        config = parse_json(data)
        member(config, "fingerprint", dict, "the file")
        return config
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    """Returns the error for settings that cannot be read."""
    return ValueError(
        f"{path} is not a valid settings file of a search ({one_line(error)}). Choose another study folder."
    )
