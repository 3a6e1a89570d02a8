"""Settings of a search: candidates, limits and training."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from r2keras._util.errors import (
    check_int,
    check_number,
    check_pattern,
    check_positive,
    invalid,
    invalid_choice,
    missing,
)
from r2keras._util.numeric import as_int
from r2keras.specs import METHODS
from r2keras.specs.activation import ACTIVATION_METHODS
from r2keras.specs.quant import FITTED_AT_RUN_TIME

PALETTE = "palette"
FLOAT = "float"
METRICS = ("accuracy", "perplexity")
STARTS = ("trained", "fresh")
COUNTS = ("packed", "containers")
GRANULARITIES = ("per_channel", "per_tensor")
# Settings that may change between runs of a study: its rows stay comparable.
CHANGEABLE = ("bits", "widths", "max_bytes", "max_drop", "trials", "count")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of a search over bits, widths and methods.

    Every width is also trained in float. This control shows the effect of widening alone.

    Args:
        model: path of the Keras model, `.keras` or `.h5`.
        data: path of an `.npz` file. Either inputs `x` (or one array per input, by name) and integer labels `y`, with
            optional validation data `x_val` and `y_val`; without them, a fifth of the samples is held out. Or text as
            two vectors of word indices, `train` and `valid`.
        bits: bits per weight, each 1 to 8.
        widths: width factors for `widen`; factors below 1 need `start="fresh"`.
        methods: methods of `QuantSpec`, or `"palette"`.
        max_bytes: maximum bytes of the weights; larger candidates are not trained. None sets no limit.
        max_drop: maximum loss relative to the float control of the smallest width: accuracy as a fraction (0.01 is one
            point), perplexity as a ratio (0.01 is 1 % more). None sets no limit.
        metric: `"accuracy"` or `"perplexity"`, measured on the validation data.
        epochs: number of epochs per candidate.
        seed: seed of all random numbers.
        trials: maximum number of trained candidates, not counting float controls; None trains all.
        match: the layers to widen, as in `widen`.
        keep_float: regular expression of the kernels that stay in float; None compresses all.
        granularity: granularity of the scales, `"per_channel"` or `"per_tensor"`.
        activation_bits: bits of layer outputs and recurrent states, 2 to 8; None leaves them in float.
        activation_method: method of the activations, as in `QuantSpec`; None takes the counterpart of the method of
            the weights.
        start: `"trained"` widens and fine-tunes the trained weights; `"fresh"` trains every candidate from scratch.
        learning_rate: learning rate of Adam.
        batch_size: samples per step.
        length: words per window of text.
        early_stopping: whether a candidate is stopped in the second half of its epochs if a smaller one was better at
            the same epoch.
        count: `"packed"` counts codes at their bit width, `"containers"` in the 2, 4 or 8 bits of a `.tflite` file.

    Raises:
        ValueError: a value is out of range, or two values contradict each other.
        TypeError: a value has the wrong type.

    Example:

    >>> search = Search(model="m.keras", data="x.npz", bits=(2, 4), widths=(1, 1.5))
    >>> search.methods, search.metric
    (('ste',), 'accuracy')
    """

    model: str
    data: str
    bits: tuple[int, ...] = (2, 3, 4, 8)
    widths: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0)
    methods: tuple[str, ...] = ("ste",)
    max_bytes: int | None = None
    max_drop: float | None = None
    metric: str = "accuracy"
    epochs: int = 3
    seed: int = 0
    trials: int | None = None
    match: str | None = None
    keep_float: str | None = None
    granularity: str = "per_channel"
    activation_bits: int | None = None
    activation_method: str | None = None
    start: str = "trained"
    learning_rate: float = 1e-3
    batch_size: int = 32
    length: int = 30
    early_stopping: bool = True
    count: str = "packed"

    def __post_init__(self):
        for name in ("model", "data"):
            self._set(name, os.fspath(getattr(self, name)))
        for name in ("bits", "widths", "methods"):
            self._check_list(name)
        for name, choices in (("metric", METRICS), ("start", STARTS), ("count", COUNTS)):
            if getattr(self, name) not in choices:
                raise ValueError(invalid_choice(name, choices, getattr(self, name)))
        for name in self.methods:
            if name not in (*METHODS, PALETTE):
                raise ValueError(invalid_choice("methods", (*METHODS, PALETTE), name))
        self._check_numbers()
        self._check_widths()
        self._check_layers()

    def _check_list(self, name: str) -> None:
        """Replaces a list by a tuple of its distinct values."""
        values = getattr(self, name)
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise TypeError(invalid(name, "a list", values))
        values = tuple(dict.fromkeys(values))
        if not values:
            raise ValueError(invalid(name, "at least one value", list(values)))
        self._set(name, values)

    def _check_numbers(self) -> None:
        """Raises for a number out of range."""
        self._set("bits", tuple(_checked_bits(bits) for bits in self.bits))
        minima = {"epochs": 1, "seed": 0, "batch_size": 1, "length": 1, "max_bytes": 1, "trials": 1}
        for name, low in minima.items():
            value = getattr(self, name)
            if value is not None or name not in ("max_bytes", "trials"):
                self._set(name, check_int(name, value, low, None))
        self._set("learning_rate", check_positive("learning_rate", self.learning_rate, "a number greater than 0"))
        self._set("max_drop", check_number("max_drop", self.max_drop, 0, math.inf))

    def _check_layers(self) -> None:
        """Raises for settings of single layers that no layer can have."""
        for name in ("match", "keep_float"):
            if getattr(self, name) is not None:
                check_pattern(name, getattr(self, name))
        if self.activation_bits is not None:
            self._set("activation_bits", check_int("activation_bits", self.activation_bits, 2, 8))
        methods = (*ACTIVATION_METHODS, FITTED_AT_RUN_TIME, None)
        for name, choices in (("granularity", GRANULARITIES), ("activation_method", methods)):
            if getattr(self, name) not in choices:
                raise ValueError(invalid_choice(name, filter(None, choices), getattr(self, name)))
        if not isinstance(self.early_stopping, bool):
            raise TypeError(invalid("early_stopping", "True or False", self.early_stopping))

    def _set(self, name: str, value: object) -> None:
        """Sets a setting to its checked form, such as a plain number for one of NumPy."""
        object.__setattr__(self, name, value)

    def _check_widths(self) -> None:
        """Raises for invalid widths."""
        for width in self.widths:
            if check_positive("widths", width, "numbers greater than 0") < 1 and self.start == "trained":
                fix = "Pass start='fresh' to train narrower models from the start"
                raise ValueError(invalid("widths", "at least 1 with start='trained'", width, fix))
        self._set("widths", tuple(float(width) for width in self.widths))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON."""
        settings = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Search:
        """Returns the settings from the result of `to_dict`.

        Raises:
            ValueError: a key is not a setting, `model` or `data` is missing, or a value is out of range.
            TypeError: a value has the wrong type.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in names:
                raise ValueError(invalid_choice("key of the settings", names, key))
        for name in ("model", "data"):
            if not isinstance(config.get(name), str):
                raise ValueError(invalid(name, "a path", config.get(name)))
        return cls(**config)

    def fingerprint(self) -> dict[str, Any]:
        """Returns the settings that all rows of a study share, with hashes of the files in place of their paths."""
        fixed = {name: value for name, value in self.to_dict().items() if name not in CHANGEABLE}
        return fixed | {name: _digest(getattr(self, name)) for name in ("model", "data")}


def load_optuna() -> ModuleType:
    """Imports Optuna without its log messages.

    Raises:
        ImportError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(missing("optuna", "A search", "search")) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _checked_bits(value: object) -> int:
    """Returns one of the bit widths as a plain integer."""
    bits = as_int(value)
    if bits is None:
        raise TypeError(invalid("bits", "integers from 1 to 8", value))
    if not 1 <= bits <= 8:
        raise ValueError(invalid("bits", "integers from 1 to 8", value))
    return bits


def _digest(path: str) -> str:
    """Returns the SHA-256 hash of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
