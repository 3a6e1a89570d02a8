"""Specs of a recurrent layer: their checks, and their form in the layer's config."""

from __future__ import annotations

import dataclasses
from typing import Any

from r2keras._util.errors import invalid
from r2keras.record import QuantizedActivation
from r2keras.specs import ActivationSpec, PaletteSpec, QuantSpec
from r2keras.specs.dynamic import DYNAMIC, is_dynamic

KernelSpec = QuantSpec | PaletteSpec
# Specs of values computed at run time: states and inputs.
ValueSpec = QuantSpec | ActivationSpec | QuantizedActivation

NORMALIZATIONS = ("layer", "weight")
STATE_METHODS = ("ste", "alternating")
# Spec classes by their names in configs. A `QuantizedActivation` is a fixed grid, which finalized layers have.
SPEC_CLASSES = {
    "quantize": QuantSpec,
    "palettize": PaletteSpec,
    "activation": ActivationSpec,
    "grid": QuantizedActivation,
}


@dataclasses.dataclass(frozen=True)
class RecurrentSpecs:
    """The specs of one recurrent layer, checked.

    Args:
        kernel: spec of the input kernel, or its entry in a config.
        recurrent: spec of the recurrent kernel.
        state: spec of the hidden state.
        inputs: spec of the layer's input.
    """

    kernel: KernelSpec | None = None
    recurrent: KernelSpec | None = None
    state: ValueSpec | None = None
    inputs: ValueSpec | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _from_config(getattr(self, field.name)))
        for name in ("kernel", "recurrent"):
            if not isinstance(getattr(self, name), (QuantSpec, PaletteSpec, type(None))):
                raise TypeError(invalid(f"{name}_spec", "a QuantSpec, a PaletteSpec or None", getattr(self, name)))
        if is_dynamic(self.kernel) != is_dynamic(self.recurrent):
            expected = f"activation_method={DYNAMIC!r} in kernel_spec too, or in neither"
            fix = "The rows in front of both kernels are rounded, or of none"
            raise ValueError(invalid("recurrent_spec", expected, self.recurrent, fix))
        for name, argument in (("state", "state_spec"), ("inputs", "input_spec")):
            self._check_values(argument, getattr(self, name))

    def _check_values(self, argument: str, spec: object) -> None:
        """Raises for a spec that does not apply to values computed at run time."""
        if not isinstance(spec, (QuantSpec, ActivationSpec, QuantizedActivation, type(None))):
            raise TypeError(invalid(argument, "a QuantSpec, an ActivationSpec or None", spec))
        if argument == "state_spec" and isinstance(spec, QuantSpec) and spec.method not in STATE_METHODS:
            fix = "Pass an ActivationSpec for a trained range"
            raise ValueError(invalid(argument, f"a QuantSpec with method {' or '.join(STATE_METHODS)}", spec, fix))
        if isinstance(spec, QuantSpec) and spec.num_bits < 2:
            raise ValueError(invalid(argument, "2 bits or more", spec, "Pass QuantSpec(num_bits=2)"))
        if argument == "input_spec" and isinstance(spec, QuantSpec) and spec.method != "alternating":
            fix = f"Pass r2keras.ActivationSpec(num_bits={spec.num_bits}), whose range is observed"
            raise ValueError(invalid(argument, "an ActivationSpec, or a QuantSpec with method alternating", spec, fix))

    @property
    def dynamic(self) -> bool:
        """Whether the specs of the kernels round the rows in front of both kernels."""
        return is_dynamic(self.kernel)

    @property
    def any(self) -> bool:
        """Whether anything is quantized."""
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))

    def config(self) -> dict[str, Any]:
        """Returns the specs as the constructor's arguments, in plain JSON."""
        parts = {"kernel": self.kernel, "recurrent": self.recurrent, "state": self.state, "input": self.inputs}
        return {f"{name}_spec": _to_config(spec) for name, spec in parts.items()}


def _from_config(spec: Any) -> Any:
    """Returns the spec of a config entry `{kind: arguments}`; anything else is returned as it is."""
    if isinstance(spec, dict) and len(spec) == 1 and next(iter(spec)) in SPEC_CLASSES:
        ((kind, arguments),) = spec.items()
        return SPEC_CLASSES[kind](**arguments)
    return spec


def _to_config(spec: KernelSpec | ValueSpec | None) -> dict[str, Any] | None:
    """Returns a spec as `{kind: arguments}`."""
    if spec is None:
        return None
    (kind,) = (kind for kind, spec_class in SPEC_CLASSES.items() if isinstance(spec, spec_class))
    return {kind: dataclasses.asdict(spec)}
