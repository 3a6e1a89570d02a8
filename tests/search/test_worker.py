"""The process of a search, called by hand."""

import ast
from pathlib import Path

import pytest

from r2keras.search import worker


@pytest.mark.parametrize("arguments", [[], ["/does/not/exist", "0"], [".", "first"]])
def test_a_wrong_call_shows_the_usage_and_writes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert worker.main(["worker.py", *arguments]) == 2
    assert f"STUDY_FOLDER WORKER_NUMBER\nReceived: {arguments}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_package_leaves_its_worker_to_be_run():
    """`python -m r2keras.search.worker` imports the package first, and warns if that imports the worker too."""
    for path in Path(worker.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not (isinstance(node, ast.ImportFrom) and str(node.module).endswith("worker")), path
