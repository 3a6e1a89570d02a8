"""Fingerprints of everything that a stored result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def fingerprint(settings: Any, arrays: Iterable[np.ndarray]) -> str:
    """Returns a hash of plain settings and of arrays.

    >>> fingerprint({"a": 1}, [np.zeros(2)]) == fingerprint({"a": 1}, [np.zeros(2)])
    True
    >>> fingerprint({"a": 1}, [np.zeros(2)]) == fingerprint({"a": 2}, [np.zeros(2)])
    False
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
