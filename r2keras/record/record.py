"""The one hand-over between training and files: per tensor the integer codes and the scales that give its values."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._errors import invalid
from r2keras._files import atomic_write_bytes, one_line, read_npz
from r2keras.specs import QuantSpec

if TYPE_CHECKING:
    from r2keras.palettized import PalettizedTensor

FORMAT_VERSION = 3
HISTOGRAM_BINS = 64
_CONFIG_TYPES = {"model_name": str, "num_values": int, "kept_float": dict, "tensors": dict}


@dataclasses.dataclass(frozen=True)
class RangeFigures:
    """The range of one tensor: what an outlier-free tensor has small.

    Args:
        max_abs: `max|w|`.
        std: standard deviation, around the mean.
        kurtosis: `mean((w - mean)^4) / std^4`: 1.8 for a uniform distribution, 3 for a normal one; 0 if constant.
        low: the smallest value.
        high: the largest value.
        counts: how many values fall in each of 64 equal bins of `[low, high]`.
    """

    max_abs: float
    std: float
    kurtosis: float
    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def max_over_std(self) -> float:
        """`max|w| / std(w)`, the figure that no rescaling of the tensor changes; 0 if constant."""
        return self.max_abs / self.std if self.std > 0 else 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> RangeFigures:
        """Measures a tensor of any shape, in double precision.

        Raises:
            ValueError: no values, or values that are not finite.

        Example:

        >>> RangeFigures.of(np.array([-1.0, 0.0, 1.0, 2.0])).max_abs
        2.0
        """
        flat = np.asarray(values, np.float64).ravel()
        if not flat.size or not np.isfinite(flat).all():
            raise ValueError(invalid("values", "at least one number, all of them finite", values))
        low, high = float(flat.min()), float(flat.max())
        if low == high:
            # The mean of equal numbers is rounded, which would leave a tiny standard deviation and absurd ratios to it.
            return cls(abs(low), 0.0, 0.0, low, high, _histogram(flat * 0))
        std = float(flat.std())
        kurtosis = float(np.mean(((flat - flat.mean()) / std) ** 4))
        return cls(max(-low, high), std, kurtosis, low, high, _histogram((flat - low) / (high - low)))

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> RangeFigures:
        """Returns the figures of `dataclasses.asdict`, after JSON too."""
        *numbers, _ = (field.name for field in dataclasses.fields(cls))
        figures = {name: float(config[name]) for name in numbers}
        return cls(**figures, counts=tuple(int(count) for count in config["counts"]))


def _histogram(fractions: np.ndarray) -> tuple[int, ...]:
    """Counts numbers in [0, 1] in equal bins; 1 belongs to the last."""
    bins = np.minimum((fractions * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    return tuple(map(int, np.bincount(bins, minlength=HISTOGRAM_BINS)))


def expand(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeats a scale or zero point to the weight's shape.

    Args:
        values: same rank as `shape`; each axis is 1, the full size, or a divisor of it (one entry per run of
            consecutive elements, as per-group scales have).
        shape: the weight's shape.

    Returns:
        Array of `shape`.

    Example:

    >>> expand(np.array([[1.0, 2.0]]), (1, 4))
    array([[1., 1., 2., 2.]])
    """
    for axis, size in enumerate(shape):
        if values.shape[axis] not in (1, size):
            values = np.repeat(values, size // values.shape[axis], axis)
    return np.broadcast_to(values, shape)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """One uniformly quantized weight: `w = scale * (code - zero_point)`, in float32, bit for bit.

    Args:
        name: `"<layer path>/<variable>"`.
        codes: int8, the weight's shape, in `[spec.quant_min, spec.quant_max]`.
        scale: float32, the weight's rank; each axis 1, the full size or a divisor of it. Positive.
        zero_point: float32, `scale`'s shape: 0, an integer code (asymmetric), or -1/2 (mid-rise).
        spec: the spec that the codes follow.
        before: range of the float weight that the codes came from.

    Raises:
        ValueError: shapes that do not fit, codes outside the grid, a scale that is not positive and finite, a zero
            point that the grid does not have.

    Example:

    >>> one = np.ones((1, 1), np.float32)
    >>> t = QuantizedTensor("dense/kernel", np.array([[-2, 1]], np.int8), 0.5 * one, 0 * one,
    ...                     QuantSpec(num_bits=4), RangeFigures.of(np.array([-1.0, 0.6])))
    >>> t.values()
    array([[-1. ,  0.5]], dtype=float32)
    """

    name: str
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    spec: QuantSpec
    before: RangeFigures

    def __post_init__(self):
        self._check_codes()
        for name, dtype in (("codes", np.int8), ("scale", np.float32), ("zero_point", np.float32)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype, order="C"))
        self._check_shapes()
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(self._complaint("scale", "is not positive and finite"))
        self._check_zero_point()

    def _check_codes(self) -> None:
        # Before the conversion to int8, which would wrap 300 to 44 and cut 0.5 to 0.
        codes, low, high = np.asarray(self.codes), self.spec.quant_min, self.spec.quant_max
        if codes.dtype.kind not in "iu":
            raise ValueError(self._complaint("codes", f"are not integers but {codes.dtype}"))
        if codes.size and not (low <= codes.min() and codes.max() <= high):
            raise ValueError(
                self._complaint(
                    "codes", f"leave the grid: {codes.min()} to {codes.max()} where {low} to {high} is allowed"
                )
            )

    def _check_shapes(self) -> None:
        shape, scale = self.codes.shape, self.scale.shape
        fits = len(shape) == len(scale) and all(s and n % s == 0 for n, s in zip(shape, scale, strict=True))
        if not fits or self.zero_point.shape != scale:
            raise ValueError(
                f"The scale of {self.name!r} does not fit its codes. Expected the same rank, each axis 1, the full "
                f"size or a divisor of it. Received: codes {shape}, scale {scale}, zero_point {self.zero_point.shape}."
            )

    def _check_zero_point(self) -> None:
        spec, zero = self.spec, self.zero_point
        if not spec.symmetric:
            good = (zero == np.round(zero)) & (spec.quant_min <= zero) & (zero <= spec.quant_max)
        else:
            good = zero == (-0.5 if spec.levels == "mid_rise" else 0.0)
        if not good.all():
            raise ValueError(self._complaint("zero_point", "is not one of its grid"))

    def _complaint(self, part: str, what: str) -> str:
        """Returns the message for a tensor whose parts contradict its spec."""
        return f"The {part} of {self.name!r} {what} ({self.spec.num_bits} bits). The record was edited or is corrupt."

    def values(self) -> np.ndarray:
        """Returns the weight, float32: `scale * (code - zero_point)`."""
        steps = self.codes.astype(np.float32) - expand(self.zero_point, self.codes.shape)
        return expand(self.scale, self.codes.shape) * steps

    @property
    def ideal_bits(self) -> int:
        """Bits of the codes alone: `num_bits` times the number of weights."""
        return self.spec.num_bits * self.codes.size

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by the names they have in the file."""
        return {"codes": self.codes, "scale": self.scale, "zero_point": self.zero_point}

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the arrays, as plain JSON."""
        return {"kind": self.spec.kind, "spec": self.spec.to_dict(), "before": dataclasses.asdict(self.before)}

    @classmethod
    def from_parts(cls, name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> QuantizedTensor:
        """Returns the tensor of `to_dict` and `arrays`."""
        before = RangeFigures.from_dict(config["before"])
        return cls(name, spec=QuantSpec.from_dict(config["spec"]), before=before, **arrays)


# What tensors a record may hold, by the kind of their spec: `QuantizedTensor`, and `PalettizedTensor` from its module.
TENSOR_KINDS: dict[str, type[QuantizedTensor] | type[PalettizedTensor]] = {QuantSpec.kind: QuantizedTensor}
Tensor = Any


def table_bytes(tensor: Tensor) -> int:
    """Returns the bytes of what is stored beside codes or indices; zero points that are all zero need none."""
    tables = [array for name, array in tensor.arrays().items() if name not in ("codes", "indices")]
    return sum(table.nbytes for table in tables if table.any())


@dataclasses.dataclass(frozen=True)
class QuantizedActivation:
    """The grid of one activation tensor: `x = scale * (code - zero_point)`.

    Args:
        name: path of the layer whose output it is, or the name of the model's input.
        scale: positive, float32.
        zero_point: the code of zero, in `[-2^(b-1), 2^(b-1) - 1]`; -1/2 for the mid-rise grid of a recurrent state.
        num_bits: bits of a code, 2 to 8.

    Raises:
        ValueError: a value out of range.

    Example:

    >>> QuantizedActivation("stem/relu", 0.05, -128, 8).zero_point
    -128
    """

    name: str
    scale: float
    zero_point: float
    num_bits: int

    def __post_init__(self):
        top = 2 ** (self.num_bits - 1) if self.num_bits in range(2, 9) else 0
        if not (top and 0 < self.scale < float("inf") and -top <= self.zero_point < top):
            raise ValueError(
                f"The grid of the activation {self.name!r} is none: scale={self.scale!r}, "
                f"zero_point={self.zero_point!r}, num_bits={self.num_bits!r}. The record was edited or is corrupt."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionRecord:
    """What compression did to a model; exporters and reports read it and guess nothing.

    Args:
        tensors: the compressed weights by name.
        kept_float: kernels that stay float, each with the reason.
        num_values: scalars in the whole model, compressed or not (biases and statistics too).
        model_name: the model's name.
        activations: the grids of quantized activations by the path of the layer that makes them.
        notes: remarks on single kernels by name: how a calibration step fared with them.

    Example:

    >>> import tempfile
    >>> record = CompressionRecord({}, {"head/kernel": "no rule of the recipe matches"}, 10, "tiny")
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.record.npz")
    >>> record.save(path)
    >>> CompressionRecord.load(path).kept_float
    {'head/kernel': 'no rule of the recipe matches'}
    """

    tensors: dict[str, Tensor]
    kept_float: dict[str, str]
    num_values: int
    model_name: str
    activations: dict[str, QuantizedActivation] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def save(self, path: str | os.PathLike) -> None:
        """Writes one `.npz`: arrays, and the rest as JSON; no pickle; whole or not at all.

        Args:
            path: file name, ending in `.npz`.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(invalid("path", "a file name ending in .npz", str(path)))
        arrays = {f"{n}|{k}": a for n, t in self.tensors.items() for k, a in t.arrays().items()}
        config = {
            "version": FORMAT_VERSION,
            "model_name": self.model_name,
            "num_values": self.num_values,
            "kept_float": self.kept_float,
            "notes": self.notes,
            "tensors": {name: tensor.to_dict() for name, tensor in self.tensors.items()},
            "activations": {name: dataclasses.asdict(grid) for name, grid in self.activations.items()},
        }
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(config).encode(), np.uint8)
        files: dict[str, Any] = {"record.json": text, **arrays}
        np.savez_compressed(buffer, **files)
        atomic_write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> CompressionRecord:
        """Reads a record that `save` wrote, and checks every code and scale.

        Raises:
            ValueError: the file is truncated, corrupt, edited, or no record.
            OSError: the file cannot be read.
        """
        arrays = read_npz(path)
        try:
            return cls._from_arrays(arrays)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a readable record ({one_line(error)}). Write it again with `record.save`."
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> CompressionRecord:
        """Returns the record of the arrays in a file."""
        config = json.loads(arrays["record.json"].tobytes())
        if config["version"] not in range(1, FORMAT_VERSION + 1):
            raise ValueError(f"version {config['version']}, this r2keras reads 1 to {FORMAT_VERSION}")
        for key, kind in _CONFIG_TYPES.items():
            if not isinstance(config[key], kind):
                raise ValueError(f"{key!r} of record.json is no {kind.__name__}")
        tensors = {
            name: TENSOR_KINDS[part["kind"]].from_parts(name, part, _arrays_of(name, arrays))
            for name, part in config["tensors"].items()
        }
        # Version 1 knew no activations, version 2 no palettes, and records from before there were notes have none.
        grids = {name: QuantizedActivation(**grid) for name, grid in config.get("activations", {}).items()}
        notes = config.get("notes", {})
        return cls(tensors, config["kept_float"], config["num_values"], config["model_name"], grids, notes)


def _arrays_of(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of one tensor."""
    own = {key.rpartition("|")[2]: array for key, array in arrays.items() if key.rpartition("|")[0] == name}
    if not own:
        raise KeyError(f"no arrays of {name!r}")
    return own
