"""Opening `.tflite` files: parsing them, and running them on LiteRT's interpreter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid_part
from r2keras._util.native_log import quiet
from r2keras.export.tflite.structure import check_structure, unreadable

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    # Other modules import the schema's types from here, under TYPE_CHECKING too: LiteRT is loaded on first use only.
    from ai_edge_litert.schema_py_generated import (
        ModelT,
    )


def existing(path: str | os.PathLike) -> Path:
    """Returns the path of a file that exists.

    Raises:
        FileNotFoundError: the file does not exist.
        IsADirectoryError: it is a folder.
        TypeError: `path` is not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(invalid_part("path", "the path of a .tflite", str(type(path))))
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Expected a .tflite file. Name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"File not found: {path}. Write it with `r2keras.export.to_litert`.")
    return path


def read(path: str | os.PathLike) -> ModelT:
    """Returns the schema's `ModelT` of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: `path` is not a path.
        ValueError: the file is truncated, corrupt, or not a `.tflite`.
    """
    path = existing(path)
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, name: str = "the file") -> ModelT:
    """Returns the schema's `ModelT` of a file's bytes.

    Raises:
        ValueError: the bytes are not a `.tflite`; the message calls them `name`.
    """
    return check_structure(data, name)


class TensorDetail(TypedDict):
    """What the interpreter says of one input or output.

    Args:
        name: the tensor's name.
        index: its index in the interpreter.
        shape: its sizes now.
        shape_signature: its sizes in the file; -1 is any.
        dtype: the type of its values.
        quantization: scale and zero point; a scale of 0 for a tensor that is not quantized.
    """

    name: str
    index: int
    shape: np.ndarray
    shape_signature: np.ndarray
    dtype: type
    quantization: tuple[float, int]


def open_interpreter(
    data: bytes, name: str, num_threads: int = 1, delegate: bool = False, *, keep_all: bool = False
) -> Interpreter:
    """Returns LiteRT's interpreter of a file's bytes, not yet allocated.

    Args:
        data: the file's bytes.
        name: what errors call the file.
        num_threads: number of threads.
        delegate: whether XNNPACK may run operators.
        keep_all: whether intermediate tensors can be read after a run.

    Raises:
        ValueError: the file is broken, or LiteRT rejects it.
    """
    check_structure(data, name)
    module = optional_packages.interpreter()
    kind = module.OpResolverType
    resolver = kind.AUTO if delegate else kind.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with quiet():
            return module.Interpreter(
                model_content=data,
                num_threads=num_threads,
                experimental_op_resolver_type=resolver,
                experimental_preserve_all_tensors=keep_all,
            )
    except (ValueError, RuntimeError) as error:
        raise unreadable(name, error) from error
