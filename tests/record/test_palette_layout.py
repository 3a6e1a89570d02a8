"""PaletteLayout: there and back for every shape, groups by channel, the regularizers' sub-vectors."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops.range_loss import subvectors
from r2keras.record import PaletteLayout

pytestmark = pytest.mark.backends

# shape, dim, channel axes, group size
LAYOUTS = [
    ((6, 8), 1, (1,), None),
    ((6, 8), 4, (1,), None),
    ((6, 7), 4, (1,), None),
    ((3, 3, 5, 8), 2, (3,), 4),
    ((3, 3, 5, 8), 8, (3,), None),
    ((3, 3, 4, 1), 1, (2, 3), 2),
    ((3, 3, 4, 2), 2, (2, 3), 4),
    ((10, 6), 3, (0,), 5),
    ((3, 3, 8, 5), 1, (2,), 4),
    ((3, 3, 8, 5), 2, (2,), 4),
    ((2, 3, 4), 2, (1, 2), 6),
    ((7, 1), 1, (1,), None),
]


def layout_of(case):
    return PaletteLayout(*case)


def filled(layout):
    return np.random.default_rng(0).normal(size=layout.shape).astype("float32")


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_there_and_back(case, xp):
    layout = layout_of(case)
    weight = filled(layout)
    vectors = layout.split(weight if xp is np else ops.convert_to_tensor(weight), xp)
    assert tuple(vectors.shape) == (layout.groups, np.prod(layout.index_shape) // layout.groups, layout.dim)
    np.testing.assert_array_equal(ops.convert_to_numpy(layout.join(vectors, xp)), weight)


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
def test_indices_name_the_vectors_of_their_place(case):
    layout = layout_of(case)
    numbers = np.arange(np.prod(layout.index_shape)).reshape(layout.index_shape)
    split = layout.split_indices(numbers, np)
    np.testing.assert_array_equal(layout.join_indices(split, np), numbers)
    # A weight that holds the number of its vector everywhere.
    weight = np.repeat(numbers, layout.dim, axis=-1)[..., : layout.shape[-1]].astype(float)
    vectors = layout.split(weight, np)
    np.testing.assert_array_equal(vectors[..., 0], split)
    if layout.shape[-1] % layout.dim == 0:
        assert (vectors == vectors[..., :1]).all()


@pytest.mark.parametrize("case", [case for case in LAYOUTS if case[3]], ids=str)
def test_a_group_is_a_run_of_output_channels(case):
    layout = layout_of(case)
    sizes = [layout.shape[axis] for axis in layout.axes]
    channel = np.arange(np.prod(sizes)).reshape(sizes)
    spread = np.expand_dims(channel, tuple(axis for axis in range(len(layout.shape)) if axis not in layout.axes))
    groups = layout.split(np.broadcast_to(spread, layout.shape).astype(float), np)
    assert len(groups) == np.prod(sizes) // layout.group_size
    for place, group in enumerate(groups):
        wanted = range(place * layout.group_size, (place + 1) * layout.group_size)
        assert set(group.ravel()) == set(wanted)


@pytest.mark.parametrize("shape", [(6, 8), (3, 3, 5, 8), (10, 6), (2, 3, 4), (4, 9)])
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_vectors_are_those_of_the_regularizers(shape, dim):
    weight = np.random.default_rng(0).normal(size=shape).astype("float32")
    layout = PaletteLayout(shape, dim, (len(shape) - 1,), None)
    ours = layout.split(weight, np)[0]
    whole = np.broadcast_to(np.arange(layout.index_shape[-1]) < shape[-1] // dim, layout.index_shape).ravel()
    # They leave out what does not fill a vector; everything else is the same, in the same order.
    np.testing.assert_array_equal(ours[whole], ops.convert_to_numpy(subvectors(weight, dim)))


def test_what_fills_the_last_vector_are_the_first_channels_of_the_same_place():
    layout, weight = PaletteLayout((2, 5), 3, (1,), None), np.arange(10.0).reshape(2, 5)
    assert layout.split(weight, np)[0, 1].tolist() == [3.0, 4.0, 0.0]
    assert layout.split(weight, np)[0, 3].tolist() == [8.0, 9.0, 5.0]


def test_gradients_reach_every_weight_once():
    layout = PaletteLayout((2, 4), 2, (1,), 2)
    vectors = layout.split(ops.convert_to_tensor(np.eye(2, 4, dtype="float32")), ops)
    assert keras.backend.standardize_dtype(vectors.dtype) == "float32"
    assert float(ops.sum(vectors)) == 2.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((6, 3), 4, (1,), None), "at most the last axis of the weight.*3"),
        (((), 1, (), None), "dim"),
        (((6, 8), 1, (1,), 3), "a divisor of the 8 output channels"),
        (((6, 9), 2, (1,), 3), "with dim=2 dividing both"),
        (((6, 8), 4, (1,), 2), "with dim=4 dividing both"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        PaletteLayout(*arguments)
