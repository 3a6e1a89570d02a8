"""Percentiles of blocks against NumPy's, and the range they give."""

import numpy as np
import pytest
from keras import ops

from r2keras import QuantSpec, quantizers
from r2keras.ops.percentile import clip_to_percentile, percentiles
from tests import reference

pytestmark = pytest.mark.backends

SHAPES = [(1, 1), (1, 5), (8, 1), (8, 5), (4, 5), (2, 1)]
X = np.random.default_rng(2).normal(0.1, 1.0, (8, 5)).astype("float32")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percent", [0, 1, 50, 62.5, 99.9, 100])
def test_percentiles_are_those_of_numpy(shape, percent):
    found = array(percentiles(ops.convert_to_tensor(X), shape, percent))
    assert found.shape == shape
    for index, part in reference.blocks(X.shape, shape):
        np.testing.assert_allclose(found[index], np.percentile(X[part].astype("float64"), percent), rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_clips_to_what_the_percentiles_span(symmetric):
    clipped = array(clip_to_percentile(ops.convert_to_tensor(X), (1, 5), 80, symmetric))
    for column, wanted in zip(clipped.T, X.T, strict=True):
        high = np.percentile(np.abs(wanted) if symmetric else wanted, 80)
        low = -high if symmetric else np.percentile(wanted, 20)
        np.testing.assert_allclose(column, np.clip(wanted, low, high), rtol=1e-5)
    np.testing.assert_array_equal(clip_to_percentile(ops.convert_to_tensor(X), (1, 5), 100, symmetric), X)


@pytest.mark.parametrize(("num_bits", "symmetric"), [(4, True), (2, True), (4, False)])
def test_an_outlier_does_not_widen_the_percentile_range(num_bits, symmetric):
    w = np.concatenate([np.linspace(-1, 1, 199), [100.0]]).astype("float32")[:, None]
    scales = {}
    for name in ("min_max", "percentile"):
        spec = QuantSpec(
            num_bits=num_bits, range=name, symmetric=symmetric, **{"percentile": {"percentile": 99}}.get(name, {})
        )
        quantizer = quantizers.make(spec, w.shape, (1, 1))
        scales[name] = array(quantizer.grid(ops.convert_to_tensor(w))[0]).item()
        scale, zero = map(array, quantizer.grid(ops.convert_to_tensor(w)))
        values = scale * (array(quantizer.codes(ops.convert_to_tensor(w))) - zero)
        np.testing.assert_array_equal(array(quantizer(ops.convert_to_tensor(w))), values)
    assert scales["percentile"] < 0.03 * scales["min_max"]
