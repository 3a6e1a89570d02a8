"""The pilot's flags, checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags
from common_lib.flag_checks import (
    UsageError,
    apply_smoke,
    check_at_least,
    check_choice,
    check_positive,
    unique_integers,
    unique_words,
)

from r2keras._util.text import bits
from r2keras.specs.targets import ACCELERATORS, TARGETS

REGULARIZERS = ("none", "l2", "kurtosis", "linf", "margin", "soft_min_max")
PALETTES = ("ptq_palette", "dkm", "dkm_vector")
# Methods with a fixed bit width, whatever --bits is.
OWN_BITS = {"ternary": 2, "binary": 1}
POST_TRAINING = ("ptq_min_max", "ptq_mse", "ptq_equalize", "ptq_adaround")
METHODS = (*POST_TRAINING, "qat", "lsq", "ewgs", "dorefa", "pact", "wrpn", *OWN_BITS, *PALETTES)
DATASETS = ("digits", "fashion_mnist", "cifar10")
GRANULARITIES = ("per_channel", "per_tensor")
EPOCHS = {"digits": 15, "fashion_mnist": 6, "cifar10": 15}
QAT_EPOCHS = {"digits": 5, "fashion_mnist": 2, "cifar10": 4}
# Defaults that depend on the data set. The digits are easy: a net with few filters in front, all kernels at
# the same width and one scale per kernel show what precision costs.
DEFAULTS = {
    "digits": {
        "model": "tapered_cnn",
        "granularity": "per_tensor",
        "edge_bits": 0,
        "methods": ("ptq_min_max", "ptq_mse@2", "qat@2", "dkm_vector@1"),
    }
}
DEFAULTS_OF_OTHERS = {
    "model": "cnn",
    "granularity": "per_channel",
    "edge_bits": 8,
    "methods": ("ptq_min_max", "ptq_mse", "qat"),
}
SMOKE_CHOICES = {"regularizers": ["none", "linf"], "methods": ["ptq_mse", "qat"], "bits": ["4", "2"]}
SMOKE = SMOKE_CHOICES | {"seeds": "1", "epochs": 1, "qat_epochs": 1}
# Flags that may differ between two runs with the same --out: they add rows, or only choose among them.
FREE_TO_CHANGE = ("regularizers", "bits", "seeds", "methods", "max_drop", "max_bytes", "device_results", "out")

_BOTH = "by default {} for digits, {} otherwise"


def _by_dataset(name: str) -> str:
    """Returns the defaults of a flag that depend on --dataset, for its help."""
    values = DEFAULTS["digits"][name], DEFAULTS_OF_OTHERS[name]
    return _BOTH.format(*(",".join(value) if isinstance(value, tuple) else value for value in values))


def _epochs_text(epochs: dict[str, int]) -> str:
    """Returns default epochs for the help of a flag."""
    return "by default " + ", ".join(f"{count} for {name}" for name, count in epochs.items())


flags.DEFINE_string("dataset", "digits", f"One of {', '.join(DATASETS)}; digits is part of scikit-learn.")
flags.DEFINE_string("data_dir", None, "Folder of the data set's .npz files; without it Keras downloads them.")
flags.DEFINE_bool("raw_pixels", False, "Feed unscaled pixels, 0 to 255, as ic_resnet8.h5 expects.")
flags.DEFINE_string(
    "model", None, f"A net of r2keras.workloads.nets, or a .keras or .h5 file to start from; {_by_dataset('model')}."
)
flags.DEFINE_list("regularizers", ["none", "soft_min_max"], f"Any of {', '.join(REGULARIZERS)}.")
flags.DEFINE_float("factor", None, "Strength of every regularizer; by default each has its own.")
flags.DEFINE_list("bits", ["8", "4", "2"], "Bits per weight, 1 to 8.")
flags.DEFINE_integer("activation_bits", None, "Bits per activation, 2 to 8 (inputs get 8); float by default.")
flags.DEFINE_integer(
    "edge_bits",
    None,
    "Bits of the first and last kernels if the others have fewer than 4; 0: the same as the others; "
    f"{_by_dataset('edge_bits')}.",
)
flags.DEFINE_string(
    "granularity", None, f"Granularity of the scales, {' or '.join(GRANULARITIES)}; {_by_dataset('granularity')}."
)
flags.DEFINE_list(
    "methods",
    None,
    f"Any of {', '.join(METHODS)}. A method has the widths of --bits, or its own: qat@2; {_by_dataset('methods')}.",
)
flags.DEFINE_string("seeds", "3", "Number of seeds (3 means 0,1,2), or a list with a comma (4,7 or 5,).")
flags.DEFINE_integer("epochs", None, f"Epochs of the float training; 0 keeps --model; {_epochs_text(EPOCHS)}.")
flags.DEFINE_integer("qat_epochs", None, f"Epochs of fine-tuning under quantization; {_epochs_text(QAT_EPOCHS)}.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.")
flags.DEFINE_float("learning_rate", 3e-3, "Learning rate of Adam, with cosine decay to 0; fine-tuning has a third.")
flags.DEFINE_float("max_drop", 0.01, "Accuracy that may be lost on the validation images; 0.01 is one point.")
flags.DEFINE_alias("max_accuracy_drop", "max_drop")
flags.DEFINE_integer("max_bytes", None, "Largest file to recommend, in bytes; no limit by default.")
flags.DEFINE_string(
    "target",
    "any",
    f"What the files are for, one of {', '.join(TARGETS)}: its bytes and milliseconds decide. ethos-u needs "
    "`pip install 'r2keras[npu]'`, and takes Vela's flash and estimate; mcu needs `pip install 'r2keras[tflm]'`.",
)
flags.DEFINE_string("accelerator", "ethos-u55-128", "The NPU of --target=ethos-u.")
flags.DEFINE_string(
    "device_results",
    None,
    "Latencies measured on a phone, .json of a web page or r2keras-android: they replace this CPU's.",
)
flags.DEFINE_string("out", "out/pilot", "Folder for all results; a killed run resumes from it.")
flags.DEFINE_bool("smoke", False, "Run in seconds on few images for one epoch; the figures are meaningless.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags of one pilot run, parsed and checked."""

    dataset: str
    data_dir: str | None
    raw_pixels: bool
    model: str
    regularizers: tuple[str, ...]
    factor: float | None
    bits: tuple[int, ...]
    activation_bits: int | None
    edge_bits: int
    granularity: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    qat_epochs: int
    batch_size: int
    learning_rate: float
    max_drop: float
    max_bytes: int | None
    target: str
    accelerator: str
    device_results: str | None
    out: str
    smoke: bool

    @property
    def starts_trained(self) -> bool:
        """Whether `--model` is a file with trained weights."""
        return self.model.endswith((".keras", ".h5"))

    @property
    def input_bits(self) -> int | None:
        """Bits of the model's inputs: 8, like pixels, if activations are quantized."""
        return None if self.activation_bits is None else 8

    @property
    def integer(self) -> bool:
        """Whether files for a target compute on integers."""
        return self.target != "any" and self.activation_bits == 8

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Every method at each of its bit widths."""
        pairs = [_split(word) for word in self.methods]
        return list(dict.fromkeys((method, own or bits) for bits in self.bits for method, own in pairs))

    @property
    def method_names(self) -> list[str]:
        """The methods without their bit widths."""
        return [method for method, _ in map(_split, self.methods)]

    def fixed(self) -> dict[str, Any]:
        """Returns the settings that all rows of one `--out` folder share."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FREE_TO_CHANGE}


def settings_from_flags() -> Settings:
    """Returns the settings that the flags describe; `--smoke` and `--dataset` give the defaults of some.

    Raises:
        UsageError: a value is out of range, or a name is unknown.
    """
    apply_smoke(SMOKE)
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)}
    check_choice("dataset", values["dataset"], DATASETS)
    for name, default in defaults_of(values["dataset"]).items():
        values[name] = default if values[name] is None else values[name]
    check_choice("granularity", values["granularity"], GRANULARITIES)
    check_choice("target", values["target"], TARGETS)
    check_choice("accelerator", values["accelerator"], ACCELERATORS)
    if values["target"] == "ethos-u" and values["activation_bits"] is None:
        values["activation_bits"] = 8
    values["regularizers"] = unique_words("regularizers", values["regularizers"], REGULARIZERS)
    values["methods"] = _methods(values["methods"])
    values["bits"] = unique_integers("bits", values["bits"], 1, 8)
    values["seeds"] = _seeds(values["seeds"])
    settings = Settings(**values)
    _check_numbers(settings)
    _check_activations(settings)
    return settings


def defaults_of(dataset: str) -> dict[str, Any]:
    """Returns the defaults of the flags that depend on the data set."""
    epochs = {"epochs": EPOCHS[dataset], "qat_epochs": QAT_EPOCHS[dataset]}
    return epochs | DEFAULTS.get(dataset, DEFAULTS_OF_OTHERS)


def _methods(words: Sequence[str]) -> tuple[str, ...]:
    """Returns the words of --methods without duplicates; raises for an unknown method or a bad width after `@`."""
    if not words:
        raise UsageError(f"--methods is empty: expected any of {', '.join(METHODS)}")
    for word in words:
        name, at, width = word.partition("@")
        check_choice("methods", name, METHODS)
        if at:
            unique_integers("methods", [width], 1, 8)
        if at and int(width) != OWN_BITS.get(name, int(width)):
            raise UsageError(f"--methods={word} is out of range: {name} has {bits(OWN_BITS[name])} per weight")
    return tuple(dict.fromkeys(words))


def _split(word: str) -> tuple[str, int | None]:
    """Returns the method of a word of --methods, and its own bit width; None for those of --bits."""
    name, at, width = word.partition("@")
    return name, int(width) if at else OWN_BITS.get(name)


def _check_activations(settings: Settings) -> None:
    """Raises for methods that need `--activation_bits`, and for those that exclude it."""
    bits = settings.activation_bits
    if bits is not None and not 2 <= bits <= 8:
        raise UsageError(f"--activation_bits={bits} is out of range: expected 2 to 8")
    if bits is None and "pact" in settings.method_names:
        raise UsageError("--methods=pact quantizes activations: give --activation_bits too")
    if settings.target == "ethos-u" and bits != 8:
        raise UsageError(f"--activation_bits={bits} cannot be combined with --target=ethos-u, which takes 8")
    palettes = [method for method in settings.method_names if method in PALETTES]
    if bits is not None and palettes and settings.target != "ethos-u":
        reason = "which has activations of 8 bits with --target=ethos-u only"
        raise UsageError(f"--activation_bits={bits} cannot be combined with --methods={palettes[0]}, {reason}")
    if ("wrpn", 1) in settings.jobs:
        raise UsageError("--methods=wrpn needs at least 2 bits: remove 1 from --bits, or write wrpn@2")


def _check_numbers(settings: Settings) -> None:
    """Raises for a number that is out of range."""
    least_epochs = 0 if settings.starts_trained else 1
    limits = {"epochs": least_epochs, "qat_epochs": 1, "batch_size": 1, "max_bytes": 1, "edge_bits": 0}
    for name, least in limits.items():
        check_at_least(name, getattr(settings, name), least)
    if settings.edge_bits > 8:
        raise UsageError(f"--edge_bits={settings.edge_bits} is too large: expected at most 8")
    for name in ("learning_rate", "factor"):
        check_positive(name, getattr(settings, name))
    if not 0 <= settings.max_drop < 1:
        raise UsageError(f"--max_drop={settings.max_drop} is not a fraction below 1: one percentage point is 0.01")


def _seeds(text: str) -> tuple[int, ...]:
    """Reads a count (`3`) or a list (`4,7`, `5,`)."""
    if "," in text:
        return unique_integers("seeds", [word for word in text.split(",") if word.strip()], 0, 2**31 - 1)
    (count,) = unique_integers("seeds", [text], 1, 1000)
    return tuple(range(count))
