"""Look-up tables for microcontrollers: packing, headers, reading back, against bits written out one by one."""

import itertools

import numpy as np
import pytest

from r2keras.export.weights.lookup_table import pack_indices, read_lookup, tabulate, unpack_indices

WIDTHS = range(1, 8)


@pytest.mark.parametrize(("num_bits", "size"), itertools.product(WIDTHS, (1, 7, 8, 1001)))
def test_indices_are_packed_from_the_highest_bit(num_bits, size):
    indices = np.random.default_rng(num_bits).integers(0, 2**num_bits, size)
    bits = "".join(f"{index:0{num_bits}b}" for index in indices)
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    packed = pack_indices(indices, num_bits)
    assert packed.tolist() == expected
    np.testing.assert_array_equal(unpack_indices(packed, num_bits, size), indices)


@pytest.mark.parametrize(("indices", "num_bits"), [([0, 4], 2), ([-1], 3), ([0], 8), ([0], 0), ([128], 7)])
def test_indices_that_do_not_fit_are_refused(indices, num_bits):
    with pytest.raises(ValueError, match=r"Invalid value for argument `(indices|num_bits)`"):
        pack_indices(np.array(indices), num_bits)


@pytest.mark.parametrize(("axis", "entries"), itertools.product((None, 0, 3), (1, 2, 3, 16, 17)))
def test_a_tensor_comes_back_from_its_bytes(axis, entries):
    rng = np.random.default_rng(entries)
    values = rng.choice(rng.normal(size=entries).astype(np.float32), (4, 3, 3, 5))
    lookup = tabulate(values, axis)
    np.testing.assert_array_equal(lookup.values(), values)
    read = read_lookup(lookup.packed(), lookup.ancillary(), values.shape)
    assert (read.bits, read.axis) == (lookup.bits, axis)
    np.testing.assert_array_equal(read.values(), values)
    assert lookup.num_bytes == lookup.packed().size + lookup.ancillary().size


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7)])
def test_the_width_follows_from_the_number_of_values(count, bits):
    assert tabulate(np.arange(count, dtype=np.float32)).bits == bits


def test_tables_have_at_most_128_entries():
    values = np.arange(258, dtype=np.float32).reshape(2, 129)
    assert tabulate(values) is None
    assert tabulate(values, 0) is None
    assert tabulate(values, 1).tables.shape == (129, 2)


def test_tables_of_different_length_are_filled_up():
    lookup = tabulate(np.array([[2.0, 1.0, 2.0], [5.0, 5.0, 5.0]], np.float32), 0)
    assert lookup.tables.tolist() == [[1.0, 2.0], [5.0, 0.0]]
    assert lookup.indices.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_other_headers_are_refused(place):
    lookup = tabulate(np.arange(4, dtype=np.float32))
    header = lookup.ancillary()
    header[place] += 1
    with pytest.raises(ValueError, match="header of a look-up table"):
        read_lookup(lookup.packed(), header, (4,))
