"""Alternation of codes and scales: against every single change, least squares, and the paper's AdaRound."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import r2keras
from r2keras.calibration import AdaRoundOptions, adaround
from r2keras.calibration.rounding.coordinate_descent import DAMPING, KernelGrid, refine
from r2keras.calibration.rounding.moments import Moments
from tests.calibration.nets import chain, images, mean_square

SCALE = 0.7


@pytest.fixture
def problem():
    """Inputs with a drift and correlations, 5 weights, 3 outputs: `(inputs, float inputs, weights, moments)`."""
    random = np.random.default_rng(7)
    floats = random.normal(size=(300, 3)) @ random.normal(size=(3, 5)) + 0.1 * random.normal(size=(300, 5))
    inputs = floats + 0.1 * random.normal(size=floats.shape)
    weights = random.normal(size=(1, 5, 3))
    drift = (inputs - floats) @ weights[0]
    return inputs, floats, weights, Moments((inputs.T @ inputs)[None], (inputs.T @ drift)[None], None, rows=300)


def grid(least=-2, most=1, zero_point=-0.5) -> KernelGrid:
    """Four levels, none of them zero."""
    return KernelGrid(np.full((1, 5, 3), SCALE, np.float32), np.full((1, 5, 3), zero_point, np.float32), least, most)


def damped(problem, weights) -> np.ndarray:
    """Returns each output's squared error, and the damping's share, from the samples themselves."""
    inputs, floats, wanted, _ = problem
    size = DAMPING * np.mean(np.sum(inputs**2, axis=0))
    found = np.sum((inputs @ weights[0] - floats @ wanted[0]) ** 2, axis=0)
    return found + size * np.sum((weights - wanted)[0] ** 2, axis=0)


def test_no_change_of_one_code_is_better(problem):
    weights, moments = problem[2:]
    start = np.clip(np.rint(weights / SCALE - 0.5), -2, 1)
    codes, same = refine(weights, start, grid(), moments, None, rounds=20)
    found = damped(problem, same.values(codes))
    nearest = damped(problem, grid().values(start))
    for i, code in itertools.product(range(5), range(-2, 2)):
        other = codes.copy()
        other[0, i] = code
        assert (damped(problem, grid().values(other)) >= found * (1 - 1e-9)).all()
    assert (found <= nearest).all()
    assert (found < nearest).any()


@pytest.mark.parametrize("tensor", [False, True])
def test_scales_are_the_least_squares(problem, tensor, monkeypatch):
    inputs, floats, weights, moments = problem
    monkeypatch.setattr("r2keras.calibration.rounding.coordinate_descent.SWEEPS", 0)
    start = np.clip(np.rint(weights / SCALE - 0.5), -2, 1)

    def shared(matrix):
        return np.full(matrix.shape, matrix.sum()) if tensor else matrix.sum(1, keepdims=True) + 0 * matrix

    codes, found = refine(weights, start, grid(), moments, shared, rounds=1)
    np.testing.assert_array_equal(codes, start)
    root = np.sqrt(DAMPING * np.mean(np.sum(inputs**2, axis=0)))
    columns = np.concatenate([inputs @ (start[0] + 0.5), root * (start[0] + 0.5)])
    wanted = np.concatenate([floats @ weights[0], root * weights[0]])
    outputs = [slice(None)] if tensor else [slice(k, k + 1) for k in range(3)]
    for part in outputs:
        best = np.linalg.lstsq(columns[:, part].reshape(-1, 1), wanted[:, part].ravel(), rcond=None)[0]
        np.testing.assert_allclose(found.scale[0, :, part], best[0], rtol=1e-5)


def test_blocks_change_nothing(problem, monkeypatch):
    weights, moments = problem[2:]
    start, found = np.clip(np.rint(weights / SCALE - 0.5), -2, 1), []
    for block in (1, 2, 64):
        monkeypatch.setattr("r2keras.calibration.rounding.coordinate_descent.BLOCK", block)
        found.append(refine(weights, start, grid(), moments, None, rounds=1)[0])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[0] != start).any()


@pytest.mark.parametrize(("seen", "expected"), [((1.0, 0.0), [1, 1]), ((0.0, 0.0), [0, 3])])
def test_an_input_that_is_always_zero_is_rounded_to_nearest_and_without_any_input_codes_stay(seen, expected):
    weights, start = np.array([[[0.9], [0.8]]]), np.array([[[0.0], [3.0]]])
    moments = Moments(np.diag(seen)[None], np.zeros((1, 2, 1)), None, 1)
    codes, _ = refine(weights, start, grid_of(weights), moments, None, rounds=1)
    assert codes.ravel().tolist() == expected


def test_a_kernel_of_zeros_keeps_its_scale():
    weights, moments = np.zeros((1, 2, 1)), Moments(np.eye(2)[None], np.zeros((1, 2, 1)), None, 1)
    codes, found = refine(weights, weights, grid_of(weights), moments, lambda m: m.sum() + 0 * m, rounds=2)
    assert not codes.any()
    np.testing.assert_array_equal(found.scale, 1.0)


def grid_of(weights) -> KernelGrid:
    """A step of 1, 8 levels."""
    return KernelGrid(np.ones(weights.shape, np.float32), np.zeros(weights.shape, np.float32), -4, 3)


@pytest.mark.parametrize("more", [{}, {"granularity": "per_tensor"}, {"granularity": "per_group", "group_size": 3}])
def test_the_first_layer_comes_nearer_than_by_the_paper(more):
    model, data = chain(), images(64)
    recipe = r2keras.Recipe([("first|second", r2keras.QuantSpec(num_bits=2, **more))])
    small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    left = {}
    for rounds in (0, 5):
        options = AdaRoundOptions(iterations=200, rounds=rounds)
        better, after = adaround(model, small, record, data, options=options, progress=False)
        assert mean_square(better, model, data) < mean_square(small, model, data)
        left[rounds] = float(after.notes["first/kernel"].split()[3])
        for name, tensor in after.tensors.items():
            layer, _, variable = name.rpartition("/")
            value = keras.ops.convert_to_numpy(getattr(better.get_layer(layer), variable))
            np.testing.assert_array_equal(value, tensor.values())
            one_an_output = tensor.scale.size <= tensor.codes.shape[-1]
            assert (tensor.scale != record.tensors[name].scale).any() == (rounds > 0 and one_an_output)
    assert left[5] < left[0]
