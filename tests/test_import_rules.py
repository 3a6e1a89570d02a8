"""Import rules of the package, read from the source, and the effects of `import r2keras`."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "r2keras"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYWHERE = [
    path for folder in ("r2keras", "tools", "examples", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
]

LEAVES = {"r2keras.specs", "r2keras.record", "r2keras._util"}
HEAVY = {
    *("tensorflow", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert", "tflite_micro", "jax", "torch"),
    *("matplotlib", "rich", "jinja2", "sklearn", "scipy", "yaml", "optuna", "absl"),
}
LEGACY = {"tf_keras", "tensorflow_model_optimization"}


class Import(NamedTuple):
    """One imported module, and whether it waits for a call of the function around it."""

    module: str
    in_function: bool


@functools.cache
def imports_of(path: Path) -> list[Import]:
    """Returns what a file imports; `from a import b` counts as `a` and `a.b`, as b may be a module."""
    return list(_walk(ast.parse(path.read_text(encoding="utf-8"))))


def module_of(path: Path) -> str:
    """Returns the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _walk(node: ast.AST, in_function: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = "." * child.level + (child.module or "")
            yield Import(source, in_function)
            yield from (Import(f"{source}.{alias.name}", in_function) for alias in child.names)
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _walk(child, in_function or isinstance(child, (ast.FunctionDef, ast.Lambda)))


def top(module: str) -> str:
    """Returns the distribution part of a dotted name."""
    return module.partition(".")[0]


def foreign(path: Path, allowed: set[str]) -> list[str]:
    """Returns what a file imports beside the standard library and `allowed` (names, or prefixes of dotted names)."""
    own = [found.module for found in imports_of(path) if top(found.module) not in sys.stdlib_module_names]
    return [name for name in own if not any(name == ok or name.startswith(ok + ".") for ok in allowed)]


def under(*folders: str) -> list[Path]:
    """Returns the package's files in the named folders or of the named modules."""
    roots = [PACKAGE / folder for folder in folders]
    return [path for path in SOURCES if any(root in path.parents or path == root.with_suffix(".py") for root in roots)]


def test_the_rules_see_the_package():
    assert {"quant.py", "record.py"} <= {path.name for path in SOURCES}
    assert Import("r2keras.specs.quant.QuantSpec", False) in imports_of(PACKAGE / "record" / "quantized_tensor.py")
    assert Import("yaml", True) in imports_of(PACKAGE / "specs" / "recipe_file.py")
    assert under("ops")
    assert under("export")


def offenders(paths: Iterable[Path], found: Callable[[Path], Iterable]) -> dict[str, list]:
    """Returns what breaks a rule, by module."""
    return {module_of(path): names for path in paths if (names := sorted(found(path)))}


def test_ops_imports_keras_alone():
    def found(path):
        # `fuse` asks TensorFlow, which does not fuse by itself, to compile.
        compiler = {"tensorflow"} if module_of(path) == "r2keras.ops.fuse" else set()
        return foreign(path, {"keras", "r2keras.ops", "r2keras._util.errors", "r2keras._util.numeric"} | compiler)

    assert offenders(under("ops"), found) == {}


def test_leaves_import_numpy_at_most():
    assert offenders(under("specs", "record"), lambda path: foreign(path, LEAVES | {"numpy", "yaml"})) == {}


def test_export_and_report_read_the_record_only():
    training = {"layers", "compression", "callbacks", "widening", "tfmot", "regularizers", "quantizers", "calibration"}

    def found(path):
        modules = [each.module for each in imports_of(path) if top(each.module) == "r2keras"]
        return [module for module in modules if training & set(module.split(".")[1:2])]

    assert offenders(under("export", "report"), found) == {}


def test_heavy_libraries_are_imported_inside_functions():
    allowed = {path: {"absl"} for path in under("cli")} | dict.fromkeys(under("tfmot"), LEGACY | {"tensorflow"})

    def found(path):
        eager = {top(each.module) for each in imports_of(path) if not each.in_function}
        return eager & HEAVY - allowed.get(path, set())

    assert offenders(SOURCES, found) == {}


def test_tfmot_alone_imports_legacy_keras():
    allowed = {path: {"tf_keras"} for path in under("export")} | dict.fromkeys(under("tfmot"), LEGACY)

    def found(path):
        return {top(each.module) for each in imports_of(path)} & LEGACY - allowed.get(path, set())

    assert offenders(SOURCES, found) == {}


def test_the_package_imports_itself_by_full_name_and_no_script():
    # "" is what a relative import leaves before its dot.
    outside = {"tools", "examples", "benchmarks", "tests", ""}
    assert offenders(SOURCES, lambda path: {top(each.module) for each in imports_of(path)} & outside) == {}


PRIVATE = re.compile(
    r"\._(?:flatten_layers|run_through_graph|compile_config|clear_losses|output_shape|inbound_nodes|keras_history)\b"
    r"|\.__globals__"
)


def test_private_attributes_of_keras_are_used_in_one_file():
    legacy = under("tfmot")  # tf_keras no longer changes.
    paths = [path for path in SOURCES if path not in legacy and path.stem not in ("keras_internals", "tf_keras_layers")]
    assert offenders(paths, lambda path: PRIVATE.findall(path.read_text(encoding="utf-8"))) == {}


def private_keras(tree: ast.AST) -> list[str]:
    """Returns what a file takes from Keras' private modules, or from Keras by way of TensorFlow."""
    bad = {("keras", "src"), ("tf_keras", "src"), ("tf", "keras"), ("tensorflow", "keras")}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    names = [found.module for found in _walk(tree)] + [f"{node.value.id}.{node.attr}" for node in nodes]
    return [name for name in names if tuple(name.split(".")[:2]) in bad]


def test_nothing_takes_private_keras():
    assert offenders(EVERYWHERE, lambda path: private_keras(ast.parse(path.read_text(encoding="utf-8")))) == {}


@pytest.mark.parametrize(
    "code",
    [
        "import keras.src",
        "from keras.src.backend import config",
        "from keras import src",
        "from tensorflow import keras",
        "import tensorflow as tf\nx = tf.keras.Model",
        "def f():\n    import tensorflow.keras.layers as layers",
    ],
)
def test_private_keras_is_seen(code):
    assert private_keras(ast.parse(code))


def test_no_test_imports_another():
    paths = (ROOT / "tests").rglob("*.py")
    assert offenders(paths, lambda path: {each.module for each in imports_of(path) if ".test_" in each.module}) == {}


def test_backend_tests_import_no_tensorflow():
    mark = "pytestmark = pytest.mark.backends"
    paths = [path for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text(encoding="utf-8")]
    heavy = LEGACY | {"tensorflow", "ai_edge_litert"}
    assert paths
    assert offenders(paths, lambda path: {top(each.module) for each in imports_of(path)} & heavy) == {}


PROBE = """
import json, os, sys
import keras
environment, modules = dict(os.environ), set(sys.modules)
import r2keras
new = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
same = environment == dict(os.environ)
"""
ORDERS = (
    "import r2keras.record, keras",  # needs no Keras itself
    "from r2keras.ops import affine; import keras",  # which the registered classes import themselves
)
MODEL = ROOT / "tests" / "fixtures" / "models" / "regularized_student.keras"
LOAD = f"""
model = keras.models.load_model({str(MODEL)!r}, compile=False)
left = [type(finder).__name__ for finder in sys.meta_path if type(finder).__module__.startswith("r2keras")]
"""
LOADED_MODEL = "[type(model.layers[1]).__name__, left, keras.__spec__.loader is keras.__loader__]"


def run_alone(code, **environment):
    """Runs code in a process of its own, and returns what it prints last, read as JSON."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def probed():
    """Returns what importing Keras, then r2keras changes, and what a model is that is loaded after that."""
    return run_alone(f'{PROBE}\n{LOAD}\nprint(json.dumps({{"new": new, "same": same, "model": {LOADED_MODEL}}}))')


@pytest.mark.backends
def test_import_adds_nothing_but_the_package(probed):
    assert set(probed["new"]) - set(sys.stdlib_module_names) == {"r2keras"}


@pytest.mark.backends
def test_import_sets_no_environment_variable(probed):
    assert probed["same"]


RECORD = ROOT / "tests" / "fixtures" / "records" / "grids.record.npz"
RECIPE = ROOT / "tests" / "fixtures" / "recipes" / "whole.json"
LOADED = 'import json, sys; print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))'


@pytest.mark.parametrize(
    "code",
    [
        "import r2keras; dir(r2keras)",
        f"import r2keras; r2keras.record.CompressionRecord.load({str(RECORD)!r}).tensors['tensor/kernel'].values()",
        f"import r2keras; r2keras.Recipe.load({str(RECIPE)!r}).match('stem')",
        "from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec; QuantSpec(activation_bits=8).activation()",
        "import r2keras.cli.convert, r2keras.cli.expand, r2keras.cli.search, r2keras.cli.verify",
    ],
)
def test_specs_records_and_command_lines_import_no_keras(code):
    modules = set(run_alone(f"{code}\n{LOADED}"))
    assert modules & {"keras", "tensorflow", "jax", "torch"} == set()


@pytest.mark.backends
def test_a_model_loads_after_keras_and_a_bare_import(probed):
    assert probed["model"] == ["FakeQuantize", [], True]


@pytest.mark.parametrize("order", ORDERS)
def test_a_model_loads_after_a_bare_import_in_any_order(order):
    assert run_alone(f"{order}\nimport json, sys\n{LOAD}\nprint(json.dumps({LOADED_MODEL}))") == [
        "FakeQuantize",
        [],
        True,
    ]


def test_without_keras_the_error_is_that_of_its_import():
    code = """
import json, sys
sys.modules["keras"] = None
import r2keras.specs
try:
    r2keras.layers
except ImportError as error:
    print(json.dumps(error.name))
"""
    assert run_alone(code) == "keras"


def test_an_unknown_name_is_an_attribute_error():
    import r2keras

    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        r2keras.quantise  # noqa: B018
    assert set(r2keras.__all__) <= set(dir(r2keras))


def test_type_checkers_see_what_is_imported_lazily():
    import r2keras

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    modules = {name for name, module in seen.items() if module == "r2keras"}
    assert {name: module for name, module in seen.items() if name not in modules} == r2keras._MODULES
    assert sorted(seen) == sorted(r2keras.__all__)


EACH_FIRST = """
import importlib, json, os
import keras, r2keras

failed = []
for name in json.loads(os.environ["MODULES"]):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            importlib.import_module(name)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(json.dumps(failed))
"""


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported():
    # Since names are imported when they are first used, every order of imports occurs.
    assert run_alone(EACH_FIRST, MODULES=json.dumps([module_of(path) for path in SOURCES])) == []
