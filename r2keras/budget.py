"""What a model costs in bytes under a recipe, before anything is trained, and how much wider it may become for them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from r2keras import _model
from r2keras._errors import invalid
from r2keras.compress import plan_of
from r2keras.export.containers import container_bits
from r2keras.layers.specified import SpecifiedWeights
from r2keras.palette_layout import PaletteLayout
from r2keras.palette_spec import PaletteSpec
from r2keras.palettized import PalettizedTensor
from r2keras.quantizers.alternating import row_layout, row_palette
from r2keras.quantizers.axes import output_axes, scale_shape
from r2keras.recipe import Recipe, Spec
from r2keras.record import QuantizedTensor, RangeFigures, Tensor, table_bytes
from r2keras.report._format import count, to_text
from r2keras.specs import QuantSpec
from r2keras.widening import widen

FLOAT_BITS = 32
# Weights grow with the width or with its square, so three sizes tell all others.
WIDTHS = (1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True)
class TensorBytes:
    """What one weight takes.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape.
        num_bits: bits a code, or an index; 32 where it stays float.
        code_bytes: codes packed at `num_bits`, or 4 bytes a float.
        scale_bytes: scales and zero points, or tables of palettes.
        container_bytes: as `code_bytes`, in the 2-, 4- or 8-bit containers of a `.tflite` file.
    """

    name: str
    shape: tuple[int, ...]
    num_bits: int
    code_bytes: int
    scale_bytes: int
    container_bytes: int

    @property
    def float_bytes(self) -> int:
        """Bytes as float32."""
        return FLOAT_BITS // 8 * math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Codes, scales and tables together."""
        return self.code_bytes + self.scale_bytes


@dataclasses.dataclass(frozen=True)
class Footprint:
    """The bytes of a model's weights; `print` it, or take `to_dict()`.

    Args:
        model_name: the model's name.
        tensors: one entry a weight, in the model's order; biases and statistics too.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")], name="tiny")
    >>> found = footprint(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> found.bytes, found.float_bytes
    (48, 144)
    """

    model_name: str
    tensors: tuple[TensorBytes, ...]

    @property
    def kernels(self) -> tuple[TensorBytes, ...]:
        """The weights that compression is for, compressed or not."""
        return tuple(t for t in self.tensors if t.num_bits < FLOAT_BITS or _is_kernel_name(t))

    @property
    def bytes(self) -> int:
        """Codes packed at their bits, scales, tables, and float32 for the rest."""
        return sum(t.bytes for t in self.tensors)

    @property
    def container_bytes(self) -> int:
        """As `bytes`, with codes in the 2-, 4- or 8-bit containers of a `.tflite` file."""
        return sum(t.container_bytes + t.scale_bytes for t in self.tensors)

    @property
    def float_bytes(self) -> int:
        """All weights as float32."""
        return sum(t.float_bytes for t in self.tensors)

    @property
    def counted(self) -> str:
        """Which tensors are compressed: what makes two figures comparable."""
        small = [t.name for t in self.tensors if t.num_bits < FLOAT_BITS]
        kept = [t.name for t in self.kernels if t.num_bits == FLOAT_BITS]
        if not small:
            return "all weights, float"
        kernels = "1 kernel" if len(small) == 1 else f"{len(small)} kernels"
        return f"all weights, {kernels} compressed" + (f", float: {', '.join(kept)}" if kept else "")

    @property
    def text(self) -> str:
        """The totals, and what is not in them."""
        ratio = f"{self.float_bytes / max(self.bytes, 1):.1f} times smaller than float ({count(self.float_bytes)})"
        return (
            f"Total: {count(self.bytes)} bytes, {ratio}; {count(self.container_bytes)} in 2-, 4- and 8-bit "
            f"containers.\nCounted: {self.counted}. Not counted: the file's graph and metadata, activations at run "
            "time, scalars that regularizers and quantizers learn."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        rows = [{**dataclasses.asdict(t), "shape": list(t.shape), "bytes": t.bytes} for t in self.tensors]
        totals = ("bytes", "container_bytes", "float_bytes", "counted")
        return {"model_name": self.model_name, "tensors": rows, **{name: getattr(self, name) for name in totals}}

    def __rich__(self) -> Any:
        from r2keras.report.tables import footprint_table

        return footprint_table(self)

    def __str__(self) -> str:
        return to_text(self)


def footprint(model: keras.Model, recipe: Recipe | None = None) -> Footprint:
    """Returns the bytes of every weight of a model under a recipe, from shapes alone: nothing is quantized.

    A uniformly quantized weight takes `num_bits * size / 8` bytes and its float32 scales; zero points are counted
    where the grid has any (asymmetric and mid-rise grids). A palette takes `num_bits * indices / 8`, its tables and
    scales. Biases, statistics and kernels that no rule names take 4 bytes a value.

    Args:
        model: a built Functional or Sequential model, plain or made by `prepare`.
        recipe: what becomes what. None counts what the model's own layers compress, the others as float.

    Returns:
        The bytes by tensor, with totals.

    Raises:
        TypeError: a subclassed model, or `recipe` is no Recipe.
        ValueError: a recipe for a model that is prepared already; a pattern that matches nothing; a spec that does not
            fit its weight.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")], name="tiny")
    >>> print(footprint(model, Recipe([("head", QuantSpec(num_bits=4))])).text.splitlines()[0])
    Total: 48 bytes, 3.0 times smaller than float (144); 48 in 2-, 4- and 8-bit containers.
    """
    plan = {} if recipe is None else plan_of(model, recipe)
    tensors = []
    for path, layer in _model.leaf_layers(model):
        specs = plan.get(path) or _own_specs(layer)
        inner = layer.layer if isinstance(layer, SpecifiedWeights) else layer
        learned = {id(scalar) for variable in inner.weights for scalar in _learned(variable)}
        learned |= _model.quantizer_weights(inner)
        for name, variable in _model.relative_weights(inner):
            if id(variable) not in learned:
                tensors.append(_tensor_bytes(f"{path}/{name}", inner, variable, specs.get(name)))
    return Footprint(model.name, tuple(tensors))


def break_even_width(
    num_bits: int, model: keras.Model | None = None, *, match: str | None = None, recipe: Recipe | None = None
) -> float:
    """Returns how many times wider a model may become at few bits before it takes more bytes than as float.

    Recurrent kernels alone grow with the square of the width: `width = sqrt(32 / num_bits)`. A whole model is counted
    tensor by tensor, scales, biases and all: its embedding and softmax grow only in proportion, or not at all.

    Args:
        num_bits: bits a weight, 1 to 8.
        model: a built model that `widen` takes; None for recurrent kernels alone.
        match: what is widened, as in `widen`.
        recipe: what becomes what; None quantizes every kernel to `num_bits`, one scale a tensor.

    Returns:
        The largest width that pays; for a model the real number whose nearest whole units do.

    Raises:
        ValueError: `num_bits` out of range; `match` or `recipe` without a model; a model that is no smaller even at its
            own width; see `widen` and `footprint`.

    Example:

    >>> break_even_width(2), round(break_even_width(3), 3)
    (4.0, 3.266)

    Source: Kapur et al., arXiv 1710.07706.
    """
    if isinstance(num_bits, bool) or num_bits not in range(1, 9):
        raise ValueError(invalid("num_bits", "an integer from 1 to 8", num_bits))
    if model is None:
        for name, value in (("match", match), ("recipe", recipe)):
            if value is not None:
                raise ValueError(invalid(name, "None without a model", value, "Pass model= too"))
        return math.sqrt(FLOAT_BITS / num_bits)
    recipe = recipe or Recipe([(".*", QuantSpec(num_bits=num_bits, granularity="per_tensor"))])
    sizes = [footprint(widen(model, width, match=match), recipe).bytes for width in WIDTHS]
    return _crossing(sizes, footprint(model).bytes)


def _crossing(sizes: list[int], limit: int) -> float:
    """Returns where the parabola through the sizes at `WIDTHS` reaches the limit."""
    if sizes[0] > limit:
        raise ValueError("The model takes no fewer bytes at its own width. Expected fewer bits or larger groups.")
    square, slope, rest = np.polyfit(WIDTHS, sizes, 2)
    rest -= limit
    # In the form that a parabola without a square, where no recurrent kernel is widened, does not divide by zero in.
    return float(-2 * rest / (slope + math.sqrt(slope**2 - 4 * square * rest)))


def _own_specs(layer: keras.Layer) -> dict[str, Spec]:
    """Returns the specs of a layer that `prepare` made, or of a recurrent one that was built with them."""
    if isinstance(layer, SpecifiedWeights):
        return layer.kernel_specs()
    ends = {"kernel": "kernel", "recurrent_kernel": "recurrent"}
    own = getattr(layer, "specs", None)
    found = {name: getattr(own, ends.get(name.rpartition("/")[2], ""), None) for name, _ in _model.kernels(layer)}
    return {name: spec for name, spec in found.items() if spec is not None}


def _learned(variable: keras.Variable) -> list[keras.Variable]:
    """Returns what the regularizer of a weight learns: it is in no file."""
    regularizer = variable.regularizer
    return regularizer.weights if isinstance(regularizer, keras.Layer) else []


def _tensor_bytes(name: str, layer: keras.Layer, variable: keras.Variable, spec: Spec | None) -> TensorBytes:
    """Returns the bytes of one weight."""
    shape = tuple(variable.shape)
    if spec is None or (isinstance(spec, PaletteSpec) and math.prod(shape) < spec.min_size):
        size = FLOAT_BITS // 8 * math.prod(shape)
        return TensorBytes(name, shape, FLOAT_BITS, size, 0, size)
    tensor = _stand_in(name, layer, variable, spec)
    contained = tensor.ideal_bits // spec.num_bits * container_bits(spec.num_bits)
    codes, in_file = math.ceil(tensor.ideal_bits / 8), math.ceil(contained / 8)
    return TensorBytes(name, shape, spec.num_bits, codes, table_bytes(tensor), in_file)


def _stand_in(name: str, layer: keras.Layer, variable: keras.Variable, spec: Spec) -> Tensor:
    """Returns a tensor of the record with the right shapes and no values, so that its bytes are the record's."""
    before = RangeFigures.of(np.zeros(1))
    if isinstance(spec, PaletteSpec):
        layout = PaletteLayout(variable.shape, spec.dim, output_axes(layer, variable), spec.group_size)
        indices = np.zeros(layout.index_shape, np.uint8)
        table = np.ones((layout.groups, spec.entries, spec.dim), spec.table_dtype)
        scale = _palette_scale(spec, layer, variable)
        return PalettizedTensor(name, indices, table, np.ones(layout.groups, "f4"), scale, spec, layout, before)
    shape = scale_shape(spec, layer, variable)
    if spec.method == "alternating":
        layout = row_layout(tuple(variable.shape), shape)
        table = np.ones((layout.groups, 2**spec.num_bits, 1), np.float32)
        return row_palette(name, np.zeros(layout.index_shape, np.uint8), table, layout, before)
    codes = np.zeros(variable.shape, np.int8)
    zero = 0.0 if spec.symmetric and spec.levels == "mid_tread" else -0.5 if spec.symmetric else float(spec.quant_min)
    scale = np.ones(shape, np.float32)
    return QuantizedTensor(name, codes, scale, np.full(shape, zero, np.float32), spec, before)


def _palette_scale(spec: PaletteSpec, layer: keras.Layer, variable: keras.Variable) -> np.ndarray:
    """Returns ones in the shape of a palette's channel scale."""
    axes = output_axes(layer, variable) if spec.channel_scale else ()
    return np.ones([size if axis in axes else 1 for axis, size in enumerate(variable.shape)], np.float32)


def _is_kernel_name(tensor: TensorBytes) -> bool:
    """Whether a weight that stays float is one that compression is for."""
    return len(tensor.shape) >= 2 and tensor.name.rpartition("/")[2] not in _model.NOT_KERNELS
