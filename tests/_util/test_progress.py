"""Progress bars: in terminals on standard error, in notebooks without ipywidgets, nothing elsewhere."""

from __future__ import annotations

import sys
import types

import pytest

from r2keras._util.progress import progress_bar


def advance(shown=True):
    with progress_bar(shown, 2, "AdaRound") as update:
        update(1, "AdaRound [conv]")
        update(2, "AdaRound")


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_where_no_terminal_is(capsys, shown):
    advance(shown)
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    advance()
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err


def test_a_line_that_is_updated_in_a_notebook(monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        assert raw and display_id
        shown.append(data["text/plain"])
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console.Console", lambda **options: types.SimpleNamespace(is_jupyter=True))
    advance()
    assert shown == ["AdaRound (0 of 2)", "AdaRound [conv] (1 of 2)", "AdaRound (2 of 2)"]
