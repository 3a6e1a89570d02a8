"""Bytes of a model under a recipe before any training, and the width at which a compressed model breaks even."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from r2keras._models import walk
from r2keras._models.channel_axes import output_axes, scale_shape
from r2keras._models.walk import ModelView, view_of
from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, invalid, invalid_part
from r2keras._util.tables import add_row, new_table, shape_text, text_cell
from r2keras._util.text import bits, count
from r2keras.compression.edges import with_edges
from r2keras.compression.weight_plan import plan_of
from r2keras.export.weights.uniform import container_bits
from r2keras.layers.wrappers.by_spec import SpecifiedWeights
from r2keras.quantizers.alternating import row_layout, row_palette
from r2keras.record import PaletteLayout, PalettizedTensor, QuantizedTensor, RangeFigures, Tensor, table_bytes
from r2keras.specs import PaletteSpec, QuantSpec, Recipe, Spec
from r2keras.widening.net2wider import widened

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Footprint", "break_even_width", "footprint"]

FLOAT32_BITS = 32
FLOAT32_BYTES = 4
# The bytes of a model are a quadratic function of its width, so three widths determine them all.
SAMPLED_WIDTHS = (1.0, 1.5, 2.0)


# Kernels of a recurrent layer, and the attributes of its `specs` that hold their specs.
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent"}


@dataclasses.dataclass(frozen=True)
class TensorBytes:
    """The bytes of one weight.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape.
        num_bits: bits per code or palette index; 32 if the weight stays in float.
        code_bytes: bytes of the codes packed at `num_bits`, or 4 bytes per float value.
        scale_bytes: bytes of scales and zero points, or of the tables and scales of a palette.
        container_bytes: bytes of the codes in the 2-, 4- or 8-bit containers of a `.tflite` file.
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
        return FLOAT32_BYTES * math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Total bytes of codes, scales and tables."""
        return self.code_bytes + self.scale_bytes


@dataclasses.dataclass(frozen=True)
class Footprint(Tabular):
    """The bytes of a model's weights; `print` shows them as a table.

    Args:
        model_name: the model's name.
        tensors: one entry per weight, including biases and statistics, in the order of the model.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")], name="tiny")
    >>> size = footprint(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> size.bytes, size.float_bytes
    (48, 144)
    """

    model_name: str
    tensors: tuple[TensorBytes, ...]

    @property
    def kernels(self) -> tuple[TensorBytes, ...]:
        """The weights that can be compressed, whether they are or not."""
        return tuple(t for t in self.tensors if t.num_bits < FLOAT32_BITS or _is_kernel_name(t))

    @property
    def bytes(self) -> int:
        """Bytes of packed codes, scales and tables, and of the other weights as float32."""
        return sum(t.bytes for t in self.tensors)

    @property
    def container_bytes(self) -> int:
        """Like `bytes`, with codes in the 2-, 4- or 8-bit containers of a `.tflite` file."""
        return sum(t.container_bytes + t.scale_bytes for t in self.tensors)

    @property
    def float_bytes(self) -> int:
        """Bytes of all weights as float32."""
        return sum(t.float_bytes for t in self.tensors)

    @property
    def counted(self) -> str:
        """The compressed and the float kernels as text. Footprints are comparable if these agree."""
        num_compressed = sum(t.num_bits < FLOAT32_BITS for t in self.tensors)
        kept_float = [t.name for t in self.kernels if t.num_bits == FLOAT32_BITS]
        if not num_compressed:
            return "all weights, float"
        kernels = "1 kernel" if num_compressed == 1 else f"{num_compressed} kernels"
        text = f"all weights, {kernels} compressed"
        return f"{text}, float: {', '.join(kept_float)}" if kept_float else text

    @property
    def text(self) -> str:
        """The totals and their parts."""
        ratio = f"{self.float_bytes / max(self.bytes, 1):.1f} times smaller than float ({count(self.float_bytes)})"
        return (
            f"Total: {count(self.bytes)} bytes, {ratio}; {count(self.container_bytes)} in 2-, 4- and 8-bit "
            f"containers.\nIncluded: {self.counted}. Not included: graph and metadata of the file, activations at run "
            "time, learned scalars of regularizers and quantizers."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        rows = [{**dataclasses.asdict(t), "shape": list(t.shape), "bytes": t.bytes} for t in self.tensors]
        totals = ("bytes", "container_bytes", "float_bytes", "counted")
        return {"model_name": self.model_name, "tensors": rows, **{name: getattr(self, name) for name in totals}}

    def __rich__(self) -> Table:
        return footprint_table(self)


def footprint(model: keras.Model, recipe: Recipe | None = None) -> Footprint:
    """Returns the bytes of every weight of a model under a recipe, from shapes alone; nothing is quantized.

    A uniformly quantized weight takes `num_bits * size / 8` bytes plus its float32 scales. Grids with zero points
    (asymmetric and mid-rise grids) add those. A palette takes `num_bits * indices / 8` bytes plus its tables and
    scales. Biases, statistics and kernels without a matching rule take 4 bytes per value.

    Args:
        model: a built Functional or Sequential model, before or after `prepare`.
        recipe: the specs of the weights. None takes the specs of the model's own layers and counts other weights as
            float.

    Returns:
        The bytes per tensor, with totals.

    Raises:
        TypeError: a subclassed model, or `recipe` is not a Recipe.
        ValueError: a recipe for a model that is already prepared; a pattern that matches nothing; a spec that does not
            fit its weight.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")], name="tiny")
    >>> print(footprint(model, Recipe([("head", QuantSpec(num_bits=4))])).text.splitlines()[0])
    Total: 48 bytes, 3.0 times smaller than float (144); 48 in 2-, 4- and 8-bit containers.
    """
    return _footprint(view_of(model), recipe)


def _footprint(view: ModelView, recipe: Recipe | None = None) -> Footprint:
    """As `footprint`, for the view of a model."""
    plan = {} if recipe is None else plan_of(view, with_edges(recipe, view))
    tensors = []
    for path, layer in view.layers:
        specs = plan.get(path) or _own_specs(layer)
        inner = layer.layer if isinstance(layer, SpecifiedWeights) else layer
        learned = {id(scalar) for variable in inner.weights for scalar in _learned(variable)}
        learned |= walk.quantizer_weights(inner)
        own = {id(variable) for _, variable in view.weights_in(path)}
        for name, variable in walk.relative_weights(inner):
            if id(variable) in own - learned:
                tensors.append(tensor_bytes(walk.full_name(path, name), inner, variable, specs.get(name)))
    return Footprint(view.model.name, tuple(tensors))


def footprint_table(size: Footprint) -> Table:
    """Returns the bytes per kernel as a rich table; all other weights share one line."""
    columns = [("tensor", False), ("shape", False), ("bits", True), ("codes", True), ("scales", True)]
    table = new_table(f"Bytes of {size.model_name}", [*columns, ("bytes", True), ("float", True)])
    for t in size.kernels:
        sizes = (t.code_bytes, t.scale_bytes, t.bytes, t.float_bytes)
        add_row(table, [t.name, shape_text(t.shape), bits(t.num_bits).split(" ")[0], *map(count, sizes)])
    others = [t for t in size.tensors if t not in size.kernels]
    if others:
        total = count(sum(t.bytes for t in others))
        add_row(table, [f"{len(others)} biases and statistics", "", "float", total, "0", total, total])
    table.caption = text_cell(size.text)
    return table


def break_even_width(
    num_bits: int, model: keras.Model | None = None, *, match: str | None = None, recipe: Recipe | None = None
) -> float:
    """Returns the width factor at which a widened, compressed model takes as many bytes as the float model.

    Recurrent kernels alone grow with the square of the width, so `width = sqrt(32 / num_bits)`. A whole model is
    counted tensor by tensor, including scales and biases; its embedding and softmax grow at most linearly.

    Args:
        num_bits: bits per weight, 1 to 8.
        model: a built model that `widen` accepts; None for recurrent kernels alone.
        match: the layers to widen, as in `widen`.
        recipe: the specs of the weights; None quantizes every kernel to `num_bits` with one scale per tensor.

    Returns:
        The break-even width factor. Round the resulting numbers of units down to whole units.

    Raises:
        TypeError: an argument of another type.
        ValueError: `num_bits` out of range; `match` or `recipe` without a model; a model that is not smaller at width 1
            than as float; see `widen` and `footprint`.

    Example:

    >>> break_even_width(2), round(break_even_width(3), 3)
    (4.0, 3.266)

    Source: Kapur et al., arXiv 1710.07706.
    """
    num_bits = check_int("num_bits", num_bits, 1, 8)
    if model is None:
        for name, value in (("match", match), ("recipe", recipe)):
            if value is not None:
                raise ValueError(invalid(name, "None without a model", value, "Pass `model` too"))
        return math.sqrt(FLOAT32_BITS / num_bits)
    recipe = recipe or Recipe([(".*", QuantSpec(num_bits=num_bits, granularity="per_tensor"))])
    view = view_of(model)
    sizes = [footprint(widened(view, width, match=match), recipe).bytes for width in SAMPLED_WIDTHS]
    return _width_at(_footprint(view).bytes, sizes)


def _width_at(limit: int, sizes: list[int]) -> float:
    """Returns the width at which the parabola through the sizes at `SAMPLED_WIDTHS` reaches the limit."""
    if sizes[0] > limit:
        expected = f"bits with which the model takes at most the {count(limit)} bytes of the float model"
        received = f"a model that is not smaller than the float model at width 1 ({count(sizes[0])} bytes)"
        raise ValueError(invalid_part("num_bits", expected, received, "Use fewer bits or larger groups"))
    square, slope, rest = np.polyfit(SAMPLED_WIDTHS, sizes, 2)
    rest -= limit
    # This form of the quadratic formula also holds for square = 0, when no recurrent kernel is widened.
    return float(-2 * rest / (slope + math.sqrt(slope**2 - 4 * square * rest)))


def _own_specs(layer: keras.Layer) -> dict[str, Spec]:
    """Returns the specs by kernel name of a layer made by `prepare`, or of a recurrent layer built with specs."""
    if isinstance(layer, SpecifiedWeights):
        return layer.kernel_specs()
    layer_specs = getattr(layer, "specs", None)
    specs = {}
    for name, variable in walk.kernels(layer):
        role = ROLES.get(variable.name)
        spec = getattr(layer_specs, role, None) if role else None
        if spec is not None:
            specs[name] = spec
    return specs


def _learned(variable: keras.Variable) -> list[keras.Variable]:
    """Returns the variables that the regularizer of a weight learns; files do not contain them."""
    regularizer = variable.regularizer
    return regularizer.weights if isinstance(regularizer, keras.Layer) else []


def tensor_bytes(name: str, layer: keras.Layer, variable: keras.Variable, spec: Spec | None) -> TensorBytes:
    """Returns the bytes of one weight."""
    shape = tuple(variable.shape)
    if spec is None or (isinstance(spec, PaletteSpec) and math.prod(shape) < spec.min_size):
        size = FLOAT32_BYTES * math.prod(shape)
        return TensorBytes(name, shape, FLOAT32_BITS, size, 0, size)
    tensor = _dummy_tensor(name, layer, variable, spec)
    container_size = tensor.ideal_bits // spec.num_bits * container_bits(spec.num_bits)
    return TensorBytes(
        name=name,
        shape=shape,
        num_bits=spec.num_bits,
        code_bytes=math.ceil(tensor.ideal_bits / 8),
        scale_bytes=table_bytes(tensor),
        container_bytes=math.ceil(container_size / 8),
    )


def _dummy_tensor(name: str, layer: keras.Layer, variable: keras.Variable, spec: Spec) -> Tensor:
    """Returns a tensor with the shapes and dtypes of the record's tensor, and so with the same bytes."""
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
    scale, zero_point = np.ones(shape, np.float32), np.full(shape, _zero_point(spec), np.float32)
    return QuantizedTensor(name, codes, scale, zero_point, spec, before)


def _zero_point(spec: QuantSpec) -> float:
    """Returns a valid zero point of a grid. Only whether it is 0 matters: zero points of 0 are not stored."""
    if not spec.symmetric:
        return float(spec.quant_min)
    return 0.0 if spec.levels == "mid_tread" else -0.5


def _palette_scale(spec: PaletteSpec, layer: keras.Layer, variable: keras.Variable) -> np.ndarray:
    """Returns a channel scale of ones for a palette."""
    axes = output_axes(layer, variable) if spec.channel_scale else ()
    return np.ones([size if axis in axes else 1 for axis, size in enumerate(variable.shape)], np.float32)


def _is_kernel_name(tensor: TensorBytes) -> bool:
    """Whether a weight that stays in float could be compressed."""
    return len(tensor.shape) >= 2 and tensor.name.rpartition("/")[2] not in walk.NOT_KERNELS
