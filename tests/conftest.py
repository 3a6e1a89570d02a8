"""Setup of every test: a fixed seed, quiet libraries, and only the tests that the current Keras backend can run."""

from __future__ import annotations

import collections
import gc
import importlib.metadata
import os
import re
import zlib
from pathlib import Path

import pytest

from tests.pairwise import pairwise

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
BACKENDS_MARK = re.compile(r"\bmark\.backends\b")
# Of so many cases of a test, JAX and PyTorch run one: JAX compiles each anew. `make test SLOW=1` runs all of them.
ONE_IN = 16

os.environ["KERAS_BACKEND"] = BACKEND
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# Text tables are as wide as the terminal; the tests read them at one width.
os.environ["COLUMNS"] = "100"
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    # Workers that each start a thread per core slow one another down; subprocesses of tests inherit these.
    for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

if BACKEND == "jax":
    # What one worker has compiled, the other one and the next run need not compile again.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

if BACKEND == "jax" and importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compiling is most of the work there, and these halve it; other versions may end at a flag that they do not know.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out, unread, the test files that other backends than TensorFlow cannot even import."""
    if BACKEND == "tensorflow" or not collection_path.name.startswith("test_"):
        return None
    return True if not BACKENDS_MARK.search(collection_path.read_text(encoding="utf-8")) else None


def runs_here(item: pytest.Item) -> bool:
    """Whether a test is for the current backend."""
    if BACKEND == "tensorflow":
        return item.get_closest_marker("elsewhere") is None
    return item.get_closest_marker("backends") is not None


def values_of(item: pytest.Item) -> tuple:
    """Returns the values of a case, one for each `parametrize`; the same value is the same object in every case."""
    names = [mark.args[0] for mark in item.iter_markers("parametrize")]
    names = [name.replace(" ", "").split(",") if isinstance(name, str) else name for name in names]
    return tuple(tuple(id(item.callspec.params[name]) for name in group) for group in names)


def without_repeated_pairs(items: list[pytest.Item]) -> list[pytest.Item]:
    """Leaves out cases of tests with three `parametrize` or more whose pairs of values other cases hold."""
    tests = collections.defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = [cases[i] for cases in tests.values() for i in pairwise([values_of(case) for case in cases])]
    chosen = set(kept)
    return [item for item in items if item in chosen]


def is_kept(item: pytest.Item, seen: set[str]) -> bool:
    """Whether a test runs on JAX and PyTorch: of every test its first case and, drawn by name, one in sixteen others.

    Counted off, the cases left out could be all those with one value of one parameter.
    """
    name = item.nodeid.partition("[")[0]
    first = name not in seen
    seen.add(name)
    return first or zlib.crc32(item.nodeid.encode()) % ONE_IN == 0


def is_program(item: pytest.Item) -> bool:
    """Whether a test runs a whole program."""
    return item.get_closest_marker("slow") is not None or "examples" in (item.path.parent.name, item.path.stem[5:])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what does not run here or would take too long; whole programs come first, so that no worker waits."""
    kept, seen = [item for item in items if runs_here(item)], set()
    if config.getoption("markexpr") == "not slow":
        kept = without_repeated_pairs(kept)
        if BACKEND != "tensorflow":
            kept = [item for item in kept if item.get_closest_marker("slow_elsewhere") is None and is_kept(item, seen)]
    here = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = kept
    items.sort(key=lambda item: not is_program(item))


def pytest_collection_finish() -> None:
    """Keeps the libraries and the tests, which stay to the end, out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    # Tests make few cycles that matter; the default threshold, 700 objects, costs a twentieth of their time.
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Starts every test from the same random state, whatever ran before it."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def microcontrollers():
    """Skips tests that run files for microcontrollers where tflite-micro has no wheel; the only place that does."""
    return pytest.importorskip("tflite_micro")


@pytest.fixture
def eager(monkeypatch):
    """Lets models of Keras 3 train without graphs on TensorFlow, where a few steps take less time than tracing them."""
    if BACKEND == "tensorflow":
        import keras

        trainer = next(base for base in keras.Model.__mro__ if "compile" in vars(base))
        compiled = trainer.compile
        monkeypatch.setattr(
            trainer, "compile", lambda self, *args, **options: compiled(self, *args, **{"run_eagerly": True} | options)
        )


@pytest.fixture
def near(monkeypatch):
    """Lets the converter of recurrent models run in this process, where TensorFlow is loaded already."""
    monkeypatch.setattr("r2keras.export.conversion.converter.convert_apart", converted_near)


def converted_near(folder: Path, signature: str) -> bytes:
    """Returns the float file of a SavedModel, converted in this process."""
    from r2keras._util.optional_packages import tensorflow

    lite = tensorflow().lite.TFLiteConverter
    with pytest.MonkeyPatch.context() as patch:
        # The converter searches for garbage first: half a second among the objects of all tests.
        patch.setattr(gc, "collect", lambda generation=2: 0)
        return lite.from_saved_model(str(folder / "model"), signature_keys=[signature]).convert()
