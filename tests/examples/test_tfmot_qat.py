"""examples/tfmot_qat.py: bad flags, a model from a file, and rows of other settings."""

from __future__ import annotations

import json

import numpy as np
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
    code, _, error = scripts.run_warm("examples/tfmot_qat.py", *given, f"--out={tmp_path / 'out'}")
    assert code == 2, error
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_is_judged_by_its_own_decisions_and_other_settings_are_measured_anew(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    layers = [tf_keras.Input((6, 6, 2)), tf_keras.layers.Flatten(), tf_keras.layers.Dense(3, "softmax", name="head")]
    tf_keras.Sequential(layers).save(tmp_path / "tiny.h5")
    flags = ("--smoke", f"--model={tmp_path / 'tiny.h5'}", "--variants=w4", f"--out={tmp_path / 'out'}")
    for rate in ("1e-3", "2e-3"):
        code, _, error = scripts.run("examples/tfmot_qat.py", *flags, f"--learning_rate={rate}")
        assert code == 0, error
        found = json.loads((tmp_path / "out" / "results.json").read_text())
        assert len(found) == 2 and found[-1]["learning_rate"] == float(rate)
        assert [row["method"] for row in found] == ["float", "qat"]
        assert found[0]["file_accuracy"] == 1.0 and found[0]["epochs"] == 0 and "qat_epochs" not in found[0]


def test_photographs_are_made_smaller_and_lie_between_0_and_1(monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.syspath_prepend(str(scripts.ROOT / "examples"))
    from common_lib.images import resized

    halves = np.concatenate([-np.ones((1, 224, 112, 3), "float32"), np.ones((1, 224, 112, 3), "float32")], axis=2)
    small = resized(halves)
    assert small.shape == (1, 96, 96, 3)
    np.testing.assert_allclose(small[:, :, :47], 0, atol=1e-5)
    np.testing.assert_allclose(small[:, :, 49:], 1, atol=1e-5)
