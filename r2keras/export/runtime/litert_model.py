"""Running of a `.tflite` file on LiteRT's interpreter: predictions and latency."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import check_int, invalid
from r2keras._util.native_log import quiet
from r2keras._util.numeric import as_int
from r2keras.export.runtime.inputs import advancing, matched
from r2keras.export.tflite.activation_grid import Data
from r2keras.export.tflite.interpreter import TensorDetail, open_interpreter
from r2keras.export.tflite.structure import unreadable

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

WARM_UP_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Latency:
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


class LiteRTModel:
    """A `.tflite` file as a callable model.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        xnnpack: whether the XNNPACK delegate may run operators, as on phones.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`.
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

    def __init__(self, path: str | os.PathLike, num_threads: int = 1, *, xnnpack: bool = True):
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"File not found: {path}. Write it with `r2keras.export.to_litert`.")
        self.path = path
        num_threads = check_int("num_threads", num_threads, 1, None)
        self._interpreter = open_interpreter(path.read_bytes(), str(path), num_threads, delegate=xnnpack)
        try:
            with quiet():
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise unreadable(str(path), error) from error
        self._inputs: list[TensorDetail] = self._interpreter.get_input_details()
        self._outputs: list[TensorDetail] = self._interpreter.get_output_details()
        self._shapes: list[tuple[int, ...]] = []
        self.input_names = _signature_names(self._interpreter, self._inputs)
        self.input_shapes = [tuple(int(size) for size in d["shape"]) for d in self._inputs]

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
        arrays = self._arrays(x)
        count = len(arrays[0])
        step = self._batch(batch_size)
        parts: list[list[np.ndarray]] = []
        with advancing(progress, count, self.path.name) as advance:
            for start in range(0, count, step):
                batch = [array[start : start + step] for array in arrays]
                parts.append(self._run(batch, step))
                advance(len(batch[0]))
        outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def dequantized(self, outputs: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Returns outputs of `predict` as a list of float arrays: integers become the values that they represent."""
        listed = outputs if isinstance(outputs, list) else [outputs]
        return [_as_float(output, detail) for output, detail in zip(listed, self._outputs, strict=True)]

    def latency(self, num_runs: int = 50) -> Latency:
        """Times single runs at batch size 1 on random input, after five warm-up runs.

        Args:
            num_runs: number of timed runs.

        Raises:
            ValueError: `num_runs` is below 1.
        """
        if (as_int(num_runs) or 0) < 1:
            raise ValueError(invalid("num_runs", "an integer of at least 1", num_runs))
        rng = np.random.default_rng(0)
        shapes = [tuple(int(size) for size in detail["shape"]) for detail in self._inputs]
        self._resize(shapes)
        for detail, shape in zip(self._inputs, shapes, strict=True):
            is_float = np.issubdtype(detail["dtype"], np.floating)
            values = rng.standard_normal(shape) if is_float else np.zeros(shape)
            self._interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        times = [self._timed() for _ in range(WARM_UP_RUNS + num_runs)][WARM_UP_RUNS:]
        return Latency(float(np.median(times)), float(np.percentile(times, 90)))

    def _timed(self) -> float:
        """Returns the milliseconds of one run."""
        start = time.perf_counter()
        self._interpreter.invoke()
        return 1e3 * (time.perf_counter() - start)

    def _arrays(self, x: Data) -> list[np.ndarray]:
        """Returns the inputs as arrays of the file's types, in the file's order."""
        signatures = [tuple(int(size) for size in d["shape_signature"]) for d in self._inputs]
        expected = [signature or shape for signature, shape in zip(signatures, self.input_shapes, strict=True)]
        arrays = matched(x, self.input_names, expected)
        return [_as_input(a, d) for a, d in zip(arrays, self._inputs, strict=True)]

    def _batch(self, batch_size: int) -> int:
        """Returns the batch size to use: that of the file if it is fixed."""
        if (as_int(batch_size) or 0) < 1:
            raise ValueError(invalid("batch_size", "an integer of at least 1", batch_size))
        first = self._inputs[0]
        return batch_size if first["shape_signature"][:1] == [-1] else int(first["shape"][0])

    def _run(self, batch: list[np.ndarray], step: int) -> list[np.ndarray]:
        """Runs one batch; with a fixed batch size, a shorter one is padded with copies of its last sample."""
        count = len(batch[0])
        if self._batch(count) != count:
            batch = [np.concatenate([a, np.repeat(a[-1:], step - count, axis=0)]) for a in batch]
        self._resize([array.shape for array in batch])
        for detail, array in zip(self._inputs, batch, strict=True):
            self._interpreter.set_tensor(detail["index"], np.ascontiguousarray(array))
        # The fused LSTM keeps its state between calls; it must not leak into the next sample.
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"])[:count] for detail in self._outputs]

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        """Resizes the inputs to these shapes; only open sizes may differ from the file's."""
        if shapes == self._shapes:
            return
        try:
            with quiet():
                for detail, shape in zip(self._inputs, shapes, strict=True):
                    self._interpreter.resize_tensor_input(detail["index"], shape, strict=True)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            expected = [tuple(int(size) for size in d["shape_signature"]) for d in self._inputs]
            raise ValueError(invalid("x", f"arrays with the shapes {expected} (-1 is any)", shapes)) from error
        self._shapes = shapes


def _as_input(array: np.ndarray, detail: TensorDetail) -> np.ndarray:
    """Returns an array in the type of an input; floats for a quantized integer input are quantized."""
    scale, zero_point = detail["quantization"]
    if scale and np.issubdtype(array.dtype, np.floating) and np.issubdtype(detail["dtype"], np.integer):
        limits = np.iinfo(detail["dtype"])
        array = np.clip(np.round(array / scale + zero_point), limits.min, limits.max)
    return array.astype(detail["dtype"], copy=False)


def _as_float(array: np.ndarray, detail: TensorDetail) -> np.ndarray:
    """Returns the values of an output: `scale * (code - zero_point)` for quantized integers, else the output itself."""
    scale, zero_point = detail["quantization"]
    if not scale or np.issubdtype(array.dtype, np.floating):
        return array
    return (np.float32(scale) * (array.astype(np.int32) - zero_point)).astype(np.float32)


def _signature_names(interpreter: Interpreter, inputs: list[TensorDetail]) -> list[str]:
    """Returns the inputs' names in the file's order, taken from the first signature if there is one."""
    names = {int(detail["index"]): detail["name"] for detail in inputs}
    keys = list(interpreter.get_signature_list())
    if keys:
        for name, detail in interpreter.get_signature_runner(keys[0]).get_input_details().items():
            if int(detail["index"]) in names:
                names[int(detail["index"])] = name
    return [names[int(detail["index"])] for detail in inputs]
