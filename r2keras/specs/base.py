"""Base class of the specs: frozen, and convertible to and from plain JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from r2keras._util.errors import invalid_choice

SpecT = TypeVar("SpecT", bound="BaseSpec")
ValueT = TypeVar("ValueT")


@dataclasses.dataclass(frozen=True)
class BaseSpec:
    """A frozen spec that converts to plain JSON and back."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[SpecT], config: dict[str, Any]) -> SpecT:
        """Returns the spec of a `to_dict` result, or of any part of it.

        Raises:
            ValueError: a key that is not an argument of the class (the nearest one is suggested), or a bad value.
            TypeError: a value of another type.

        Example:

        >>> from r2keras.specs import QuantSpec
        >>> QuantSpec.from_dict({"num_bits": 4}) == QuantSpec(num_bits=4)
        True
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in names:
                raise ValueError(invalid_choice(f"key of {cls.__name__}", names, key))
        return cls(**config)

    def _set(self, name: str, value: object) -> None:
        """Sets an argument to its checked form, such as a plain number for one of NumPy."""
        object.__setattr__(self, name, value)

    def _set_default(self, name: str, value: ValueT) -> ValueT:
        """Sets an argument that was left out; returns the argument."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)
        return getattr(self, name)
