"""The benchmark of the Penn Treebank example's step: a small run. No figure is judged."""

import pytest

from tests.scripts import run


@pytest.mark.slow
def test_small_run():
    flags = ("--words=60", "--units=4", "--length=3", "--rounds=1", "--repeats=1", "--processor_time")
    code, out, error = run("benchmarks/ptb_step.py", *flags)
    assert code == 0, error[-4000:]
    lines = out.splitlines()
    assert lines[0] == "| step | processor ms | words per second |" and len(lines) == 9
    assert lines[2].startswith("| Keras, ") and "cores" in lines[-1]
