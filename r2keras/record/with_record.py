"""Models that were returned together with a record, so that an export without it can warn."""

from __future__ import annotations

import weakref
from typing import Any

_MODELS: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(model: Any) -> None:
    """Notes that a record came with a model."""
    _MODELS.add(model)


def came_with_record(model: Any) -> bool:
    """Whether a record came with a model in this process.

    >>> class Model: ...
    >>> model, other = Model(), Model()
    >>> remember(model)
    >>> came_with_record(model), came_with_record(other)
    (True, False)
    """
    return model in _MODELS
