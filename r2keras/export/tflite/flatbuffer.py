"""Bounds of a flatbuffer: every table, vector and string of a `.tflite` lies within the file."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from types import FunctionType
from typing import NamedTuple, NoReturn

from r2keras._util import optional_packages

IDENTIFIER = b"TFL3"
# Objects that point to the same bytes multiply the work of reading. Files share some vectors, but never this many.
MOST_SHARED = 16
# The lists of types of unions whose fields have other names, by table.
UNIONS = {"QuantizationParameters": "QuantizationDetails", "DimensionMetadata": "SparseIndexVector"}
_U16, _U32, _I32 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")


class BrokenFileError(ValueError):
    """A file breaks a rule of its format; the message says which, without the file's name."""


class Field(NamedTuple):
    """One field of a table.

    Args:
        slot: its position in the table's list of fields.
        width: bytes that it takes in the table.
        kind: `"scalar"`, `"string"`, `"table"`, `"scalars"`, `"strings"`, `"tables"` or `"union"`.
        of: the name of the tables that it refers to; for a union, the name of the list of its types.
        item: bytes of one element of a vector.
    """

    slot: int
    width: int
    kind: str
    of: str = ""
    item: int = 4


def check_bounds(data: bytes) -> None:
    """Raises BrokenFileError unless a file can be read by the schema's classes without leaving its bytes.

    The checks are those of the verifier in the flatbuffers library, whose Python version has none.

    Args:
        data: the file's bytes.
    """
    if len(data) < 8:
        raise BrokenFileError(f"it has {len(data)} bytes")
    if data[4:8] != IDENTIFIER:
        raise BrokenFileError(f"its identifier is {data[4:8]!r} instead of {IDENTIFIER!r}")
    _Walk(data).table(_U32.unpack_from(data, 0)[0], "Model")


class _Walk:
    """One pass over all objects of a file.

    Args:
        data: the file's bytes.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._end = len(data)
        self._tables_left = len(data) // 4
        self._bytes_left = MOST_SHARED * len(data)
        # By place of the list of fields and name of the table: the size, and the fields that are present.
        self._known: dict[tuple[int, str], tuple[int, list[tuple[int, Field]]]] = {}

    def table(self, place: int, name: str) -> None:
        """Checks a table and all that it refers to."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise BrokenFileError("its tables refer to the same bytes too often")
        self._within(place, 4, name)
        fields_at = place - int(_I32.unpack_from(self._data, place)[0])
        known = self._known.get((fields_at, name))
        if known is None:
            known = self._known[fields_at, name] = self._present(fields_at, name)
        size, references = known
        self._within(place, size, name)
        for offset, field in references:
            self._reference(place, offset, field, fields_at)

    def _present(self, place: int, name: str) -> tuple[int, list[tuple[int, Field]]]:
        """Returns the size of a table, and offset and description of the references that it has."""
        self._within(place, 4, name)
        length, size = struct.unpack_from("<HH", self._data, place)
        self._within(place, length, name)
        if length < 4 or length % 2 or size < 4:
            self._fail(name)
        references = []
        for field in _layout(name):
            offset = self._offset(place, field.slot)
            if offset and not 4 <= offset <= size - field.width:
                self._fail(name)
            if offset and field.kind != "scalar":
                references.append((offset, field))
        return size, references

    def _offset(self, fields_at: int, slot: int) -> int:
        """Returns the offset of a field in its table; 0 if the table does not have it."""
        place = 4 + 2 * slot
        if place + 2 > _U16.unpack_from(self._data, fields_at)[0]:
            return 0
        return int(_U16.unpack_from(self._data, fields_at + place)[0])

    def _reference(self, table: int, offset: int, field: Field, fields_at: int) -> None:
        """Checks what a field of a table refers to."""
        target = self._target(table + offset, field.of or "vector")
        if field.kind == "table":
            self.table(target, field.of)
        elif field.kind == "union":
            # The type of a union is the field before it.
            kind_offset = self._offset(fields_at, field.slot - 1)
            kind = self._data[table + kind_offset] if kind_offset else 0
            name = _union(field.of).get(kind)
            if name is None:
                raise BrokenFileError(f"{kind} is not a type of {field.of}")
            if kind:
                self.table(target, name)
        elif field.kind == "string":
            self._string(target)
        else:
            self._vector(target, field)

    def _vector(self, place: int, field: Field) -> None:
        """Checks a vector and its elements."""
        count = self._sized(place, field.item, "vector")
        if field.kind == "scalars":
            return
        for element in range(place + 4, place + 4 + 4 * count, 4):
            target = self._target(element, field.of or "string")
            if field.kind == "tables":
                self.table(target, field.of)
            else:
                self._string(target)

    def _string(self, place: int) -> None:
        """Checks a string: its length, and the zero after it that C++ readers rely on."""
        end = place + 4 + self._sized(place, 1, "string")
        self._within(end, 1, "string")
        if self._data[end]:
            self._fail("string")

    def _sized(self, place: int, item: int, name: str) -> int:
        """Returns the number of elements of a vector or string that lies within the file."""
        self._within(place, 4, name)
        count = int(_U32.unpack_from(self._data, place)[0])
        self._within(place + 4, count * item, name)
        self._bytes_left -= count * item
        if self._bytes_left < 0:
            raise BrokenFileError("its vectors refer to the same bytes too often")
        return count

    def _target(self, place: int, name: str) -> int:
        """Returns the place that an offset refers to."""
        self._within(place, 4, name)
        return place + int(_U32.unpack_from(self._data, place)[0])

    def _within(self, place: int, size: int, name: str) -> None:
        """Raises unless bytes lie within the file."""
        if place < 0 or place + size > self._end:
            self._fail(name)

    def _fail(self, name: str) -> NoReturn:
        """Raises for an object with wrong offsets or sizes."""
        raise BrokenFileError(f"it is truncated or corrupt: a {name} has a wrong offset or size")


class _Recorder:
    """A stand-in for the flatbuffers builder, which keeps what the schema's functions say of one field."""

    def __init__(self) -> None:
        self.slot = self.width = self.item = 0

    def __getattr__(self, name: str):
        width = {"Bool": 1, "UOffsetTRelative": 4}.get(name.removeprefix("Prepend").removesuffix("Slot"))
        if width is None:
            bits = "".join(filter(str.isdigit, name))
            width = int(bits) // 8 if bits else 1

        def record(slot: int, *rest: object) -> None:
            self.slot, self.width = slot, width

        return record

    def StartVector(self, item: int, count: int, alignment: int) -> None:
        """Keeps the bytes of one element of a vector."""
        self.item = item


@functools.cache
def _layout(table: str) -> tuple[Field, ...]:
    """Returns the fields of a table, read from the functions of the schema that write it and read it."""
    members = vars(optional_packages.schema())
    prefix = f"{table}Add"
    fields = []
    for name, write in members.items():
        if name.startswith(prefix) and isinstance(write, FunctionType):
            recorder = _Recorder()
            write(recorder, 0)
            name = name.removeprefix(prefix)
            start = members.get(f"{table}Start{name}Vector")
            if start is not None:
                start(recorder, 0)
            fields.append(_field(members, table, name, recorder))
    return tuple(fields)


def _field(members: Mapping[str, object], table: str, name: str, recorder: _Recorder) -> Field:
    """Returns the description of a field, whose kind is seen in what its reader calls."""
    reader = getattr(members[table], name)
    calls = reader.__code__.co_names
    tables = [call for call in calls if f"{call}T" in members]
    is_vector = hasattr(members[table], f"{name}Length")
    if hasattr(members[table], f"{name}AsNumpy"):
        return Field(recorder.slot, recorder.width, "scalars", item=recorder.item)
    if "Union" in calls:
        return Field(recorder.slot, recorder.width, "union", UNIONS.get(table, name))
    if tables:
        return Field(recorder.slot, recorder.width, "tables" if is_vector else "table", tables[0])
    if "String" in calls:
        return Field(recorder.slot, recorder.width, "strings" if is_vector else "string")
    return Field(recorder.slot, recorder.width, "scalar")


@functools.cache
def _union(name: str) -> dict[int, str]:
    """Returns the tables of a union by their types."""
    members = vars(getattr(optional_packages.schema(), name))
    return {kind: table for table, kind in members.items() if not table.startswith("_")}
