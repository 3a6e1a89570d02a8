"""The levels of the package: files import from their own folder or from below, without circles or shadowed names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. A file imports from its own folder and from folders of lower levels. "" is r2keras/__init__.py.
LEVELS = (
    ("_util",),
    ("ops", "specs"),
    ("record", "_models"),
    ("export.tflite",),
    ("export.conversion", "export.weights", "export.install", "export.targets"),
    ("export.integer", "export.runtime"),
    ("export.litert", "export.tflm", "export.devices"),
    ("regularizers", "quantizers", "export"),
    ("layers", "report", "workloads"),
    ("compression", "widening", "callbacks", "comparison"),
    ("calibration", "tfmot", "budget"),
    ("search", "automatic"),
    ("",),
    ("cli",),
)
LEVEL_OF = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "r2keras").rglob("*.py"))
}


def imports(source: str, modules: set[str]) -> set[str]:
    """Returns the modules of the package that a file imports, lazily and for type checkers included."""
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {name if name in modules else str(node.module) for name in names}
    return imported & modules


def folder(module: str) -> str:
    """Returns the entry of LEVELS that a module belongs to."""
    parts = module.split(".")[1:]
    return next((name for name in (".".join(parts[:2]), ".".join(parts[:1])) if name in LEVEL_OF), "")


# Packages' __init__ files only hand names on.
IMPORTS = {
    name: imports(path.read_text(encoding="utf-8"), set(FILES))
    for name, path in FILES.items()
    if path.name != "__init__.py"
}


def test_every_folder_has_a_level():
    folders = {path.parent.relative_to(ROOT / "r2keras").parts for path in FILES.values()}
    assert {".".join(parts[:1]) for parts in folders} <= {name.partition(".")[0] for name in LEVEL_OF}
    assert all((ROOT / "r2keras" / name.replace(".", "/")).exists() for name in LEVEL_OF if name != "budget")


def test_files_import_from_their_own_folder_or_from_below():
    others = [(module, other) for module in IMPORTS for other in IMPORTS[module] if folder(other) != folder(module)]
    assert [(module, other) for module, other in others if LEVEL_OF[folder(other)] >= LEVEL_OF[folder(module)]] == []


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one import circle, or an empty list."""
    edges = {module: set(others) & set(edges) for module, others in edges.items()}
    while free := [module for module, others in edges.items() if not others]:
        edges = {module: others - set(free) for module, others in edges.items() if module not in free}
    return sorted(edges)


def test_there_is_no_circle():
    assert circle(IMPORTS) == []


def test_a_circle_is_seen():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from r2keras.b import B\n"
    assert imports(source, {"r2keras.a", "r2keras.b"}) == {"r2keras.b"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert circle({"a": {"b"}, "b": set()}) == []


def shadowing(package: str) -> list[str]:
    """Returns the public names of a package that hide a module of it."""
    modules = {name.rpartition(".")[2] for name in FILES if name.rpartition(".")[0] == package}
    public = importlib.import_module(package)
    values = {name: getattr(public, name) for name in getattr(public, "__all__", ())}
    return [name for name in modules & set(values) if getattr(values[name], "__name__", "") != f"{package}.{name}"]


def test_no_public_name_shadows_a_module():
    packages = [name for name, path in FILES.items() if path.name == "__init__.py"]
    assert [(package, name) for package in packages for name in shadowing(package)] == []
