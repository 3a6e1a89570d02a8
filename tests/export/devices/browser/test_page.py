"""What `web_page` writes and refuses; no browser."""

import hashlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from r2keras.export import Golden, to_litert, to_tflm, web_page
from r2keras.export.devices.golden import FLOAT_TOLERANCE, ROUNDED_TOLERANCE
from tests.export.devices.browser.forms import X

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def npm(tmp_path):
    """Returns a function that makes a folder of npm packages of a version."""

    def make(version):
        scope = tmp_path / "npm" / "node_modules" / "@litertjs"
        for package in ("core", "wasm-utils"):
            for name in ("package.json", "dist/index.js", "dist/index.js.map"):
                (scope / package / name).parent.mkdir(parents=True, exist_ok=True)
                (scope / package / name).write_text(json.dumps({"version": version}))
        for kind in ("", "_compat", "_threaded", "_jspi"):
            for suffix in ("js", "wasm"):
                path = scope / "core" / "wasm" / f"litert_wasm{kind}_internal.{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_text("x")
        return scope.parents[1]

    return make


def test_contents_describe_the_files(small_files, tmp_path):
    names = ("float", "exact")
    index = web_page([small_files[name] for name in names], X, tmp_path / "a page", title="Net", seconds=1.5)
    contents = json.loads((index.parent / "page.json").read_text())
    assert (contents["version"], contents["title"], contents["seconds"]) == (1, "Net", 1.5)
    assert contents["runtime"] == "@litertjs/core@2.5.3"
    for name, entry in zip(names, contents["files"], strict=True):
        content = (index.parent / entry["url"]).read_bytes()
        assert content == small_files[name].read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert (entry["batch"], entry["samples"]) == (1, 5)
        golden = Golden.load(index.parent / "golden" / name)
        (source,), (output,) = entry["inputs"], entry["outputs"]
        np.testing.assert_array_equal(np.fromfile(index.parent / source["url"], "<f4").reshape(X.shape), X)
        assert (source["shape"], source["dtype"]) == ([6, 6, 3], "float32")
        assert (output["name"], output["shape"]) == ("output_0", [4])
        assert output["tolerance"] == golden.outputs[0].tolerance > 0


def test_the_page_says_what_golden_allows(small_files, tmp_path):
    index = web_page([small_files["float"]], X, tmp_path / "page")
    note = " ".join(index.read_text().partition('<p class="note">')[2].partition("</p>")[0].split())
    assert f"1e-{-round(np.log10(FLOAT_TOLERANCE))} of an output's range" in note
    rounded = f"one step of the output's grid, {ROUNDED_TOLERANCE * 100:g} % of its range, and twice the difference"
    assert f"the largest of {rounded} of XNNPACK and the built-in kernels" in note


def test_names_of_files_become_addresses(small_files, tmp_path):
    path = tmp_path / "50% #1.tflite"
    path.write_bytes(small_files["float"].read_bytes())
    index = web_page([path], X, tmp_path / "page")
    (entry,) = json.loads((index.parent / "page.json").read_text())["files"]
    assert entry["url"] == "50%25%20%231.tflite"
    assert entry["inputs"][0]["url"] == "golden/50%25%20%231/input_0.bin"


def test_the_runtime_is_copied_where_npm_would_put_it(small_files, npm, tmp_path):
    source = npm("2.7.0")
    for named in (source, source / "node_modules", source / "node_modules" / "@litertjs" / "core"):
        index = web_page([small_files["float"]], X, tmp_path / "page", litert_js=named)
        copied = {path.name for path in (index.parent / "node_modules").rglob("*") if path.is_file()}
        wasm = {f"litert_wasm{kind}_internal.{suffix}" for kind in ("", "_compat") for suffix in ("js", "wasm")}
        assert copied == {"package.json", "index.js", *wasm}


def test_another_runtime_is_refused(small_files, npm, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`litert_js`.*Run `npm install --prefix"):
        web_page([small_files["float"]], X, tmp_path / "page", litert_js=tmp_path)
    with pytest.raises(ValueError, match=r"which has version 3\.0\.0"):
        web_page([small_files["float"]], X, tmp_path / "page", litert_js=npm("3.0.0"))
    assert not (tmp_path / "page" / "index.html").exists()


def dense(batch_size=None, size=4):
    return keras.Sequential([keras.Input((size,), batch_size=batch_size), keras.layers.Dense(2)])


def test_files_that_litert_js_refuses_are_named(small_files, near, tmp_path):
    to_litert(dense(), tmp_path / "open.tflite")
    lstm = [keras.Input((3, 4), batch_size=1), keras.layers.LSTM(2)]
    to_litert(keras.Sequential(lstm), tmp_path / "fused.tflite", recurrent="fused")
    cases = {
        tmp_path / "open.tflite": r"has the open shape \(-1, 4\)\. .*target=\"browser\"",
        tmp_path / "fused.tflite": r"keeps a state between calls\. .*recurrent=\"loop\"",
        small_files["int8 io"]: r"has the type int8\. .*target=\"browser\"",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=f"argument `files`.*{path.name}.*{message}"):
            web_page([path], np.ones((2, 4), np.float32), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_files_for_microcontrollers_are_refused(tmp_path):
    import r2keras

    recipe = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=2, min_size=0))])
    model, record = r2keras.calibrate(dense(1, 64), recipe)
    to_tflm(model, tmp_path / "mcu.tflite", record, check=False)
    with pytest.raises(ValueError, match=r"mcu\.tflite, which is for microcontrollers"):
        web_page([tmp_path / "mcu.tflite"], np.ones((2, 64), np.float32), tmp_path / "page")


def test_files_and_inputs_have_to_fit(small_files, tmp_path):
    to_litert(dense(1), tmp_path / "dense.tflite")
    with pytest.raises(ValueError, match=r"dense\.tflite, which takes float32 \(4,\), beside float\.tflite"):
        web_page([small_files["float"], tmp_path / "dense.tflite"], X, tmp_path / "page")
    with pytest.raises(ValueError, match="argument `inputs`"):
        web_page([small_files["float"]], X[:, 1:], tmp_path / "page")
    (tmp_path / "float.tflite").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 files called 'float'"):
        web_page([small_files["float"], tmp_path / "float.tflite"], X, tmp_path / "page")


def test_arguments_of_the_wrong_kind(small_files, tmp_path):
    cases = [
        (FileNotFoundError, {"files": [tmp_path / "none.tflite"]}),
        (TypeError, {"files": str(small_files["float"])}),
        (ValueError, {"files": []}),
        (TypeError, {"folder": 3}),
        (TypeError, {"litert_js": 3}),
        (TypeError, {"title": 3}),
        (TypeError, {"seconds": None}),
        (ValueError, {"seconds": -1}),
    ]
    for error, change in cases:
        argument = "argument `" + next(iter(change)) if error is not FileNotFoundError else "File not found"
        with pytest.raises(error, match=argument):
            web_page(**{"files": [small_files["float"]], "inputs": X, "folder": tmp_path / "page", **change})
    assert not (tmp_path / "page").exists()


def test_colors_are_those_of_the_report():
    own, report = (
        dict(re.findall(r"(--\w[\w-]*): (#\w+)", part))
        for text in (
            ROOT / "r2keras/export/devices/browser/assets/style.css",
            ROOT / "r2keras/report/templates/style.css.j2",
        )
        for part in [text.read_text("utf-8").partition("@media")[2].partition("}\n}")[0]]
    )
    assert len(own) > 6 and {name: report.get(name) for name in own} == own
