"""The rows of `training_step.py` and their table."""

from __future__ import annotations

from common import Row, machine_line, markdown, quartiles
from step_plan import CONTROL, GROUPS, NETS, Group, Job

KEYS = ("group", "net", "variant")
# The variant of r2keras that the table shows with those of TFMOT.
OURS = "mse_8bit_per_channel"
HEADER = ["net", "variant", "", "quartiles", "goal", "met", "baseline", "ms"]


def rows_of(job: Job, figures: dict[str, list[float]], about: Row) -> list[Row]:
    """Returns one row per variant.

    Args:
        job: the job that was measured.
        figures: seconds of every variant and of the baseline, one per round.
        about: the machine.
    """
    return [_row(job, variant, figures[variant], figures[job.baseline], about) for variant in job.variants]


def table(rows: list[Row]) -> str:
    """Returns the rows as Markdown, one table per group, and the machines they come from."""
    parts = []
    for name, group in GROUPS.items():
        own = sorted((row for row in rows if row["group"] == name), key=lambda row: _position(row, group))
        if name == "tfmot" and own:
            own += [row for row in rows if row["variant"] == OURS]
        if own:
            header = [column or group.unit for column in HEADER]
            parts.append(f"### {group.title}\n\n" + markdown(header, [_cells(row) for row in own]))
    machines = dict.fromkeys(machine_line(row["machine"]) for row in rows)
    return "\n\n".join([*parts, *machines]) or "No rows yet."


def _row(job: Job, variant: str, own: list[float], base: list[float], about: Row) -> Row:
    """Returns the row of one variant."""
    group = GROUPS[job.group]
    values = own if group.unit == "seconds" else [a / b for a, b in zip(own, base, strict=True)]
    low, middle, high = quartiles(values)
    # A busy machine can only add to the time of an import, but it can change the ratio of two steps either way.
    value = min(values) if group.unit == "seconds" else middle
    return {
        "group": job.group,
        "net": job.net,
        "variant": variant,
        "baseline": job.baseline,
        "unit": group.unit,
        "value": round(value, 4),
        "lower_quartile": round(low, 4),
        "upper_quartile": round(high, 4),
        "goal": None if variant == CONTROL else group.goal,
        "seconds": round(quartiles(own)[1], 5),
        "baseline_seconds": round(quartiles(base)[1], 5),
        "batch_size": job.batch_size if job.net else None,
        "rounds": len(own),
        "steps": job.steps,
        "machine": about,
    }


def _cells(row: Row) -> list[str]:
    """Returns the cells of a row."""
    name = "the baseline again" if row["variant"] == CONTROL else row["variant"]
    goal = met = ""
    if row["goal"] is not None:
        goal = f"{row['goal']:.2f}"
        met = "yes" if row["value"] <= row["goal"] else "no"
    spread = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
    times = f"{1000 * row['seconds']:.0f} / {1000 * row['baseline_seconds']:.0f}"
    return [row["net"] or "-", name, f"{row['value']:.3f}", spread, goal, met, row["baseline"], times]


def _position(row: Row, group: Group) -> tuple[int, int]:
    """Returns the sort key of a row in the table of its group."""
    return list(NETS).index(row["net"]) if row["net"] else -1, (CONTROL, *group.variants).index(row["variant"])
