"""The pilot's flags, checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from absl import flags

REGULARIZERS = ("none", "l2", "kurtosis", "linf", "margin", "soft_min_max")
PALETTES = ("ptq_palette", "dkm", "dkm_vector")
# They have one width, whatever --bits says.
OWN_BITS = {"ternary": 2, "binary": 1}
POST_TRAINING = ("ptq_min_max", "ptq_mse", "ptq_equalize", "ptq_adaround")
METHODS = (*POST_TRAINING, "qat", "lsq", "ewgs", "dorefa", "pact", "wrpn", *OWN_BITS, *PALETTES)
DEFAULT_METHODS = ("ptq_min_max", "ptq_mse", "qat")
DATASETS = ("digits", "fashion_mnist", "cifar10")
GRANULARITIES = ("per_channel", "per_tensor")
EPOCHS = {"digits": 15, "fashion_mnist": 6, "cifar10": 15}
QAT_EPOCHS = {"digits": 5, "fashion_mnist": 2, "cifar10": 4}
SMOKE_CHOICES = {"regularizers": ["none", "linf"], "methods": ["ptq_mse", "qat"], "bits": ["4", "2"]}
SMOKE = SMOKE_CHOICES | {"seeds": "1", "epochs": 1, "qat_epochs": 1}
# Flags that may change between two runs into one folder: they add rows, or only read them.
FREE_TO_CHANGE = ("regularizers", "bits", "seeds", "methods", "max_accuracy_drop", "max_bytes", "out")

flags.DEFINE_string("dataset", "digits", f"One of {', '.join(DATASETS)}; digits come with scikit-learn.")
flags.DEFINE_string("data_dir", None, "Folder of the data set's .npz files; without it Keras downloads them.")
flags.DEFINE_bool("raw_pixels", False, "Feed pixels 0 to 255 as they are, as ic_resnet8.h5 takes them.")
flags.DEFINE_string("model", "cnn", "A net of r2keras.workloads.nets, or a .keras or .h5 file to start from.")
flags.DEFINE_list("regularizers", ["none", "soft_min_max"], f"Any of {', '.join(REGULARIZERS)}.")
flags.DEFINE_float("factor", None, "Strength of every regularizer but none; each has its own default.")
flags.DEFINE_list("bits", ["8", "4", "2"], "Bits a weight, 1 to 8.")
flags.DEFINE_integer("activation_bits", None, "Bits of activations (inputs: 8), 2 to 8; float by default.")
flags.DEFINE_integer("edge_bits", 8, "Bits of the first and last kernel where the others have under 4; 0: the same.")
flags.DEFINE_string("granularity", "per_channel", f"Who shares a scale: {' or '.join(GRANULARITIES)}.")
flags.DEFINE_list("methods", list(DEFAULT_METHODS), f"After training or in it: any of {', '.join(METHODS)}.")
flags.DEFINE_string("seeds", "3", "How many seeds (3 means 0,1,2), or a list with a comma (4,7 or 5,).")
flags.DEFINE_integer("epochs", None, "Epochs of the float training; 0 takes --model as it is; by default by data set.")
flags.DEFINE_integer("qat_epochs", None, "Epochs of the quantization-aware fine-tuning; by default by data set.")
flags.DEFINE_integer("batch_size", 64, "Images a training step.")
flags.DEFINE_float("learning_rate", 3e-3, "Adam's, falling to 0 along a cosine; a third of it in fine-tuning.")
flags.DEFINE_float("max_accuracy_drop", 0.01, "Accuracy you can spare, a fraction: 0.01 is one percentage point.")
flags.DEFINE_integer("max_bytes", None, "Largest file you can take, in bytes; none by default.")
flags.DEFINE_string("out", "out/pilot", "Folder for all results; a killed run resumes there.")
flags.DEFINE_bool("smoke", False, "Seconds instead of minutes: few images, one epoch; the figures mean nothing.")


class UsageError(ValueError):
    """A command line that cannot be carried out: one sentence, exit code 2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run of the pilot is to do: the flags, parsed and checked."""

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
    max_accuracy_drop: float
    max_bytes: int | None
    out: str
    smoke: bool

    @property
    def starts_trained(self) -> bool:
        """Whether `--model` is a file, which brings its weights."""
        return self.model.endswith((".keras", ".h5"))

    @property
    def input_bits(self) -> int | None:
        """Bits of the model's inputs: 8, as pixels have, where activations are quantized."""
        return None if self.activation_bits is None else 8

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Every method at each of its widths."""
        return list(
            dict.fromkeys((method, OWN_BITS.get(method, bits)) for bits in self.bits for method in self.methods)
        )

    def fixed(self) -> dict[str, Any]:
        """Returns what every row of one `--out` folder must share."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in FREE_TO_CHANGE}


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line for `app.run`; a bad flag is one sentence and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        return rest
    except flags.Error as error:
        sys.exit(fail(error, 2))


def settings_from_flags() -> Settings:
    """Returns the settings that the flags ask for.

    Raises:
        UsageError: a value out of its range, or a word that the flag does not know.
    """
    return _settings({field.name: flags.FLAGS[field.name] for field in dataclasses.fields(Settings)})


def fail(error: BaseException, code: int) -> int:
    """Says what went wrong on one line; returns the exit code."""
    words = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(words.rstrip(".") + (". See --helpshort.\n" if code == 2 else ".\n"))
    return code


def _settings(found: dict[str, flags.Flag]) -> Settings:
    """Checks every flag; what `--smoke` and the data set decide stands in for flags not given."""
    value = {name: flag.value for name, flag in found.items()}
    if value["smoke"]:
        value |= {name: small for name, small in SMOKE.items() if not found[name].present}
    _choice("dataset", value["dataset"], DATASETS)
    _choice("granularity", value["granularity"], GRANULARITIES)
    for name, table in (("epochs", EPOCHS), ("qat_epochs", QAT_EPOCHS)):
        value[name] = table[value["dataset"]] if value[name] is None else value[name]
    value["regularizers"] = _words("regularizers", value["regularizers"], REGULARIZERS)
    value["methods"] = _words("methods", value["methods"], METHODS)
    value["bits"] = _integers("bits", value["bits"], 1, 8)
    value["seeds"] = _seeds(value["seeds"])
    settings = Settings(**value)
    _check_numbers(settings)
    _check_activations(settings)
    return settings


def _check_activations(settings: Settings) -> None:
    """Raises for methods that go with bits of activations only, or without."""
    bits = settings.activation_bits
    if bits is not None and not 2 <= bits <= 8:
        raise UsageError(f"--activation_bits={bits} is out of range: expected 2 to 8")
    if bits is None and "pact" in settings.methods:
        raise UsageError("--methods=pact is about activations: give --activation_bits too")
    palettes = [method for method in settings.methods if method in PALETTES]
    if bits is not None and palettes:
        raise UsageError(f"--activation_bits={bits} does not go with --methods={palettes[0]}, which leaves them float")
    if "wrpn" in settings.methods and 1 in settings.bits:
        raise UsageError("--methods=wrpn begins at 2 bits: leave 1 out of --bits")


def _check_numbers(settings: Settings) -> None:
    """Raises for a number out of its range."""
    least_epochs = 0 if settings.starts_trained else 1
    limits = {"epochs": least_epochs, "qat_epochs": 1, "batch_size": 1, "max_bytes": 1, "edge_bits": 0}
    for name, least in limits.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UsageError(f"--{name}={value} is too small: expected at least {least}")
    if settings.edge_bits > 8:
        raise UsageError(f"--edge_bits={settings.edge_bits} is too large: expected at most 8")
    for name in ("learning_rate", "factor"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name}={value} is out of range: expected a number above 0")
    if not 0 <= settings.max_accuracy_drop < 1:
        drop = settings.max_accuracy_drop
        raise UsageError(f"--max_accuracy_drop={drop} is no fraction below 1: one percentage point is 0.01")


def _choice(flag: str, word: str, choices: tuple[str, ...]) -> None:
    if word not in choices:
        raise UsageError(f"--{flag}={word} is unknown: expected one of {', '.join(choices)}")


def _words(flag: str, words: list[str], choices: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the words without repeats, each checked."""
    for word in words:
        _choice(flag, word, choices)
    if not words:
        raise UsageError(f"--{flag} is empty: expected any of {', '.join(choices)}")
    return tuple(dict.fromkeys(words))


def _integers(flag: str, words: list[str], low: int, high: int) -> tuple[int, ...]:
    """Returns the integers without repeats, each checked."""
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in words))
    except ValueError:
        raise UsageError(f"--{flag}={','.join(words)}: expected integers with commas between them") from None
    if not numbers or not all(low <= number <= high for number in numbers):
        raise UsageError(f"--{flag}={','.join(words)}: expected integers from {low} to {high}")
    return numbers


def _seeds(text: str) -> tuple[int, ...]:
    """Reads a count (`3`) or a list (`4,7`, `5,`)."""
    if "," in text:
        return _integers("seeds", [word for word in text.split(",") if word.strip()], 0, 2**31 - 1)
    (count,) = _integers("seeds", [text], 1, 1000)
    return tuple(range(count))
