"""Finished layers on disk: damaged ones are refused by name, those of other runs too."""

import numpy as np
import pytest

from r2keras import QuantizedTensor, QuantSpec
from r2keras.calibration.checkpoints import LayerStore
from r2keras.record import RangeFigures

NAME = "block/conv/kernel"


@pytest.fixture
def tensor():
    codes, scale = np.arange(-4, 4, dtype=np.int8).reshape(2, 4), np.full((1, 4), 0.5, np.float32)
    return QuantizedTensor(NAME, codes, scale, 0 * scale, QuantSpec(num_bits=4), RangeFigures.of(codes))


@pytest.fixture
def store(tmp_path, tensor):
    store = LayerStore(tmp_path, "print")
    store.save(NAME, tensor.codes, tensor.scale, "a note")
    return store


def write(store, **arrays):
    np.savez_compressed(store.folder / "block.conv.kernel.npz", **arrays)


def stored(store):
    with np.load(store.folder / "block.conv.kernel.npz") as file:
        return dict(file)


def test_round_trip(store, tensor):
    found, note = store.load(NAME, tensor)
    np.testing.assert_array_equal(found.codes, tensor.codes)
    np.testing.assert_array_equal(found.scale, tensor.scale)
    assert (note, store.load("other/kernel", tensor)) == ("a note", None)


def test_layers_of_another_run_are_refused(store, tensor):
    with pytest.raises(ValueError, match=r"argument `folder`.*layers of another run"):
        LayerStore(store.folder, "other").load(NAME, tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("text"), "it holds"),
        (lambda a: a.update(more=np.zeros(1)), "it holds"),
        (lambda a: a.update(text=np.frombuffer(b"{", np.uint8)), "not valid JSON"),
        (lambda a: a.update(text=np.frombuffer(b"[" * 100_000, np.uint8)), "nested too deeply"),
        (lambda a: a.update(text=np.frombuffer(b"[]", np.uint8)), "its text is not an object"),
        (lambda a: a.update(text=np.frombuffer(b'{"name": 1}', np.uint8)), "`name` of its text is not text"),
        (lambda a: a.update(text=np.zeros(10**8, np.uint8)), "longer than 1,048,576 bytes"),
        (lambda a: a.update(codes=np.zeros((2, 5), np.int8)), r"its codes are int8 of shape \(2, 5\)"),
        (lambda a: a.update(codes=np.zeros(10**8, np.int8)), r"shape \(100000000,\), not int8 of shape \(2, 4\)"),
        (lambda a: a.update(codes=np.zeros((2, 4), np.float32)), "its codes are float32"),
        (lambda a: a.update(codes=np.full((2, 4), 99, np.int8)), "off the grid"),
        (lambda a: a.update(scale=np.full((1, 4), np.nan, np.float32)), "not positive and finite"),
    ],
)
def test_damaged_layers_are_refused(store, tensor, change, words):
    arrays = stored(store)
    change(arrays)
    write(store, **arrays)
    with pytest.raises(ValueError, match=rf"kernel\.npz is not a readable layer \(.*{words}.* Delete it") as caught:
        store.load(NAME, tensor)
    assert len(str(caught.value)) < 1000


def test_other_files_are_refused(store, tensor):
    path = store.folder / "block.conv.kernel.npz"
    data = path.read_bytes()
    for content in (b"", b"text", data[:-30], data[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable layer"):
            store.load(NAME, tensor)
