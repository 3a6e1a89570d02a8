"""The noise of measured accuracies: how much a finite test set and a few seeds leave open."""

from __future__ import annotations

import math

from r2keras.report.stats import Stat

# Two-sided 95% of the normal distribution.
Z = 1.96


def binomial_interval(accuracy: float, samples: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of an accuracy measured on a number of samples.

    Args:
        accuracy: the share of correct decisions.
        samples: the number of samples of the test set.

    Returns:
        The lower and the upper end, fractions from 0 to 1.

    Example:

    >>> [round(end, 3) for end in binomial_interval(0.98, 500)]
    [0.964, 0.989]

    Source: Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927).
    """
    spread = Z**2 / samples
    center = (accuracy + spread / 2) / (1 + spread)
    half = Z * math.sqrt(accuracy * (1 - accuracy) / samples + spread / (4 * samples)) / (1 + spread)
    # Rounding must not exclude the accuracy itself where it is 0 or 1.
    return max(0.0, min(center - half, accuracy)), min(1.0, max(center + half, accuracy))


def difference_noise(first: Stat, second: Stat, samples: int | None) -> float | None:
    """Returns half the width of the 95% interval of the difference of two accuracies.

    The variance is that of both means over seeds, plus that of two proportions of the test set (Agresti and Caffo,
    2000: one more success and one more failure each). Both accuracies are treated as independent; as they are measured
    on the same samples, the interval is rather too wide.

    Args:
        first: mean and spread of one accuracy over seeds.
        second: those of the other.
        samples: the number of samples of the test set; None if it is not known.

    Returns:
        The half width as a fraction; None if neither the samples nor a spread over seeds are known.

    Example:

    >>> round(difference_noise(Stat(0.98, 0.002, 3), Stat(0.97, 0.003, 3), 500), 4)
    0.0204
    """
    known = [stat.std**2 / stat.n for stat in (first, second) if stat.std is not None]
    if not known and samples is None:
        return None
    variance = math.fsum(known)
    if samples is not None:
        variance += _proportion_variance(first.mean, samples) + _proportion_variance(second.mean, samples)
    return Z * math.sqrt(variance)


def _proportion_variance(accuracy: float, samples: int) -> float:
    """Returns the variance of a measured accuracy, with one more success and one more failure."""
    adjusted = (accuracy * samples + 1) / (samples + 2)
    return adjusted * (1 - adjusted) / (samples + 2)
