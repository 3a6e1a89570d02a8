"""Numbers of NumPy are accepted where Python's are, and stored as Python's; booleans are not numbers."""

import fractions

import numpy as np
import pytest

from r2keras import ActivationSpec, PaletteSpec, QuantizedActivation, QuantSpec, R2Linf, R2Margin, R2SoftMinMax
from r2keras._util.errors import check_int, check_number, check_positive
from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras.calibration import AdaRoundOptions
from r2keras.search import Search

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("kind", [int, np.int8, np.uint16, np.int64])
def test_integers(kind):
    assert type(as_int(kind(4))) is int
    assert type(check_int("x", kind(4), 1, 8)) is int
    assert as_number(kind(4)) == 4


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64, fractions.Fraction])
def test_real_numbers(kind):
    assert as_int(kind(0.5)) is None
    assert type(as_number(kind(0.5))) is float
    assert type(check_number("x", kind(0.5), 0, 1)) is float
    assert type(check_positive("x", kind(0.5))) is float


@pytest.mark.parametrize("value", [True, np.bool_(True), "1", None, 1j, np.ones(1), [1]])
def test_other_values_are_no_numbers(value):
    assert as_int(value) is None
    assert as_number(value) is None
    with pytest.raises(TypeError, match="Expected an integer from 1 to 8"):
        check_int("x", value, 1, 8)
    with pytest.raises(TypeError, match="Expected a finite number above 0"):
        check_positive("x", value)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), np.float32("inf")])
def test_numbers_that_no_float_holds(value):
    assert not is_finite(value)
    with pytest.raises(ValueError, match="Expected a number of at least 0"):
        check_number("x", value, 0, float("inf"))
    with pytest.raises(ValueError, match="Expected a finite number above 0"):
        check_positive("x", value)


PLAIN_AND_NUMPY = [
    (QuantSpec, {"num_bits": 4, "granularity": "per_group", "group_size": 32}),
    (QuantSpec, {"num_bits": 4, "channel_axis": -1}),
    (QuantSpec, {"num_bits": 2, "method": "ewgs", "delta": 0.5, "activation_bits": 4}),
    (QuantSpec, {"range": "percentile", "percentile": 99.5}),
    (ActivationSpec, {"num_bits": 4, "method": "ewgs", "delta": 0.5}),
    (PaletteSpec, {"num_bits": 2, "dim": 2, "updates": 3, "min_size": 0}),
    (PaletteSpec, {"granularity": "per_group", "group_size": 16}),
    (PaletteSpec, {"temperature": 0.5, "final_temperature": 0.25, "anneal_steps": 10}),
    (AdaRoundOptions, {"iterations": 10, "learning_rate": 0.5, "factor": 2.0, "warm_up": 0.25, "rounds": 1}),
    (Search, {"model": "m", "data": "d", "epochs": 2, "seed": 1, "max_bytes": 9, "trials": 3, "max_drop": 0.5}),
    (Search, {"model": "m", "data": "d", "learning_rate": 0.5, "batch_size": 4, "length": 5, "activation_bits": 4}),
    (R2Linf, {"factor": 0.5, "dim": 2}),
    (R2Linf, {"granularity": "per_channel", "channel_axis": 0}),
    (R2Margin, {"margin": 1.5}),
    (R2SoftMinMax, {"sharpness": 2.5}),
    (QuantizedActivation, {"name": "a", "scale": 0.5, "zero_point": -128, "num_bits": 8}),
]


def _state(result):
    return result.get_config() if hasattr(result, "get_config") else dict(vars(result))


@pytest.mark.parametrize(("cls", "arguments"), PLAIN_AND_NUMPY)
def test_arguments_are_stored_as_plain_numbers(cls, arguments):
    kinds = {int: np.int64, float: np.float32}
    given = {name: kinds.get(type(value), type(value))(value) for name, value in arguments.items()}
    assert any(isinstance(value, np.generic) for value in given.values())
    expected, received = _state(cls(**arguments)), _state(cls(**given))
    expected.pop("name", None)
    received.pop("name", None)
    assert received == expected
    for name in arguments:
        if name in received:
            assert not isinstance(received[name], np.generic), name


def test_lists_of_numbers_are_stored_as_plain_numbers():
    search = Search(model="m", data="d", bits=np.array([2, 4]), widths=(np.float32(1), np.int64(2)))
    assert {type(bits) for bits in search.bits} == {int}
    assert {type(width) for width in search.widths} == {float}
    beta = AdaRoundOptions(beta=(np.float32(20), np.int64(2))).beta
    assert beta == (20.0, 2)
    assert not any(isinstance(exponent, np.generic) for exponent in beta)
    axes = R2Linf(granularity="per_channel", channel_axis=(np.int64(0), np.int64(1))).channel_axis
    assert [type(axis) for axis in axes] == [int, int]


@pytest.mark.parametrize(
    ("cls", "arguments", "name"),
    [
        (AdaRoundOptions, {"learning_rate": "0.1"}, "learning_rate"),
        (AdaRoundOptions, {"warm_up": None}, "warm_up"),
        (AdaRoundOptions, {"beta": (20.0,)}, "beta"),
        (AdaRoundOptions, {"beta": 2.0}, "beta"),
        (AdaRoundOptions, {"factor": 10**400}, "factor"),
        (R2Linf, {"factor": 10**400}, "factor"),
        (R2Linf, {"dim": np.bool_(True)}, "dim"),
        (QuantSpec, {"method": "ewgs", "num_bits": 2, "delta": 10**400}, "delta"),
    ],
)
def test_bad_numbers_name_their_argument(cls, arguments, name):
    with pytest.raises((TypeError, ValueError), match=f"Invalid value for argument `{name}`"):
        cls(**arguments)
