"""Pairwise selection: of a product of parameters, cases that hold every pair of values."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence


def pairs_of(case: Sequence[Hashable]) -> set[tuple]:
    """Returns the pairs of values of a case, each value with its position."""
    return set(itertools.combinations(enumerate(case), 2))


def pairwise(cases: Sequence[Sequence[Hashable]]) -> list[int]:
    """Returns the positions of cases that together hold every pair of values of all cases.

    The first case is one of them. Greedy, hence not always the least number, but the same on every run. With one or two
    parameters no case holds another's pair, so that all are returned.

    Args:
        cases: the values of each case, in one order of parameters.
    """
    if not cases or len(cases[0]) < 3:
        return list(range(len(cases)))
    pairs = [pairs_of(case) for case in cases]
    left, chosen = set().union(*pairs), []
    position = 0
    while left:
        chosen.append(position)
        left -= pairs[position]
        position = max(range(len(cases)), key=lambda i: (len(pairs[i] & left), -i))
    return sorted(chosen)
