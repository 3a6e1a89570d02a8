"""What a search is told: the candidates, the limits, and how each one is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import Any

from r2keras._errors import invalid, invalid_choice, missing
from r2keras.specs import METHODS

PALETTE = "palette"
FLOAT = "float"
METRICS = ("accuracy", "perplexity")
STARTS = ("trained", "fresh")
COUNTS = ("packed", "containers")
# A rerun may ask for more; the rows of the study stay comparable.
FREE = ("bits", "widths", "max_bytes", "max_drop", "trials", "count")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """A search over bits, widths and methods.

    Every width is also trained as float, the control: what widening alone brings.

    Args:
        model: the Keras model, `.keras` or `.h5`.
        data: an `.npz`: inputs `x` (or one array by the name of each input) and integer labels `y`, for validation
            `x_val` and `y_val`, else a fifth is held out; or text as two vectors of word numbers, `train` and `valid`.
        bits: bits a weight, each 1 to 8.
        widths: factors for `widen`; those below 1 need `start="fresh"`.
        methods: methods of `QuantSpec`, or `"palette"`.
        max_bytes: what the weights may take; candidates above are not trained. None sets no limit.
        max_drop: what may be lost against the float control of the smallest width: accuracy as a fraction (0.01 is a
            point), perplexity as a ratio (0.01 is a hundredth more). None sets no limit.
        metric: `"accuracy"` or `"perplexity"`, of the validation data.
        epochs: epochs of each training.
        seed: of everything random.
        trials: how many candidates are trained at most, float controls not counted; None: all.
        match: which layers are widened, as in `widen`.
        keep_float: a regular expression: kernels that stay float.
        granularity: who shares a scale: `"per_channel"` or `"per_tensor"`.
        activation_bits: bits of layers' outputs and recurrent states, 2 to 8; None leaves them float.
        activation_method: their method, as in `QuantSpec`; None takes the partner of each candidate's method.
        start: `"trained"` widens the trained weights and fine-tunes; `"fresh"` trains every candidate from the start.
        learning_rate: of Adam.
        batch_size: samples a step.
        length: words a window of text.
        early_stopping: whether a candidate is given up in the second half of its epochs that a smaller one
            was ahead of at the same epoch.
        count: `"packed"` counts codes at their bits, `"containers"` in the 2, 4 or 8 bits that a `.tflite` has.

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a value of another type.

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
            object.__setattr__(self, name, os.fspath(getattr(self, name)))
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

    def _check_list(self, name: str) -> None:
        """Makes a list a tuple of different values."""
        values = getattr(self, name)
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise TypeError(invalid(name, "a list", values))
        values = tuple(dict.fromkeys(values))
        if not values:
            raise ValueError(invalid(name, "at least one value", list(values)))
        object.__setattr__(self, name, values)

    def _check_numbers(self) -> None:
        """Raises for a number out of range."""
        for bits in self.bits:
            _check("bits", bits, int, lambda b: 1 <= b <= 8, "integers from 1 to 8")
        whole = {"epochs": 1, "seed": 0, "batch_size": 1, "length": 1}
        whole |= {name: 1 for name in ("max_bytes", "trials") if getattr(self, name) is not None}
        for name, low in whole.items():
            _check(name, getattr(self, name), int, lambda v, low=low: v >= low, f"an integer of at least {low}")
        positive = "a number above 0"
        _check("learning_rate", self.learning_rate, (int, float), lambda v: 0 < v < math.inf, positive)
        if self.max_drop is not None:
            _check("max_drop", self.max_drop, (int, float), lambda v: 0 <= v < math.inf, "a fraction of at least 0")

    def _check_widths(self) -> None:
        """Raises for widths that nothing can have."""
        for width in self.widths:
            _check("widths", width, (int, float), lambda w: 0 < w < math.inf, "numbers above 0")
            if width < 1 and self.start == "trained":
                fix = "Pass start='fresh' to train narrower models from the start"
                raise ValueError(invalid("widths", "at least 1 with start='trained'", width, fix))
        object.__setattr__(self, "widths", tuple(float(width) for width in self.widths))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Search:
        """Returns the settings of a `to_dict` result."""
        return cls(**config)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what all rows of one study share: files by their contents, and how candidates are trained."""
        fixed = {name: value for name, value in self.to_dict().items() if name not in FREE}
        return fixed | {name: _digest(getattr(self, name)) for name in ("model", "data")}


def load_optuna() -> Any:
    """Imports Optuna quietly, or says what to install."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(missing("optuna", "A search", "search")) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check(name: str, value: object, kind: Any, fits: Any, expected: str) -> None:
    """Raises unless a number is of its kind and in its range."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(invalid(name, expected, value))
    if not fits(value):
        raise ValueError(invalid(name, expected, value))


def _digest(path: str) -> str:
    """Returns the hash of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
