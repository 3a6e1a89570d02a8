"""Damaged files: bytes flipped, ends cut, fields changed. Each is refused, or runs without a crash."""

from __future__ import annotations

import contextlib
from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import Recipe, calibrate
from r2keras._util import optional_packages
from r2keras.export import to_litert, to_tflm
from r2keras.export.integer import huffman_weights
from r2keras.export.runtime.isolated import IsolatedSession
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers
from r2keras.export.tflite.structure import check_structure
from r2keras.export.tflite.writer import write
from r2keras.export.weights.decode_operator import is_for_microcontrollers
from r2keras.specs import QuantSpec
from tests.export.quantize import quantize

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
pytest.importorskip("tflite_micro")

ARENA = 2**20
VALUES = (0, 1, -1, 2, 3, 5, 17, 100, 2**15, 2**31 - 1)


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """One file for LiteRT, and for microcontrollers one with look-up tables, and one with Huffman codes of integers."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="conv"),
            layers.DepthwiseConv2D(2, name="depthwise"),
            layers.Flatten(),
            layers.Dense(64, activation="softmax", name="head"),
        ]
    )
    folder = tmp_path_factory.mktemp("mcu")
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
    recipe = Recipe([(".*", QuantSpec(num_bits=2, activation_bits=8))])
    integers = calibrate(model, recipe, x, integer=True, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        # Small weights too.
        patch.setattr(huffman_weights, "OPERATOR_BYTES", -(10**7))
        to_litert(integers[0], folder / "huffman.tflite", integers[1], target="mcu", optimize="size")
    to_tflm(model, folder / "tables.tflite", quantize(model, lambda name: QuantSpec(num_bits=2)), check=False)
    return [exported[2].read_bytes(), *((folder / f"{name}.tflite").read_bytes() for name in ("tables", "huffman"))]


def fields(part):
    """Yields `(object, field)` for every number and vector of numbers in a parsed file, but not the constants."""
    for name, value in vars(part).items():
        if isinstance(value, (bool, int, float)) or (isinstance(value, np.ndarray) and value.size and name != "data"):
            yield part, name
        elif isinstance(value, list):
            for element in value:
                if hasattr(element, "__dict__"):
                    yield from fields(element)
        elif hasattr(value, "__dict__"):
            yield from fields(value)


def with_field(data, number, element, value):
    """Returns a file with one number changed; None if the schema cannot write it."""
    file = check_structure(data)
    places = list(fields(file))
    part, name = places[number % len(places)]
    old = getattr(part, name)
    if isinstance(old, np.ndarray):
        new = old.copy()
        new[element % old.size] = np.nan if new.dtype.kind == "f" and value < 0 else value % 2**31
    else:
        new = type(old)(value)
    setattr(part, name, new)
    with contextlib.suppress(Exception):
        return write(file)
    return None


@st.composite
def damage(draw):
    """A function that damages a file's bytes."""
    kind = draw(st.sampled_from(["flip", "cut", "field"]))
    place = draw(st.integers(0, 2**20))
    if kind == "cut":
        return lambda data: data[: place % len(data)]
    if kind == "field":
        element, value = draw(st.integers(0, 31)), draw(st.sampled_from(VALUES))
        return lambda data: with_field(data, place, element, value)
    flips = [(place, draw(st.integers(1, 255))), *draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255))))]

    def flip(data):
        changed = bytearray(data)
        for where, bits in flips[:4]:
            changed[where % len(data)] ^= bits
        return bytes(changed)

    return flip


class Trials:
    """Runs damaged files in a process, which is started again after a crash, and counts the outcomes."""

    def __init__(self):
        self.outcomes = Counter()
        self._session = None

    def run(self, data):
        self.outcomes[self._outcome(data)] += 1

    def _outcome(self, data):
        try:
            file = check_structure(data)
            kind, options = "LiteRTSession", {"num_threads": 1, "xnnpack": True}
            if is_for_microcontrollers(file):
                check_for_microcontrollers(file, "the file")
                graph = file.subgraphs[0]
                counts = {"num_inputs": len(graph.inputs), "num_outputs": len(graph.outputs)}
                kind, options = "TFLMSession", {"arena_bytes": ARENA, **counts}
        except ValueError as error:
            assert str(error).startswith("the file is not a readable .tflite (")
            return "refused"
        self._session = self._session or IsolatedSession("the file")
        try:
            self._session.open(kind, data, **options)
            shapes = [[1 if size == -1 else size for size in port.signature] for port in self._session.inputs]
            inputs = zip(shapes, self._session.inputs, strict=True)
            self._session.run([np.zeros(shape, port.dtype) for shape, port in inputs])
        except RuntimeError:
            return "refused by the runtime"
        except ValueError as error:
            self._session = None
            assert "it ended the runtime's process with" in str(error)
            return "crashed"
        return "ran"


def outcomes(files, count):
    """Returns the outcomes of that many damaged files."""
    trials = Trials()

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.integers(0, len(files) - 1), damage())
    def attempt(number, change):
        data = change(files[number])
        if data is not None:
            trials.run(data)

    attempt()
    return trials.outcomes


def test_whole_files_run(files):
    trials = Trials()
    for data in files:
        trials.run(data)
    assert trials.outcomes == {"ran": 3}
    assert all(b"TFLM_DECODE" in data for data in files[1:])


def test_damaged_files_are_refused_or_run(files):
    found = outcomes(files, 60)
    assert found["crashed"] == 0, found
    assert found["refused"] > 10, found
    # Equal tables are written once, so that most changes break several operators.
    assert found["ran"] > 2, found


@pytest.mark.slow
def test_ten_thousand_damaged_files_never_end_the_caller(files):
    """A runtime may still crash in an operator, which `isolated=True` is for; at most one in 1000 does."""
    found = outcomes(files, 10_000)
    assert found.total() > 9_000
    assert found["crashed"] <= 10, found


def test_every_field_can_be_changed(files):
    file = check_structure(files[0])
    names = {name for _, name in fields(file)}
    assert {"shape", "inputs", "opcodeIndex", "buffer", "scale", "quantizedDimension", "version"} <= names
    assert optional_packages.schema().TensorT is type(file.subgraphs[0].tensors[0])
