"""Options of each layer: the specs that its kernels may have, with the bytes and the values that each leads to."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r2keras._models import values
from r2keras._models.walk import Kernel, ModelView
from r2keras._util.progress import progress_bar
from r2keras.automatic.fingerprint import fingerprint
from r2keras.budget import tensor_bytes
from r2keras.calibration import as_matrix
from r2keras.calibration.checkpoints import LayerStore
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.post_training import quantized_kernels
from r2keras.calibration.rounding.adaround import best_rounding
from r2keras.calibration.rounding.float_inputs import InputStatistics
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions
from r2keras.compression import weight_plan
from r2keras.export.weights.uniform import OVERHEAD
from r2keras.record import QuantizedTensor, Tensor
from r2keras.specs import PaletteSpec, QuantSpec, Recipe, Spec


@dataclasses.dataclass(frozen=True)
class Option:
    """One spec for the kernels of a layer.

    Args:
        label: `"4 bits"`, or `"palette, 4 bits"`.
        spec: the spec.
        num_bytes: bytes of the kernels in a file, about.
        tensors: the kernels by full name.
    """

    label: str
    spec: Spec
    num_bytes: int
    tensors: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A layer, whose kernels all get one spec.

    Args:
        path: the path of the layer.
        kernels: its kernels.
        options: what it may have, in the order in which the specs were given.
    """

    path: str
    kernels: tuple[Kernel, ...]
    options: tuple[Option, ...]

    @property
    def num_values(self) -> int:
        """Weights in its kernels."""
        return sum(int(np.prod(kernel.variable.shape)) for kernel in self.kernels)

    @property
    def pattern(self) -> str:
        """The regular expression that matches this layer alone."""
        return re.escape(self.path)


def specs_for(bits: Sequence[int], palettes: bool) -> dict[str, Spec]:
    """Returns the specs to choose from by their labels; palettes above 4 bits cost more than grids.

    >>> list(specs_for((8, 4), palettes=True))
    ['8 bits', '4 bits', 'palette, 4 bits']
    """
    specs: dict[str, Spec] = {label_of(spec): spec for spec in (QuantSpec(number) for number in bits)}
    if palettes:
        specs |= {label_of(spec): spec for spec in (PaletteSpec(num_bits=number) for number in bits if number <= 4)}
    return specs


def label_of(spec: Spec) -> str:
    """Returns the name of a spec in tables.

    >>> label_of(PaletteSpec(num_bits=2))
    'palette, 2 bits'
    """
    bits = "1 bit" if spec.num_bits == 1 else f"{spec.num_bits} bits"
    return f"palette, {bits}" if isinstance(spec, PaletteSpec) else bits


def choices_of(
    view: ModelView,
    specs: Mapping[str, Spec],
    data: list[Batch],
    statistics: Mapping[str, InputStatistics],
    options: AdaRoundOptions | None,
    folder: str | os.PathLike | None,
    progress: bool,
) -> list[Choice]:
    """Returns the layers with kernels, and their options.

    Args:
        view: the float model.
        specs: specs by their labels.
        data: checked batches, which weight the search of palettes.
        statistics: the inputs of the kernels (`input_statistics`).
        options: settings of AdaRound, with the inputs of the float model; None rounds to nearest.
        folder: where finished kernels are kept, or None.
        progress: whether to show a bar.
    """
    found: dict[str, list[Option]] = {}
    total = len(view.kernels) * sum(isinstance(spec, QuantSpec) for spec in specs.values())
    with progress_bar(progress and options is not None, total, "Rounding") as update:
        done = 0
        for label, spec in specs.items():
            tensors = dict(_nearest(view, spec, data))
            if options is not None and isinstance(spec, QuantSpec):
                store = _store(folder, label, tensors, options, data)
                for name, tensor in tensors.items():
                    update(done, f"Rounding {name} to {label}")
                    tensors[name] = _rounded(view, name, tensor, statistics, options, store)
                    done += 1
                update(done, "Rounding")
            for path, option in _by_layer(view, label, spec, tensors).items():
                found.setdefault(path, []).append(option)
    return [Choice(path, view.kernels_in(path), tuple(options)) for path, options in found.items()]


def _nearest(view: ModelView, spec: Spec, data: list[Batch]) -> Mapping[str, Tensor]:
    """Returns all kernels under one spec; palettes are weighted by the outputs' sensitivity."""
    recipe = Recipe([(".*", spec)])
    steps = ("sensitivity",) if isinstance(spec, PaletteSpec) else ()
    return quantized_kernels(view, weight_plan.plan_of(view, recipe), data, steps)[1].tensors


def _rounded(
    view: ModelView,
    name: str,
    tensor: Tensor,
    statistics: Mapping[str, InputStatistics],
    options: AdaRoundOptions,
    store: LayerStore | None,
) -> Tensor:
    """Returns one kernel after AdaRound, or as it is if its layer is not linear."""
    known = statistics.get(name)
    if known is None or not isinstance(tensor, QuantizedTensor) or not known.moments.rows:
        return tensor
    stored = None if store is None else store.load(name, tensor)
    if stored is not None:
        return stored[0]
    kernel = next(kernel for kernel in view.kernels if kernel.full_name == name)
    result, note = best_rounding(tensor, values.to_numpy(kernel.variable), known.form, known.moments, options)
    if store is not None:
        store.save(name, result.codes, result.scale, note)
    return result


def _store(
    folder: str | os.PathLike | None,
    label: str,
    tensors: Mapping[str, Tensor],
    options: AdaRoundOptions,
    data: list[Batch],
) -> LayerStore | None:
    """Returns where finished kernels are kept; None without a folder."""
    if folder is None:
        return None
    arrays = [array for tensor in tensors.values() for array in tensor.arrays().values()]
    arrays += [array for batch in data for array in batch]
    return LayerStore(Path(folder, label.replace(" ", "_")), fingerprint(dataclasses.asdict(options), arrays))


def _by_layer(view: ModelView, label: str, spec: Spec, tensors: Mapping[str, Tensor]) -> dict[str, Option]:
    """Returns the option of each layer of which every kernel is compressed."""
    found: dict[str, Option] = {}
    for path, layer in view.layers:
        kernels = view.kernels_in(path)
        names = [kernel.full_name for kernel in kernels]
        if not names or any(name not in tensors for name in names):
            continue
        sizes = [tensor_bytes(k.full_name, layer, k.variable, spec) for k in kernels]
        num_bytes = sum(size.container_bytes + size.scale_bytes + OVERHEAD for size in sizes)
        if isinstance(spec, PaletteSpec):
            num_bytes += OVERHEAD * len(sizes)  # One more operator looks the entries up.
        found[path] = Option(label, spec, num_bytes, {name: tensors[name] for name in names})
    return found


def bias_shifts(
    choice: Choice, option: Option, view: ModelView, statistics: Mapping[str, InputStatistics]
) -> np.ndarray | None:
    """Returns the mean change of a layer's outputs under an option; None if the layer has no bias to correct."""
    layer = view.layers_by_path[choice.path]
    if len(choice.kernels) != 1 or not as_matrix.is_linear(layer) or getattr(layer, "bias", None) is None:
        return None
    name = choice.kernels[0].full_name
    shape = tuple(layer.bias.shape)
    if name not in statistics or not statistics[name].moments.rows or len(shape) != 1:
        return None
    shift = statistics[name].bias_shift(option.tensors[name].values()).ravel()
    return shift.astype(np.float32) if shift.shape == shape else None
