r"""Converts a Keras model to a .tflite file, with weights compressed as a record or a recipe says.

A compressed model from `r2keras.finalize` or `r2keras.calibrate`, and its record:

    r2keras-convert --model=small.keras --record=small.record.npz --output=small.tflite

A float model, quantized here. The calibration data are a few hundred inputs in the form that the model takes, without
labels: an .npz with the array `x`, or with one array by the name of each input. The same bits for all kernels, and
--edge_bits for the first and last ones:

    r2keras-convert --model=m.keras --bits=4 --steps=adaround,correct_bias --calibration_data=x.npz \
        --output=small.tflite

A fully integer file of 8 bits; its inputs and outputs stay float unless --io=int8 is given. Its size and latency appear
beside those of the file in float, and how often it decides as the Keras model, with a warning below 99 %.

    r2keras-convert --model=m.keras --integer --calibration_data=x.npz --output=small.tflite

Bits by layer, from a recipe; the first rule that matches a weight wins. Only --output is written unless --record_output
and --model_output name two more files: a name made up here could be that of another file of yours.

    r2keras-convert --model=m.keras --recipe=w4.yaml --calibration_data=x.npz --output=small.tflite \
        --record_output=small.record.npz --model_output=small.keras

The recipe w4.yaml:

    rules:
    - {match: "stem|head", quantize: {num_bits: 8}}
    - {match: "attention", keep_float: true}
    - {match: ".*", quantize: {num_bits: 4}}

Integer operators for other recipes need `activation_bits: 8` in the rules. With --activations=int8 but not --integer,
the Keras model keeps its inputs and outputs in float, and the calibration data determine their ranges:

    r2keras-convert --model=m.keras --recipe=w4a8.yaml --integer --calibration_data=x.npz --output=small.tflite

A file for microcontrollers, with look-up tables of 1 to 7 bits (needs `pip install 'r2keras[tflm]'`, on Linux):

    r2keras-convert --model=small.keras --record=small.record.npz --format=tflm --output=mcu.tflite

Palettes are decoded at the first call by default, at every call with --optimize=memory, and before the file is written
with --optimize=latency (the file then holds 8 bits per weight; palettes need table_dtype: int8 in the recipe):

    r2keras-convert --model=small.keras --record=small.record.npz --optimize=latency --output=fast.tflite

LSTM layers as one operator each, which is faster than loops. The operator keeps its state, so the application has to
call reset_all_variables() before each sequence:

    r2keras-convert --model=small.keras --record=small.record.npz --recurrent=fused --output=fused.tflite

Matrix products (Dense, recurrent, pointwise) that take 4- and 2-bit weights themselves and round each row of their
input to 8 bits, which is several times faster (docs/how_to/size_or_speed.md):

    r2keras-convert --model=m.keras --bits=4 --activations=dynamic --output=fast.tflite

With `activation_bits: 8` and `activation_method: dynamic` in the rules of a recipe, the Keras model rounds the same
rows:

    r2keras-convert --model=m.keras --recipe=rows.yaml --activations=dynamic --output=fast.tflite

A float model as it is, for comparison with the others:

    r2keras-convert --model=m.keras --output=float.tflite

Exit code: 0, or 2 if nothing was converted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from absl import flags

import r2keras
from r2keras._util.errors import DataNeededError, EdgesError
from r2keras._util.files import replacing
from r2keras.cli import common, recipe_flags
from r2keras.cli.stages import stage
from r2keras.specs.dynamic import is_dynamic

FLAGS = flags.FlagValues()
# Share of equal decisions of an integer file and its model below which the tool warns.
MIN_AGREEMENT = 0.99
SUFFIXES = {"output": ".tflite", "record": ".npz", "record_output": ".npz", "model_output": ".keras"}

flags.DEFINE_string("model", None, "The Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The .tflite file to write.", flag_values=FLAGS)
flags.DEFINE_string("record", None, "The record of a compressed model, .npz.", flag_values=FLAGS)
recipe_flags.define(FLAGS)
flags.DEFINE_string(
    "calibration_data",
    None,
    "Inputs to calibrate on, .npz; with --recipe, --bits, --integer or --activations=int8.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "input_bits", None, "Bits for the model's inputs, 2 to 8; with --recipe or --bits.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "output_bits",
    None,
    "Bits for the model's outputs and global-average-pooling results, rounded as the integer file rounds them, 2 to 8; "
    "with --recipe or --bits.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "format", "litert", ["litert", "tflm"], "The runtime that the file is for: litert or tflm.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "activations",
    "float",
    ["float", "dynamic", "int8"],
    "What operators compute in: float; dynamic, where products take few-bit weights and round their input; or int8.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "io",
    "float",
    ["float", "int8"],
    "The type of the file's inputs and outputs: float or int8; with --activations=int8.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "optimize",
    "size",
    ["size", "memory", "latency"],
    "Which of size, memory or latency to optimize for; with --record, --recipe or --bits.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "recurrent",
    "loop",
    ["loop", "fused"],
    "The form of LSTM layers: a loop, or fused, one operator that keeps its state until the interpreter resets it.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "record_output", None, "Where to write the new record, .npz; with --recipe or --bits.", flag_values=FLAGS
)
flags.DEFINE_string(
    "model_output", None, "Where to write the quantized model, .keras; with --recipe or --bits.", flag_values=FLAGS
)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, convert, argv, required=("model", "output"))


def convert() -> int:
    """Converts as the flags say, and prints the size of the file and the savings of compression."""
    check_flags()
    record = r2keras.CompressionRecord.load(FLAGS.record) if FLAGS.record else None
    recipe = recipe_flags.recipe_of(FLAGS)
    check_method(recipe)
    with stage(f"Reading {FLAGS.model}", line=False):
        model = common.load_model(FLAGS.model)
    data = calibration_data(model)
    if recipe is not None:
        model, record = calibrated(model, recipe, data)
    options = {}
    if on_integers():
        options = {"activations": "int8", "io": FLAGS.io, "data": data}
    elif FLAGS.activations == "dynamic":
        options = {"activations": "dynamic"}
    with stage(f"Writing {FLAGS.output}"):
        if FLAGS.format == "tflm":
            sizes = r2keras.export.to_tflm(model, FLAGS.output, record)
        else:
            forms = {"optimize": FLAGS.optimize, "recurrent": FLAGS.recurrent}
            r2keras.export.to_litert(model, FLAGS.output, record, **forms, **options)
    save_parts(model, record)
    if record is None:
        print(f"{FLAGS.output}: {os.path.getsize(FLAGS.output):,} bytes, float")
    else:
        print(r2keras.report.summarize(record, FLAGS.output))
    if options:
        with stage("Measuring size and latency"):
            compared = routes(model, record)
        print(compared)
        if data is not None:
            check_decisions(model, data)
    if FLAGS.format == "tflm":
        print(f"memory (arena) that the microcontroller needs: {sizes.arena_bytes:,} bytes")
    return 0


def calibrated(model, recipe, data):
    """Returns the quantized model and its record."""
    ends = {"input_bits": FLAGS.input_bits, "output_bits": FLAGS.output_bits, "integer": FLAGS.integer}
    # AdaRound shows a bar of its own.
    with stage(" ".join(["Calibrating", ", ".join(recipe.steps)]).rstrip(), spinner="adaround" not in recipe.steps):
        try:
            return r2keras.calibrate(model, recipe, data, **ends)
        except DataNeededError as error:
            raise ValueError(f"{error} Give them with --calibration_data") from error
        except EdgesError as error:
            raise ValueError(f"{error} On the command line: --edge_bits=0") from error


def on_integers() -> bool:
    """Whether the file computes on integers."""
    return FLAGS.integer or FLAGS.activations == "int8"


def check_decisions(model, data) -> None:
    """Prints how often the file of integer operators decides as the model, with a warning if that is too seldom."""
    with stage("Comparing the file with the Keras model"):
        agreement = r2keras.export.verify(model, FLAGS.output, data).agreement
    if agreement is None:
        return
    print(f"same decision as the Keras model: {agreement:.2%} of the calibration data")
    if agreement < MIN_AGREEMENT:
        print(
            f"Warning: the file decides otherwise than the Keras model in {1 - agreement:.2%} of the samples. Expected "
            f"at most {1 - MIN_AGREEMENT:.0%}. Judge the file itself by its accuracy, or pass --activations=float.",
            file=sys.stderr,
        )


def routes(model, record):
    """Returns size and latency of the file next to those of the exact one, whose operators compute in float."""
    files = {"on integers" if on_integers() else "dynamic": FLAGS.output}
    with tempfile.TemporaryDirectory() as folder:
        # A model that rounds rows has no exact form.
        if not record.dynamic_kernels:
            exact = Path(folder, "exact.tflite")
            r2keras.export.to_litert(model, exact, record, optimize=FLAGS.optimize)
            files = {"exact, in float": exact, **files}
        return r2keras.report.compare_routes(files, isolated=True)


def check_dynamic(quantizes: bool) -> None:
    """Raises ValueError for flags that contradict --activations=dynamic."""
    if FLAGS.format == "tflm":
        raise ValueError("--activations=dynamic goes with --format=litert; leave --format=tflm out")
    if not (FLAGS.record or quantizes):
        raise ValueError("--activations=dynamic goes with --record, --recipe or --bits: a float file has no codes")


def check_method(recipe) -> None:
    """Raises ValueError for a recipe that rounds rows, and a file that does not."""
    if recipe is not None and FLAGS.activations == "float" and any(is_dynamic(spec) for _, spec in recipe.rules):
        raise ValueError("The recipe has activation_method: dynamic, which goes with --activations=dynamic or int8")


def check_flags() -> None:
    """Raises ValueError for flags that are missing, contradict each other or name a file of the wrong kind."""
    if FLAGS.record and FLAGS.recipe:
        raise ValueError("Give --record (the model is compressed already) or --recipe (compress it here), not both")
    recipe_flags.check(FLAGS)
    quantizes, computes = recipe_flags.quantizes(FLAGS), on_integers()
    for name in ("calibration_data", "input_bits", "output_bits", "record_output", "model_output"):
        if FLAGS[name].value and not quantizes and not (computes and name == "calibration_data"):
            raise ValueError(f"--{name} goes with --recipe or --bits, which are missing")
    if FLAGS.optimize != "size" and not (FLAGS.record or quantizes):
        raise ValueError(
            f"--optimize={FLAGS.optimize} goes with --record, --recipe or --bits: a float file has one form"
        )
    if FLAGS.io == "int8" and not computes:
        raise ValueError("--io=int8 goes with --integer or --activations=int8, which are missing")
    if computes and FLAGS.format == "tflm":
        raise ValueError("--activations=int8 goes with --format=litert: files for microcontrollers compute in float")
    if FLAGS.activations == "dynamic":
        check_dynamic(quantizes)
    if FLAGS.recurrent == "fused" and (computes or FLAGS.format == "tflm"):
        raise ValueError("--recurrent=fused goes with --format=litert and --activations=float")
    if computes and not (FLAGS.record or quantizes):
        raise ValueError("--activations=int8 goes with --record or --recipe, which have the grids of the activations")
    for name, suffix in SUFFIXES.items():
        if FLAGS[name].value and Path(FLAGS[name].value).suffix != suffix:
            raise ValueError(f"--{name}={FLAGS[name].value} should end in {suffix}")
    read, written = ("model", "record", "recipe", "calibration_data"), ("output", "record_output", "model_output")
    common.keep_inputs(FLAGS, read, written)


def calibration_data(model) -> list | None:
    """Returns one array per input of the model, or None if no data were given."""
    if not FLAGS.calibration_data:
        return None
    inputs, _ = common.load_inputs(FLAGS.calibration_data, model, "calibration_data")
    return list(inputs.values())


def save_parts(model, record) -> None:
    """Writes the record and the quantized model if the flags name files for them."""
    if FLAGS.record_output:
        record.save(FLAGS.record_output)
    if FLAGS.model_output:
        with replacing(FLAGS.model_output) as temporary:
            model.save(temporary)


if __name__ == "__main__":
    sys.exit(main())
