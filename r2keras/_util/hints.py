"""Hints: log lines about choices that are allowed and rarely the best ones."""

from __future__ import annotations

import logging

_logged: set[str] = set()


def log_once(text: str, kind: str | None = None) -> None:
    """Logs a text, unless it or another one of its kind was; a log line, which filters of warnings let through.

    Args:
        text: one sentence or two.
        kind: what the text is about, if the text itself varies, as with counts; None means the text.
    """
    key = text if kind is None else kind
    if key not in _logged:
        _logged.add(key)
        logging.getLogger("r2keras").warning(text)


def forget() -> None:
    """Forgets what was logged."""
    _logged.clear()
