"""The base class of wrappers that compress kernels by spec: one spec for all kernels, or one per kernel name."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from r2keras._models import walk
from r2keras._util.errors import invalid
from r2keras.layers.wrappers.substitute import SubstituteWeights


class SpecifiedWeights(SubstituteWeights):
    """Stores, checks and saves the specs of a wrapper's kernels.

    Args:
        layer: the layer to wrap.
        specs: one spec of `spec_type` for every kernel, or a mapping from kernel names to specs.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: a spec of another type.
    """

    # `QuantSpec` or `PaletteSpec`.
    spec_type: ClassVar[Any]
    # The last sentence of the error for a name that is not a kernel.
    unknown_fix: ClassVar[str] = "Biases, norms and statistics stay float: only kernels are compressed"

    def __init__(self, layer: keras.Layer, specs: Any, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(layer, name=name, **kwargs)
        for spec in specs.values() if isinstance(specs, dict) else [specs]:
            if not isinstance(spec, self.spec_type):
                expected = f"a {self.spec_type.__name__}, or a mapping from kernel names to them"
                raise TypeError(invalid("specs", expected, spec))
        self.specs = dict(specs) if isinstance(specs, dict) else specs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        # The empty name stands for one spec for all kernels.
        specs = self.specs if isinstance(self.specs, dict) else {"": self.specs}
        return {**super().get_config(), "specs": {name: spec.to_dict() for name, spec in specs.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SpecifiedWeights:
        """Returns the layer of a `get_config` result."""
        specs = {name: cls.spec_type.from_dict(spec) for name, spec in config["specs"].items()}
        return super().from_config({**config, "specs": specs.get("", specs)})

    def kernel_specs(self) -> dict[str, Any]:
        """Returns the specs by the kernels' names relative to the layer."""
        return {name: self._spec(name) for name in self._names(self._kernels())}

    def _kernels(self) -> dict[str, keras.Variable]:
        """Returns the kernels of the wrapped layer by their names relative to it."""
        return dict(walk.kernels(self.layer))

    def _names(self, kernels: dict[str, keras.Variable]) -> list[str]:
        """Returns the names of the kernels that have a spec."""
        if not isinstance(self.specs, dict):
            return list(kernels)
        for name in self.specs:
            if name not in kernels:
                expected = f"names of kernels of {self.layer.name!r}: {list(kernels)}"
                raise ValueError(invalid("specs", expected, name, self.unknown_fix))
        return list(self.specs)

    def _spec(self, name: str) -> Any:
        """Returns the spec of a kernel."""
        return self.specs[name] if isinstance(self.specs, dict) else self.specs
