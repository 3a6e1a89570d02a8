"""The Android debug bridge: finding the phone, sending files, running commands; each mishap in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Of a push or a command, in seconds.
TIMEOUT = 900
INSTALL = "Install Android's platform tools (Debian and Ubuntu: apt-get install adb; macOS: brew install --cask \
android-platform-tools; others: https://developer.android.com/tools/releases/platform-tools)"
NO_DEVICE = "No phone is connected. Plug one in by USB, with USB debugging on in its developer options"
# What `adb devices` says of a phone that cannot be used, and what to do.
STATES = {
    "unauthorized": "does not trust this computer yet: unlock it and accept its question about USB debugging",
    "authorizing": "is being authorized: wait a moment, and unlock it",
    "offline": "is offline: unplug it and plug it in again, or run `adb reconnect`",
    "no": "may not be opened by this user: on Linux, install the package android-sdk-platform-tools-common",
}
MISHAPS = {
    "No space left on device": "the phone has no space left: free some in its storage",
    "device unauthorized": STATES["unauthorized"],
    "device offline": STATES["offline"],
    "not found": "the phone was unplugged",
    "no devices/emulators found": "the phone was unplugged",
    "closed": "the connection to the phone was closed",
}


class Adb:
    """One phone, by the command `adb`.

    Args:
        serial: the phone's serial number; None takes the only one that is connected.

    Raises:
        RuntimeError: adb is not installed; no phone, several, or one that cannot be used.
    """

    def __init__(self, serial: str | None = None):
        self._adb = shutil.which("adb")
        if self._adb is None:
            raise RuntimeError(f"Running files on a phone needs the program `adb`, which is not installed. {INSTALL}.")
        self.serial = choose(self._devices(), serial)

    def shell(self, command: str) -> str:
        """Runs a command on the phone and returns its standard output; its exit code must be 0."""
        return self._run(["-s", self.serial, "shell", command]).stdout

    def push(self, paths: Sequence[str | os.PathLike], folder: str) -> None:
        """Sends files into a folder of the phone."""
        self._run(["-s", self.serial, "push", *[os.fspath(path) for path in paths], f"{folder}/"])

    def pull(self, source: str, folder: Path) -> None:
        """Brings a file or folder from the phone."""
        self._run(["-s", self.serial, "pull", source, os.fspath(folder)])

    def _devices(self) -> dict[str, str]:
        """Returns the state of each phone by its serial number."""
        lines = self._run(["devices"]).stdout.splitlines()
        fields = [line.split() for line in lines if not line.startswith(("List of", "*"))]
        return {words[0]: words[1] for words in fields if len(words) > 1}

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs adb; raises RuntimeError with what went wrong in a sentence."""
        command = [str(self._adb), *arguments]
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"The phone did not answer within {TIMEOUT} seconds. Plug it in again.") from error
        if ran.returncode or "No space left on device" in ran.stderr:
            raise RuntimeError(mishap(f"{ran.stdout}\n{ran.stderr}"))
        return ran


def choose(devices: dict[str, str], serial: str | None) -> str:
    """Returns the serial number of the phone to use.

    Args:
        devices: states by serial number, as `adb devices` lists them.
        serial: the wanted one, or None.

    Raises:
        RuntimeError: there is none, more than one, or it cannot be used.

    Example:

    >>> choose({"A1": "device"}, None)
    'A1'
    """
    names = ", ".join(devices)
    if not devices:
        raise RuntimeError(f"{NO_DEVICE}.")
    if serial is None and len(devices) > 1:
        raise RuntimeError(f"Several phones are connected: {names}. Choose one with --serial.")
    serial = serial or next(iter(devices))
    if serial not in devices:
        raise RuntimeError(f"No phone with the serial number {serial} is connected. Connected: {names}.")
    state = devices[serial]
    if state != "device":
        raise RuntimeError(f"The phone {serial} {STATES.get(state, f'is in the state {state}')}.")
    return serial


def mishap(output: str) -> str:
    """Returns what adb printed as one sentence.

    >>> mishap("adb: error: failed to copy 'a' to 'b': remote write failed: No space left on device")
    'adb failed: the phone has no space left: free some in its storage.'
    """
    known = next((text for words, text in MISHAPS.items() if words in output), None)
    last = [line.strip() for line in output.splitlines() if line.strip()]
    return f"adb failed: {known or (last[-1] if last else 'it printed nothing')}."
