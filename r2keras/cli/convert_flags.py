"""The flags of `r2keras-convert`, and their contradictions."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from r2keras.cli import common, recipe_flags
from r2keras.specs.dynamic import is_dynamic
from r2keras.specs.targets import ACCELERATORS, ACTIVATIONS, ENDS, FORMS, RECURRENT, TARGETS

FLAGS = flags.FlagValues()
SUFFIXES = {
    "output": ".tflite",
    "record": ".npz",
    "record_output": ".npz",
    "model_output": ".keras",
    "npu_output": ".tflite",
}
WRITTEN = ("output", "record_output", "model_output", "npu_output")
flags.DEFINE_string("model", None, "The Keras model, .keras or .h5.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The .tflite file to write; with --format=c_array, the folder.", flag_values=FLAGS)
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
    "target",
    "any",
    list(TARGETS),
    "What the file is for: any runtime, cpu (LiteRT on phones and desktops), browser (LiteRT.js), ethos-u (Arm's NPU), "
    "or mcu (microcontrollers). It sets the flags below that are left out.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "format",
    None,
    ["litert", "tflm", "c_array"],
    "litert: operators of LiteRT. tflm: look-up tables of LiteRT for Microcontrollers, in float, which --target=mcu "
    "takes without integer activations. c_array: a folder of C sources, with --target=mcu.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "activations",
    None,
    list(ACTIVATIONS),
    "What operators compute in: float; dynamic, where products take few-bit weights and round their input; or int8. By "
    "default the target's, float with any.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "io",
    None,
    list(ENDS),
    "The type of the file's inputs and outputs, float or int8; with --activations=int8. By default the target's.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "optimize",
    None,
    list(FORMS),
    "Which of size, memory or latency to optimize for; with --record, --recipe or --bits. By default the target's, "
    "size with any.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "recurrent",
    None,
    list(RECURRENT),
    "The form of LSTM layers: a loop, which is the default, or fused, one operator that keeps its state until the "
    "interpreter resets it.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", None, "Samples per run. By default 1, with --target=any as open as the model.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "accelerator",
    None,
    list(ACCELERATORS),
    "The NPU to compile for with Vela, which prints flash, SRAM and cycles; with --target=ethos-u.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "npu_output", None, "Where to write the file that Vela compiled; with --accelerator.", flag_values=FLAGS
)
flags.DEFINE_string(
    "record_output", None, "Where to write the new record, .npz; with --recipe or --bits.", flag_values=FLAGS
)
flags.DEFINE_string(
    "model_output", None, "Where to write the quantized model, .keras; with --recipe or --bits.", flag_values=FLAGS
)


def on_integers() -> bool:
    """Whether the flags say that the file computes on integers."""
    return FLAGS.integer or FLAGS.activations == "int8"


def check_flags() -> None:
    """Raises ValueError for flags that are missing, contradict each other or name a file of the wrong kind."""
    if FLAGS.record and FLAGS.recipe:
        raise ValueError("Give --record (the model is compressed already) or --recipe (compress it here), not both")
    if FLAGS.target == "ethos-u" and not FLAGS.record:
        FLAGS.integer = True
    recipe_flags.check(FLAGS)
    _check_target()
    quantizes = recipe_flags.quantizes(FLAGS)
    _check_compression(quantizes)
    _check_activations(quantizes)
    for name, suffix in SUFFIXES.items():
        is_folder = name == "output" and FLAGS.format == "c_array"
        if FLAGS[name].value and Path(FLAGS[name].value).suffix != ("" if is_folder else suffix):
            expected = "be a folder" if is_folder else f"end in {suffix}"
            raise ValueError(f"--{name}={FLAGS[name].value} should {expected}")
    common.keep_inputs(FLAGS, ("model", "record", "recipe", "calibration_data"), WRITTEN)


def _check_target() -> None:
    """Raises ValueError for flags that go with another target."""
    for name in ("accelerator", "npu_output"):
        if FLAGS[name].value and FLAGS.target != "ethos-u":
            raise ValueError(f"--{name} goes with --target=ethos-u")
    if FLAGS.npu_output and not FLAGS.accelerator:
        raise ValueError("--npu_output goes with --accelerator, which is missing")
    if FLAGS.format == "c_array" and FLAGS.target != "mcu":
        raise ValueError("--format=c_array goes with --target=mcu")
    if FLAGS.format == "tflm" and FLAGS.target not in ("any", "mcu"):
        raise ValueError(f"--format=tflm goes with --target=mcu, not with --target={FLAGS.target}")


def _check_compression(quantizes: bool) -> None:
    """Raises ValueError for flags that need a record or a recipe."""
    takes_data = quantizes or on_integers() or (FLAGS.record and FLAGS.target != "any")
    for name in ("calibration_data", "input_bits", "output_bits", "record_output", "model_output"):
        if FLAGS[name].value and not quantizes and not (takes_data and name == "calibration_data"):
            raise ValueError(f"--{name} goes with --recipe or --bits, which are missing")
    if FLAGS.optimize not in (None, "size") and not (FLAGS.record or quantizes):
        raise ValueError(
            f"--optimize={FLAGS.optimize} goes with --record, --recipe or --bits: a float file has one form"
        )


def _check_activations(quantizes: bool) -> None:
    """Raises ValueError for flags that contradict --activations."""
    computes = on_integers()
    if FLAGS.io == "int8" and not computes and FLAGS.target == "any":
        raise ValueError("--io=int8 goes with --integer or --activations=int8, which are missing")
    if computes and FLAGS.format == "tflm":
        raise ValueError("--activations=int8 goes with --format=litert: --format=tflm computes in float")
    if FLAGS.activations == "dynamic":
        if FLAGS.format in ("tflm", "c_array"):
            raise ValueError(f"--activations=dynamic goes with --format=litert; leave --format={FLAGS.format} out")
        if not (FLAGS.record or quantizes):
            raise ValueError("--activations=dynamic goes with --record, --recipe or --bits: a float file has no codes")
    if FLAGS.recurrent == "fused" and (computes or FLAGS.format == "tflm"):
        raise ValueError("--recurrent=fused goes with --format=litert and --activations=float")
    if computes and not (FLAGS.record or quantizes):
        raise ValueError("--activations=int8 goes with --record or --recipe, which have the grids of the activations")


def check_method(recipe) -> None:
    """Raises ValueError for a recipe that rounds rows, and a file that does not."""
    rounds = recipe is not None and any(is_dynamic(spec) for _, spec in recipe.rules)
    if rounds and FLAGS.activations in (None, "float") and FLAGS.target == "any" and not FLAGS.integer:
        raise ValueError("The recipe has activation_method: dynamic, which goes with --activations=dynamic or int8")


def calibration_data(model) -> list | None:
    """Returns one array per input of the model, or None if no data were given."""
    if not FLAGS.calibration_data:
        return None
    inputs, _ = common.load_inputs(FLAGS.calibration_data, model, "calibration_data")
    return list(inputs.values())
