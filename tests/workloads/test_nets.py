"""Nets: sizes known from the papers, regular names, a new regularizer per kernel, pretrained weights."""

import itertools
import os
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from r2keras.workloads import nets

CIFAR = (32, 32, 3)
KERNELS = {"cnn": 4, "tapered_cnn": 4, "resnet8": 10, "resnet20": 20, "mobilenet_v1": 28, "mobilenet_v2_035": 53}


def trainable(model):
    """Counts the trainable scalars."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.fixture(scope="module")
def models():
    """Every net for CIFAR-10."""
    return {name: nets.build(name, CIFAR, 10) for name in nets.NETS}


@pytest.mark.parametrize(
    ("name", "total", "train"),
    [
        ("resnet8", 78_666, 78_186),
        ("resnet20", 271_098, 269_722),
        ("cnn", 24_570, 24_346),
    ],
)
def test_counts(models, name, total, train):
    assert models[name].count_params() == total and trainable(models[name]) == train


def test_mobilenet_v1_is_the_paper_s_at_a_quarter():
    # 218,112 kernel weights for RGB at width 0.25 up to the pool, from the paper's table 1, and the head.
    channels = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    kernels = 27 * 8 + sum(9 * a + a * b for a, b in itertools.pairwise(channels))
    norms = 2 * 8 + sum(2 * (a + b) for a, b in itertools.pairwise(channels))
    model = nets.mobilenet_v1((96, 96, 3), 2)
    assert trainable(model) == kernels + norms + 257 * 2
    assert model.get_layer("pool").input.shape[1:] == (3, 3, 256)


@pytest.mark.parametrize("name", list(nets.NETS))
def test_names(models, name):
    weighted = [layer.name for layer in models[name].layers if layer.weights and not layer.name.endswith("_norm")]
    assert weighted[0] == "stem" and weighted[-1] == "head"
    middle = re.compile(r"block\d+_(conv\d?|shortcut|depthwise|pointwise|expand|project)|last_conv")
    assert all(middle.fullmatch(word) for word in weighted[1:-1])
    assert len(weighted) == KERNELS[name]


@pytest.mark.parametrize("name", list(nets.NETS))
def test_a_new_regularizer_per_kernel(name, models):
    made = []

    def factory():
        made.append(keras.regularizers.L2(0.5))
        return made[-1]

    model = nets.build(name, CIFAR, 10, factory)
    held = [v.regularizer for v in model.trainable_variables if v.regularizer is not None]
    assert len(made) == len(held) == KERNELS[name]
    assert {id(r) for r in held} == {id(r) for r in made}
    assert not models[name].losses


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn", (8, 8, 1)),
        ("cnn", (28, 28, 1)),
        ("resnet8", (28, 28, 1)),
        ("resnet20", (28, 28, 1)),
        ("mobilenet_v1", (8, 8, 1)),
        ("mobilenet_v2_035", (96, 96, 3)),
    ],
)
def test_logits_of_other_inputs(name, shape):
    scores = keras.ops.convert_to_numpy(nets.build(name, shape, 7)(np.ones((2, *shape), np.float32)))
    assert scores.shape == (2, 7) and np.isfinite(scores).all() and not np.allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_035"])
def test_saved_and_loaded(models, name, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, *CIFAR)).astype(np.float32)
    models[name].save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(m(x)) for m in (models[name], again)), atol=1e-6)


def test_strided_shortcut_is_option_a(models):
    block = keras.Model(
        models["resnet20"].get_layer("block3_relu").output, models["resnet20"].get_layer("block4_add").input[0]
    )
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 16)).astype(np.float32)
    out = keras.ops.convert_to_numpy(block(x))
    np.testing.assert_array_equal(out[..., 8:24], x[:, ::2, ::2])
    assert not out[..., :8].any() and not out[..., 24:].any()


def state_dict(model):
    """Writes a ResNet-20's weights as PyTorch would name and lay them out."""
    arrays, parts = {}, ("weight", "bias", "running_mean", "running_var")
    for layer in model.layers:
        if layer.weights:
            word = {"stem": "conv1", "stem_norm": "bn1", "head": "linear"}.get(layer.name) or re.sub(
                r"block(\d)_conv(\d)(_norm)?",
                lambda m: f"layer{(int(m[1]) - 1) // 3 + 1}.{(int(m[1]) - 1) % 3}.{'bn' if m[3] else 'conv'}{m[2]}",
                layer.name,
            )
            for part, value in zip(parts, layer.get_weights(), strict=False):
                arrays[f"{word}.{part}"] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return arrays


def test_load_resnet20_puts_every_weight_in_its_place(tmp_path):
    model = nets.resnet20(CIFAR, 10)
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.1, 1, w.shape).astype(np.float32) for w in model.get_weights()])
    np.savez(tmp_path / "r.npz", **state_dict(model))
    loaded = nets.load_resnet20(tmp_path / "r.npz")
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("layer2.1.bn1.bias"), "layer2.1.bn1.bias"),
        (lambda a: a.update({"linear.weight": np.zeros((100, 64), np.float32)}), "holds another net: head/kernel"),
    ],
)
def test_load_resnet20_of_another_net(tmp_path, change, words):
    arrays = state_dict(nets.resnet20(CIFAR, 10))
    change(arrays)
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        nets.load_resnet20(tmp_path / "r.npz")


def test_load_mlperf(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.h5"):
        nets.load_mlperf(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match="is missing"):
        nets.load_mlperf(tmp_path / "net.h5")
    (tmp_path / "net.h5").write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a model that Keras can load") as caught:
        nets.load_mlperf(tmp_path / "net.h5")
    assert "\n" not in str(caught.value)


def test_a_list_of_one_input_is_taken_bare(tmp_path):
    inputs = keras.Input((8, 8, 1))
    keras.Model([inputs], [nets.cnn((8, 8, 1), 3)(inputs)], name="old").save(tmp_path / "old.keras")
    model = nets.load_mlperf(tmp_path / "old.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuple(model(np.zeros((2, 8, 8, 1), np.float32)).shape) == (2, 3)
    assert model.name == "old"


def test_unknown_net():
    with pytest.raises(ValueError, match="Did you mean 'resnet20'"):
        nets.build("resnet-20", CIFAR, 10)


if "R2KERAS_DATA_DIR" in os.environ:
    DATA = Path(os.environ["R2KERAS_DATA_DIR"])

    def accuracy(model, dataset):
        scores = model.predict(dataset.x_test, batch_size=250, verbose=0)
        return float(np.mean(scores.argmax(1) == dataset.y_test))

    def test_resnet20_reaches_its_accuracy():
        from r2keras.workloads import data

        model = nets.load_resnet20(DATA / "resnet20_cifar10_pytorch.npz")
        assert accuracy(model, data.load("cifar10", DATA)) == pytest.approx(0.9150, abs=2e-4)

    @pytest.mark.parametrize(
        ("file", "name", "folder", "expected"),
        [
            ("ic_resnet8.h5", "cifar10", "", 0.8702),
            ("kws_dscnn.h5", "speech_commands_eval", "mlperf_tiny", 0.913),
        ],
    )
    def test_mlperf_models_reach_their_accuracy(file, name, folder, expected):
        from r2keras.workloads import data

        model = nets.load_mlperf(DATA / "mlperf_tiny" / file)
        found = accuracy(model, data.load(name, DATA / folder, scaled=False))
        assert found == pytest.approx(expected, abs=2e-4)
