"""ActivationSpec: its defaults, and errors that name the caller's argument."""

import dataclasses
import json

import pytest

from r2keras import ActivationSpec, QuantSpec

pytestmark = pytest.mark.backends

# Arguments of ActivationSpec, the error, the argument that it names (with `activation_` before it in QuantSpec), text.
BAD_VALUES = [
    ({"method": "x"}, "method", "Expected one of 'ste', 'pact'"),
    ({"method": "psct"}, "method", "Did you mean 'pact'?"),
    ({"range": "mes"}, "range", "Did you mean 'mse'?"),
    ({"method": "pact", "range": "mse"}, "range", "Expected None with {prefix}method='pact'"),
]


@pytest.mark.parametrize(("arguments", "name", "text"), BAD_VALUES)
def test_an_error_names_the_argument_of_the_activation(arguments, name, text):
    with pytest.raises(ValueError, match=f"argument `{name}`") as caught:
        ActivationSpec(**arguments)
    assert text.format(prefix="") in str(caught.value)
    assert "activation_" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "name", "text"), BAD_VALUES)
def test_an_error_names_the_argument_of_the_weights_spec(arguments, name, text):
    with pytest.raises(ValueError, match=f"argument `activation_{name}`") as caught:
        QuantSpec(activation_bits=8, **{f"activation_{key}": value for key, value in arguments.items()})
    assert text.format(prefix="activation_") in str(caught.value)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_are_named_by_the_caller(bits):
    with pytest.raises(ValueError, match="argument `num_bits`"):
        ActivationSpec(num_bits=bits)
    with pytest.raises(ValueError, match="argument `activation_bits`"):
        QuantSpec(activation_bits=bits)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"unsigned": 1}, TypeError, "unsigned"),
        ({"delta": 0.1}, ValueError, "None unless method='ewgs'"),
        ({"method": "ewgs", "delta": -1.0}, ValueError, "a number of at least 0"),
        ({"method": "ewgs", "delta": "1"}, TypeError, "delta"),
    ],
)
def test_bad_values_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        ActivationSpec(**arguments)


def test_defaults_are_written_out():
    assert ActivationSpec().range == "moving_average"
    assert ActivationSpec(num_bits=4).range == "mse"
    assert ActivationSpec(method="ewgs").delta == 1e-3
    assert ActivationSpec(method="pact").range is None
    assert ActivationSpec.from_dict(json.loads(json.dumps(ActivationSpec(num_bits=3).to_dict()))).range == "mse"


def test_the_spec_of_weights_has_one_for_its_output():
    spec = QuantSpec(num_bits=2, method="ewgs", delta=0.01, activation_bits=4)
    assert spec.activation() == ActivationSpec(num_bits=4, method="ewgs", delta=0.01)
    assert spec.activation(unsigned=True) == ActivationSpec(num_bits=4, method="ewgs", delta=0.01, unsigned=True)
    assert dataclasses.replace(spec, activation_bits=8).activation().num_bits == 8
    assert QuantSpec().activation() is None
    assert QuantSpec(activation_bits=3, activation_method="alternating").activation() is None
