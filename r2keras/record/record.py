"""The record of a compression, from which exporters and reports are written."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid
from r2keras._util.files import atomic_write_bytes, one_line, reading
from r2keras._util.npz_file import CORRUPT, NpzFile
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor
from r2keras.record.record_file import CONFIG, FORMAT_VERSION, read_parts
from r2keras.record.record_table import record_table
from r2keras.specs.dynamic import is_dynamic

if TYPE_CHECKING:
    from rich.table import Table

Tensor = QuantizedTensor | PalettizedTensor


def table_bytes(tensor: Tensor) -> int:
    """Returns the bytes that are stored in addition to codes or indices; zero points that are all zero need none."""
    tables = [array for array in tensor.arrays().values() if array is not tensor.integers]
    return sum(table.nbytes for table in tables if table.any())


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionRecord(Tabular):
    """The result of compressing a model: all that exporters and reports need to know; `print` shows it as a table.

    Args:
        tensors: the compressed weights by name.
        kept_float: kernels that stay float, each with the reason.
        num_values: scalars in the whole model, compressed or not, including biases and statistics.
        model_name: the model's name.
        activations: the grids of quantized activations by the path of the layer that outputs them.
        notes: remarks on single kernels by name, such as the result of a calibration step.

    Example:

    >>> import tempfile
    >>> record = CompressionRecord({}, {"head/kernel": "no rule of the recipe matches"}, 10, "tiny")
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.record.npz")
    >>> record.save(path)
    >>> CompressionRecord.load(path).kept_float
    {'head/kernel': 'no rule of the recipe matches'}
    """

    tensors: dict[str, Tensor] = dataclasses.field(repr=False)
    kept_float: dict[str, str]
    num_values: int
    model_name: str
    activations: dict[str, QuantizedActivation] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def __rich__(self) -> Table:
        return record_table(self.model_name, self.tensors, self.kept_float, self.activations, self.notes)

    @property
    def dynamic_kernels(self) -> tuple[str, ...]:
        """The kernels with `activation_method="dynamic"`: the rows of their inputs are rounded at run time."""
        return tuple(name for name, tensor in self.tensors.items() if is_dynamic(tensor.spec))

    def save(self, path: str | os.PathLike) -> None:
        """Writes one `.npz` with the arrays, and the rest as JSON; without pickle, atomically.

        Args:
            path: file name, ending in `.npz`.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(invalid("path", "a file name ending in .npz", str(path)))
        arrays: dict[str, Any] = {
            f"{name}|{part}": array for name, tensor in self.tensors.items() for part, array in tensor.arrays().items()
        }
        config = {
            "version": FORMAT_VERSION,
            "model_name": self.model_name,
            "num_values": self.num_values,
            "kept_float": self.kept_float,
            "notes": self.notes,
            "tensors": {name: tensor.to_dict() for name, tensor in self.tensors.items()},
            "activations": {name: dataclasses.asdict(grid) for name, grid in self.activations.items()},
        }
        buffer = io.BytesIO()
        text: Any = np.frombuffer(json.dumps(config).encode(), np.uint8)
        np.savez_compressed(buffer, **{CONFIG: text, **arrays})
        atomic_write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> CompressionRecord:
        """Reads a record that `save` wrote, and checks every code and scale.

        Raises:
            ValueError: the file is truncated, corrupt or edited, or is not a record.
            OSError: the file cannot be read.
        """
        with reading(path, "a file that `record.save` wrote") as file:
            try:
                return cls(**read_parts(NpzFile(file)))
            except CORRUPT as error:
                raise ValueError(
                    f"{path} is not a readable record ({one_line(error)}). Expected a file that `record.save` wrote. "
                    "Write it again, or check the path."
                ) from error
