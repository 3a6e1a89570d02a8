"""A headless Chromium, driven through the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next(filter(None, map(shutil.which, NAMES)), None)
TIMEOUT = 60.0
FLAGS = ("--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe")


class Browser:
    """One page of a headless browser.

    Args:
        profile: an empty folder for the browser's own files.
        flags: more flags of the command line.

    `messages` collects what the page and its workers write to the console, `requests` the addresses that they ask
    for.
    """

    def __init__(self, profile: Path, *flags: str):
        commands_read, self._commands = os.pipe()
        self._answers, answers_write = os.pipe()

        def prepare() -> None:
            # The browser reads commands from descriptor 3 and answers on 4, which may be in use: copies come first.
            first, second = os.dup(commands_read), os.dup(answers_write)
            first, second = os.dup2(first, 103), os.dup2(second, 104)
            os.dup2(first, 3)
            os.dup2(second, 4)

        # A browser run by root, as in containers, starts only without its sandbox; the pages are our own.
        flags = (*FLAGS, *flags, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else []))
        self._process = subprocess.Popen(
            [BINARY, *flags],
            preexec_fn=prepare,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_read)
        os.close(answers_write)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[Any] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        number = self._post(method, self._session, **params)
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, page: Path | str, *, width: int, height: int = 900) -> None:
        """Opens a file or an address in a window of this size, in CSS pixels, and waits until it is loaded."""
        self._loaded = False
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Returns the JSON value of a JavaScript expression, or what its promise resolves to."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = TIMEOUT) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not become true within {seconds:.0f} s.")
            time.sleep(0.05)

    def media(self, *, media: str = "", scheme: str = "light") -> None:
        """Shows the page as on this medium and with this color scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def _post(self, method: str, session: str | None, **params: Any) -> int:
        """Sends a command to the page, a worker of it or the browser; returns the number of the answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        return self._number

    def _receive(self) -> dict[str, Any]:
        """Returns the next message of the browser, and keeps those of the page."""
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._answers, 2**16) if ready else b""
            if not part:
                raise TimeoutError(f"The browser did not answer within {TIMEOUT:.0f} s.")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(params)
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Target.attachedToTarget" and params["targetInfo"]["type"] == "worker":
            for command in ("Runtime.enable", "Log.enable", "Network.enable", "Runtime.runIfWaitingForDebugger"):
                self._post(command, params["sessionId"])
        return message
