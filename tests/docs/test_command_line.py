"""The pages of the command line: each program has one, with all of its flags."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "cli"
MARK = re.compile(r"^<!-- flags: ([\w.]+) -->$", re.MULTILINE)
# Flags of an absl program belong to its process, so each page is made in one of its own.
SHOW = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("command_line", "docs/hooks/command_line.py")
hook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hook)
print(hook.on_page_markdown(open(sys.argv[1], encoding="utf-8").read()))
"""


def defined(program):
    """Returns the flags in the source of a program and of its `*_flags` modules, or of the settings of an example."""
    path = ROOT / (program.replace(".", "/") + ".py")
    if program.startswith("examples."):
        path = path.with_name(f"{path.stem}_lib") / "settings.py"
    text = path.read_text("utf-8")
    others = {path.with_name(f"{name}.py") for name in re.findall(r"\b(\w+_flags)\b", text)}
    texts = [text, *(other.read_text("utf-8") for other in others if other.exists())]
    return {name for part in texts for name in re.findall(r'\bDEFINE_\w+\(\s*"(\w+)"', part)}


def marked():
    return {path: MARK.findall(path.read_text("utf-8")) for path in PAGES.glob("*.md") if path.stem != "index"}


def test_every_program_has_a_page():
    scripts = re.findall(r"^    r2keras-\w+ = ([\w.]+):main$", (ROOT / "setup.cfg").read_text("utf-8"), re.MULTILINE)
    assert scripts and sorted([*scripts, "examples.pilot"]) == sorted(
        name for names in marked().values() for name in names
    )


@pytest.mark.parametrize("path", sorted(marked()), ids=lambda path: path.stem)
def test_a_page_lists_every_flag(path):
    (program,) = marked()[path]
    ran = subprocess.run([sys.executable, "-c", SHOW, path], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = re.findall(r"^\| `--(\w+)` \|(.*)\|(.*)\|$", ran.stdout, re.MULTILINE)
    assert {name for name, _, _ in rows} == defined(program)
    assert len(rows) == len(defined(program)) and all(meaning.strip() for _, _, meaning in rows)
