"""Reading of the JSON files that a compression keeps in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from r2keras._util.json_text import parse_json

T = TypeVar("T", dict, list)


def read_json(path: str | os.PathLike, kind: type[T]) -> T:
    """Returns the object or the list that a file holds.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be read.
    """
    try:
        found = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(unreadable(path, str(error).rstrip("."))) from error
    if not isinstance(found, kind):
        raise ValueError(unreadable(path, f"it holds a {type(found).__name__}"))
    return found


def unreadable(path: str | os.PathLike, reason: str) -> str:
    """Returns the message for a damaged file.

    >>> unreadable("out/candidates.json", "it is empty")
    'out/candidates.json is damaged (it is empty). Expected a file that compress wrote. Choose another folder, ...'
    """
    fix = "Choose another folder, or delete this one to start again."
    return f"{os.fspath(path)} is damaged ({reason}). Expected a file that compress wrote. {fix}"
