"""Alternating multi-bit codes: a tensor as a sum of a few sign tensors, each with one coefficient per row."""

from __future__ import annotations

import itertools

from keras import ops

# The paper's number of alternating rounds.
ROUNDS = 2
# Floor of a pivot in the elimination. It is below the pivots of sign tensors that differ; of two equal sign tensors,
# the second gets the coefficient 0.
MIN_PIVOT = 1e-6


def alternating(x, num_bits, mean, rounds=ROUNDS):
    """Returns coefficients `a_i` and signs `b_i` in {-1, +1} that approximate `x` by `sum_i a_i b_i`.

    Greedy start: `r = x`; `a_i = mean|r|`, `b_i = sign(r)`, `r = r - a_i b_i`. Then two steps alternate: coefficients
    by least squares for the signs, and for every value the signs of the nearest of the `2^num_bits` sums.

    Args:
        x: float32 tensor.
        num_bits: number of sign tensors, 1 to 4.
        mean: `mean(t)` returns the mean of `t` over the values of `x` that share coefficients, in a shape that
            broadcasts against `x`.
        rounds: number of times the two steps are repeated.

    Returns:
        `(coefficients, signs)`: lists of `num_bits` tensors. Coefficients are non-negative and in descending order.

    Example:

    >>> x = ops.convert_to_tensor([-3.0, -1.0, 1.0, 3.0])
    >>> coefficients, signs = alternating(x, 2, ops.mean)
    >>> [float(a) for a in coefficients]
    [2.0, 1.0]

    Source: Xu et al., arXiv 1802.00150, algorithms 1 and 2.
    """
    coefficients, signs = _greedy(x, num_bits, mean)
    for _ in range(rounds):
        coefficients = _descending(_least_squares(x, signs, mean))
        signs = nearest_signs(x, coefficients)
    return coefficients, signs


def nearest_signs(x, coefficients):
    """Returns the signs whose sum `sum_i a_i b_i` is nearest to each value.

    Args:
        x: float32 tensor.
        coefficients: tensors that broadcast against `x`, non-negative, in descending order.

    Returns:
        A list of tensors of `x`'s shape, one per coefficient, with values -1 and +1.

    Example:

    >>> signs = nearest_signs(ops.convert_to_tensor([-0.4, 2.5]), [2.0, 1.0])
    >>> [ops.convert_to_numpy(sign).tolist() for sign in signs]
    [[-1.0, 1.0], [1.0, 1.0]]

    Source: Xu et al., arXiv 1802.00150, section 3.2.
    """
    first, *rest = coefficients
    # The sums are symmetric around zero: the signs of |x|, times the sign of x, are the signs of x.
    x_sign, magnitude = _sign(x), ops.abs(x)
    if not rest:
        return [x_sign]
    if len(rest) == 1:
        return [x_sign, x_sign * _sign(magnitude - first)]
    if len(rest) == 2:
        return [x_sign * sign for sign in _three_signs(magnitude, *coefficients)]
    best_error, best_signs = None, None
    for rest_signs in itertools.product((1.0, -1.0), repeat=len(rest)):
        level = first + sum(sign * a for sign, a in zip(rest_signs, rest, strict=True))
        error = ops.abs(magnitude - ops.abs(level))
        level_sign = _sign(level)
        candidate = [level_sign, *(level_sign * sign for sign in rest_signs)]
        if best_error is None:
            best_error, best_signs = error, candidate
            continue
        closer = error < best_error
        best_error = ops.where(closer, error, best_error)
        best_signs = [ops.where(closer, new, old) for new, old in zip(candidate, best_signs, strict=True)]
    return [x_sign * sign for sign in best_signs]


def _three_signs(magnitude, a, b, c):
    """Returns the signs of the nearest sum of three descending coefficients, for non-negative values.

    The magnitudes of the sums descend as `a+b+c`, `a+b-c`, `a-b+c`, `|a-b-c|`; the midpoints between them are `a+b`,
    `a` and `max(a-b, c)`. Where `a < b+c`, the last sum is negative, so all three signs flip.
    """
    upper = magnitude >= a
    second = ops.where(upper, 1.0, -1.0)
    third = _sign(magnitude - ops.where(upper, a + b, ops.maximum(a - b, c)))
    flip = ops.where(ops.logical_and(second + third < -1.0, a < b + c), -1.0, 1.0)
    return [flip, flip * second, flip * third]


def weighted_sum(coefficients, signs):
    """Returns `sum_i a_i b_i`, added in order, so that equal signs give bit-identical values.

    Args:
        coefficients: tensors or numbers.
        signs: as many tensors or numbers.

    Example:

    >>> weighted_sum([2.0, 1.0], [1.0, -1.0])
    1.0
    """
    first, *rest = (a * b for a, b in zip(coefficients, signs, strict=True))
    for term in rest:
        first = first + term
    return first


def _greedy(x, num_bits, mean):
    """Returns the greedy start: each coefficient is fitted to the residual of those before it."""
    coefficients, signs = [], []
    residual = x
    for _ in range(num_bits):
        coefficients.append(mean(ops.abs(residual)))
        signs.append(_sign(residual))
        residual = residual - coefficients[-1] * signs[-1]
    return coefficients, signs


def _least_squares(x, signs, mean):
    """Returns the coefficients with the least squared error for given signs.

    Solves the normal equations by Gaussian elimination, written out because the entries are tensors, one value per row.
    """
    count = range(len(signs))
    rows = [[1.0 if i == j else None for j in count] for i in count]
    for i, j in itertools.combinations(count, 2):
        rows[i][j] = rows[j][i] = mean(signs[i] * signs[j])
    right = [mean(x * sign) for sign in signs]
    for i in count:
        rows[i][i] = ops.maximum(rows[i][i], MIN_PIVOT)
        for j in range(i + 1, len(signs)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [below - factor * above for below, above in zip(rows[j], rows[i], strict=True)]
            right[j] = right[j] - factor * right[i]
    solution = {}
    for i in reversed(count):
        solution[i] = (right[i] - sum(rows[i][j] * solution[j] for j in range(i + 1, len(signs)))) / rows[i][i]
    return [solution[i] for i in count]


def _descending(coefficients):
    """Returns the magnitudes of coefficients in descending order, row by row: a bubble sort of tensors."""
    ordered = [ops.abs(a) for a in coefficients]
    for last in range(len(ordered) - 1, 0, -1):
        for i in range(last):
            larger = ops.maximum(ordered[i], ordered[i + 1])
            smaller = ops.minimum(ordered[i], ordered[i + 1])
            ordered[i], ordered[i + 1] = larger, smaller
    return ordered


def _sign(x):
    """Returns +1 where `x >= 0`, else -1."""
    return ops.where(x >= 0, 1.0, -1.0)
