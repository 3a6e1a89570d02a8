"""setup.cfg is complete: packages, scripts, templates, versions."""

from __future__ import annotations

import configparser
import fnmatch
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import r2keras

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_every_package_is_found_and_nothing_else(config):
    assert config["options"]["packages"] == "find:"
    include = lines(config["options.packages.find"]["include"])
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py") if ".venv" not in path.parts}
    packages = {".".join(folder.parts) for folder in folders}
    found = {name for name in packages if any(fnmatch.fnmatchcase(name, pattern) for pattern in include)}
    assert found == {name for name in packages if name.partition(".")[0] == "r2keras"}


def test_every_folder_with_code_is_a_package():
    assert [path for path in (ROOT / "r2keras").rglob("*.py") if not (path.parent / "__init__.py").exists()] == []


def test_templates_are_package_data(config):
    data = {package: lines(globs) for package, globs in config["options.package_data"].items()}
    shipped = {
        path for package in data for glob in data[package] for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    others = {p for p in (ROOT / "r2keras").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert {"py.typed", "report.html.j2"} <= {path.name for path in shipped}
    assert others == shipped


def test_version_has_one_source_and_a_place_in_the_changelog(config):
    assert config["metadata"]["version"] == "attr: r2keras.__version__"
    assert f"[{r2keras.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_scripts_are_files_with_a_main(config):
    for line in lines(config["options.entry_points"]["console_scripts"]):
        name, module = re.fullmatch(r"(r2keras-\w+) = r2keras\.cli\.(\w+):main", line).groups()
        # A script called inspect.py would hide Python's own module.
        assert name == f"r2keras-{module.removesuffix('_file')}"
        assert callable(importlib.import_module(f"r2keras.cli.{module}").main)
        assert (ROOT / "tools" / f"{module}.py").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("[a-z]*.py")), ids=lambda path: path.name)
def test_script_teaches_with_examples_from_any_folder(path, tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, path, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(rf"^    python {re.escape(str(path))} (?:\w+ )?--", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_no_script_hides_a_module_of_the_standard_library():
    # `python tools/x.py` puts tools/ first on the path, where inspect.py, say, would replace Python's own.
    names = {path.stem for folder in ("tools", "examples", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    assert names & set(sys.stdlib_module_names) == set()


def test_ci_runs_the_tests():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_dir_shows_the_public_names():
    assert [name for name in dir(r2keras) if not name.startswith("__")] == sorted(r2keras.__all__)
    packages = [getattr(r2keras, name) for name in r2keras.__all__]
    for package in packages:
        if hasattr(package, "__path__"):
            assert dir(package) == sorted(package.__all__)
