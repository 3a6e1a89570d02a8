"""The record: values on the grid bit for bit, figures against NumPy, and errors for corrupt files."""

import errno
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from r2keras.record import (
    HISTOGRAM_BINS,
    CompressionRecord,
    QuantizedActivation,
    QuantizedTensor,
    RangeFigures,
    broadcast_scales,
)
from r2keras.specs import QuantSpec

pytestmark = pytest.mark.backends

SPECS = {
    "symmetric": (QuantSpec(num_bits=4), 0.0),
    "mid_rise": (QuantSpec(num_bits=2), -0.5),
    "asymmetric": (QuantSpec(num_bits=3, symmetric=False, granularity="per_tensor"), 2.0),
    "grouped": (QuantSpec(num_bits=8, granularity="per_group", group_size=2), 0.0),
}
SCALE_SHAPES = {"symmetric": (1, 1, 5), "mid_rise": (1, 1, 5), "asymmetric": (1, 1, 1), "grouped": (3, 2, 5)}


def tensor(kind, name="conv/kernel", shape=(3, 4, 5)):
    spec, zero = SPECS[kind]
    random = np.random.default_rng(1)
    codes = random.integers(spec.quant_min, spec.quant_max + 1, shape).astype(np.int8)
    scale = random.uniform(0.01, 0.1, SCALE_SHAPES[kind]).astype(np.float32)
    before = RangeFigures.of(random.normal(size=shape))
    return QuantizedTensor(name, codes, scale, np.full_like(scale, zero), spec, before)


@pytest.fixture
def record():
    tensors = {f"block/{kind}|odd/kernel": tensor(kind, f"block/{kind}|odd/kernel") for kind in SPECS}
    return CompressionRecord(tensors, {"norm/gamma": "no kernel", "µ/kernel": "no rule"}, 321, "tiny")


@pytest.fixture
def saved(tmp_path, record):
    record.save(tmp_path / "m.record.npz")
    return tmp_path / "m.record.npz"


@pytest.fixture
def small(tmp_path):
    record = CompressionRecord({"a/kernel": tensor("mid_rise", "a/kernel")}, {}, 60, "tiny")
    record.save(tmp_path / "small.npz")
    return record, (tmp_path / "small.npz").read_bytes()


def assert_equal(a: CompressionRecord, b: CompressionRecord):
    assert (a.kept_float, a.num_values, a.model_name) == (b.kept_float, b.num_values, b.model_name)
    assert list(a.tensors) == list(b.tensors)
    for x, y in zip(a.tensors.values(), b.tensors.values(), strict=True):
        assert (x.name, x.spec, x.before) == (y.name, y.spec, y.before)
        for name, array in x.arrays().items():
            assert array.dtype == y.arrays()[name].dtype
            np.testing.assert_array_equal(array, y.arrays()[name])


def rewrite(path, change):
    """Lets `change` edit the parsed JSON and the arrays of a record file, and writes it as a valid `.npz`."""
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(arrays.pop("record.json").tobytes())
    config = change(config, arrays) or config
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    np.savez_compressed(path, **{"record.json": np.frombuffer(text, np.uint8)}, **arrays)


# RangeFigures


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_figures_against_numpy(scale):
    values = np.random.default_rng(0).normal(0.1, 1.0, (7, 9, 11)).astype(np.float32) * np.float32(scale)
    figures, wide = RangeFigures.of(values), values.astype(np.float64)
    std = np.sqrt(np.mean((wide - wide.mean()) ** 2))
    np.testing.assert_allclose(figures.std, std, rtol=1e-12)
    np.testing.assert_allclose(figures.kurtosis, np.mean(((wide - wide.mean()) / std) ** 4), rtol=1e-10)
    assert figures.max_abs == np.abs(wide).max()
    assert (figures.low, figures.high) == (wide.min(), wide.max())
    np.testing.assert_allclose(figures.max_over_std, np.abs(wide).max() / std, rtol=1e-12)
    np.testing.assert_array_equal(figures.counts, np.histogram(wide, HISTOGRAM_BINS)[0])


def test_kurtosis_of_known_distributions():
    grid = (np.arange(10_000) + 0.5) / 10_000
    assert RangeFigures.of(grid).kurtosis == pytest.approx(1.8, abs=1e-3)
    assert RangeFigures.of(np.array([-1.0, 1.0])).kurtosis == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e20, 1e-40])
def test_constant_tensor_has_no_spread(value):
    figures = RangeFigures.of(np.full((3, 3), value, np.float32))
    assert (figures.std, figures.kurtosis, figures.max_over_std) == (0.0, 0.0, 0.0)
    assert figures.max_abs == abs(np.float64(np.float32(value)))
    assert sum(figures.counts) == 9


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 0.0]])
def test_figures_need_finite_numbers(values):
    with pytest.raises(ValueError, match="finite"):
        RangeFigures.of(np.array(values))


# broadcast_scales, QuantizedTensor


@pytest.mark.parametrize("entries", [(1, 1), (4, 1), (2, 1), (1, 6), (2, 3), (4, 6)])
def test_broadcast_scales_against_indexing(entries):
    values = np.arange(np.prod(entries), dtype=np.float32).reshape(entries)
    full = broadcast_scales(values, (4, 6))
    for i in range(4):
        for j in range(6):
            assert full[i, j] == values[i * entries[0] // 4, j * entries[1] // 6]


@pytest.mark.parametrize("kind", SPECS)
def test_values_are_float32_on_the_grid(kind):
    t = tensor(kind)
    values = t.values()
    assert values.dtype == np.float32
    for index in np.ndindex(t.codes.shape):
        at = tuple(i * n // size for i, n, size in zip(index, t.scale.shape, t.codes.shape, strict=True))
        expected = t.scale[at] * np.float32(np.float32(t.codes[index]) - t.zero_point[at])
        assert values[index] == expected


def test_ideal_bits():
    assert tensor("mid_rise").ideal_bits == 2 * 60


@pytest.mark.parametrize(
    ("kind", "part", "value", "match"),
    [
        ("symmetric", "codes", np.full((3, 4, 5), 8, np.int8), "grid"),
        ("symmetric", "codes", np.full((3, 4, 5), -8, np.int8), "grid"),
        ("symmetric", "codes", np.full((3, 4, 5), 300, np.int32), "300"),  # int8 would wrap it to 44
        ("symmetric", "codes", np.full((3, 4, 5), 0.5, np.float32), "integers"),
        ("symmetric", "codes", np.zeros((3, 4, 5), bool), "integers"),
        ("symmetric", "codes", np.zeros((3, 4, 6), np.int8), "fit"),
        ("symmetric", "scale", np.zeros((1, 1, 5), np.float32), "positive"),
        ("symmetric", "scale", np.full((1, 1, 5), -1.0, np.float32), "positive"),
        ("symmetric", "scale", np.full((1, 1, 5), np.nan, np.float32), "positive"),
        ("symmetric", "scale", np.full((1, 1, 5), np.inf, np.float32), "positive"),
        ("symmetric", "scale", np.ones((5,), np.float32), "fit"),
        ("symmetric", "scale", np.ones((2, 1, 5), np.float32), "fit"),
        ("symmetric", "zero_point", np.zeros((1, 1, 1), np.float32), "fit"),
        ("symmetric", "zero_point", np.ones((1, 1, 5), np.float32), "zero_point"),
        ("symmetric", "zero_point", np.full((1, 1, 5), np.nan, np.float32), "zero_point"),
        ("mid_rise", "zero_point", np.zeros((1, 1, 5), np.float32), "zero_point"),
        ("asymmetric", "zero_point", np.full((1, 1, 1), 0.5, np.float32), "zero_point"),
        ("asymmetric", "zero_point", np.full((1, 1, 1), 4, np.float32), "zero_point"),
    ],
)
def test_parts_that_contradict_the_spec_are_refused(kind, part, value, match):
    good = tensor(kind)
    parts = {**good.arrays(), part: value}
    with pytest.raises(ValueError, match=match) as caught:
        QuantizedTensor("conv/kernel", spec=good.spec, before=good.before, **parts)
    assert "conv/kernel" in str(caught.value)


# CompressionRecord


def test_round_trip(record, saved):
    assert_equal(CompressionRecord.load(saved), record)
    assert_equal(CompressionRecord.load(str(saved)), record)


def test_empty_record_round_trips(tmp_path):
    record = CompressionRecord({}, {}, 0, "")
    record.save(tmp_path / "e.npz")
    assert_equal(CompressionRecord.load(tmp_path / "e.npz"), record)


def test_file_is_the_same_bytes_every_time(tmp_path, record, saved):
    record.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_file_holds_no_pickle(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert all(file[key].dtype != object for key in file.files)


@pytest.mark.parametrize("name", ["m.npy", "m", "m.json"])
def test_other_suffixes_are_refused(tmp_path, record, name):
    with pytest.raises(ValueError, match=r"\.npz"):
        record.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        CompressionRecord.load(tmp_path / "none.npz")


def test_truncation_at_every_byte_is_refused(tmp_path, small):
    (_, data), path = small, tmp_path / "cut.npz"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.npz is not a readable"):
            CompressionRecord.load(path)


@pytest.mark.parametrize(("first", "flip"), [(0, 0x01), (1, 0x80), (2, 0xFF)])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path, small, first, flip):
    (record, data), path, refused = small, tmp_path / "flip.npz", 0
    places = range(first, len(data), 3)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        try:
            loaded = CompressionRecord.load(path)
        except ValueError as error:
            assert "flip.npz is not a readable" in str(error)
            assert "\n" not in str(error)
            refused += 1
        else:
            assert_equal(loaded, record)  # a byte of the archive's bookkeeping, a date say
    assert refused > len(places) / 2


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04", b"\x93NUMPY", b"{}", bytes(range(256)) * 40])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "m.npz").write_bytes(data)
    with pytest.raises(ValueError, match="not a readable"):
        CompressionRecord.load(tmp_path / "m.npz")


def test_plain_arrays_are_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros(3))
    np.savez(tmp_path / "m.npz", x=np.zeros(3))
    np.savez(tmp_path / "o.npz", **{"record.json": np.array([{}], object)})
    for name in ("m.npy", "m.npz", "o.npz"):
        with pytest.raises(ValueError, match="not a readable"):
            CompressionRecord.load(tmp_path / name)


def test_members_that_are_no_arrays_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("record.json", "{}")
    (tmp_path / "m.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="not a readable"):
        CompressionRecord.load(tmp_path / "m.npz")


def _first(config):
    return next(iter(config["tensors"].values()))


def _set(target, **values):
    target.update(values)


def _grid(**changes):
    return {"name": "x", "scale": 0.1, "zero_point": -2, "num_bits": 2} | changes


EDITS = {
    "newer version": (lambda c, a: _set(c, version=4), "version 4"),
    "no version": (lambda c, a: c.pop("version") and None, "version"),
    "bad activation": (lambda c, a: _set(c, activations={"x": _grid(num_bits=1)}), "num_bits=1"),
    "activation without a scale": (lambda c, a: _set(c, activations={"x": {"name": "x"}}), "scale"),
    "activations as a list": (lambda c, a: _set(c, activations=[]), "activations"),
    "no tensors": (lambda c, a: c.pop("tensors") and None, "tensors"),
    "tensors as a list": (lambda c, a: _set(c, tensors=[]), "tensors"),
    "kept_float as text": (lambda c, a: _set(c, kept_float="norm"), "kept_float"),
    "count as text": (lambda c, a: _set(c, num_values="many"), "num_values"),
    "a list": (lambda c, a: [1], "not an object"),
    "no JSON": (lambda c, a: b"{", "JSON|Expecting"),
    "no text": (lambda c, a: b"\xff\xfe\xfd", "UTF-8"),
    "deep JSON": (lambda c, a: b"[" * 100_000, "nested too deeply"),
    "unknown kind": (lambda c, a: _set(_first(c), kind="magic"), "magic"),
    "bits out of range": (lambda c, a: _set(_first(c)["spec"], num_bits=9), "num_bits"),
    "bits as text": (lambda c, a: _set(_first(c)["spec"], num_bits="4"), "num_bits"),
    "unknown argument": (lambda c, a: _set(_first(c)["spec"], bits=4), "bits"),
    "no figures": (lambda c, a: _first(c).pop("before") and None, "before"),
    "figures as text": (lambda c, a: _set(_first(c)["before"], std="wide"), "wide"),
    "counts as a number": (lambda c, a: _set(_first(c)["before"], counts=3), "counts"),
    "fewer bits than the codes": (lambda c, a: _set(_first(c)["spec"], num_bits=3), "grid"),
    "a tensor without arrays": (lambda c, a: a.clear(), "missing"),
    "no scale": (lambda c, a: [a.pop(k) for k in list(a) if k.endswith("|scale")] and None, "scale"),
    "an array too many": (lambda c, a: _set(a, **{"block/symmetric|odd/kernel|more": np.zeros(1)}), "more"),
    "codes off the grid": (lambda c, a: _set(a, **{k: v + 100 for k, v in a.items() if k.endswith("codes")}), "grid"),
    "codes as floats": (lambda c, a: _set(a, **{k: v / 2 for k, v in a.items() if k.endswith("codes")}), "integers"),
    "negative scale": (lambda c, a: _set(a, **{k: -v for k, v in a.items() if k.endswith("scale")}), "positive"),
    "scale as text": (lambda c, a: _set(a, **{k: v.astype(str) + "x" for k, v in a.items() if "|scale" in k}), "float"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_file_is_refused_with_the_reason(saved, edit):
    change, match = EDITS[edit]
    rewrite(saved, change)
    with pytest.raises(ValueError, match=rf"m\.record\.npz is not a readable record.*({match})") as caught:
        CompressionRecord.load(saved)
    assert "\n" not in str(caught.value)


def test_files_of_version_1_load(record, saved):
    rewrite(saved, lambda c, a: _set(c, version=1) or (c.pop("activations") and None))
    assert_equal(CompressionRecord.load(saved), record)


def test_activations_round_trip(tmp_path):
    grids = {"a/relu": QuantizedActivation("a/relu", float(np.float32(0.1)), -8, 4)}
    CompressionRecord({}, {}, 1, "net", grids).save(tmp_path / "m.npz")
    assert CompressionRecord.load(tmp_path / "m.npz").activations == grids


@pytest.mark.parametrize(("scale", "zero_point", "num_bits"), [(0, 0, 8), (0.1, 128, 8), (0.1, -3, 2), (0.1, 0, 9)])
def test_grids_that_are_none_are_refused(scale, zero_point, num_bits):
    with pytest.raises(ValueError, match="corrupt"):
        QuantizedActivation("x", scale, zero_point, num_bits)


def test_full_disk_leaves_the_older_record(record, saved, monkeypatch):
    before = saved.read_bytes()

    def fill(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left on device"):
        record.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_folder_that_is_not_writable(tmp_path, record):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Choose a folder you can write to"):
        record.save(tmp_path / "file" / "m.npz")
