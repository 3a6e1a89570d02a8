"""Tutorial notebooks: form of the files, sources of the figures in their text, and, as slow tests, their execution."""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
REPOSITORY = "https://github.com/r2keras/r2keras"
COLAB = "https://colab.research.google.com/github/r2keras/r2keras/blob/main/docs/tutorials"
# Sizes in bytes.
LARGEST_PICTURE, LARGEST_NOTEBOOK = 60_000, 200_000
# 12.5, 10,016, 98 %: measured or quoted, as opposed to counts and bit widths such as 2.
FIGURE = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+(?= ?%))(?![\w])")
PAPER = re.compile(r"arXiv:? ?\d{4}\.\d{5}|arxiv\.org/abs/\d{4}\.\d{5}")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.])/(?:bin|content|home|opt|private|root|tmp|usr|Users|var|work)/|\b[A-Z]:\\")
SHOWS = re.compile(r"^(?:print|plt\.show)\(", re.MULTILINE)


@functools.cache
def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def texts(output: dict) -> list[str]:
    """Returns the texts that an output shows."""
    parts = [output.get("text", ""), *(value for kind, value in output.get("data", {}).items() if "text" in kind)]
    return ["".join(part) for part in parts]


def shown(cell: dict) -> str:
    return "\n".join(text for output in cell.get("outputs", []) for text in texts(output))


def document(link: str) -> Path | None:
    """Returns the file of this repository that a link leads to; None for other addresses."""
    prefix = f"{REPOSITORY}/blob/main/"
    if link.startswith(prefix):
        return ROOT / link.removeprefix(prefix).partition("#")[0]
    return None if "://" in link else FOLDER / link.partition("#")[0]


def unfounded(cells: list[dict]) -> list[str]:
    """Returns the figures in the text that are in no code or output above, nor in a document that their cell links."""
    found, above = [], ""
    for cell in cells:
        text = source(cell)
        if cell["cell_type"] == "code":
            above += text + shown(cell)
            continue
        linked = [path for path in map(document, LINK.findall(text)) if path and path.suffix == ".md"]
        known = set(FIGURE.findall(above + "".join(path.read_text(encoding="utf-8") for path in linked)))
        found += [figure for figure in FIGURE.findall(PAPER.sub("", text)) if figure not in known]
    return found


def named(path: Path) -> str:
    return path.stem


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=named)


def test_notebooks_are_found():
    assert {"image_classifier", "keyword_spotting", "lstm", "palettes", "r2"} <= set(map(named, NOTEBOOKS))


@every_notebook
def test_format_is_valid(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_cells_have_ids_of_their_own(path):
    ids = [cell["id"] for cell in cells_of(path)]
    assert len(set(ids)) == len(ids) and all(name.startswith(path.stem.replace("_", "-")) for name in ids)


@every_notebook
def test_first_cell_opens_the_notebook_in_colab(path):
    first = cells_of(path)[0]
    assert first["cell_type"] == "markdown" and LINK.findall(source(first))[-1] == f"{COLAB}/{path.name}"


@every_notebook
def test_r2keras_is_installed_only_where_it_is_missing(path):
    first = next(source(cell) for cell in cells_of(path) if cell["cell_type"] == "code")
    condition = first.index('if importlib.util.find_spec("r2keras") is None:')
    assert first.index(f'    %pip install --quiet "r2keras[palettes,report] @ git+{REPOSITORY}"') > condition


@every_notebook
def test_outputs_of_one_run_are_stored(path):
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [source(cell) for cell in code if SHOWS.search(source(cell)) and not cell["outputs"]] == []


@every_notebook
def test_outputs_have_no_error_and_no_log(path):
    outputs = [output for cell in cells_of(path) for output in cell.get("outputs", [])]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert [text for output in outputs for text in texts(output) if "Traceback" in text] == []


@every_notebook
def test_no_absolute_path(path):
    text = "\n".join(source(cell) + shown(cell) for cell in cells_of(path))
    assert ABSOLUTE_PATH.findall(text) == []


@every_notebook
def test_outputs_are_small(path):
    outputs = [output for cell in cells_of(path) for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert all(len(base64.b64decode("".join(picture))) < LARGEST_PICTURE for picture in pictures)
    assert path.stat().st_size < LARGEST_NOTEBOOK


@every_notebook
def test_links_lead_somewhere(path):
    text = "\n".join(source(cell) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    files = [file for file in map(document, LINK.findall(text)) if file is not None]
    assert files and [str(file) for file in files if not file.exists()] == []


@every_notebook
def test_figures_in_the_text_were_measured(path):
    assert unfounded(cells_of(path)) == []


def test_unfounded_figures_are_seen():
    text = {
        "cell_type": "markdown",
        "source": ["The file takes 10,016 bytes, 9.8 times less, at 98.5 %; see arXiv 2303.08253."],
    }
    code = {"cell_type": "code", "source": ["print(size)"], "outputs": [{"text": ["10,016 bytes\n"]}]}
    assert unfounded([text]) == ["10,016", "9.8", "98.5"]
    assert unfounded([code, text]) == ["9.8", "98.5"]


@pytest.mark.parametrize("text", ["/tmp/x.tflite", "in /home/me/file", "C:\\Users"])
def test_absolute_paths_are_seen(text):
    assert ABSOLUTE_PATH.search(text)


def executor():
    """Returns the module `docs/tutorials/execute.py`."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@every_notebook
def test_notebook_runs(path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    before = path.read_bytes()
    notebook = executor().execute(path)
    assert path.read_bytes() == before
    stored = [len(cell["outputs"]) > 0 for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert [len(cell.outputs) > 0 for cell in notebook.cells if cell.cell_type == "code"] == stored


def test_an_unknown_notebook_is_named():
    pytest.importorskip("nbclient")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ipynb is missing\. Expected one of: image_classifier"):
        executor().notebooks(["nowhere"])


def test_the_native_log_is_removed_and_warnings_stay():
    pytest.importorskip("nbclient")
    import nbformat

    log = "I0000 00:00:1796045238.620601    2074 port.cc:153] oneDNN\n2026-11-30 13:35:13.751411: I tensorflow/core\n"
    warning = "x.py:1: UserWarning: samples were left out\n"
    mixed, native = (
        executor().without_native_log(nbformat.v4.new_output("stream", name="stderr", text=text))
        for text in (log + warning, log)
    )
    assert (mixed.text, native.text) == (warning.strip(), "")
    plain = nbformat.v4.new_output("stream", name="stdout", text=log)
    assert executor().without_native_log(plain).text == log
