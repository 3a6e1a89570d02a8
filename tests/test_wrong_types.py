"""A public function raises TypeError for a value of the wrong type, and ValueError for a wrong value."""

import numpy as np
import pytest

from r2keras import Kurtosis, R2Linf, R2Margin, R2SoftMinMax, break_even_width
from r2keras.callbacks import AnnealPalettes, EWGSDelta, FreezeBatchNorm
from r2keras.layers import GridActivation, QuantizedLSTM

ONES = np.ones((4, 2), "float32")
# A function, one of its arguments, a value of the wrong type, and a wrong value.
ARGUMENTS = [
    (R2Linf, "factor", "strong", -1.0),
    (R2Margin, "dim", 1.5, 0),
    (R2Margin, "margin", None, 0.0),
    (R2SoftMinMax, "sharpness", "5", -1),
    (R2Linf, "granularity", 1, "per_row"),
    (lambda **options: R2Linf(granularity="per_channel", **options), "channel_axis", "last", []),
    (Kurtosis, "target", True, -1.0),
    (FreezeBatchNorm, "epoch", 1.5, -1),
    (AnnealPalettes, "start", "hot", 0.0),
    (lambda **options: EWGSDelta(ONES, ONES, "mse", **options), "every", "often", 0),
    (lambda **options: GridActivation(zero_point=0, num_bits=8, **options), "scale", "1", 0.0),
    (lambda **options: GridActivation(scale=1.0, num_bits=8, **options), "zero_point", None, 500),
    (QuantizedLSTM, "units", "four", 0),
    (break_even_width, "num_bits", 2.5, 9),
]


@pytest.mark.parametrize(("function", "name", "wrong_type", "wrong_value"), ARGUMENTS)
def test_types_and_values_raise_their_own_errors(function, name, wrong_type, wrong_value):
    for kind, value in ((TypeError, wrong_type), (ValueError, wrong_value)):
        with pytest.raises(kind, match=f"argument `{name}`"):
            function(**{name: value})
