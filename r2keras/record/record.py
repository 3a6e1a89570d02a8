"""The record of a compression, from which exporters and reports are written."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._util.errors import invalid
from r2keras._util.files import atomic_write_bytes, one_line, read_npz
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import QuantSpec

Tensor = QuantizedTensor | PalettizedTensor
# The tensors that a record holds, by the kind of their spec.
TENSOR_KINDS: dict[str, type[QuantizedTensor] | type[PalettizedTensor]] = {
    QuantSpec.kind: QuantizedTensor,
    PaletteSpec.kind: PalettizedTensor,
}
FORMAT_VERSION = 3
_CONFIG_TYPES = {"model_name": str, "num_values": int, "kept_float": dict, "tensors": dict}


def table_bytes(tensor: Tensor) -> int:
    """Returns the bytes that are stored in addition to codes or indices; zero points that are all zero need none."""
    tables = [array for array in tensor.arrays().values() if array is not tensor.integers]
    return sum(table.nbytes for table in tables if table.any())


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionRecord:
    """The result of compressing a model: all that exporters and reports need to know.

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

    tensors: dict[str, Tensor]
    kept_float: dict[str, str]
    num_values: int
    model_name: str
    activations: dict[str, QuantizedActivation] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

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
        np.savez_compressed(buffer, **{"record.json": text, **arrays})
        atomic_write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> CompressionRecord:
        """Reads a record that `save` wrote, and checks every code and scale.

        Raises:
            ValueError: the file is truncated, corrupt or edited, or is not a record.
            OSError: the file cannot be read.
        """
        arrays = read_npz(path)
        try:
            return cls._from_arrays(arrays)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a readable record ({one_line(error)}). Write it again with `record.save`."
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> CompressionRecord:
        """Returns the record that the arrays of a file hold."""
        config = json.loads(arrays["record.json"].tobytes())
        if config["version"] not in range(1, FORMAT_VERSION + 1):
            raise ValueError(f"version {config['version']}; this r2keras reads versions 1 to {FORMAT_VERSION}")
        for key, kind in _CONFIG_TYPES.items():
            if not isinstance(config[key], kind):
                raise ValueError(f"{key!r} in record.json is not of type {kind.__name__}")
        tensors = {
            name: TENSOR_KINDS[part["kind"]].from_parts(name, part, _arrays_of(name, arrays))
            for name, part in config["tensors"].items()
        }
        # Version 1 has no activations, version 2 no palettes; notes were added without a new version.
        grids = {name: QuantizedActivation(**grid) for name, grid in config.get("activations", {}).items()}
        notes = config.get("notes", {})
        return cls(tensors, config["kept_float"], config["num_values"], config["model_name"], grids, notes)


def _arrays_of(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of one tensor."""
    own_arrays = {key.rpartition("|")[2]: array for key, array in arrays.items() if key.rpartition("|")[0] == name}
    if not own_arrays:
        raise KeyError(f"no arrays of {name!r}")
    return own_arrays
