"""Palettes in files: the file computes what Keras computes, and holds the record's indices and tables."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, Recipe, calibrate, report
from r2keras.export import sizes, to_litert, verify
from r2keras.export.litert import write_codes
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import FLOAT16, INT4, INT8, buffer_of
from r2keras.specs import QuantSpec
from tests.export.difference import difference
from tests.export.models import (
    IMAGES,
    conv_net,
    dense_net,
    equal_kernels,
    norm,
    random_inputs,
    sequence_net,
    shared_layer,
    small_net,
    two_layers,
)
from tests.export.palettize import compress, fitting, spec

OUTPUT_TOLERANCE = 1.5e-6
LARGE = 1e-5  # of models of many layers
BITS = {1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}


def check(model, record, path, tolerance=OUTPUT_TOLERANCE, **options):
    """Exports, and asserts that the file is exact with and without XNNPACK."""
    found = to_litert(model, path, record, **options)
    for xnnpack in (True, False):
        assert difference(model, path, random_inputs(model), xnnpack) <= tolerance
    return found


@pytest.mark.parametrize("num_bits", [2, 3, 5])
def test_scalar_palettes_of_every_container_are_exact(num_bits, tmp_path):
    model = small_net()
    record = compress(model, fitting(spec(num_bits)))
    found = check(model, record, tmp_path / "model.tflite")
    assert {row.name for row in found.tensors} == set(record.tensors)
    assert {row.container_bits for row in found.tensors} == {BITS[num_bits]}


@pytest.mark.parametrize(
    "chosen",
    [
        spec(8, dim=3, table_dtype="float16"),
        spec(1, dim=8),
        spec(3, group=4),
        spec(6, dim=2, group=4, table_dtype="int8"),
        spec(4, dim=4, group=4, channel_scale=True),
        spec(4, channel_scale=True),
    ],
    ids=lambda s: f"{s.num_bits}-bit-dim{s.dim}-group{s.group_size}-{s.table_dtype}-scale{s.channel_scale:d}",
)
def test_vectors_groups_scales_and_tables_of_every_type_are_exact(chosen, tmp_path):
    model = small_net()
    record = compress(model, fitting(chosen))
    dims = {tensor.layout.dim for tensor in record.tensors.values()}
    groups = {tensor.layout.groups for tensor in record.tensors.values()}
    assert max(dims) == chosen.dim and (max(groups) > 1) == (chosen.group_size is not None)
    found = check(model, record, tmp_path / "model.tflite")
    assert sizes(record, tmp_path / "model.tflite") == found


@pytest.mark.parametrize(("make", "first"), [(conv_net, 0), (sequence_net, 4)])
def test_every_layer_takes_palettes_next_to_grids_and_floats(make, first, tmp_path):
    specs = [spec(4), spec(2, dim=2), QuantSpec(num_bits=4), spec(3, dim=3), None, spec(8), spec(4, dim=4), spec(1)]
    choice = itertools.cycle([*specs[first:], *specs[:first]])

    def choose(name, shape):
        chosen = next(choice)
        return fitting(chosen)(name, shape) if isinstance(chosen, PaletteSpec) else chosen

    model = make()
    record = compress(model, choose)
    assert {tensor.spec.kind for tensor in record.tensors.values()} == {"palettize", "quantize"}
    found = check(model, record, tmp_path / "model.tflite", LARGE)
    assert {row.name for row in found.tensors} == set(record.tensors)


@pytest.mark.parametrize("make", [shared_layer, equal_kernels])
def test_one_palette_in_two_places_and_two_in_one(make, tmp_path):
    model = make()
    record = compress(model, fitting(spec(4, dim=2)))
    check(model, record, tmp_path / "model.tflite", LARGE)


def nibbles(data):
    """Returns the signed 4-bit integers in bytes, the lower half first."""
    both = np.stack([data & 15, data >> 4], axis=1).ravel().astype(np.int64)
    return np.where(both > 7, both - 16, both)


def test_the_file_holds_the_record_s_indices_and_one_table(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(8, 3, use_bias=False, name="conv"), norm()])
    record = compress(model, fitting(spec(4)))
    (row,) = check(model, record, tmp_path / "model.tflite", optimize="memory").tensors
    file, tensor = read(tmp_path / "model.tflite"), record.tensors["conv/kernel"]
    indices, table, factor = (t for t in file.subgraphs[0].tensors if t.name == b"conv/kernel")
    assert indices.type == INT4
    expected = tensor.indices.transpose(3, 0, 1, 2).ravel().astype(np.int64) - 8
    np.testing.assert_array_equal(nibbles(buffer_of(file, indices)), expected)
    np.testing.assert_array_equal(buffer_of(file, table).view("<f4"), tensor.codebook.ravel())
    gamma, _, _, variance = model.layers[-1].get_weights()
    np.testing.assert_allclose(buffer_of(file, factor).view("<f4"), gamma / np.sqrt(variance + 1e-3), rtol=1e-6)
    kinds = [kind_of(file, op) for op in file.subgraphs[0].operators]
    assert kinds == ["DEQUANTIZE", "CAST", "GATHER", "MUL", "CONV_2D"]
    assert (row.num_bits, row.container_bits, row.note) == (4, 4, "4-bit indices into a table of 16")
    # Indices, table, factors, the scale and the zero point of the indices.
    assert row.packed_bytes == 288 // 2 + 4 * 16 + 4 * 8 + 4 + 8
    assert (row.ideal_bytes, row.float_bytes, row.shape) == (144, 1152, (3, 3, 4, 8))


def test_vectors_store_one_index_each(tmp_path):
    model = dense_net()
    record = compress(model, fitting(spec(3, dim=4)))
    hidden, _ = check(model, record, tmp_path / "model.tflite", optimize="memory").tensors
    file, tensor = read(tmp_path / "model.tflite"), record.tensors["hidden/kernel"]
    stored = next(t for t in file.subgraphs[0].tensors if t.name == b"hidden/kernel" and t.type == INT4)
    np.testing.assert_array_equal(nibbles(buffer_of(file, stored)), tensor.indices.T.ravel().astype(np.int64) - 4)
    assert hidden.note == "3-bit indices in a 4-bit container into a table of 8 x 4"
    assert hidden.packed_bytes == 16 * 6 // 2 + 4 * 8 * 4 + 4 + 8
    assert hidden.ideal_bytes == 16 * 6 * 3 / 8


@pytest.mark.parametrize(("dtype", "kind"), [("int8", INT8), ("float16", FLOAT16)])
def test_large_tables_keep_their_type(dtype, kind, tmp_path):
    model = dense_net()
    record = compress(model, fitting(spec(4, dim=8, table_dtype=dtype)))
    to_litert(model, tmp_path / "model.tflite", record, optimize="memory")
    file = read(tmp_path / "model.tflite")
    tables = [t for t in file.subgraphs[0].tensors if t.name == b"hidden/kernel" and t.type == kind]
    codebook = record.tensors["hidden/kernel"].codebook
    assert [buffer_of(file, t).tobytes() for t in tables] == [codebook.tobytes()]


def changed_index(stored):
    """Returns a stored palette with one index that is another."""
    codes = stored.codes.copy()
    codes.flat[3] = -1 - codes.flat[3]
    return dataclasses.replace(stored, codes=codes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_index, "1 of 384 codes differ"),
        (lambda s: dataclasses.replace(s, table=s.table * np.float32(1.0000002)), "the table differs"),
        (lambda s: dataclasses.replace(s, multiply=s.multiply * np.float32(1.00001)), "a value is off by"),
        (lambda s: dataclasses.replace(s, offset=s.offset[::-1].copy()), "a value is off by"),
    ],
)
def test_what_changed_on_the_way_is_found(change, words, tmp_path, monkeypatch):
    model, original = dense_net(), write_codes.store_palette
    record = compress(model, lambda name, shape: spec(4, group=12, channel_scale=True) if shape[1] == 24 else None)
    monkeypatch.setattr(write_codes, "store_palette", lambda *arguments: change(original(*arguments)))
    with pytest.raises(RuntimeError, match=f"'hidden/kernel' did not reach the file unchanged: {words}"):
        to_litert(model, tmp_path / "model.tflite", record)
    assert list(tmp_path.iterdir()) == []


def test_a_record_of_another_model_is_refused(tmp_path):
    model = dense_net()
    record = compress(model, fitting(spec(4)))
    model.get_layer("head").kernel.assign_add(np.full((24, 4), 1e-3))
    with pytest.raises(ValueError, match="'head/kernel' has other values"):
        to_litert(model, tmp_path / "model.tflite", record)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_without_a_constant_of_its_own_is_named(tmp_path):
    class Doubled(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def call(self, x):
            return x @ (self.kernel * self.kernel + 1.0)

    model = keras.Sequential([keras.Input((8,)), Doubled(name="odd")])
    record = compress(model, fitting(spec(4)))
    with pytest.raises(ValueError, match="no constant with the values of 'odd/kernel'"):
        to_litert(model, tmp_path / "model.tflite", record)
    assert list(tmp_path.iterdir()) == []


def test_integer_operators_leave_palettes_to_float_ones_and_say_so(tmp_path):
    keras.utils.set_random_seed(1)
    rules = [("conv|relu", QuantSpec(activation_bits=8)), ("head", PaletteSpec(num_bits=4, min_size=0))]
    model, record = calibrate(two_layers(), Recipe(rules), IMAGES, input_bits=8)
    with pytest.warns(UserWarning, match="compute in float: FULLY_CONNECTED of 'head/kernel', its weight is a palette"):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=IMAGES)
    assert verify(model, tmp_path / "m.tflite", IMAGES).relative_difference < 0.01
    # The report names it too.
    notes = {row.name: row.note for row in report.summarize(record, tmp_path / "m.tflite").tensors}
    assert notes == {
        "conv/kernel": "",
        "head/kernel": "4-bit indices into a table of 16, its operator computes in float",
    }
    to_litert(model, tmp_path / "float.tflite", record)
    found = report.summarize(record, tmp_path / "float.tflite").tensors
    assert not any("computes in float" in row.note for row in found)


def test_calibrate_to_report(tmp_path):
    model = dense_net()
    recipe = Recipe([("hidden", PaletteSpec(num_bits=4, dim=2, min_size=0)), ("head", QuantSpec(num_bits=2))])
    small, record = calibrate(model, recipe, random_inputs(model)[0])
    to_litert(small, tmp_path / "m.tflite", record)
    assert verify(small, tmp_path / "m.tflite", random_inputs(small)[0]).passed(OUTPUT_TOLERANCE)
    summary = report.summarize(record, tmp_path / "m.tflite", model=small)
    assert "4-bit indices into a table of 16 x 2" in str(summary)
    assert "scales and tables" in summary.overhead
    assert sum(summary.parts.values()) == summary.file_bytes and summary.parts["wider container"] == 0
