"""The benchmark of packing: both ways give the same bytes, and the table shows the rows."""

import pytest

from benchmarks import tflm_packing


@pytest.mark.parametrize("axis", [None, 0])
def test_both_ways_are_compared_and_timed(axis, microcontrollers):
    row = tflm_packing.measure(3, axis, (4, 3, 3, 40), rounds=2)
    assert row["weights"] == 1440
    assert row["ours"] > 0
    assert row["wheel"] > 0


def test_table():
    row = {"num_bits": 4, "axis": None, "weights": 999936, "ours": 0.1, "wheel": 1.0, "ratio": (9.0, 10.0, 11.0)}
    line = "| 4 | one | 999,936 | 0.100 | 1.000 | 10.0 (9.0 to 11.0) |"
    assert tflm_packing.table([row]).splitlines()[-1] == line
