"""The alternating quantizer: values by rows, the straight-through gradient, and a record that holds it exactly."""

import numpy as np
import pytest
from keras import ops

from r2keras import CompressionRecord, PalettizedTensor, QuantSpec, quantizers
from r2keras.quantizers.alternating import alternating_rows
from tests.gradients import gradients
from tests.oracles_recurrent import alternating as oracle
from tests.reference import blocks

pytestmark = pytest.mark.backends

# Rows of a few values can be fitted equally well in two ways.
SHAPE = (12, 24)
SCALE_SHAPES = {"per_tensor": (1, 1), "per_channel": (1, 24), "per_gate": (1, 4), "rows": (12, 1)}
WEIGHTS = np.random.default_rng(3).normal(0.0, 0.3, SHAPE).astype("float32")


def quantizer_of(num_bits, scale_shape):
    return quantizers.make(QuantSpec(num_bits=num_bits, method="alternating"), SHAPE, scale_shape)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
@pytest.mark.parametrize("scale_shape", SCALE_SHAPES.values(), ids=SCALE_SHAPES)
def test_values_and_record(num_bits, scale_shape, tmp_path):
    quantizer, expected = quantizer_of(num_bits, scale_shape), np.empty(SHAPE)
    for _, part in blocks(SHAPE, scale_shape):
        expected[part] = oracle(WEIGHTS[part].ravel(), num_bits).reshape(WEIGHTS[part].shape)
    value = ops.convert_to_numpy(quantizer(ops.convert_to_tensor(WEIGHTS)))
    np.testing.assert_allclose(value, expected, atol=1e-5)
    tensor = quantizer.tensor("head/kernel", ops.convert_to_tensor(WEIGHTS), WEIGHTS)
    assert isinstance(tensor, PalettizedTensor) and tensor.spec.num_bits == num_bits
    assert tensor.codebook.shape == (int(np.prod(scale_shape)), 2**num_bits, 1)
    np.testing.assert_array_equal(tensor.values(), value)
    CompressionRecord({tensor.name: tensor}, {}, 288, "net").save(tmp_path / "r.npz")
    np.testing.assert_array_equal(
        CompressionRecord.load(tmp_path / "r.npz").tensors["head/kernel"].values(), tensor.values()
    )


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_gradients_pass_but_for_weights_that_run_away(num_bits):
    upstream = np.random.default_rng(4).normal(size=SHAPE).astype("float32")
    weights = WEIGHTS.copy()
    weights[:2] *= 4.0
    quantizer = quantizer_of(num_bits, (1, 24))
    levels = np.sort(quantizer.tensor("kernel", ops.convert_to_tensor(weights), weights).codebook[..., 0], axis=1)
    end = levels[:, -1] + (levels[:, -1] - levels[:, -2]) / 2
    expected = np.where((np.abs(weights) > end) & (upstream * weights < 0), 0.0, upstream)
    assert 0 < np.sum(expected == 0.0) < 40
    found = gradients(lambda x: ops.sum(quantizer(x) * ops.convert_to_tensor(upstream)), weights)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_step_brings_back_what_ran_away():
    weights = np.concatenate([np.tile([-0.3, -0.1, 0.1, 0.3], 99), [3.0]]).astype("float32")[:, None]
    quantizer = quantizers.make(QuantSpec(num_bits=2, method="alternating"), weights.shape, (1, 1))
    for push, expected in ((-1.0, 0.0), (1.0, 1.0)):
        found = gradients(lambda x, p=push: p * ops.sum(quantizer(x)), weights)[0]
        assert found[-1, 0] == expected and (found[:-1] == push).all()


def test_gradients_of_states_pass_straight_through():
    upstream = np.random.default_rng(4).normal(size=SHAPE).astype("float32")
    found = gradients(lambda x: ops.sum(alternating_rows(x, 2) * ops.convert_to_tensor(upstream)), WEIGHTS)[0]
    np.testing.assert_allclose(found, upstream, rtol=1e-6)


def test_rows_at_run_time_are_those_of_the_quantizer():
    rows = ops.convert_to_numpy(alternating_rows(ops.convert_to_tensor(WEIGHTS), 2))
    np.testing.assert_allclose(rows, quantizer_of(2, (12, 1))(ops.convert_to_tensor(WEIGHTS)), atol=1e-6)


def test_groups_along_the_input_are_refused():
    with pytest.raises(ValueError, match=r"granularity.*alternating.*per_channel"):
        QuantSpec(num_bits=2, method="alternating", granularity="per_group", group_size=4)
