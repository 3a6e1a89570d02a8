"""The folder of a run: settings.json, results.json, models/ and files/. Files are written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common_lib.flag_checks import UsageError

import r2keras.report
from pilot_lib.settings import Settings
from r2keras._util.files import atomic_write_text, replacing

# Test images that are stored for checks of a file.
SAMPLES = 500
# Settings that earlier versions did not have, and what they did.
LATER = {"target": "any", "accelerator": "ethos-u55-128"}


class Store:
    """The rows and models finished so far in one folder.

    Args:
        settings: the run's settings; in a new folder they are stored, and later runs must match them.

    Raises:
        UsageError: the folder holds a run with other settings.
        ValueError: its settings or results are damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, settings: Settings):
        self.folder = Path(settings.out)
        self._check_or_write(settings)
        self.results = r2keras.report.Results(self.folder / "results.json")

    def finished(self, regularizer: str, seed: int, method: str, num_bits: int) -> bool:
        """Whether this experiment has a row and a file."""
        row = self.results.find(regularizer=regularizer, seed=seed, method=method, num_bits=num_bits)
        return row is not None and self.file_path(regularizer, seed, method, num_bits).is_file()

    def model_path(self, regularizer: str, seed: int) -> Path:
        """Returns the path of a float model."""
        return self.folder / "models" / f"{regularizer}_seed{seed}.keras"

    def file_path(self, regularizer: str, seed: int, method: str, num_bits: int) -> Path:
        """Returns the path of an exported file; its record has the same name with the suffix `.npz`."""
        return self.folder / "files" / f"{regularizer}_seed{seed}_{method}_w{num_bits}.tflite"

    def write_samples(self, x: np.ndarray, y: np.ndarray) -> Path:
        """Writes the first test images and their classes for `r2keras-verify`; returns the path."""
        path = self.folder / "samples.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, x=x[:SAMPLES], y=y[:SAMPLES])
        return path

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Calls `write` with a temporary path, then renames the file to `path`."""
        with replacing(path) as temporary:
            write(temporary)

    def _check_or_write(self, settings: Settings) -> None:
        """Raises if the folder has other settings; writes these if it has none."""
        path = self.folder / "settings.json"
        expected = json.loads(json.dumps(settings.fixed()))  # Tuples become lists, as in the file.
        if not path.exists():
            atomic_write_text(path, json.dumps(expected, indent=1) + "\n")
            return
        stored = _read_object(path)
        for name in expected:
            # Runs of earlier versions have no --target.
            if stored.get(name, LATER.get(name)) != expected[name]:
                raise UsageError(
                    f"{self.folder} holds a run with --{name}={stored.get(name)}, but this run has "
                    f"--{name}={expected[name]}: choose another --out."
                )


def _read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): choose another --out.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: choose another --out.")
    return value
