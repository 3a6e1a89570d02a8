"""Training steps of this tree against those of another checkout of r2keras, by turns in one run.

    git worktree add /tmp/before 7e44a2a
    python benchmarks/step_against.py --other=/tmp/before      # ten minutes on 2 cores; leave the machine alone

Two processes, one per tree, each build the ResNet-20 of `training_step.py` in every variant and then train by turns.
The table shows the median of this tree's seconds over the other's, and its quartiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import interleave, machine, markdown, quartiles
from r2keras.cli import common as cli

HERE = Path(__file__).resolve().parents[1]
# Runs in both trees: builds the variants, then trains the one that each line of its input names.
WORKER = """
import sys
import numpy as np
import keras_steps, step_plan
variants = sys.argv[1].split(",")
job = step_plan.jobs_of(["resnet20"], variants, 1, 1)[0]
generator = np.random.default_rng(0)
images = generator.normal(size=(job.batch_size, *job.image)).astype("float32")
labels = generator.integers(0, step_plan.NUM_CLASSES, job.batch_size)
steps = [keras_steps.training_step(keras_steps.build(job, name), images, labels) for name in (job.baseline, *variants)]
print("built", flush=True)
for line in sys.stdin:
    print(steps[int(line)](), flush=True)
"""

FLAGS = flags.FlagValues()
flags.DEFINE_string("other", None, "Root of the other checkout.", flag_values=FLAGS)
flags.DEFINE_list(
    "variants",
    ["mse_8bit_per_channel", "mse_2bit_per_channel", "mse_w8a8"],
    "Variants of training_step.py that both trees have.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("rounds", 20, "Rounds; each gives one ratio per variant.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("steps", 3, "Steps per variant and round.", lower_bound=1, flag_values=FLAGS)


class Tree:
    """A process that trains with the code of one checkout."""

    def __init__(self, root: Path, variants: list[str]):
        paths = os.pathsep.join([str(root), str(root / "benchmarks")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, ",".join(variants)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths},
        )
        self.read()

    def read(self) -> str:
        """Returns the next line of the process; raises RuntimeError if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A training process ended; its error is above. Do both trees have all --variants?")
        return line

    def train(self, number: int) -> None:
        """Trains one step of a variant, and waits for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        self.read()


def run(here: Path, other: Path, variants: list[str], rounds: int, steps: int) -> str:
    """Returns the table of the ratios of two trees."""
    trees = {"here": Tree(here, variants), "other": Tree(other, variants)}
    names = ["float", *variants]
    turns = {
        f"{tree} {name}": lambda tree=tree, number=number: trees[tree].train(number)
        for number, name in enumerate(names)
        for tree in trees
    }
    seconds = interleave(turns, rounds, steps)
    for tree in trees.values():
        tree.process.kill()
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[f"here {name}"], seconds[f"other {name}"], strict=True)]
        low, middle, high = quartiles(ratios)
        rows.append([name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
    about = machine()
    table = markdown(["variant", "here / other", "quartiles"], rows)
    return f"{table}\n\n{about['cpu']}, {about['cores']} cores, {about['date']}"


def main() -> int:
    other = Path(FLAGS.other).resolve()
    if not (other / "benchmarks" / "step_plan.py").is_file():
        raise ValueError(f"--other is {FLAGS.other}; expected the root of another checkout of r2keras")
    print(run(HERE, other, FLAGS.variants, FLAGS.rounds, FLAGS.steps))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main, required=["other"]))
