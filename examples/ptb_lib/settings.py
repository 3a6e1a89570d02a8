"""The flags of the Penn Treebank example, checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from absl import flags
from common_lib.flag_checks import UsageError, apply_smoke, check_at_least, check_positive

METHODS = ("float", "alternating", "balanced", "ste", "lsq", "dorefa", "wrpn", "ternary", "binary", "palette")
# Regularizers without trained parameters, because a training step computes them on the looked-up rows only.
REGULARIZERS = ("none", "linf", "kurtosis")
FLOAT_BITS = 32
# Defaults of a run that starts from a float checkpoint, and of one from scratch.
FROM_FLOAT = {"epochs": 2, "learning_rate": 8.0, "decay": 1.0}
FROM_SCRATCH = {"epochs": 12, "learning_rate": 20.0, "decay": 0.5}
DROPOUT = 0.4
SMOKE = {"units": 12, "epochs": 1}

flags.DEFINE_string("data_dir", None, "Folder of ptb_lm_train_valid.npz; without it a small text is generated.")
flags.DEFINE_integer("units", 300, "Units of the LSTM, and length of an embedding, at width 1.")
flags.DEFINE_float("width", 1.0, "Factor by which the network is widened.")
flags.DEFINE_integer("weight_bits", None, "Bits per weight of all four kernels, 1 to 8; the default, 32, is float.")
flags.DEFINE_integer("activation_bits", None, "Bits of the LSTM's hidden state, 2 to 8; the default, 32, is float.")
flags.DEFINE_enum("method", None, METHODS, "Quantization method of the weights; below 32 bits, alternating by default.")
flags.DEFINE_enum("regularizer", "none", REGULARIZERS, "Regularizer of all four kernels during training.")
flags.DEFINE_float("factor", 1e-3, "Strength of the regularizer.")
flags.DEFINE_integer("seed", 0, "Seed of the initial weights, dropout and sampling.")
flags.DEFINE_string("start_from", None, "Checkpoint to start from, with --units (it is widened) or the final width.")
flags.DEFINE_integer("epochs", None, "Passes over the text: 12, or 2 with --start_from.")
flags.DEFINE_float("learning_rate", None, "Initial learning rate: 20, or 8 with --start_from.")
flags.DEFINE_float("decay", None, "Fraction of the run, at its end, with decay to 1/50: 0.5, or 1 with --start_from.")
flags.DEFINE_float("dropout", DROPOUT, "Dropout rate before and after the LSTM.")
flags.DEFINE_float(
    "commitment", 0.0, "Weight of the squared distance between states and rounded states; 0.2 is good at 3 bits."
)
flags.DEFINE_bool("sampled", True, "Sample the rare words in the training loss; the perplexity covers all words.")
flags.DEFINE_integer("threads", 0, "Threads per operation; 0: one per core.")
flags.DEFINE_string("out", "out/ptb", "Folder of checkpoints and rows; a killed run resumes from it.")
flags.DEFINE_string("results", None, "File of the rows; the default is results.json in --out.")
flags.DEFINE_bool(
    "export",
    False,
    "Also write one step as a .tflite file and measure it; a finished run is not trained again.",
)
flags.DEFINE_integer("export_words", 5000, "Validation words that the file reads; 0: all of them.")
flags.DEFINE_bool("table", False, "Print the table of all rows, draw their plot, and train nothing.")
flags.DEFINE_bool("smoke", False, "Run in seconds on the generated text with 12 units for one epoch.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags of one run, parsed and checked."""

    data_dir: str | None
    units: int
    width: float
    weight_bits: int
    activation_bits: int
    method: str
    regularizer: str
    factor: float
    seed: int
    start_from: str | None
    epochs: int
    learning_rate: float
    decay: float
    dropout: float
    commitment: float
    sampled: bool
    threads: int
    out: str
    results: str
    export: bool
    export_words: int
    table: bool
    smoke: bool

    @property
    def wide_units(self) -> int:
        """Units at `width`."""
        return round(self.units * self.width)

    @property
    def name(self) -> str:
        """The first part of the checkpoint's file name."""
        parts = [self.method, f"w{self.weight_bits}a{self.activation_bits}", f"{self.wide_units}units"]
        parts += [self.regularizer] * (self.regularizer != "none")
        parts += [f"dropout{self.dropout:g}"] * (self.dropout != DROPOUT)
        parts += [f"commitment{self.commitment:g}"] * (self.commitment != 0)
        parts += [f"seed{self.seed}", f"{self.epochs}epochs"]
        return "_".join(parts)


def settings_from_flags() -> Settings:
    """Returns the settings that the flags describe.

    Raises:
        UsageError: a value is out of range, or two flags contradict each other.
    """
    apply_smoke(SMOKE)
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)}
    for name, default in (FROM_FLOAT if values["start_from"] else FROM_SCRATCH).items():
        if values[name] is None:
            values[name] = default
    for name in ("weight_bits", "activation_bits"):
        if values[name] is None:
            values[name] = FLOAT_BITS
    values["method"] = values["method"] or ("float" if values["weight_bits"] == FLOAT_BITS else "alternating")
    values["results"] = values["results"] or os.path.join(values["out"], "results.json")
    _check_numbers(values)
    _check_bits(values)
    return Settings(**values)


def _check_numbers(values: dict[str, Any]) -> None:
    """Raises for a number that is out of range."""
    for name, least in (("units", 1), ("epochs", 1), ("seed", 0), ("threads", 0), ("export_words", 0)):
        check_at_least(name, values[name], least)
    for name in ("width", "learning_rate", "factor"):
        check_positive(name, values[name])
    if not 0 < values["decay"] <= 1:
        raise UsageError(f"--decay={values['decay']} is out of range: expected above 0, at most 1")
    if not 0 <= values["dropout"] <= 0.99:
        raise UsageError(f"--dropout={values['dropout']} is out of range: expected 0 to 0.99")
    if not 0 <= values["commitment"] < float("inf"):
        raise UsageError(f"--commitment={values['commitment']} is out of range: expected 0 or more")
    if round(values["units"] * values["width"]) < 1:
        units = values["units"]
        raise UsageError(f"--width={values['width']} reduces {units} units to zero: expected a larger width")


def _check_bits(values: dict[str, Any]) -> None:
    """Raises for bits that are out of range or contradict another flag."""
    for name, least in (("weight_bits", 1), ("activation_bits", 2)):
        if values[name] != FLOAT_BITS and not least <= values[name] <= 8:
            raise UsageError(f"--{name}={values[name]} is out of range: expected {least} to 8, or 32 for float")
    if values["commitment"] and values["activation_bits"] == FLOAT_BITS:
        raise UsageError(f"--commitment={values['commitment']} needs quantized states: give --activation_bits too")
    if (values["weight_bits"] == FLOAT_BITS) != (values["method"] == "float"):
        bits = values["weight_bits"]
        raise UsageError(f"--method={values['method']} cannot be combined with --weight_bits={bits}")
