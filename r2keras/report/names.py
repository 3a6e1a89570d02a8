"""Names of settings that a reader understands without the source code."""

from __future__ import annotations

from r2keras._util.text import MIN_FLOAT_BITS

# The name of the models trained without a regularizer.
REFERENCE = "none"
# Methods as result rows name them; others are shown as they are.
METHOD_NAMES = {
    "ptq_min_max": "post-training (min-max ranges)",
    "ptq_mse": "post-training (MSE ranges)",
    "ptq_equalize": "post-training (equalized)",
    "ptq_adaround": "post-training (AdaRound)",
    "ptq_palette": "post-training palette",
    "qat": "trained",
    "lsq": "trained (LSQ)",
    "ewgs": "trained (EWGS)",
    "dorefa": "trained (DoReFa)",
    "pact": "trained (PACT)",
    "wrpn": "trained (WRPN)",
    "ternary": "trained (ternary)",
    "binary": "trained (binary)",
    "dkm": "trained palette",
    "dkm_vector": "trained vector palette",
}
REGULARIZER_NAMES = {
    REFERENCE: "no regularizer",
    "l2": "L2",
    "kurtosis": "kurtosis (KURE)",
    "linf": "R2 L-infinity",
    "margin": "R2 margin",
    "soft_min_max": "R2 soft min-max",
}


def method_name(method: str) -> str:
    """Returns a method in words.

    >>> method_name("ptq_mse"), method_name("mine")
    ('post-training (MSE ranges)', 'mine')
    """
    return METHOD_NAMES.get(method, method)


def regularizer_name(regularizer: str) -> str:
    """Returns a regularizer in words.

    >>> regularizer_name("none"), regularizer_name("mine")
    ('no regularizer', 'mine')
    """
    return REGULARIZER_NAMES.get(regularizer, regularizer)


def setting_name(method: str, num_bits: int) -> str:
    """Returns bit width and method in words.

    >>> setting_name("qat", 2), setting_name("float", 32), setting_name("half", 16)
    ('2-bit, trained', 'float', 'half')
    """
    return method_name(method) if num_bits >= MIN_FLOAT_BITS else f"{num_bits}-bit, {method_name(method)}"


def short_name(method: str, num_bits: int) -> str:
    """Returns `setting_name` without what stands in parentheses, for labels in plots.

    >>> short_name("ptq_mse", 4)
    '4-bit, post-training'
    """
    return setting_name(method, num_bits).partition(" (")[0]
