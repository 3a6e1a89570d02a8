"""Registers r2keras' classes with Keras as soon as Keras is imported.

`keras.models.load_model` finds custom classes by their registered names, and a model has to load after `import keras,
r2keras` without a further line. But `import r2keras` does not import Keras, because specs and records need NumPy only.
So if Keras is there already, its registry is filled at once; if not, a finder on `sys.meta_path` waits for its import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# The packages whose classes are registered. r2keras.tfmot registers its own with tf_keras when it is imported.
PACKAGES = ("r2keras.layers", "r2keras.quantizers", "r2keras.regularizers")
# The parts of r2keras that do not import Keras.
LIGHT = {"_registration", "_util", "cli", "record", "specs"}


def register_with_keras() -> None:
    """Registers the classes now if Keras is imported, and otherwise right after its import."""
    if sys.modules.get("keras") is not None:
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _register() -> None:
    for name in PACKAGES:
        importlib.import_module(name)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as the other finders do, but with a loader that registers r2keras' classes afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of Keras; None for other modules, which the other finders then find."""
        if fullname == "keras":
            return self._keras_spec(path, target)
        package, _, name = fullname.partition(".")
        if package == "r2keras" and name.partition(".")[0] not in LIGHT:
            # Keras first: if it were imported while this module loads, registering would need the module's names.
            importlib.import_module("keras")
        return None

    def _keras_spec(self, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec("keras", path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _RegisteringLoader(spec.loader, self)
                return spec
        return None


class _RegisteringLoader(importlib.abc.Loader):
    """Loads Keras with its own loader, then registers r2keras' classes."""

    def __init__(self, loader: importlib.abc.Loader, finder: _KerasFinder):
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Returns the module that Keras' own loader makes."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs Keras, then registers; the finder has done its work."""
        # The module keeps its own loader, which reads its source and its data files.
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        _register()
