"""Storage of finished layers in a folder, for long steps."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras._util.files import atomic_write_bytes, one_line, reading
from r2keras._util.json_text import member, parse_json
from r2keras._util.npz_file import CORRUPT, NpzFile
from r2keras._util.shown import cut, shown
from r2keras.record import QuantizedTensor

# Of name, note and fingerprint.
LONGEST_TEXT = 2**20


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

    def load(self, full: str, tensor: QuantizedTensor) -> tuple[QuantizedTensor, str] | None:
        """Returns a finished layer and its note, or None.

        Args:
            full: the name of the kernel.
            tensor: the kernel before AdaRound, whose shapes the finished one has.

        Raises:
            ValueError: the file is corrupt, or is of another run.
        """
        path = self._file(full)
        if not path.exists():
            return None
        with reading(path, "a layer that AdaRound wrote", "folder") as file:
            try:
                archive = NpzFile(file)
                text = _read_text(archive)
                if (text["fingerprint"], text["name"]) == (self.fingerprint, full):
                    return _read_tensor(archive, tensor), text["note"]
            except CORRUPT as error:
                raise ValueError(
                    f"{path} is not a readable layer ({one_line(error)}). Expected a file that AdaRound wrote. "
                    "Delete it."
                ) from error
        expected = "an empty folder, or that of a run with the same model, recipe, data and options"
        received = f"{str(self.folder)!r}, which has layers of another run"
        raise ValueError(invalid_part("folder", expected, received, "Delete it or choose another"))

    def _file(self, full: str) -> Path:
        """Returns the file of a layer."""
        return self.folder / f"{full.replace('/', '.')}.npz"


def _read_text(archive: NpzFile) -> dict[str, str]:
    """Returns name, note and fingerprint of a finished layer."""
    if set(archive.names) != {"codes", "scale", "text"}:
        raise ValueError(f"it holds {shown(archive.names)}")
    if archive.header("text").nbytes > LONGEST_TEXT:
        raise ValueError(f"its text is longer than {LONGEST_TEXT:,} bytes")
    text = parse_json(archive.read("text").tobytes())
    return {key: member(text, key, str, "its text") for key in ("name", "note", "fingerprint")}


def _read_tensor(archive: NpzFile, tensor: QuantizedTensor) -> QuantizedTensor:
    """Returns a tensor with the codes and scales of a finished layer."""
    for name in ("codes", "scale"):
        expected, header = getattr(tensor, name), archive.header(name)
        if (header.shape, header.dtype) != (expected.shape, expected.dtype):
            received = f"{cut(header.dtype)} of shape {cut(header.shape)}"
            raise ValueError(f"its {name} are {received}, not {expected.dtype} of shape {expected.shape}")
    return dataclasses.replace(tensor, codes=archive.read("codes"), scale=archive.read("scale"))
