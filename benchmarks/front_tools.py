"""The tools of `front.py`: each variant writes one `.tflite` file of a task's model."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.front_models import Task

OURS, RIVAL, TFLITE, MLPERF, FLOAT = "r2keras", "litert-quantizer", "TFLite", "MLPerf", "float"
STEPS = ("fold_batch_norm", "adaround", "correct_bias")
ADAROUND_SEEDS = (0, 1, 2)
# Operators with weights, as LiteRT names them.
KERNEL_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclasses.dataclass(frozen=True)
class Job:
    """What a variant gets; `iterations` are those of AdaRound, None for the default."""

    task: Task
    float_file: Path
    calibration: Any
    iterations: int | None
    path: Path


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to make a file.

    Args:
        tool: the tool.
        name: the variant in words, unique for the tool.
        bits: bits per weight.
        write: writes the file of a job.
        seeds: each draws other calibration inputs.
        learned: whether AdaRound is part of it.
        is_main: whether it is measured before the others.
    """

    tool: str
    name: str
    bits: int
    write: Callable[[Job], None]
    seeds: tuple[int, ...] = (0,)
    learned: bool = False
    is_main: bool = False


def variants() -> list[Variant]:
    """Returns all variants, in the order of the tables."""
    return [
        Variant(FLOAT, "float", 32, _copy_float, is_main=True),
        Variant(TFLITE, "W8A8", 8, _tflite_int8, is_main=True),
        Variant(MLPERF, "W8A8", 8, _copy_shipped, is_main=True),
        *_rivals(),
        *_own(),
    ]


def _rivals() -> list[Variant]:
    """Returns the variants of litert-quantizer: recipes that its policy allows for these operators.

    At 2 bits it refuses weight-only recipes, and MSE fails with "Failed to get quantization parameters".
    """
    minmax, octav, mse = ("min-max", "MIN_MAX_UNIFORM_QUANT"), ("OCTAV", "OCTAV"), ("MSE", "MSE")
    result = [Variant(RIVAL, "W8A8, min-max", 8, _rival("static", {}, minmax[1]))]
    recipes = [
        ("weight_only", 8, minmax),
        ("dynamic", 8, minmax),
        ("weight_only", 4, minmax),
        ("weight_only", 4, octav),
    ]
    recipes += [("weight_only", 4, mse), ("dynamic", 4, octav), ("dynamic", 2, minmax), ("dynamic", 2, octav)]
    for kind, bits, (title, algorithm) in recipes:
        name = f"W{bits} {kind.replace('_', '-')}, {title}"
        is_main = kind == "weight_only" and title == ("min-max" if bits == 8 else "OCTAV")
        result.append(Variant(RIVAL, name, bits, _rival(kind, _operators(bits), algorithm), is_main=is_main))
    mixed = _rival("dynamic", {2: ("FULLY_CONNECTED",), 4: ("CONV_2D",), 8: ("DEPTHWISE_CONV_2D",)}, "OCTAV")
    return [*result, Variant(RIVAL, "W4 dynamic, dense W2, OCTAV", 4, mixed)]


def _own() -> list[Variant]:
    """Returns the variants of r2keras."""
    result = [Variant(OURS, "W8A8", 8, _ours(8, activations=True))]
    result += [Variant(OURS, f"W{bits}", bits, _ours(bits), is_main=bits > 2) for bits in (8, 4, 2)]
    result += [Variant(OURS, f"W{bits} dynamic", bits, _ours(bits, dynamic=True)) for bits in (4, 2)]
    result += [Variant(OURS, f"palette {bits}", bits, _ours(bits, palette=True)) for bits in (4, 2)]
    for bits in (4, 2):
        write = _ours(bits, steps=STEPS)
        result.append(Variant(OURS, f"W{bits} AdaRound", bits, write, ADAROUND_SEEDS, learned=True, is_main=True))
    write = _ours(2, steps=STEPS, eight=True)
    return [*result, Variant(OURS, "W2 AdaRound, first and depthwise W8", 2, write, ADAROUND_SEEDS, learned=True)]


def require(tools: list[str]) -> None:
    """Raises ImportError if a tool is not installed."""
    if RIVAL in tools and importlib.util.find_spec("litert_quantizer") is None:
        raise ImportError(f"{RIVAL} is not installed. Run `pip install 'r2keras[rivals]'`, or leave it out of --tools.")


def write_float(task: Task, path: Path) -> None:
    """Writes the float file of TensorFlow's converter, which the other tools start from."""
    path.write_bytes(_converter(task).convert())


def weight_types(path: Path) -> dict[str, int]:
    """Counts the operators with weights in a file by operator and type of the stored weights.

    Weights behind a DEQUANTIZE have the type of its input; those that other operators compute from codes, indices and
    tables are "computed".

    Returns:
        For example `{"CONV_2D INT4": 9, "DEPTHWISE_CONV_2D FLOAT32": 4}`.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model(str(path))
    operators = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    types = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    # Old files have the code in the deprecated field only.
    codes = [operators[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in file.operatorCodes]
    counts: Counter[str] = Counter()
    for graph in file.subgraphs:
        kinds = [codes[operator.opcodeIndex] for operator in graph.operators]
        sources = {
            output: (kind, operator)
            for kind, operator in zip(kinds, graph.operators, strict=True)
            for output in operator.outputs
        }
        for kind, operator in zip(kinds, graph.operators, strict=True):
            if kind in KERNEL_OPERATORS:
                source, producer = sources.get(operator.inputs[1], (None, operator))
                tensor = graph.tensors[producer.inputs[0] if source == "DEQUANTIZE" else operator.inputs[1]]
                counts[f"{kind} {types[tensor.type] if source in (None, 'DEQUANTIZE') else 'computed'}"] += 1
    return dict(counts)


def _copy_float(job: Job) -> None:
    write_float(job.task, job.path)


def _copy_shipped(job: Job) -> None:
    assert job.task.shipped is not None  # `front.planned` leaves the variant out for other models.
    shutil.copyfile(job.task.shipped, job.path)


def _converter(task: Task) -> Any:
    import tensorflow as tf
    import tf_keras  # noqa: F401  Without it, the converter refuses some Keras 3 models.

    return tf.lite.TFLiteConverter.from_keras_model(task.model)


def _tflite_int8(job: Job) -> None:
    """Full-integer post-training quantization by TensorFlow's converter; inputs and outputs stay float."""
    import tensorflow as tf

    converter = _converter(job.task)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in job.calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    job.path.write_bytes(converter.convert())


def _operators(bits: int) -> dict[int, tuple[str, ...]]:
    """Returns the operators by bits: litert-quantizer takes depthwise convolutions at 8 bits only."""
    if bits == 8:
        return {8: ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")}
    return {bits: ("CONV_2D", "FULLY_CONNECTED"), 8: ("DEPTHWISE_CONV_2D",)}


def _rival(kind: str, operators: dict[int, tuple[str, ...]], algorithm: str) -> Callable[[Job], None]:
    """Returns the writer of a recipe of litert-quantizer: `kind` is "weight_only", "dynamic" or "static"."""

    def write(job: Job) -> None:
        from litert_quantizer import algorithm_manager, qtyping, quantizer

        tool = quantizer.Quantizer(str(job.float_file))
        options = {"algorithm_key": algorithm_manager.AlgorithmName[algorithm]}
        calibration = None
        if kind == "static":
            tool.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8, **options)
            calibration = tool.calibrate(_signature_inputs(job), num_threads=1)
        else:
            add = getattr(tool, f"add_{kind}_config")
            for bits, names in operators.items():
                for name in names:
                    add(".*", qtyping.TFLOperationName[name], bits, **options)
        tool.quantize(calibration, enable_progress_report=False).export_model(str(job.path), overwrite=True)

    return write


def _signature_inputs(job: Job) -> dict[str, list[dict[str, Any]]]:
    """Returns the calibration inputs as litert-quantizer expects them."""
    from ai_edge_litert.interpreter import Interpreter

    ((key, ports),) = Interpreter(str(job.float_file)).get_signature_list().items()
    return {key: [{ports["inputs"][0]: sample[None]} for sample in job.calibration]}


def _ours(
    bits: int,
    *,
    steps: tuple[str, ...] = (),
    palette: bool = False,
    activations: bool = False,
    dynamic: bool = False,
    eight: bool = False,
) -> Callable[[Job], None]:
    """Returns the writer of a recipe of r2keras; `eight` keeps the first and all depthwise kernels at 8 bits."""

    def write(job: Job) -> None:
        import r2keras

        spec: Any = r2keras.QuantSpec(num_bits=bits, activation_bits=8 if activations else None)
        rules = [(".*", r2keras.PaletteSpec(num_bits=bits) if palette else spec)]
        if eight:
            rules.insert(0, (_first_and_depthwise(job.task.model), r2keras.QuantSpec(num_bits=8)))
        options = None
        if job.iterations is not None:
            options = r2keras.calibration.AdaRoundOptions(iterations=job.iterations)
        ends = {"input_bits": 8, "output_bits": 8} if activations else {}
        recipe = r2keras.Recipe(rules, steps=list(steps))
        small, record = r2keras.calibrate(
            job.task.model, recipe, job.calibration, options=options, progress=False, **ends
        )
        form = "int8" if activations else "dynamic" if dynamic else "float"
        r2keras.export.to_litert(small, job.path, record, activations=form)

    return write


def _first_and_depthwise(model: Any) -> str:
    """Returns the pattern of the first layer with a kernel and of all depthwise convolutions."""
    import keras

    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    first = next(layer.name for layer in model.layers if hasattr(layer, "kernel"))
    return "|".join(f"^{re.escape(name)}$" for name in dict.fromkeys([first, *names]))
