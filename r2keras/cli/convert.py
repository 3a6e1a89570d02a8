r"""Converts a Keras model to a .tflite file, as small as its record or a recipe says.

A compressed model, as `r2keras.finalize` or `r2keras.calibrate` returned it, and its record:

    python tools/convert.py --model=small.keras --record=small.record.npz --output=small.tflite

A float model, quantized here by a recipe. The calibration data are a few hundred inputs as the model takes them,
without labels: an .npz with the array `x`, or with one array by the name of each input.

    python tools/convert.py --model=m.keras --recipe=w4.yaml --calibration_data=x.npz --output=small.tflite
    python tools/convert.py --model=m.keras --recipe=w4.yaml --calibration_data=x.npz --output=small.tflite \
        --record_output=small.record.npz --model_output=small.keras

The recipe w4.yaml; the first rule that matches a weight wins:

    rules:
    - {match: "stem|head", quantize: {num_bits: 8}}
    - {match: "attention", keep_float: true}
    - {match: ".*", quantize: {num_bits: 4}}

Operators on integers, for a recipe with `activation_bits: 8` in its rules, or a record that was made with one. With
--output_bits=8 the Keras model rounds its outputs as the file does; without, the calibration data give them a range.
Inputs and outputs stay float unless --io=int8 is given. Bytes and time stand beside those of the exact file.

    python tools/convert.py --model=m.keras --recipe=w4a8.yaml --input_bits=8 --output_bits=8 \
        --calibration_data=x.npz --activations=int8 --output=small.tflite

A file for microcontrollers, with look-up tables of 1 to 7 bits (needs `pip install 'r2keras[tflm]'`, on Linux):

    python tools/convert.py --model=small.keras --record=small.record.npz --format=tflm --output=mcu.tflite

Palettes are decoded at the first call; with --optimize=memory at every call, with --optimize=latency never (the file
then holds 8 bits a weight; palettes take table_dtype: int8 in the recipe):

    python tools/convert.py --model=small.keras --record=small.record.npz --optimize=latency --output=fast.tflite

LSTM layers as one operator each, faster than loops; whoever runs the file calls reset_all_variables() before each
sequence, because the operator keeps its state:

    python tools/convert.py --model=small.keras --record=small.record.npz --recurrent=fused --output=fused.tflite

A float model as it is, the file to compare the others with:

    python tools/convert.py --model=m.keras --output=float.tflite

After an installation the same program is called r2keras-convert. Exit code: 0, or 2 if nothing was converted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from absl import flags

if __package__:
    from . import _cli
else:  # Run as a script: this folder itself is on the path.
    import _cli

FLAGS = flags.FlagValues()
SUFFIXES = {"output": ".tflite", "record": ".npz", "record_output": ".npz", "model_output": ".keras"}

flags.DEFINE_string("model", None, "The Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The .tflite file to write.", flag_values=FLAGS)
flags.DEFINE_string("record", None, "The record of a compressed model, .npz.", flag_values=FLAGS)
flags.DEFINE_string("recipe", None, "What becomes what in a float model, .yaml or .json.", flag_values=FLAGS)
flags.DEFINE_string(
    "calibration_data", None, "Inputs to calibrate on, .npz; with --recipe or --activations=int8.", flag_values=FLAGS
)
flags.DEFINE_integer("input_bits", None, "Bits of the model's inputs, 2 to 8; with --recipe.", flag_values=FLAGS)
flags.DEFINE_integer(
    "output_bits",
    None,
    "Bits of its outputs and of averages of all, as integers are rounded; with --recipe.",
    flag_values=FLAGS,
)
flags.DEFINE_enum("format", "litert", ["litert", "tflm"], "The runtime that the file is for.", flag_values=FLAGS)
flags.DEFINE_enum("activations", "float", ["float", "int8"], "What the operators compute on.", flag_values=FLAGS)
flags.DEFINE_enum(
    "io", "float", ["float", "int8"], "What the file takes and returns; with --activations=int8.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "optimize",
    "size",
    ["size", "memory", "latency"],
    "What the form of compressed weights is chosen for; with --record or --recipe.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "recurrent",
    "loop",
    ["loop", "fused"],
    "What LSTM layers become: a loop, or one operator that keeps its state until the interpreter resets it.",
    flag_values=FLAGS,
)
flags.DEFINE_string("record_output", None, "Where to write the new record, .npz; with --recipe.", flag_values=FLAGS)
flags.DEFINE_string(
    "model_output", None, "Where to write the quantized model, .keras; with --recipe.", flag_values=FLAGS
)


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns its exit code."""
    return _cli.run(FLAGS, __doc__, convert, argv)


def convert() -> int:
    """Converts what the flags say and prints what it cost and saved."""
    check_flags()
    r2keras = _cli.load_r2keras()
    record = r2keras.CompressionRecord.load(FLAGS.record) if FLAGS.record else None
    recipe = r2keras.Recipe.load(FLAGS.recipe) if FLAGS.recipe else None
    model = _cli.load_model(FLAGS.model)
    data = calibration_data(model)
    if recipe is not None:
        from r2keras._errors import DataNeededError

        try:
            model, record = r2keras.calibrate(
                model, recipe, data, input_bits=FLAGS.input_bits, output_bits=FLAGS.output_bits
            )
        except DataNeededError as error:
            raise ValueError(f"{error} Give them with --calibration_data") from error
    integers = {"activations": "int8", "io": FLAGS.io, "data": data} if FLAGS.activations == "int8" else {}
    if FLAGS.format == "tflm":
        found = r2keras.export.to_tflm(model, FLAGS.output, record)
    else:
        forms = {"optimize": FLAGS.optimize, "recurrent": FLAGS.recurrent}
        found = r2keras.export.to_litert(model, FLAGS.output, record, **forms, **integers)
    save_parts(model, record)
    if record is None:
        print(f"{FLAGS.output}: {os.path.getsize(FLAGS.output):,} bytes, float")
    else:
        print(r2keras.report.summarize(record, FLAGS.output))
    if integers:
        print(routes(model, record))
    if FLAGS.format == "tflm":
        print(f"memory (arena) that the microcontroller needs: {found.arena_bytes:,} bytes")
    return 0


def routes(model, record):
    """Returns bytes and time of the file beside those of the exact one, whose operators compute in float."""
    import r2keras

    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder, "exact.tflite")
        r2keras.export.to_litert(model, exact, record, optimize=FLAGS.optimize)
        return r2keras.report.compare_routes({"exact, in float": exact, "on integers": FLAGS.output})


def check_flags() -> None:
    """Raises ValueError for flags that are missing, contradict each other or name a file of the wrong kind."""
    _cli.need(FLAGS, "model", "output")
    if FLAGS.record and FLAGS.recipe:
        raise ValueError("Give --record (the model is compressed already) or --recipe (compress it here), not both")
    integers = FLAGS.activations == "int8"
    for name in ("calibration_data", "input_bits", "output_bits", "record_output", "model_output"):
        if FLAGS[name].value and not FLAGS.recipe and not (integers and name == "calibration_data"):
            raise ValueError(f"--{name} goes with --recipe, which is missing")
    if FLAGS.optimize != "size" and not (FLAGS.record or FLAGS.recipe):
        raise ValueError(f"--optimize={FLAGS.optimize} goes with --record or --recipe: a float file has one form")
    if FLAGS.io == "int8" and not integers:
        raise ValueError("--io=int8 goes with --activations=int8, which is missing")
    if integers and FLAGS.format == "tflm":
        raise ValueError("--activations=int8 goes with --format=litert: files for microcontrollers compute in float")
    if FLAGS.recurrent == "fused" and (integers or FLAGS.format == "tflm"):
        raise ValueError("--recurrent=fused goes with --format=litert and --activations=float")
    if integers and not (FLAGS.record or FLAGS.recipe):
        raise ValueError("--activations=int8 goes with --record or --recipe, which have the grids of the activations")
    for name, suffix in SUFFIXES.items():
        if FLAGS[name].value and Path(FLAGS[name].value).suffix != suffix:
            raise ValueError(f"--{name}={FLAGS[name].value} should end in {suffix}")


def calibration_data(model) -> list | None:
    """Returns one array an input of the model, or None where no data were given."""
    if not FLAGS.calibration_data:
        return None
    inputs, _ = _cli.load_inputs(FLAGS.calibration_data, model)
    return list(inputs.values())


def save_parts(model, record) -> None:
    """Writes the record and the quantized model where the flags ask for them."""
    from r2keras._files import replacing

    if FLAGS.record_output:
        record.save(FLAGS.record_output)
    if FLAGS.model_output:
        with replacing(FLAGS.model_output) as temporary:
            model.save(temporary)


if __name__ == "__main__":
    sys.exit(main())
