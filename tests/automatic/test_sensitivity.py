"""Sensitivity of each layer against models in which that layer alone is quantized."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import r2keras
from r2keras.automatic.judge import output_error
from tests.automatic.nets import trained


def alone(model, layer, bits, x):
    """Returns the divergence when `calibrate` quantizes one layer and corrects its bias."""
    recipe = r2keras.Recipe([(f"^{layer}$", r2keras.QuantSpec(bits))], ["fold_batch_norm", "correct_bias"])
    small, _ = r2keras.calibrate(model, recipe, x)
    return output_error([model.predict(x, verbose=0)], [small.predict(x, verbose=0)])


@pytest.mark.slow_elsewhere
@pytest.mark.backends
def test_rows_are_what_quantizing_one_layer_does():
    model, x, _ = trained()
    result = r2keras.sensitivity(model, x[:64], bits=(4, 2), progress=False)
    assert [(row.layer, row.option) for row in result.rows] == [
        (layer, f"{bits} bits") for layer in ("first", "head") for bits in (4, 2)
    ]
    for row in result.rows:
        expected = alone(model, row.layer, int(row.option[0]), x[:64])
        assert row.error == pytest.approx(expected, rel=0.02, abs=1e-7)
    assert [row.num_values for row in result.rows[::2]] == [144, 5760]


def test_adaround_lowers_the_error_and_palettes_have_rows(tmp_path):
    model, x, y = trained()
    nearest = r2keras.sensitivity(model, x[:128], bits=(2,), palettes=True, labels=y[:128], progress=False)
    rounded = r2keras.sensitivity(model, x[:128], bits=(2,), rounding="adaround", progress=False)
    assert nearest.metric == "accuracy"
    assert {row.option for row in nearest.rows} == {"2 bits", "palette, 2 bits"}
    grids = [row for row in nearest.rows if row.option == "2 bits"]
    assert sum(row.error for row in rounded.rows) < sum(row.error for row in grids)
    assert "Sensitivity of each layer, 128 samples" in str(nearest)
    nearest.plot(tmp_path / "plot.svg")
    assert "first" in (tmp_path / "plot.svg").read_text()
    nearest.save(tmp_path / "rows.json")
    assert nearest.worst(1)[0].error == max(row.error for row in nearest.rows)


@pytest.mark.backends
def test_the_model_is_left_untouched():
    model, x, _ = trained()
    before = model.get_weights()
    r2keras.sensitivity(model, x[:32], bits=(2,), progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bits": ()}, "at least one number"),
        ({"bits": 4}, "a list of numbers"),
        ({"bits": (9,)}, "`bits`"),
        ({"rounding": "up"}, "`rounding`"),
        ({"labels": np.zeros(3, int)}, "one label per sample"),
        ({"labels": np.full(64, 10)}, "from 0 to 9"),
    ],
)
def test_mistake_is_one_sentence(given, words):
    model, x, _ = trained()
    with pytest.raises(ValueError, match=words.replace("`", ".")):
        r2keras.sensitivity(model, x[:64], **given)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="subclass"):
        r2keras.sensitivity(Own(), np.zeros((20, 4)))
