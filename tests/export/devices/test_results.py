"""Results from devices: written, read back, refused if damaged."""

import dataclasses
import json

import pytest

from r2keras.export import DeviceResult, DeviceResults

PASSED = DeviceResult("a.tflite", "00" * 32, 1200, 1.5, 1.75, 50, 1, True, 1e-7, 1e-5)
FAILED = dataclasses.replace(PASSED, file="b.tflite", median_ms=3.0, passed=False, max_difference=0.5)
REFUSED = DeviceResult("c.tflite", "11" * 32, 900, error="open batch")


@pytest.fixture
def results():
    return DeviceResults("Pixel 7", "android", {"cores": 8, "threads": [1, 4]}, (PASSED, FAILED, REFUSED))


def test_what_is_saved_is_loaded(results, tmp_path):
    path = results.save(tmp_path / "new" / "phone.json")
    assert DeviceResults.load(path) == results
    manifest = json.loads(path.read_text())
    assert (manifest["version"], manifest["kind"]) == (1, "r2keras-device-results")
    assert manifest["device"] == {"name": "Pixel 7", "kind": "android", "details": results.details}
    fields = "file sha256 bytes median_ms p90_ms runs threads passed max_difference tolerance error"
    assert [list(result) for result in manifest["results"]] == [fields.split()] * 3


def test_facts_of_one_kind_of_device_stand_beside_the_others(results, tmp_path):
    timed = dataclasses.replace(PASSED, passed=None, max_difference=None, extra={"xnnpack": True, "init_ms": 2.5})
    path = dataclasses.replace(results, results=(timed,)).save(tmp_path / "phone.json")
    assert json.loads(path.read_text())["results"][0]["init_ms"] == 2.5
    assert DeviceResults.load(path).results == (timed,)
    assert "not checked" in str(DeviceResults.load(path))


def test_rows_and_table(results):
    row = {"file": "c.tflite", "sha256": "11" * 32, "median_ms": None, "p90_ms": None, "passed": None}
    assert results.rows()[2] == {**row, "device": "Pixel 7"}
    assert "Pixel 7" in str(results).splitlines()[0]
    assert "passed, 1e-07" in str(results)
    assert "differ by 0.5, allowed 1e-05" in str(results)
    assert "did not run: open batch" in str(results)
    assert " 3.00 1.75 2.00" in " ".join(str(results).split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "its version is 2, and this release reads 1"),
        ({"kind": "other"}, "its kind is 'other'"),
        ({"device": {"name": "x", "kind": "toaster", "details": {}}}, "the kind of its device is 'toaster'"),
        ({"results": [{}]}, "a result has no `file`"),
        ({"results": {}}, "`results` of the file is not a list"),
        ({"results": [dataclasses.replace(PASSED, median_ms=-1.0).to_dict()]}, "`median_ms` of a result"),
        ({"results": [dataclasses.replace(PASSED, passed=1).to_dict()]}, "`passed` of a result is not true"),
        ({"results": [dataclasses.replace(PASSED, passed=None, runs=0).to_dict()]}, "neither `passed` nor `error`"),
        ({"results": [{**PASSED.to_dict(), "more": []}]}, "`more` of a result is not a text"),
    ],
)
def test_other_content_is_refused(results, tmp_path, change, message):
    path = tmp_path / "phone.json"
    path.write_text(json.dumps({**results.to_dict(), **change}))
    with pytest.raises(ValueError, match=r"argument `path`") as caught:
        DeviceResults.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": NaN}'])
def test_damage_is_refused(tmp_path, content):
    path = tmp_path / "phone.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="Export it on the device again"):
        DeviceResults.load(path)


def test_a_latency_that_is_not_finite_is_not_written(results, tmp_path):
    wrong = dataclasses.replace(results, results=(dataclasses.replace(PASSED, median_ms=float("inf")),))
    with pytest.raises(ValueError, match="Pixel 7 cannot be written"):
        wrong.save(tmp_path / "phone.json")
    assert list(tmp_path.iterdir()) == []
