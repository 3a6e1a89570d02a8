"""Atomic writing of files, by way of a temporary file in the same folder, and reading of `.npz` files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from r2keras._util.errors import invalid, invalid_part
from r2keras._util.npz_file import CORRUPT, NpzFile
from r2keras._util.shown import cut

# Of `one_line`: messages of other packages can repeat a whole file.
_LONGEST_LINE = 2000


def check_path(name: str, value: object) -> Path:
    """Returns the path that an argument holds.

    Raises:
        TypeError: it is not a path; the message names the argument.

    Example:

    >>> check_path("folder", None)
    Traceback (most recent call last):
    ...
    TypeError: Invalid value for argument `folder`. Expected a path. Received: folder=None.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(invalid(name, "a path", value))
    return Path(value)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the target's folder, which replaces `path` if the block succeeds.

    Args:
        path: the file to write. Its folder is created if it does not exist.

    Yields:
        A path with the same suffix as `path`, for the caller to write to.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is unchanged.
        TypeError: `path` is not a path.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> with replacing(os.path.join(folder, "a.txt")) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> os.listdir(folder)
    ['a.txt']
    """
    path = check_path("path", path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"Could not write {path}: {error.strerror or error}. Nothing was changed.") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically: on an error the old file is left as it was.

    Args:
        path: the file to write. Its folder is created if it does not exist.
        data: the file's content.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` as UTF-8, atomically: on an error the old file is left as it was.

    Args:
        path: the file to write. Its folder is created if it does not exist.
        text: the file's content.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def reading(path: str | os.PathLike, expected: str, name: str = "path") -> Iterator[BinaryIO]:
    """Opens a file for reading.

    Args:
        path: the file.
        expected: what it should be, for the message.
        name: the argument that named it.

    Yields:
        The open file.

    Raises:
        OSError: the file does not exist, is a folder or cannot be read; the message says so in a sentence.
        TypeError: `path` is not a path.

    Example:

    >>> with reading("none.npz", "a record"):
    ...     pass
    Traceback (most recent call last):
    ...
    FileNotFoundError: Invalid value for argument `path`. Expected a record. Received: 'none.npz', which does not \
exist. Check the path.
    """
    check_path(name, path)
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only errors of opening it get the message.
    except OSError as error:
        raise _unreadable(path, expected, name, error) from error
    except ValueError as error:  # A character that no path has.
        raise ValueError(invalid(name, f"the path of {expected}", str(path), one_line(error))) from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _unreadable(path, expected, name, OSError(errno.EINVAL, "not a file"))
        yield file


def read_bounded(path: str | os.PathLike, expected: str, longest: int) -> bytes:
    """Returns the bytes of a file, which are few.

    Args:
        path: the file.
        expected: what it should be, for the message.
        longest: the most bytes that such a file has.

    Raises:
        ValueError: the file is longer.
        OSError: the file does not exist, is a folder or cannot be read.
        TypeError: `path` is not a path.

    Example:

    >>> path = os.path.join(tempfile.mkdtemp(), "a.txt")
    >>> atomic_write_text(path, "some text")
    >>> read_bounded(path, "a text", 100)
    b'some text'
    """
    with reading(path, expected) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise ValueError(f"{path} is too long. Expected {expected} of at most {longest:,} bytes. Check the path.")
    return data


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a whole `.npz` file, without pickle; unlike `np.load`, verifies every checksum.

    Args:
        path: the file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: the file is truncated or corrupt, or is not an `.npz` file.
        OSError: the file cannot be read.

    Example:

    >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
    >>> np.savez(path, x=np.arange(3))
    >>> read_npz(path)["x"]
    array([0, 1, 2])
    """
    with reading(path, "an .npz file") as file:
        try:
            archive = NpzFile(file)
            return {name: archive.read(name) for name in archive.names}
        except CORRUPT as error:
            raise ValueError(f"{path} is not a readable .npz file ({one_line(error)}).") from error


def one_line(error: BaseException) -> str:
    """Returns the message of an exception on one line, without a full stop; its class if the message is empty.

    >>> one_line(KeyError("scale"))
    'scale'
    """
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its key.
    elif isinstance(error, OSError):
        # `reading` names an argument of Python, which the flag of a program is not.
        original = error.__cause__ if text.startswith("Invalid value for argument") else error
        if isinstance(original, OSError) and original.filename:
            text = f"{original.filename}: {original.strerror}"
    return cut(" ".join(text.split()).removesuffix("."), _LONGEST_LINE) or type(error).__name__


def _unreadable(path: str | os.PathLike, expected: str, name: str, error: OSError) -> OSError:
    """Returns the error for a file that cannot be opened, of the same class, with a readable text."""
    reasons = {errno.ENOENT: "does not exist", errno.EISDIR: "is a folder", errno.ENOTDIR: "is inside of a file"}
    reason = reasons.get(error.errno or 0, f"cannot be read: {error.strerror}")
    return type(error)(invalid_part(name, expected, f"{cut(repr(str(path)), 500)}, which {reason}", "Check the path"))


def _temporary_name(path: Path) -> Path:
    """Creates the folder of `path` and an empty temporary file in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        blocking = next((folder for folder in path.parents if folder.is_file()), None)
        reason = f"{blocking} is a file" if blocking else error.strerror or error
        raise OSError(f"Could not write {path}: {reason}. Choose a folder you can write to.") from error
    os.close(handle)
    # mkstemp creates private files; give this one the mode that an ordinary open() would give it.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    return Path(name)
