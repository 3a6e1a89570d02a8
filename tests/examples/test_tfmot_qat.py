"""examples/tfmot_qat.py: a bad flag is one sentence and exit code 2, before TensorFlow is imported."""

from __future__ import annotations

import pytest

from tests import scripts


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
    code, _, error = scripts.run("examples/tfmot_qat.py", *given, f"--out={tmp_path / 'out'}")
    assert code == 2, error
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
