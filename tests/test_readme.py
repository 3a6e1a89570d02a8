"""Documents: their code runs, and every link, file and command that they name exists."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from pathlib import Path

import keras
import pytest

import r2keras
from r2keras.workloads import data

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# `folder/file.py`: a path of this repository, unless it lies where programs write.
NAMED_FILE = re.compile(r"`((?:\.?[\w-]+/)+[\w.-]+\.(?:py|md|cfg|toml|j2|txt|json))`")
MAKE = re.compile(r"\bmake ((?:[a-z]+ ?)+)")
WRITTEN = ("out/", "/tmp/", "~/")


def blocks(path: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def shell_lines(path: Path) -> list[str]:
    """Returns the commands of a document, continued lines joined, prompts and comments cut."""
    code = "\n".join(blocks(path, "sh", "bash", "shell", "console", "")).replace("\\\n", " ")
    found = [re.sub(r"\s#.*", "", line).strip().removeprefix("$ ") for line in code.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_documents_are_found():
    assert ROOT / "README.md" in DOCUMENTS
    assert ROOT / "examples" / "README.md" in DOCUMENTS


def test_readme_begins_with_the_two_commands():
    assert [line.split()[:2] for line in shell_lines(ROOT / "README.md")[:2]] == [["make", "pilot"], ["make", "test"]]


@pytest.fixture
def few_images(monkeypatch):
    """Lets the documents train on a few of the digits, for an epoch: their steps are the same."""

    def load(*args, **options):
        whole = loaded(*args, **options)
        return dataclasses.replace(whole, x_train=whole.x_train[:64], y_train=whole.y_train[:64])

    def fit(model, *args, **options):
        first = options.get("initial_epoch", 0)
        return fitted(model, *args, **options | {"epochs": first + 1})

    loaded, fitted = data.load, keras.Model.fit
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(keras.Model, "fit", fit)


@pytest.mark.parametrize("path", [path for path in GUIDES if blocks(path, "python")], ids=named)
def test_code_blocks_run(path, tmp_path, monkeypatch, near, few_images, eager, request):
    if path.stem == "microcontrollers":
        request.getfixturevalue("microcontrollers")
    if path.stem == "tfmot":
        keras_2 = pytest.importorskip("tf_keras").Model
        monkeypatch.setattr(keras_2, "compile", functools.partialmethod(keras_2.compile, run_eagerly=True))
    if path.stem == "compress":  # README has the bits and palettes that it searches by default.
        monkeypatch.setattr(r2keras, "compress", functools.partial(r2keras.compress, bits=(8, 4), palettes=False))
    monkeypatch.chdir(tmp_path)
    codes = blocks(path, "python")
    keras.utils.set_random_seed(0)
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(codes, 1):
        exec(compile(code, f"{named(path)}, python block {number}", "exec"), namespace)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
    links = LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_absolute_links_into_the_repository_lead_somewhere():
    """An index of packages shows README without the repository, so its links are absolute."""
    text = FENCE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    own = re.compile(r"https://(?:raw\.githubusercontent|github)\.com/r2keras/r2keras/(?:(?:blob|tree)/)?main/(.+)")
    found = [own.match(link) for link in LINK.findall(text)]
    paths = [match[1] for match in found if match]
    assert len(paths) > 5 and [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in LINK.findall(text) if "://" not in link and not link.startswith("#")] == []


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700 and text.count("\n") <= 130


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_to_headings_exist(path):
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    assert {link[1:] for link in LINK.findall(text) if link.startswith("#")} <= anchors


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_named_files_exist(path):
    names = NAMED_FILE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    mine = [name for name in names if not name.startswith(WRITTEN)]
    assert [name for name in mine if not ((ROOT / name).exists() or (path.parent / name).exists())] == []


def known(command: str) -> bool:
    """Whether the program of a command line exists, and the script or target that it is given."""
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program, first = words[0], next((word for word in words[1:] if not word.startswith("-")), "")
    if program == "make":
        return first in targets() | {""}
    if re.fullmatch(r"(\S*/)?python3?", program):
        return "-m" in words or "-c" in words or (ROOT / first).exists()
    if program.startswith("r2keras-"):
        return f"{program} = " in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    return (
        program in {"cd", "source", "pip", ".venv/bin/pip", "npm"}
        or shutil.which(program) is not None
        or (ROOT / program).exists()
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_exist(path):
    assert [line for line in shell_lines(path) if not known(line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_make_targets_in_the_text_exist(path):
    text = " ".join(re.findall(r"`(make [a-z ]+)`", path.read_text(encoding="utf-8")))
    assert {word for group in MAKE.findall(text) for word in group.split()} - {"make"} <= targets()


def flags_of(script: str) -> set[str]:
    """Returns the flags that one of our scripts defines, itself or in a `*_flags` module or settings of its folder."""
    path = ROOT / script
    if not path.exists():
        path = path.with_stem(f"{path.stem}_file")
    text = path.read_text(encoding="utf-8")
    others = [path.parent / name / "settings.py" for name in re.findall(r"\b\w+_lib\b", text)]
    others += [path.parent / f"{name}.py" for name in re.findall(r"\b(\w+_flags)\b", text)]
    texts = [text, *(other.read_text(encoding="utf-8") for other in others if other.exists())]
    return {name for text in texts for name in re.findall(r'\bDEFINE_\w+\(\s*"(\w+)"', text)}


def test_flags_in_commands_exist():
    used: dict[str, set[str]] = {}
    for line in (line for path in DOCUMENTS for line in shell_lines(path)):
        script = re.search(r"\b((?:tools|examples|benchmarks)/\w+\.py)|\br2keras-(\w+)", line)
        if script:
            name = f"r2keras/cli/{script[2] or Path(script[1]).stem}.py"
            if script[1] and not script[1].startswith("tools/"):
                name = script[1]
            used.setdefault(name, set()).update(re.findall(r"\s--(?:no)?(\w+)", line))
    unknown = {name: flags - flags_of(name) for name, flags in used.items()}
    assert used and {name: flags for name, flags in unknown.items() if flags} == {}
