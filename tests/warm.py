"""A process that has imported TensorFlow and no more; it forks one child a script, and so spares each that import.

Reads a line of JSON a script from standard input; writes the id of its process and, at its end, its exit code. Nothing
of TensorFlow has run in it, so it has no other thread that a fork would lose.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import sys
import threading
import traceback
from typing import NoReturn

import keras  # noqa: F401
import tensorflow  # noqa: F401


def carry_out(job: dict) -> None:
    """Runs a script as if this process had been started for it."""
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(job[name], os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Under nohup the interrupt would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An interrupt that arrives while jax's callback runs would be lost.
    gc.callbacks.clear()
    os.chdir(job["cwd"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.argv = job["command"]
    sys.path[0] = os.path.dirname(job["command"][0])
    runpy.run_path(job["command"][0], run_name="__main__")


def end(job: dict) -> NoReturn:
    """Runs a script and ends as it does, without tearing TensorFlow down: that writes to memory for a second."""
    code: object = 0
    try:
        carry_out(job)
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 (Python ends every script with its traceback)
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    # A search for garbage in a child would write to, and so copy, all that it has from here.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        assert threading.active_count() == 1
        child = os.fork()
        if child == 0:
            end(json.loads(line))
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
