"""Differentiable k-means against the formula written naively: values, gradients, fixed points, bad numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras import PaletteSpec
from r2keras.layers.kernels import initial_codebook
from r2keras.ops import codebook_dtype, dkm, dkm_scalar, dkm_vector, kmeans
from tests.gradients import gradients
from tests.oracles_dkm import naive_dkm, numpy_dkm, squared_error

pytestmark = pytest.mark.backends

# Weights enough for the table: fewer than in real use, so that the naive formula stays quick.
MANY = 8192
EVERY = keras.backend.backend() == "tensorflow"


@pytest.fixture(autouse=True)
def _table(monkeypatch):
    monkeypatch.setattr(dkm_scalar, "MIN_SIZE", MANY)


def on(*cases):
    """All cases on TensorFlow, every third elsewhere: JAX compiles for seconds for every shape."""
    return cases if EVERY else cases[::-3]


def weights(n, dim=1, std=0.05, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, dim)) * std).astype("float32")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def relative(found, wanted):
    return np.linalg.norm(array(found) - array(wanted)) / np.linalg.norm(array(wanted))


def run(vectors, codebook, **options):
    values, book = dkm.soft_palette(
        ops.expand_dims(ops.convert_to_tensor(vectors), 0), ops.convert_to_tensor(codebook[None]), **options
    )
    return values[0], book[0]


def compare(vectors, codebook, temperature, steps=3):
    """Errors of the values, the codebook and the gradient, relative in norm."""
    options = {"temperature": temperature, "steps": steps}
    values, book = run(vectors, codebook, **options)
    exact, exact_book = numpy_dkm(vectors, codebook, temperature, steps)
    upstream = ops.convert_to_tensor(weights(*vectors.shape, std=1.0, seed=9))
    (found,) = gradients(lambda w: ops.sum(upstream * run(w, codebook, **options)[0]), vectors)
    start = ops.convert_to_tensor(codebook)
    (wanted,) = gradients(lambda w: ops.sum(upstream * naive_dkm(w, start, temperature, steps)[0]), vectors)
    assert np.isfinite(wanted).all()
    return relative(values, exact), relative(book, exact_book), relative(found, wanted)


@pytest.mark.parametrize("num_bits", on(*range(1, 9)))
def test_scalars_by_table_against_the_formula(num_bits):
    vectors, spec = weights(MANY), PaletteSpec(num_bits=num_bits)
    codebook = initial_codebook.scalar_centroids(vectors, spec.entries).astype("float32")
    value, book, gradient = compare(vectors, codebook, spec.temperature)
    assert value < 1e-4 and book < 1e-4 and gradient < 1e-2


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("temperature", on(0.01, 0.05, 0.5))
@pytest.mark.parametrize("shape", ["heavy", "shifted"])
def test_scalars_by_table_at_other_temperatures_and_shapes(temperature, shape):
    random = np.random.default_rng(2)
    vectors = {"heavy": random.standard_t(4, (MANY, 1)), "shifted": 3.0 + random.normal(size=(MANY, 1))}[shape]
    vectors = (0.02 * vectors).astype("float32")
    codebook = np.quantile(vectors, [0.03, 0.3, 0.7, 0.97])[:, None].astype("float32")
    value, book, gradient = compare(vectors, codebook, temperature)
    assert value < 1e-4 and book < 1e-4 and gradient < 1e-2


@pytest.mark.parametrize(("num_bits", "dim"), on((1, 1), (4, 1), (8, 1), (4, 2), (4, 4), (2, 8), (8, 2)))
def test_vectors_by_pieces_against_the_formula(num_bits, dim, monkeypatch):
    monkeypatch.setattr(dkm_vector, "PIECE", 64 * 2**num_bits)
    vectors, spec = weights(512, dim), PaletteSpec(num_bits=num_bits, dim=dim)
    codebook = vectors[:: 512 // spec.entries]
    value, book, gradient = compare(vectors, codebook, spec.temperature)
    assert value < 1e-4 and book < 1e-4 and gradient < 1e-2


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("steps", on(0, 1, 5))
@pytest.mark.parametrize("n", [500, MANY])
def test_any_number_of_updates(n, steps):
    vectors = weights(n)
    codebook = np.array([[-0.06], [0.0], [0.05]], "float32")
    value, book, gradient = compare(vectors, codebook, 0.1, steps)
    assert value < 1e-4 and book < 1e-4 and gradient < 1e-2


@pytest.mark.parametrize("n", [500, MANY])
def test_groups_do_not_touch_each_other(n):
    both = np.stack([weights(n, seed=1), 3.0 * weights(n, seed=2)])
    books = np.stack([initial_codebook.scalar_centroids(part, 4) for part in both]).astype("float32")
    values, found = dkm.soft_palette(ops.convert_to_tensor(both), ops.convert_to_tensor(books), temperature=0.1)
    for place in range(2):
        alone, book = run(both[place], books[place], temperature=0.1)
        np.testing.assert_allclose(array(values)[place], array(alone), atol=2e-6)
        np.testing.assert_allclose(array(found)[place], array(book), atol=2e-6)


@pytest.mark.parametrize("n", [500, MANY])
def test_outside_eager_mode_it_is_the_same(n):
    vectors, codebook = weights(n), np.array([[-0.06], [0.0], [0.05]], "float32")

    class Model(keras.Model):
        def call(self, inputs):
            return run(inputs, codebook, temperature=0.1)[0]

    model = Model(name="model")
    model.compile(jit_compile=keras.backend.backend() == "jax")
    compiled = model.predict(vectors, batch_size=n, verbose=0)
    np.testing.assert_allclose(compiled, array(run(vectors, codebook, temperature=0.1)[0]), atol=1e-6)


@pytest.mark.parametrize(("std", "num_bits"), on((0.001, 4), (0.03, 1), (1.0, 2), (0.03, 4), (0.001, 6), (1.0, 4)))
def test_frozen_weights_keep_the_optimum(std, num_bits):
    vectors, spec = weights(6_000, std=std), PaletteSpec(num_bits=num_bits)
    book = start = initial_codebook.scalar_centroids(vectors, spec.entries).astype("float32")
    # All that 50 forward passes do: 150 updates.
    for _ in range(5):
        book = array(run(vectors, book, temperature=spec.temperature, steps=30)[1])
    best, kept = (np.sqrt(squared_error(vectors, b)) for b in (start, book))
    assert kept < 1.01 * best


@pytest.mark.parametrize("n", [40, MANY])
@pytest.mark.parametrize("value", [0.0, 0.7, -1e-20])
def test_constant_weights_stay_what_they_are(n, value):
    vectors = np.full((n, 1), value, "float32")
    codebook = np.full((4, 1), value, "float32")
    values, book = run(vectors, codebook, temperature=0.1)
    np.testing.assert_allclose(array(values), vectors, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(array(book), codebook, rtol=1e-5, atol=1e-30)
    (gradient,) = gradients(lambda w: ops.sum(run(w, codebook, temperature=0.1)[0]), vectors)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("n", [500, MANY])
def test_a_centroid_that_gets_nothing_stays(n):
    vectors, codebook = weights(n), np.array([[-0.05], [0.05], [40.0]], "float32")
    values, book = run(vectors, codebook, temperature=0.01)
    assert array(book)[2, 0] == 40.0 and abs(array(values)).max() < 0.2
    (gradient,) = gradients(lambda w: ops.sum(run(w, codebook, temperature=0.01)[0]), vectors)
    assert np.isfinite(gradient).all()


def test_the_look_up_ends_in_rounded_centroids():
    vectors, codebook = weights(500), np.array([[-0.05], [0.05]], "float32")
    rounded = [run(vectors, codebook, temperature=1e-4, snap=s)[0] for s in (None, lambda c: ops.round(c * 10) / 10)]
    assert len(np.unique(array(rounded[1]).round(4))) <= 3
    assert abs(array(rounded[1])).max() <= 0.1 + 1e-6 and abs(array(rounded[0] - rounded[1])).max() > 1e-3


# kmeans, tables


@pytest.mark.parametrize(("groups", "dim"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_nearest_against_numpy(groups, dim):
    vectors = np.stack([weights(300, dim, seed=s) for s in range(groups)])
    codebook = np.stack([weights(7, dim, seed=50 + s) for s in range(groups)])
    wanted = ((vectors[:, :, None].astype("f8") - codebook[:, None]) ** 2).sum(-1).argmin(-1)
    found = array(kmeans.nearest(ops.convert_to_tensor(vectors), ops.convert_to_tensor(codebook)))
    np.testing.assert_array_equal(found, wanted)
    looked = array(kmeans.look_up(ops.convert_to_tensor(codebook), ops.convert_to_tensor(found)))
    np.testing.assert_array_equal(looked, np.stack([c[i] for c, i in zip(codebook, wanted, strict=True)]))


def test_one_entry_is_the_nearest_to_all():
    assert array(kmeans.nearest(ops.ones((1, 5, 1)), ops.zeros((1, 1, 1)))).tolist() == [[0] * 5]


def test_there_are_never_many_pieces():
    parts = kmeans.pieces(ops.ones((1, 1000, 2)), 256, 1)
    assert len(parts) <= 32 and sum(part.shape[1] for part in parts) == 1000


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tables_are_rounded_to_what_the_type_holds(dtype):
    codebook = weights(16)[None] * np.array([1.0, 40.0], "float32")[:, None, None]
    codes, scale = map(array, codebook_dtype.stored(ops.convert_to_tensor(codebook), dtype))
    np.testing.assert_array_equal(codes, codes.astype(dtype).astype("float32"))
    np.testing.assert_array_equal(array(codebook_dtype.snapped(ops.convert_to_tensor(codebook), dtype)), codes * scale)
    step = scale / 2 if dtype == "int8" else abs(codebook) * 2**-11 + 1e-7
    assert (abs(codes * scale - codebook) <= step * 1.001).all()
    if dtype == "int8":
        np.testing.assert_array_equal(abs(codes).max(axis=(1, 2)), [127, 127])


def test_a_table_of_zeros_has_a_scale():
    codes, scale = codebook_dtype.stored(ops.zeros((1, 4, 1)), "int8")
    assert not array(codes).any() and array(scale).item() > 0
