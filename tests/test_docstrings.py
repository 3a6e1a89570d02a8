"""Docstrings: every example runs; every public name is listed, documented and shown by an example."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import keras
import pytest

import r2keras
from tests.public_names import FILE, public_modules, public_names

MODULES = sorted({"r2keras", *(module.name for module in pkgutil.walk_packages(r2keras.__path__, "r2keras."))})
NAMES = public_names()
FOR_MICROCONTROLLERS = ("r2keras.export.tflm.to_tflm", "r2keras.export.runtime.tflm_model")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_run(name, tmp_path, monkeypatch, request):
    if name in FOR_MICROCONTROLLERS:
        request.getfixturevalue("microcontrollers")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    keras.utils.set_random_seed(0)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name):
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_public_names_are_the_listed_ones():
    listed = FILE.read_text(encoding="utf-8").split()
    assert listed == NAMES, "A public name came or went. If that is meant, run `make names`."


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_every_package_says_what_is_public(module):
    assert module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def documented(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_an_example(name):
    value = documented(name)
    if inspect.isclass(value) or inspect.isroutine(value):
        text = inspect.getdoc(value) or ""
        assert "Example" in text, f"{name} shows no example"
        assert ">>> " in text, f"the example of {name} is not one that doctest runs"


@pytest.mark.parametrize("name", NAMES)
def test_docstring_names_every_argument(name):
    value = documented(name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    text = inspect.getdoc(value) or ""
    ignored = {"self", "args", "kwargs"}
    missing = [
        argument for argument in inspect.signature(value).parameters if argument not in ignored and argument not in text
    ]
    assert missing == [], f"{name} does not describe {missing}"
