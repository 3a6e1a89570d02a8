"""Running of a streaming model's `.tflite` file step by step, with states kept between steps."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.conversion.one_step import STATE
from r2keras.export.runtime.litert_model import LiteRTModel


class LiteRTStream:
    """A file of a `streaming` model and its current states.

    Args:
        path: the file that `to_litert` wrote from a model of `streaming`.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether the XNNPACK delegate may run operators, as on phones.
        isolated: whether to run the file in a process of its own, as for `LiteRTModel`.

    Attributes:
        states: arrays `(1, units)`, in the order of the file's inputs, from which the next step starts.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt or not a `.tflite`, or takes no states.
        ImportError: ai-edge-litert is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import streaming, to_litert
    >>> inputs = keras.Input((None, 3))
    >>> model = keras.Model(inputs, keras.layers.GRU(4, return_sequences=True)(inputs))
    >>> path = os.path.join(tempfile.mkdtemp(), "step.tflite")
    >>> _ = to_litert(streaming(model), path)
    >>> LiteRTStream(path).run(np.ones((5, 3))).shape
    (5, 4)
    """

    def __init__(self, path: str | os.PathLike, *, num_threads: int = 1, xnnpack: bool = True, isolated: bool = False):
        self._model = LiteRTModel(path, num_threads, xnnpack=xnnpack, isolated=isolated)
        self._count = sum(name.startswith(STATE) for name in self._model.input_names)
        if not self._count:
            fix = "Write it with to_litert(r2keras.export.streaming(model), path, record)"
            raise ValueError(
                invalid_part("path", "the file of a streaming model", f"{path}, which takes no states", fix)
            )
        self.reset()

    def reset(self) -> None:
        """Sets all states to zero, to begin a new sequence."""
        self.states: list[np.ndarray] = [
            np.zeros(shape, np.float32) for shape in self._model.input_shapes[-self._count :]
        ]

    def step(self, x: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """Runs one time step.

        Args:
            x: the input of one time step, without batch and time axes; a list of them for several inputs.

        Returns:
            The output at this step, without batch and time axes; a list if the model has several.
        """
        arrays = x if isinstance(x, (list, tuple)) else [x]
        # `predict` returns a list, because the states follow the outputs.
        outputs = list(self._model.predict([*(np.asarray(array)[None, None] for array in arrays), *self.states]))
        self.states = outputs[-self._count :]
        results = [y[0, 0] if y.ndim > 2 else y[0] for y in outputs[: -self._count]]
        return results[0] if len(results) == 1 else results

    def run(self, x: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """Runs a sequence, starting from the current states.

        Args:
            x: array `(time, ...)`; a list of arrays of equal length for several inputs.

        Returns:
            Array `(time, ...)` of the outputs at all steps, or a list of them.
        """
        if isinstance(x, (list, tuple)):
            outputs = [self.step(list(arrays)) for arrays in zip(*x, strict=True)]
        else:
            outputs = [self.step(array) for array in x]
        if isinstance(outputs[0], list):
            return [np.stack(output) for output in zip(*outputs, strict=True)]
        return np.stack(outputs)
