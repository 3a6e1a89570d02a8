"""The stage that a command line is at: a spinner in terminals, one line per stage elsewhere, on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stage(text: str, *, line: bool = True, spinner: bool = True) -> Iterator[None]:
    """Says what is being done while the body runs.

    Args:
        text: what is being done.
        line: whether to write it where standard error is not a terminal.
        spinner: whether a terminal shows a spinner, which disappears at the end; otherwise it gets the line too, above
            what the body shows there.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if console.is_terminal and spinner:
        with console.status(escape(f"{text} ...")):
            yield
        return
    if line:
        sys.stderr.write(f"{text} ...\n")
    yield
