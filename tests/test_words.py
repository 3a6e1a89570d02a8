"""Plain English: no "is no thing" for "is not a thing", no "bits a weight" for "bits per weight", American spelling."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNITS = "weight|channel|tensor|layer|row|gate|step|word|net|call|kernel|sample|table|index|group|column|filter"
IS_NO = re.compile(r"(?<!there)(?<!There) (?:is|are|was|were) no (?!longer\b|more than\b|less than\b)[A-Za-z]")
# Nouns that are counted per something, so that verbs ("puts a layer", "holds a tensor") pass.
COUNTED = (
    "bits?|bytes?|scales?|tables?|samples?|operators?|indices|index|ranges?|grids?|codes?|values?|centroids?|factors?|"
    "units?|seconds?|milliseconds|images?|rows?|entries|lines?|weights?|points?|epochs?|steps?"
)
RATE = re.compile(rf"\b(?:{COUNTED}) an? (?:{UNITS})\b(?! of\b)")
BRITISH = re.compile(
    r"\b\w*(?:normalis|penalis|optimis|initialis|regularis|generalis|quantis|serialis|behaviour|colour|centre[ds]?\b)"
)
FOLDERS = ("r2keras", "tools", "examples", "benchmarks")
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for top in ("docs", "examples", "benchmarks") for path in (ROOT / top).rglob("*.md")),
    *(ROOT / "docs").rglob("*.ipynb"),
]
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def prose(path: Path) -> str:
    """Returns the text of a document without code, or the strings and comments of a source file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    if path.suffix in (".md", ".ipynb"):
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        return re.sub(r"`[^`\n]*`", "", text)
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    comments = re.findall(r"#\s(.*)$", text, flags=re.MULTILINE)
    return "\n".join([*(value for value in strings if isinstance(value, str)), *comments])


def slips(text: str) -> list[str]:
    """Returns the phrases in a text that the style forbids."""
    return [match[0] for pattern in (IS_NO, RATE, BRITISH) for match in pattern.finditer(" ".join(text.split()))]


def test_prose_is_plain_english():
    paths = [*DOCUMENTS, *SOURCES]
    paths.remove(ROOT / "CONTRIBUTING.md")  # Its table of style shows what not to write.
    found = {str(path.relative_to(ROOT)): slips(prose(path)) for path in paths}
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


@pytest.mark.parametrize("text", ["bits a weight", "`x` is no Recipe", "one scale a\nchannel", "normalisation"])
def test_slips_are_seen(text):
    assert slips(text)


@pytest.mark.parametrize("text", ["bits per weight", "is no longer a constant", "it has no bias", "takes a tensor"])
def test_plain_english_passes(text):
    assert slips(text) == []
