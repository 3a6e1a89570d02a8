"""The recommendation as the HTML page shows it: heading, four figures, sentences and the link to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2keras._util.text import MIN_FLOAT_BITS, count, number, percent, points
from r2keras.report.groups import Group, device_of
from r2keras.report.noise import binomial_interval
from r2keras.report.page_results import link
from r2keras.report.recommendation import Recommendation, slowdown_text

Fact = tuple[str, str, str]


def recommendation_context(
    recommendation: Recommendation | None, groups: list[Group], page: Path
) -> dict[str, Any] | None:
    """Returns heading, sentences, link and, if a group was chosen, four figures of it: name, value and a remark."""
    if recommendation is None:
        return None
    part = recommendation.chosen
    context = {"found": part is not None, "limits": recommendation.limits, "file": None, "facts": []}
    if part is None:
        # The first sentence says the same as the heading.
        return context | {"heading": "No result meets the limits", "sentences": recommendation.sentences[1:]}
    return context | {
        "heading": f"Recommended: {part.label}",
        "facts": [_size(part, groups), _accuracy(part), _loss(recommendation, part), *_latency(recommendation, part)],
        "sentences": recommendation.sentences,
        "file": link(recommendation.path, page),
    }


def _size(part: Group, groups: list[Group]) -> Fact:
    """Returns the bytes, and how much smaller than the float file they are."""
    floats = [g.file_bytes for g in groups if g.num_bits >= MIN_FLOAT_BITS and g.file_bytes]
    smaller = f"{max(floats) / (part.file_bytes or 1):.1f}x smaller than float" if floats and part.file_bytes else ""
    return "bytes in the file", count(part.file_bytes), "" if part.num_bits >= MIN_FLOAT_BITS else smaller


def _accuracy(part: Group) -> Fact:
    """Returns the accuracy with the binomial interval of its test set."""
    if part.test_samples is None:
        return "accuracy", percent(part.score.mean), ""
    low, high = binomial_interval(part.score.mean, part.test_samples)
    interval = f"95% interval of {count(part.test_samples)} samples: {100 * low:.1f} to {100 * high:.1f}"
    return "test accuracy", percent(part.score.mean), interval


def _loss(recommendation: Recommendation, part: Group) -> Fact:
    """Returns the distance from the float baseline, or that it is too small to be measured."""
    drop, noise = recommendation.drop(part), recommendation.noise(part)
    title = "below float" if drop >= 0 else "above float"
    if noise is not None and abs(drop) <= noise:
        return (
            "loss against float",
            "not measurable",
            f"difference {round(-100 * drop, 2) + 0.0:+.2f} \u00b1 {points(noise)}",
        )
    return title, points(abs(drop)), "" if noise is None else f"noise \u00b1 {points(noise)}"


def _latency(recommendation: Recommendation, part: Group) -> list[Fact]:
    """Returns the latency relative to the float file; empty if it was not measured."""
    stat, ratio = part.stat("latency_ms"), recommendation.slowdown(part)
    if stat is None:
        return []
    remark = "" if ratio is None or part.is_float else slowdown_text(ratio).replace("the float file", "float")
    return [(f"on {device_of(part)}", f"{number(stat.mean)} ms", remark)]
