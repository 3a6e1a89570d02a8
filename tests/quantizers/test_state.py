"""The grid of a hidden state: its range, its levels, its gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras import QuantSpec
from r2keras.quantizers.state import round_state, state_grid, state_range
from tests.gradients import gradients

pytestmark = pytest.mark.backends

ENDS = np.linspace(-1, 1, 201, dtype="float32")


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"num_bits": 2}, np.arange(-1.5, 2) / 2),
        ({"num_bits": 2, "levels": "mid_tread"}, np.arange(-1, 2)),
        ({"num_bits": 3}, np.arange(-3, 4) / 3),
        ({"num_bits": 3, "levels": "mid_rise"}, np.arange(-3.5, 4) / 4),
        ({"num_bits": 8}, np.arange(-127, 128) / 127),
    ],
)
def test_levels_cover_the_true_range(options, levels):
    grid = state_grid(QuantSpec(**options), -1.0, 1.0)
    found = ops.convert_to_numpy(round_state(ops.convert_to_tensor(ENDS), grid))
    nearest = levels[np.abs(ENDS[:, None] - levels).argmin(-1)]
    assert (np.abs(found[:, None] - levels).min(-1) < 1e-6).all()
    np.testing.assert_allclose(np.abs(found - ENDS), np.abs(nearest - ENDS), atol=1e-5)


def test_an_asymmetric_grid_spends_its_levels_on_one_side():
    grid = state_grid(QuantSpec(num_bits=2, symmetric=False), *state_range(keras.activations.sigmoid))
    found = ops.convert_to_numpy(round_state(ops.convert_to_tensor(ENDS[100:]), grid))
    np.testing.assert_allclose(np.unique(found), np.arange(4) / 3, atol=1e-6)


def test_the_gradient_is_one_everywhere():
    grid = state_grid(QuantSpec(num_bits=2), -1.0, 1.0)
    found = gradients(lambda h: ops.sum(3.0 * round_state(h, grid)), ENDS)[0]
    np.testing.assert_array_equal(found, np.full_like(ENDS, 3.0))


@pytest.mark.parametrize(("activation", "gate"), [("relu", "sigmoid"), ("linear", None), ("tanh", "relu")])
def test_a_state_without_bounds_is_refused(activation, gate):
    functions = keras.activations.get(activation), gate and keras.activations.get(gate)
    with pytest.raises(ValueError, match=r"activation.*with state_spec"):
        state_range(*functions)
