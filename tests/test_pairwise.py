"""Pairwise selection of cases, and its use for the parameters of tests."""

import itertools
from types import SimpleNamespace

import pytest

from tests.conftest import without_repeated_pairs
from tests.pairwise import pairs_of, pairwise


@pytest.mark.parametrize("sizes", [(3, 3, 3), (8, 4, 3), (4, 4, 4, 4), (7, 2, 5)])
def test_every_pair_is_held_by_fewer_cases(sizes):
    cases = list(itertools.product(*map(range, sizes)))
    chosen = pairwise(cases)
    held = set().union(*(pairs_of(cases[i]) for i in chosen))
    assert held == set().union(*map(pairs_of, cases))
    first, second = sorted(sizes)[-2:]
    assert chosen[0] == 0 and first * second <= len(chosen) <= 1.5 * first * second < len(cases)
    assert pairwise(cases) == chosen


def test_pairs_that_no_case_holds_are_not_asked_for():
    cases = [case for case in itertools.product(range(4), range(3), range(2)) if case[0] + case[1] != 2]
    held = set().union(*(pairs_of(cases[i]) for i in pairwise(cases)))
    assert held == set().union(*map(pairs_of, cases))


@pytest.mark.parametrize("sizes", [(5,), (4, 3)])
def test_one_or_two_parameters_keep_all(sizes):
    cases = list(itertools.product(*map(range, sizes)))
    assert pairwise(cases) == list(range(len(cases)))
    assert pairwise([]) == []


class Item:
    """A test with values of its parameters."""

    def __init__(self, name, **groups):
        self.nodeid = f"{name}[{groups}]"
        self.groups = groups
        names = {name: value for names, values in groups.items() for name, value in zip(names, values, strict=True)}
        self.callspec = SimpleNamespace(params=names)

    def iter_markers(self, _):
        return [SimpleNamespace(args=[",".join(names)]) for names in self.groups]


def test_what_one_parametrize_sets_is_one_parameter():
    values = [[object() for _ in range(3)] for _ in range(4)]
    first, second, third, fourth = values
    items = [
        Item("test_a", ab=(a, b), c=(c,), d=(d,))
        for a, b in zip(first, second, strict=True)
        for c in third
        for d in fourth
    ]
    others = [Item("test_b", ab=(a, b), c=(c,)) for a, b in zip(first, second, strict=True) for c in third]
    plain = Item("test_c")
    kept = without_repeated_pairs([*items, *others, plain])
    assert kept[-10:] == [*others, plain]
    assert 9 <= len(kept) - 10 < 14 and kept[0] is items[0]
