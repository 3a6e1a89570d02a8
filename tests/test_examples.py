"""Every example runs, small (`--smoke`), and writes only under `--out`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts import run

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
# What is run, and looked at more closely, in tests/examples.
ELSEWHERE = {"pilot": "test_pilot.py", "ptb_lstm": "test_ptb.py"}


def test_there_are_examples():
    assert set(ELSEWHERE) < set(EXAMPLES)
    for file in ELSEWHERE.values():
        text = (ROOT / "tests" / "examples" / file).read_text(encoding="utf-8")
        assert '"--smoke", f"--out={' in text and ".iterdir()) == [" in text


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ELSEWHERE])
def test_example_runs(name, tmp_path):
    code, out, error = run(f"examples/{name}.py", "--smoke", f"--out={tmp_path / 'out'}", cwd=tmp_path)
    assert code == 0, out[-2000:] + error[-4000:]
    assert [found.name for found in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir())
