"""Check that a program is one for 64-bit ARM, before it is sent to a phone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from r2keras._util.errors import invalid_part

ARM64 = 183
MACHINES = {3: "32-bit x86", 40: "32-bit ARM", 62: "x86-64", ARM64: "64-bit ARM", 243: "RISC-V"}
EXPECTED = "LiteRT's android_aarch64_benchmark_model, a program for 64-bit ARM (an aarch64 ELF)"
FIX = "Download android_aarch64_benchmark_model: https://developers.google.com/edge/litert/models/measurement"


def check_binary(path: str | os.PathLike) -> Path:
    """Returns the path of a program for 64-bit ARM.

    Args:
        path: the program.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is a script, an archive, or a program for another processor.

    Example:

    >>> import sys
    >>> check_binary(os.__file__)
    Traceback (most recent call last):
    ...
    ValueError: Invalid value for argument `benchmark_model`. Expected LiteRT's android_aarch64_benchmark_model, ...
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"File not found: {path}. {FIX}.")
    with open(path, "rb") as file:
        head = file.read(20)
    found = described(head)
    if found != MACHINES[ARM64]:
        raise ValueError(invalid_part("benchmark_model", EXPECTED, f"{path}, which is {found}", FIX))
    return path


def described(head: bytes) -> str:
    """Returns in words what the first 20 bytes of a file say that it is.

    >>> described(b"#!/bin/sh")
    'a script'
    """
    if head[:2] == b"#!":
        return "a script"
    if head[:2] == b"PK":
        return "an archive or an .apk"
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return "not an ELF program"
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    name = MACHINES.get(machine, f"machine {machine}")
    return name if machine == ARM64 else f"a program for {name}"
