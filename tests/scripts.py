"""Runs the repository's scripts as a person does, each in a process of its own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


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

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, str(ROOT / name), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
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
