"""The benchmark of palettes: its naive formula is the formula, and its table shows the rows."""

import numpy as np
import pytest

from benchmarks import dkm
from tests.oracles_dkm import numpy_dkm


def test_the_naive_form_is_the_formula():
    tf = pytest.importorskip("tensorflow")
    vectors = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    found = dkm.naive(tf, tf.constant(vectors), tf.constant(vectors[:4]), 0.2 * vectors.var(axis=0).mean())
    np.testing.assert_allclose(found.numpy(), numpy_dkm(vectors, vectors[:4], 0.2)[0], rtol=1e-3, atol=1e-4)


def test_table():
    row = {
        "num_bits": 4,
        "dim": 1,
        "way": "r2keras",
        "step_s": 0.0481,
        "cpu_s": 0.05,
        "extra_mb": 127.4,
        "start_s": 0.6,
    }
    assert dkm.table([row]).splitlines()[-1] == "| 4 / 1 | r2keras | 0.048 | 0.050 | 127 | 0.60 |"
