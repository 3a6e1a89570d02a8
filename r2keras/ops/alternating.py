"""Alternating multi-bit codes: a tensor as a sum of a few sign tensors, each times a coefficient a row."""

from __future__ import annotations

import itertools

from keras import ops

ROUNDS = 2
# Below the pivot of any two sign tensors that differ: the second of two equal ones gets the coefficient 0.
SMALLEST = 1e-6


def alternating(x, num_bits, mean, rounds=ROUNDS):
    """Returns coefficients and signs with `x` near `sum_i a_i b_i`, `b_i` in {-1, +1}.

    Greedy start: `r = x`; `a_i = mean|r|`, `b_i = sign(r)`, `r = r - a_i b_i`. Then, by turns, the coefficients by
    least squares and every value's signs by the nearest of the `2^num_bits` sums.

    Args:
        x: float32 tensor.
        num_bits: how many sign tensors, 1 to 4.
        mean: `mean(t)` returns the mean of `t` over the values of `x` that share coefficients, so that it broadcasts
            against `x`.
        rounds: how often the two steps are repeated.

    Returns:
        `(coefficients, signs)`: lists of `num_bits` tensors; coefficients are not negative and descend.

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
        coefficients: tensors that broadcast against `x`, not negative, descending.

    Returns:
        A list of tensors of `x`'s shape, one a coefficient, of -1 and +1.

    Example:

    >>> signs = nearest_signs(ops.convert_to_tensor([-0.4, 2.5]), [2.0, 1.0])
    >>> [ops.convert_to_numpy(sign).tolist() for sign in signs]
    [[-1.0, 1.0], [1.0, 1.0]]

    Source: Xu et al., arXiv 1802.00150, section 3.2.
    """
    first, *rest = coefficients
    side, size = _sign(x), ops.abs(x)
    if not rest:
        return [side]
    if len(rest) == 1:
        return [side, side * _sign(size - first)]
    if len(rest) == 2:
        return [side * sign for sign in _three_signs(size, *coefficients)]
    best, found = None, None
    for others in itertools.product((1.0, -1.0), repeat=len(rest)):
        level = first + sum(sign * a for sign, a in zip(others, rest, strict=True))
        error = ops.abs(size - ops.abs(level))
        flip = _sign(level)
        candidate = [flip, *(flip * sign for sign in others)]
        if best is None:
            best, found = error, candidate
            continue
        closer = error < best
        best = ops.where(closer, error, best)
        found = [ops.where(closer, new, old) for new, old in zip(candidate, found, strict=True)]
    return [side * sign for sign in found]


def _three_signs(size, a, b, c):
    """Returns the nearest signs of magnitudes to three coefficients in descending order.

    The sums' magnitudes descend as `a+b+c`, `a+b-c`, `a-b+c`, `|a-b-c|`: halfway between them lie `a+b`, `a` and
    `max(a-b, c)`. Where `a < b+c` the last sum is the negative one, and all three signs turn.
    """
    upper = size >= a
    second = ops.where(upper, 1.0, -1.0)
    third = _sign(size - ops.where(upper, a + b, ops.maximum(a - b, c)))
    turned = ops.where(ops.logical_and(second + third < -1.0, a < b + c), -1.0, 1.0)
    return [turned, turned * second, turned * third]


def weighted_sum(coefficients, signs):
    """Returns `sum_i a_i b_i`, added up in order, so that equal signs give equal values bit for bit.

    Args:
        coefficients: tensors, or numbers.
        signs: as many tensors, or numbers.

    Example:

    >>> weighted_sum([2.0, 1.0], [1.0, -1.0])
    1.0
    """
    first, *rest = (a * b for a, b in zip(coefficients, signs, strict=True))
    for term in rest:
        first = first + term
    return first


def _greedy(x, num_bits, mean):
    """Returns the start: each coefficient fitted to what those before it leave."""
    coefficients, signs = [], []
    for _ in range(num_bits):
        coefficients.append(mean(ops.abs(x)))
        signs.append(_sign(x))
        x = x - coefficients[-1] * signs[-1]
    return coefficients, signs


def _least_squares(x, signs, mean):
    """Returns the coefficients with the least squared error for given signs: the normal equations, by elimination."""
    count = range(len(signs))
    rows = [[1.0 if i == j else None for j in count] for i in count]
    for i, j in itertools.combinations(count, 2):
        rows[i][j] = rows[j][i] = mean(signs[i] * signs[j])
    right = [mean(x * sign) for sign in signs]
    for i in count:
        rows[i][i] = ops.maximum(rows[i][i], SMALLEST)
        for j in range(i + 1, len(signs)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [below - factor * above for below, above in zip(rows[j], rows[i], strict=True)]
            right[j] = right[j] - factor * right[i]
    found = {}
    for i in reversed(count):
        found[i] = (right[i] - sum(rows[i][j] * found[j] for j in range(i + 1, len(signs)))) / rows[i][i]
    return [found[i] for i in count]


def _descending(coefficients):
    """Returns the magnitudes of coefficients in descending order; signs follow from `nearest_signs`."""
    found = [ops.abs(a) for a in coefficients]
    for last in range(len(found) - 1, 0, -1):
        for i in range(last):
            found[i], found[i + 1] = ops.maximum(found[i], found[i + 1]), ops.minimum(found[i], found[i + 1])
    return found


def _sign(x):
    """Returns +1 where `x >= 0`, else -1."""
    return ops.where(x >= 0, 1.0, -1.0)
