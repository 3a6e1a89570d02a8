"""An adb server for tests: the host protocol of adb on a loopback port, with phones that are folders of this machine.

What is real: the adb client and what it sends, the files that arrive, the shell commands and their exit codes. What
is not: the phone. A command runs in this machine's `sh`, with the folder in place of /data/local/tmp; `getprop` answers
as a phone would; and the pushed `benchmark_model`, an aarch64 program that this machine cannot run, is kept while
`fake_benchmark.py` runs in its place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

FAKE = Path(__file__).with_name("fake_benchmark.py")
GETPROP = """#!/bin/sh
case "$1" in
  ro.product.manufacturer) echo Acme ;;
  ro.product.model) echo "One 5" ;;
  ro.product.cpu.abi) echo "${STUB_ABI:-arm64-v8a}" ;;
  ro.build.version.sdk) echo 35 ;;
esac
"""
VERSION = 41  # Of the protocol; the client ends a server of another version.
# An aarch64 ELF header; nothing here runs it.
ARM64_PROGRAM = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 183, 1) + bytes(100)


@contextlib.contextmanager
def starting(folder: Path, monkeypatch):
    """Yields a function that starts a server with the named phones, for the adb client of this process."""
    servers: list[StubServer] = []

    def start(devices: dict[str, str] | None = None, **environment: str) -> StubServer:
        devices = {"A1": "device"} if devices is None else devices
        servers.append(StubServer(folder / f"phone{len(servers)}", devices, environment))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(servers[-1].port))
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class StubServer:
    """Phones by serial number and state; `folder` is the storage of every one of them."""

    def __init__(self, folder: Path, devices: dict[str, str], environment: dict[str, str] | None = None):
        self.devices = devices
        self.storage = folder / "storage"
        self.commands: list[str] = []
        self.full = False
        bin_folder = folder / "bin"
        for path in (self.storage, bin_folder):
            path.mkdir(parents=True)
        (bin_folder / "getprop").write_text(GETPROP)
        (bin_folder / "getprop").chmod(0o755)
        self.environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"} | (environment or {})
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # Wakes the thread in `accept`, which could go on with another socket of the same number.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            try:
                while head := stream.read(4):
                    if not self._answer(stream, stream.read(int(head, 16)).decode()):
                        return
            except (BrokenPipeError, ConnectionResetError):
                return

    def _answer(self, stream, service: str) -> bool:
        """Answers one request; returns whether another may follow on the connection."""
        kind, _, rest = service.partition(":")
        if service == "host:version":
            return self._text(stream, f"{VERSION:04x}")
        if service in ("host:devices", "host:devices-l"):
            return self._text(stream, "".join(f"{serial}\t{state}\n" for serial, state in self.devices.items()))
        if service.endswith("features"):
            return self._text(stream, "shell_v2,cmd")
        if kind == "host" and rest.startswith(("tport:", "transport:")):
            return self._transport(stream, rest)
        if service.startswith("shell"):
            self._okay(stream)
            self._shell(stream, service.partition(":")[2])
            return False
        if service == "sync:":
            self._okay(stream)
            self._sync(stream)
            return False
        return self._fail(stream, f"unknown service {service}")

    def _transport(self, stream, rest: str) -> bool:
        serial = rest.rpartition(":")[2]
        state = next(iter(self.devices.values()), None) if serial == "any" else self.devices.get(serial)
        if state != "device":
            return self._fail(stream, f"device {state}" if state else "device not found")
        self._okay(stream, struct.pack("<Q", 1) if rest.startswith("tport") else b"")
        return True

    def _okay(self, stream, data: bytes = b"") -> None:
        stream.write(b"OKAY" + data)
        stream.flush()

    def _text(self, stream, text: str) -> bool:
        self._okay(stream, f"{len(text):04x}{text}".encode())
        return False

    def _fail(self, stream, text: str) -> bool:
        stream.write(f"FAIL{len(text):04x}{text}".encode())
        stream.flush()
        return False

    def here(self, path: str) -> Path:
        """Returns where a path of the phone is on this machine."""
        return Path(path.replace("/data/local/tmp", str(self.storage)))

    def _shell(self, stream, command: str) -> None:
        self.commands.append(command)
        ran = subprocess.run(
            ["sh", "-c", str(command.replace("/data/local/tmp", str(self.storage)))],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        for number, data in ((1, ran.stdout), (2, ran.stderr), (3, bytes([ran.returncode & 255]))):
            if data:
                stream.write(struct.pack("<BI", number, len(data)) + data)
        stream.flush()

    def _sync(self, stream) -> None:
        while True:
            name, length = stream.read(4), struct.unpack("<I", stream.read(4))[0]
            if name == b"QUIT":
                return
            text = stream.read(length).decode()
            {b"STAT": self._stat, b"SEND": self._receive, b"RECV": self._give, b"LIST": self._list}[name](stream, text)
            stream.flush()

    def _stat(self, stream, path: str) -> None:
        stream.write(b"STAT" + _stat_bytes(self.here(path)))

    def _list(self, stream, path: str) -> None:
        for item in sorted(self.here(path).iterdir()):
            name = item.name.encode()
            stream.write(b"DENT" + _stat_bytes(item) + struct.pack("<I", len(name)) + name)
        stream.write(b"DONE" + bytes(16))

    def _receive(self, stream, text: str) -> None:
        path, parts = self.here(text.rpartition(",")[0]), []
        while True:
            name, length = stream.read(4), struct.unpack("<I", stream.read(4))[0]
            if name == b"DONE":
                break
            parts.append(stream.read(length))
        if self.full:
            reason = b"write failed: No space left on device"
            stream.write(b"FAIL" + struct.pack("<I", len(reason)) + reason)
            return
        content = b"".join(parts)
        if path.name == "benchmark_model":
            path.with_name("pushed").write_bytes(content)
            content = f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n'.encode()
        path.write_bytes(content)
        stream.write(b"OKAY" + bytes(4))

    def _give(self, stream, path: str) -> None:
        content = self.here(path).read_bytes()
        for start in range(0, len(content), 65536):
            part = content[start : start + 65536]
            stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
        stream.write(b"DONE" + bytes(4))


def _stat_bytes(path: Path) -> bytes:
    """Returns mode, size and time of a file; zeros if there is none."""
    if not path.exists():
        return bytes(12)
    found = path.stat()
    return struct.pack("<III", found.st_mode, found.st_size, int(found.st_mtime))
