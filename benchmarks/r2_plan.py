"""The plan of `r2_accuracy.py`: nets, regularizers (table columns), quantization cells (table rows), their order."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Net:
    """A net and the training of its float model, which is the same for every regularizer.

    Args:
        title: name in the table.
        dataset: a name of `r2keras.workloads.data`.
        build: a name of `r2keras.workloads.nets`.
        weights: file in `--data_dir` with the initial weights; None trains from scratch.
        images: number of training images.
        epochs: epochs of the float training.
        optimizer: "sgd" (momentum 0.9, weight decay 5e-4) or "adam"; both with cosine decay to 0.
        learning_rate: initial learning rate.
        batch_size: images per step.
    """

    title: str
    dataset: str
    build: str
    weights: str | None
    images: int
    epochs: int
    optimizer: str
    learning_rate: float
    batch_size: int = 128


NETS = {
    "resnet20": Net(
        "ResNet-20, CIFAR-10, pretrained and fine-tuned for 2 epochs",
        *("cifar10", "resnet20", "resnet20_cifar10_pytorch.npz", 18_000, 2, "sgd", 0.01),
    ),
    "fashion_cnn": Net(
        "Convnet, Fashion-MNIST, from scratch", "fashion_mnist", "cnn", None, 20_000, 6, "adam", 3e-3, 64
    ),
    "resnet20_scratch": Net("ResNet-20, CIFAR-10, from scratch", "cifar10", "resnet20", None, 18_000, 20, "sgd", 0.1),
    "mobilenet_v1": Net(
        "MobileNetV1 0.25, CIFAR-10, from scratch", "cifar10", "mobilenet_v1", None, 18_000, 20, "adam", 3e-3
    ),
    "digits": Net("Convnet, digits (for --smoke)", "digits", "cnn", None, 512, 1, "adam", 3e-3, 64),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """A regularizer in one form.

    Args:
        regularizer: "none", "l2", "kurtosis", "linf", "margin" or "soft_min_max".
        form: "paper" or "scale_free".
        factor: its strength.
    """

    regularizer: str
    form: str
    factor: float

    @property
    def name(self) -> str:
        """The name in --regularizers."""
        return self.regularizer + ("_scale_free" if self.form == "scale_free" else "")


# The most informative come first. The paper's factor is 0.01; that of L2 is ten times the usual weight decay.
COLUMNS = {
    column.name: column
    for column in (
        Column("none", "paper", 0.0),
        Column("soft_min_max", "scale_free", 0.03),
        Column("linf", "scale_free", 0.01),
        Column("kurtosis", "paper", 1.0),
        Column("linf", "paper", 0.01),
        Column("margin", "scale_free", 0.01),
        Column("l2", "paper", 1e-3),
        Column("margin", "paper", 0.01),
        Column("soft_min_max", "paper", 0.01),
    )
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to quantize a trained float model.

    Args:
        method: "min_max", "mse", "adaround", "equalize" (post-training), a training method of `QuantSpec`, or a
            palette trained with the model: "dkm" anneals its temperature, "dkm_constant" does not.
        weight_bits: bits per weight of every kernel; uniform training methods keep 8 in the first and last kernels.
        activation_bits: bits of activations and of the input; 32 leaves them float.
        batch_norm: "replace" re-estimates the statistics, "keep" does not; training always keeps its own.
        granularity: granularity of the scales or palettes.
        dim: weights per table row of a palette; 1 for all other methods.
    """

    method: str
    weight_bits: int
    activation_bits: int
    batch_norm: str
    granularity: str = "per_tensor"
    dim: int = 1

    @property
    def trains(self) -> bool:
        """Whether the model is trained under quantization."""
        return self.method in TRAINING


UNIFORM_TRAINING = ("lsq", "ewgs", "pact_dorefa")
PALETTES = ("dkm", "dkm_constant")
TRAINING = (*UNIFORM_TRAINING, *PALETTES)
FLOAT = 32


def _cells() -> Iterator[list[Cell]]:
    """Yields the phases; a phase is measured for every column and seed before the next one begins."""
    for bits in (2, 4, 3, 8):
        for granularity in ("per_tensor", "per_channel"):
            if granularity == "per_tensor" or bits in (2, 4):
                pairs = [(method, norm) for method in ("min_max", "mse") for norm in ("replace", "keep")]
                yield [Cell(method, bits, 8, norm, granularity) for method, norm in pairs]
        if bits == 2:
            yield [Cell(method, bits, bits, "replace", "per_channel") for method in UNIFORM_TRAINING]
            for palette_bits, dim in ((1, 4), (2, 1), (2, 2), (4, 1)):
                for method in PALETTES if palette_bits == 1 else PALETTES[:1]:
                    yield [Cell(method, palette_bits, FLOAT, "replace", dim=dim)]
    yield [Cell(method, 2, 8, "replace", "per_channel") for method in ("adaround", "equalize")]
    for bits in ((4, 4), (1, 2)):
        methods = [method for method in UNIFORM_TRAINING if (method, *bits) != ("lsq", 1, 2)]
        yield [Cell(method, *bits, "replace", "per_channel") for method in methods]


PHASES = list(_cells())
METHODS = tuple(dict.fromkeys(cell.method for phase in PHASES for cell in phase))
BITS = tuple(sorted({cell.weight_bits for phase in PHASES for cell in phase}))


@dataclasses.dataclass(frozen=True)
class Job:
    """One float model, and the cells to measure on it."""

    net: str
    column: Column
    seed: int
    cells: tuple[Cell, ...]


def jobs_of(nets, columns: list[Column], methods: list[str], bits: list[int], seeds: list[int]) -> Iterator[Job]:
    """Yields the jobs, the most informative first.

    Args:
        nets: names of `NETS`.
        columns: the regularizers.
        methods: shell patterns over `METHODS`.
        bits: bits of the weights.
        seeds: the seeds.
    """
    for phase in PHASES:
        chosen = [c for c in phase if c.weight_bits in bits and any(fnmatch.fnmatch(c.method, m) for m in methods)]
        for net in nets:
            for seed in seeds:
                for column in columns:
                    if chosen:
                        yield Job(net, column, seed, tuple(chosen))
