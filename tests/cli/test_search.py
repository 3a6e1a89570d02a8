"""r2keras-search: mistakes give one sentence before any training. Complete runs are in tests/search."""

from __future__ import annotations

import json

import pytest

from r2keras.cli import search


def run(made, tmp_path, **flags):
    given = {"model": made / "float.keras", "data": made / "x.npz", "out": tmp_path, "epochs": 1} | flags
    return search.main(["search.py", *(f"--{name}={value}" for name, value in given.items())])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"out": ""}, "--out is missing"),
        ({"model": "none.keras"}, "none.keras: No such file"),
        ({"data": "none.npz"}, "none.npz: No such file"),
        ({"bits": "two"}, "--bits=two is not a list of numbers"),
        ({"bits": "9"}, "`bits`"),
        ({"widths": "0"}, "`widths`"),
        ({"methods": "sta"}, "Did you mean 'ste'?\n"),
        ({"metric": "f1"}, "`metric`. Expected one of 'accuracy', 'perplexity'"),
        ({"match": "lstm"}, "nothing to widen"),
        ({"max_bytes": 10}, "No candidate fits"),
        ({"jobs": 0}, "`jobs`"),
    ],
)
def test_mistake_is_one_sentence(made, tmp_path, capsys, flags, words):
    assert run(made, tmp_path, **flags) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)
    assert "Traceback" not in err


def test_no_candidate_that_could_be_trained_is_no_success(made, tmp_path, monkeypatch):
    pytest.importorskip("optuna")

    def broken(*_):
        raise ValueError("The loss became NaN.")

    monkeypatch.setattr("r2keras.search.worker.train", broken)
    assert run(made, tmp_path, bits="4", widths="1") == search.MISSED
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["state"] for row in rows} == {"failed"}


@pytest.mark.slow
def test_rows_plots_and_the_answer_are_written(made, tmp_path, capsys):
    pytest.importorskip("optuna")
    assert run(made, tmp_path, bits="4", widths="1", max_drop=1) == 0
    assert "Use ste, 4 bits, width 1:" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "results.json").read_text())["chosen"] == "ste, 4 bits, width 1"
    assert {"front.png", "front.svg", "study"} <= {path.name for path in tmp_path.iterdir()}
