"""What the specs of a recurrent layer may be, and how they go into its config and come back."""

from __future__ import annotations

import dataclasses
from typing import Any

from r2keras._errors import invalid
from r2keras.palette_spec import PaletteSpec
from r2keras.record import QuantizedActivation
from r2keras.specs import ActivationSpec, QuantSpec

NORMALIZATIONS = ("layer", "weight")
STATE_METHODS = ("ste", "alternating")
CLASSES = {"quantize": QuantSpec, "palettize": PaletteSpec, "activation": ActivationSpec, "grid": QuantizedActivation}


@dataclasses.dataclass(frozen=True)
class RecurrentSpecs:
    """The specs of one recurrent layer, checked.

    Args:
        kernel: of the input kernel.
        recurrent: of the recurrent kernel.
        state: of the hidden state.
        inputs: of the layer's input.
    """

    kernel: QuantSpec | PaletteSpec | None = None
    recurrent: QuantSpec | PaletteSpec | None = None
    state: QuantSpec | ActivationSpec | QuantizedActivation | None = None
    inputs: QuantSpec | ActivationSpec | QuantizedActivation | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _read(getattr(self, field.name)))
        for name in ("kernel", "recurrent"):
            if not isinstance(getattr(self, name), (QuantSpec, PaletteSpec, type(None))):
                raise TypeError(invalid(f"{name}_spec", "a QuantSpec, a PaletteSpec or None", getattr(self, name)))
        for name, argument in (("state", "state_spec"), ("inputs", "input_spec")):
            self._check_values(argument, getattr(self, name))

    def _check_values(self, argument: str, spec: object) -> None:
        """Raises for a spec that is not for values computed on line."""
        if not isinstance(spec, (QuantSpec, ActivationSpec, QuantizedActivation, type(None))):
            raise TypeError(invalid(argument, "a QuantSpec, an ActivationSpec or None", spec))
        if argument == "state_spec" and isinstance(spec, QuantSpec) and spec.method not in STATE_METHODS:
            fix = "For a range that is learned pass an ActivationSpec"
            raise ValueError(invalid(argument, f"a QuantSpec with method {' or '.join(STATE_METHODS)}", spec, fix))
        if isinstance(spec, QuantSpec) and spec.num_bits < 2:
            raise ValueError(invalid(argument, "2 bits or more", spec, "Pass QuantSpec(num_bits=2)"))
        if argument == "input_spec" and isinstance(spec, QuantSpec) and spec.method != "alternating":
            fix = f"Pass r2keras.ActivationSpec(num_bits={spec.num_bits}), whose range is observed"
            raise ValueError(invalid(argument, "an ActivationSpec, or a QuantSpec with method alternating", spec, fix))

    @property
    def any(self) -> bool:
        """Whether anything is quantized."""
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))

    def config(self) -> dict[str, Any]:
        """Returns the specs as the constructor's arguments, in plain JSON."""
        parts = {"kernel": self.kernel, "recurrent": self.recurrent, "state": self.state, "input": self.inputs}
        return {f"{name}_spec": _write(spec) for name, spec in parts.items()}


def _read(spec: Any) -> Any:
    """Returns the spec of a config entry `{kind: arguments}`, and anything else as it is."""
    if isinstance(spec, dict) and len(spec) == 1 and next(iter(spec)) in CLASSES:
        ((kind, arguments),) = spec.items()
        return CLASSES[kind](**arguments)
    return spec


def _write(spec: Any) -> dict[str, Any] | None:
    """Returns a spec as `{kind: arguments}`."""
    if spec is None:
        return None
    (kind,) = (kind for kind, known in CLASSES.items() if isinstance(spec, known))
    return {kind: dataclasses.asdict(spec)}
