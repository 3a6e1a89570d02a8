"""The heavy packages of this folder, imported on first use, with one sentence where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from r2keras._errors import missing


def tensorflow() -> ModuleType:
    """Returns TensorFlow, whose converter makes the float file."""
    return _load("tensorflow", "tensorflow", "Export to LiteRT")


def schema() -> ModuleType:
    """Returns the classes of the `.tflite` schema."""
    return _load("ai_edge_litert.schema_py_generated", "ai-edge-litert", "Reading or writing a .tflite file")


def interpreter() -> ModuleType:
    """Returns the module of LiteRT's interpreter."""
    return _load("ai_edge_litert.interpreter", "ai-edge-litert", "Running a .tflite file")


def microcontrollers() -> ModuleType:
    """Returns the module of the interpreter of LiteRT for Microcontrollers."""
    purpose = "Running a file for microcontrollers, on Linux (x86-64) only,"
    return _load("tflite_micro", "tflite-micro", purpose, "tflm").runtime


def _load(module: str, package: str, purpose: str, extra: str = "") -> ModuleType:
    """Imports a module, or says which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(missing(package, purpose, extra)) from error
