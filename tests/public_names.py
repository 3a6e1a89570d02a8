"""The public names: what stands in `__all__` of r2keras and of its packages. `make names` writes the list."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import r2keras

FILE = Path(__file__).with_name("public_names.txt")


def public_modules() -> list[ModuleType]:
    """Returns r2keras and its packages, imported."""
    packages = [module.name for module in pkgutil.iter_modules(r2keras.__path__, "r2keras.") if module.ispkg]
    return [importlib.import_module(name) for name in ["r2keras", *packages]]


def public_names() -> list[str]:
    """Returns every public name, dotted, sorted."""
    return sorted(f"{module.__name__}.{name}" for module in public_modules() for name in getattr(module, "__all__", ()))


if __name__ == "__main__":
    FILE.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(public_names())} names")
