"""A file, its data, and phones on a stub of the adb server."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.export.devices.android import stub_adb
from tests.export.install.compact_file import SIZE, compact_file


@pytest.fixture
def phones(tmp_path, monkeypatch):
    """Returns a function that starts a server with the named phones, for the adb client of this process."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    servers = []

    def start(devices=None, **environment):
        devices = {"A1": "device"} if devices is None else devices
        servers.append(stub_adb.StubServer(tmp_path / f"phone{len(servers)}", devices, environment))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(servers[-1].port))
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


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
