"""Files are written completely or not at all, and every failure is one sentence."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from r2keras._util.files import atomic_write_bytes, atomic_write_text, one_line, read_npz, replacing

pytestmark = pytest.mark.backends


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_writes_bytes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    atomic_write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["c.bin"]


def test_writes_text_as_utf8_and_takes_a_string_path(tmp_path):
    atomic_write_text(str(tmp_path / "c.txt"), "µ\n")
    assert (tmp_path / "c.txt").read_bytes() == b"\xc2\xb5\n"


def test_replaces_an_older_file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("older and longer")
    atomic_write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_mode_is_that_of_an_ordinary_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        atomic_write_text(tmp_path / "atomic", "x")
        (tmp_path / "ordinary").write_text("x")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "ordinary")}
    assert modes == {0o666 & ~mask}


def test_temporary_name_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "model.weights.h5") as temporary:
        assert temporary.suffix == ".h5"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_failure_inside_leaves_the_older_file_alone(tmp_path, error):
    path = tmp_path / "c.txt"
    path.write_text("older")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert path.read_text() == "older"
    assert names(tmp_path) == ["c.txt"]


def test_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "c.bin"
    path.write_bytes(b"older")

    def write_half(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match=r"Could not write .*c\.bin: No space left on device\. Nothing was changed\."):
        atomic_write_bytes(path, b"newer")
    monkeypatch.undo()
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["c.bin"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for inside in ("c.txt", "a/b/c.txt"):
        with pytest.raises(OSError, match=rf"Could not write .*{inside}: .*file is a file\. Choose a folder"):
            atomic_write_text(tmp_path / "file" / inside, "x")


@pytest.mark.parametrize("path", [None, 5, b"c.txt"])
def test_what_is_not_a_path(path):
    with pytest.raises(TypeError, match=r"argument `path`\. Expected a path\. Received: path="):
        atomic_write_text(path, "x")


def test_folder_that_is_not_writable(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The mode of a folder does not stop the superuser, so the refusal is simulated.
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OSError, match=r"c\.txt: Permission denied\. Choose a folder you can write to\."):
        atomic_write_text(tmp_path / "c.txt", "x")
    assert names(tmp_path) == []


def test_target_that_is_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match=r"Could not write .*out"):
        atomic_write_text(tmp_path / "out", "x")
    assert names(tmp_path) == ["out"]


def test_reads_arrays(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), y=np.array("text"), z=np.float32(1))
    arrays = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], [[0, 1, 2], [3, 4, 5]])
    assert (str(arrays["y"]), arrays["z"].shape, arrays["z"].dtype) == ("text", (), np.float32)


def test_a_changed_byte_of_the_data_is_seen(tmp_path):
    # Stored, not compressed: nothing but the checksum can tell. `np.load` reads on.
    np.savez(tmp_path / "a.npz", x=np.zeros(1000, np.int8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz is not a readable \.npz file \(.*CRC.*\)\.$"):
        read_npz(tmp_path / "a.npz")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match=r"not a readable .*array of objects"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x05\x06", b"\x93NUMPY\x01\x00v\x00"])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="not a readable"):
        read_npz(tmp_path / "a.npz")


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_npz(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        read_npz(tmp_path)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b."), "a b"),
        (KeyError("x"), "x"),
        (EOFError(), "EOFError"),
        (OSError(2, "none"), "[Errno 2] none"),
    ],
)
def test_one_line(error, text):
    assert one_line(error) == text
