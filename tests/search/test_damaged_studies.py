"""Damaged studies: a clear ValueError or an outcome, never another exception."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2keras.search import load
from r2keras.search.study import JOURNAL, SETTINGS, save_settings
from tests.damage import MANY, ODD_VALUES, QUICK, check_refusal, damaged_bytes, edited, examples, peak_megabytes

pytest.importorskip("optuna")
STUDY = Path(__file__).parents[1] / "fixtures" / "search" / "study"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(STUDY, tmp_path / "study")
    return tmp_path / "study"


def loaded(folder):
    """Reads a study, or asserts that the refusal is clear."""
    try:
        outcome = load(folder)
    except ValueError as error:
        check_refusal(error, "study")
    else:
        assert str(outcome)
        for row in outcome.rows:
            assert row["path"] is None or Path(row["path"]).parent == folder / "models"


def check(number, folder):
    before = peak_megabytes()
    settings, journal = (STUDY / SETTINGS).read_bytes(), (STUDY / JOURNAL).read_bytes()
    lines = [json.loads(line) for line in journal.splitlines()]

    @examples(number)
    @given(st.data())
    def run(data):
        for name, content in ((SETTINGS, settings), (JOURNAL, journal)):
            (folder / name).write_bytes(content)
        kind = data.draw(st.sampled_from(["settings", "settings bytes", "journal", "journal bytes"]))
        if kind == "settings":
            (folder / SETTINGS).write_text(json.dumps(data.draw(edited(json.loads(settings)))))
        elif kind == "settings bytes":
            (folder / SETTINGS).write_bytes(data.draw(damaged_bytes(settings, text=True)))
        elif kind == "journal":
            (folder / JOURNAL).write_text("".join(f"{json.dumps(line)}\n" for line in data.draw(edited(lines))))
        else:
            (folder / JOURNAL).write_bytes(data.draw(damaged_bytes(journal, text=True)))
        loaded(folder)

    run()
    assert peak_megabytes() - before < 200


@pytest.mark.filterwarnings("ignore")
def test_damaged_studies(folder):
    check(QUICK // 4, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_studies(folder):
    check(MANY, folder)


@pytest.mark.parametrize("key", ["fingerprint", "settings", "space"])
def test_any_value_in_place_of_a_part(key, folder):
    config = json.loads((folder / SETTINGS).read_text())
    for value in ODD_VALUES[:-1]:
        (folder / SETTINGS).write_text(json.dumps({**config, key: value}))
        loaded(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["settings"].update(bit=[2]), "Did you mean 'bits'"),
        (lambda c: c["settings"].update(epochs=0.5), "`epochs`. Expected an integer"),
        (lambda c: c["settings"].pop("model"), "`model`"),
        (lambda c: c["space"].pop("candidates"), "has no `candidates`"),
        (lambda c: c["space"]["candidates"][0].update(width="1"), "`width` of the candidate is not a number"),
        (lambda c: c["space"]["candidates"][0].update(method="stee"), "Did you mean 'ste'"),
        (lambda c: c.pop("space"), "has no `space`"),
    ],
)
def test_edited_settings_are_refused_with_the_reason(change, words, folder):
    config = json.loads((folder / SETTINGS).read_text())
    change(config)
    (folder / SETTINGS).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"search\.json is not a valid settings file of a search \(.*{words}"):
        load(folder)


def with_attribute(folder, name, value):
    """Sets an attribute of the second trial just before it ends."""
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    end = next(i for i, line in enumerate(lines) if (line["op_code"], line.get("trial_id")) == (6, 1))
    before = next(line for line in lines if (line["op_code"], line.get("trial_id")) == (8, 1))
    lines.insert(end, {**before, "user_attr": {name: value}})
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "../../important.keras"),
        ("model", "/important.keras"),
        ("owner", ["", -1]),
        ("owner", "x"),
        ("values", 3),
        ("values", ["x"]),
        ("value", None),
        ("value", "x"),
        ("label", 3),
        ("bytes", "x"),
    ],
)
def test_hostile_attributes_of_trials_are_refused(name, value, folder):
    with_attribute(folder, name, value)
    with pytest.raises(ValueError, match=rf"journal\.log is not a readable journal of a search \(`{name}` of trial 1"):
        load(folder)


def test_other_journals_are_refused(folder):
    for text in ("{", "[" * 100_000, '{"op_code":99}\n', "null\n", '{"op_code":8}\n' * 3, "\x00\xff"):
        (folder / JOURNAL).write_text(text)
        loaded(folder)


def test_files_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"argument `study`. Expected a folder of a search.*does not exist"):
        load(tmp_path / "none")
    (folder / SETTINGS).write_bytes(b"{" + b" " * 5 * 10**6)
    with pytest.raises(ValueError, match="longer than"):
        load(folder)


class Fixed:
    """Settings whose files are not read."""

    def fingerprint(self):
        return {"bits": [2]}


def test_settings_of_another_kind_are_not_compared(folder):
    (folder / SETTINGS).write_text('{"fingerprint": 3}')
    with pytest.raises(ValueError, match="`fingerprint` of the file is not an object"):
        save_settings(folder, Fixed(), None)
