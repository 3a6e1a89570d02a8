"""The purpose of the regularizers: weights trained under them have a smaller range."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.regularizers import Kurtosis, R2Linf, R2Margin, R2SoftMinMax

pytestmark = pytest.mark.backends

MAKERS = {
    "linf": lambda: R2Linf(0.05),
    "linf_scale_free": lambda: R2Linf(0.01, scale_free=True),
    "margin": lambda: R2Margin(0.05),
    "margin_scale_free": lambda: R2Margin(0.02, scale_free=True),
    "margin_vectors": lambda: R2Margin(0.05, dim=2),
    "soft_min_max": lambda: R2SoftMinMax(0.05, sharpness=10.0),
    "soft_min_max_scale_free": lambda: R2SoftMinMax(0.02, scale_free=True),
    "kurtosis": lambda: Kurtosis(0.1),
}


@pytest.fixture(scope="module")
def ranges():
    """By name: the range of a kernel that was trained on a target with a few large weights; None: unregularized."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(5)
    # One long epoch: starting an epoch costs more than its steps.
    x = np.tile(rng.normal(size=(256, 20)).astype("float32"), (20, 1))
    target = rng.standard_t(3, size=(20, 8)) * 0.2
    y = (x @ target + 0.1 * rng.normal(size=(len(x), 8))).astype("float32")
    inputs, start = keras.Input((20,)), keras.initializers.GlorotUniform(seed=0)
    made = {None: None} | {name: make() for name, make in MAKERS.items()}
    # Adam moves every weight by its own gradients, so one model trains all of them apart.
    heads = {name: keras.layers.Dense(8, kernel_initializer=start, kernel_regularizer=r) for name, r in made.items()}
    model = keras.Model(inputs, [layer(inputs) for layer in heads.values()])
    model.compile(optimizer=keras.optimizers.Adam(0.04), loss=["mse"] * len(heads))
    model.fit(x, [y] * len(heads), batch_size=64, verbose=0, shuffle=False)
    kernels = {name: ops.convert_to_numpy(layer.kernel) for name, layer in heads.items()}
    return {name: np.abs(kernel).max() / kernel.std() for name, kernel in kernels.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_trained_weights_have_a_smaller_range(name, ranges):
    assert ranges[name] < 0.95 * ranges[None]
