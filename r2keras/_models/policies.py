"""Dtype policies of layers that are made in a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def default_policy(policy: str | keras.DTypePolicy) -> Iterator[None]:
    """Makes a dtype policy that of all new layers while the block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
