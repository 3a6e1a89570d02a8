"""The percentile range against NumPy, and through the quantizer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops import affine
from r2keras.quantizers import AffineQuantizer
from r2keras.specs import QuantSpec
from tests import reference

pytestmark = pytest.mark.backends

SHAPE = (8, 6)
SCALE_SHAPES = {"per_tensor": (1, 1), "per_channel": (1, 6), "per_group": (4, 6)}


def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_t(2, SHAPE).astype("float32")


@pytest.mark.parametrize("scale_shape", SCALE_SHAPES.values(), ids=SCALE_SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("percentile", [75.0, 99.0, 100.0])
def test_every_block_is_clipped_at_its_percentiles(scale_shape, symmetric, percentile):
    x = weights()
    found = ops.convert_to_numpy(affine.percentile_clip(x, scale_shape, percentile, symmetric))
    wanted = np.empty_like(x)
    for _, part in reference.blocks(SHAPE, scale_shape):
        high = np.percentile(np.abs(x[part]) if symmetric else x[part], percentile)
        low = -high if symmetric else np.percentile(x[part], 100 - percentile)
        wanted[part] = np.clip(x[part], low, high)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("granularity", SCALE_SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantizer_has_the_min_max_grid_of_the_clipped_weight(granularity, symmetric):
    x, shape = weights(), SCALE_SHAPES[granularity]
    group = {"group_size": 2} if granularity == "per_group" else {}
    grid = {"num_bits": 4, "symmetric": symmetric, "granularity": granularity, **group}
    clipped = affine.percentile_clip(x, shape, 90.0, symmetric)
    wanted = AffineQuantizer(QuantSpec(range="min_max", **grid), SHAPE, shape).grid(clipped)
    quantizer = AffineQuantizer(QuantSpec(range="percentile", percentile=90.0, **grid), SHAPE, shape)
    for found, value in zip(quantizer.grid(ops.convert_to_tensor(x)), wanted, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(value))


def test_one_outlier_does_not_set_the_scale():
    x = np.ones((1000, 1), "float32")
    x[0] = 100.0
    scales = []
    for spec in (QuantSpec(range="min_max"), QuantSpec(range="percentile", percentile=99.0)):
        scale, _ = AffineQuantizer(spec, x.shape, (1, 1)).grid(ops.convert_to_tensor(x))
        scales.append(float(ops.convert_to_numpy(scale)[0, 0]))
    np.testing.assert_allclose(scales, [100 / 127, 1 / 127], rtol=1e-6)


def test_config_round_trip():
    quantizer = AffineQuantizer(QuantSpec(range="percentile", percentile=98.0), (4, 2), (1, 2))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert again.spec == quantizer.spec
