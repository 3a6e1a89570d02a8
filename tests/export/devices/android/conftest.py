"""A file, its data, and phones on a stub of the adb server."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.export.devices.android import stub_adb
from tests.export.install.compact_file import SIZE, compact_file


@pytest.fixture
def phones(tmp_path, monkeypatch):
    """A function that starts a server with the named phones."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    with stub_adb.starting(tmp_path, monkeypatch) as start:
        yield start


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small net.tflite"
    path.write_bytes(compact_file())
    return path


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "android_aarch64_benchmark_model"
    path.write_bytes(stub_adb.ARM64_PROGRAM)
    return path


@pytest.fixture
def data():
    return {"x": np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)}
