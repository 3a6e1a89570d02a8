"""The Pareto front of assignments against all assignments, and against SciPy's integer programs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from r2keras.automatic.assignment import pareto_assignments


def costs(seed, layers, options):
    random = np.random.default_rng(seed)
    sizes = [sorted(map(int, random.integers(1, 60, options)), reverse=True) for _ in range(layers)]
    errors = [sorted(map(float, random.exponential(size=options))) for _ in range(layers)]
    return sizes, errors


@pytest.mark.parametrize("seed", range(5))
def test_front_is_that_of_all_assignments(seed):
    sizes, errors = costs(seed, 5, 3)
    every = []
    for choices in itertools.product(range(3), repeat=5):
        size = sum(row[i] for row, i in zip(sizes, choices, strict=True))
        every.append((size, sum(row[i] for row, i in zip(errors, choices, strict=True))))
    least = {size: min(error for s, error in every if s <= size) for size, _ in every}
    expected = [(size, error) for size, error in sorted(set(every)) if error == least[size]]
    expected = [row for row in expected if not any(s < row[0] and e <= row[1] for s, e in expected)]
    front = pareto_assignments(sizes, errors)
    assert [a.num_bytes for a in front] == [size for size, _ in expected]
    np.testing.assert_allclose([a.error for a in front], [error for _, error in expected])
    for a in front:
        assert a.num_bytes == sum(row[i] for row, i in zip(sizes, a.choices, strict=True))


def solved(sizes, errors, limit):
    """Returns the least error within a limit on bytes, by an integer program: one option per layer."""
    count = len(sizes[0])
    one_each = np.kron(np.eye(len(sizes)), np.ones(count))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(np.ravel(sizes)[None], -np.inf, limit)]
    found = milp(np.ravel(errors), integrality=np.ones(np.size(sizes)), bounds=Bounds(0, 1), constraints=constraints)
    return found.fun


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_every_budget_is_solved_as_an_integer_program_solves_it(share):
    sizes, errors = costs(7, 20, 4)
    front = pareto_assignments(sizes, errors)
    limit = int(front[0].num_bytes + share * (front[-1].num_bytes - front[0].num_bytes))
    best = [a for a in front if a.num_bytes <= limit][-1]
    assert best.error == pytest.approx(solved(sizes, errors, limit), rel=1e-6)


def test_a_thinned_front_is_nearly_as_good():
    sizes, errors = costs(3, 30, 4)
    exact, thinned = (pareto_assignments(sizes, errors, most=most) for most in (20_000, 200))
    assert len(thinned) < len(exact)
    for a in exact:
        others = [b.error for b in thinned if b.num_bytes <= a.num_bytes * 1.02]
        assert min(others) <= a.error * 1.1


def test_no_layer_has_one_empty_assignment():
    (only,) = pareto_assignments([], [])
    assert (only.num_bytes, only.error, only.choices) == (0, 0.0, ())
