"""The study on disk: claims of candidates, early stopping, and recovery from killed processes."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
import pytest

from r2keras.search import study as studies
from r2keras.search.space import space_of
from r2keras.search.training import quality


@pytest.fixture
def opened(search, folder, tmp_path):
    """A search, its space, and a function that opens its study as another process would."""

    def make(**settings):
        asked = search(bits=(2, 3, 4, 8), widths=(1, 1.5), **settings)
        space = space_of(asked, keras.models.load_model(folder / "m.keras"))
        return asked, space, lambda worker=0: studies.open_study(tmp_path, asked, space, worker)

    return make


def finish(study, trial, candidate, values):
    for name, value in {"bytes": candidate.bytes, "label": candidate.label, "values": values}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, (quality("accuracy", values[-1]), float(candidate.bytes)))


def test_two_processes_share_the_candidates_controls_first(opened):
    search, space, open_study = opened()
    parts = [open_study(0), open_study(1)]
    taken = []
    while (claimed := studies.claim(study := parts[len(taken) % 2], search, space)) is not None:
        taken.append(claimed[1])
        finish(study, *claimed, [0.5, 0.6])
    assert sorted(c.label for c in taken) == sorted(c.label for c in space.candidates)
    assert [c.is_control for c in taken] == [True] * 2 + [False] * 8


def test_a_claim_that_another_process_has_too_is_given_back(opened, monkeypatch):
    search, space, open_study = opened()
    first, second = open_study(0), open_study(1)
    trial, candidate = studies.claim(first, search, space)
    true, blind = studies.untried, [space.candidates]

    def untried(study, *args):
        return list(blind.pop()) if len(blind) and study is not first else true(study, *args)

    monkeypatch.setattr(studies, "untried", untried)
    blind.append(space.candidates)
    other, theirs = studies.claim(second, search, space)
    assert theirs != candidate
    running = [t for t in first.get_trials() if t.state.name == "RUNNING"]
    assert {t.number for t in running} == {trial.number, other.number}


def test_trials_limit_the_candidates_but_not_the_controls(opened):
    search, space, open_study = opened(trials=3)
    study, taken = open_study(), []
    while (claimed := studies.claim(study, search, space)) is not None:
        taken.append(claimed[1])
    assert sum(c.is_control for c in taken) == 2
    assert len(taken) == 2 + 3


def test_trials_of_dead_processes_are_released_and_those_of_living_ones_not(opened):
    search, space, open_study = opened()
    study = open_study()
    dead, _ = studies.claim(study, search, space)
    alive, candidate = studies.claim(study, search, space)
    dead.set_user_attr("owner", [os.uname().nodename, 2**22 + 1])
    assert studies.release_dead(open_study(1)) == 1
    labels = [c.label for c in studies.untried(study, search, space)]
    assert labels == ["float, width 1"]
    assert study.get_trials()[alive.number].state.name == "RUNNING"
    assert candidate.label == "float, width 1.5"


def test_a_smaller_candidate_ahead_ends_a_trial(opened):
    search, space, open_study = opened(epochs=3)
    study = open_study()
    small = min((c for c in space.candidates if not c.is_control), key=lambda c: c.bytes)
    large = max((c for c in space.candidates if not c.is_control), key=lambda c: c.bytes)
    trial = study.ask(studies._distributions(search))
    assert studies.ahead(study, search, large, 2, [0.1, 0.1]) is None
    finish(study, trial, small, [0.5, 0.6, 0.7])
    cases = [(large, 2, [0.1, 0.59]), (large, 2, [0.1, 0.6]), (large, 1, [0.1]), (large, 3, [0.1, 0.1, 0.1])]
    assert [studies.ahead(study, search, *case) for case in cases] == [small.label, None, None, None]
    control = space.candidates[0]
    assert studies.ahead(study, search, control, 2, [0.0, 0.0]) is None
    four = opened(epochs=4)[0]
    assert [studies.ahead(study, four, large, n, [0.1] * n) for n in (1, 2, 3)] == [None, None, small.label]
    assert studies.ahead(study, opened(epochs=2)[0], large, 1, [0.1]) is None
    lenient = opened(epochs=3, early_stopping=False)[0]
    assert studies.ahead(study, lenient, large, 2, [0.1, 0.1]) is None


def test_another_search_does_not_get_into_the_study(search, opened, tmp_path):
    asked, space, _ = opened()
    studies.save_settings(tmp_path, asked, space)
    studies.save_settings(tmp_path, search(max_bytes=9999), space)
    assert studies.load_settings(tmp_path)[0].max_bytes == 9999
    with pytest.raises(ValueError, match="study of another search \\(epochs: epochs=2, not 5\\)"):
        studies.save_settings(tmp_path, search(epochs=5), space)
    with pytest.raises(ValueError, match="data: different contents"):
        np.savez(tmp_path / "other.npz", x=np.zeros(1))
        studies.save_settings(tmp_path, search(data=tmp_path / "other.npz"), space)
    config = json.loads((tmp_path / "search.json").read_text())
    assert config["settings"]["epochs"] == 2
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ValueError, match="is not a valid settings file"):
        studies.load_settings(tmp_path)
