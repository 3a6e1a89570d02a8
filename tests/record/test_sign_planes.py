"""Palettes as sums of signs: every table is put together again, and what has too many planes is refused."""

import itertools

import numpy as np
import pytest

from r2keras.record import PaletteLayout, PalettizedTensor, RangeFigures, sign_planes, tables_of
from r2keras.specs import PaletteSpec


def palette(tables, dim=1):
    """Returns a palette with the given tables, `(groups, entries)`, one group per output channel."""
    tables = np.asarray(tables, np.float32)
    groups, entries = tables.shape
    layout = PaletteLayout((3 * dim, groups * dim), dim, (1,), dim)
    spec = PaletteSpec(num_bits=entries.bit_length() - 1, dim=dim, granularity="per_group", group_size=dim)
    indices = np.random.default_rng(0).integers(0, entries, layout.index_shape).astype(np.uint8)
    table = np.repeat(tables[..., None], dim, axis=2)
    one = np.ones((1, 1), np.float32)
    figures = RangeFigures.of(np.array([-1.0, 1.0]))
    return PalettizedTensor("w", indices, table, np.ones(groups, np.float32), one, spec, layout, figures)


def alternating_tables(coefficients):
    """Returns the tables whose entry `k` adds the coefficients with the signs of the bits of `k`, lowest first."""
    bits = list(itertools.product((-1, 1), repeat=coefficients.shape[1]))
    signs = np.array([row[::-1] for row in bits], np.float32)
    return np.stack([np.add.reduce(row * signs, axis=1, dtype=np.float32) for row in coefficients.astype(np.float32)])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_alternating_codes_have_a_plane_per_bit(bits):
    coefficients = np.sort(np.random.default_rng(bits).random((6, bits)) + 0.01, axis=1)[:, ::-1]
    planes = sign_planes(palette(alternating_tables(coefficients)))
    np.testing.assert_allclose(planes.coefficients, coefficients, rtol=1e-6)
    expected = [[1 if k >> bit & 1 else -1 for k in range(2**bits)] for bit in range(bits)]
    assert planes.signs.tolist() == expected and not planes.mean.any()


@pytest.mark.parametrize(
    ("tables", "count", "has_mean"),
    [
        ([[-2.0, -0.5, 0.5, 2.0]], 2, False),
        ([[-2.0, -0.5, 0.25, 2.0]], 3, True),
        ([[0.0, 0.0, 0.0, 0.0]], 1, False),
        ([[1.0, 4.0]], 1, True),
        ([[-1.0, 1.0, -1.0, 1.0], [-3.0, -1.0, 1.0, 3.0]], 2, False),
        ([[-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]], 3, False),
    ],
)
def test_planes_add_up_to_the_table(tables, count, has_mean):
    planes = sign_planes(palette(tables))
    assert planes.signs.shape == (count, len(tables[0])) and planes.mean.any() == has_mean
    np.testing.assert_allclose(planes.mean[:, None] + planes.coefficients @ planes.signs, tables, atol=1e-6)


def test_what_has_no_planes():
    random = np.random.default_rng(0)
    assert sign_planes(palette(random.normal(size=(1, 8)))) is None
    assert sign_planes(palette(random.normal(size=(2, 4)), dim=2)) is None
    # A difference that float32 resolves counts.
    nearly = np.array([[-2.0, -0.5, 0.5, 2.0 + 1e-5]])
    assert len(sign_planes(palette(nearly)).signs) == 3


def test_the_table_of_each_weight():
    assert tables_of(palette(np.ones((4, 2)))).tolist() == [[0, 1, 2, 3]] * 3
