"""A run of a new file on the runtime of its target."""

from __future__ import annotations

import warnings

from r2keras._util import optional_packages
from r2keras.export.runtime.tflm_model import find_arena

UNCHECKED = (
    "tflite-micro is not installed, so LiteRT for Microcontrollers has not run the file. `pip install 'r2keras[tflm]'` "
    "installs it on Linux (x86-64)."
)


def check_runs(target: str, content: bytes, name: str) -> int | None:
    """Runs a file for microcontrollers once; other targets have no check of this kind here.

    Args:
        target: the target of the file.
        content: its bytes.
        name: what errors call it.

    Returns:
        The memory that it needs (`tflm_arena`); None if it was not run.

    Raises:
        ValueError: LiteRT for Microcontrollers lacks an operator or a type of the file.

    Warns:
        UserWarning: tflite-micro is not installed.
    """
    if target != "mcu":
        return None
    if not optional_packages.has_microcontrollers():
        warnings.warn(UNCHECKED, UserWarning, stacklevel=3)
        return None
    return find_arena(content, name)
