"""Data sets: disjoint parts, equal on every load, and one-sentence errors for damaged files."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from r2keras.workloads import data

PARTS = ("train", "validation", "test")


def rows_of(dataset, part):
    """Returns a part's images as comparable bytes."""
    return [image.tobytes() for image in getattr(dataset, f"x_{part}")]


@pytest.fixture
def folder(tmp_path):
    """A folder of small files that look like the real ones, every image different."""
    rng = np.random.default_rng(0)
    for name, shape in (("fashion_mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        train, test = ("train", "test_first5k") if name == "fashion_mnist" else ("train20k", "test_first5k")
        for part, count in ((train, 50), (test, 20)):
            x = rng.integers(0, 256, (count, *shape), np.uint8)
            np.savez(tmp_path / f"{name}_{part}.npz", x=x, y=np.arange(count, dtype=np.uint8) % 10)
    x = rng.integers(-128, 128, (12, 49, 10), np.int8)
    np.savez(
        tmp_path / "kws01_eval1000.npz",
        x_int8=x,
        y=np.arange(12, dtype=np.uint8),
        scale=np.float32(0.5),
        zero_point=np.int32(83),
        names=np.array(["a"] * 12),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits", (8, 8, 1)),
        ("fashion_mnist", (28, 28, 1)),
        ("cifar10", (32, 32, 3)),
    ],
)
class TestLoad:
    def test_types_and_shapes(self, name, shape, folder):
        found = data.load(name, folder)
        assert found.input_shape == shape and found.num_classes == 10 and found.source
        for part in PARTS:
            x, y = getattr(found, f"x_{part}"), getattr(found, f"y_{part}")
            assert x.dtype == np.float32 and x.shape == (len(y), *shape)
            assert y.dtype == np.int64 and set(y) <= set(range(10))

    def test_deterministic(self, name, shape, folder):
        first, second = data.load(name, folder), data.load(name, folder)
        for part in PARTS:
            np.testing.assert_array_equal(getattr(first, f"x_{part}"), getattr(second, f"x_{part}"))
            np.testing.assert_array_equal(getattr(first, f"y_{part}"), getattr(second, f"y_{part}"))

    def test_scaling_is_affine_per_channel(self, name, shape, folder):
        raw, scaled = data.load(name, folder, scaled=False).x_test, data.load(name, folder).x_test
        full = 16 if name == "digits" else 255
        expected = raw.astype(np.float64) / full
        if name == "cifar10":
            expected = (expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert raw.max() > 10 and raw.min() >= 0
        np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_parts_share_no_image(folder):
    # The real digits hold no two equal images in different parts either.
    for name in ("digits", "fashion_mnist", "cifar10"):
        found = data.load(name, folder)
        sets = [set(rows_of(found, part)) for part in PARTS]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_validation_is_a_tenth_of_the_training_file(folder):
    found = data.load("cifar10", folder)
    assert [len(getattr(found, f"y_{part}")) for part in PARTS] == [45, 5, 20]
    file = np.load(folder / "cifar10_train20k.npz")["x"].astype(np.float32)
    both = set(rows_of(data.load("cifar10", folder, scaled=False), "train"))
    both |= set(rows_of(data.load("cifar10", folder, scaled=False), "validation"))
    assert both == {image.tobytes() for image in file}


def test_speech_commands_are_dequantized(folder):
    found = data.load("speech_commands_eval", folder)
    raw = np.load(folder / "kws01_eval1000.npz")["x_int8"].astype(np.float64)
    np.testing.assert_allclose(found.x_test[..., 0], 0.5 * (raw - 83))
    assert found.x_train is None and found.y_validation is None and found.num_classes == 12


def imagenet_file(folder, damage=b""):
    """Writes three images in one color each as the samples' file has them."""
    from PIL import Image

    parts = []
    for value in (0, 128, 255):
        buffer = io.BytesIO()
        Image.fromarray(np.full((224, 224, 3), value, np.uint8)).save(buffer, "JPEG")
        parts.append(buffer.getvalue())
    parts[1] = damage or parts[1]
    offsets = np.cumsum([0, *map(len, parts)])
    jpeg = np.frombuffer(b"".join(parts), np.uint8)
    np.savez(folder / "imagenet_samples_224_jpeg.npz", jpeg=jpeg, offsets=offsets, y=np.arange(3))


def test_imagenet_samples_are_decoded(tmp_path):
    imagenet_file(tmp_path)
    found = data.load("imagenet_samples", tmp_path)
    assert found.x_test.shape == (3, 224, 224, 3) and found.x_train is None and found.num_classes == 1000
    np.testing.assert_allclose(found.x_test[:, 0, 0, 0], [-1, 128 / 127.5 - 1, 1], atol=1e-6)
    raw = data.load("imagenet_samples", tmp_path, scaled=False)
    np.testing.assert_array_equal(raw.x_test[:, 5, 5, 1], [0, 128, 255])


def test_an_imagenet_sample_that_is_not_an_image(tmp_path):
    imagenet_file(tmp_path, b"no image")
    with pytest.raises(ValueError, match="holds a JPEG image that cannot be read"):
        data.load("imagenet_samples", tmp_path)


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda path: path.unlink(), FileNotFoundError, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), ValueError, "truncated"),
        (lambda path: path.write_bytes(b"no archive"), ValueError, "truncated, corrupt"),
        (lambda path: path.write_bytes(b""), ValueError, "truncated, corrupt"),
        (lambda path: np.savez(path, x=np.zeros((3, 28, 28), np.uint8)), ValueError, "another file"),
        (lambda path: np.savez(path, x=np.zeros((3, 28, 28)), y=np.zeros(2)), ValueError, "other arrays"),
        (lambda path: np.savez(path, x=np.zeros((3, 14)), y=np.zeros(3)), ValueError, "other arrays"),
        (lambda path: np.savez(path, x=np.zeros((0, 28, 28)), y=np.zeros(0)), ValueError, "other arrays"),
        (lambda path: np.savez(path, x=np.array([{}], object), y=np.zeros(1)), ValueError, "array of objects"),
    ],
)
def test_damaged_file(folder, damage, error, words):
    path = folder / "fashion_mnist_train.npz"
    damage(path)
    with pytest.raises(error, match=words) as caught:
        data.load("fashion_mnist", folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damage_inside_an_array(folder):
    path = folder / "cifar10_train20k.npz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="corrupt"):
        data.load("cifar10", folder)


def test_unknown_name():
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        data.load("cifar")


@pytest.mark.parametrize("name", ["speech_commands_eval", "imagenet_samples"])
def test_evaluation_data_need_a_folder(name):
    with pytest.raises(ValueError, match="pass data_dir"):
        data.load(name)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_no_internet(name, monkeypatch):
    import keras

    def fail():
        raise Exception("URL fetch failure on https://x: None -- [Errno -3] no\nsecond line")

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    with pytest.raises(ConnectionError, match="Connect to the internet, or pass the folder") as caught:
        data.load(name)
    assert "\n" not in str(caught.value)


if "R2KERAS_DATA_DIR" in os.environ:

    @pytest.mark.parametrize(
        ("name", "counts"),
        [
            ("fashion_mnist", (54000, 6000, 5000)),
            ("cifar10", (18000, 2000, 5000)),
        ],
    )
    def test_real_files(name, counts):
        found = data.load(name, Path(os.environ["R2KERAS_DATA_DIR"]))
        assert tuple(len(getattr(found, f"y_{part}")) for part in PARTS) == counts
        assert all(set(np.unique(getattr(found, f"y_{part}"))) == set(range(10)) for part in PARTS)


def test_other_test_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(4, dtype=np.uint8))
    found, classes = data.read_test("cifar10", tmp_path / "a.npz")
    expected = (x / 255 - np.array(data.IMAGENET_MEAN)) / np.array(data.IMAGENET_STD)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classes.tolist() == [0, 1, 2, 3] and classes.dtype == np.int64
    with pytest.raises(ValueError, match="holds other arrays"):
        data.read_test("fashion_mnist", tmp_path / "a.npz")
    with pytest.raises(ValueError, match="digits"):
        data.read_test("digits", tmp_path / "a.npz")
