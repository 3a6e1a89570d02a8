"""Search for the assignment of bits to layers that meets the limits, on estimates first and on files then."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

from r2keras.automatic.assignment import Assignment
from r2keras.automatic.candidates import ADAROUND, QUICK, TRAINED, Candidates, Row, recipe_of
from r2keras.automatic.judge import Judge
from r2keras.automatic.options import Choice
from r2keras.automatic.settings import Settings
from r2keras.automatic.working_copy import WorkingCopy
from r2keras.specs import QuantSpec

# Assignments of the front that are looked at: each is larger than the one before by this factor at least.
SPACING = 1.01
# Files that the search for the smallest one makes with AdaRound.
MOST_FILES = 6
# A file this much larger than the largest that fails is small enough.
CLOSE = 1.02
# Assignments that a step passes over while all files are within the drop, or none is: 3 percent of the bytes.
FEWEST_STEPS = 3
# Each training is tried at this share of the bytes of the smallest file that needs none.
TRAINED_SHARES = (0.9, 0.8, 0.7)
# Files written for a byte limit, each with the prediction corrected by the one before.
MOST_TRIALS = 4


class Search:
    """Looks for the assignment that meets the limits.

    Args:
        choices: the layers and their options.
        front: the Pareto front of assignments, fewest bytes first.
        candidates: what makes files.
        copy: the float model in which estimates are made.
        judge: the samples that judge.
        say: called with what is being done.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        front: Sequence[Assignment],
        candidates: Candidates,
        copy: WorkingCopy,
        judge: Judge,
        say: Callable[[str], None],
    ) -> None:
        self.choices = choices
        self.front = spaced(front)
        self.candidates = candidates
        self.copy = copy
        self.judge = judge
        self.say = say
        self.settings: Settings = candidates.settings
        # Bytes of a file besides its kernels, as the last file had them.
        self.rest = 0
        self._estimates: dict[int, float] = {}
        self._has_others = candidates.has_others(choices)

    def uniform_rows(self) -> list[Row]:
        """Returns the candidates that give all layers the same bits, 8 in the first and last ones, without AdaRound."""
        rows = []
        for bits in self.settings.bits:
            picked = [self._index(choice, bits) for choice in self.choices]
            if bits < self.settings.bits[0] and len(picked) > 2:
                picked[0], picked[-1] = (self._index(self.choices[i], self.settings.bits[0]) for i in (0, -1))
            name = "uniform, 1 bit" if bits == 1 else f"uniform, {bits} bits"
            rows.append(self._row(name, QUICK, picked))
            self.rest = rows[-1]["bytes"] - self._bytes(picked)
        return rows

    def run(self) -> Row:
        """Returns the row of the best candidate: the smallest within the drop, or the most exact within the bytes."""
        if self.settings.max_drop is None:
            return self._within_bytes()
        if self.settings.max_bytes is not None:
            quick = self._at_most(self.settings.max_bytes, QUICK)
            if self._fits(quick):
                return quick
        best = self._smallest()
        if self.settings.train:
            best = self._smaller_by_training(best)
        return best

    def _within_bytes(self) -> Row:
        """Returns the candidate of the highest quality within the byte limit; the nearest one if none is within it."""
        limit = self.settings.max_bytes or 0
        rows = [self._at_most(limit, QUICK), self._at_most(limit, ADAROUND)]
        if self.settings.train:
            rows.append(self._at_most(limit, TRAINED))
        return best_of([*rows, *self.candidates.rows], self.settings)

    def _smallest(self) -> Row:
        """Returns the smallest candidate within the drop that AdaRound leads to; the nearest one if there is none."""
        allowed = self.settings.max_drop or 0.0
        low, high = -1, len(self.front)
        index = self._first_estimated(allowed)
        for _ in range(MOST_FILES):
            row = self._file(index, ADAROUND)
            if row["drop"] <= allowed + 1e-9:
                high = index
            else:
                low = index
            # Files are more exact than estimates, by about the same factor everywhere.
            factor = max(self._estimate(index), 1e-4) / max(row["drop"], allowed / 4, 1e-4)
            index = min(max(self._first_estimated(allowed * factor), low + 1), high - 1)
            if high - low < 2 or (low >= 0 and high < len(self.front) and self._are_close(low, high)):
                break
            index = self._far_enough(index, low, high)
        return best_of(self.candidates.rows, self.settings)

    def _far_enough(self, index: int, low: int, high: int) -> int:
        """Returns an assignment in steps that end soon: the middle of a failure and a success, else several on."""
        if low >= 0 and high < len(self.front):
            return (low + high) // 2 if index in (low + 1, high - 1) else index
        if high < len(self.front):
            return max(min(index, high - FEWEST_STEPS), 0)
        return min(max(index, low + FEWEST_STEPS), len(self.front) - 1)

    def _smaller_by_training(self, best: Row) -> Row:
        """Returns the smallest candidate within the limits after training at ever fewer bytes."""
        smallest = self.front[0].num_bytes + self.rest
        for share in TRAINED_SHARES:
            limit = int(best["bytes"] * share)
            if not self._fits(best) or best["bytes"] <= smallest or not self._fits(self._at_most(limit, TRAINED)):
                break
        if not self._fits(best):
            self._at_most(self.settings.max_bytes or best["bytes"], TRAINED)
        return best_of(self.candidates.rows, self.settings)

    def _at_most(self, limit: int, steps: str) -> Row:
        """Returns the candidate of least error whose file has at most so many bytes, or the smallest one."""
        row = None
        for _ in range(MOST_TRIALS):
            sizes = [assignment.num_bytes for assignment in self.front]
            index = max(bisect.bisect_right(sizes, limit - self.rest) - 1, 0)
            row = self._file(index, steps)
            if row["bytes"] <= limit or index == 0:
                break
        assert row is not None  # MOST_TRIALS is above 0.
        return row

    def _file(self, index: int, steps: str) -> Row:
        """Returns the candidate of one assignment of the front; notes the bytes that a file has besides its kernels."""
        assignment = self.front[index]
        row = self._row("mixed", steps, assignment.choices)
        self.rest = row["bytes"] - assignment.num_bytes
        return row

    def _row(self, name: str, steps: str, picked: Sequence[int]) -> Row:
        """Returns the candidate of an assignment."""
        self.say(f"{name}, {steps}: about {self._bytes(picked) + self.rest:,} bytes")
        recipe = recipe_of(self.choices, picked, self.settings, steps, has_others=self._has_others)
        return self.candidates.row(name, steps, recipe)

    def _bytes(self, picked: Sequence[int]) -> int:
        """Returns the bytes of the kernels under an assignment, about."""
        return sum(choice.options[i].num_bytes for choice, i in zip(self.choices, picked, strict=True))

    def _index(self, choice: Choice, bits: int) -> int:
        """Returns the index of a grid of some bits among the options of a layer."""
        specs = [option.spec for option in choice.options]
        return next(i for i, spec in enumerate(specs) if isinstance(spec, QuantSpec) and spec.num_bits == bits)

    def _fits(self, row: Row) -> bool:
        """Whether a row is within all limits."""
        return self.settings.allows(row["bytes"], row["drop"])

    def _are_close(self, low: int, high: int) -> bool:
        """Whether two assignments lead to files of nearly equal size."""
        sizes = [self.front[i].num_bytes + self.rest for i in (low, high)]
        return sizes[1] <= sizes[0] * CLOSE

    def _first_estimated(self, allowed: float) -> int:
        """Returns the first assignment whose estimated drop is allowed, by bisection; the last one if none is."""
        low, high = 0, len(self.front) - 1
        while low < high:
            middle = (low + high) // 2
            if self._estimate(middle) <= allowed:
                high = middle
            else:
                low = middle + 1
        return low

    def _estimate(self, index: int) -> float:
        """Returns the drop of an assignment with kernels that were rounded each by itself."""
        if index not in self._estimates:
            picked = self.front[index].choices
            self.copy.take_all(self.choices, picked)
            self._estimates[index] = self.judge.judge(self.copy.model).drop
            self.copy.restore_all(self.choices)
        return self._estimates[index]


def spaced(front: Sequence[Assignment]) -> list[Assignment]:
    """Returns assignments whose bytes differ by 1 percent at least; of those in between, the most exact.

    >>> front = [Assignment(size, 1.0 / size, ()) for size in (1000, 1001, 1002, 1200)]
    >>> [assignment.num_bytes for assignment in spaced(front)]
    [1002, 1200]
    """
    kept: list[Assignment] = []
    start = 0.0
    for assignment in front:
        if kept and assignment.num_bytes < start * SPACING:
            kept[-1] = assignment
        else:
            kept.append(assignment)
            start = assignment.num_bytes
    return kept


def best_of(rows: Sequence[Row], settings: Settings) -> Row:
    """Returns the best of some rows: within the limits if any is, else the nearest to them.

    Args:
        rows: at least one row.
        settings: the limits. With one on the drop, the fewest bytes are best; else the highest quality is.
    """
    compressed = [row for row in rows if row["recipe"] is not None] or list(rows)
    fitting = [row for row in compressed if settings.allows(row["bytes"], row["drop"])]
    if not fitting:
        return min(compressed, key=lambda row: settings.shortfall(row["bytes"], row["drop"]))
    if settings.max_drop is None:
        return max(fitting, key=lambda row: (row["quality"], -row["error"]))
    return min(fitting, key=lambda row: (row["bytes"], -row["quality"]))
