"""Runs the repository's scripts, each in a separate process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Returns the environment of scripts: the repository can be imported, and no GPU is seen."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def start(name: str, *flags: object, cwd: Path = ROOT, file_limit: int = resource.RLIM_INFINITY) -> subprocess.Popen:
    """Starts a script.

    Args:
        name: its path in the repository.
        flags: its arguments.
        cwd: the folder that it runs in.
        file_limit: the most bytes that a file of its may have.
    """

    def prepare() -> None:
        # Under nohup the interrupt would be ignored, here and in every child.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return subprocess.Popen(
        [sys.executable, str(ROOT / name), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
        preexec_fn=prepare,
    )


def run(name: str, *flags: object, **options) -> tuple[int, str, str]:
    """Runs a script; returns its exit code, standard output and standard error."""
    process = start(name, *flags, **options)
    try:
        out, error = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, error


@functools.cache
def warm_process() -> subprocess.Popen:
    """Starts the process of `tests.warm`; it ends with the tests."""
    command = [sys.executable, str(ROOT / "tests" / "warm.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=environment(), **pipes)
    atexit.register(process.communicate)
    return process


@contextlib.contextmanager
def started_warm(
    name: str, *flags: object, cwd: Path = ROOT, file_limit: int = resource.RLIM_INFINITY
) -> Iterator[tuple[int, Callable[[], tuple[int, str, str]]]]:
    """Starts a script where TensorFlow is imported already; one at a time.

    Returns the id of its process, and a function that waits for its end and returns the same as `run`.
    """
    warm = warm_process()
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as error:
        job = {"command": [str(ROOT / name), *map(str, flags)], "cwd": str(cwd), "file_limit": file_limit}
        warm.stdin.write(json.dumps(job | {"out": out.name, "error": error.name}) + "\n")
        warm.stdin.flush()
        yield int(warm.stdout.readline()), lambda: (int(warm.stdout.readline()), out.read(), error.read())


def run_warm(name: str, *flags: object, **options) -> tuple[int, str, str]:
    """As `run`, where TensorFlow is imported already: for scripts that import it, and tests that are not about that."""
    with started_warm(name, *flags, **options) as (_, finish):
        return finish()
