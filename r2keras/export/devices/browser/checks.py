"""Checks that LiteRT.js takes a file, and that several files take the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r2keras._util.errors import invalid, invalid_part
from r2keras._util.shown import shown
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.runtime.sessions import Port
from r2keras.export.tflite.interpreter import existing, read
from r2keras.export.weights.decode_operator import is_for_microcontrollers

EXPECTED = "files that LiteRT.js runs"
TYPES = ("float32", "int32")
FIX = 'Write it with to_litert(..., target="browser")'


def checked_paths(files: object) -> list[Path]:
    """Returns paths of files that exist and have different names.

    Raises:
        FileNotFoundError: a file does not exist.
        TypeError: `files` is not a list of paths.
        ValueError: there are no files, or two have the same name.
    """
    if isinstance(files, (str, bytes)) or not isinstance(files, Sequence):
        raise TypeError(invalid("files", "a list of paths", files))
    paths = [existing(path) for path in files]
    names = [path.stem for path in paths]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        received = f"{names.count(repeated)} files called {repeated!r}"
        raise ValueError(invalid_part("files", "files with different names", received, "Rename one"))
    if not paths:
        raise ValueError(invalid("files", "at least one path", files))
    return paths


def checked_model(path: Path) -> LiteRTModel:
    """Returns a file opened on the interpreter here, if LiteRT.js runs it.

    Raises:
        ValueError: an input or output is open or of another type than float32 and int32; the file keeps a state between
            calls, or is for microcontrollers.
    """
    file = read(path)
    if is_for_microcontrollers(file):
        raise ValueError(invalid_part("files", EXPECTED, f"{path}, which is for microcontrollers", FIX))
    if any(tensor.isVariable for graph in file.subgraphs for tensor in graph.tensors):
        received = f"{path}, which keeps a state between calls"
        raise ValueError(invalid_part("files", EXPECTED, received, 'Write recurrent layers with recurrent="loop"'))
    model = LiteRTModel(path)
    for role, ports in (("input", model.inputs), ("output", model.outputs)):
        for port in ports:
            wrong = _wrong(port)
            if wrong:
                received = f"{path}, whose {role} {shown(port.name)} has {wrong}"
                raise ValueError(invalid_part("files", EXPECTED, received, FIX))
    return model


def check_same_inputs(paths: Sequence[Path], models: Sequence[LiteRTModel]) -> None:
    """Raises ValueError if one array per input does not fit all files."""
    kinds = [[(port.dtype, port.shape[1:]) for port in model.inputs] for model in models]
    for path, kind in zip(paths, kinds, strict=True):
        if kind != kinds[0]:
            received = f"{path.name}, which takes {_text(kind)}, beside {paths[0].name}, which takes {_text(kinds[0])}"
            raise ValueError(invalid_part("files", "files that take the same inputs", received, "Make a page for each"))


def _wrong(port: Port) -> str:
    """Returns what LiteRT.js does not take of an input or output; empty if it takes it."""
    if port.dtype not in TYPES:
        return f"the type {port.dtype}"
    if -1 in port.signature:
        return f"the open shape {port.signature}"
    return "" if port.shape else "no batch axis"


def _text(kind: list[tuple[str, tuple[int, ...]]]) -> str:
    """Returns inputs in words."""
    return ", ".join(f"{dtype} {shape}" for dtype, shape in kind)
