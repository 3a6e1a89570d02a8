"""The process of a search, called by hand."""

import pytest

from r2keras.search import worker


@pytest.mark.parametrize("arguments", [[], ["/does/not/exist", "0"], [".", "first"]])
def test_a_wrong_call_shows_the_usage_and_writes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert worker.main(["worker.py", *arguments]) == 2
    assert f"STUDY_FOLDER WORKER_NUMBER\nReceived: {arguments}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
