"""Reading of a record's file: its structure and its sizes are checked before its arrays are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2keras._util.json_text import member, parse_json, texts
from r2keras._util.npz_file import NpzFile
from r2keras._util.shown import cut, shown
from r2keras.record.palettized_tensor import PalettizedTensor
from r2keras.record.quantized_activation import QuantizedActivation
from r2keras.record.quantized_tensor import QuantizedTensor
from r2keras.specs.palette import PaletteSpec
from r2keras.specs.quant import QuantSpec

# The tensors that a record holds, by the kind of their spec.
TENSOR_KINDS: dict[str, type[QuantizedTensor] | type[PalettizedTensor]] = {
    QuantSpec.kind: QuantizedTensor,
    PaletteSpec.kind: PalettizedTensor,
}
FORMAT_VERSION = 3
# The array that holds everything else as JSON.
CONFIG = "record.json"
# Some kilobytes per tensor.
_LONGEST_CONFIG = 16 * 2**20
# Of JSON text; a tensor takes a hundred. Each takes tens of bytes once it is parsed.
_MOST_VALUES = 1_000_000
# Codes of trained weights compress to a tenth at best. Small files may hold zeros only, as those of tests do.
_MAX_RATIO, _SMALL = 200, 32 * 2**20


def read_parts(file: NpzFile) -> dict[str, Any]:
    """Returns the arguments of a `CompressionRecord`.

    Args:
        file: the open file.

    Raises:
        ValueError: the file is not a record, or its arrays cannot belong to the tensors that it lists. Corrupt bytes
            raise others of `npz_file.CORRUPT`.
    """
    config = _read_config(file)
    tensors, num_values = member(config, "tensors", dict, CONFIG), member(config, "num_values", int, CONFIG)
    if not 0 <= num_values < 2**63:
        raise ValueError(f"`num_values` of {CONFIG} is not the size of a model: {shown(num_values)}")
    parts = {
        "model_name": member(config, "model_name", str, CONFIG),
        "num_values": num_values,
        "kept_float": texts(config, "kept_float", CONFIG),
        # Version 1 has no activations, version 2 no palettes; notes were added without a new version.
        "activations": _read_activations(member(config, "activations", dict, CONFIG, {})),
        "notes": texts({"notes": {}, **config}, "notes", CONFIG),
    }
    _check_members(file, tensors)
    for name, part in tensors.items():
        _check_sizes(file, name, part, num_values)
    _check_total(file)
    return {**parts, "tensors": {name: _read_tensor(file, name, part) for name, part in tensors.items()}}


def _read_config(file: NpzFile) -> dict[str, Any]:
    """Returns the parsed JSON of a record."""
    if CONFIG not in file.names:
        found = ", ".join(map(shown, file.names[:5])) or "nothing"
        raise ValueError(f"it has no `{CONFIG}`, but {cut(found)}")
    header = file.header(CONFIG)
    if header.nbytes > _LONGEST_CONFIG or header.dtype != np.uint8:
        raise ValueError(f"`{CONFIG}` is not a text of at most {_LONGEST_CONFIG:,} bytes")
    text = file.read(CONFIG).tobytes()
    if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError(f"`{CONFIG}` has more than {_MOST_VALUES:,} values")
    config = parse_json(text)
    version = member(config, "version", int, CONFIG)
    if not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f"version {shown(version)}; this r2keras reads versions 1 to {FORMAT_VERSION}")
    return config


def _read_activations(grids: dict[str, Any]) -> dict[str, QuantizedActivation]:
    """Returns the grids of activations."""
    found = {}
    for name, grid in grids.items():
        where = f"the activation {shown(name)}"
        scale, zero_point = (member(grid, field, float, where) for field in ("scale", "zero_point"))
        num_bits = member(grid, "num_bits", int, where)
        found[name] = QuantizedActivation(member(grid, "name", str, where), scale, zero_point, num_bits)
    return found


def _check_members(file: NpzFile, tensors: dict[str, Any]) -> None:
    """Raises for arrays that no tensor has, and for tensors without their arrays."""
    expected = {CONFIG}
    for name, part in tensors.items():
        kind = member(part, "kind", str, f"the tensor {shown(name)}")
        if kind not in TENSOR_KINDS:
            raise ValueError(f"the tensor {shown(name)} is of the unknown kind {shown(kind)}")
        expected.update(f"{name}|{array}" for array in TENSOR_KINDS[kind].PARTS)
    found = set(file.names)
    if found - expected:
        raise ValueError(f"the array {shown(min(found - expected))} belongs to no tensor")
    if expected - found:
        raise ValueError(f"the array {shown(min(expected - found))} is missing")


def _check_sizes(file: NpzFile, name: str, part: dict[str, Any], num_values: int) -> None:
    """Raises for arrays that are larger than those of the tensor can be."""
    kind = TENSOR_KINDS[part["kind"]]
    headers = {array: file.header(f"{name}|{array}") for array in kind.PARTS}
    largest = kind.largest_sizes(part, {array: header.shape for array, header in headers.items()})
    if largest[kind.PARTS[0]] > num_values:
        raise ValueError(
            f"the tensor {shown(name)} is larger than the whole model, which has {shown(num_values)} values"
        )
    for array, header in headers.items():
        label = f"the array {shown(f'{name}|{array}')}"
        if header.size > largest[array]:
            raise ValueError(f"{label} has {header.size:,} values, and at most {largest[array]:,} are possible")
        if header.dtype.itemsize > 8 or header.dtype.kind not in "iuf":
            raise ValueError(f"{label} holds {cut(header.dtype, 80)}, not integers or floats")


def _check_total(file: NpzFile) -> None:
    """Raises for arrays that take far more memory than a file of this size can need."""
    total = sum(file.header(name).nbytes for name in file.names)
    if total > max(_SMALL, _MAX_RATIO * file.num_bytes):
        raise ValueError(f"its arrays take {total:,} bytes, too many for a file of {file.num_bytes:,}")


def _read_tensor(file: NpzFile, name: str, part: dict[str, Any]) -> QuantizedTensor | PalettizedTensor:
    """Returns a tensor whose arrays have plausible sizes."""
    kind = TENSOR_KINDS[part["kind"]]
    with np.errstate(over="ignore"):  # A scale too large for float32 becomes infinite, and is refused.
        return kind.from_parts(name, part, {array: file.read(f"{name}|{array}") for array in kind.PARTS})
