"""Silences, or collects, the log of native code while a block runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards what the process writes to standard output and error while the block runs.

    TensorFlow's converter and LiteRT log from C++, past `sys.stderr`, so the file descriptors themselves are
    redirected. TensorFlow's Python loggers are set to ERROR meanwhile. Nothing is lost: exceptions have the converter's
    reasons, and the log only repeats them.

    Example:

    >>> with quiet():
    ...     _ = os.write(2, b"noise")
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _redirected(1), _redirected(2):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Discards standard error while packages are imported that log from native code; a failed import still raises.

    Some lines that TensorFlow logs while it loads ignore `TF_CPP_MIN_LOG_LEVEL`, which is set for the others.

    Example:

    >>> with quiet_imports():
    ...     _ = os.write(2, b"noise")
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _redirected(2):
        yield


@contextlib.contextmanager
def overheard() -> Iterator[list[str]]:
    """Collects the lines that native code writes to standard error while the block runs; the list is filled at its end.

    Example:

    >>> with overheard() as lines:
    ...     _ = os.write(2, b"no such operator")
    >>> lines
    ['no such operator']
    """
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        try:
            with _redirected(2, file.fileno()):
                yield lines
        finally:
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


@contextlib.contextmanager
def _redirected(descriptor: int, target: int | None = None) -> Iterator[None]:
    """Redirects a file descriptor to another, or to the null device, while the block runs; skips a closed one."""
    _flush()
    try:
        saved = os.dup(descriptor)
    except OSError:
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null if target is None else target, descriptor)
    os.close(null)
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush() -> None:
    """Flushes Python's buffers of standard output and error."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
