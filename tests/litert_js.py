"""LiteRT.js for tests and benchmarks: its npm packages, runs of a page's files in Node, and a server of a page."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2keras.export.devices.browser.litert_js import NAME, TESTED

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "litert_js"
WORKER = ROOT / "r2keras" / "export" / "devices" / "browser" / "assets" / "worker.js"
SHIM = Path(__file__).with_suffix(".js")
NODE = shutil.which("node")


class Unavailable(RuntimeError):
    """LiteRT.js is not here and cannot be fetched; the text says why."""


def packages() -> Path:
    """Returns a folder in which npm has installed LiteRT.js; the first call on a machine does so."""
    installed = CACHE / "node_modules" / NAME / "package.json"
    if shutil.which("npm") is None:
        raise Unavailable("npm is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or json.loads(installed.read_text("utf-8"))["version"] != TESTED:
            command = ["npm", "install", "--prefix", str(CACHE), "--no-audit", "--no-fund", f"{NAME}@{TESTED}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise Unavailable(f"npm cannot install {NAME}: {done.stderr.strip().splitlines()[-1:]}")
    return CACHE


def node_version() -> str:
    """Returns the name and version of Node."""
    if NODE is None:
        raise Unavailable("Node is not installed")
    return subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def run_in_node(page: Path, entries: list[dict[str, Any]], seconds: float = 0.0) -> list[dict[str, Any]]:
    """Runs files of a page in Node, by the worker of the page; after an error, the rest runs in another process.

    Args:
        page: the folder of the page.
        entries: those of the files in page.json.
        seconds: how long each file is measured.

    Returns:
        What the worker says of each.
    """
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder, "jobs.json")
        while len(answers) < len(entries):
            left = [_job(page, entry, seconds) for entry in entries[len(answers) :]]
            jobs.write_text(json.dumps(left), encoding="utf-8")
            scope = packages() / "node_modules" / "@litertjs"
            command = [str(NODE), "--no-warnings", str(SHIM), str(WORKER), str(scope), str(jobs)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            started, *lines = map(json.loads, done.stdout.splitlines())
            assert "done" in started, started
            answers += [line["done"] for line in lines]
            if done.returncode or not lines:
                answers.append({"error": f"exit status {done.returncode}: {done.stderr[-300:]}"})
    return answers


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves a folder on this machine; yields its address and the list of paths that are asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            asked.append(self.path)

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


def _job(page: Path, entry: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Returns the message for a file, with addresses of files."""
    base = f"{page.resolve().as_uri()}/"
    ends = {role: [{**item, "url": base + item["url"]} for item in entry[role]] for role in ("inputs", "outputs")}
    return {"task": "run", "entry": {**entry, **ends, "url": base + entry["url"]}, "seconds": seconds, "checks": True}
