"""QuantSpec: its grids, errors for contradictions, and its form in JSON."""

import copy
import dataclasses
import json
import pickle

import pytest

from r2keras.specs import SPEC_KINDS, PaletteSpec, QuantSpec
from r2keras.specs.dynamic import is_dynamic

pytestmark = pytest.mark.backends

# num_bits, other arguments -> quant_min, quant_max, levels
GRIDS = [
    (8, {}, -127, 127, "mid_tread"),
    (4, {}, -7, 7, "mid_tread"),
    (3, {}, -3, 3, "mid_tread"),
    (2, {}, -2, 1, "mid_rise"),
    (1, {}, -1, 0, "mid_rise"),
    (8, {"narrow_range": False}, -128, 127, "mid_tread"),
    (2, {"levels": "mid_tread"}, -1, 1, "mid_tread"),
    (2, {"levels": "mid_tread", "narrow_range": False}, -2, 1, "mid_tread"),
    (4, {"levels": "mid_rise"}, -8, 7, "mid_rise"),
    (8, {"symmetric": False}, -128, 127, "mid_tread"),
    (2, {"symmetric": False}, -2, 1, "mid_tread"),
    (1, {"symmetric": False}, -1, 0, "mid_tread"),
    (4, {"method": "lsq"}, -7, 7, "mid_tread"),
    (2, {"method": "lsq"}, -2, 1, "mid_rise"),
    (4, {"method": "ewgs"}, -8, 7, "mid_rise"),
    (4, {"method": "dorefa"}, -8, 7, "mid_rise"),
    (2, {"method": "wrpn"}, -1, 1, "mid_tread"),
    (1, {"method": "binary"}, -1, 0, "mid_rise"),
    (2, {"method": "ternary"}, -1, 1, "mid_tread"),
]

ROWS = {"activation_bits": 8, "activation_method": "dynamic"}
BAD_VALUES = [
    ({"num_bits": 0}, ValueError, "num_bits"),
    ({"num_bits": 9}, ValueError, "num_bits"),
    ({"num_bits": 4.0}, TypeError, "num_bits"),
    ({"num_bits": True}, TypeError, "num_bits"),
    ({"num_bits": "4"}, TypeError, "num_bits"),
    ({"method": "sté"}, ValueError, "Did you mean 'ste'"),
    ({"range": "minmax"}, ValueError, "Did you mean 'min_max'"),
    ({"granularity": "channel"}, ValueError, "Did you mean 'per_channel'"),
    ({"levels": "mid_raise"}, ValueError, "Did you mean 'mid_rise'"),
    ({"symmetric": None}, TypeError, "symmetric"),
    ({"symmetric": 1}, TypeError, "symmetric"),
    ({"narrow_range": "yes"}, TypeError, "narrow_range"),
    ({"channel_axis": 1.0}, TypeError, "channel_axis"),
    ({"channel_axis": False}, TypeError, "channel_axis"),
    ({"granularity": "per_group"}, ValueError, "group_size"),
    ({"granularity": "per_group", "group_size": 0}, ValueError, "group_size"),
    ({"granularity": "per_group", "group_size": 2.0}, TypeError, "group_size"),
    ({"group_size": 32}, ValueError, "per_group"),
    ({"granularity": "per_tensor", "channel_axis": 0}, ValueError, "channel_axis"),
    ({"granularity": "per_group", "group_size": 8, "channel_axis": 0}, ValueError, "channel_axis"),
    ({"levels": "mid_rise", "symmetric": False}, ValueError, "always contains zero"),
    ({"levels": "mid_rise", "narrow_range": True}, ValueError, "narrow_range"),
    ({"symmetric": False, "narrow_range": True}, ValueError, "narrow_range"),
    ({"num_bits": 1, "levels": "mid_tread"}, ValueError, "mid_rise"),
    ({"method": "dorfa"}, ValueError, "Did you mean 'dorefa'"),
    ({"method": "pact"}, ValueError, "activation_method"),
    ({"method": "binary"}, ValueError, "Pass num_bits=1"),
    ({"method": "ternary", "num_bits": 3}, ValueError, "Pass num_bits=2"),
    ({"method": "wrpn", "num_bits": 1}, ValueError, "2 to 8"),
    ({"method": "ternary", "num_bits": 2, "levels": "mid_rise"}, ValueError, "'mid_tread'"),
    ({"method": "ewgs", "levels": "mid_tread"}, ValueError, "'mid_rise'"),
    ({"method": "dorefa", "levels": "mid_tread"}, ValueError, "'mid_rise'"),
    ({"method": "wrpn", "narrow_range": False}, ValueError, "narrow_range"),
    ({"method": "lsq", "symmetric": False}, ValueError, "symmetric"),
    ({"method": "lsq", "range": "mse"}, ValueError, "sets its own range"),
    ({"percentile": 99.0}, ValueError, "None unless range='percentile'"),
    ({"range": "percentile", "percentile": 20}, ValueError, "from 50 to 100"),
    ({"range": "percentile", "percentile": "99"}, TypeError, "percentile"),
    ({"range": "percentile", "percentile": float("nan")}, ValueError, "percentile"),
    ({"delta": 0.1}, ValueError, "method='ewgs'"),
    ({"method": "ewgs", "delta": -1.0}, ValueError, "delta"),
    ({"method": "ewgs", "delta": float("inf")}, ValueError, "delta"),
    ({"activation_bits": 5, "activation_method": "alternating"}, ValueError, "2 to 4 with activation_method='alter"),
    ({"activation_bits": 3, "activation_method": "alternating", "activation_range": "mse"}, ValueError, "_range`. Exp"),
    ({"activation_method": "alternating"}, ValueError, "None without activation_bits"),
    ({"activation_method": "dynamic"}, ValueError, "None without activation_bits"),
    ({"activation_bits": 8, "activation_method": "dinamic"}, ValueError, "Did you mean 'dynamic'"),
    ({"activation_bits": 4, "activation_method": "dynamic"}, ValueError, "Expected 8 with activation_method='dynamic'"),
    ({**ROWS, "activation_range": "mse"}, ValueError, "Each row has a range of its own"),
    ({**ROWS, "symmetric": False}, ValueError, "codes around zero"),
    ({**ROWS, "granularity": "per_group", "group_size": 8}, ValueError, "use 'per_channel'"),
    ({**ROWS, "method": "alternating", "num_bits": 2}, ValueError, "a method on a uniform grid"),
    ({**ROWS, "levels": "mid_rise"}, ValueError, "at most 7"),
    ({**ROWS, "method": "ewgs"}, ValueError, "at most 7"),
    ({**ROWS, "narrow_range": False}, ValueError, "at most 7"),
]


@pytest.mark.parametrize(("num_bits", "others", "low", "high", "levels"), GRIDS)
def test_grid(num_bits, others, low, high, levels):
    spec = QuantSpec(num_bits=num_bits, **others)
    assert (spec.quant_min, spec.quant_max, spec.levels) == (low, high, levels)


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_VALUES)
def test_bad_values_are_refused_by_name(arguments, error, match):
    with pytest.raises(error, match=match):
        QuantSpec(**arguments)


@pytest.mark.parametrize("num_bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_grid_fits_its_bits(num_bits, symmetric):
    spec = QuantSpec(num_bits=num_bits, symmetric=symmetric)
    assert 2 <= spec.quant_max - spec.quant_min + 1 <= 2**num_bits
    assert spec.quant_min >= -128
    assert spec.quant_max <= 127


def test_is_frozen_hashable_and_takes_only_the_bits_by_position():
    spec = QuantSpec(num_bits=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.num_bits = 2
    with pytest.raises(TypeError):
        QuantSpec(4, "lsq")
    assert {spec: 1}[QuantSpec(num_bits=4)] == 1


def test_written_out_defaults_are_equal_to_left_out_ones():
    assert QuantSpec(num_bits=4) == QuantSpec(num_bits=4, levels="mid_tread", narrow_range=True)
    assert QuantSpec(num_bits=2) == QuantSpec(num_bits=2, levels="mid_rise", narrow_range=False)
    assert QuantSpec(num_bits=4) != QuantSpec(num_bits=4, narrow_range=False)
    assert QuantSpec(num_bits=4) == QuantSpec(num_bits=4, range="mse")
    assert QuantSpec(range="percentile") == QuantSpec(range="percentile", percentile=99.9)
    assert QuantSpec(method="ewgs") == QuantSpec(method="ewgs", delta=1e-3)


@pytest.mark.parametrize(("num_bits", "others"), [grid[:2] for grid in GRIDS])
def test_round_trips(num_bits, others):
    spec = QuantSpec(num_bits=num_bits, **others)
    assert QuantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec) == spec


@pytest.mark.parametrize("others", [{}, {"num_bits": 2}, {"num_bits": 4, "levels": "mid_rise"}, {"method": "lsq"}])
def test_rows_rounded_at_run_time_have_no_range(others):
    spec = QuantSpec(**others, **ROWS)
    assert is_dynamic(spec) and spec.activation() is None and spec.activation_range is None
    assert QuantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert not is_dynamic(QuantSpec(**others, activation_bits=8)) and not is_dynamic(PaletteSpec())


def test_to_dict_is_the_arguments():
    assert list(QuantSpec().to_dict()) == [field.name for field in dataclasses.fields(QuantSpec) if field.init]


def test_replace_keeps_the_other_values():
    spec = dataclasses.replace(QuantSpec(num_bits=8, range="min_max"), num_bits=4)
    assert spec == QuantSpec(num_bits=4, range="min_max")


def test_unknown_key_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'num_bits'"):
        QuantSpec.from_dict({"num_bit": 4})


def test_kinds_are_known_by_name():
    assert SPEC_KINDS["quantize"] is QuantSpec
    assert all(spec.kind == kind for kind, spec in SPEC_KINDS.items())
