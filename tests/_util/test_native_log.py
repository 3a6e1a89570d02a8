"""The streams while native code runs."""

import logging
import os

import pytest

from r2keras._util.native_log import quiet, quiet_imports


def test_output_of_the_block_is_kept_off_the_screen(capfd):
    with quiet():
        os.write(1, b"to standard output")
        os.write(2, b"to standard error")
    print("after")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("after\n", "")


def test_everything_is_restored_after_an_error(capfd):
    before = logging.getLogger("absl").level
    with pytest.raises(KeyError), quiet():
        raise KeyError("a")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
    assert logging.getLogger("absl").level == before


def test_imports_are_quiet_and_their_errors_are_not(capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with pytest.raises(ImportError), quiet_imports():
        os.write(1, b"to standard output")
        os.write(2, b"to standard error")
        raise ImportError("missing")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("to standard output", "")
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
