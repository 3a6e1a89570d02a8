"""Files written whole or not at all: a temporary name beside the target, then a rename. And `.npz` files read whole."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# What zipfile, its decompressors and NumPy's header parser raise for bytes that nobody wrote.
_CORRUPT = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, TypeError),
    *(LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the target's folder; on success it replaces `path`.

    Args:
        path: the file to write. Its folder is made if it does not exist.

    Yields:
        A path with the same suffix as `path`, to be written by the caller.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is as it was before.

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
    """Writes `data` to `path`, whole or not at all.

    Args:
        path: the file to write. Its folder is made if it does not exist.
        data: the file's content.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is as it was before.
    """
    _atomic(path, lambda temporary: temporary.write_bytes(data))


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` as UTF-8, whole or not at all.

    Args:
        path: the file to write. Its folder is made if it does not exist.
        text: the file's content.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is as it was before.
    """
    _atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads an `.npz` file whole, without pickle; unlike `np.load`, compares every checksum.

    Args:
        path: the file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: the file is truncated, corrupt or no `.npz`.
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
    """Returns what an exception says on one line, without a full stop; its class where it says nothing.

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
            raise ValueError("an array of objects, such as lists of different lengths: join or pad them") from error
        raise


def _atomic(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Writes through `replacing`."""
    with replacing(path) as temporary:
        write(temporary)


def _temporary_name(path: Path) -> Path:
    """Makes the folder of `path` and an empty temporary file in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"Could not write {path}: {reason}. Choose a folder you can write to.") from error
    os.close(handle)
    # mkstemp makes private files; give the result the mode an ordinary open() would have given it.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    return Path(name)
