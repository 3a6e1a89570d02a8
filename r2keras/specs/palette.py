"""The spec of weight palettization: size of the look-up table, weights per entry, softness in training."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from r2keras._util.errors import check_int, check_positive, invalid, invalid_choice
from r2keras.specs.activation import ActivationSpec
from r2keras.specs.base import BaseSpec

GRANULARITIES = ("per_tensor", "per_group")
TABLE_DTYPES = ("float32", "float16", "int8")
# The default of `min_size`.
SMALL = 2048
# Default multiples of the temperature to anneal between; docs/results/palettes.md has ResNet-20 with and without them.
START, FINAL = 6.0, 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaletteSpec(BaseSpec):
    """Palettization of a weight tensor: each run of `dim` weights becomes an index into a table of `2**num_bits` rows.

    Runs are consecutive along the last axis (the output channels of Dense and convolutions), as with the regularizers'
    `dim`. Where `dim` does not divide that axis, the last run is padded with the first weights along it, and the
    padding is dropped on decoding. A weight costs `num_bits / dim` bits, the table `2**num_bits * dim` numbers.

    In training the look-up is soft, `sum_j softmax_j(-|w - c_j|^2 / tau) c_j` with `tau = temperature * variance(w)`;
    in inference, and in the file, each run is its nearest row.

    Args:
        num_bits: bits per index, 1 to 8.
        dim: weights per table row, 1 to 8.
        granularity: which weights share a table: `"per_tensor"` or `"per_group"` of output channels.
        group_size: output channels per group, a multiple of `dim`; required with `"per_group"`, None otherwise.
        channel_scale: whether each output channel is divided by its largest magnitude before the look-up and
            multiplied by it afterwards; costs one float per channel.
        table_dtype: how the table is stored: `"float32"`, `"float16"`, or `"int8"` (with one scale per table), which
            `to_litert(..., optimize="latency")` requires. Training includes the rounding.
        temperature: softness relative to the variance of the weights at the start of training, above 0. None means
            `0.4 4^-b` at `b = num_bits / dim` bits per weight up to 4, and `0.4 4^-4 0.6^(b-4)` above: a fifth of the
            temperature at which neighboring centroids begin to merge. `callbacks.AnnealPalettes` starts above it and
            ends below.
        final_temperature: softness after `anneal_steps`; None keeps `temperature`.
        anneal_steps: training steps over which the temperature goes, geometrically, from `temperature` to
            `final_temperature`; required with `final_temperature`, None otherwise.
        updates: centroid updates per training step, 1 to 20.
        min_size: kernels with fewer weights stay float, and the record says so; 0 compresses all.
        activation_bits: bits of the layer's output on a uniform grid, 2 to 8, as in `QuantSpec`; None leaves it float.
            Integer files need 8, and `table_dtype="int8"`. States of recurrent layers stay float, and tf_keras layers
            take None only.

    Raises:
        ValueError: a value out of range, or two values that contradict each other.
        TypeError: a number that is not an integer, or a switch that is neither True nor False.

    Example:

    >>> spec = PaletteSpec(num_bits=4, dim=4)
    >>> spec.bits_per_weight, spec.entries
    (1.0, 16)

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """

    num_bits: int = 4
    dim: int = 1
    granularity: str = "per_tensor"
    group_size: int | None = None
    channel_scale: bool = False
    table_dtype: str = "float32"
    temperature: float | None = None
    final_temperature: float | None = None
    anneal_steps: int | None = None
    updates: int = 3
    min_size: int = SMALL
    activation_bits: int | None = None

    kind: ClassVar[str] = "palettize"

    def __post_init__(self):
        for name, low, high in (("num_bits", 1, 8), ("dim", 1, 8), ("updates", 1, 20), ("min_size", 0, None)):
            self._set(name, check_int(name, getattr(self, name), low, high))
        for name, choices in (("granularity", GRANULARITIES), ("table_dtype", TABLE_DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(invalid_choice(name, choices, getattr(self, name)))
        if self.activation_bits is not None:
            self._set("activation_bits", check_int("activation_bits", self.activation_bits, 2, 8))
        if not isinstance(self.channel_scale, bool):
            raise TypeError(invalid("channel_scale", "True or False", self.channel_scale))
        self._check_group()
        self._check_temperature()

    def _check_group(self) -> None:
        """Raises for a group size that is missing, not needed, or not a whole number of table rows."""
        if self.granularity == "per_tensor":
            if self.group_size is not None:
                fix = "Pass granularity='per_group' to give groups tables of their own"
                raise ValueError(invalid("group_size", "None with granularity='per_tensor'", self.group_size, fix))
            return
        if self.group_size is None:
            fix = "Pass group_size=16, say"
            raise ValueError(
                invalid("group_size", "a number of output channels with granularity='per_group'", None, fix)
            )
        self._set("group_size", check_int("group_size", self.group_size, 1, None))
        if self.group_size % self.dim:
            raise ValueError(invalid("group_size", f"a multiple of dim={self.dim}", self.group_size))

    def _check_temperature(self) -> None:
        """Raises for a bad schedule, and sets its defaults."""
        if (self.final_temperature is None) != (self.anneal_steps is None):
            name = "anneal_steps" if self.anneal_steps is None else "final_temperature"
            raise ValueError(
                invalid(name, "both or neither of final_temperature and anneal_steps", None, "Pass both to anneal")
            )
        bits = self.bits_per_weight
        self._set_default("temperature", 0.4 * 4.0 ** -min(bits, 4.0) * 0.6 ** max(bits - 4.0, 0.0))
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None:
                self._set(name, check_positive(name, value))
        if self.anneal_steps is not None:
            self._set("anneal_steps", check_int("anneal_steps", self.anneal_steps, 1, None))

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as plain JSON, without `activation_bits` if that is None."""
        arguments = super().to_dict()
        if self.activation_bits is None:
            # Older releases, which have no such argument, read these.
            del arguments["activation_bits"]
        return arguments

    def activation(self, *, unsigned: bool = False) -> ActivationSpec | None:
        """Returns the spec of the layer's output; None if it stays float.

        Args:
            unsigned: whether the output is never negative, as after a ReLU.

        Example:

        >>> PaletteSpec(num_bits=2, activation_bits=8).activation(unsigned=True).unsigned
        True
        """
        if self.activation_bits is None:
            return None
        return ActivationSpec(num_bits=self.activation_bits, unsigned=unsigned)

    def annealed(self, steps: int, start: float = START, final: float = FINAL) -> PaletteSpec:
        """Returns the spec whose temperature goes from `start` to `final` times this one's, geometrically.

        Use it under TFMOT; on Keras models `callbacks.AnnealPalettes` does the same and counts the steps itself.

        Args:
            steps: training steps until `final` is reached, for example four fifths of all.
            start: multiple of `temperature` at the first step.
            final: multiple of `temperature` at the end.

        Example:

        >>> spec = PaletteSpec(num_bits=2, temperature=0.1).annealed(100)
        >>> round(spec.temperature, 3), round(spec.final_temperature, 3), spec.anneal_steps
        (0.6, 0.02, 100)
        """
        assert self.temperature is not None  # `__post_init__` sets it.
        low, high = final * self.temperature, start * self.temperature
        return dataclasses.replace(self, temperature=high, final_temperature=low, anneal_steps=steps)

    @property
    def entries(self) -> int:
        """Rows of a table: `2**num_bits`."""
        return 2**self.num_bits

    @property
    def bits_per_weight(self) -> float:
        """Index bits per weight: `num_bits / dim`."""
        return self.num_bits / self.dim
