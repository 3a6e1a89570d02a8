"""Running of files on LiteRT for Microcontrollers, and search for the memory that they need."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid
from r2keras._util.native_log import overheard
from r2keras._util.numeric import as_int
from r2keras.export.runtime.inputs import advancing, as_float, as_input, matched
from r2keras.export.runtime.isolated import IsolatedSession
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers, check_scales
from r2keras.export.runtime.sessions import TFLMSession
from r2keras.export.tflite.ethos_u import compiled_error, is_compiled
from r2keras.export.tflite.interpreter import parse, read
from r2keras.export.tflite.schema import name_of
from r2keras.export.tflite.subgraph import Subgraph

if TYPE_CHECKING:
    from r2keras.export.tflite.activation_grid import Data
    from r2keras.export.tflite.schema import ModelT

# Arena sizes, in bytes: the first that is tried, the largest, and the alignment of the interpreter's arena.
INITIAL = 2**22
LARGEST = 2**30
ALIGNMENT = 16
# Samples that are handed over at a time; each runs alone.
SAMPLES = 128
# Beginnings of the interpreter's log if the arena is too small.
OUT_OF_MEMORY = ("Failed to allocate", "Failed to resize buffer")
NO_REASON = "it does not say why"


class TFLMModel:
    """A `.tflite` file as a callable model, run by LiteRT for Microcontrollers.

    Args:
        path: the file.
        arena_bytes: memory for the interpreter, as on a device; None for as much as it needs.
        isolated: whether to run the file in a process of its own, for a file of unknown origin: what crashes that
            process is an error here.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`; LiteRT for Microcontrollers cannot run it;
            `arena_bytes` is too small; the file ended the process of its own.
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

    def __init__(self, path: str | os.PathLike, arena_bytes: int | None = None, *, isolated: bool = False):
        file = read(path)
        check_for_microcontrollers(file, str(path))
        wanted = as_int(arena_bytes)
        if arena_bytes is not None and (wanted is None or not 1 <= wanted <= LARGEST):
            raise ValueError(invalid("arena_bytes", f"an integer from 1 to {LARGEST} or None", arena_bytes))
        self.path = Path(path)
        content = _Content.of(file, self.path.read_bytes(), str(path))
        graph = Subgraph(file)
        self.input_names = [name_of(graph.tensor(i)) for i in graph.inputs]
        self._session, _ = _open(content, isolated)
        if wanted is not None:
            needed = find_arena(content.data, str(path))
            if wanted < needed:
                raise ValueError(invalid("arena_bytes", f"at least {needed}, which {path} needs", arena_bytes))
            session, _ = _attempt(content, wanted, self._session if isolated else None)
            assert session is not None  # It was just tried.
            self._session = session
        self.inputs, self.outputs = self._session.inputs, self._session.outputs

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
        return self.predict_named("x", x, progress)

    def predict_named(self, name: str, x: Data, progress: bool = False) -> np.ndarray | list[np.ndarray]:
        """Runs the file as `predict` does; errors call the data by another argument's name."""
        arrays = self.arrays(x, name)
        count = len(arrays[0])
        parts = []
        with advancing(progress, count, self.path.name) as advance:
            for start in range(0, count, SAMPLES):
                batch = [array[start : start + SAMPLES] for array in arrays]
                parts.append(self._run(batch))
                advance(len(batch[0]))
        outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def dequantized(self, outputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Returns outputs of `predict` as a list of float arrays: integers become the values that they represent."""
        listed = outputs if isinstance(outputs, list) else [outputs]
        return [as_float(output, port) for output, port in zip(listed, self.outputs, strict=True)]

    def arrays(self, x: Data, name: str = "x") -> list[np.ndarray]:
        """Returns the inputs as arrays of the file's types, in the file's order."""
        arrays = matched(x, self.input_names, [(-1, *port.shape[1:]) for port in self.inputs], name)
        return [as_input(array, port) for array, port in zip(arrays, self.inputs, strict=True)]

    def _run(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for samples."""
        try:
            return self._session.run(batch)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"LiteRT for Microcontrollers failed to run {self.path} ({reason}).") from error


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
    optional_packages.require_microcontrollers()
    session, sufficient = _open(_Content.of(parse(data, name), data, name), isolated=True)
    assert isinstance(session, IsolatedSession)
    try:
        session.open("ArenaSearch", data)
        return int(session.run([], sufficient=sufficient, alignment=ALIGNMENT)[0])
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"The process that tries arena sizes for {name} failed ({error}). Pass check=False."
        ) from error
    finally:
        session.close()


class _Content(NamedTuple):
    """A file to open.

    Args:
        data: its bytes.
        name: what errors call it.
        num_inputs: number of its inputs.
        num_outputs: number of its outputs.
    """

    data: bytes
    name: str
    num_inputs: int
    num_outputs: int

    @classmethod
    def of(cls, file: ModelT, data: bytes, name: str) -> _Content:
        """Returns a parsed file's content; raises ValueError if the runtime lacks its NPU or computes it wrongly."""
        if is_compiled(file):
            raise compiled_error(name)
        check_scales(file, name)
        graph = Subgraph(file)
        return cls(data, name, len(graph.inputs), len(graph.outputs))


def _open(content: _Content, isolated: bool) -> tuple[TFLMSession | IsolatedSession, int]:
    """Returns a session that has run once, and its arena's size; raises ValueError if it cannot run the file."""
    optional_packages.require_microcontrollers()
    process = IsolatedSession(content.name) if isolated else None
    size = INITIAL
    log: list[str] = []
    while size <= LARGEST:
        session, log = _attempt(content, size, process)
        if session is not None:
            return session, size
        if not any(line.startswith(OUT_OF_MEMORY) for line in log):
            raise ValueError(
                f"LiteRT for Microcontrollers cannot run {content.name} ({log[0]}). Expected operators that it has. "
                "Replace the layer that needs this operator."
            )
        size *= 16
    raise ValueError(
        f"{content.name} needs too much memory ({log[0]}). Expected at most {LARGEST} bytes. Use a smaller model or "
        "smaller inputs."
    )


def _attempt(
    content: _Content, arena_bytes: int, process: IsolatedSession | TFLMSession | None
) -> tuple[TFLMSession | IsolatedSession | None, list[str]]:
    """Returns a session, or None and the log if it could not allocate, or run on zeros, in an arena of that size.

    Args:
        content: the file.
        arena_bytes: size of the arena.
        process: the process to open the file in; None for this one.
    """
    counts = {"num_inputs": content.num_inputs, "num_outputs": content.num_outputs}
    if isinstance(process, IsolatedSession):
        try:
            process.open("TFLMSession", content.data, arena_bytes=arena_bytes, **counts)
        except RuntimeError:
            return None, _reasons(process.log)
        return process, []
    session = None
    with overheard() as lines, contextlib.suppress(RuntimeError):
        session = TFLMSession(content.data, arena_bytes, **counts)
    return session, [] if session else _reasons(lines)


def _reasons(lines: list[str]) -> list[str]:
    """Returns the lines of a log that are not blank; `NO_REASON` if there is none."""
    return [line.strip() for line in lines if line.strip()] or [NO_REASON]
