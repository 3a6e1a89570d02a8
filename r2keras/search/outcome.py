"""What a search found: one row a candidate, the front of quality against bytes, what to take."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from r2keras._errors import invalid
from r2keras._files import atomic_write_text
from r2keras.report._format import count, number, percent, points, to_text
from r2keras.search.settings import FLOAT, Search
from r2keras.search.space import Candidate, Space
from r2keras.search.training import quality

# Optuna's words for how a trial ended, and ours.
STATES = {"COMPLETE": "complete", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "running"}
# Two values that differ by less are equal: limits are decimal fractions.
TOLERANCE = 1e-9

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The rows of a search; `print` it, `save` it, `plot` it.

    Args:
        search: what was searched.
        rows: one a candidate, controls first, then by bytes. The columns: `trial`, `label`, `method`, `num_bits`,
            `width`, `state` (complete, given up, failed, running), `epochs`, `seed`, `accuracy` or `perplexity`, `drop`
            (what is lost against the baseline), `bytes`, `container_bytes`, `counted`, `on_front`, `seconds`, `path`
            (the saved model), `reason`.
        over_budget: candidates left out because they take more than `max_bytes`.
        undefined: candidates left out because a method has no such number of bits.
        left: candidates that nobody has trained yet.

    Example:

    >>> search = Search(model="m.keras", data="x.npz", max_drop=0.01)
    >>> columns = {"state": "complete", "method": "float", "width": 1.0, "label": "float, width 1"}
    >>> row = {**columns, "accuracy": 0.98, "drop": 0.0, "bytes": 9000, "on_front": False}
    >>> small = {**row, "method": "ste", "label": "ste, 4 bits, width 1", "accuracy": 0.975, "drop": 0.005,
    ...          "bytes": 1500, "on_front": True, "path": None}
    >>> print(Outcome(search, (row, small), 0, 0, 0).text)
    Take ste, 4 bits, width 1: accuracy 97.50% in 1,500 bytes, 6.0 times smaller than float, width 1 (98.00%), 0.50 \
points below. Its own width as float has 98.00% in 9,000 bytes.
    """

    search: Search
    rows: tuple[Row, ...]
    over_budget: int
    undefined: int
    left: int

    @property
    def controls(self) -> list[Row]:
        """The float controls that are done, narrowest first."""
        return [row for row in self.rows if row["method"] == FLOAT and row["state"] == "complete"]

    @property
    def baseline(self) -> Row | None:
        """The float control of the smallest width; None until it is done."""
        return self.controls[0] if self.controls else None

    @property
    def front(self) -> list[Row]:
        """The compressed candidates that no other beats in bytes and quality both, smallest first."""
        return [row for row in self.rows if row["on_front"]]

    @property
    def chosen(self) -> Row | None:
        """What to take: the smallest that meets the limits; with `max_bytes` alone the best. None if none does."""
        search, baseline = self.search, self.baseline
        if baseline is None or (search.max_bytes is None and search.max_drop is None):
            return None
        if search.max_drop is None:
            fitting = [row for row in self.front if row["bytes"] <= search.max_bytes]
            return fitting[-1] if fitting else None
        good = [row for row in self.front if row["drop"] <= search.max_drop + TOLERANCE]
        return good[0] if good else None

    @property
    def text(self) -> str:
        """The recommendation in a few sentences, and how many candidates it is not about."""
        return " ".join([*self._recommendation(), *self._left_out()])

    def to_dict(self) -> dict[str, Any]:
        """Returns settings, rows and recommendation as plain JSON."""
        totals = {name: getattr(self, name) for name in ("over_budget", "undefined", "left")}
        labels = {"front": [row["label"] for row in self.front], "chosen": self.chosen and self.chosen["label"]}
        return {"settings": self.search.to_dict(), "rows": list(self.rows), **totals, **labels, "text": self.text}

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | os.PathLike) -> None:
        """Draws quality against bytes: the candidates, their front, and the widened float controls.

        Args:
            path: a file name ending in `.png` or `.svg`.

        Raises:
            ValueError: another suffix, or no finished candidate.
            OSError: the file cannot be written.
        """
        from r2keras.report.front import write_front

        if Path(path).suffix not in (".png", ".svg"):
            raise ValueError(invalid("path", "a file name ending in .png or .svg", str(path)))
        write_front(self, path)

    def value_text(self, value: float | None) -> str:
        """Returns a value of the metric: percent, or a perplexity."""
        return number(value) if self.search.metric == "perplexity" or value is None else percent(value)

    def __rich__(self) -> Any:
        from r2keras.report.tables import search_table

        return search_table(self)

    def __str__(self) -> str:
        return to_text(self)

    def _recommendation(self) -> list[str]:
        """Returns what to take, or why there is nothing."""
        if self.baseline is None or not self.front:
            return ["No candidate is done yet."]
        if self.search.max_bytes is None and self.search.max_drop is None:
            return ["Give max_bytes or max_drop for a recommendation."]
        if self.chosen is None:
            best = self.front[-1]
            return [
                f"Nothing measured meets the limits. The best within the budget is {best['label']}: "
                f"{self._figures(best)}, {self._against(best)}."
            ]
        return self._take(self.chosen)

    def _take(self, row: Row) -> list[str]:
        """Returns the sentences on the chosen row, with the control of its width."""
        base = self.baseline
        times = f"{base['bytes'] / row['bytes']:.1f} times smaller than {base['label']}"
        against = f"{times} ({self.value_text(base[self.search.metric])}), {self._against(row)}"
        taken = [f"Take {row['label']}: {self.search.metric} {self._figures(row)}, {against}."]
        control = next((c for c in self.controls if c["width"] == row["width"]), None)
        taken += [] if control is None else [f"Its own width as float has {self._figures(control)}."]
        return taken + ([f"The model is {row['path']}."] if row["path"] else [])

    def _against(self, row: Row) -> str:
        """Returns how far a row lies from the baseline."""
        drop = row["drop"]
        if self.search.metric == "perplexity":
            return f"{percent(abs(drop))} {'above' if drop > 0 else 'below'} its perplexity"
        return f"{points(abs(drop))} {'below' if drop >= 0 else 'above'}"

    def _figures(self, row: Row) -> str:
        return f"{self.value_text(row[self.search.metric])} in {count(row['bytes'])} bytes"

    def _left_out(self) -> list[str]:
        """Returns how many candidates were not trained, and why."""
        given_up = sum(row["state"] == "given up" for row in self.rows)
        failed = sum(row["state"] == "failed" for row in self.rows)
        parts = [
            (self.over_budget, "over the budget"),
            (self.undefined, "of bits that the method does not have"),
            (given_up, "given up early"),
            (failed, "failed"),
            (self.left, "not trained yet"),
        ]
        told = [f"{number_of} {why}" for number_of, why in parts if number_of]
        return [f"Candidates without a result: {', '.join(told)}."] if told else []


def outcome_of(study: Any, search: Search, space: Space, folder: str | os.PathLike) -> Outcome:
    """Returns what the study in a folder knows."""
    trials = {}
    for trial in study.get_trials(deepcopy=False):
        candidate = space.find(trial.params)
        live = trial.state.name != "FAIL" or "failed" in trial.user_attrs
        if candidate is not None and live and "label" in trial.user_attrs:
            trials[candidate] = trial
    rows = [_row(search, candidate, trial, Path(folder)) for candidate, trial in trials.items()]
    rows.sort(key=lambda row: (row["method"] != FLOAT, row["width"] if row["method"] == FLOAT else row["bytes"]))
    _compare(search, rows)
    return Outcome(search, tuple(rows), space.over_budget, space.undefined, len(space.candidates) - len(trials))


def _row(search: Search, candidate: Candidate, trial: Any, folder: Path) -> Row:
    """Returns the row of one trial."""
    known = trial.user_attrs
    saved = folder / known["model"] if known.get("model") else None
    given_up = f"{known['given_up']} was ahead" if "given_up" in known else ""
    return {
        "trial": trial.number,
        "label": candidate.label,
        **candidate.params,
        "state": STATES[trial.state.name],
        "epochs": len(known.get("values", [])),
        "seed": search.seed,
        search.metric: known.get("value"),
        "drop": None,
        "bytes": candidate.bytes,
        "container_bytes": candidate.container_bytes,
        "counted": candidate.counted,
        "on_front": False,
        "seconds": known.get("seconds"),
        "path": str(saved) if saved is not None and saved.exists() else None,
        "reason": known.get("failed", given_up),
        "values": known.get("values", []),
    }


def _compare(search: Search, rows: list[Row]) -> None:
    """Fills in what depends on other rows: the loss against the baseline, and the front."""
    done = [row for row in rows if row["state"] == "complete"]
    base = next((row[search.metric] for row in done if row["method"] == FLOAT), None)
    best = float("-inf")
    for row in sorted(done, key=lambda row: (row["bytes"], -quality(search.metric, row[search.metric]))):
        value = row[search.metric]
        if base is not None:
            row["drop"] = value / base - 1 if search.metric == "perplexity" else base - value
        if row["method"] != FLOAT and quality(search.metric, value) > best:
            best, row["on_front"] = quality(search.metric, value), True
