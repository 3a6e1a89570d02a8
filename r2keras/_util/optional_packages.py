"""Lazy imports of heavy packages, each with an error that names the package to install."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from r2keras._util.errors import missing


def tensorflow() -> ModuleType:
    """Returns TensorFlow, whose converter writes the float file."""
    return _load("tensorflow", "tensorflow", "Export to LiteRT")


def require_tensorflow() -> None:
    """Raises ImportError unless TensorFlow is installed."""
    tensorflow()


def schema() -> ModuleType:
    """Returns the classes of the `.tflite` schema."""
    return _load("ai_edge_litert.schema_py_generated", "ai-edge-litert", "Reading or writing a .tflite file")


def require_schema() -> None:
    """Raises ImportError unless the package with the `.tflite` schema is installed."""
    schema()


def interpreter() -> ModuleType:
    """Returns the module with LiteRT's interpreter."""
    return _load("ai_edge_litert.interpreter", "ai-edge-litert", "Running a .tflite file")


def microcontrollers() -> ModuleType:
    """Returns the module with the interpreter of LiteRT for Microcontrollers."""
    purpose = "Running a file for microcontrollers, on Linux (x86-64) only,"
    return _load("tflite_micro", "tflite-micro", purpose, "tflm").runtime


def has_microcontrollers() -> bool:
    """Returns whether LiteRT for Microcontrollers is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def require_microcontrollers() -> None:
    """Raises ImportError unless LiteRT for Microcontrollers is installed."""
    microcontrollers()


def version(package: str) -> str:
    """Returns the installed version of a package, or "unknown" if it has no metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _load(module: str, package: str, purpose: str, extra: str = "") -> ModuleType:
    """Imports a module; raises ImportError that names the package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(missing(package, purpose, extra)) from error
