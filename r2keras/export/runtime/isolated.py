"""Sessions in a process of their own, where a crash of the runtime becomes an error of the caller."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from typing import Any

import numpy as np

from r2keras.export.conversion.isolated_process import ending
from r2keras.export.runtime import sessions
from r2keras.export.runtime.sessions import Port

# The longest that one request may take: a corrupt loop may never end.
LIMIT_SECONDS = 600


class IsolatedSession:
    """A session of `sessions` in a process of its own, which ends with this object.

    Args:
        name: what errors call the file.

    Attributes:
        inputs: in the file's order.
        outputs: likewise.
        log: what the process wrote to standard error during the last request.
    """

    def __init__(self, name: str):
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-c", inspect.getsource(sessions)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self.close = weakref.finalize(self, _end, self._process, self._errors)
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.log: list[str] = []

    def open(self, kind: str, content: bytes, **options: object) -> None:
        """Opens a file, in place of the one before.

        Args:
            kind: the name of the session's class.
            content: the file's bytes.
            options: the other arguments of the class.

        Raises:
            RuntimeError: the runtime refuses the file; the message is its own.
            ValueError: the process ended, or did not answer in time.
        """
        request = {"method": "open", "kind": kind, "options": options}
        reply, _ = self._call(request, [np.frombuffer(content, np.uint8)])
        self.inputs, self.outputs = (_ports(reply[name]) for name in ("inputs", "outputs"))

    def run(self, arrays: list[np.ndarray], **options: object) -> list[np.ndarray]:
        """Returns the session's outputs for one batch."""
        return self._call({"method": "run", "options": options}, arrays)[1]

    def times(self, arrays: list[np.ndarray], num_runs: int) -> list[float]:
        """Returns the milliseconds of single runs."""
        reply, _ = self._call({"method": "times", "options": {"num_runs": num_runs}}, arrays)
        return [float(value) for value in reply["times"]]

    def _call(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Sends a request and returns the reply."""
        assert self._process.stdin is not None  # It was asked for.
        start = self._errors.seek(0, os.SEEK_END)
        timer = threading.Timer(LIMIT_SECONDS, self._process.kill)
        timer.daemon = True  # Python waits for other threads before it exits.
        try:
            timer.start()
            sessions.send(self._process.stdin, request, arrays)
            reply, found = sessions.receive(self._read)
        except (EOFError, BrokenPipeError) as error:
            raise self._crash(timer.finished.is_set()) from error
        finally:
            timer.cancel()
        self._errors.seek(start)
        self.log = self._errors.read().decode(errors="replace").splitlines()
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply, found

    def _read(self, size: int) -> bytes:
        """Returns the next bytes of the process's reply; raises EOFError if it has ended."""
        assert self._process.stdout is not None  # It was asked for.
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _crash(self, is_late: bool) -> ValueError:
        """Returns the error for a process that has ended by itself, or because it took too long."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("INFO", "I0000", "WARNING"))]
        self.close()
        reason = f"it ended the runtime's process with {ending(code)}" + (f", after {lines[-1]!r}" if lines else "")
        if is_late:
            reason = f"it did not finish within {LIMIT_SECONDS} seconds"
        return ValueError(
            f"{self._name} cannot be run: {reason}. Expected a file that is not damaged. Write it again with "
            "`r2keras.export.to_litert`."
        )


def _ports(rows: list[list[Any]]) -> list[Port]:
    """Returns inputs or outputs as they were before JSON made lists of them."""
    return [Port._make(tuple(field) if isinstance(field, list) else field for field in row) for row in rows]


def _end(process: subprocess.Popen[bytes], errors: Any) -> None:
    """Ends a process."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
