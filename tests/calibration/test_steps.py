"""The steps of a recipe, as `calibrate` runs them."""

from __future__ import annotations

import numpy as np
import pytest

import r2keras
from r2keras import Recipe
from r2keras.calibration import AdaRoundOptions, adaround, correct_bias, fold_batch_norm
from r2keras.specs import STEPS
from tests.calibration.nets import branched, chain, images, mean_square, nested, outputs_of

NAMES = ("stem", "depthwise", "project", "separable", "up", "head")
FAST = AdaRoundOptions(iterations=100)
FASTEST = AdaRoundOptions(iterations=20)  # where the rounding itself is not judged


def recipe(*steps: str, num_bits: int = 4, **more) -> Recipe:
    return Recipe([(".*", r2keras.QuantSpec(num_bits=num_bits, **more))], steps)


def test_all_steps():
    model, data = branched(), images(64)
    small, record = r2keras.calibrate(model, recipe(*STEPS), data, options=FAST, progress=False)
    plain, _ = r2keras.calibrate(model, recipe("correct_bias"), data)
    assert mean_square(small, model, data) < mean_square(plain, model, data)
    assert record.num_values == small.count_params()
    for name, tensor in record.tensors.items():
        layer, _, variable = name.rpartition("/")
        np.testing.assert_array_equal(getattr(small.get_layer(layer), variable), tensor.values())


def test_steps_are_the_functions():
    model, data = nested(), images(32, (6, 4))
    found, _ = r2keras.calibrate(
        model, recipe("fold_batch_norm", "adaround", "correct_bias"), data, options=FAST, progress=False
    )
    folded = fold_batch_norm(model)
    small, record = r2keras.finalize(r2keras.prepare(folded, recipe()))
    small, _ = adaround(folded, small, record, data, options=FAST, progress=False)
    np.testing.assert_allclose(
        outputs_of(found, data), outputs_of(correct_bias(folded, small, data), data), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("model", [chain, nested])
def test_every_step_alone(model):
    model = model()
    data = images(32, model.input_shape[1:])
    for step in STEPS:
        if step == "equalize" and model.name != "chain":
            continue
        small, _ = r2keras.calibrate(model, recipe(step), data, options=FASTEST, progress=False)
        assert np.isfinite(outputs_of(small, data)).all()


def test_without_data_the_bias_follows_the_norms_through_folding_and_equalization():
    model, data = branched(), images(64)
    small, _ = r2keras.calibrate(model, recipe("fold_batch_norm", "equalize", num_bits=3))
    with pytest.warns(UserWarning, match="keep their bias"):
        better, _ = r2keras.calibrate(model, recipe("fold_batch_norm", "equalize", "correct_bias", num_bits=3))
    biases = {name: [m.get_layer(name).get_weights()[-1] for m in (small, better)] for name in NAMES}
    moved = {name for name, (before, after) in biases.items() if not np.array_equal(before, after)}
    assert moved == {"depthwise", "project", "separable", "head"}
    assert np.isfinite(outputs_of(better, data)).all()


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        (("adaround",), "inputs for the step adaround"),
        (("reestimate_batch_norm",), "re-estimate batch norm"),
        (("equalize",), "the model 'branched', in which nothing can be equalized"),
    ],
)
def test_what_a_step_needs_is_said(steps, match):
    with pytest.raises(ValueError, match=match):
        r2keras.calibrate(branched(), recipe(*steps))
