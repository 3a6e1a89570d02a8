"""Result rows: one per (regularizer, method, num_bits, seed), in a `results.json` that a killed run does not lose."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r2keras._errors import invalid
from r2keras._files import atomic_write_text

KEYS = ("dataset", "model", "regularizer", "method", "num_bits", "seed")
TEXTS = ("regularizer", "method")
ACCURACIES = ("float_accuracy", "accuracy", "file_accuracy")
SIZES = ("file_bytes", "ideal_bytes")
FIGURES = ("latency_ms", "max_over_std")
COLUMNS = (*TEXTS, "num_bits", "seed", *ACCURACIES, *SIZES, *FIGURES, "path")
NULLABLE = ("file_accuracy", *SIZES, *FIGURES, "path")

Row = dict[str, Any]


def checked_row(row: Mapping[str, Any], place: str = "The row") -> Row:
    """Returns a row as plain JSON values, after a look at every column.

    | column | value |
    |---|---|
    | `regularizer`, `method` | text; the reference without a regularizer is called `"none"` |
    | `num_bits`, `seed` | integers; `num_bits` is 32 for a float file |
    | `float_accuracy`, `accuracy`, `file_accuracy` | fractions from 0 to 1; the last may be None: no file was run |
    | `file_bytes`, `ideal_bytes`, `latency_ms`, `max_over_std`, `path` | numbers of at least 0 and text, or None |

    Further columns (`dataset`, `model`, `epochs`, ...) are kept as they are.

    Args:
        row: the columns by name; NumPy scalars are taken too.
        place: how an error calls the row.

    Returns:
        A new dictionary.

    Raises:
        ValueError: a column is missing (all missing ones are named) or a value is out of range.
        TypeError: the row is not a dictionary, or a value has another type.

    Example:

    >>> checked_row({"regularizer": "linf"})
    Traceback (most recent call last):
    ...
    ValueError: The row lacks the columns 'method', 'num_bits', 'seed', 'float_accuracy', 'accuracy', 'file_accuracy', \
'file_bytes', 'ideal_bytes', 'latency_ms', 'max_over_std', 'path'. Write None where nothing was measured.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"{place} is no dictionary of columns. Received: {row!r}.")
    absent = [name for name in COLUMNS if name not in row]
    if absent:
        names = ("column " if len(absent) == 1 else "columns ") + ", ".join(map(repr, absent))
        raise ValueError(f"{place} lacks the {names}. Write None where nothing was measured.")
    plain = {name: _plain(value) for name, value in row.items()}
    for name in COLUMNS:
        if plain[name] is not None or name not in NULLABLE:
            _check_value(place, name, plain[name])
    return plain


def checked_rows(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Returns all rows checked.

    Raises:
        ValueError: no rows, a bad row (named by its number), or two rows of one experiment.
        TypeError: a value has the wrong type.
    """
    checked = [checked_row(row, f"Row {index} of the results") for index, row in enumerate(rows)]
    if not checked:
        raise ValueError(invalid("rows", "at least one result row", [], "Finish at least one training first"))
    seen: dict[tuple, int] = {}
    for index, row in enumerate(checked):
        first = seen.setdefault(key_of(row), index)
        if first != index:
            raise ValueError(
                f"Rows {first} and {index} of the results are of one experiment: {_named(row)}. "
                "Keep the newer one; `Results.add` does so."
            )
    return checked


def key_of(row: Mapping[str, Any]) -> tuple:
    """Returns what tells an experiment from the others."""
    return tuple(row.get(name) for name in KEYS)


class Results:
    """The rows of a run, on disk after every `add`.

    Args:
        path: the file, a JSON list with one row per line. Rows that are there already are read; a file that is not
            there is made by the first `add`.

    Raises:
        ValueError: the file is corrupt or truncated, or holds a bad row.
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
    def rows(self) -> list[Row]:
        """The rows, oldest first; a copy."""
        return [dict(row) for row in self._rows]

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, or replaces the one of the same experiment, and writes the file.

        Raises:
            ValueError: a column is missing or a value is out of range.
            TypeError: a value has the wrong type.
            OSError: the file cannot be written; the file and the rows are as they were before.
        """
        new = checked_row(row)
        rows = [old for old in self._rows if key_of(old) != key_of(new)] + [new]
        save_results(self.path, rows)
        self._rows = rows

    def find(self, **columns: Any) -> Row | None:
        """Returns the one row with these values, or None.

        Raises:
            ValueError: several rows have them.
        """
        found = [row for row in self._rows if all(row.get(name) == value for name, value in columns.items())]
        if len(found) > 1:
            raise ValueError(invalid("columns", "values that only one row has", columns, f"{len(found)} rows match"))
        return dict(found[0]) if found else None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self._rows)


def save_results(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as a JSON list, one row per line, whole or not at all.

    Args:
        path: the file to write.
        rows: what goes into it.

    Raises:
        ValueError: no rows, a row that lacks a column or has a value out of range.
        TypeError: a value has the wrong type.
        OSError: the file cannot be written; it is as it was before.

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


def load_results(path: str | os.PathLike) -> list[Row]:
    """Reads the rows that `save_results` or `Results` wrote.

    Args:
        path: the file to read.

    Returns:
        The rows, oldest first.

    Raises:
        ValueError: the file is corrupt or truncated, or holds a bad row.
        OSError: the file cannot be read.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "results.json")
    >>> _ = path.write_text("[]")
    >>> load_results(path)
    []
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("not a list of rows")
        return checked_rows(rows) if rows else []
    except (ValueError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path} is not a readable results file ({reason}). Restore it or choose another.") from error


def _plain(value: Any) -> Any:
    """Returns a NumPy scalar or a path as plain JSON."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _check_value(place: str, name: str, value: Any) -> None:
    """Raises for a value that its column cannot hold."""
    if name in (*TEXTS, "path"):
        fits, expected = isinstance(value, str) and value != "", "text"
    elif name in ("num_bits", "seed"):
        fits, expected = _is_int(value) and value >= (name == "num_bits"), "a whole number"
    elif name in ACCURACIES:
        fits, expected = _is_number(value) and 0 <= value <= 1, "a fraction from 0 to 1, not percent"
    else:
        fits, expected = _is_number(value) and value >= 0, "a finite number of at least 0"
    if not fits:
        kind = ValueError if isinstance(value, (int, float)) and name not in TEXTS else TypeError
        raise kind(f"{place}, column {name!r}: expected {expected}. Received: {value!r}.")


def _is_int(value: Any) -> bool:
    """Whether a value is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _named(row: Mapping[str, Any]) -> str:
    """Returns the key of a row in words."""
    return ", ".join(f"{name}={row[name]!r}" for name in KEYS if name in row)
