"""Runs files on the interpreter of LiteRT for Microcontrollers, and finds how much memory it needs for them."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._errors import invalid
from r2keras.export import packages
from r2keras.export.flatbuffer import read
from r2keras.export.quiet import overheard
from r2keras.export.runtime import advancing, matched

ROOMY, LARGEST, ALIGNMENT = 2**22, 2**30, 16
NO_ROOM = ("Failed to allocate", "Failed to resize buffer")


class TFLMModel:
    """A `.tflite` file as a callable model, run by LiteRT for Microcontrollers.

    Args:
        path: the file.
        arena_bytes: the memory that the interpreter gets, as on a device; None: enough.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, or no `.tflite`; microcontrollers cannot run it; `arena_bytes` is
            too small for it.
        ImportError: tflite-micro is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_tflm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> path = os.path.join(tempfile.mkdtemp(), "mcu.tflite")
    >>> arena = to_tflm(model, path).arena_bytes
    >>> TFLMModel(path, arena).predict(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    def __init__(self, path: str | os.PathLike, arena_bytes: int | None = None):
        file = read(path)
        if arena_bytes is not None and not 1 <= arena_bytes <= LARGEST:
            raise ValueError(invalid("arena_bytes", f"an integer from 1 to {LARGEST} or None", arena_bytes))
        self.path = Path(path)
        data, graph = self.path.read_bytes(), file.subgraphs[0]
        self.input_names = [graph.tensors[i].name.decode() for i in graph.inputs]
        self._interpreter, _ = _open(data, str(path))
        if arena_bytes is not None:
            needed = arena_of(data, str(path))
            if arena_bytes < needed:
                raise ValueError(invalid("arena_bytes", f"at least {needed}, which {path} needs", arena_bytes))
            self._interpreter, _ = _try(data, arena_bytes)
        self._inputs = [self._interpreter.get_input_details(i) for i in range(len(graph.inputs))]
        self._num_outputs = len(graph.outputs)

    def predict(self, x: Any, progress: bool = False) -> Any:
        """Runs the file on data, one sample after the other.

        Args:
            x: array; list of arrays in the order of the inputs; or dict by input name. All of one length.
            progress: whether to show a progress bar.

        Returns:
            The output array, or a list of them in Keras' order if there are several.

        Raises:
            ValueError: the number, the names, the lengths or the shapes of the inputs are wrong.
        """
        shapes = [(-1, *map(int, detail["shape"][1:])) for detail in self._inputs]
        arrays = matched(x, self.input_names, shapes)
        arrays = [array.astype(detail["dtype"], copy=False) for array, detail in zip(arrays, self._inputs, strict=True)]
        samples = []
        with advancing(progress, len(arrays[0]), self.path.name) as advance:
            for sample in zip(*arrays, strict=True):
                samples.append(self._run(sample))
                advance(1)
        outputs = [np.concatenate(column) for column in zip(*samples, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, sample: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Runs one sample."""
        for i, values in enumerate(sample):
            self._interpreter.set_input(np.ascontiguousarray(values[None]), i)
        self._interpreter.invoke()
        return [self._interpreter.get_output(i) for i in range(self._num_outputs)]


def tflm_arena(path: str | os.PathLike) -> int:
    """Returns the bytes of memory (the arena) that LiteRT for Microcontrollers needs to run a file.

    Found by trying: with so much the file runs, with 16 bytes less it does not. It holds for a 64-bit machine; the
    pointers in the arena are half as long on a 32-bit microcontroller, which needs a little less.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, or no `.tflite`; microcontrollers cannot run it.
        ImportError: tflite-micro is not installed.
        RuntimeError: the process that tries sizes failed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_tflm
    >>> path = os.path.join(tempfile.mkdtemp(), "mcu.tflite")
    >>> found = to_tflm(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)
    >>> tflm_arena(path) == found.arena_bytes
    True
    """
    read(path)
    return arena_of(Path(path).read_bytes(), str(path))


def arena_of(data: bytes, name: str) -> int:
    """Returns `tflm_arena` of a file's bytes; `name` is what an error calls them."""
    _, enough = _open(data, name)
    # The interpreter ends its process where an arena is far too small, so that sizes are tried in another one.
    code = f"{inspect.getsource(_least_arena)}\nprint(_least_arena({enough}, {ALIGNMENT}))"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["it does not say why"])[-1]
        raise RuntimeError(f"The process that tries arena sizes for {name} failed ({reason}). Pass check=False.")
    return int(done.stdout)


def _least_arena(enough: int, alignment: int) -> int:
    """Returns the least arena with which the file in standard input can be run; each size has a process of its own."""
    import os
    import sys

    from tflite_micro import runtime

    data = sys.stdin.buffer.read()
    low, high = 0, enough // alignment
    while high - low > 1:
        middle = (low + high) // 2
        child = os.fork()
        if child == 0:
            runtime.Interpreter.from_bytes(data, arena_size=middle * alignment)
            os._exit(0)
        low, high = (middle, high) if os.waitpid(child, 0)[1] else (low, middle)
    return high * alignment


def _open(data: bytes, name: str) -> tuple[Any, int]:
    """Returns an interpreter that has run once, and its arena's size; raises ValueError if it cannot run a file."""
    size = ROOMY
    log: list[str] = []
    while size <= LARGEST:
        found, log = _try(data, size)
        if found is not None:
            log = _run_on_zeros(found, data)
        if not log:
            return found, size
        if not any(line.startswith(NO_ROOM) for line in log):
            raise ValueError(
                f"LiteRT for Microcontrollers cannot run {name} ({log[0]}). Replace the layer that needs this operator."
            )
        size *= 16
    raise ValueError(f"{name} needs more than {LARGEST} bytes of memory, which no microcontroller has ({log[0]}).")


def _try(data: bytes, arena_bytes: int) -> tuple[Any, list[str]]:
    """Returns an interpreter, or None and the log if it could not place or prepare the file's operators."""
    runtime, found = packages.microcontrollers(), None
    with overheard() as lines, contextlib.suppress(RuntimeError):
        found = runtime.Interpreter.from_bytes(data, arena_size=arena_bytes)
    return found, [] if found else _reasons(lines)


def _run_on_zeros(interpreter: Any, data: bytes) -> list[str]:
    """Runs a file once; returns the log if that fails."""
    count = packages.schema().Model.GetRootAs(data, 0).Subgraphs(0).InputsLength()
    for i in range(count):
        detail = interpreter.get_input_details(i)
        interpreter.set_input(np.zeros(detail["shape"], detail["dtype"]), i)
    failed = True
    with overheard() as lines, contextlib.suppress(RuntimeError):
        interpreter.invoke()
        failed = False
    return _reasons(lines) if failed else []


def _reasons(lines: list[str]) -> list[str]:
    """Returns the lines of a log that say something."""
    return [line.strip() for line in lines if line.strip()] or ["it does not say why"]
