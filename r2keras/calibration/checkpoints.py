"""Storage of finished layers in a folder, and a progress bar, for long steps."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from r2keras._util.errors import invalid_part, missing
from r2keras._util.files import atomic_write_bytes, read_npz


class LayerStore:
    """A folder for finished layers, one `.npz` each.

    Args:
        folder: the folder, created if it does not exist.
        fingerprint: a hash of everything that the layers depend on.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str):
        self.folder = Path(folder)
        self.fingerprint = fingerprint

    def save(self, full: str, codes: np.ndarray, scale: np.ndarray, note: str) -> None:
        """Writes a finished layer atomically."""
        buffer = io.BytesIO()
        text = json.dumps({"name": full, "note": note, "fingerprint": self.fingerprint})
        np.savez_compressed(buffer, codes=codes, scale=scale, text=np.frombuffer(text.encode(), np.uint8))
        atomic_write_bytes(self._file(full), buffer.getvalue())

    def load(self, full: str) -> tuple[np.ndarray, np.ndarray, str] | None:
        """Returns the codes, scale and note of a finished layer, or None."""
        if not self._file(full).exists():
            return None
        arrays = read_npz(self._file(full))
        try:
            text = json.loads(arrays["text"].tobytes())
            if text["fingerprint"] == self.fingerprint and text["name"] == full:
                return arrays["codes"], arrays["scale"], text["note"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._file(full)} is not a readable layer. Expected a file that AdaRound wrote. Delete it."
            ) from error
        expected = "an empty folder, or that of a run with the same model, recipe, data and options"
        received = f"{str(self.folder)!r}, which has layers of another run"
        raise ValueError(invalid_part("folder", expected, received, "Delete it or choose another"))

    def _file(self, full: str) -> Path:
        """Returns the file of a layer."""
        return self.folder / f"{full.replace('/', '.')}.npz"


@contextlib.contextmanager
def progress_bar(shown: bool, total: int) -> Iterator[Callable[[str], None]]:
    """Shows a progress bar; yields a function that advances it by one kernel, whose name it takes."""
    if not shown:
        yield lambda name: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError(missing("rich", "A progress bar")) from error
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("AdaRound", total=total)
        yield lambda name: bar.update(task, advance=1, description=f"AdaRound {name}")
