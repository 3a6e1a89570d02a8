"""The recipe of `r2keras-convert`: from a file, or from flags that replace one."""

from __future__ import annotations

from absl import flags

import r2keras

# What --integer sets.
INTEGER_BITS = 8
IN_PLACE_OF_A_FILE = ("bits", "edge_bits", "steps", "activation_bits")


def define(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("recipe", None, "The recipe to quantize a float model by, .yaml or .json.", flag_values=values)
    flags.DEFINE_integer("bits", None, "Bits per weight, 1 to 8, in place of a recipe.", flag_values=values)
    flags.DEFINE_integer(
        "edge_bits", 8, "Bits per weight of the first and last kernels; 0: as --bits; with --bits.", flag_values=values
    )
    flags.DEFINE_integer(
        "activation_bits",
        None,
        "Bits of the layers' outputs, 2 to 8; float by default; with --bits.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "steps",
        None,
        "Calibration steps, in this order: fold_batch_norm, equalize, sensitivity, adaround, correct_bias, "
        "reestimate_batch_norm, reconstruct; or auto; with --bits or --integer.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "integer",
        False,
        "A fully integer model and file: 8 bits for activations, inputs and outputs, and, without --bits and --recipe, "
        "for weights; implies --activations=int8.",
        flag_values=values,
    )


def quantizes(values: flags.FlagValues) -> bool:
    """Whether the model is quantized here."""
    return bool(values.recipe or values.bits is not None or (values.integer and not values.record))


def check(values: flags.FlagValues) -> None:
    """Raises ValueError for flags that contradict each other or lack the flag that they go with."""
    given = [name for name in IN_PLACE_OF_A_FILE if values[name].present]
    for other in ("recipe", "record"):
        if values[other].value and given:
            raise ValueError(f"--{given[0]} cannot be combined with --{other}, which has its own")
    if given and not quantizes(values):
        raise ValueError(f"--{given[0]} goes with --bits, which is missing")
    if not values.integer:
        return
    for name in ("activation_bits", "input_bits", "output_bits"):
        if values[name].value not in (None, INTEGER_BITS):
            raise ValueError(f"--{name}={values[name].value} contradicts --integer, which sets {INTEGER_BITS}")
    if values["activations"].present and values.activations != "int8":
        raise ValueError(f"--activations={values.activations} contradicts --integer, which sets int8")


def recipe_of(values: flags.FlagValues) -> r2keras.Recipe | None:
    """Returns the recipe that the flags describe; None if the model is not quantized here."""
    if values.recipe:
        return r2keras.Recipe.load(values.recipe)
    if not quantizes(values):
        return None
    num_bits = INTEGER_BITS if values.bits is None else values.bits
    activation_bits = INTEGER_BITS if values.integer else values.activation_bits
    return r2keras.Recipe.uniform(num_bits, values.edge_bits or None, activation_bits, values.steps or ())
