"""The pretrained models of `front.py`, with their calibration and evaluation inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import numpy as np

# Titles by name, in the order of the tables.
MODELS = {
    "resnet8": "ResNet-8, CIFAR-10",
    "dscnn": "DS-CNN, keyword spotting",
    "resnet20": "ResNet-20, CIFAR-10",
    "mobilenet": "MobileNetV1 0.25, ImageNet",
}
SMOKE = "digits"
# Calibration inputs that a seed draws: of 18,000 CIFAR-10 training images; of the first 500 inputs of the models
# whose training data are not available.
IMAGES, INPUTS = 512, 400


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A trained model and its data.

    Args:
        model: the Keras model.
        pool: unlabeled inputs, of which each seed draws `count` for calibration.
        count: number of calibration inputs.
        inputs: evaluation inputs, none of them in `pool`.
        labels: their classes.
        shipped: the int8 file that MLPerf Tiny ships, or None.
    """

    model: keras.Model
    pool: np.ndarray
    count: int
    inputs: np.ndarray
    labels: np.ndarray
    shipped: Path | None = None

    def calibration(self, seed: int) -> np.ndarray:
        """Returns the calibration inputs of a seed, the same ones for every tool."""
        import numpy as np

        return self.pool[np.random.default_rng(seed).permutation(len(self.pool))[: self.count]]


def load(name: str, data_dir: str | None) -> Task:
    """Loads a task by its name in `MODELS`; `SMOKE` needs no folder and has an untrained net.

    Raises:
        FileNotFoundError: a file of the folder is missing.
        ValueError: a file is damaged.
    """
    from r2keras.workloads import data, nets

    if name == SMOKE:
        digits = data.load("digits")
        model = nets.build("cnn", digits.input_shape, digits.num_classes)
        return Task(model, digits.x_train[:64], 32, digits.x_test[:50], digits.y_test[:50])
    folder = Path(data_dir or "")
    tiny = folder / "mlperf_tiny"
    if name == "resnet8":
        model, shipped = nets.load_mlperf(tiny / "ic_resnet8.h5"), tiny / "ic_resnet8_int8.tflite"
        images = data.load("cifar10", folder, scaled=False)
        return Task(model, images.x_train, IMAGES, images.x_test, images.y_test, shipped)
    if name == "resnet20":
        images = data.load("cifar10", folder)
        model = nets.load_resnet20(folder / "resnet20_cifar10_pytorch.npz")
        return Task(model, images.x_train, IMAGES, images.x_test, images.y_test)
    if name == "dscnn":
        words = data.load("speech_commands_eval", tiny)
        model, shipped = nets.load_mlperf(tiny / "kws_dscnn.h5"), tiny / "kws_dscnn_int8.tflite"
        return Task(model, words.x_test[:500], INPUTS, words.x_test[500:], words.y_test[500:], shipped)
    photographs = data.load("imagenet_samples", folder / "imagenet")
    model = nets.load_mlperf(folder / "imagenet" / "mobilenet_v1_025_224.h5")
    x, y = photographs.x_test, photographs.y_test
    return Task(model, x[:500], INPUTS, x[500:], y[500:])
