"""Reading, editing and writing the schema objects of a `.tflite` file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.quiet import quiet

FLOAT32, FLOAT16, INT32, UINT8, INT8, RESOURCE, INT4, INT2 = 0, 1, 2, 3, 9, 13, 17, 19
SEPARATOR = ";"
TYPES = {2: INT2, 4: INT4, 8: INT8}
WIDTHS = {kind: bits for bits, kind in TYPES.items()}


def read(path: str | os.PathLike) -> Any:
    """Returns the schema's `ModelT` of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, or no `.tflite`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write it with `r2keras.export.to_litert`.")
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, name: str = "the file") -> Any:
    """Returns the schema's `ModelT` of a file's bytes; raises ValueError, naming `name`, if they are no `.tflite`."""
    # The schema's Python reader trusts every offset; LiteRT's own verifier runs first and does not.
    open_interpreter(data, name)
    schema = packages.schema()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def open_interpreter(
    data: bytes, name: str, num_threads: int = 1, delegate: bool = False, *, keep_all: bool = False
) -> Any:
    """Returns LiteRT's interpreter on a file's bytes, not yet allocated.

    Args:
        data: the file's bytes.
        name: what an error calls them.
        num_threads: threads of the interpreter.
        delegate: whether XNNPACK may take operators over.
        keep_all: whether the tensors between operators can be read after a run.

    Raises:
        ValueError: LiteRT's verifier refuses the bytes.
    """
    module = packages.interpreter()
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


def unreadable(name: str, error: Exception) -> ValueError:
    """Returns the error for bytes that LiteRT cannot run."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{name} is not a readable .tflite ({reason}). Write it again with `r2keras.export.to_litert`.")


def constants(model: Any) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields `(subgraph, tensor, values)` of every float32 constant of every subgraph, scalars excepted."""
    for g, graph in enumerate(model.subgraphs):
        for i, tensor in enumerate(graph.tensors):
            if tensor.type == FLOAT32 and shape_of(tensor) and buffer_of(model, tensor).size:
                yield g, i, values_of(model, tensor)


def buffer_of(model: Any, tensor: Any) -> np.ndarray:
    """Returns a tensor's bytes; none if it is no constant."""
    data = model.buffers[tensor.buffer].data
    return np.asarray([] if data is None else data, np.uint8)


def values_of(model: Any, tensor: Any) -> np.ndarray:
    """Returns a float32 constant's values."""
    return buffer_of(model, tensor).view("<f4").reshape(shape_of(tensor))


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Returns a tensor's shape."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def add_tensor(
    model: Any, graph: Any, shape: tuple[int, ...], kind: int, data: np.ndarray | None = None, name: str | None = None
) -> int:
    """Adds a tensor, a constant if `data` is given, and returns its index in the subgraph."""
    schema = packages.schema()
    tensor = schema.TensorT(shape=np.asarray(shape, np.int32), type=kind, name=name)
    if data is not None:
        model.buffers.append(schema.BufferT(data=np.ascontiguousarray(data).view(np.uint8).ravel()))
        tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def operator(
    model: Any,
    kind: str,
    version: int,
    inputs: list[int],
    outputs: list[int],
    options_name: str | None = None,
    **options: Any,
) -> Any:
    """Returns a new operator.

    Args:
        model: gets the operator's code if it does not have it.
        kind: name in the schema's `BuiltinOperator`, `"DEQUANTIZE"`.
        version: the operator's version.
        inputs: tensor indices.
        outputs: tensor indices.
        options_name: what the schema calls the operator's options, `"ReducerOptions"`; None follows `kind`; `"NONE"`:
            it has none.
        options: fields of the operator's options.
    """
    schema = packages.schema()
    options_name = options_name or f"{kind.title()}Options"
    made = None if options_name == "NONE" else getattr(schema, f"{options_name}T")()
    for key, value in options.items():
        setattr(made, key, value)
    return schema.OperatorT(
        opcodeIndex=_code(model, getattr(schema.BuiltinOperator, kind), version),
        inputs=np.asarray(inputs, np.int32),
        outputs=np.asarray(outputs, np.int32),
        builtinOptionsType=getattr(schema.BuiltinOptions, options_name),
        builtinOptions=made,
    )


def set_kind(model: Any, made: Any, kind: str, version: int) -> None:
    """Makes an operator one of another kind or version; its inputs, outputs and options stay."""
    made.opcodeIndex = _code(model, getattr(packages.schema().BuiltinOperator, kind), version)


def _code(model: Any, builtin: int, version: int) -> int:
    """Returns the index of an operator code, added if it is not there."""
    for i, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version >= version:
            return i
    # Readers take the larger of the two fields; the old one is a byte and holds codes below 127 only.
    made = packages.schema().OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=min(builtin, 127))
    made.version = version
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1
