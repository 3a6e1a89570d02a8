"""The comparison with other tools: its plan, its tables, its figure, and the types of the weights in a file."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import keras
import pytest

import r2keras
from benchmarks import front_figure, front_table
from benchmarks.front import planned
from benchmarks.front_models import MODELS
from benchmarks.front_tools import FLOAT, MLPERF, OURS, RIVAL, TFLITE, variants, weight_types
from tests import scripts

MACHINE = {"cpu": "x", "cores": 2, "system": "Linux", "versions": {}, "date": "2026-01-02", "load": 1.0}


def row(tool, variant, accuracy, size, *, model="resnet8", seed=0, **columns):
    bits = next(v.bits for v in variants() if (v.tool, v.name) == (tool, variant))
    defaults = {"weights": {"CONV_2D INT8": 1}, "processor_seconds": 1.0, "iterations": None, "not_finite": 0.0}
    identity = {"model": model, "tool": tool, "variant": variant, "seed": seed, "bits": bits}
    return {**identity, "accuracy": accuracy, "bytes": size, "machine": MACHINE, **defaults, **columns}


ROWS = [
    row(FLOAT, "float", 0.87, 320_000),
    row(TFLITE, "W8A8", 0.865, 98_000),
    row(RIVAL, "W4 weight-only, min-max", 0.56, 54_000),
    row(RIVAL, "W4 weight-only, OCTAV", 0.68, 54_000, weights={"CONV_2D INT4": 9, "DEPTHWISE_CONV_2D FLOAT32": 4}),
    row(RIVAL, "W2 dynamic, OCTAV", 0.1, 34_000, not_finite=1.0),
    row(OURS, "W8", 0.871, 86_000),
    row(OURS, "W4", 0.85, 47_000),
    *(row(OURS, "W4 AdaRound", 0.86 + 0.01 * seed, 47_000, seed=seed) for seed in range(3)),
    row(OURS, "W8A8", 0.88, 87_000),
]


def test_main_rows_come_first_and_finished_rows_not_again():
    plan = planned(list(MODELS), [OURS, MLPERF], set())
    is_first = [variant.is_main and seed == 0 for _, variant, seed in plan]
    assert is_first == sorted(is_first, reverse=True) and 0 < sum(is_first) < len(plan)
    assert {name for name, variant, _ in plan if variant.tool == MLPERF} == {"resnet8", "dscnn"}
    name, variant, seed = plan[5]
    finished = (name, variant.tool, variant.name, seed)
    keys = [(n, v.tool, v.name, s) for n, v, s in planned(list(MODELS), [OURS, MLPERF], {finished})]
    assert len(keys) == len(plan) - 1 and finished not in keys


def test_variants_have_names_of_their_own():
    names = [(variant.tool, variant.name) for variant in variants()]
    assert len(names) == len(set(names))


def test_the_short_table_shows_the_best_variant_at_each_bit_width():
    line = front_table.short_table(ROWS).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # Integer activations count in the columns of int8 files only.
    assert cells[:4] == [MODELS["resnet8"], "87.0 % in 320 kB", "87.1 % in 86 kB", "87.0 ± 1.0 % in 47 kB"]
    assert cells[4:] == ["-", "86.5 % in 98 kB", "-", "-", "68.0 % in 54 kB", "NaN in 34 kB"]


def test_the_long_table_says_what_is_left_float_and_what_is_not_a_number():
    text = front_table.tables(ROWS)
    (octav,) = re.findall(r"^.*W4 weight-only, OCTAV.*$", text, re.MULTILINE)
    assert "| 4 DEPTHWISE_CONV_2D |" in octav and "| 54,000 | 68.0 |" in octav
    (broken,) = re.findall(r"^.*W2 dynamic, OCTAV.*$", text, re.MULTILINE)
    assert "100 % of the outputs are NaN" in broken
    assert "3 seeds" in text and "2026-01-02" in text
    assert front_table.tables([]) == "No rows yet."


def test_the_figure_has_a_panel_per_model_and_every_series(tmp_path):
    path = tmp_path / "front.svg"
    front_figure.draw([*ROWS, *(entry | {"model": "dscnn"} for entry in ROWS)], path)
    root = ElementTree.parse(path).getroot()
    assert float(root.get("width").removesuffix("pt")) / 72 * 96 == pytest.approx(1200)
    text = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    for words in ("ResNet-8", "DS-CNN", "litert-quantizer", "TFLite int8", "float: 87.0 %", "2: NaN"):
        assert words in text
    assert "MLPerf" not in text
    before = path.read_bytes()
    front_figure.draw([*ROWS, *(entry | {"model": "dscnn"} for entry in ROWS)], path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="no rows to draw"):
        front_figure.draw([], path)


def test_types_of_the_stored_weights(tmp_path):
    layers = [keras.layers.Conv2D(4, 3, name="conv"), keras.layers.DepthwiseConv2D(3, name="dw")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(3, name="head"), keras.layers.Dense(4, name="last")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    rules = [("conv", r2keras.QuantSpec(num_bits=4)), ("head", r2keras.QuantSpec(num_bits=2))]
    recipe = r2keras.Recipe([*rules, ("last", r2keras.PaletteSpec(num_bits=2, min_size=0))])
    small, record = r2keras.calibrate(model, recipe)
    r2keras.export.to_litert(small, tmp_path / "a.tflite", record)
    # Two bits have no level at zero: an ADD follows the DEQUANTIZE. Palettes are decoded by a GATHER.
    assert weight_types(tmp_path / "a.tflite") == {
        "CONV_2D INT4": 1,
        "DEPTHWISE_CONV_2D FLOAT32": 1,
        "FULLY_CONNECTED computed": 2,
    }


@pytest.mark.slow
def test_rows_are_measured_kept_and_shown(tmp_path):
    flags = ["--smoke", "--iterations=5", f"--out={tmp_path / 'rows.json'}", f"--tools={FLOAT},{TFLITE},{OURS}"]
    code, table, error = scripts.run("benchmarks/front.py", *flags)
    assert code == 0, error
    rows = json.loads((tmp_path / "rows.json").read_text())
    expected = [v for v in variants() if v.tool in (FLOAT, TFLITE, OURS)]
    assert len(rows) == sum(len(v.seeds) for v in expected)
    by_name = {(entry["tool"], entry["variant"]): entry for entry in rows}
    sizes = [by_name[key]["bytes"] for key in ((OURS, "W2"), (OURS, "W4"), (OURS, "W8"), (FLOAT, "float"))]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 4
    assert by_name[OURS, "W4 AdaRound"]["iterations"] == 5 and by_name[OURS, "W4"]["iterations"] is None
    code, again, _ = scripts.run("benchmarks/front.py", *flags)
    assert code == 0 and table.endswith(again)  # Keras reports the SavedModels on standard output, too.
    code, told, _ = scripts.run("benchmarks/front.py", "--figure", f"--out={tmp_path / 'rows.json'}")
    assert code == 0 and (tmp_path / "rows.svg").is_file() and "rows.svg" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--models=vgg", "--data_dir=x"], 2, "--models=vgg is unknown"),
        (["--tools=vgg", "--data_dir=x"], 2, "--tools=vgg is unknown"),
        ([], 2, "--data_dir is missing"),
        (["--data_dir=nowhere", "--models=resnet8", "--tools=float"], 1, "nowhere"),
    ],
    ids=["a model", "a tool", "no folder", "a folder that is not there"],
)
def test_wrong_flags_are_one_sentence(flags, code, words, tmp_path):
    found, _, error = scripts.run("benchmarks/front.py", f"--out={tmp_path / 'rows.json'}", *flags)
    assert found == code and words in error, error
    assert not (tmp_path / "rows.json").exists()
