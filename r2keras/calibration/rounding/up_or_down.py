"""AdaRound's choice of the weights of one kernel to round up, by optimization in NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras._util.errors import invalid
from r2keras._util.numeric import as_int, as_number, is_finite
from r2keras.calibration.rounding.moments import Moments

# The ends of the stretched sigmoid `h`, from the paper.
GAMMA, ZETA = -0.1, 1.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaRoundOptions:
    """Settings of AdaRound's optimization of a kernel.

    Args:
        iterations: Adam steps per kernel, at least 1.
        learning_rate: the learning rate of Adam, above 0.
        factor: the weight of the term that drives `h` to 0 or 1, above 0. The output error is measured relative to the
            error of nearest rounding per weight, so that one factor suits layers of any scale. (The paper's 0.01 is in
            units of the outputs.)
        warm_up: the share of the iterations without that term, in `[0, 1)`.
        beta: the exponent of that term after the warm-up and at the end.
        rounds: rounds of refinement of scales and codes afterwards (`coordinate_descent.refine`), at least 0; 0 gives
            the paper's AdaRound.

    Raises:
        ValueError: a number out of range.

    Example:

    >>> AdaRoundOptions(iterations=100).beta_at(20)
    20.0
    """

    iterations: int = 1000
    learning_rate: float = 0.05
    factor: float = 10.0
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, minimum in (("iterations", 1), ("rounds", 0)):
            value = as_int(getattr(self, name))
            if value is None or value < minimum:
                raise ValueError(invalid(name, f"an integer of at least {minimum}", getattr(self, name)))
            object.__setattr__(self, name, value)
        for name in ("learning_rate", "factor"):
            number = as_number(getattr(self, name))
            if number is None or not is_finite(number) or number <= 0:
                raise ValueError(invalid(name, "a positive number", getattr(self, name)))
            object.__setattr__(self, name, number)
        share = as_number(self.warm_up)
        if share is None or not 0 <= share < 1:
            raise ValueError(invalid("warm_up", "a number from 0 to below 1", self.warm_up))
        object.__setattr__(self, "warm_up", share)
        object.__setattr__(self, "beta", _checked_beta(self.beta))

    def beta_at(self, step: int) -> float | None:
        """Returns the exponent at a step; None during the warm-up."""
        progress = step / self.iterations
        if progress < self.warm_up:
            return None
        start, end = self.beta
        return start + (end - start) * (progress - self.warm_up) / (1 - self.warm_up)


def _checked_beta(beta: object) -> tuple[float, float]:
    """Returns the two exponents as plain numbers, or raises ValueError."""
    numbers = [as_number(value) for value in beta] if isinstance(beta, (tuple, list)) else []
    exponents = tuple(number for number in numbers if number is not None and is_finite(number) and number > 0)
    if len(numbers) != 2 or len(exponents) != 2:
        raise ValueError(invalid("beta", "two numbers above 0", beta))
    return exponents


def optimize(
    weights: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    start: np.ndarray,
    moments: Moments,
    options: AdaRoundOptions,
) -> np.ndarray:
    """Returns a mask of the weights of a matrix to round up.

    `h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)` starts at `start`. With `E = low + (high - low) h - weights`, Adam
    minimizes `fan_in * mse(E) / mse(nearest) + factor * sum(1 - |2h - 1|^beta)` for each output.

    Args:
        weights: the float matrix, (groups, fan_in, outputs).
        low: the weights rounded down.
        high: the weights rounded up; equal to `low` at the end of the grid.
        start: the position of each weight between the two, 0 to 1; nearest rounding rounds up from 0.5.
        moments: the second moments of the layer's inputs.
        options: settings of the optimization.

    Returns:
        Booleans of the matrix' shape. Each output's error on the calibration data is at most that of nearest rounding.

    Example:

    >>> moments = Moments(np.ones((1, 2, 2)), np.zeros((1, 2, 1)), np.zeros((1, 1, 1)), 1)
    >>> weights = np.array([[[0.4], [0.3]]], "float32")
    >>> optimize(weights, 0 * weights, 0 * weights + 1, weights, moments, AdaRoundOptions()).ravel().tolist()
    [True, False]

    Source: Nagel et al., arXiv 2004.10568, section 3.3.
    """
    problem = _Problem.of(weights, low, high, start, moments)
    nearest = start >= 0.5
    learned = _descend(problem, start, options) >= 0.5
    learned_error = moments.error(_errors(weights, low, high, learned))
    nearest_error = moments.error(_errors(weights, low, high, nearest))
    return np.where(learned_error > nearest_error, nearest, learned)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The output error as a quadratic form of `h`, relative to the error of nearest rounding.

    Args:
        inner: the mean second moments, (groups, fan_in, fan_in).
        linear: the linear coefficients, (groups, fan_in, outputs).
        span: the step between the two values of each weight, likewise.
        scale: the factor of the quadratic term, (groups, 1, outputs).
    """

    inner: np.ndarray
    linear: np.ndarray
    span: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(
        cls, weights: np.ndarray, low: np.ndarray, high: np.ndarray, start: np.ndarray, moments: Moments
    ) -> _Problem:
        """Returns the problem of a matrix; outputs without error under nearest rounding have zero weight."""
        inner = moments.inner / max(moments.rows, 1)
        nearest = _errors(weights, low, high, start >= 0.5)
        unit = (nearest * (inner @ nearest)).sum(axis=1, keepdims=True) / weights.shape[1]
        scale = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 1e-30)
        cross = moments.cross / max(moments.rows, 1)
        span = (high - low).astype(np.float32)
        # The gradient to h is 2 span scale (inner E + cross); `linear` has the part that does not depend on h.
        linear = 2 * scale * (inner @ (low - weights).astype(np.float64) + cross)
        return cls(inner.astype(np.float32), linear.astype(np.float32), span, (2 * scale).astype(np.float32))

    def gradient(self, h: np.ndarray) -> np.ndarray:
        """Returns the gradient of the output error with respect to `h`."""
        return self.span * (self.scale * (self.inner @ (self.span * h)) + self.linear)


def _errors(weights: np.ndarray, low: np.ndarray, high: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Returns `W_q - W` in float64."""
    return np.where(up, high, low).astype(np.float64) - weights


def _descend(problem: _Problem, start: np.ndarray, options: AdaRoundOptions) -> np.ndarray:
    """Runs Adam and returns the last `h`."""
    share = np.clip((start - GAMMA) / (ZETA - GAMMA), 1e-4, 1 - 1e-4).astype(np.float32)
    v = np.log(share / (1 - share))
    # Adam's moments, with its usual decay rates of 0.9 and 0.999.
    first = np.zeros_like(v)
    second = np.zeros_like(v)
    for step in range(options.iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        h = np.clip((ZETA - GAMMA) * sigmoid + GAMMA, 0, 1)
        gradient = problem.gradient(h)
        beta = options.beta_at(step)
        if beta is not None:
            centered = 2 * h - 1
            gradient -= 2 * options.factor * beta * np.sign(centered) * np.abs(centered) ** (beta - 1)
        gradient *= (ZETA - GAMMA) * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1))
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        rate = options.learning_rate * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        v -= np.float32(rate) * first / (np.sqrt(second) + 1e-8)
    return np.clip((ZETA - GAMMA) / (1 + np.exp(-v)) + GAMMA, 0, 1)
