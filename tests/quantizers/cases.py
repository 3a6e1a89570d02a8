"""Every method of weight quantization with its oracle, and a weight for them."""

from __future__ import annotations

import numpy as np

from tests import oracles_quantizers as oracles

SHAPE = (6, 4)
SCALE_SHAPES = {"per_tensor": (1, 1), "per_channel": (1, 4), "per_group": (3, 4)}
CASES = {
    "lsq8": ({"num_bits": 8, "method": "lsq"}, oracles.lsq(8, False)),
    "lsq4": ({"num_bits": 4, "method": "lsq"}, oracles.lsq(4, False)),
    "lsq2": ({"num_bits": 2, "method": "lsq"}, oracles.lsq(2, True)),
    "lsq2tread": ({"num_bits": 2, "method": "lsq", "levels": "mid_tread"}, oracles.lsq(2, False)),
    "lsq1": ({"num_bits": 1, "method": "lsq"}, oracles.lsq(1, True)),
    "ewgs4": ({"num_bits": 4, "method": "ewgs"}, oracles.ewgs(4, 1e-3)),
    "ewgs2": ({"num_bits": 2, "method": "ewgs", "delta": 0.5}, oracles.ewgs(2, 0.5)),
    "ewgs1": ({"num_bits": 1, "method": "ewgs", "delta": 0}, oracles.ewgs(1, 0)),
    "dorefa8": ({"num_bits": 8, "method": "dorefa"}, oracles.dorefa(8)),
    "dorefa2": ({"num_bits": 2, "method": "dorefa"}, oracles.dorefa(2)),
    "dorefa1": ({"num_bits": 1, "method": "dorefa"}, oracles.dorefa(1)),
    "wrpn4": ({"num_bits": 4, "method": "wrpn"}, oracles.wrpn(4)),
    "wrpn2": ({"num_bits": 2, "method": "wrpn"}, oracles.wrpn(2)),
    "binary": ({"num_bits": 1, "method": "binary"}, oracles.binary),
    "ternary": ({"num_bits": 2, "method": "ternary"}, oracles.ternary),
    "balanced2": ({"num_bits": 2, "method": "balanced"}, oracles.balanced(2)),
    "balanced4": ({"num_bits": 4, "method": "balanced"}, oracles.balanced(4)),
}


def weights(seed=0):
    """Wide enough that some leave [-1, 1], and no two channels alike."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.05, 0.6, SHAPE) * np.array([0.3, 0.7, 1.0, 2.0])).astype("float32")


UPSTREAM = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
