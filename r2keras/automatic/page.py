"""The HTML report of a compression."""

from __future__ import annotations

import os
import re
from typing import Any

import keras

from r2keras._util.files import atomic_write_text
from r2keras._util.text import DASH, count, percent
from r2keras.automatic.compressed import Compressed
from r2keras.automatic.options import label_of
from r2keras.automatic.plots import front_svg, sensitivity_svg
from r2keras.comparison.compare import Comparison, compare
from r2keras.comparison.plot import comparison_svg
from r2keras.report.page import template
from r2keras.specs import Recipe

# Samples of the comparisons layer by layer.
COMPARED = 32
FLOAT_NOTE = "The float model against the compressed one: the lower a bar, the more this layer's output changed."
FILE_NOTE = "The compressed model against its file on LiteRT. {}"


def write_page(result: Compressed, float_model: keras.Model, inputs: list, path: str | os.PathLike) -> None:
    """Writes the report.

    Args:
        result: the result of the compression.
        float_model: the float model whose layers the compressed one has.
        inputs: samples, one array per input, for the comparisons layer by layer.
        path: the file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
        OSError: the file cannot be written.
    """
    row, goal = result.chosen, result.settings.goal
    page = template("compress.html.j2").render(
        title=f"Compression of {result.model.name}",
        subtitle=f"Limits: {goal}. Target: {result.settings.target}. {result.num_samples} samples judged.",
        is_met=result.is_met,
        heading=f"{row['name'].capitalize()}, {row['steps']}"
        if result.is_met
        else f"Nothing meets {result.settings.goal}",
        facts=_facts(result),
        text=result.text,
        commands=_commands(result),
        metric=result.metric_text,
        front=front_svg(result.rows[1:], result.rows[0], result.settings, "front"),
        rows=[_row(result, one) for one in sorted(result.rows, key=lambda one: -one["bytes"])],
        sensitivity=sensitivity_svg(result.sensitivity.rows, "sensitivity"),
        layers=layer_table(result),
        comparisons=_comparisons(result, float_model, inputs),
    )
    atomic_write_text(path, page)


def layer_table(result: Compressed) -> list[tuple[str, str, str]]:
    """Returns each layer with its weights and what its kernels became."""
    sizes = {row.layer: row.num_values for row in result.sensitivity.rows}
    return [(layer, count(size), _chosen(result.recipe, layer)) for layer, size in sizes.items()]


def _chosen(recipe: Recipe, layer: str) -> str:
    """Returns what a recipe makes of a layer."""
    found = next((spec for pattern, spec in recipe.rules if re.search(pattern, layer)), None)
    return "float" if found is None else label_of(found)


def _facts(result: Compressed) -> list[tuple[str, str, str]]:
    """Returns the figures at the top of the page."""
    row, size = result.chosen, result.rows[0]["bytes"]
    noise = "" if row["noise"] is None else f"standard error {percent(row['noise'])}"
    return [
        ("Bytes", count(row["bytes"]), f"{size / row['bytes']:.1f} times smaller than float"),
        (result.metric_text.capitalize(), result.value_text(row["quality"]), f"float {_float_text(result)}"),
        ("Drop", result.drop_text(row["drop"]), noise),
        ("File against model", f"{result.verification.relative_difference:.1e}", "of the output range"),
    ]


def _float_text(result: Compressed) -> str:
    """Returns the float model's quality."""
    return result.value_text(result.rows[0]["quality"])


def _commands(result: Compressed) -> list[tuple[str, str]]:
    """Returns what to do next with the files of the folder."""
    files = "--record=model.record.npz --model=model.keras"
    commands = [("Measure its latency here", "r2keras-benchmark --files=model.tflite")]
    if result.settings.target != "mcu":
        # Packed and integer files round where the model does not, so that their decisions are compared.
        judged = "" if result.settings.target == "any" and not result.settings.integer else " --min_agreement=0.95"
        verify = f"r2keras-verify --model=model.keras --file=model.tflite --data=x.npz --layers{judged}"
        commands.append(("Compare it layer by layer, with inputs in x.npz", verify))
        commands.append(("Try it in a browser", "r2keras-page --files=model.tflite --data=x.npz --output=page"))
    commands.append(("Write it for another target", f"r2keras-convert {files} --target=any --output=other.tflite"))
    return commands


def _row(result: Compressed, row: dict[str, Any]) -> dict[str, Any]:
    """Returns the cells of a candidate."""
    return {
        "name": row["name"],
        "chosen": row is result.chosen,
        "steps": row["steps"],
        "bytes": count(row["bytes"]),
        "quality": result.value_text(row["quality"]),
        "drop": DASH if row["recipe"] is None else result.drop_text(row["drop"]),
        "seconds": f"{row['seconds']:.1f}",
        "file": row["file"],
    }


def _comparisons(result: Compressed, float_model: keras.Model, inputs: list) -> list[tuple[str, str, Any]]:
    """Returns headings, notes and figures of the comparisons layer by layer."""
    data = inputs[0] if len(inputs) == 1 else inputs
    float_found = compare(float_model, result.model, data, num_samples=COMPARED)
    sections = [("Float model, layer by layer", FLOAT_NOTE, _figure(float_found, "against-float"))]
    if result.settings.target != "mcu":
        file_found = compare(result.model, result.path, data, num_samples=COMPARED)
        first = file_found.first_departure
        note = FILE_NOTE.format("No layer departs." if first is None else f"{first.layer} is the first that departs.")
        sections.append(("File, layer by layer", note, _figure(file_found, "against-file")))
    return sections


def _figure(found: Comparison, name: str) -> Any:
    """Returns the figure of a comparison."""
    return comparison_svg(found.rows, found.min_sqnr_db, name)
