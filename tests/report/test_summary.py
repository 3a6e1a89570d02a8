"""Bytes and ranges of a summary against NumPy, from records and from an exported file."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

import r2keras
from r2keras.record import CompressionRecord
from r2keras.report import summarize
from tests.report.samples import file_summary, record


def kurtosis(w):
    return np.mean((w - w.mean()) ** 4) / np.mean((w - w.mean()) ** 2) ** 2


def test_bytes_of_every_tensor():
    summary = summarize(record())
    assert [t.name for t in summary.tensors] == ["stem/kernel", "block/conv/kernel", "dense/kernel"]
    assert [t.shape for t in summary.tensors] == [(3, 3, 1, 8), (3, 3, 8, 16), (40, 12)]
    assert [t.float_bytes for t in summary.tensors] == [4 * 72, 4 * 1152, 4 * 480]
    assert [t.ideal_bytes for t in summary.tensors] == [8 * 72 / 8, 3 * 1152 / 8, 2 * 480 / 8]
    # Eight scales a channel; one scale; one scale and its half step.
    assert [t.scale_bytes for t in summary.tensors] == [32, 4, 8]


def test_totals():
    summary = summarize(record())
    assert summary.float_bytes == 4 * 2000
    assert summary.ideal_bytes == 72 + 432 + 120
    assert summary.uncompressed_bytes == 4 * (2000 - 72 - 1152 - 480)
    assert (summary.file_bytes, summary.packed_bytes, summary.ratio, summary.parts) == (None, None, None, {})


def test_range_figures_before_and_after():
    made = record()
    for t in summarize(made).tensors:
        values = made.tensors[t.name].values().astype(np.float64)
        assert t.before == made.tensors[t.name].before
        assert t.after.max_abs == pytest.approx(np.abs(values).max())
        assert t.after.max_over_std == pytest.approx(np.abs(values).max() / values.std(), rel=1e-6)
        assert t.after.kurtosis == pytest.approx(kurtosis(values), rel=1e-6)


def test_parts_add_up_to_the_file():
    summary = file_summary()
    assert sum(summary.parts.values()) == summary.file_bytes == 4000
    assert summary.parts["codes"] == 72 + 432 + 120
    assert summary.parts["wider container"] == 1152 // 8
    assert summary.parts["scales"] == 32 + 4 + 8
    assert summary.ratio == 2.0


def test_text_names_everything():
    text = str(file_summary())
    for expected in ("stem/kernel", "3x3x8x16", "3-bit codes in a 4-bit", "head/kernel", "no rule matches", "4,608"):
        assert expected in text
    assert "float 8,000 bytes → file 4,000 (2.0 times smaller, 3,500 after gzip)" in text
    assert "Of the file's 4,000 bytes, codes take 624; wider containers add 144, scales 44; 3,188 are" in text


def test_text_without_a_file_says_what_the_record_knows():
    text = str(summarize(record()))
    assert "in file" not in text
    assert "The codes take 624 bytes, their scales 44; all other values take 1,184 as float." in text


def test_to_dict_is_plain_json():
    plain = json.loads(json.dumps(file_summary().to_dict()))
    assert plain["totals"]["file_bytes"] == 4000
    assert plain["tensors"][0]["before"]["max_over_std"] == file_summary().tensors[0].before.max_over_std
    assert len(plain["tensors"][0]["after"]["counts"]) == 64
    assert plain["kept_float"] == [
        {"name": "head/kernel", "reason": "no rule matches", "shape": None, "float_bytes": None, "range": None}
    ]


def test_an_empty_record_is_refused():
    with pytest.raises(ValueError, match="the record of 'tiny', which has no tensors"):
        summarize(CompressionRecord({}, {}, 10, "tiny"))


def test_another_type_is_refused():
    with pytest.raises(TypeError, match="a CompressionRecord"):
        summarize({"tensors": {}})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its record and its file, as a user has them."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(8, name="mid"), keras.layers.Dense(3, name="head")])
    spec = {"conv": r2keras.QuantSpec(num_bits=3), "mid": r2keras.QuantSpec(num_bits=2)}
    data = np.random.default_rng(0).normal(size=(16, 6, 6, 1)).astype("float32")
    model, made = r2keras.calibrate(model, r2keras.Recipe(list(spec.items())), data)
    path = tmp_path_factory.mktemp("files") / "tiny.tflite"
    r2keras.export.to_litert(model, path, made)
    return model, made, path


def test_sizes_are_those_of_the_file(exported):
    model, made, path = exported
    summary = summarize(made, path)
    assert summary.file_bytes == path.stat().st_size
    assert sum(summary.parts.values()) == summary.file_bytes
    assert min(summary.parts.values()) >= 0
    assert [t.container_bits for t in summary.tensors] == [4, 2]
    packed = [math.ceil(w.codes.size * b / 8) for w, b in zip(made.tensors.values(), (4, 2), strict=True)]
    assert all(t.packed_bytes >= codes for t, codes in zip(summary.tensors, packed, strict=True))
    assert summary.float_bytes == 4 * model.count_params()


def test_a_model_gives_shapes_of_what_stays_float(exported):
    model, made, _ = exported
    [kept] = summarize(made, model=model).kept_float
    kernel = model.get_layer("head").kernel.numpy()
    assert (kept.name, kept.shape, kept.float_bytes) == ("head/kernel", (8, 3), 96)
    assert kept.range.max_abs == pytest.approx(np.abs(kernel).max())


def test_a_record_of_another_model_is_refused(exported):
    model, made, _ = exported
    with pytest.raises(ValueError, match="a record that does not belong to the model: 'stem/kernel' is not in"):
        summarize(record(), model=model)
    layer = model.get_layer("conv")
    before = layer.kernel.numpy()
    layer.kernel.assign(before + 1.0)
    try:
        with pytest.raises(ValueError, match="'conv/kernel' has different values in"):
            summarize(made, model=model)
    finally:
        layer.kernel.assign(before)


def test_a_file_that_is_not_there(exported, tmp_path):
    with pytest.raises(OSError):
        summarize(exported[1], tmp_path / "no.tflite")
