"""Tables of `browser.py`."""

from __future__ import annotations

import collections

from benchmarks.browser_files import TIMED
from benchmarks.common import Row, machine_lines, markdown

# The lines of the first table, in their order; forms beside them follow.
ORDER = ("float", *(f"exact, W{bits}" for bits in (8, 4, 3, 2, 1)), "palette", "alternating", "expanded", "dynamic")
ENGINES = {"node": "Node", "chromium": "Chromium"}


def tables(rows: list[Row]) -> str:
    """Returns the tables: files by form, refusals, latency."""
    if not rows:
        return "No rows yet."
    run, timed = ([row for row in rows if (row["engine"] == "timed") == is_timed] for is_timed in (False, True))
    parts = []
    if run:
        parts = ["Files that pass, of those that run; the largest difference, as a share of the range.", by_form(run)]
        parts += ["Refused:", refusals(run)]
        versions = sorted({f"{ENGINES[row['engine']]}: {row['version']}" for row in run})
        parts += ["; ".join(versions) + "."]
    if timed:
        parts += ["Latency in Chromium, one thread.", latency(timed), machine_lines(timed, lambda row: row["net"])]
    return "\n\n".join(parts)


def by_form(rows: list[Row]) -> str:
    """Returns the table of forms: what ran, passed and differed in each engine."""
    found = dict.fromkeys(map(form_of, rows))
    forms = [*(form for form in ORDER if form in found), *(form for form in found if form not in ORDER)]
    cells = []
    for form in forms:
        line = [form]
        for engine in ENGINES:
            line.append(summary([row for row in rows if form_of(row) == form and row["engine"] == engine]))
        cells.append(line)
    return markdown(["files", *ENGINES.values()], cells)


def form_of(row: Row) -> str:
    """Returns the line that a row belongs to: its form, and the bits of its weights where they matter."""
    kind = row["weights"].partition(" ")[0]
    if row["weights"] == "float" and row["form"] == "exact":
        return "float"
    if row["form"].startswith("exact"):
        return kind if kind in ("palette", "alternating") else f"exact, {kind}"
    return row["form"]


def summary(rows: list[Row]) -> str:
    """Returns how many files passed, and the largest difference."""
    ran = [row for row in rows if "refused" not in row]
    if not rows:
        return ""
    if not ran:
        return f"{len(rows)} refused"
    text = f"{sum(row['passed'] for row in ran)}/{len(ran)}, {max(row['difference'] for row in ran):.1e}"
    return text if len(ran) == len(rows) else f"{text}, {len(rows) - len(ran)} refused"


def refusals(rows: list[Row]) -> str:
    """Returns what each engine refuses, with the number of files by form."""
    found: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in rows:
        if "refused" in row:
            found[ENGINES[row["engine"]], row["refused"]][row["form"]] += 1
    lines = []
    for (engine, reason), forms in sorted(found.items()):
        counts = ", ".join(f"{count} {form}" for form, count in forms.items())
        lines.append(f"- {engine}: `{reason}` ({counts})")
    return "\n".join(lines) or "- nothing"


def latency(rows: list[Row]) -> str:
    """Returns the table of latencies."""
    cells = []
    for row in rows:
        figures = [f"{row['ms']:.3f}", f"{row['p90_ms']:.3f}", f"{row['ratio']:.2f}"]
        cells.append([TIMED[row["net"]], row["form"], f"{row['bytes']:,}", *figures])
    return markdown(["net", "file", "bytes", "ms", "p90 ms", "times the first"], cells)
