"""A process that has imported TensorFlow and no more; it forks one child a script, and so spares each that import.

Reads a line of JSON a script from standard input, writes its exit code. Nothing of TensorFlow has run in it, so it has
no other thread that a fork would lose.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import threading

import keras  # noqa: F401
import tensorflow  # noqa: F401


def carry_out(job: dict) -> None:
    """Runs a script as if this process had been started for it."""
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(job[name], os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["cwd"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.argv = job["command"]
    sys.path[0] = os.path.dirname(job["command"][0])
    runpy.run_path(job["command"][0], run_name="__main__")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        assert threading.active_count() == 1
        child = os.fork()
        if child == 0:
            carry_out(json.loads(line))  # It ends with sys.exit or a traceback, as any script does.
            sys.exit(0)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    main()
