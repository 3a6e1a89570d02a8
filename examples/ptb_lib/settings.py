"""The flags of the Penn Treebank example, checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from absl import flags

METHODS = ("float", "alternating", "balanced", "ste", "lsq", "dorefa", "wrpn", "ternary", "binary", "palette")
# Those that learn nothing of their own: a step sees only the rows that it looks up.
REGULARIZERS = ("none", "linf", "kurtosis")
FLOAT_BITS = 32
# What a run on the embedded text, or from a float checkpoint, has where a flag is not given.
FROM_FLOAT = {"epochs": 2, "learning_rate": 8.0, "decay": 1.0}
FROM_SCRATCH = {"epochs": 12, "learning_rate": 20.0, "decay": 0.5}
DROPOUT = 0.4
SMOKE = {"units": 12, "epochs": 1}

flags.DEFINE_string("data_dir", None, "Folder of ptb_lm_train_valid.npz; without it a small text is generated.")
flags.DEFINE_integer("units", 300, "Units of the LSTM, and length of an embedding, at width 1.")
flags.DEFINE_float("width", 1.0, "How many times wider the network is.")
flags.DEFINE_integer("weight_bits", None, "Bits a weight of all four kernels, 1 to 8; 32 by default: float.")
flags.DEFINE_integer("activation_bits", None, "Bits of the LSTM's hidden state, 2 to 8; 32 by default: float.")
flags.DEFINE_enum("method", None, METHODS, "How weights are quantized; alternating by default below 32 bits.")
flags.DEFINE_enum("regularizer", "none", REGULARIZERS, "Of all four kernels, while they train.")
flags.DEFINE_float("factor", 1e-3, "Strength of the regularizer.")
flags.DEFINE_integer("seed", 0, "Of the start, of dropout and of what is drawn.")
flags.DEFINE_string("start_from", None, "Checkpoint to start from, of --units or of this width; the first is widened.")
flags.DEFINE_integer("epochs", None, "Passes over the text: 12, or 2 with --start_from.")
flags.DEFINE_float("learning_rate", None, "At the start: 20, or 8 with --start_from.")
flags.DEFINE_float("decay", None, "Last part of the run, where the rate falls to a fiftieth: 0.5; 1 with --start_from.")
flags.DEFINE_float("dropout", DROPOUT, "Before and after the LSTM.")
flags.DEFINE_float(
    "commitment", 0.0, "Weight of the states' squared distance from what they are rounded to; 0.2 is good at 3 bits."
)
flags.DEFINE_bool("sampled", True, "Train on a sample of the rare words; the perplexity always counts all words.")
flags.DEFINE_integer("threads", 0, "Threads of an operation; 0: as many as there are cores.")
flags.DEFINE_string("out", "out/ptb", "Folder of checkpoints and rows; a killed run goes on there.")
flags.DEFINE_string("results", None, "File of the rows; by default results.json in --out.")
flags.DEFINE_bool(
    "export", False, "Also write the network's step as a .tflite and measure that; trains no finished run again."
)
flags.DEFINE_integer("export_words", 5000, "Words of the validation part that the file reads; 0: all of them.")
flags.DEFINE_bool("table", False, "Print the table of all rows, draw the front, train nothing.")
flags.DEFINE_bool("smoke", False, "Seconds: the generated text, 12 units, one epoch.")


class UsageError(ValueError):
    """A command line that cannot be carried out: one sentence, exit code 2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run is to do: the flags, parsed and checked."""

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
        """Units at the width asked for."""
        return round(self.units * self.width)

    @property
    def name(self) -> str:
        """The name of the run's checkpoint."""
        parts = [self.method, f"w{self.weight_bits}a{self.activation_bits}", f"{self.wide_units}units"]
        parts += [self.regularizer] * (self.regularizer != "none")
        parts += [f"dropout{self.dropout:g}"] * (self.dropout != DROPOUT)
        parts += [f"commitment{self.commitment:g}"] * (self.commitment != 0)
        parts += [f"seed{self.seed}", f"{self.epochs}epochs"]
        return "_".join(parts)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line for `app.run`; a bad flag is one sentence and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"Unexpected argument {rest[1]!r}: write --flag=value")
        return rest
    except flags.Error as error:
        sys.exit(fail(error, 2))


def fail(error: BaseException, code: int) -> int:
    """Says what went wrong on one line; returns the exit code."""
    words = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(words.rstrip(".") + (". See --helpshort.\n" if code == 2 else ".\n"))
    return code


def settings_from_flags() -> Settings:
    """Returns the settings that the flags ask for.

    Raises:
        UsageError: a value out of its range, or two that contradict each other.
    """
    found = {field.name: flags.FLAGS[field.name] for field in dataclasses.fields(Settings)}
    value = {name: flag.value for name, flag in found.items()}
    if value["smoke"]:
        value |= {name: small for name, small in SMOKE.items() if not found[name].present}
    for name, usual in (FROM_FLOAT if value["start_from"] else FROM_SCRATCH).items():
        value[name] = usual if value[name] is None else value[name]
    for name in ("weight_bits", "activation_bits"):
        value[name] = FLOAT_BITS if value[name] is None else value[name]
    value["method"] = value["method"] or ("float" if value["weight_bits"] == FLOAT_BITS else "alternating")
    value["results"] = value["results"] or os.path.join(value["out"], "results.json")
    _check(value)
    return Settings(**value)


def _check(value: dict[str, Any]) -> None:
    """Raises for a value out of its range, or two that contradict each other."""
    for name, least in (("units", 1), ("epochs", 1), ("seed", 0), ("threads", 0), ("export_words", 0)):
        if value[name] < least:
            raise UsageError(f"--{name}={value[name]} is too small: expected at least {least}")
    for name in ("width", "learning_rate", "factor"):
        if not 0 < value[name] < float("inf"):
            raise UsageError(f"--{name}={value[name]} is out of range: expected a number above 0")
    for name, low, high in (("decay", 0.0, 1.0), ("dropout", -1e-9, 0.99)):
        if not low < value[name] <= high:
            wanted = f"{'above 0, at most' if low == 0 else '0 to'} {high:g}"
            raise UsageError(f"--{name}={value[name]} is out of range: expected {wanted}")
    if not 0 <= value["commitment"] < float("inf"):
        raise UsageError(f"--commitment={value['commitment']} is out of range: expected 0 or more")
    if value["commitment"] and value["activation_bits"] == FLOAT_BITS:
        raise UsageError(f"--commitment={value['commitment']} has no rounded states: give --activation_bits too")
    if round(value["units"] * value["width"]) < 1:
        raise UsageError(f"--width={value['width']} gives zero units out of {value['units']}: expected a larger width")
    for name, least in (("weight_bits", 1), ("activation_bits", 2)):
        if value[name] != FLOAT_BITS and not least <= value[name] <= 8:
            raise UsageError(f"--{name}={value[name]} is out of range: expected {least} to 8, or 32 for float")
    if (value["weight_bits"] == FLOAT_BITS) != (value["method"] == "float"):
        raise UsageError(f"--method={value['method']} does not go with --weight_bits={value['weight_bits']}")
