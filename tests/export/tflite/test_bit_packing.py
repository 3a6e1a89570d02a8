"""Codes in bytes, against arithmetic on Python integers."""

import numpy as np
import pytest

from r2keras.export.tflite.bit_packing import pack, unpack


def packed_by_hand(codes, num_bits):
    """Writes the codes into one large integer, the first one lowest."""
    number = sum((int(code) % 2**num_bits) << (i * num_bits) for i, code in enumerate(codes))
    return number.to_bytes(-(-len(codes) * num_bits // 8), "little")


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 97])
def test_bytes_are_little_end_first_and_come_back(num_bits, size):
    rng = np.random.default_rng(size)
    codes = rng.integers(-(2 ** (num_bits - 1)), 2 ** (num_bits - 1), size).astype(np.int8)
    data = pack(codes, num_bits)
    assert data.tobytes() == packed_by_hand(codes, num_bits)
    np.testing.assert_array_equal(unpack(data, num_bits, size), codes)


def test_a_million_codes_take_milliseconds():
    codes = np.tile(np.array([-2, -1, 0, 1], np.int8), 250_000)
    assert pack(codes, 2).size == 250_000
    np.testing.assert_array_equal(unpack(pack(codes, 2), 2, codes.size), codes)


@pytest.mark.parametrize(("codes", "num_bits"), [([2], 2), ([-9], 4), ([0], 3), ([0], 16)])
def test_codes_that_do_not_fit_are_refused(codes, num_bits):
    with pytest.raises(ValueError, match="Invalid value"):
        pack(np.array(codes), num_bits)


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="5 codes of 2 bits"):
        unpack(np.zeros(1, np.uint8), 2, 5)
