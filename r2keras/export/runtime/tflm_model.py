"""Running of files on LiteRT for Microcontrollers, and search for the memory that they need."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid
from r2keras._util.native_log import overheard
from r2keras._util.numeric import as_int
from r2keras.export.runtime.inputs import advancing, matched
from r2keras.export.tflite.interpreter import read

if TYPE_CHECKING:
    from tflite_micro.runtime import Interpreter

    from r2keras.export.tflite.activation_grid import Data

# Arena sizes, in bytes: the first that is tried, the largest, and the alignment of the interpreter's arena.
INITIAL = 2**22
LARGEST = 2**30
ALIGNMENT = 16
# Beginnings of the interpreter's log if the arena is too small.
OUT_OF_MEMORY = ("Failed to allocate", "Failed to resize buffer")
NO_REASON = "it does not say why"


class TFLMModel:
    """A `.tflite` file as a callable model, run by LiteRT for Microcontrollers.

    Args:
        path: the file.
        arena_bytes: memory for the interpreter, as on a device; None for as much as it needs.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`; LiteRT for Microcontrollers cannot run it;
            `arena_bytes` is too small.
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
        wanted = as_int(arena_bytes)
        if arena_bytes is not None and (wanted is None or not 1 <= wanted <= LARGEST):
            raise ValueError(invalid("arena_bytes", f"an integer from 1 to {LARGEST} or None", arena_bytes))
        self.path = Path(path)
        data = self.path.read_bytes()
        graph = file.subgraphs[0]
        self.input_names = [graph.tensors[i].name.decode() for i in graph.inputs]
        self._interpreter, _ = _open(data, str(path))
        if wanted is not None:
            needed = find_arena(data, str(path))
            if wanted < needed:
                raise ValueError(invalid("arena_bytes", f"at least {needed}, which {path} needs", arena_bytes))
            self._interpreter, _ = _allocate(data, wanted)
        self._inputs = [self._interpreter.get_input_details(i) for i in range(len(graph.inputs))]
        self._num_outputs = len(graph.outputs)

    def predict(self, x: Data, progress: bool = False) -> np.ndarray | list[np.ndarray]:
        """Runs the file on data, one sample at a time.

        Args:
            x: array; list of arrays in the order of the inputs; or dict by input name. All have the same length.
            progress: whether to show a progress bar.

        Returns:
            The output array, or a list of arrays in Keras' order if there are several outputs.

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

    The size is found by trial: the file runs in an arena of this size, and not in one 16 bytes smaller. It holds for a
    64-bit machine. A 32-bit microcontroller needs a little less, because its pointers are half as long.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`; LiteRT for Microcontrollers cannot run it.
        ImportError: tflite-micro is not installed.
        RuntimeError: the process that tries arena sizes failed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_tflm
    >>> path = os.path.join(tempfile.mkdtemp(), "mcu.tflite")
    >>> sizes = to_tflm(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)
    >>> tflm_arena(path) == sizes.arena_bytes
    True
    """
    read(path)
    return find_arena(Path(path).read_bytes(), str(path))


def find_arena(data: bytes, name: str) -> int:
    """Returns the `tflm_arena` of a file's bytes; errors call them `name`."""
    _, sufficient = _open(data, name)
    # The interpreter aborts its process if an arena is far too small, so sizes are tried in a child process.
    code = f"{inspect.getsource(_least_arena)}\nprint(_least_arena({sufficient}, {ALIGNMENT}))"
    result = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    if result.returncode:
        reason = (result.stderr.decode(errors="replace").strip().splitlines() or [NO_REASON])[-1]
        raise RuntimeError(f"The process that tries arena sizes for {name} failed ({reason}). Pass check=False.")
    return int(result.stdout)


def _least_arena(sufficient: int, alignment: int) -> int:
    """Returns the smallest arena that the file in standard input runs in; tries each size in a forked process."""
    import os
    import sys

    from tflite_micro import runtime

    data = sys.stdin.buffer.read()
    low, high = 0, sufficient // alignment
    while high - low > 1:
        middle = (low + high) // 2
        child = os.fork()
        if child == 0:
            runtime.Interpreter.from_bytes(data, arena_size=middle * alignment)
            os._exit(0)
        low, high = (middle, high) if os.waitpid(child, 0)[1] else (low, middle)
    return high * alignment


def _open(data: bytes, name: str) -> tuple[Interpreter, int]:
    """Returns an interpreter that has run once, and its arena's size; raises ValueError if it cannot run the file."""
    size = INITIAL
    log: list[str] = []
    while size <= LARGEST:
        interpreter, log = _allocate(data, size)
        if interpreter is not None:
            log = _run_on_zeros(interpreter, data)
        if not log:
            return interpreter, size
        if not any(line.startswith(OUT_OF_MEMORY) for line in log):
            raise ValueError(
                f"LiteRT for Microcontrollers cannot run {name} ({log[0]}). Expected operators that it has. Replace "
                "the layer that needs this operator."
            )
        size *= 16
    raise ValueError(
        f"{name} needs too much memory ({log[0]}). Expected at most {LARGEST} bytes. Use a smaller model or smaller "
        "inputs."
    )


def _allocate(data: bytes, arena_bytes: int) -> tuple[Interpreter | None, list[str]]:
    """Returns an interpreter, or None and the log if it could not allocate or prepare the file's operators."""
    interpreter = None
    runtime = optional_packages.microcontrollers()
    with overheard() as lines, contextlib.suppress(RuntimeError):
        interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena_bytes)
    return interpreter, [] if interpreter else _reasons(lines)


def _run_on_zeros(interpreter: Interpreter, data: bytes) -> list[str]:
    """Runs a file once on zeros; returns the log if that fails."""
    count = optional_packages.schema().Model.GetRootAs(data, 0).Subgraphs(0).InputsLength()
    for i in range(count):
        detail = interpreter.get_input_details(i)
        interpreter.set_input(np.zeros(detail["shape"], detail["dtype"]), i)
    failed = True
    with overheard() as lines, contextlib.suppress(RuntimeError):
        interpreter.invoke()
        failed = False
    return _reasons(lines) if failed else []


def _reasons(lines: list[str]) -> list[str]:
    """Returns the lines of a log that are not blank; `NO_REASON` if there is none."""
    return [line.strip() for line in lines if line.strip()] or [NO_REASON]
