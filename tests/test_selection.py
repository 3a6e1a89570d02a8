"""Selection of the test cases that run on JAX and PyTorch."""

from types import SimpleNamespace

from tests.conftest import ONE_IN, is_kept


def kept(names):
    """Returns the names of the tests that would run."""
    seen = set()
    return [name for name in names if is_kept(SimpleNamespace(nodeid=name), seen)]


def test_the_first_case_of_every_test():
    names = [f"tests/test_a.py::test_{test}[{case}]" for test in range(40) for case in range(20)]
    found = kept(names)
    assert set(names[::20]) <= set(found) and kept(names) == found
    others = len(found) - 40
    assert 760 / ONE_IN * 0.7 < others < 760 / ONE_IN * 1.3


def test_the_cases_left_out_are_not_those_of_one_value():
    cases = ((bits, grid, seed) for bits in range(1, 9) for grid in range(9) for seed in range(3))
    names = [f"tests/test_a.py::test_b[{bits}-{grid}-{seed}]" for bits, grid, seed in cases]
    found = {tuple(name.partition("[")[2].rstrip("]").split("-")) for name in kept(names)}
    for place, size in ((0, 8), (1, 9), (2, 3)):
        assert len({case[place] for case in found}) >= size - 1


def test_tests_without_cases():
    assert len(kept(["tests/test_a.py::test_b", "tests/test_a.py::TestC::test_b"])) == 2
