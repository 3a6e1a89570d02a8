"""What a run keeps under `--out`: settings.json, results.json, models/, files/; each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import r2keras.report
from pilot_lib.settings import Settings, UsageError
from r2keras._files import atomic_write_text, replacing


class Store:
    """The rows and models finished so far in one folder.

    Args:
        settings: the run's settings; a new folder is theirs from now on.

    Raises:
        UsageError: the folder belongs to a run with other settings.
        ValueError: its settings or results are damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, settings: Settings):
        self.folder = Path(settings.out)
        self._claim(settings)
        self.results = r2keras.report.Results(self.folder / "results.json")

    def finished(self, regularizer: str, seed: int, method: str, num_bits: int) -> bool:
        """Whether there is a row of this experiment, and its file."""
        row = self.results.find(regularizer=regularizer, seed=seed, method=method, num_bits=num_bits)
        return row is not None and self.file_path(regularizer, seed, method, num_bits).is_file()

    def model_path(self, regularizer: str, seed: int) -> Path:
        """Returns where a float model is kept."""
        return self.folder / "models" / f"{regularizer}_seed{seed}.keras"

    def file_path(self, regularizer: str, seed: int, method: str, num_bits: int) -> Path:
        """Returns where an exported file is kept; its record lies beside it as `.npz`."""
        return self.folder / "files" / f"{regularizer}_seed{seed}_{method}_w{num_bits}.tflite"

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Lets `write` make the file under a temporary name, then renames it."""
        with replacing(path) as temporary:
            write(temporary)

    def _claim(self, settings: Settings) -> None:
        """Refuses a folder of other settings; writes these if there are none."""
        path, mine = self.folder / "settings.json", json.loads(json.dumps(settings.fixed()))
        if not path.exists():
            atomic_write_text(path, json.dumps(mine, indent=1) + "\n")
            return
        theirs = _read_object(path)
        for name in mine:
            if theirs.get(name) != mine[name]:
                raise UsageError(
                    f"{self.folder} holds a run with --{name}={theirs.get(name)}, and this one has "
                    f"--{name}={mine[name]}: choose another --out."
                )


def _read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or raises."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): choose another --out.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: choose another --out.")
    return value
