"""What is published: metadata, a complete source distribution, and the main path without optional packages."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import r2keras
from r2keras import report
from r2keras.workloads import data
from tests.report.samples import row

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("matplotlib", "sklearn", "jinja2", "optuna", "tflite_micro", "tf_keras")


def tracked() -> list[str]:
    """Returns the files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """Builds a source distribution and a wheel from a copy of the tracked files."""
    pytest.importorskip("build")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_the_source_distribution_is_complete(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    hidden = {name for name in tracked() if name.startswith(".")}
    assert set(tracked()) - hidden - names == set()


def test_the_wheel_holds_the_package_alone(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
    package = {name for name in tracked() if name.startswith("r2keras/")}
    assert package == {name for name in names if name.startswith("r2keras/")}
    assert {name.partition("/")[0] for name in names} == {"r2keras", f"r2keras-{r2keras.__version__}.dist-info"}


def test_an_index_accepts_and_renders_them(distributions):
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and checked.stdout.count("PASSED") == 2, checked.stdout + checked.stderr


def test_extras_agree_on_what_they_need():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = {name: set(lines.split("\n")) - {""} for name, lines in settings["options.extras_require"].items()}
    for part in ("palettes", "report", "search"):
        assert extras[part] <= extras["examples"] <= extras["dev"], part


def test_the_main_path_needs_no_optional_package(monkeypatch, tmp_path):
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, None)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, name="head")])
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    small, record = r2keras.calibrate(model, r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4))]), x)
    r2keras.export.to_litert(small, tmp_path / "m.tflite", record)
    assert r2keras.export.verify(small, tmp_path / "m.tflite", x).passed()
    assert "head" in str(report.summarize(record, tmp_path / "m.tflite"))


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("sklearn", "palettes", lambda folder: data.load("digits")),
        ("jinja2", "report", lambda folder: report.write_html(folder / "r.html", [row()])),
        ("matplotlib", "report", lambda folder: report.write_html(folder / "r.html", [row()])),
    ],
)
def test_what_is_missing_is_named_with_its_extra(module, extra, use, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'r2keras[{extra}]'")):
        use(tmp_path)
    assert list(tmp_path.iterdir()) == []
