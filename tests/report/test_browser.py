"""The HTML page in a real browser: layout on phones and desktops, sorting, filter, dark mode, print, no network."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from r2keras.record import CompressionRecord
from r2keras.report import recommend, write_html
from r2keras.specs import PaletteSpec
from tests.chromium import BINARY, Browser
from tests.export.palettize import palettize_tensor
from tests.report.samples import file_summary, run_rows

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed")
WIDTHS = (400, 1400)
# Elements that a reader could not see in full. Tables in .scroll may be scrolled; their first columns are tested apart.
CUT_OFF = """[...document.querySelectorAll("main *")].filter((e) => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || e.closest(".scroll table")) return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map((e) => e.outerHTML.slice(0, 80))"""
# Text of a plot that leaves the card around it.
CUT_TEXT = """[...document.querySelectorAll("svg text")].filter((e) => {
  const box = e.getBoundingClientRect(), card = e.closest(".card, figure").getBoundingClientRect();
  return box.width && (box.right > card.right || box.left < card.left);
}).map((e) => e.textContent)"""
# Tables with columns to the right of the window; all columns of all runs, folded away, may be there.
SCROLLED = """[...document.querySelectorAll(".scroll:not(details *)")].filter((e) => e.scrollWidth > e.clientWidth)
  .map((e) => e.getAttribute("aria-label"))"""
BYTES = 'document.querySelector("#results tbody tr").cells[[...document.querySelectorAll("#results th")]' + (
    '.findIndex((e) => e.textContent.startsWith("bytes"))]'
)
CONTRAST = """(() => {
  const light = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
    const [r, g, b] = parts.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const lowest = {};
  for (const [name, selector] of [["text", "h2"], ["note", ".note"], ["link", "a"], ["head", "th"]]) {
    const e = document.querySelector(selector);
    const card = getComputedStyle(e.closest(".card")).backgroundColor;
    const [a, b] = [light(getComputedStyle(e).color), light(card)].sort((x, y) => y - x);
    lowest[name] = (a + 0.05) / (b + 0.05);
  }
  return lowest;
})()"""


def palettes() -> CompressionRecord:
    """Returns a record of two palettes."""
    spec = PaletteSpec(num_bits=4, dim=2, min_size=0)
    weights = np.random.default_rng(0).normal(size=(3, 3, 8, 16)).astype(np.float32)
    tensors = [palettize_tensor(f"a_block_with_a_long_name/conv{i}/kernel", weights, spec) for i in (1, 2)]
    return CompressionRecord({t.name: t for t in tensors}, {"head/kernel": "no rule matches"}, 9216, "small")


def shown(browser: Browser, column: str) -> list[str]:
    """Returns the cells of a column of the results that are visible, from top to bottom."""
    return browser.evaluate(
        f"""(() => {{
          const table = document.getElementById("results");
          const at = [...table.querySelectorAll("th")].findIndex((e) => e.textContent.trim() === {column!r});
          return [...table.tBodies[0].rows].filter((row) => row.offsetHeight).map((row) => row.cells[at].dataset.value);
        }})()"""
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = run_rows(regularizers=("none", "linf", "soft_min_max"), methods=("ptq_min_max", "dkm_vector"))
    columns = {"float_validation_accuracy": 0.9, "test_samples": 500, "validation_samples": 129}
    rows = [{**one, **columns, "validation_accuracy": one["file_accuracy"], "engine": "x" * 90} for one in rows]
    for one in rows:
        one["path"] = str(folder / f"{one['regularizer']}_{one['method']}_{one['num_bits']}_{one['seed']}.tflite")
        (folder / one["path"]).write_bytes(b"1")
    advice = recommend(rows, max_accuracy_drop=0.5, max_bytes=20_000)
    write_html(
        folder / "report.html",
        rows,
        recommendation=advice,
        records={"a rather long name of a compressed model": file_summary(), "palettes": palettes()},
        title="digits, tapered_cnn: accuracy at low bit widths",
        settings={"command": f"python examples/pilot.py --out={'long/' * 30}", "versions": "v" * 200},
        default_settings={"epochs": 15},
        commands=[("Check the file", f"r2keras-verify --file={'deep/' * 30}a.tflite")],
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off(browser, path, width):
    browser.open(path, width=width)
    assert browser.evaluate(SCROLLED) == []
    browser.evaluate('document.querySelectorAll("details").forEach((e) => { e.open = true; })')
    assert browser.evaluate(CUT_OFF) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(CUT_TEXT) == []
    assert 0 < browser.evaluate(f"{BYTES}.getBoundingClientRect().right") <= width
    assert browser.evaluate(f"{BYTES}.textContent.trim()").replace(",", "").isdigit()


@pytest.mark.parametrize("width", WIDTHS)
def test_each_plot_is_drawn_once(browser, path, width):
    browser.open(path, width=width)
    plots = '[...document.querySelectorAll(".wide > svg, .narrow > svg")]'
    assert browser.evaluate(f"{plots}.filter((e) => e.getBoundingClientRect().height > 50).length") == 3


def test_no_message_and_no_network(browser, path):
    browser.requests.clear()
    browser.open(path, width=1400)
    browser.evaluate('document.querySelectorAll("th button").forEach((e) => e.click())')
    assert browser.messages == []
    assert browser.requests == [path.as_uri()]


def test_a_click_sorts_and_another_one_reverses(browser, path):
    browser.open(path, width=1400)
    button = '[...document.querySelectorAll("#results th button")].find((e) => e.textContent === {!r})'
    for column in ("bytes", "accuracy %"):
        values = [*map(float, shown(browser, column))]
        browser.evaluate(f"{button.format(column)}.click()")
        assert [*map(float, shown(browser, column))] == sorted(values)
        browser.evaluate(f"{button.format(column)}.click()")
        assert [*map(float, shown(browser, column))] == sorted(values, reverse=True)
    assert browser.evaluate('document.querySelectorAll("#results [aria-sort]").length') == 1
    browser.evaluate(f"{button.format('setting')}.click()")
    names = shown(browser, "setting")
    assert names == sorted(names, key=str.lower)


def test_the_filter_leaves_the_rows_with_all_words(browser, path):
    browser.open(path, width=1400)
    everything = shown(browser, "setting")
    typed = """(() => {{ const e = document.getElementById("results-filter"); e.value = {!r};
      e.dispatchEvent(new Event("input")); return document.querySelector("output").value; }})()"""
    expected = [name for name in everything if "2-bit" in name and "R2" in name]
    assert browser.evaluate(typed.format("r2 2-BIT")) == f"{len(expected)} of {len(everything)}"
    assert shown(browser, "setting") == expected
    browser.evaluate(typed.format(""))
    assert shown(browser, "setting") == everything


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, path, scheme):
    browser.media(scheme=scheme)
    browser.open(path, width=1400)
    page = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(246, 247, 249)") == (scheme == "light")
    assert min(browser.evaluate(CONTRAST).values()) >= 4.5
    browser.media()


def test_print_is_light_and_complete(browser, path):
    browser.media(media="print", scheme="dark")
    browser.open(path, width=800)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate('getComputedStyle(document.querySelector(".filter")).display') == "none"
    wide = '[...document.querySelectorAll(".scroll:not(details *) table")].map((e) => e.getBoundingClientRect().right)'
    assert max(browser.evaluate(wide)) <= 800
    browser.media()
    pdf = base64.b64decode(browser.send("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000


def test_a_point_tells_its_figures(browser, path):
    browser.open(path, width=1400)
    titles = browser.evaluate('[...document.querySelectorAll(".wide .tip title")].map((e) => e.textContent)')
    assert len(titles) == 21 + 21 + 18  # Bytes, latency, and bits without the float files.
    assert all("% accuracy" in title and "bytes" in title and " ms" in title for title in titles)
