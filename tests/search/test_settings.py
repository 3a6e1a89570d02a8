"""Settings of a search: errors, and the settings that a study has in common."""

from __future__ import annotations

import json

import pytest

from r2keras.search import Search

BAD = [
    ({"metric": "accurracy"}, ValueError, "Did you mean 'accuracy'"),
    ({"methods": ("pallete",)}, ValueError, "Did you mean 'palette'"),
    ({"bits": (0,)}, ValueError, "`bits`. Expected integers from 1 to 8"),
    ({"bits": ("2",)}, TypeError, "`bits`"),
    ({"bits": ()}, ValueError, "`bits`. Expected at least one value"),
    ({"bits": "2,3"}, TypeError, "`bits`. Expected a list"),
    ({"widths": (0.5,)}, ValueError, "at least 1 with start='trained'.*start='fresh'"),
    ({"widths": (0,), "start": "fresh"}, ValueError, "`widths`. Expected numbers greater than 0"),
    ({"max_bytes": 0}, ValueError, "`max_bytes`. Expected an integer of at least 1"),
    ({"max_drop": -0.1}, ValueError, "`max_drop`"),
    ({"max_drop": float("nan")}, ValueError, "`max_drop`"),
    ({"epochs": 0}, ValueError, "`epochs`"),
    ({"trials": 1.5}, TypeError, "`trials`"),
    ({"learning_rate": 0}, ValueError, "`learning_rate`"),
    ({"start": "new"}, ValueError, "`start`"),
    ({"count": "bits"}, ValueError, "`count`"),
]


@pytest.mark.parametrize(("settings", "error", "words"), BAD, ids=[next(iter(b[0])) for b in BAD])
def test_mistakes_are_told(settings, error, words):
    with pytest.raises(error, match=words):
        Search(model="m.keras", data="x.npz", **settings)


def test_settings_go_through_json():
    search = Search(model="m.keras", data="x.npz", bits=[4, 2, 4], widths=[1, 1.5], max_drop=0.01)
    assert search.bits == (4, 2)
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search


def test_limits_and_lists_leave_the_study_the_same(search, folder, tmp_path):
    one = search().fingerprint()
    assert search(bits=(8,), widths=(3,), max_bytes=10, trials=2).fingerprint() == one
    assert search(epochs=3).fingerprint() != one
    (tmp_path / "x.npz").write_bytes((folder / "x.npz").read_bytes())
    assert search(data=tmp_path / "x.npz").fingerprint() == one
