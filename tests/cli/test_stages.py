"""Stages of a command line: a spinner in terminals, a line elsewhere."""

from __future__ import annotations

import pytest

from r2keras.cli.stages import stage


def test_a_line_where_no_terminal_is(capsys):
    with stage("Writing [m].tflite"):
        pass
    with stage("Reading m.keras", line=False):
        pass
    assert capsys.readouterr().err == "Writing [m].tflite ...\n"


@pytest.mark.parametrize("spinner", [True, False])
def test_a_spinner_in_a_terminal_unless_the_body_shows_a_bar(monkeypatch, capsys, spinner):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with stage("Writing [m].tflite", spinner=spinner):
        pass
    shown = capsys.readouterr().err
    assert "Writing [m].tflite ..." in shown
    assert ("\x1b[" in shown) == spinner
