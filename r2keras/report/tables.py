"""The table of results: one line per regularizer, method and bit width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from r2keras._util.tables import add_row, new_table, text_cell
from r2keras._util.text import bits, count, percent
from r2keras.report.groups import Group, float_baseline, group
from r2keras.report.stats import number_stat, percent_stat

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

RESULT_COLUMNS = ("regularizer", "method", "bits", "n", "float %", "Keras %", "file %", "bytes", "ms", "max/std")


def results_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Returns a rich table with one line per regularizer, method and bit width: mean ± spread over seeds.

    Accuracies are in percent and their spread is the sample standard deviation. `n` is the number of seeds, `bytes`
    the size of the largest file among them.

    Args:
        rows: result rows of one dataset and one model.

    Returns:
        A table for `rich.print`, or for `to_text` where color codes are not wanted.

    Raises:
        ValueError: no rows, or an invalid row.
        TypeError: a value has the wrong type.
        ImportError: rich is not installed.

    Example:

    >>> from r2keras.report import to_text
    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> next(line.split() for line in to_text(results_table([row])).splitlines() if "qat" in line)
    ['linf', 'qat', '2', '1', '98.00', '97.00', '97.00', '27,912', '0.200', '2.50']
    """
    groups = group(rows)
    table = new_table("", [(name, name not in ("regularizer", "method")) for name in RESULT_COLUMNS], foldable="%")
    previous = None
    for part in groups:
        if previous is not None and previous != part.regularizer:
            table.add_section()
        add_row(table, result_cells(part))
        previous = part.regularizer
    table.caption = _caption(groups)
    return table


def result_cells(part: Group) -> list[str]:
    """Returns the cells of one group, in the order of `RESULT_COLUMNS`."""
    accuracies = [percent_stat(part.stat(name)) for name in ("float_accuracy", "accuracy", "file_accuracy")]
    return [
        part.regularizer,
        part.method,
        bits(part.num_bits).split(" ")[0],
        str(len(part.rows)),
        *accuracies,
        count(part.file_bytes),
        number_stat(part.stat("latency_ms")),
        number_stat(part.stat("max_over_std")),
    ]


def _caption(groups: list[Group]) -> Text:
    """Returns the meaning of the spread and the baseline of the accuracies."""
    baseline = float_baseline(groups)
    has_spread = any(len(g.rows) > 1 for g in groups)
    spread = "mean \u00b1 sample standard deviation over n seeds" if has_spread else "one seed"
    return text_cell(f"{spread}\nfloat baseline {percent(baseline.accuracy.mean)}, regularizer {baseline.regularizer}")
