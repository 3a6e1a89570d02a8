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

    r2keras-convert --model=small.keras --record=small.record.npz --target=mcu --output=mcu.tflite

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

For a target, which sets the form of the file and refuses what it cannot run: cpu (phones, desktops), browser, ethos-u
(Arm's NPU), mcu (microcontrollers). With --accelerator, Vela compiles the file and tells its flash (needs
`pip install 'r2keras[npu]'`). C sources for a microcontroller go to a folder:

    r2keras-convert --model=m.keras --bits=4 --target=browser --output=web.tflite
    r2keras-convert --model=m.keras --bits=4 --target=ethos-u --accelerator=ethos-u55-128 --calibration_data=x.npz \
        --output=npu.tflite
    r2keras-convert --model=m.keras --integer --target=mcu --calibration_data=x.npz --format=c_array --output=firmware

A float model as it is, for comparison with the others:

    r2keras-convert --model=m.keras --output=float.tflite

Exit code: 0, or 2 after an error. Each file is written whole or not at all.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import r2keras
from r2keras._util.errors import DataNeededError, EdgesError
from r2keras._util.files import replacing
from r2keras.cli import common, recipe_flags
from r2keras.cli.convert_flags import FLAGS, calibration_data, check_flags, check_method
from r2keras.cli.stages import stage

if TYPE_CHECKING:
    from r2keras.export.targets.settings import Form

# Share of equal decisions of an integer file and its model below which the tool warns.
MIN_AGREEMENT = 0.99
# Samples that the C sources hold, with the expected outputs.
GOLDEN_SAMPLES = 4


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    return common.run(FLAGS, __doc__, convert, argv, required=("model", "output"))


def convert() -> int:
    """Converts as the flags say, and prints the size of the file and the savings of compression."""
    check_flags()
    common.import_keras()
    if FLAGS.accelerator:
        from r2keras.export.devices.ethos_u import require_vela

        require_vela()
    record = r2keras.CompressionRecord.load(FLAGS.record) if FLAGS.record else None
    recipe = recipe_flags.recipe_of(FLAGS)
    check_method(recipe)
    with stage(f"Reading {FLAGS.model}", line=False):
        model = common.load_model(FLAGS.model)
    data = calibration_data(model)
    if recipe is not None:
        model, record = calibrated(model, recipe, data)
    if FLAGS.format == "c_array":
        return write_c_array(model, record, data)
    form = write(model, record, data, FLAGS.output)
    save_parts(model, record)
    if record is None:
        print(f"{FLAGS.output}: {os.path.getsize(FLAGS.output):,} bytes, float")
    else:
        print(r2keras.report.summarize(record, FLAGS.output))
    measure(model, record, data, form)
    return 0


def write(model, record, data, output) -> Form | None:
    """Writes the file; returns its form, or None if it is one of look-up tables for microcontrollers."""
    with stage(f"Writing {FLAGS.output}"):
        if uses_tables(record):
            check_tables()
            r2keras.export.to_tflm(model, output, record, optimize=FLAGS.optimize or "memory")
            return None
        form = form_of(model, record)
        if form.activations != "int8" and FLAGS.calibration_data and not recipe_flags.quantizes(FLAGS):
            raise ValueError("--calibration_data goes with integer activations, which the record does not have")
        r2keras.export.to_litert(
            model,
            output,
            record,
            target=FLAGS.target,
            data=data if form.activations == "int8" else None,
            **given_flags(),
        )
    return form


def given_flags() -> dict:
    """Returns the arguments of `to_litert` that the flags give, with None for those left out."""
    activations = FLAGS.activations or ("int8" if FLAGS.integer else None)
    names = ("io", "optimize", "recurrent", "batch_size")
    return {"activations": activations, **{name: FLAGS[name].value for name in names}}


def form_of(model, record) -> Form:
    """Returns the form of the file: what the flags say, and the target's defaults."""
    from r2keras._models.either_keras import read_model
    from r2keras.export.targets.settings import form_for

    return form_for(FLAGS.target, record, bool(read_model(model).recurrent), **given_flags())


def uses_tables(record) -> bool:
    """Whether the file holds look-up tables for microcontrollers: asked for, or without activations of 8 bits."""
    if FLAGS.format == "tflm":
        return True
    is_open = FLAGS.format != "litert" and not FLAGS.integer and FLAGS.activations is None
    return FLAGS.target == "mcu" and is_open and (record is None or not record.activations)


def check_tables() -> None:
    """Raises ValueError for flags that look-up tables for microcontrollers do not take."""
    taken = {"batch_size": 1, "io": "float", "recurrent": "loop"}
    for name, value in taken.items():
        if FLAGS[name].value not in (None, value):
            fix = "leave it out, or give the recipe activations of 8 bits (--integer)"
            raise ValueError(f"--{name}={FLAGS[name].value} contradicts look-up tables for microcontrollers: {fix}")


def measure(model, record, data, form: Form | None) -> None:
    """Prints what the target's own tools say of the file, or its latency here."""
    if FLAGS.accelerator:
        with stage(f"Compiling for {FLAGS.accelerator}"):
            report = r2keras.export.ethos_u(FLAGS.output, FLAGS.accelerator, output=FLAGS.npu_output)
        print(report)
    if form is None or FLAGS.target == "mcu":
        print(f"memory (arena) that the microcontroller needs: {r2keras.export.tflm_arena(FLAGS.output):,} bytes")
    if form is None or record is None or form.activations == "float":
        return
    if FLAGS.target not in ("ethos-u", "mcu"):
        with stage("Measuring size and latency"):
            compared = routes(model, record, form)
        print(compared)
    if data is not None:
        check_decisions(model, data)


def write_c_array(model, record, data) -> int:
    """Writes a folder of C sources: the file, its operators, and a few samples with the expected outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        write(model, record, data, path)
        values = None
        if data is not None:
            values = r2keras.export.golden(model, path, [x[:GOLDEN_SAMPLES] for x in data], runtime="tflm")
        sources = r2keras.export.c_array(path, FLAGS.output, golden=values)
    save_parts(model, record)
    print(sources.text)
    return 0


def calibrated(model, recipe, data):
    """Returns the quantized model and its record."""
    ends = {"input_bits": FLAGS.input_bits, "output_bits": FLAGS.output_bits, "integer": FLAGS.integer}
    # AdaRound, which "auto" may choose, shows a bar of its own.
    with stage(
        " ".join(["Calibrating", ", ".join(recipe.steps)]).rstrip(),
        spinner=not {"adaround", "auto"} & set(recipe.steps),
    ):
        try:
            return r2keras.calibrate(model, recipe, data, **ends)
        except DataNeededError as error:
            raise ValueError(f"{error} Give them with --calibration_data") from error
        except EdgesError as error:
            raise ValueError(f"{error} On the command line: --edge_bits=0") from error


def check_decisions(model, data) -> None:
    """Prints how often the file of integer operators decides as the model, with a warning if that is too seldom."""
    with stage("Comparing the file with the Keras model"):
        agreement = r2keras.export.verify(model, FLAGS.output, data).agreement
    if agreement is None:
        return
    print(f"same decision as the Keras model: {agreement:.2%} of the calibration data")
    if agreement < MIN_AGREEMENT:
        way_out = "" if FLAGS.target in ("ethos-u", "mcu") else ", or pass --activations=float"
        print(
            f"Warning: the file decides otherwise than the Keras model in {1 - agreement:.2%} of the samples. Expected "
            f"at most {1 - MIN_AGREEMENT:.0%}. Judge the file itself by its accuracy{way_out}.",
            file=sys.stderr,
        )


def routes(model, record, form: Form):
    """Returns size and latency of the file next to those of the exact one, whose operators compute in float."""
    files = {"on integers" if form.activations == "int8" else "dynamic": FLAGS.output}
    with tempfile.TemporaryDirectory() as folder:
        # A model that rounds rows has no exact form.
        if not record.dynamic_kernels:
            exact = Path(folder, "exact.tflite")
            r2keras.export.to_litert(model, exact, record, optimize=form.optimize, batch_size=form.batch_size)
            files = {"exact, in float": exact, **files}
        return r2keras.report.compare_routes(files, isolated=True)


def save_parts(model, record) -> None:
    """Writes the record and the quantized model if the flags name files for them."""
    if FLAGS.record_output:
        record.save(FLAGS.record_output)
    if FLAGS.model_output:
        with replacing(FLAGS.model_output) as temporary:
            model.save(temporary)


if __name__ == "__main__":
    sys.exit(main())
