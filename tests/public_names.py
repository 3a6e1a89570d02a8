"""The public names: those in `__all__` of r2keras and of its public modules. `make names` writes the list."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import r2keras

FILE = Path(__file__).with_name("public_names.txt")


def public_modules() -> list[ModuleType]:
    """Returns r2keras and the modules that it makes public, imported."""
    values = [getattr(r2keras, name) for name in r2keras.__all__]
    return [r2keras, *(value for value in values if isinstance(value, ModuleType))]


def public_names() -> list[str]:
    """Returns every public name, dotted, sorted."""
    return sorted(f"{module.__name__}.{name}" for module in public_modules() for name in module.__all__)


if __name__ == "__main__":
    FILE.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(public_names())} names")
