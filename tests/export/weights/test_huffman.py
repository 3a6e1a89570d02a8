"""Huffman codes for microcontrollers: what is decoded, how many bits it takes, and damage."""

import heapq
import itertools

import numpy as np
import pytest

from r2keras.export.weights.huffman import HEADER_BYTES, code_lengths, codewords, decode, decode_table, encode


def skewed(num_symbols, size, seed=0):
    """Returns int8 codes of which the first are the most frequent."""
    rng = np.random.default_rng(seed)
    share = 0.7 ** np.arange(num_symbols)
    codes = rng.choice(num_symbols, size, p=share / share.sum()) - num_symbols // 2
    codes[:num_symbols] = np.arange(num_symbols) - num_symbols // 2
    return codes.astype(np.int8)


def optimal_bits(counts):
    """Returns the bits of Huffman's own algorithm, without a limit."""
    heap, total = sorted(map(int, counts)), 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


@pytest.mark.parametrize(("num_symbols", "size"), itertools.product((1, 2, 3, 15, 16, 100, 255, 256), (256, 5000)))
def test_codes_come_back(num_symbols, size):
    codes = skewed(num_symbols, size)
    stored = encode(codes)
    np.testing.assert_array_equal(decode(*stored, size), codes)
    assert len(stored.packed) % 4 == 0
    assert stored.num_bytes == len(stored.packed) + len(stored.ancillary)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 63, 64, 65])
def test_the_last_codeword_may_end_anywhere(size):
    codes = np.resize(np.array([0, 0, 1, -1, 0, 3], np.int8), size)
    np.testing.assert_array_equal(decode(*encode(codes), size), codes)


def test_bits_are_those_of_huffmans_algorithm():
    _, counts = np.unique(skewed(15, 20000), return_counts=True)
    lengths = code_lengths(counts, 14)
    assert int(lengths @ counts) == optimal_bits(counts)
    assert (2.0**-lengths).sum() == 1


@pytest.mark.parametrize("limit", [4, 5, 6, 9])
def test_a_limit_of_the_lengths_is_kept(limit):
    counts = 2 ** np.arange(15)
    lengths = code_lengths(counts, limit)
    assert lengths.max() <= limit
    assert (2.0**-lengths).sum() == 1
    assert (np.diff(lengths) <= 0).all()


def test_every_width_of_the_first_table_decodes_the_same():
    symbols = np.arange(-4, 5)
    lengths = code_lengths(2 ** np.arange(9), 8)
    words = codewords(lengths)
    for width in range(1, 9):
        table = decode_table(symbols, lengths, words, width)
        for symbol, length, word in zip(symbols, lengths, words, strict=True):
            header = np.zeros(HEADER_BYTES, np.uint8)
            header[:6] = 1, 1, 0, 0, 1, (width - 1) << 4
            ancillary = np.concatenate([header, np.array(table, "<u2").view(np.uint8)])
            packed = np.frombuffer((int(word) << (32 - int(length))).to_bytes(4, "big"), np.uint8)
            assert decode(packed, ancillary, 1).tolist() == [symbol]


def test_the_layout_is_that_of_the_runtime():
    """Three symbols: 0 has the codeword 0, -1 has 10 and 1 has 11; one table of four entries."""
    stored = encode(np.array([0, 0, 0, 0, 1, 1, -1], np.int8))
    assert stored.ancillary[:6].tolist() == [1, 1, 0, 0, 1, 16]
    assert [hex(entry) for entry in stored.ancillary[HEADER_BYTES:].view("<u2")] == [
        "0x8800",
        "0x8800",
        "0x90ff",
        "0x9001",
    ]
    assert stored.packed.tolist() == [0b00001111, 0b10000000, 0, 0]


@pytest.mark.parametrize("place", [0, 1, 4, 5])
def test_another_header_is_refused(place):
    stored = encode(skewed(15, 100))
    stored.ancillary[place] += 1
    with pytest.raises(ValueError, match="another header"):
        decode(*stored, 100)


def test_reads_beyond_the_constants_are_refused():
    stored = encode(skewed(15, 100))
    with pytest.raises(ValueError, match="too few codewords"):
        decode(stored.packed[:8], stored.ancillary, 100)
    with pytest.raises(ValueError, match="too few codewords"):
        decode(*stored, 1000)
    with pytest.raises(ValueError, match="beyond its tables"):
        decode(stored.packed, stored.ancillary[: HEADER_BYTES + 4], 100)
    with pytest.raises(ValueError, match="another header"):
        decode(stored.packed, stored.ancillary[:0], 100)
