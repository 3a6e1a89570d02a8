"""Codes, scales and half steps in LiteRT's integers, against the record's own values."""

import numpy as np
import pytest

from r2keras.export.weights.matching import match
from r2keras.export.weights.uniform import container_bits, store
from r2keras.specs import QuantSpec
from tests.export.quantize import quantize_tensor, specs

PLACES = {
    "dense/kernel": ((24, 20), lambda w: w.T, 0),
    "conv/kernel": ((3, 3, 8, 6), lambda w: w.transpose(3, 0, 1, 2), 0),
    "depthwise/kernel": ((3, 3, 8, 2), lambda w: w.reshape(1, 3, 3, 16), 3),
    "embedding/embeddings": ((40, 8), lambda w: w, None),
}


def placed(name, spec, seed=0, folded=True):
    """Returns a quantized weight, its match and the constant that holds it, batch normalization folded in."""
    shape, place, axis = PLACES[name]
    rng = np.random.default_rng(seed)
    tensor = quantize_tensor(name, rng.normal(size=shape).astype(np.float32), spec)
    constant = np.ascontiguousarray(place(tensor.values()))
    if folded and axis is not None:
        along = [1] * constant.ndim
        along[axis] = constant.shape[axis]
        constant = constant * rng.normal(size=along).astype(np.float32)
    return tensor, match(tensor.values(), constant), constant


@pytest.mark.parametrize("name", PLACES)
def test_the_stored_form_gives_constant_and_codes_back(name):
    for spec in specs():
        tensor, found, constant = placed(name, spec)
        stored = store(tensor, found, constant)
        np.testing.assert_allclose(stored.values(constant.shape), constant, rtol=4e-7, atol=0, err_msg=str(spec))
        np.testing.assert_array_equal(stored.recorded_codes(found, constant.shape, tensor.codes.shape), tensor.codes)
        assert stored.bits == container_bits(spec.num_bits)
        low, high = -(2 ** (stored.bits - 1)), 2 ** (stored.bits - 1) - 1
        assert low <= stored.codes.min()
        assert stored.codes.max() <= high


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_without_a_factor_the_recorded_scales_are_stored_bit_for_bit(num_bits):
    spec = QuantSpec(num_bits=num_bits, levels="mid_tread")
    tensor, found, constant = placed("dense/kernel", spec, folded=False)
    stored = store(tensor, found, constant)
    np.testing.assert_array_equal(stored.values(constant.shape), constant)
    np.testing.assert_array_equal(stored.scale, tensor.scale.ravel())


@pytest.mark.parametrize(("num_bits", "adds"), [(1, False), (2, True), (3, False), (4, True), (7, False), (8, True)])
def test_mid_rise_codes_are_doubled_where_the_container_has_room(num_bits, adds):
    tensor, found, constant = placed("dense/kernel", QuantSpec(num_bits=num_bits, levels="mid_rise"))
    stored = store(tensor, found, constant)
    assert stored.doubled != adds
    assert (stored.add is not None) == adds
    assert not np.any(stored.zero_point)


def test_groups_of_a_depthwise_kernel_along_its_height_are_transposed():
    spec = QuantSpec(num_bits=4, granularity="per_group", group_size=2)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 8, 1)).astype(np.float32)
    tensor = quantize_tensor("kernel", weight.transpose(1, 2, 0, 3), spec)
    codes, scale = tensor.codes.transpose(2, 0, 1, 3), tensor.scale.transpose(2, 0, 1, 3)
    scale = np.ascontiguousarray(np.broadcast_to(scale, (2, 1, 1, 1)) * rng.uniform(1, 2, (2, 1, 8, 1)), np.float32)
    tensor = type(tensor)("kernel", codes, scale, 0 * scale, spec, tensor.before)
    constant = tensor.values().reshape(1, 4, 3, 8)
    found = match(tensor.values(), constant)
    stored = store(tensor, found, constant)
    assert stored.codes.shape == (16, 6)
    np.testing.assert_array_equal(stored.values(constant.shape), constant)
    np.testing.assert_array_equal(stored.recorded_codes(found, constant.shape, codes.shape), codes)


@pytest.mark.parametrize("num_bits", [0, 9])
def test_widths_outside_1_to_8_are_refused(num_bits):
    with pytest.raises(ValueError, match="from 1 to 8"):
        container_bits(num_bits)
