"""Image data sets for examples and benchmarks, with fixed splits and scaled for the nets."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from r2keras._util.errors import invalid, invalid_choice, missing
from r2keras._util.files import one_line
from r2keras._util.files import read_npz as read_arrays

VALIDATION_FRACTION = 0.1
# Number of test images of scikit-learn's digits, which come without a split.
DIGITS_TEST = 500
SPLIT_SEED = 2303
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The images of one task in three disjoint parts.

    Args:
        x_train: float32, `(n, height, width, channels)`; None if the data is for evaluation only.
        y_train: int64 class indices, `(n,)`; None likewise.
        x_validation: a fixed tenth of the training images, for model selection; None likewise.
        y_validation: classes of the validation images.
        x_test: test images, for reported results only.
        y_test: classes of the test images.
        num_classes: number of classes.
        source: origin of the data, for reports.
    """

    x_train: np.ndarray | None
    y_train: np.ndarray | None
    x_validation: np.ndarray | None
    y_validation: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image: `(height, width, channels)`."""
        return self.x_test.shape[1:]


def load(name: str, data_dir: str | os.PathLike | None = None, *, scaled: bool = True) -> Dataset:
    """Loads a task's images, with the same parts in the same order on every machine.

    | name | images | scaled as | `.npz` files in `data_dir` |
    |---|---|---|---|
    | `digits` | 8x8x1 | `x / 16` | none, part of scikit-learn |
    | `fashion_mnist` | 28x28x1 | `x / 255` | `fashion_mnist_train`, `fashion_mnist_test_first5k` |
    | `cifar10` | 32x32x3 | `(x / 255 - mean) / std` of ImageNet | `cifar10_train20k`, `cifar10_test_first5k` |
    | `speech_commands_eval` | 49x10x1 MFCC, evaluation only | `scale * (x - zero_point)` | `kws01_eval1000` |
    | `imagenet_samples` | 224x224x3, evaluation only | `x / 127.5 - 1` | `imagenet_samples_224_jpeg` |

    Args:
        name: one of the names above.
        data_dir: the folder of the files; None downloads Fashion-MNIST and CIFAR-10 through `keras.datasets`.
        scaled: False leaves image pixels unscaled (0 to 255, digits 0 to 16), as MLPerf Tiny's pretrained ResNet-8
            expects; the MFCC of `speech_commands_eval` are always scaled.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: an unknown name, or a file that is truncated, corrupt or has other contents.
        FileNotFoundError: a file is missing.
        ConnectionError: no `data_dir`, and the download failed.

    Example:

    >>> digits = load("digits")
    >>> digits.x_train.shape, digits.x_validation.shape, digits.x_test.shape
    ((1168, 8, 8, 1), (129, 8, 8, 1), (500, 8, 8, 1))
    """
    if name not in LOADERS:
        raise ValueError(invalid_choice("name", LOADERS, name))
    return LOADERS[name](None if data_dir is None else Path(data_dir), scaled)


def _digits(data_dir: Path | None, scaled: bool) -> Dataset:
    """Splits scikit-learn's 1,797 digits; `data_dir` is not used."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(missing("scikit-learn", "The data set 'digits'", "palettes")) from error
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype(np.float32) / np.float32(16 if scaled else 1)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return _with_validation((x[train], y[train]), (x[test], y[test]), 10, "scikit-learn load_digits")


def _fashion_mnist(data_dir: Path | None, scaled: bool) -> Dataset:
    names = ("fashion_mnist_train.npz", "fashion_mnist_test_first5k.npz")
    train, test, source = _image_parts("fashion_mnist", data_dir, names, (28, 28))
    train, test = ((_unit_scaled(x[..., None], scaled), y) for x, y in (train, test))
    return _with_validation(train, test, 10, source)


def _cifar10(data_dir: Path | None, scaled: bool) -> Dataset:
    names = ("cifar10_train20k.npz", "cifar10_test_first5k.npz")
    train, test, source = _image_parts("cifar10", data_dir, names, (32, 32, 3))
    train, test = ((_standardized(x, scaled), y) for x, y in (train, test))
    return _with_validation(train, test, 10, source)


def _speech_commands_eval(data_dir: Path | None, scaled: bool) -> Dataset:
    """Reads MLPerf Tiny's keyword inputs, which have no training part."""
    if data_dir is None:
        raise ValueError(
            invalid("data_dir", "the folder of kws01_eval1000.npz", None, "It cannot be downloaded: pass data_dir")
        )
    path = data_dir / "kws01_eval1000.npz"
    file = read_npz(path, {"x_int8": (49, 10), "y": (), "scale": None, "zero_point": None})
    x = (file["x_int8"].astype(np.float32) - file["zero_point"]) * file["scale"]
    x, y = x[..., None].astype(np.float32), file["y"].astype(np.int64)
    return Dataset(None, None, None, None, x, y, 12, str(path))


def _imagenet_samples(data_dir: Path | None, scaled: bool) -> Dataset:
    """Reads 1,000 JPEG images, one per class, which Pillow decodes."""
    if data_dir is None:
        expected = "the folder of imagenet_samples_224_jpeg.npz"
        raise ValueError(invalid("data_dir", expected, None, "It cannot be downloaded: pass data_dir"))
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(missing("pillow", "The data set 'imagenet_samples'")) from error
    path = data_dir / "imagenet_samples_224_jpeg.npz"
    file = read_npz(path, {"jpeg": None, "offsets": None, "y": ()})
    offsets = itertools.pairwise(file["offsets"])
    try:
        images = [Image.open(io.BytesIO(file["jpeg"][start:end].tobytes())) for start, end in offsets]
        x: np.ndarray = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds a JPEG image that cannot be read ({error}). Copy the file again.") from error
    x = x / np.float32(127.5) - 1 if scaled else x
    return Dataset(None, None, None, None, x, file["y"].astype(np.int64), 1000, str(path))


def read_test(name: str, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads additional test images of a task, scaled like the task's own.

    Args:
        name: "fashion_mnist" or "cifar10".
        path: an `.npz` with `x` (pixels 0 to 255, in the shape of the task's files) and `y` (classes).

    Returns:
        Images, float32 `(n, height, width, channels)`, and classes, int64 `(n,)`.

    Raises:
        ValueError: another task, or a file that is truncated, corrupt or has other contents.
        FileNotFoundError: the file is missing.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "test.npz")
    >>> np.savez(path, x=np.zeros((3, 28, 28), np.uint8), y=np.arange(3))
    >>> read_test("fashion_mnist", path)[0].shape
    (3, 28, 28, 1)
    """
    if name not in PIXEL_FORMATS:
        raise ValueError(invalid_choice("name", PIXEL_FORMATS, name))
    shape, scale = PIXEL_FORMATS[name]
    file = read_npz(path, {"x": shape, "y": ()})
    x = file["x"] if len(shape) == 3 else file["x"][..., None]
    return scale(x, True), _classes(file["y"])


LOADERS: dict[str, Callable[[Path | None, bool], Dataset]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "speech_commands_eval": _speech_commands_eval,
    "imagenet_samples": _imagenet_samples,
}


def read_npz(path: str | os.PathLike, shapes: dict[str, tuple[int, ...] | None]) -> dict[str, np.ndarray]:
    """Reads arrays from an `.npz` without pickle, and checks their shapes.

    Args:
        path: the file.
        shapes: for each array, its shape without the first axis, or None for any shape.

    Returns:
        The arrays by name; those with a shape have equal, non-zero lengths.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is truncated, corrupt, or has other arrays.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
    >>> np.savez(path, x=np.zeros((3, 2)), y=np.arange(3))
    >>> sorted(read_npz(path, {"x": (2,), "y": ()}))
    ['x', 'y']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Put the file there, or correct `data_dir`.")
    try:
        file = read_arrays(path)
        arrays = {name: file[name] for name in shapes}
    except (KeyError, ValueError) as error:
        reason = one_line(error)
        raise ValueError(f"{path} is truncated, corrupt or another file ({reason}). Copy it again.") from error
    _check_shapes(path, arrays, shapes)
    return arrays


def _check_shapes(path: Path, arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...] | None]) -> None:
    """Raises unless the arrays have the given shapes and equal lengths."""
    fixed_shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    to_check = {name: arrays[name] for name in fixed_shapes}
    if not to_check:
        return
    shapes_fit = all(array.ndim and array.shape[1:] == fixed_shapes[name] for name, array in to_check.items())
    lengths = {array.shape[:1] for array in to_check.values()}
    if not shapes_fit or len(lengths - {(0,)}) != 1:
        received = ", ".join(f"{name} {array.shape}" for name, array in to_check.items())
        expected = ", ".join(f"{name} (n, {', '.join(map(str, shape))})" for name, shape in fixed_shapes.items())
        raise ValueError(f"{path} holds other arrays: expected {expected}, received {received}. Copy it again.")


def _image_parts(name: str, data_dir: Path | None, files: tuple[str, str], shape: tuple[int, ...]) -> Any:
    """Returns the training `(x, y)`, the test `(x, y)`, and the source."""
    if data_dir is None:
        return *_download(name), f"keras.datasets.{name}"
    parts = [read_npz(data_dir / file, {"x": shape, "y": ()}) for file in files]
    return *((part["x"], part["y"]) for part in parts), f"{files[0]} and {files[1]} in {data_dir}"


def _download(name: str) -> Any:
    """Loads through `keras.datasets`, which caches a copy under ~/.keras."""
    import keras

    try:
        return getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception for every failed download.
        raise ConnectionError(
            f"{name} could not be downloaded ({str(error).splitlines()[0]}). "
            "Connect to the internet, or pass the folder of its .npz files as `data_dir`."
        ) from error


def _unit_scaled(x: np.ndarray, scaled: bool) -> np.ndarray:
    return x.astype(np.float32) / np.float32(255 if scaled else 1)


def _standardized(x: np.ndarray, scaled: bool) -> np.ndarray:
    """Standardizes RGB by ImageNet's mean and deviation, like CIFAR-10's public ResNets."""
    if not scaled:
        return x.astype(np.float32)
    return (_unit_scaled(x, True) - np.asarray(IMAGENET_MEAN, np.float32)) / np.asarray(IMAGENET_STD, np.float32)


# The shape of one image in the files, and the function that scales images.
PIXEL_FORMATS = {"fashion_mnist": ((28, 28), _unit_scaled), "cifar10": ((32, 32, 3), _standardized)}


def _with_validation(train: Any, test: Any, num_classes: int, source: str) -> Dataset:
    """Returns the data set with a validation part split off the training images, always the same ones."""
    x, y = train[0], _classes(train[1])
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    count = int(len(x) * VALIDATION_FRACTION)
    validation, training = order[:count], order[count:]
    return Dataset(
        x[training],
        y[training],
        x[validation],
        y[validation],
        test[0],
        _classes(test[1]),
        num_classes,
        source,
    )


def _classes(y: np.ndarray) -> np.ndarray:
    return np.asarray(y).ravel().astype(np.int64)
