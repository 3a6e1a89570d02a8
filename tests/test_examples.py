"""Every example runs, small (`--smoke`), and writes only under `--out`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import run_warm

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
# Flags under which a small run does less; the slow tests run the rest.
LESS = {"tfmot_qat": ["--variants=palette2"]}
# What is run, and looked at more closely, in tests/examples.
ELSEWHERE = {"pilot": "test_pilot.py", "ptb_lstm": "test_ptb.py"}


def test_there_are_examples():
    assert set(ELSEWHERE) < set(EXAMPLES)
    for file in ELSEWHERE.values():
        text = (ROOT / "tests" / "examples" / file).read_text(encoding="utf-8")
        assert '"--smoke", f"--out={' in text and ".iterdir()) == [" in text


@pytest.mark.slow
def test_layers_of_a_pattern_keep_8_bits(tmp_path):
    """Two runs in one folder: a row and a file each, the second larger; a pattern that fits nothing is told."""
    flags = ("--smoke", "--models=ic_resnet8", "--bits=4", "--ranges=mse", f"--out={tmp_path}")
    for more in ((), ("--eight_bits=stem",)):
        code, _, error = run_warm("examples/mlperf_tiny.py", *flags, *more)
        assert code == 0, error
    plain, mixed = json.loads((tmp_path / "results.json").read_text())
    assert plain["path"] != mixed["path"] and plain["file_bytes"] < mixed["file_bytes"]
    code, _, error = run_warm("examples/mlperf_tiny.py", *flags, "--eight_bits=nowhere")
    assert code == 1 and "nowhere" in error and "Traceback" not in error


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ELSEWHERE])
def test_example_runs(name, tmp_path):
    flags = "--smoke", *LESS.get(name, ()), f"--out={tmp_path / 'out'}"
    code, out, error = run_warm(f"examples/{name}.py", *flags, cwd=tmp_path)
    assert code == 0, out[-2000:] + error[-4000:]
    assert [found.name for found in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_integer_and_palette_variants_of_tfmot(tmp_path):
    code, _, error = run_warm("examples/tfmot_qat.py", "--smoke", f"--out={tmp_path}")
    assert code == 0, error
    assert len(json.loads((tmp_path / "results.json").read_text())) == 3


@pytest.mark.slow
def test_bits_and_widths_of_a_text_and_its_folder(tmp_path):
    methods = "--activation_bits=3", "--activation_method=alternating"
    flags = ("--smoke", "--dataset=text", "--widths=1,1.5", *methods, f"--out={tmp_path}")
    code, out, error = run_warm("examples/bits_and_widths.py", *flags)
    assert code == 0, error
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["label"] for row in found["rows"]][:2] == ["float, width 1", "float, width 1.5"]
    assert len(found["rows"]) == 4 and all(row["state"] == "complete" for row in found["rows"])
    (command,) = (line for line in out.splitlines() if "r2keras-search --model=" in line)
    assert "--activation_method=alternating" in command and "--match='lstm|words'" in command
    code, _, error = run_warm("examples/bits_and_widths.py", *flags, "--units=9")
    assert code == 1 and "was made with other flags. Choose another --out" in error and "Traceback" not in error
    code, _, error = run_warm("examples/bits_and_widths.py", *flags, "--bits=two")
    assert code == 2 and "--bits=two is not a list of numbers" in error
