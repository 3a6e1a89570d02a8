"""Sizes of a file for microcontrollers: flash and memory."""

from __future__ import annotations

import dataclasses
from typing import Any

from r2keras._util.text import count
from r2keras.export.runtime.file_sizes import FileSizes


@dataclasses.dataclass(frozen=True)
class TFLMSizes(FileSizes):
    """Sizes of a file for microcontrollers, in bytes.

    Args:
        tensors: one row per compressed weight; `container_bits` and `note` describe what is stored.
        float_bytes: 4 times the number of values in the Keras model, biases and statistics included.
        file_bytes: the size of the file, in the device's flash.
        gzip_bytes: the size of the file after gzip.
        arena_bytes: the memory that the interpreter needs to run the file (`tflm_arena`); None if it was not measured.

    Example:

    >>> TFLMSizes((), 2600, 1400, 900, 4096).arena_bytes
    4096
    """

    arena_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        return {**super().to_dict(), "arena_bytes": self.arena_bytes}

    @property
    def text(self) -> str:
        """The totals in one line."""
        arena = "" if self.arena_bytes is None else f" Memory at run time (arena): {count(self.arena_bytes)} bytes."
        return super().text + arena
