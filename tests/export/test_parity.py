"""One table: every kind of layer, on a grid and under palettes, through both exporters, each file against Keras."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec
from r2keras.export import LiteRTModel, TFLMModel, to_litert, to_tflm
from r2keras.export.conversion import converter
from r2keras.export.weights import lookup_forms
from tests.conftest import converted_near
from tests.export.conversions import once
from tests.export.models import norm
from tests.export.palettize import compress

OUTPUT_TOLERANCE = 1e-5
WORDS = 24
SPECS = {
    "grid": QuantSpec(num_bits=4),
    "scalars": PaletteSpec(num_bits=3, min_size=0),
    "vectors": PaletteSpec(num_bits=4, dim=2, min_size=0),
}
IMAGE, SEQUENCE, VOLUME = (6, 6, 4), (5, 6), (4, 4, 4, 2)
# Models by what their layers ask of the converter: an open batch, a loop, an operator that microcontrollers lack.
GROUPS = {
    "plain": {
        "dense": (SEQUENCE, lambda name: [layers.Dense(8, name=name), norm()]),
        "conv1d": (SEQUENCE, lambda name: [layers.Conv1D(8, 3, name=name), norm()]),
        "conv2d": (IMAGE, lambda name: [layers.Conv2D(8, 3, name=name), norm()]),
        "grouped": (IMAGE, lambda name: [layers.Conv2D(8, 3, groups=2, name=name)]),
        "dilated": (IMAGE, lambda name: [layers.Conv2D(8, 3, dilation_rate=2, name=name)]),
        "depthwise1d": (SEQUENCE, lambda name: [layers.DepthwiseConv1D(3, depth_multiplier=2, name=name)]),
        "depthwise2d": (IMAGE, lambda name: [layers.DepthwiseConv2D(3, depth_multiplier=2, name=name), norm()]),
        "separable1d": (SEQUENCE, lambda name: [layers.SeparableConv1D(8, 3, depth_multiplier=2, name=name)]),
        "separable2d": (IMAGE, lambda name: [layers.SeparableConv2D(8, 3, depth_multiplier=2, name=name), norm()]),
        "transposed1d": (SEQUENCE, lambda name: [layers.Conv1DTranspose(8, 3, strides=2, name=name)]),
        "transposed2d": (IMAGE, lambda name: [layers.Conv2DTranspose(8, 3, strides=2, name=name)]),
        "embedding": (None, lambda name: [layers.Embedding(WORDS, 8, name=name)]),
        "einsum": (SEQUENCE, lambda name: [layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name=name)]),
        "attention": (SEQUENCE, lambda name: [layers.MultiHeadAttention(2, 4, name=name)]),
    },
    "loop": {
        "lstm": (SEQUENCE, lambda name: [layers.LSTM(8, name=name)]),
        "gru": (SEQUENCE, lambda name: [layers.GRU(8, return_sequences=True, name=name)]),
        "simple_rnn": (SEQUENCE, lambda name: [layers.SimpleRNN(8, name=name)]),
        "bidirectional": (
            SEQUENCE,
            lambda name: [layers.Bidirectional(layers.LSTM(4, return_sequences=True), name=name)],
        ),
    },
    "volume": {"conv3d": (VOLUME, lambda name: [layers.Conv3D(4, 2, name=name)])},
}
# Specs of one kind each where the kind makes a loop: those cost most, and `lstm` has all of them.
ONLY = {"gru": "scalars", "simple_rnn": "grid", "bidirectional": "vectors"}
EXPORTERS = {"litert": to_litert, "tflm": functools.partial(to_tflm, check=False)}
LACKING = {"conv3d": "CONV_3D"}


def branches(group):
    """Returns the pairs of kind and spec of a group's branches."""
    return [pair for pair in itertools.product(GROUPS[group], SPECS) if ONLY.get(pair[0], pair[1]) == pair[1]]


@functools.cache
def built(group):
    """Returns a model with one branch for each kind and spec of a group, compressed, and its record."""
    keras.utils.set_random_seed(4)
    kinds = GROUPS[group]
    shapes = dict.fromkeys(shape for shape, _ in kinds.values())
    inputs = {shape: keras.Input(shape or (5,), name="x".join(map(str, shape or ["tokens"]))) for shape in shapes}
    outputs = []
    for kind, spec in branches(group):
        shape, make = kinds[kind]
        first, *rest = make(f"{kind}_{spec}")
        x = first(inputs[shape], inputs[shape]) if kind == "attention" else first(inputs[shape])
        for layer in rest:
            x = layer(x)
        outputs.append(x)
    inputs = list(inputs.values())
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=group)
    for variable in model.weights:
        if "bias" in variable.path:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    return model, compress(model, lambda name, shape: SPECS[name.partition("/")[0].rpartition("_")[2]])


def run(group, exporter, folder):
    """Returns, by branch, how far the file is from Keras as a share of the range; the rows of the sizes; the record."""
    model, record = built(group)
    path = folder / f"{group}_{exporter}.tflite"
    with pytest.MonkeyPatch.context() as patch:
        # Tables pay for the tiny kernels here too, and the converter of loops runs in this process.
        patch.setattr(lookup_forms, "OPERATOR_BYTES", -(10**7))
        patch.setattr(converter, "convert_apart", converted_near)
        patch.setattr(converter, "_converted", once(converter._converted))
        found = EXPORTERS[exporter](model, path, record)
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, WORDS, (2, 5)).astype("f") if x.name == "tokens" else rng.normal(size=(2, *x.shape[1:]))
        for x in model.inputs
    ]
    inputs = [x.astype(np.float32) for x in inputs]
    expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    actual = (TFLMModel if exporter == "tflm" else LiteRTModel)(path).predict(inputs)
    names = [f"{kind}_{spec}" for kind, spec in branches(group)]
    off = {n: np.abs(a - e).max() / np.ptp(e) for n, a, e in zip(names, actual, map(np.asarray, expected), strict=True)}
    return off, {row.name: row for row in found.tensors}, record


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Returns a function that gives `run` of a group and an exporter, each run once."""
    folder = tmp_path_factory.mktemp("parity")
    return functools.cache(lambda group, exporter: run(group, exporter, folder))


TABLE = [
    (group, kind, spec, exporter)
    for group in GROUPS
    for (kind, spec), exporter in itertools.product(branches(group), EXPORTERS)
    if not (exporter == "tflm" and kind in LACKING)
]


@pytest.mark.parametrize(("group", "kind", "spec", "exporter"), TABLE, ids=map("-".join, TABLE))
def test_the_file_computes_what_keras_computes(group, kind, spec, exporter, outcome, request):
    if exporter == "tflm":
        request.getfixturevalue("microcontrollers")
    off, rows, record = outcome(group, exporter)
    assert off[f"{kind}_{spec}"] <= OUTPUT_TOLERANCE
    own = [name for name in record.tensors if name.startswith(f"{kind}_{spec}/")]
    assert own and {record.tensors[name].spec for name in own} == {SPECS[spec]}
    # Really packed: no kernel fell back to floats.
    assert {name: rows[name].note for name in own if rows[name].container_bits > 8} == {}
    assert all(rows[name].packed_bytes for name in own)


@pytest.mark.parametrize("kind", LACKING)
def test_what_microcontrollers_lack_is_named(kind, tmp_path, microcontrollers):
    (group,) = (group for group, kinds in GROUPS.items() if kind in kinds)
    model, record = built(group)
    with pytest.raises(ValueError, match=LACKING[kind]):
        to_tflm(model, tmp_path / "mcu.tflite", record)
    assert list(tmp_path.iterdir()) == []
