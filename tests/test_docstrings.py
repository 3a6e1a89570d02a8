"""Docstrings: every example runs; every public name is listed, documented and shown by an example."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path

import keras
import pytest

import r2keras
from tests.public_names import FILE, public_modules, public_names

MODULES = sorted({"r2keras", *(module.name for module in pkgutil.walk_packages(r2keras.__path__, "r2keras."))})
NAMES = public_names()
FOR_MICROCONTROLLERS = ("r2keras.export.tflm.to_tflm", "r2keras.export.runtime.tflm_model")


def has_examples(name: str) -> bool:
    """Whether doctest finds anything to run in a module."""
    return ">>> " in Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", filter(has_examples, MODULES))
def test_examples_of_a_module_run(name, tmp_path, monkeypatch, request):
    if name in FOR_MICROCONTROLLERS:
        request.getfixturevalue("microcontrollers")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    keras.utils.set_random_seed(0)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_module_has_a_docstring():
    assert [name for name in MODULES if not (importlib.import_module(name).__doc__ or "").strip()] == []


def test_public_names_are_the_listed_ones():
    listed = FILE.read_text(encoding="utf-8").split()
    assert listed == NAMES, "A public name came or went. If that is meant, run `make names`."


def test_every_package_says_what_is_public():
    assert all(module.__all__ for module in public_modules())
    names = [(module.__name__, name) for module in public_modules() for name in module.__all__]
    assert [name for name in names if not hasattr(sys.modules[name[0]], name[1])] == []


def documented(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def callables() -> dict[str, object]:
    """Returns the public classes and functions by name."""
    values = {name: documented(name) for name in NAMES}
    return {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)}


def test_public_names_have_an_example_that_doctest_runs():
    texts = {name: inspect.getdoc(value) or "" for name, value in callables().items()}
    assert [name for name, text in texts.items() if "Example" not in text or ">>> " not in text] == []


def test_docstrings_name_every_argument():
    ignored = {"self", "args", "kwargs"}
    missing = [
        (name, argument)
        for name, value in callables().items()
        for argument in inspect.signature(value).parameters
        if argument not in ignored and argument not in (inspect.getdoc(value) or "")
    ]
    assert missing == []
