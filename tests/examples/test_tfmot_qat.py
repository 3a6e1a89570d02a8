"""examples/tfmot_qat.py: a bad flag is one sentence and exit code 2, before TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "tfmot_qat.py"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--data_dir is missing"),
        (["more"], "Unexpected argument 'more'"),
        (["--qat_epochs=0"], "--qat_epochs=0 is out of range"),
        (["--batch_size=0"], "--batch_size=0 is out of range"),
        (["--learning_rate=-1"], "--learning_rate=-1.0 is out of range"),
        (["--seeds=a"], "--seeds=a: expected integers"),
        (["--regularizers=none,lnf"], "--regularizers=lnf is unknown"),
        (["--model=resnet9"], "--model=resnet9 is unknown: expected resnet8, mobilenet or a .h5 file"),
        (["--variants=w9"], "--variants=w9 is unknown"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_a_bad_flag_is_one_sentence(flags, words, tmp_path):
    given = flags if not flags else [*flags, "--data_dir=."]
    command = [sys.executable, SCRIPT, *given, f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
