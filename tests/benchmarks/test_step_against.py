"""The comparison of training steps with another checkout: its table, and bad flags."""

import time

from benchmarks import step_against
from tests.scripts import run


class SlowTree:
    """A tree whose steps take 4 ms, or 1 ms if its root is "fast"."""

    def __init__(self, root, variants):
        self.seconds = 0.001 if root == "fast" else 0.004
        self.process = self
        self.killed = False

    def train(self, number):
        time.sleep(self.seconds)

    def kill(self):
        self.killed = True


def test_the_table_has_the_ratio_of_every_variant(monkeypatch):
    monkeypatch.setattr(step_against, "Tree", SlowTree)
    rows = step_against.run("slow", "fast", ["mse_w8a8"], rounds=3, steps=1).splitlines()[2:4]
    assert [row.split("|")[1].strip() for row in rows] == ["float", "mse_w8a8"]
    assert all(float(row.split("|")[2]) > 1.5 for row in rows)


def test_another_folder_is_refused(tmp_path):
    code, _, error = run("benchmarks/step_against.py", f"--other={tmp_path}")
    assert code == 2 and error.count("\n") == 1 and "another checkout" in error
