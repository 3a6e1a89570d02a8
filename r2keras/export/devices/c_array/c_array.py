"""Export of a file as C arrays for LiteRT for Microcontrollers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.errors import check_int, invalid, invalid_part
from r2keras._util.files import atomic_write_text, check_path
from r2keras._util.text import count
from r2keras.export.devices.c_array.literals import check_name
from r2keras.export.devices.c_array.operators import FIX, NPU, check_dense, operators_of
from r2keras.export.devices.c_array.programs import bytes_program, run_program
from r2keras.export.devices.c_array.sources import (
    Content,
    Port,
    data_header,
    data_source,
    golden_header,
    golden_source,
    operators_header,
)
from r2keras.export.devices.golden import Golden
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers, check_scales
from r2keras.export.runtime.tflm_model import LARGEST, TFLMModel, find_arena
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import name_of
from r2keras.export.tflite.subgraph import Subgraph

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import TensorT

# NumPy's names of the schema's types of inputs and outputs.
DTYPES = {0: "float32", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}

# Golden values of a file that runs on an NPU only.
NPU_GOLDEN = (
    "Compute them with the file before its compilation, and pass `dataclasses.replace(golden, sha256=...)` with the "
    "checksum of the compiled one"
)


@dataclasses.dataclass(frozen=True)
class CArray:
    """What `c_array` wrote.

    Args:
        files: the paths of the C++ files.
        file_bytes: bytes of the `.tflite`, which the device holds in its flash.
        arena_bytes: memory for the interpreter, on a 64-bit machine.
        operators: names of the operators that the firmware contains for it.

    Example:

    >>> CArray((Path("model_data.h"),), 7024, 103616, ("CONV_2D",)).text
    '7,024 bytes of flash, 103,616 bytes of RAM, 1 operator'
    """

    files: tuple[Path, ...]
    file_bytes: int
    arena_bytes: int
    operators: tuple[str, ...]

    @property
    def text(self) -> str:
        """The totals in one line."""
        kinds = f"{len(self.operators)} operator" + "s" * (len(self.operators) != 1)
        return f"{count(self.file_bytes)} bytes of flash, {count(self.arena_bytes)} bytes of RAM, {kinds}"


def c_array(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    name: str = "model",
    golden: Golden | None = None,
    arena_bytes: int | None = None,
) -> CArray:
    """Writes a `.tflite` as C++ code for LiteRT for Microcontrollers, with memory, operators and golden values.

    | file | holds |
    |---|---|
    | `model_data.h`, `model_data.cc` | the bytes, the arena's size, and shape, type and grid of inputs and outputs |
    | `model_ops.h` | a resolver with the operators that the file uses |
    | `model_golden.h`, `model_golden.cc` | inputs, expected outputs and tolerances, with `golden` |
    | `check/model_bytes.cc` | a program that checks the bytes; it needs nothing but a compiler |
    | `check/model_run.cc` | a program that runs the file and compares its outputs, with `golden` |

    The code is C++11. The same file gives the same code.

    Args:
        path: a file of `to_tflm`, an integer file of `to_litert`, or one that `ethos_u` compiled; it takes one sample.
        folder: created if it does not exist; files of these names are replaced.
        name: the namespace, and the beginning of the names of the files.
        golden: golden values of the file; LiteRT for Microcontrollers has to reproduce them here first.
        arena_bytes: memory for the interpreter; None measures it, which needs tflite-micro. With a number, the file is
            not run. A compiled file needs it, since it runs on the NPU only.

    Returns:
        The files, and what the device needs for them.

    Raises:
        FileNotFoundError: the `.tflite` does not exist.
        ImportError: ai-edge-litert is not installed; tflite-micro is not, without `arena_bytes`.
        TypeError: `golden` is not a `Golden`, or `folder` not a path.
        ValueError: `name` is not an identifier; the file is not a `.tflite`, LiteRT for Microcontrollers cannot run it,
            or its batch is open; it is compiled for Ethos-U, and `arena_bytes` is None; the golden values belong to
            another file, or the runtime does not reproduce them.
        OSError: the folder is not writable.

    Example:

    >>> import keras, tempfile
    >>> from r2keras.export import to_tflm
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = to_tflm(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), folder / "mcu.tflite")
    >>> written = c_array(folder / "mcu.tflite", folder / "firmware")
    >>> written.operators, [path.name for path in written.files]
    (('FULLY_CONNECTED',), ['model_data.h', 'model_data.cc', 'model_ops.h', 'model_bytes.cc'])
    """
    check_name(name)
    folder = check_path("folder", folder)
    file = read(path)
    path, data = Path(path), Path(path).read_bytes()
    operators = tuple(operators_of(file, str(path)))
    check_dense(file, str(path))
    check_scales(file, str(path))
    graph = Subgraph(file)
    ports = tuple(
        _port(role, number, graph.tensor(index), str(path))
        for role, indices in (("Input", graph.inputs), ("Output", graph.outputs))
        for number, index in enumerate(indices)
    )
    check_for_microcontrollers(file, str(path))
    if arena_bytes is None and NPU in operators:
        expected = "a number of bytes for a file that is compiled for Ethos-U, which does not run here"
        fix = (
            "Take `sram_bytes` of the report of `ethos_u`, with `dram_bytes` on Ethos-U65 and U85, and add memory for "
            "the interpreter"
        )
        raise ValueError(invalid_part("arena_bytes", expected, "None", fix))
    if arena_bytes is not None:
        arena_bytes = check_int("arena_bytes", arena_bytes, 1, LARGEST)
    arena = _measured(data, str(path)) if arena_bytes is None else arena_bytes
    content = Content(name, path.name, data, arena, ports, operators, golden)
    if golden is not None:
        _check_golden(content, golden, path if arena_bytes is None else None)
    texts = _texts(content)
    files = tuple(folder / part for part in texts)
    for target, text in zip(files, texts.values(), strict=True):
        atomic_write_text(target, text)
    return CArray(files, len(data), arena, operators)


def _port(role: str, number: int, tensor: TensorT, name: str) -> Port:
    """Returns an input or output; raises ValueError if its size is open or its type has no values."""
    label = name_of(tensor)
    subject = f"{name}, whose {role.lower()} {label!r}"
    expected = "a file that takes one sample, with numbers as inputs and outputs"
    if tensor.shapeSignature is not None and any(size < 0 for size in tensor.shapeSignature):
        fix = "Give every Input its full shape and batch size, `keras.Input(shape, batch_size=1)`, and write it again"
        raise ValueError(invalid_part("path", expected, f"{subject} has an open size", fix))
    if tensor.type not in DTYPES:
        raise ValueError(invalid_part("path", expected, f"{subject} is of another type", FIX))
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    if role == "Input" and shape and shape[0] != 1:
        fix = "Give every Input `batch_size=1`, and write it again"
        raise ValueError(invalid_part("path", expected, f"{name}, which takes {shape[0]} samples at once", fix))
    grid = tensor.quantization
    has_grid = grid is not None and grid.scale is not None and len(grid.scale) == 1
    scale, zero_point = (float(grid.scale[0]), int(grid.zeroPoint[0])) if has_grid else (0.0, 0)
    return Port(role, number, label, DTYPES[tensor.type], shape, scale, zero_point)


def _measured(data: bytes, name: str) -> int:
    """Returns the memory that a file needs; raises ValueError, with the remedy, if it does not run."""
    try:
        return find_arena(data, name)
    except ValueError as error:
        raise ValueError(f"{error} {FIX}.") from error


def _check_golden(content: Content, golden: Golden, path: Path | None) -> None:
    """Raises unless golden values belong to the file, and the runtime reproduces them, with `path`."""
    if not isinstance(golden, Golden):
        raise TypeError(invalid("golden", "a `Golden`, which `r2keras.export.golden` returns", golden))
    if golden.sha256 != content.sha256:
        received = f"those of {golden.file} with other bytes than {content.file}"
        fix = NPU_GOLDEN if NPU in content.operators else "Compute them again"
        raise ValueError(invalid_part("golden", "golden values of the file", received, fix))
    if not all(np.isfinite(tensor.values.astype(np.float64)).all() for tensor in golden.inputs):
        raise ValueError(invalid_part("golden", "finite inputs", "NaN or infinity"))
    if path is None:
        return
    outputs = TFLMModel(path).predict([tensor.values for tensor in golden.inputs])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    if not golden.passed(outputs):
        received = f"values of {golden.runtime}, from which they differ by {golden.differences(outputs)}"
        fix = "Compute them with `golden(..., runtime='tflm')`"
        raise ValueError(invalid_part("golden", "outputs of LiteRT for Microcontrollers", received, fix))


def _texts(content: Content) -> dict[str, str]:
    """Returns the code by path in the folder."""
    name, golden = content.name, content.golden
    texts = {
        f"{name}_data.h": data_header(content),
        f"{name}_data.cc": data_source(content),
        f"{name}_ops.h": operators_header(content),
    }
    if golden is not None:
        texts[f"{name}_golden.h"] = golden_header(content, golden)
        texts[f"{name}_golden.cc"] = golden_source(content, golden)
        texts[f"check/{name}_run.cc"] = run_program(content)
    texts[f"check/{name}_bytes.cc"] = bytes_program(content)
    return texts
