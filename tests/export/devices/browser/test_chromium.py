"""The page in a real browser: results, export, messages, requests, what it says where something is missing."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from r2keras.export import DeviceResults, web_page
from tests.chromium import BINARY, Browser
from tests.export.devices.browser.forms import FORMS, X
from tests.litert_js import served

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed")
DONE = "document.getElementById('state').textContent.startsWith('Done')"
PROBLEM = "!document.getElementById('problem').hidden"
TEXT = "document.body.innerText"
CELLS = "[...document.querySelectorAll('#results tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
JSON = "fetch(document.getElementById('download').href).then((response) => response.text())"
RENAME = """{
  const name = document.getElementById("name");
  name.value = "My phone";
  name.dispatchEvent(new Event("input"));
}"""
CUT_OFF = """[...document.querySelectorAll("main *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "profile", "--host-resolver-rules=MAP phone.test 127.0.0.1") as opened:
        yield opened


@pytest.fixture
def page(small_files, litert_js, tmp_path):
    """Returns the folder of a page of all forms."""
    paths = [small_files[form] for form in FORMS]
    return web_page(paths, X, tmp_path / "page", litert_js=litert_js, title="Five forms", seconds=0.15).parent


@pytest.mark.slow
def test_files_pass_and_results_are_exported(page, browser, tmp_path):
    with served(page) as (address, _):
        # As on a phone: an address of the network is not a secure origin, which the clipboard, SHA-256 and GPUs need.
        address = address.replace("127.0.0.1", "phone.test")
        browser.open(address, width=400)
        browser.wait(DONE)
        assert browser.evaluate("isSecureContext") is False
        assert "Done: 5 of 5 files passed." in browser.evaluate(TEXT)
        cells = browser.evaluate(CELLS)
        assert browser.evaluate(CUT_OFF) == []
        browser.evaluate(RENAME)
        (tmp_path / "device.json").write_text(browser.evaluate(JSON))
        browser.evaluate("document.getElementById('copy').click()")
        browser.wait("document.getElementById('copied').textContent.startsWith('Cop')")
        assert browser.messages == []
        own = (address, f"blob:{address}", "data:text/javascript,")
        assert [url for url in browser.requests if not url.startswith(own)] == []
    assert any(url.endswith(".wasm") for url in browser.requests)  # Those of the worker are seen.
    results = DeviceResults.load(tmp_path / "device.json")
    assert (results.name, results.kind) == ("My phone", "browser")
    assert results.details["runtime"] == "@litertjs/core 2.5.3" and results.details["cores"] >= 1
    entries = json.loads((page / "page.json").read_text())["files"]
    assert [(r.file, r.sha256, r.bytes) for r in results.results] == [
        (e["file"], e["sha256"], e["bytes"]) for e in entries
    ]
    first = results.results[0].median_ms
    for result, row in zip(results.results, cells, strict=True):
        assert result.passed and result.max_difference <= result.tolerance and result.error is None
        assert 0 < result.median_ms <= result.p90_ms and result.runs >= 3
        assert row[0] == result.file and row[2].startswith("passed: ")
        assert float(row[5]) == pytest.approx(result.median_ms / first, abs=0.006)


def test_failures_are_rows_and_the_other_files_go_on(page, browser, small_files):
    contents = json.loads((page / "page.json").read_text())
    entries = contents["files"]
    expected = page / entries[0]["outputs"][0]["url"]
    (np.fromfile(expected, "<f4") + np.float32(0.5)).tofile(expected)
    refused = small_files["int8 io"].read_bytes()
    (page / entries[1]["url"]).write_bytes(refused)
    contents["files"][1]["sha256"] = hashlib.sha256(refused).hexdigest()
    (page / "page.json").write_text(json.dumps(contents))
    (page / entries[2]["url"]).unlink()
    (page / entries[3]["url"]).write_bytes(small_files["float"].read_bytes())
    with served(page) as (address, _):
        browser.open(address, width=400)
        browser.wait(DONE)
        assert browser.evaluate(CUT_OFF) == []
        cells = [row[2] for row in browser.evaluate(CELLS)]
        results = DeviceResults.from_dict(json.loads(browser.evaluate(JSON))).results
    assert cells[0].startswith("wrong: 5.0e\u22121, allowed ")
    assert cells[1] == "did not run: Element type INT8 is not supported."
    assert cells[2].startswith("did not run: dynamic.tflite is missing (status 404).")
    assert cells[3] == "did not run: The server sent another file than the one of this page."
    assert cells[4].startswith("passed: ")
    assert [result.passed for result in results] == [False, None, None, None, True]
    assert [result.median_ms is None for result in results] == [False, True, True, True, False]


def test_a_missing_runtime_and_a_missing_server_are_told(page, browser):
    shutil.rmtree(page / "node_modules")
    with served(page) as (address, _):
        browser.open(address, width=400)
        browser.wait(PROBLEM)
        assert "npm install --prefix . @litertjs/core@2.5.3" in browser.evaluate(TEXT)
        assert browser.evaluate(CUT_OFF) == []
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page / "index.html", width=400)
    browser.wait(PROBLEM)
    assert "python -m http.server" in browser.evaluate(TEXT)
    assert browser.messages == [] and all(url.startswith(("file://", "data:")) for url in browser.requests)


def test_dark_mode_has_light_text(page, browser):
    colors = "[document.body, document.querySelector('.card')].map((e) => getComputedStyle(e).backgroundColor)"
    with served(page) as (address, _):
        browser.media(scheme="dark")
        browser.open(address, width=400)
        assert browser.evaluate(colors) == ["rgb(20, 23, 27)", "rgb(58, 29, 27)"]
