"""PalettizedTensor: values by indexing, saving and loading, and errors for every edited part."""

import json

import numpy as np
import pytest

from r2keras import CompressionRecord, PaletteSpec, PalettizedTensor, QuantizedTensor, QuantSpec
from r2keras.record import PaletteLayout, RangeFigures

pytestmark = pytest.mark.backends

SPECS = {
    "scalar": PaletteSpec(num_bits=2),
    "vectors": PaletteSpec(num_bits=3, dim=2, table_dtype="float16"),
    "grouped": PaletteSpec(num_bits=1, granularity="per_group", group_size=3, table_dtype="int8", channel_scale=True),
}


def tensor(kind, shape=(2, 4, 6)):
    spec, random = SPECS[kind], np.random.default_rng(1)
    layout = PaletteLayout(shape, spec.dim, (2,), spec.group_size)
    indices = random.integers(0, spec.entries, layout.index_shape).astype(np.uint8)
    codebook = random.normal(size=(layout.groups, spec.entries, spec.dim))
    codebook = (100 * codebook).round().clip(-127, 127) if spec.table_dtype == "int8" else codebook
    table_scale = np.full(layout.groups, 0.01 if spec.table_dtype == "int8" else 1.0, np.float32)
    scale = random.uniform(1, 2, (1, 1, 6)) if spec.channel_scale else np.ones((1, 1, 1))
    before = RangeFigures.of(random.normal(size=shape))
    parts = (indices, codebook.astype(spec.table_dtype), table_scale, scale.astype(np.float32))
    return PalettizedTensor(f"conv|{kind}/kernel", *parts, spec, layout, before)


@pytest.mark.parametrize("kind", SPECS)
def test_values_by_indexing(kind):
    t = tensor(kind)
    values, spec = t.values(), t.spec
    assert values.shape == (2, 4, 6) and values.dtype == np.float32
    for a, b, c in np.ndindex(values.shape):
        group = c // spec.group_size if spec.group_size else 0
        entry = np.float32(t.codebook[group, t.indices[a, b, c // spec.dim], c % spec.dim]) * t.table_scale[group]
        assert values[a, b, c] == entry * t.scale[0, 0, c if spec.channel_scale else 0]
    assert t.ideal_bits == spec.num_bits * 48 // spec.dim


def test_a_file_holds_all_kinds(tmp_path):
    grid = QuantizedTensor(
        "head/kernel",
        np.array([[1, -1]], np.int8),
        np.ones((1, 1)),
        np.zeros((1, 1)),
        QuantSpec(num_bits=4),
        RangeFigures.of(np.ones(2)),
    )
    tensors = {t.name: t for t in [*map(tensor, SPECS), grid]}
    CompressionRecord(tensors, {}, 200, "tiny").save(tmp_path / "m.npz")
    loaded = CompressionRecord.load(tmp_path / "m.npz").tensors
    assert list(loaded) == list(tensors)
    for name, t in tensors.items():
        assert type(loaded[name]) is type(t) and loaded[name].to_dict() == t.to_dict()
        np.testing.assert_array_equal(loaded[name].values(), t.values())
        assert {k: a.dtype for k, a in loaded[name].arrays().items()} == {k: a.dtype for k, a in t.arrays().items()}


EDITS = [
    ("indices", lambda a: a + 200, "outside the table: .*, where 0 to 1"),
    ("indices", lambda a: a.astype("int64") + 256, "outside the table"),
    ("indices", lambda a: a.astype("float32"), "not integers"),
    ("indices", lambda a: a[:1], "shape"),
    ("codebook", lambda a: a[:, :1], "shape"),
    ("codebook", lambda a: a.astype("float32"), "holds float32, not int8"),
    ("table_scale", lambda a: -a, "table_scale .* positive and finite"),
    ("table_scale", lambda a: a[:1], "does not fit"),
    ("scale", lambda a: a * np.nan, "positive and finite"),
    ("scale", lambda a: a[..., :2], "does not fit"),
]


@pytest.mark.parametrize(("part", "edit", "match"), EDITS)
def test_an_edited_file_is_refused(part, edit, match, tmp_path):
    t = tensor("grouped")
    CompressionRecord({t.name: t}, {}, 48, "tiny").save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    arrays[f"{t.name}|{part}"] = edit(arrays[f"{t.name}|{part}"])
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        CompressionRecord.load(tmp_path / "m.npz")


@pytest.mark.parametrize(
    "edit",
    [
        lambda part: part.update(kind="paint"),
        lambda part: part["spec"].update(num_bits=9),
        lambda part: part["spec"].update(dim=2),
        lambda part: part["layout"].update(shape=[2, 4, 7]),
        lambda part: part["layout"].update(group_size=2),
        lambda part: part.pop("layout"),
    ],
)
def test_an_edited_description_is_refused(edit, tmp_path):
    t = tensor("grouped")
    CompressionRecord({t.name: t}, {}, 48, "tiny").save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    config = json.loads(arrays["record.json"].tobytes())
    edit(config["tensors"][t.name])
    arrays["record.json"] = np.frombuffer(json.dumps(config).encode(), np.uint8)
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match="not a readable record"):
        CompressionRecord.load(tmp_path / "m.npz")


@pytest.mark.parametrize(("kind", "part"), [("scalar", "table_scale"), ("scalar", "scale"), ("vectors", "codebook")])
def test_parts_that_contradict_the_spec_are_refused(kind, part):
    t = tensor(kind)
    arrays = t.arrays() | {part: t.arrays()[part] * np.nan if part == "codebook" else 2 * t.arrays()[part]}
    with pytest.raises(ValueError, match=part):
        PalettizedTensor(t.name, **arrays, spec=t.spec, layout=t.layout, before=t.before)


def test_used_entries_are_counted():
    t = tensor("scalar")
    few = PalettizedTensor(t.name, 0 * t.indices, t.codebook, t.table_scale, t.scale, t.spec, t.layout, t.before)
    assert (t.used, few.used) == (4, 1)
