"""The documentation site: pages, entries of public names, figures, and the strict build."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.public_names import public_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ENTRY = re.compile(r"^::: (r2keras[\w.]*)$", re.MULTILINE)


class Loader(yaml.SafeLoader):
    """A loader that reads the names of Python objects in mkdocs.yml as text."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def pages(entries):
    """Returns the paths of a navigation in their order."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += pages(value) if isinstance(value, list) else [value]
    return found


NAVIGATION = pages(CONFIG["nav"])
EXCLUDED = {line.strip("/") for line in CONFIG["exclude_docs"].split()}
WRITTEN = [path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).as_posix() not in EXCLUDED]


def entries():
    return [name for path in sorted((DOCS / "api").glob("*.md")) for name in ENTRY.findall(path.read_text("utf-8"))]


def value_of(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute) if module else importlib.import_module(name)


def test_every_page_is_in_the_navigation_once():
    assert sorted(name for name in NAVIGATION if name.endswith(".md")) == sorted(
        path.relative_to(DOCS).as_posix() for path in WRITTEN
    )


def test_notebooks_are_in_the_navigation():
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.ipynb")} <= set(NAVIGATION)


def test_every_page_has_one_title():
    for path in WRITTEN:
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        titles = re.findall(r"^# .+$", text, re.MULTILINE)
        assert len(titles) == 1 or text.startswith("--8<--"), path


def test_every_public_name_has_an_entry():
    shown = {id(value_of(name)) for name in entries()}
    assert [name for name in public_names() if id(value_of(name)) not in shown] == []


def test_no_name_has_two_entries():
    names = entries()
    assert len(names) == len(set(names)) == len({id(value_of(name)) for name in names})


def test_every_figure_is_drawn_and_shown():
    drawn = set(re.findall(r"for draw in \(([\w, ]+)\)", (DOCS / "figures/make.py").read_text("utf-8"))[0].split(", "))
    texts = "\n".join(path.read_text("utf-8") for path in WRITTEN)
    assert {path.stem for path in (DOCS / "figures").glob("*.svg")} == drawn
    assert [name for name in drawn if f"figures/{name}.svg)" not in texts] == []


def loaded(hook):
    spec = importlib.util.spec_from_file_location(hook, DOCS / "hooks" / f"{hook}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_missing_notebooks_leave_the_navigation(tmp_path):
    (tmp_path / "a.ipynb").touch()
    nav = [{"Home": "index.md"}, {"Tutorials": ["tutorials/index.md", {"A": "a.ipynb"}, {"B": "b.ipynb"}]}]
    kept = [{"Home": "index.md"}, {"Tutorials": ["tutorials/index.md", {"A": "a.ipynb"}]}]
    assert loaded("notebooks").present(nav, tmp_path) == kept


def test_examples_of_docstrings_become_code_blocks():
    pytest.importorskip("griffe")
    text = loaded("doctest_blocks").as_markdown("Does.\n\nExample:\n\n>>> f(1)\n2\n\nSource: a paper.")
    assert text == "Does.\n\n**Example**\n\n```pycon\n>>> f(1)\n2\n```\n\n**Source:** a paper."


@pytest.mark.parametrize(
    ("link", "page", "target"),
    [
        ("../../benchmarks/results/ptb.svg", "results/language_model.md", "benchmarks/results/ptb.svg"),
        ("../how_to/qat.md", "results/r2.md", None),
    ],
)
def test_links_that_leave_the_site_are_found(link, page, target):
    pytest.importorskip("mkdocs")
    hook = loaded("repository_files")
    assert hook.outside(link, page) == target
    assert hook.LINK.findall(f"[a]({link}#b)") == [link]


@pytest.mark.slow
def test_the_strict_build_passes(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", os.fspath(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    api = "".join(path.read_text("utf-8") for path in (tmp_path / "api").rglob("*.html"))
    assert [name for name in entries() if f'id="{name}"' not in api] == []
    assert "--calibration_data" in (tmp_path / "cli/convert/index.html").read_text("utf-8")
