"""Palettize over every kind of layer, through prepare, fit and finalize: values, files, frozen layers, bad input."""

import functools
import json
import tempfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import CompressionRecord, PaletteSpec, QuantSpec, Recipe, finalize, prepare, report
from r2keras._models.walk import kernels, view_of
from r2keras.callbacks import AnnealPalettes
from r2keras.layers import PaletteMonitor, Palettize
from tests.layers.cases import BATCH, LAYERS, array, call, inputs_of, symbolic_input

pytestmark = pytest.mark.backends

SPEC = PaletteSpec(num_bits=2, min_size=0)
NAMES = (
    "dense",
    "conv2d",
    "transposed",
    "depthwise2d",
    "embedding",
    "einsum",
    "lstm",
    "attention",
)
if keras.backend.backend() != "tensorflow":
    # JAX compiles every layer for seconds.
    NAMES = ("dense", "conv2d", "embedding", "lstm")
# Every part of a spec on some layer; kernels that vectors of two do not fit have scalars.
SPECS = {
    "dense": PaletteSpec(num_bits=3, dim=2, min_size=0),
    "conv2d": PaletteSpec(num_bits=2, dim=3, min_size=0),
    "transposed": PaletteSpec(num_bits=2, granularity="per_group", group_size=2, min_size=0),
    "depthwise2d": PaletteSpec(num_bits=2, channel_scale=True, table_dtype="float16", min_size=0),
    "embedding": PaletteSpec(num_bits=2, dim=4, table_dtype="int8", min_size=0),
    "lstm": PaletteSpec(num_bits=2, granularity="per_group", group_size=8, table_dtype="int8", min_size=0),
}


def fit(model, x, y=None, epochs=2, compiled=False, **options):
    backend = keras.backend.backend()
    # Tracing takes TensorFlow longer than these few steps; `tests/ops` runs what is inside of them compiled too.
    how = {"run_eagerly": backend == "tensorflow" and not compiled, "jit_compile": backend == "jax"}
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss="mse", **how)
    outputs = model(x, training=False) if y is None else {}
    y = {n: np.ones(out.shape, "float32") for n, out in outputs.items()} if y is None else y
    return model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, **options).history


@functools.cache
def trained():
    """A model of every layer before and after compression and two steps."""
    keras.utils.set_random_seed(1)
    inputs = {name: symbolic_input(name) for name in NAMES}
    outputs = {name: call(LAYERS[name][0](name=name), name, inputs[name]) for name in NAMES}
    model = keras.Model({f"{name}_input": x for name, x in inputs.items()}, outputs)
    rules = [(f"^{name}$", SPECS.get(name, SPEC)) for name in NAMES]
    student, x = prepare(model, Recipe(rules)), {f"{name}_input": inputs_of(name) for name in NAMES}
    fit(student, x)
    hard, kept = student(x, training=False), student.get_weights()
    soft = student(x, training=True)
    student.set_weights(kept)
    return model, student, x, finalize(student), {n: (array(hard[n]), array(soft[n])) for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_finalized_layers_are_plain_and_hold_the_record(name):
    _, student, x, (final, record), outputs = trained()
    layer = final.get_layer(name)
    assert type(layer) is type(student.get_layer(name).layer)
    own = dict(kernels(layer))
    assert own and {f"{name}/{k}" for k in own} <= set(record.tensors)
    for kernel, variable in own.items():
        tensor, spec = record.tensors[f"{name}/{kernel}"], SPECS.get(name, SPEC)
        np.testing.assert_array_equal(array(variable), tensor.values())
        assert tensor.spec == spec and 1 < tensor.used <= spec.entries
    hard, soft = outputs[name]
    np.testing.assert_allclose(hard, array(final(x)[name]), atol=1e-6)
    assert abs(hard - soft).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_training_moves_weights_and_centroids(name):
    model, student, *_ = trained()
    wrapper = student.get_layer(name)
    before = dict(kernels(model.get_layer(name)))
    fresh = Palettize(type(wrapper.layer).from_config(wrapper.layer.get_config()), wrapper.specs)
    assert fresh.specs == wrapper.specs
    for kernel, variable in kernels(wrapper.layer):
        palette = wrapper.palettes[kernel]
        assert (array(variable) != array(before[kernel])).any() and np.isfinite(array(palette.codebook)).all()
        assert float(array(palette.steps_done)) >= 2
        assert len(wrapper.trainable_weights) == len(wrapper.layer.trainable_weights)


def test_indices_are_the_nearest_entries():
    _, student, _, (_, record), _ = trained()
    for name in ("dense", "conv2d", "embedding"):
        wrapper = student.get_layer(name)
        ((kernel, variable),) = kernels(wrapper.layer)
        tensor = record.tensors[f"{name}/{kernel}"]
        vectors = tensor.layout.split(array(variable), np)
        distances = ((vectors[:, :, None].astype("f8") - tensor.table()[:, None]) ** 2).sum(-1)
        chosen = np.take_along_axis(distances, tensor.layout.split_indices(tensor.indices, np)[..., None], 2)
        np.testing.assert_allclose(chosen[..., 0], distances.min(-1), rtol=1e-4, atol=1e-9)


def test_files_change_nothing():
    _, student, x, (_, record), _ = trained()
    with tempfile.TemporaryDirectory() as folder:
        student.save(f"{folder}/m.keras")
        again = keras.models.load_model(f"{folder}/m.keras")
        record.save(f"{folder}/r.npz")
        loaded = CompressionRecord.load(f"{folder}/r.npz")
    for name in NAMES:
        np.testing.assert_array_equal(array(again(x)[name]), array(student(x)[name]))
    for name, tensor in record.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name].values(), tensor.values())


def dense(spec=SPEC, units=4, kernel=None, **options):
    """A prepared model of one dense layer with a kernel of its own."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(units, name="head", **options)])
    if kernel is not None:
        model.layers[0].kernel.assign(kernel)
    student = prepare(model, Recipe([("head", spec)]))
    return student, student.get_layer("head")


def test_small_kernels_stay_and_the_record_says_why():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(40, name="big"), layers.Dense(3, name="small")])
    final, record = finalize(prepare(model, Recipe([(".*", PaletteSpec(num_bits=2))])))
    assert list(record.tensors) == ["big/kernel"]
    assert record.kept_float == {"small/kernel": "its 120 weights are fewer than the palette's min_size=2048"}
    np.testing.assert_array_equal(array(final.get_layer("small").kernel), array(model.get_layer("small").kernel))


def test_fewer_values_than_centroids_are_said_and_exact():
    kernel = np.resize([-1.0, 0.5, 2.0], (6, 4)).astype("float32")
    student, _ = dense(PaletteSpec(num_bits=4, min_size=0), kernel=kernel)
    final, record = finalize(student)
    np.testing.assert_array_equal(array(final.get_layer("head").kernel), kernel)
    assert "3 of 16 centroids are used" in record.notes["head/kernel"]


def test_a_constant_kernel_trains():
    student, wrapper = dense(kernel=np.full((6, 4), 0.25, "float32"))
    fit(student, np.ones((BATCH, 6)), np.ones((BATCH, 4)))
    values = array(wrapper.layer.kernel)
    assert np.abs(values).max() < 10 and "1 of 4 centroids" in finalize(student)[1].notes["head/kernel"]


@pytest.mark.parametrize("channel_scale", [False, True])
def test_scales_of_channels(channel_scale):
    kernel = np.random.default_rng(0).normal(size=(6, 4)).astype("float32") * np.array([1, 10, 100, 0], "float32")
    student, _ = dense(PaletteSpec(num_bits=3, channel_scale=channel_scale, min_size=0), kernel=kernel)
    tensor = finalize(student)[1].tensors["head/kernel"]
    errors = np.linalg.norm(tensor.values() - kernel, axis=0)[:3] / np.linalg.norm(kernel, axis=0)[:3]
    assert (errors.max() < 0.3) == channel_scale
    assert tensor.scale.shape == ((1, 4) if channel_scale else (1, 1))
    assert (abs(tensor.values()[:, 3]).max() < 1e-15) == channel_scale


def test_the_temperature_goes_down_with_the_steps():
    spec = PaletteSpec(num_bits=2, temperature=0.4, final_temperature=0.001, anneal_steps=4, min_size=0)
    student, wrapper = dense(spec)
    palette = wrapper.palettes["kernel"]
    x, y = np.ones((BATCH, 6)), np.ones((BATCH, 4))
    seen = []
    for _ in range(3):
        seen.append(float(array(palette.temperature)))
        fit(student, x, y, epochs=2)
    np.testing.assert_allclose(seen, [0.4, 0.02, 0.001], rtol=1e-4)


def test_the_gap_is_logged_and_shrinks_with_the_temperature():
    kernel = np.random.default_rng(0).normal(size=(6, 40)).astype("float32")
    gaps = []
    for temperature in (0.3, 0.01):
        student, wrapper = dense(PaletteSpec(num_bits=2, temperature=temperature, min_size=0), 40, kernel)
        monitor = PaletteMonitor()
        history = fit(student, np.zeros((BATCH, 6)), np.zeros((BATCH, 40)), epochs=1, callbacks=[monitor])
        soft, error = wrapper.gaps()["kernel"]
        assert history["palette_gap"] == [pytest.approx(soft)] and history["palette_error"] == [pytest.approx(error)]
        vectors = ops.convert_to_tensor(kernel.reshape(1, -1, 1))
        direct = array(wrapper.palettes["kernel"].soft(vectors, 0)[0]).ravel()
        hard = finalize(student)[1].tensors["head/kernel"].values().ravel()
        size = np.linalg.norm(kernel)
        assert soft == pytest.approx(np.linalg.norm(direct - hard) / size, rel=1e-3)
        assert error == pytest.approx(np.linalg.norm(kernel.ravel() - hard) / size, rel=1e-3)
        assert f"{soft:.1%}" in finalize(student)[1].notes["head/kernel"]
        gaps.append(soft)
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize("how", ["layer", "inner"])
def test_a_frozen_layer_keeps_its_palette(how):
    student, wrapper = dense()
    (wrapper if how == "layer" else wrapper.layer).trainable = False
    before, x = array(wrapper.palettes["kernel"].codebook).copy(), np.ones((BATCH, 6), "float32")
    np.testing.assert_array_equal(array(student(x, training=True)), array(student(x)))
    np.testing.assert_array_equal(array(wrapper.palettes["kernel"].codebook), before)


def test_regularizers_see_the_latent_kernel():
    student, wrapper = dense(kernel_regularizer=keras.regularizers.L1(0.1))
    latent = abs(array(wrapper.layer.kernel)).sum()
    assert [float(loss) for loss in student.losses] == [pytest.approx(0.1 * latent, rel=1e-5)]


def test_an_unbuilt_layer_starts_from_typical_places():
    wrapper = Palettize(layers.Dense(50, kernel_initializer="random_normal"), PaletteSpec(num_bits=3, min_size=0))
    wrapper(np.ones((1, 40), "float32"))
    ((_, error),) = wrapper.gaps().values()
    assert error < 0.25


@pytest.mark.parametrize("specs", [SPEC, {"kernel": SPEC}])
def test_config_round_trip(specs):
    wrapper = Palettize(layers.Dense(4, name="head"), specs)
    again = Palettize.from_config(json.loads(json.dumps(wrapper.get_config())))
    assert again.name == "head" and again.specs == specs and again.get_config() == wrapper.get_config()


def test_palettes_and_grids_live_in_one_model():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="a"), layers.Dense(4, name="b")])
    student = prepare(model, Recipe([("a", SPEC), ("b", QuantSpec(num_bits=4))]))
    assert [path for path, _ in view_of(student).instances(Palettize)] == ["a"]
    assert [t.spec.kind for t in finalize(student)[1].tensors.values()] == ["palettize", "quantize"]


def test_the_report_knows_palettes():
    student, _ = dense(PaletteSpec(num_bits=2, table_dtype="int8", min_size=0))
    final, record = finalize(student)
    summary = report.summarize(record, model=final)
    row = summary.tensors[0]
    assert (row.num_bits, row.ideal_bytes, row.shape) == (2, 24 * 2 / 8, (6, 4))
    # What becomes of the weights when the palette turns hard.
    words = " ".join(str(summary).split())
    assert "soft and hard palette differ by" in words[words.index("Notes") :]


def bias():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="head")])
    prepare(model, Recipe([("head/bias", SPEC)]))


def diverged():
    student, wrapper = dense()
    wrapper.layer.kernel.assign(np.full((6, 4), np.inf))
    finalize(student)


def mixed():
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="lstm")])
    prepare(model, Recipe([("recurrent", SPEC), ("lstm", QuantSpec())]))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Palettize(layers.Dense(4), "4 bits"), TypeError, "`specs`.*PaletteSpec"),
        (lambda: Palettize(layers.Dense(4), {"kernel": QuantSpec()}), TypeError, "`specs`.*PaletteSpec"),
        (lambda: Palettize(layers.Dense(4, name="h"), {"bias": SPEC})(np.ones((1, 6))), ValueError, "a palette is for"),
        (lambda: dense(PaletteSpec(dim=5, min_size=0)), ValueError, r"head/kernel.*at most the last axis.*\(4\)"),
        (lambda: dense(PaletteSpec(granularity="per_group", group_size=3, min_size=0)), ValueError, "divisor of the 4"),
        (lambda: dense(kernel=np.full((6, 4), np.nan)), ValueError, "head/kernel has 24 NaN"),
        (bias, ValueError, "biases, norms and statistics stay float.*'head/bias', which matches nothing"),
        (diverged, ValueError, "head/kernel has 24 NaN or infinite"),
        (mixed, ValueError, "both palettes and uniform grids"),
    ],
)
def test_bad_input_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_annealing_by_a_callback_ends_at_the_last_temperature():
    student, wrapper = dense(PaletteSpec(num_bits=2, temperature=0.1, min_size=0))
    anneal = AnnealPalettes(start=4.0, final=0.5, until=0.5)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(array(wrapper.palettes["kernel"].temperature)))
    )
    fit(student, np.ones((BATCH, 6)), np.ones((BATCH, 4)), epochs=4, compiled=True, callbacks=[anneal, watch])
    # One step per epoch: after the first half of them the temperature stays.
    np.testing.assert_allclose(seen, [0.1 * (4 * 0.5) ** 0.5, 0.05, 0.05, 0.05], rtol=1e-4)


@pytest.mark.parametrize("bad", [{"start": 0}, {"final": -1.0}, {"until": 1.5}, {"start": "hot"}, {"final": np.inf}])
def test_annealing_refuses_bad_numbers(bad):
    with pytest.raises((TypeError, ValueError), match=f"`{next(iter(bad))}`"):
        AnnealPalettes(**bad)


def test_annealing_needs_a_palette():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="has no palette"):
        fit(model, np.ones((BATCH, 6)), np.ones((BATCH, 4)), epochs=1, callbacks=[AnnealPalettes()])
