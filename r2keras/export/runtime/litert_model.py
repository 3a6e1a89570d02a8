"""Running of a `.tflite` file on LiteRT's interpreter: predictions and latency."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.display import Tabular
from r2keras._util.errors import check_threads, invalid, invalid_part
from r2keras._util.native_log import quiet
from r2keras._util.numeric import as_int
from r2keras._util.tables import pairs_table
from r2keras.export.runtime.inputs import advancing, as_float, as_input, matched
from r2keras.export.runtime.isolated import IsolatedSession
from r2keras.export.runtime.sessions import LiteRTSession
from r2keras.export.tflite.activation_grid import Data
from r2keras.export.tflite.interpreter import existing
from r2keras.export.tflite.structure import check_structure, unreadable

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Latency(Tabular):
    """Time of one run at batch size 1, in milliseconds.

    Args:
        median_ms: the median; half of the runs were faster.
        p90_ms: the 90th percentile; nine in ten runs were faster.

    Example:

    >>> Latency(median_ms=0.25, p90_ms=0.4).median_ms
    0.25
    """

    median_ms: float
    p90_ms: float

    def __rich__(self) -> Table:
        figures = [("median", f"{self.median_ms:.3f} ms"), ("90th percentile", f"{self.p90_ms:.3f} ms")]
        return pairs_table("Latency of one run", figures)


class LiteRTModel:
    """A `.tflite` file as a callable model.

    Args:
        path: the file.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether the XNNPACK delegate may run operators, as on phones.
        isolated: whether to run the file in a process of its own, for a file of unknown origin: what crashes that
            process is an error here. It takes a fraction of a second to start, and arrays are copied.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: `path` is not a path.
        ValueError: the file is truncated, corrupt, or not a `.tflite`; it is one for microcontrollers; it ended the
            process of its own.
        ImportError: ai-edge-litert is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(model, path)
    >>> LiteRTModel(path).predict(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1, *, xnnpack: bool = True, isolated: bool = False):
        self.path = path = existing(path)
        num_threads = check_threads(num_threads)
        content = path.read_bytes()
        check_structure(content, str(path))
        optional_packages.interpreter()
        self._session: LiteRTSession | IsolatedSession
        self._shapes: list[tuple[int, ...]] = []
        try:
            if isolated:
                self._session = IsolatedSession(str(path))
                self._session.open("LiteRTSession", content, num_threads=num_threads, xnnpack=xnnpack)
            else:
                with quiet():
                    self._session = LiteRTSession(content, num_threads, xnnpack)
        except RuntimeError as error:
            raise unreadable(str(path), error) from error
        self.inputs, self.outputs = self._session.inputs, self._session.outputs
        if not self.inputs:
            raise ValueError(invalid_part("path", "a file that takes inputs", f"{path}, which takes none"))
        self.input_names = [port.name for port in self.inputs]
        self.input_shapes = [port.shape for port in self.inputs]

    def predict(self, x: Data, batch_size: int = 128, progress: bool = False) -> np.ndarray | list[np.ndarray]:
        """Runs the file on data.

        Args:
            x: array; list of arrays in the order of the inputs; or dict by input name; all of equal length. Floats for
                an integer input are quantized with the scale and zero point that the file has for it. If operators keep
                states between runs, every run starts from zero.
            batch_size: samples per run; a file with a fixed batch size keeps its own.
            progress: whether to show a progress bar.

        Returns:
            The output array as the file returns it (integers from an integer file), or a list of arrays in Keras' order
            if there are several outputs.

        Raises:
            ValueError: the number, the names, the lengths or the shapes of the inputs are wrong.
        """
        return self.predict_named("x", x, batch_size, progress)

    def predict_named(
        self, name: str, x: Data, batch_size: int = 128, progress: bool = False
    ) -> np.ndarray | list[np.ndarray]:
        """Runs the file as `predict` does; errors call the data by another argument's name."""
        arrays = self.arrays(x, name)
        count = len(arrays[0])
        step = self._batch(batch_size)
        parts: list[list[np.ndarray]] = []
        with advancing(progress, count, self.path.name) as advance:
            for start in range(0, count, step):
                batch = [array[start : start + step] for array in arrays]
                parts.append(self._run(batch, step, name))
                advance(len(batch[0]))
        outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def dequantized(self, outputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Returns outputs of `predict` as a list of float arrays: integers become the values that they represent."""
        listed = outputs if isinstance(outputs, list) else [outputs]
        return [as_float(output, port) for output, port in zip(listed, self.outputs, strict=True)]

    def latency(self, num_runs: int = 50) -> Latency:
        """Times single runs at batch size 1 on random input, after five warm-up runs.

        Args:
            num_runs: number of timed runs.

        Raises:
            ValueError: `num_runs` is below 1.
        """
        if (as_int(num_runs) or 0) < 1:
            raise ValueError(invalid("num_runs", "an integer of at least 1", num_runs))
        times = self.times(num_runs)
        return Latency(float(np.median(times)), float(np.percentile(times, 90)))

    def times(self, num_runs: int) -> list[float]:
        """Returns the milliseconds of single runs at batch size 1 on random input, after five warm-up runs.

        Args:
            num_runs: number of timed runs.

        Raises:
            ValueError: the file has open sizes beside the batch, and does not run at those in the file.
        """
        rng = np.random.default_rng(0)
        arrays = []
        for port in self.inputs:
            is_float = np.issubdtype(port.dtype, np.floating)
            values = rng.standard_normal(port.shape) if is_float else np.zeros(port.shape)
            arrays.append(values.astype(port.dtype))
        try:
            return self._session.times(arrays, num_runs)
        except RuntimeError as error:
            if all(-1 not in port.signature[1:] for port in self.inputs):
                raise
            raise ValueError(
                f"{self.path} has open input sizes, and does not run at {self.input_shapes}, the sizes in the file. "
                "Expected a file with fixed sizes. Build the model for the size to measure."
            ) from error

    def arrays(self, x: Data, name: str = "x") -> list[np.ndarray]:
        """Returns the inputs as arrays of the file's types, in the file's order."""
        arrays = matched(x, self.input_names, [port.signature for port in self.inputs], name)
        return [as_input(a, port) for a, port in zip(arrays, self.inputs, strict=True)]

    def _batch(self, batch_size: int) -> int:
        """Returns the batch size to use: that of the file if it is fixed."""
        if (as_int(batch_size) or 0) < 1:
            raise ValueError(invalid("batch_size", "an integer of at least 1", batch_size))
        first = self.inputs[0]
        return batch_size if first.signature[:1] == (-1,) else first.shape[0]

    def _run(self, batch: list[np.ndarray], step: int, name: str) -> list[np.ndarray]:
        """Runs one batch; with a fixed batch size, a shorter one is padded with copies of its last sample."""
        count = len(batch[0])
        if self._batch(count) != count:
            batch = [np.concatenate([a, np.repeat(a[-1:], step - count, axis=0)]) for a in batch]
        shapes = [array.shape for array in batch]
        # Only new shapes make LiteRT log, and silencing takes longer than a run of a small file.
        silenced = quiet() if shapes != self._shapes else contextlib.nullcontext()
        try:
            with silenced:
                outputs = self._session.run([np.ascontiguousarray(array) for array in batch])
            self._shapes = shapes
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            expected = f"arrays that {self.path} can run"
            received = f"the shapes {shapes}, with which LiteRT fails ({reason})"
            raise ValueError(invalid_part(name, expected, received)) from error
        return [output[:count] for output in outputs]
