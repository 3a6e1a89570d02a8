"""Inputs of a file and the outputs that a device has to reproduce."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._util import optional_packages
from r2keras._util.display import Tabular
from r2keras._util.errors import check_choice, invalid, invalid_part
from r2keras._util.files import atomic_write_bytes, atomic_write_text, check_path, read_bounded
from r2keras._util.tables import new_table, shape_text
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.runtime.tflm_model import TFLMModel
from r2keras.export.runtime.verification import verify
from r2keras.export.tflite.activation_grid import Data, output_steps
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.rounding import rounds
from r2keras.export.tflite.schema import name_of
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.decode_operator import is_for_microcontrollers

if TYPE_CHECKING:
    from rich.table import Table

    from r2keras.export.tflite.schema import ModelT

MANIFEST = "golden.json"
VERSION = 1
RUNTIMES = ("auto", "litert", "tflm")
# Differences that another processor may show, in shares of an output's range: of float operators, which add up in
# another order, and where values are rounded, so that one near a tie moves to the next code.
FLOAT_TOLERANCE, ROUNDED_TOLERANCE = 1e-5, 0.02
LONGEST_MANIFEST = 2**20
# The smallest range of a float output, in shares of its largest value, as in `verify`.
SMALLEST_RANGE = 2.0**-5


@dataclasses.dataclass(frozen=True, eq=False)
class GoldenTensor:
    """The values of one input or output.

    Args:
        name: the tensor's name in the file.
        values: one entry per sample, in the type that the file takes or returns.
        scale: step of an integer tensor's grid; 0 if the values are not codes.
        zero_point: the code of zero.
        tolerance: largest absolute difference between an output and its expected values, in the units of `values`;
            0 for inputs.

    Example:

    >>> GoldenTensor("x", np.zeros((2, 3), np.int8), 0.5, 0).stem("input", 0)
    'input_0'
    """

    name: str
    values: np.ndarray
    scale: float = 0.0
    zero_point: int = 0
    tolerance: float = 0.0

    def stem(self, role: str, number: int) -> str:
        """Returns the name of its files, without suffix."""
        return f"{role}_{number}"

    def to_dict(self, role: str, number: int) -> dict[str, Any]:
        """Returns its entry of the manifest."""
        stem = self.stem(role, number)
        return {
            "name": self.name,
            "dtype": str(self.values.dtype),
            "shape": list(self.values.shape[1:]),
            "scale": self.scale,
            "zero_point": self.zero_point,
            "tolerance": self.tolerance,
            "npy": f"{stem}.npy",
            "raw": f"{stem}.bin",
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Golden(Tabular):
    """Inputs of a file and the outputs that a device has to reproduce; `print` shows a table.

    Args:
        file: name of the `.tflite` file.
        sha256: checksum of the file.
        runtime: package and version that computed the outputs.
        inputs: one per input, in the file's order.
        outputs: one per output, in the file's order.
        verification: `Verification.to_dict()` of the Keras model and the file on these inputs; None without a model.

    Example:

    >>> inputs = (GoldenTensor("x", np.zeros((2, 3), np.float32)),)
    >>> outputs = (GoldenTensor("output_0", np.ones((2, 1), np.float32), tolerance=1e-5),)
    >>> Golden("model.tflite", "", "ai-edge-litert 2.3.0", inputs, outputs).num_samples
    2
    """

    file: str
    sha256: str
    runtime: str
    inputs: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]
    verification: dict[str, Any] | None = None

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.inputs[0].values)

    def differences(self, outputs: Sequence[np.ndarray]) -> list[float]:
        """Returns the largest absolute difference of each output, in the units of its values.

        Args:
            outputs: one array per output, with the shape of its expected values.

        Raises:
            ValueError: the number of outputs, or a shape, is not as expected.

        Example:

        >>> expected = GoldenTensor("y", np.ones((2, 1), np.float32), tolerance=1e-5)
        >>> Golden("m", "", "", (), (expected,)).differences([np.full((2, 1), 1.5)])
        [0.5]
        """
        shapes = [np.shape(output) for output in outputs]
        expected = [output.values.shape for output in self.outputs]
        if shapes != expected:
            raise ValueError(invalid("outputs", f"arrays with the shapes {expected}", shapes))
        return [
            float(np.abs(np.asarray(output, np.float64) - tensor.values.astype(np.float64)).max(initial=0.0))
            for output, tensor in zip(outputs, self.outputs, strict=True)
        ]

    def passed(self, outputs: Sequence[np.ndarray]) -> bool:
        """Whether every output is as near to its expected values as its tolerance says."""
        pairs = zip(self.differences(outputs), self.outputs, strict=True)
        return all(difference <= tensor.tolerance for difference, tensor in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the manifest as plain JSON, without the values."""
        return {
            "version": VERSION,
            "file": self.file,
            "sha256": self.sha256,
            "runtime": self.runtime,
            "num_samples": self.num_samples,
            "inputs": [tensor.to_dict("input", i) for i, tensor in enumerate(self.inputs)],
            "outputs": [tensor.to_dict("output", i) for i, tensor in enumerate(self.outputs)],
            "verification": self.verification,
        }

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes `golden.json`, and for each tensor `input_0.npy` and `input_0.bin`, its bytes, little-endian.

        Args:
            folder: created if it does not exist. The manifest is written last.

        Returns:
            The path of the manifest.

        Raises:
            OSError: the folder is not writable.
            TypeError: `folder` is not a path.
        """
        folder = check_path("folder", folder)
        for role, tensors in (("input", self.inputs), ("output", self.outputs)):
            for number, tensor in enumerate(tensors):
                values = little_endian(tensor.values)
                stem = folder / tensor.stem(role, number)
                atomic_write_bytes(f"{stem}.npy", _npy(values))
                atomic_write_bytes(f"{stem}.bin", values.tobytes())
        atomic_write_text(folder / MANIFEST, json.dumps(self.to_dict(), indent=1) + "\n")
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Golden:
        """Reads what `save` wrote.

        Raises:
            OSError: a file does not exist.
            TypeError: `folder` is not a path.
            ValueError: a file is of another version, or damaged.
        """
        folder = check_path("folder", folder)
        path = folder / MANIFEST
        content = read_bounded(path, f"the {MANIFEST} of golden values", LONGEST_MANIFEST)
        try:
            manifest = json.loads(content)
            version = manifest["version"]
            if version != VERSION:
                raise ValueError(f"its version is {version}, and this release reads {VERSION}")
            inputs, outputs = ([_load(folder, item) for item in manifest[role]] for role in ("inputs", "outputs"))
            return cls(
                manifest["file"],
                manifest["sha256"],
                manifest["runtime"],
                tuple(inputs),
                tuple(outputs),
                manifest["verification"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            expected = "a folder that `Golden.save` wrote"
            raise ValueError(invalid_part("folder", expected, f"{folder}, which is not readable ({error})")) from error

    def __rich__(self) -> Table:
        columns = [("tensor", False), ("type", False), ("shape", False), ("tolerance", True)]
        table = new_table(f"Golden values of {self.file}: {self.num_samples} samples, {self.runtime}", columns)
        for role, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                tolerance = f"{tensor.tolerance:.3g}" if role == "output" else ""
                table.add_row(tensor.name, str(tensor.values.dtype), shape_text(tensor.values.shape[1:]), tolerance)
        return table


def golden(
    model: keras.Model | None,
    path: str | os.PathLike,
    x: Data,
    *,
    runtime: str = "auto",
) -> Golden:
    """Runs a file on inputs and returns both, for a test of the file on a device.

    The expected outputs are those of the file here, not those of Keras: a device has to reproduce the file. How far the
    file is from Keras is in `verification`. An output may differ by `tolerance`: 1e-5 of its range over these samples.
    Where the file rounds values at run time, one near a tie is rounded the other way on another processor. Then the
    tolerance is the largest of one step of the output's grid, 2 % of its range, and twice the difference between
    XNNPACK and LiteRT's built-in kernels here. Integers without a grid, such as class numbers, have to be equal.

    Args:
        model: the model that was exported, which is compared with the file; None leaves the comparison out.
        path: the `.tflite` file.
        x: a few samples: array; list of arrays; or dict by input name.
        runtime: `"litert"`, `"tflm"` (LiteRT for Microcontrollers), or `"auto"`: the one that the file was written for.

    Returns:
        Inputs, in the types that the file takes, and expected outputs.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the package that runs the file is not installed.
        ValueError: the file is not a `.tflite` or cannot run; the data does not fit; an output has a NaN or infinity.

    Example:

    >>> import tempfile
    >>> from r2keras.export import to_litert
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(model, path)
    >>> values = golden(model, path, np.eye(4, dtype=np.float32))
    >>> folder = values.save(os.path.join(tempfile.mkdtemp(), "golden")).parent
    >>> sorted(os.listdir(folder))
    ['golden.json', 'input_0.bin', 'input_0.npy', 'output_0.bin', 'output_0.npy']
    >>> Golden.load(folder).passed([output.values for output in values.outputs])
    True
    """
    check_choice("runtime", RUNTIMES, runtime)
    file = read(path)
    path = Path(path)
    on_tflm = runtime == "tflm" or (runtime == "auto" and is_for_microcontrollers(file))
    runner: TFLMModel | LiteRTModel = TFLMModel(path) if on_tflm else LiteRTModel(path)
    arrays = runner.arrays(x)
    outputs = keras.tree.flatten(runner.predict(arrays))
    spreads = _spreads(path, arrays, outputs) if rounds(file) and not on_tflm else [0.0] * len(outputs)
    graph = Subgraph(file)
    inputs = [
        GoldenTensor(name_of(graph.tensor(index)), values, port.scale, port.zero_point)
        for index, port, values in zip(graph.inputs, runner.inputs, arrays, strict=True)
    ]
    expected = []
    ends = zip(graph.outputs, runner.outputs, outputs, spreads, output_steps(file), strict=True)
    for index, port, values, spread, step in ends:
        is_integer = np.issubdtype(values.dtype, np.integer)
        # Codes are compared as codes. Integers without a grid are class numbers or the like, and have no near ones.
        unit = float(bool(port.scale)) if is_integer else step or 0.0
        tolerance = _tolerance(file, values, unit, path)
        tolerance = tolerance if is_integer and not unit else max(tolerance, spread)
        expected.append(GoldenTensor(name_of(graph.tensor(index)), values, port.scale, port.zero_point, tolerance))
    package = "tflite-micro" if on_tflm else "ai-edge-litert"
    return Golden(
        path.name,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        f"{package} {optional_packages.version(package)}",
        tuple(inputs),
        tuple(expected),
        None if model is None else verify(model, path, x).to_dict(),
    )


def first_samples(
    data: Mapping[str, np.ndarray], names: Sequence[str], samples: int, path: str | os.PathLike
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the first samples of a file's inputs from arrays by name; `x` is the only input.

    Raises:
        ValueError: an input is missing.
    """
    if len(names) == 1 and names[0] not in data and "x" in data:
        return data["x"][:samples]
    absent = [name for name in names if name not in data]
    if absent:
        needed = f"arrays named as the inputs of {path}: {', '.join(names)}" + (" or x" if len(names) == 1 else "")
        raise ValueError(invalid_part("data", needed, f"arrays named {', '.join(data) or 'nothing'}"))
    return {name: data[name][:samples] for name in names}


def little_endian(values: np.ndarray) -> np.ndarray:
    """Returns values as a contiguous little-endian array."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _spreads(path: Path, arrays: list[np.ndarray], outputs: list[np.ndarray]) -> list[float]:
    """Returns twice the difference between XNNPACK and the built-in kernels, of each output."""
    others = keras.tree.flatten(LiteRTModel(path, xnnpack=False).predict(arrays))
    pairs = zip(outputs, others, strict=True)
    return [2 * float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)) for a, b in pairs]


def _tolerance(file: ModelT, values: np.ndarray, step: float, path: Path) -> float:
    """Returns the difference of an output that is allowed whatever the kernels do here, in the units of its values.

    Args:
        file: the parsed file.
        values: the output.
        step: step of the integer grid that it lies on, in these units; 0 for floats, and for integers that are not
            codes, such as class numbers, which have to be equal.
        path: the file, for errors.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(invalid_part("x", f"inputs for which {path} computes finite outputs", "NaN or infinity"))
    spread, largest = float(wide.max() - wide.min()), float(np.abs(wide).max())
    is_integer = np.issubdtype(values.dtype, np.integer)
    if is_integer and not step:
        return 0.0
    if not rounds(file):
        return 0.0 if is_integer else FLOAT_TOLERANCE * max(spread, largest)
    tolerance = max(ROUNDED_TOLERANCE * max(spread, largest * SMALLEST_RANGE), step)
    return float(np.ceil(tolerance)) if is_integer else tolerance


def _npy(values: np.ndarray) -> bytes:
    """Returns the bytes of an `.npy` file."""
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


def _load(folder: Path, item: dict[str, Any]) -> GoldenTensor:
    """Returns one tensor of a manifest."""
    values = np.load(folder / Path(item["npy"]).name, allow_pickle=False)
    return GoldenTensor(item["name"], values, item["scale"], item["zero_point"], item["tolerance"])
