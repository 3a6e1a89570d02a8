"""Result of a search: one row per candidate, the Pareto front of quality against bytes, the recommendation."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid
from r2keras._util.files import atomic_write_text
from r2keras._util.tables import add_row, new_table, text_cell
from r2keras._util.text import DASH, count, number, percent, points
from r2keras.search.plot import write_front
from r2keras.search.settings import FLOAT, Search
from r2keras.search.space import Candidate, Space
from r2keras.search.training import quality

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.table import Table

# The states of Optuna's trials, and those of the rows.
STATES = {"COMPLETE": "complete", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "running"}
# Values that differ by less count as equal: limits are decimal fractions, which are not exact in binary.
EQUAL_QUALITY = 1e-9

CandidateRow = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome(Tabular):
    """The rows of a search; `print` shows them as a table.

    Args:
        search: the settings of the search.
        rows: one row per candidate, controls first, then by bytes. The columns are `trial`, `label`, `method`,
            `num_bits`, `width`, `state` (complete, given up, failed, running), `epochs`, `seed`, `accuracy` or
            `perplexity`, `drop` (loss of quality relative to the baseline), `bytes`, `container_bytes`, `counted`,
            `on_front`, `seconds`, `path` (the saved model), `reason` and `values` (the metric after each epoch).
        over_budget: number of candidates left out because they exceed `max_bytes`.
        undefined: number of candidates left out because the method does not support the bit width.
        left: number of candidates not trained yet.

    Example:

    >>> search = Search(model="m.keras", data="x.npz", max_drop=0.01)
    >>> columns = {"state": "complete", "method": "float", "width": 1.0, "label": "float, width 1"}
    >>> row = {**columns, "accuracy": 0.98, "drop": 0.0, "bytes": 9000, "on_front": False}
    >>> small = {**row, "method": "ste", "label": "ste, 4 bits, width 1", "accuracy": 0.975, "drop": 0.005,
    ...          "bytes": 1500, "on_front": True, "path": None}
    >>> print(Outcome(search, (row, small), 0, 0, 0).text)
    Use ste, 4 bits, width 1: accuracy 97.50% in 1,500 bytes, 6.0 times smaller than float, width 1 (98.00%), 0.50 \
points below. The float model of the same width has 98.00% in 9,000 bytes.
    """

    search: Search
    rows: tuple[CandidateRow, ...]
    over_budget: int
    undefined: int
    left: int

    @property
    def controls(self) -> list[CandidateRow]:
        """The finished float controls, narrowest first."""
        return [row for row in self.rows if row["method"] == FLOAT and row["state"] == "complete"]

    @property
    def baseline(self) -> CandidateRow | None:
        """The finished float control of the smallest width; None if no control is finished."""
        return self.controls[0] if self.controls else None

    @property
    def front(self) -> list[CandidateRow]:
        """The Pareto front: compressed candidates that no other one beats in bytes and quality, smallest first."""
        return [row for row in self.rows if row["on_front"]]

    @property
    def chosen(self) -> CandidateRow | None:
        """The smallest candidate within the limits, or the best one if only `max_bytes` is set; None if none fits."""
        search, baseline = self.search, self.baseline
        if baseline is None or (search.max_bytes is None and search.max_drop is None):
            return None
        if search.max_drop is None:
            fitting = [row for row in self.front if row["bytes"] <= search.max_bytes]
            return fitting[-1] if fitting else None
        fitting = [row for row in self.front if row["drop"] <= search.max_drop + EQUAL_QUALITY]
        return fitting[0] if fitting else None

    @property
    def text(self) -> str:
        """The recommendation in a few sentences, and the number of candidates without a result."""
        return " ".join([*self._recommendation(), *self._left_out()])

    def to_dict(self) -> dict[str, Any]:
        """Returns settings, rows and recommendation as plain JSON."""
        return {
            "settings": self.search.to_dict(),
            "rows": list(self.rows),
            "over_budget": self.over_budget,
            "undefined": self.undefined,
            "left": self.left,
            "front": [row["label"] for row in self.front],
            "chosen": None if self.chosen is None else self.chosen["label"],
            "text": self.text,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON. The write is atomic.

        Raises:
            OSError: the file cannot be written.
        """
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | os.PathLike) -> None:
        """Draws quality against bytes: the candidates, their Pareto front, and the widened float controls.

        Args:
            path: a file name ending in `.png` or `.svg`.

        Raises:
            ValueError: `path` has another suffix, or no candidate is finished.
            ImportError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        if Path(path).suffix not in (".png", ".svg"):
            raise ValueError(invalid("path", "a file name ending in .png or .svg", str(path)))
        write_front(self, path)

    def value_text(self, value: float | None) -> str:
        """Returns a value of the metric as text: accuracy in percent, perplexity as a number."""
        return number(value) if self.search.metric == "perplexity" or value is None else percent(value)

    def __rich__(self) -> Table:
        return search_table(self)

    def _recommendation(self) -> list[str]:
        """Returns the recommended candidate, or why there is none."""
        if self.baseline is None or not self.front:
            return ["No candidate is finished yet."]
        if self.search.max_bytes is None and self.search.max_drop is None:
            return ["Set max_bytes or max_drop to get a recommendation."]
        if self.chosen is None:
            best = self.front[-1]
            return [
                f"No result meets the limits. The best candidate within the budget is {best['label']}: "
                f"{self._figures(best)}, {self._drop_text(best)}."
            ]
        return self._recommended(self.chosen, self.baseline)

    def _recommended(self, row: CandidateRow, base: CandidateRow) -> list[str]:
        """Returns the sentences on the recommended row, compared with a float row, and on the control of its width."""
        ratio = f"{base['bytes'] / row['bytes']:.1f} times smaller than {base['label']}"
        comparison = f"{ratio} ({self.value_text(base[self.search.metric])}), {self._drop_text(row)}"
        sentences = [f"Use {row['label']}: {self.search.metric} {self._figures(row)}, {comparison}."]
        control = next((c for c in self.controls if c["width"] == row["width"]), None)
        if control is not None:
            sentences.append(f"The float model of the same width has {self._figures(control)}.")
        if row["path"]:
            sentences.append(f"The model is saved as {row['path']}.")
        return sentences

    def _drop_text(self, row: CandidateRow) -> str:
        """Returns the distance of a row from the baseline."""
        drop = row["drop"]
        if self.search.metric == "perplexity":
            return f"{percent(abs(drop))} {'above' if drop > 0 else 'below'} its perplexity"
        return f"{points(abs(drop))} {'below' if drop >= 0 else 'above'}"

    def _figures(self, row: CandidateRow) -> str:
        """Returns quality and bytes of a row."""
        return f"{self.value_text(row[self.search.metric])} in {count(row['bytes'])} bytes"

    def _left_out(self) -> list[str]:
        """Returns the number of candidates without a result, by reason."""
        given_up = sum(row["state"] == "given up" for row in self.rows)
        failed = sum(row["state"] == "failed" for row in self.rows)
        counts = [
            (self.over_budget, "over the budget"),
            (self.undefined, "with bits that the method does not support"),
            (given_up, "stopped early"),
            (failed, "failed"),
            (self.left, "not trained yet"),
        ]
        parts = [f"{num_candidates} {reason}" for num_candidates, reason in counts if num_candidates]
        return [f"Candidates without a result: {', '.join(parts)}."] if parts else []


def search_table(outcome: Outcome) -> Table:
    """Returns the candidates as a rich table, controls first, with the recommendation as its caption."""
    metric = outcome.search.metric
    columns = [("candidate", False), ("epochs", True), (metric, True), ("drop", True), ("bytes", True)]
    table = new_table("", [*columns, ("status", False)])
    unit = "%" if metric == "perplexity" else ""
    for row in outcome.rows:
        drop = DASH if row["drop"] is None else f"{100 * row['drop']:.2f}{unit}"
        value = outcome.value_text(row[metric])
        add_row(table, [row["label"], str(row["epochs"]), value, drop, count(row["bytes"]), _status(row)])
    table.caption = text_cell(outcome.text)
    return table


def _status(row: CandidateRow) -> str:
    """Returns whether a candidate is on the Pareto front, or why it has no result."""
    if row["on_front"]:
        return "Pareto front"
    if row["state"] == "complete":
        return ""
    state = "stopped early" if row["state"] == "given up" else row["state"]
    return f"{state}: {row['reason']}" if row["reason"] else state


def outcome_of(study: Study, search: Search, space: Space, folder: str | os.PathLike) -> Outcome:
    """Returns the outcome of the study in a folder so far."""
    trials = {}
    for trial in study.get_trials(deepcopy=False):
        candidate = space.find(trial.params)
        # Trials that were released without a reason do not count: their candidate is open again.
        counts = trial.state.name != "FAIL" or "failed" in trial.user_attrs
        if candidate is not None and counts and "label" in trial.user_attrs:
            trials[candidate] = trial
    rows = [_row(search, candidate, trial, Path(folder)) for candidate, trial in trials.items()]
    rows.sort(key=lambda row: (row["method"] != FLOAT, row["width"] if row["method"] == FLOAT else row["bytes"]))
    _compare(search, rows)
    return Outcome(search, tuple(rows), space.over_budget, space.undefined, len(space.candidates) - len(trials))


def _row(search: Search, candidate: Candidate, trial: FrozenTrial, folder: Path) -> CandidateRow:
    """Returns the row of one trial."""
    attributes = trial.user_attrs
    saved = folder / attributes["model"] if attributes.get("model") else None
    given_up = f"{attributes['given_up']} was ahead" if "given_up" in attributes else ""
    return {
        "trial": trial.number,
        "label": candidate.label,
        **candidate.params,
        "state": STATES[trial.state.name],
        "epochs": len(attributes.get("values", [])),
        "seed": search.seed,
        search.metric: attributes.get("value"),
        "drop": None,
        "bytes": candidate.bytes,
        "container_bytes": candidate.container_bytes,
        "counted": candidate.counted,
        "on_front": False,
        "seconds": attributes.get("seconds"),
        "path": str(saved) if saved is not None and saved.exists() else None,
        "reason": attributes.get("failed", given_up),
        "values": attributes.get("values", []),
    }


def _compare(search: Search, rows: list[CandidateRow]) -> None:
    """Sets the columns that depend on other rows: `drop` and `on_front`."""
    done = [row for row in rows if row["state"] == "complete"]
    base = next((row[search.metric] for row in done if row["method"] == FLOAT), None)
    best = float("-inf")
    for row in sorted(done, key=lambda row: (row["bytes"], -quality(search.metric, row[search.metric]))):
        value = row[search.metric]
        if base is not None:
            row["drop"] = value / base - 1 if search.metric == "perplexity" else base - value
        if row["method"] != FLOAT and quality(search.metric, value) > best:
            best = quality(search.metric, value)
            row["on_front"] = True
