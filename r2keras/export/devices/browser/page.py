"""A static page that runs files in a browser, checks their outputs and measures them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from r2keras._util import optional_packages
from r2keras._util.errors import check_number, invalid
from r2keras._util.files import atomic_write_bytes, atomic_write_text, check_path
from r2keras.export.devices.browser.checks import check_same_inputs, checked_model, checked_paths
from r2keras.export.devices.browser.litert_js import NAME, TESTED, add_runtime
from r2keras.export.devices.golden import Golden, GoldenTensor, golden
from r2keras.export.tflite.activation_grid import Data
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import name_of
from r2keras.export.tflite.subgraph import Subgraph

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

VERSION = 1
ASSETS = ("index.html", "style.css", "page.js", "worker.js")
CONTENTS = "page.json"
GOLDEN = "golden"


def web_page(
    files: Sequence[str | os.PathLike],
    inputs: Data,
    folder: str | os.PathLike,
    *,
    litert_js: str | os.PathLike | None = None,
    title: str = "Files on this device",
    seconds: float = 3.0,
) -> Path:
    """Writes a static page that runs files on LiteRT.js, in any browser that opens it.

    The page runs every file on `inputs`, compares its outputs with those of LiteRT here (see `golden`), measures its
    latency on one thread of the visitor's processor, and exports a JSON file that `DeviceResults.load` reads. It needs
    a web server, such as `python -m http.server`, and asks no other server for anything.

    LiteRT.js is the npm package `@litertjs/core`. It is not part of r2keras. Either `litert_js` names a folder that has
    it, or `npm install --prefix FOLDER @litertjs/core@2.5.3` adds it to the folder of the page.

    Args:
        files: `.tflite` files with a fixed batch, and float32 or int32 inputs and outputs.
        inputs: a few samples that fit every file: array; list of arrays; or dict by input name.
        folder: where the page is written; created if it does not exist. `index.html` is written last.
        litert_js: the folder in which `npm install @litertjs/core` ran; its files for browsers, 19 MB, are copied. None
            leaves the runtime to a later `npm install`.
        title: the heading of the page.
        seconds: how long each file is measured. A file that takes longer than that for a few runs takes more time.

    Returns:
        The path of `index.html`.

    Raises:
        FileNotFoundError: a file does not exist, or `litert_js` does not have the package.
        OSError: the folder is not writable.
        TypeError: `files` is not a list of paths, `folder` or `litert_js` is not a path, `title` is not text, or
            `seconds` is not a number.
        ValueError: LiteRT.js does not take a file, the files or `inputs` do not fit each other, or `litert_js` has
            another version.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> from r2keras.export import to_litert
    >>> folder = tempfile.mkdtemp()
    >>> model = keras.Sequential([keras.Input((4,), batch_size=1), keras.layers.Dense(2)])
    >>> _ = to_litert(model, os.path.join(folder, "model.tflite"))
    >>> page = web_page([os.path.join(folder, "model.tflite")], np.eye(4), os.path.join(folder, "page"))
    >>> sorted(os.listdir(page.parent))
    ['golden', 'index.html', 'model.tflite', 'page.js', 'page.json', 'style.css', 'worker.js']
    """
    if not isinstance(title, str):
        raise TypeError(invalid("title", "text", title))
    if check_number("seconds", seconds, 0.0, 600.0) is None:
        raise TypeError(invalid("seconds", "a number from 0 to 600", seconds))
    folder = check_path("folder", folder)
    source = None if litert_js is None else check_path("litert_js", litert_js)
    paths = checked_paths(files)
    models = [checked_model(path) for path in paths]
    check_same_inputs(paths, models)
    arrays = models[0].arrays(inputs, "inputs")
    del models
    values = [golden(None, path, arrays) for path in paths]
    if source is not None:
        add_runtime(source, folder)
    entries = [add_file(path, expected, folder) for path, expected in zip(paths, values, strict=True)]
    return write_assets(entries, folder, title, seconds, values[0].runtime)


def write_assets(entries: list[dict[str, Any]], folder: Path, title: str, seconds: float, expected_by: str) -> Path:
    """Writes the contents of a page and the page itself; returns the path of `index.html`, which is written last.

    Args:
        entries: what `add_file` returned.
        folder: the folder of the page.
        title: its heading.
        seconds: how long each file is measured.
        expected_by: package and version that computed the expected outputs.
    """
    contents = {
        "version": VERSION,
        "title": title,
        "seconds": seconds,
        "runtime": f"{NAME}@{TESTED}",
        "expected_by": expected_by,
        "written_by": f"r2keras {optional_packages.version('r2keras')}",
        "files": entries,
    }
    atomic_write_text(folder / CONTENTS, json.dumps(contents, indent=1) + "\n")
    for name in reversed(ASSETS):
        asset = resources.files("r2keras.export.devices.browser") / "assets" / name
        atomic_write_bytes(folder / name, asset.read_bytes())
    return folder / ASSETS[0]


def add_file(path: Path, values: Golden, folder: Path) -> dict[str, Any]:
    """Copies a file and its golden values to the page; returns its entry of the contents."""
    content = path.read_bytes()
    atomic_write_bytes(folder / path.name, content)
    values.save(folder / GOLDEN / path.stem)
    file = read(path)
    graph = Subgraph(file)
    inputs, outputs = _names(file)
    at = f"{GOLDEN}/{path.stem}"
    return {
        "file": path.name,
        "url": quote(path.name),
        "sha256": values.sha256,
        "bytes": len(content),
        "batch": int(graph.shape(graph.inputs[0])[0]),
        "samples": values.num_samples,
        "inputs": [_tensor(name, values.inputs[i], "input", i, at) for i, name in enumerate(inputs)],
        "outputs": [_tensor(name, values.outputs[i], "output", i, at) for i, name in enumerate(outputs)],
    }


def _tensor(name: str, values: GoldenTensor, role: str, number: int, folder: str) -> dict[str, Any]:
    """Returns what the page needs to know of an input or output."""
    described = values.to_dict(role, number)
    kept = {key: described[key] for key in ("dtype", "shape", "tolerance")}
    return {"name": name, **kept, "url": quote(f"{folder}/{described['raw']}")}


def _names(file: ModelT) -> tuple[list[str], list[str]]:
    """Returns the names that LiteRT.js has for inputs and outputs: those of the signature, else those of tensors."""
    graph = Subgraph(file)
    signature = next(iter(file.signatureDefs or []), None)
    found = []
    for role in ("inputs", "outputs"):
        named = {int(entry.tensorIndex): entry.name.decode() for entry in getattr(signature, role, None) or []}
        found.append([named.get(index) or name_of(graph.tensor(index)) for index in getattr(graph, role)])
    return found[0], found[1]
