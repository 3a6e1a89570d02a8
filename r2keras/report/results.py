"""Result rows, one per regularizer, method, bit width and seed, in a `results.json` that survives a killed run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r2keras._util.errors import invalid
from r2keras._util.files import atomic_write_text, one_line, reading
from r2keras._util.json_text import parse_json
from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras._util.shown import shown

# The columns that identify an experiment.
KEYS = ("dataset", "model", "regularizer", "method", "num_bits", "seed")
TEXTS = ("regularizer", "method")
ACCURACIES = ("float_accuracy", "accuracy", "file_accuracy")
SIZES = ("file_bytes", "ideal_bytes")
FIGURES = ("latency_ms", "max_over_std")
COLUMNS = (*TEXTS, "num_bits", "seed", *ACCURACIES, *SIZES, *FIGURES, "path")
NULLABLE = ("file_accuracy", *SIZES, *FIGURES, "path")
# Columns that a row may lack, checked where they are present.
OPTIONAL_ACCURACIES = ("validation_accuracy", "float_validation_accuracy")
OPTIONAL_COUNTS = ("test_samples", "validation_samples")
OPTIONAL = (*OPTIONAL_ACCURACIES, *OPTIONAL_COUNTS)

ResultRow = dict[str, Any]


def checked_row(row: Mapping[str, Any], name: str = "The row") -> ResultRow:
    """Checks every column of a row and returns it as plain JSON values.

    | column | value |
    |---|---|
    | `regularizer`, `method` | text; the reference without a regularizer is `"none"` |
    | `num_bits`, `seed` | integers; `num_bits` is 32 for a float file |
    | `float_accuracy`, `accuracy` | fractions from 0 to 1 |
    | `file_accuracy` | a fraction from 0 to 1, or None if no file was run |
    | `file_bytes`, `ideal_bytes`, `latency_ms`, `max_over_std` | numbers of at least 0, or None |
    | `path` | text, or None |

    Optional columns, each a value or None:

    | column | value |
    |---|---|
    | `validation_accuracy`, `float_validation_accuracy` | of file and float model; `recommend` chooses by them |
    | `test_samples`, `validation_samples` | integers: how many samples the accuracies were measured on |
    | `device` | text: where `latency_ms` was measured, if not on this CPU |

    Other columns (`dataset`, `model`, `epochs`, ...) are kept unchanged.

    Args:
        row: the columns by name; values may be NumPy scalars.
        name: name of the row in error messages.

    Returns:
        A new dictionary.

    Raises:
        ValueError: columns are missing, or a value is out of range.
        TypeError: the row is not a dictionary, or a value has the wrong type.

    Example:

    >>> checked_row({"regularizer": "linf"})
    Traceback (most recent call last):
    ...
    ValueError: The row lacks the columns 'method', 'num_bits', 'seed', 'float_accuracy', 'accuracy', 'file_accuracy', \
'file_bytes', 'ideal_bytes', 'latency_ms', 'max_over_std', 'path'. Write None where nothing was measured.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} is not a dictionary of columns. Received: {shown(row)}.")
    absent = [column for column in COLUMNS if column not in row]
    if absent:
        columns = ("column " if len(absent) == 1 else "columns ") + ", ".join(map(repr, absent))
        raise ValueError(f"{name} lacks the {columns}. Write None where nothing was measured.")
    plain = {column: _plain(value) for column, value in row.items()}
    for column in (*COLUMNS, *(name for name in OPTIONAL if name in plain)):
        if plain[column] is not None or column not in (*NULLABLE, *OPTIONAL):
            _check_value(name, column, plain[column])
    return plain


def checked_rows(rows: Iterable[Mapping[str, Any]]) -> list[ResultRow]:
    """Checks all rows and returns them as plain JSON values.

    Raises:
        ValueError: no rows, an invalid row (named by its number), or two rows of one experiment.
        TypeError: a value has the wrong type.
    """
    checked = [checked_row(row, f"Row {index} of the results") for index, row in enumerate(rows)]
    if not checked:
        raise ValueError(invalid("rows", "at least one result row", [], "Finish at least one training first"))
    first_index_by_key: dict[tuple, int] = {}
    for index, row in enumerate(checked):
        first = first_index_by_key.setdefault(key_of(row), index)
        if first != index:
            raise ValueError(
                f"Rows {first} and {index} of the results are of the same experiment: {_key_text(row)}. "
                "Keep the newer one, as `Results.add` does."
            )
    return checked


def key_of(row: Mapping[str, Any]) -> tuple:
    """Returns the values that identify an experiment."""
    return tuple(row.get(name) for name in KEYS)


class Results:
    """The rows of a run, written to disk after every `add`.

    Args:
        path: the file, a JSON list with one row per line. Existing rows are read; a file that does not exist is
            created by the first `add`.

    Raises:
        ValueError: the file is corrupt or truncated, or contains an invalid row.
        OSError: the file cannot be read.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "results.json")
    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> Results(path).add(row)
    >>> Results(path).find(regularizer="linf", method="qat", num_bits=2, seed=0)["file_bytes"]
    27912
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._rows = load_results(self.path) if self.path.exists() else []

    @property
    def rows(self) -> list[ResultRow]:
        """A copy of the rows, oldest first."""
        return [dict(row) for row in self._rows]

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, or replaces the row of the same experiment, and writes the file.

        Raises:
            ValueError: a column is missing or a value is out of range.
            TypeError: a value has the wrong type.
            OSError: the file cannot be written; the file and the rows remain unchanged.
        """
        new = checked_row(row)
        rows = [old for old in self._rows if key_of(old) != key_of(new)] + [new]
        save_results(self.path, rows)
        self._rows = rows

    def find(self, **columns: Any) -> ResultRow | None:
        """Returns the only row with these values, or None.

        Raises:
            ValueError: several rows match.
        """
        matches = [row for row in self._rows if all(row.get(name) == value for name, value in columns.items())]
        if len(matches) > 1:
            raise ValueError(invalid("columns", "values that only one row has", columns, f"{len(matches)} rows match"))
        return dict(matches[0]) if matches else None

    def __iter__(self) -> Iterator[ResultRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self._rows)


def save_results(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as a JSON list with one row per line. The write is atomic.

    Args:
        path: the file to write.
        rows: the result rows.

    Raises:
        ValueError: no rows, or a row that lacks a column or has a value out of range.
        TypeError: a value has the wrong type.
        OSError: the file cannot be written; it remains unchanged.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "results.json")
    >>> save_results(path, [row, {**row, "seed": 1}])
    >>> [row["seed"] for row in load_results(path)]
    [0, 1]
    """
    lines = [json.dumps(row, allow_nan=False) for row in checked_rows(rows)]
    atomic_write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def load_results(path: str | os.PathLike) -> list[ResultRow]:
    """Reads rows written by `save_results` or `Results`.

    Args:
        path: the file to read.

    Returns:
        The rows, oldest first.

    Raises:
        ValueError: the file is corrupt or truncated, or contains an invalid row.
        OSError: the file cannot be read.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "results.json")
    >>> _ = path.write_text("[]")
    >>> load_results(path)
    []
    """
    with reading(path, "a file that `save_results` wrote") as file:
        data = file.read()
    try:
        rows = parse_json(data)
        if not isinstance(rows, list):
            raise ValueError("not a list of rows")
        return checked_rows(rows) if rows else []
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not a readable results file ({one_line(error)}). Restore it or choose another file."
        ) from error


def _plain(value: Any) -> Any:
    """Returns a NumPy scalar as a Python number and a path as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _check_value(row: str, column: str, value: object) -> None:
    """Raises for a value that its column cannot hold; `row` is the name of the row."""
    if column in (*TEXTS, "path"):
        fits, expected = isinstance(value, str) and value != "", "text"
    elif column == "num_bits":
        fits, expected = _is_int(value, 1), "an integer of at least 1"
    elif column == "seed":
        fits, expected = _is_int(value, 0), "an integer of at least 0"
    elif column in OPTIONAL_COUNTS:
        fits, expected = _is_int(value, 1), "an integer of at least 1"
    elif column in (*ACCURACIES, *OPTIONAL_ACCURACIES):
        fits, expected = _is_number(value, 0, 1), "a fraction from 0 to 1, not percent"
    else:
        fits, expected = _is_number(value, 0), "a finite number of at least 0"
    if not fits:
        kind = ValueError if isinstance(value, (int, float)) and column not in TEXTS else TypeError
        raise kind(f"{row}, column {column!r}: expected {expected}. Received: {shown(value)}.")


def _is_int(value: object, low: int) -> bool:
    """Whether a value is an integer of at least `low`; a boolean is not."""
    whole = as_int(value)
    return whole is not None and is_finite(whole) and whole >= low


def _is_number(value: object, low: float, high: float = math.inf) -> bool:
    """Whether a value is a finite number in `[low, high]`; a boolean is not."""
    number = as_number(value)
    return number is not None and is_finite(number) and low <= number <= high


def _key_text(row: Mapping[str, Any]) -> str:
    """Returns the identifying columns of a row as text."""
    return ", ".join(f"{name}={shown(row[name])}" for name in KEYS if name in row)
