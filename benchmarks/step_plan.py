"""The plan of `training_step.py`: groups of variants, each timed against one baseline on one net."""

from __future__ import annotations

import dataclasses
import fnmatch

CONTROL = "control"
IMPORT = "import_r2keras"
# Image shape and batch size; `cnn` is for --smoke.
NETS = {"resnet20": ((32, 32, 3), 128), "mobilenet_v2_035": ((96, 96, 3), 32), "cnn": ((8, 8, 1), 16)}
NUM_CLASSES = 10

REGULARIZERS = {
    "linf": ("R2Linf", {}),
    "linf_scale_free": ("R2Linf", {"scale_free": True}),
    "margin": ("R2Margin", {}),
    "margin_scale_free": ("R2Margin", {"scale_free": True}),
    "soft_min_max": ("R2SoftMinMax", {}),
    "soft_min_max_scale_free": ("R2SoftMinMax", {"scale_free": True}),
    "kurtosis": ("Kurtosis", {}),
}
# A quantizer's cost does not depend on its number of bits.
QUANTIZERS = {
    "mse_8bit_per_channel": {"num_bits": 8},
    "mse_2bit_per_channel": {"num_bits": 2},
    "mse_2bit_per_tensor": {"num_bits": 2, "granularity": "per_tensor"},
    "min_max_2bit_per_channel": {"num_bits": 2, "range": "min_max"},
    "min_max_2bit_per_tensor": {"num_bits": 2, "range": "min_max", "granularity": "per_tensor"},
}
METHODS = {
    "lsq_2bit": {"num_bits": 2, "method": "lsq"},
    "ewgs_2bit": {"num_bits": 2, "method": "ewgs"},
    "dorefa_2bit": {"num_bits": 2, "method": "dorefa"},
    "wrpn_2bit": {"num_bits": 2, "method": "wrpn"},
    "ternary": {"num_bits": 2, "method": "ternary"},
    "binary": {"num_bits": 1, "method": "binary"},
}
ACTIVATIONS = {
    "mse_w8a8": {"num_bits": 8, "activation_bits": 8},
    "lsq_w2a2": {"num_bits": 2, "method": "lsq", "activation_bits": 2},
    "ewgs_w2a2": {"num_bits": 2, "method": "ewgs", "activation_bits": 2},
    "dorefa_w2a2": {"num_bits": 2, "method": "dorefa", "activation_bits": 2},
    "dorefa_pact_w2a2": {"num_bits": 2, "method": "dorefa", "activation_bits": 2, "activation_method": "pact"},
}
SPECS = QUANTIZERS | METHODS | ACTIVATIONS
TFMOT = ("tfmot_8bit", "tfmot_8bit_weights_only")
OWN_CONFIG = "r2keras_8bit"
IMPORTS = (IMPORT,)


@dataclasses.dataclass(frozen=True)
class Group:
    """Variants that are compared with the same baseline.

    Args:
        title: title of the table.
        baseline: name of the variant that the others are compared with.
        variants: names of the variants.
        unit: "ratio" of the step times, or "seconds" beyond the baseline.
        goal: largest acceptable figure; None for variants of other libraries.
    """

    title: str
    baseline: str
    variants: tuple[str, ...]
    unit: str
    goal: float | None


GROUPS = {
    "regularizers": Group(
        "A regularizer on every kernel, against L2 on every kernel", "l2", tuple(REGULARIZERS), "ratio", 1.03
    ),
    "fake_quantize": Group(
        "Every kernel fake-quantized (`r2keras.prepare`), against float", "float", tuple(QUANTIZERS), "ratio", 1.05
    ),
    "methods": Group(
        "Every kernel quantized by a method of the papers, activations float",
        "float",
        tuple(METHODS),
        "ratio",
        1.05,
    ),
    "activations": Group(
        "Every kernel and every activation quantized, against float", "float", tuple(ACTIVATIONS), "ratio", 1.2
    ),
    "tfmot": Group(
        "TFMOT's `quantize_apply` in tf_keras, against the float tf_keras model", "tf_keras_float", TFMOT, "ratio", None
    ),
    "tfmot_config": Group(
        "r2keras' config with `quantize_apply`, 8 bits, against TFMOT's",
        "tfmot_8bit",
        (OWN_CONFIG,),
        "ratio",
        1.15,
    ),
    "import": Group("`import r2keras` beyond `import keras`", "import_keras", IMPORTS, "seconds", 0.2),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """The part of one group that is measured on one net, in one process."""

    group: str
    net: str
    variants: tuple[str, ...]
    rounds: int
    steps: int

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return GROUPS[self.group].baseline

    def model_of(self, variant: str) -> str:
        """The variant whose model is built; the control is a second copy of the baseline."""
        return self.baseline if variant == CONTROL else variant

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return NETS[self.net][0]

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return NETS[self.net][1]


def jobs_of(nets: list[str], patterns: list[str], rounds: int, steps: int) -> list[Job]:
    """Returns the jobs; except for imports, each also measures a second copy of its baseline, the control.

    Args:
        nets: keys of `NETS`.
        patterns: shell patterns over the names of variants and groups.
        rounds: rounds per job; each gives one ratio per variant.
        steps: timed steps per variant and round.
    """
    jobs = []
    for name, group in GROUPS.items():
        chosen = tuple(
            variant for variant in group.variants if any(_matches(pattern, variant, name) for pattern in patterns)
        )
        if not chosen:
            continue
        if name == "import":
            jobs.append(Job(name, "", chosen, rounds, steps))
        else:
            jobs += [Job(name, net, (CONTROL, *chosen), rounds, steps) for net in nets]
    return jobs


def unknown(patterns: list[str]) -> list[str]:
    """Returns the patterns that match no variant and no group."""
    names = [(variant, name) for name, group in GROUPS.items() for variant in group.variants]
    return [pattern for pattern in patterns if not any(_matches(pattern, *pair) for pair in names)]


def _matches(pattern: str, variant: str, group: str) -> bool:
    """Whether a pattern matches the name of a variant or of its group."""
    return fnmatch.fnmatch(variant, pattern) or fnmatch.fnmatch(group, pattern)
