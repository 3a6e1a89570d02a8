"""Intervals of accuracies against SciPy-free references: the definition of Wilson's interval, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from r2keras.report.noise import Z, binomial_interval, difference_noise
from r2keras.report.stats import Stat


@pytest.mark.parametrize("samples", [1, 20, 500])
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.97, 1.0])
def test_ends_solve_the_equation_of_wilson(samples, accuracy):
    low, high = binomial_interval(accuracy, samples)
    assert 0 <= low <= accuracy <= high <= 1
    for end in (low, high):
        # By definition, the measured accuracy is Z standard errors of the end away from it.
        distance = abs(accuracy - end)
        assert distance == pytest.approx(Z * math.sqrt(end * (1 - end) / samples), abs=1e-9) or end in (0.0, 1.0)


def test_the_noise_covers_equal_models_at_95_percent():
    rng = np.random.default_rng(0)
    pairs = rng.binomial(500, 0.96, (4000, 2)) / 500
    covered = [abs(a - b) <= difference_noise(Stat(a, None, 1), Stat(b, None, 1), 500) for a, b in pairs]
    assert 0.94 < np.mean(covered) < 0.98


def test_seeds_add_their_variance():
    first, second = Stat(0.98, 0.004, 3), Stat(0.97, 0.003, 4)
    seeds = difference_noise(first, second, None)
    assert seeds == pytest.approx(Z * math.sqrt(0.004**2 / 3 + 0.003**2 / 4))
    samples = difference_noise(Stat(0.98, None, 1), Stat(0.97, None, 1), 500)
    assert difference_noise(first, second, 500) == pytest.approx(math.hypot(seeds, samples))


def test_without_samples_and_seeds_nothing_is_known():
    assert difference_noise(Stat(0.98, None, 1), Stat(0.97, None, 1), None) is None


def test_a_perfect_accuracy_has_noise_too():
    assert difference_noise(Stat(1.0, None, 1), Stat(1.0, None, 1), 500) > 0.003
