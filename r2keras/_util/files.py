"""Atomic writing of files, by way of a temporary file in the same folder, and reading of `.npz` files."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# What zipfile, its decompressors and NumPy's header parser raise for corrupt bytes.
_CORRUPT = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, TypeError),
    *(LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the target's folder, which replaces `path` if the block succeeds.

    Args:
        path: the file to write. Its folder is created if it does not exist.

    Yields:
        A path with the same suffix as `path`, for the caller to write to.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is unchanged.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> with replacing(os.path.join(folder, "a.txt")) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> os.listdir(folder)
    ['a.txt']
    """
    path = Path(path)
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
    data = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except _CORRUPT as error:
        raise ValueError(f"{path} is not a readable .npz file ({one_line(error)}).") from error


def one_line(error: BaseException) -> str:
    """Returns the message of an exception on one line, without a full stop; its class if the message is empty.

    >>> one_line(KeyError("scale"))
    'scale'
    """
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its key.
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()).removesuffix(".") or type(error).__name__


def _array(data: bytes) -> np.ndarray:
    """Parses one member of an `.npz`."""
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error):
            reason = "an array of objects, such as lists of different lengths: concatenate or pad them"
            raise ValueError(reason) from error
        raise


def _temporary_name(path: Path) -> Path:
    """Creates the folder of `path` and an empty temporary file in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"Could not write {path}: {reason}. Choose a folder you can write to.") from error
    os.close(handle)
    # mkstemp creates private files; give this one the mode that an ordinary open() would give it.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    return Path(name)
