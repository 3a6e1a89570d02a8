"""Hook of MkDocs: the pages of the command line get their text and flags from the programs themselves.

A line `<!-- flags: r2keras.cli.convert -->` becomes the module docstring of the program and a table of its flags.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"^<!-- flags: ([\w.]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks of a page by the description of the named programs."""
    return MARK.sub(lambda match: described(match[1]), markdown)


def described(name: str) -> str:
    """Returns the docstring and the flags of a program as Markdown."""
    program, settings = loaded(name)
    return f"{prose(inspect.getdoc(program) or '')}\n\n## Flags\n\n{table(own_flags(settings), required(program))}\n"


def loaded(name: str) -> tuple[ModuleType, ModuleType]:
    """Imports a program, and the module that defines its flags: itself, or the settings of an example."""
    if not name.startswith("examples."):
        module = importlib.import_module(name)
        return module, module
    example = name.removeprefix("examples.")
    if str(ROOT / "examples") not in sys.path:
        sys.path.insert(0, str(ROOT / "examples"))
    return importlib.import_module(example), importlib.import_module(f"{example}_lib.settings")


def own_flags(module: ModuleType) -> list[flags.Flag]:
    """Returns the flags that a module defines, in its order, without those of absl."""
    values = getattr(module, "FLAGS", flags.FLAGS)
    if values is not flags.FLAGS:
        return [values[name] for name in values]
    found = values.flags_by_module_dict().get(module.__name__) or values.get_key_flags_for_module(module)
    names = re.findall(r'\bDEFINE_\w+\(\s*"(\w+)"', inspect.getsource(module))
    return sorted((flag for flag in found if flag.name in names), key=lambda flag: names.index(flag.name))


def required(program: ModuleType) -> set[str]:
    """Returns the flags that a program passes to `common.run` as required."""
    named = re.search(r"\brequired=\(([^)]*)\)", inspect.getsource(program))
    return set(re.findall(r'"(\w+)"', named[1])) if named else set()


def table(found: list[flags.Flag], needed: set[str]) -> str:
    """Returns the table of flags."""
    rows = [
        f"| `--{flag.name}` | {'required' if flag.name in needed else default(flag)} | {cell(flag.help)} |"
        for flag in found
    ]
    return "\n".join(["| flag | default | meaning |", "| --- | --- | --- |", *rows])


def default(flag: flags.Flag) -> str:
    """Returns the default of a flag as the command line takes it."""
    value = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else flag.default
    return "" if value is None or value == "" else f"`{str(value).lower() if flag.boolean else value}`"


def cell(text: str) -> str:
    """Returns a help text as a cell of a table, without the choices that absl puts before it."""
    return re.sub(r"^<[^>]*>: ", "", " ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


def prose(text: str) -> str:
    """Returns a docstring as Markdown: indented lines are commands or files."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        code = block.startswith("    ")
        parts.append(f"```text\n{textwrap.dedent(block)}\n```" if code else block)
    return "\n\n".join(parts)
