"""r2keras-page: the folder that it writes, results that it reads, and its one sentence for mistakes."""

import json

import pytest

from r2keras.cli import convert, page
from r2keras.export import DeviceResult, DeviceResults


@pytest.fixture(scope="module")
def file(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "web.tflite"
    parts = [f"--model={made / 'small.keras'}", f"--record={made / 'small.record.npz'}", f"--output={path}"]
    assert convert.main(["r2keras-convert", *parts, "--target=browser"]) == 0
    return path


def test_a_page(made, file, tmp_path, capsys):
    folder = tmp_path / "page"
    command = ["r2keras-page", f"--files={file}", f"--data={made / 'x.npz'}", f"--output={folder}", "--samples=2"]
    assert page.main(command) == 0
    shown = capsys.readouterr().out
    assert f"npm install --prefix {folder}" in shown and "http.server" in shown
    assert (folder / "index.html").is_file()
    manifest = json.loads((folder / "golden" / "web" / "golden.json").read_text())
    assert manifest["num_samples"] == 2


def test_results_are_read(tmp_path, capsys):
    for passed, code in ((True, 0), (False, 1)):
        result = DeviceResult("m.tflite", "", 12, 1.5, 1.7, 50, 1, passed, 1e-7, 1e-5)
        path = DeviceResults("Pixel 7", "browser", {}, (result,)).save(tmp_path / "r.json")
        assert page.main(["r2keras-page", f"--read={path}"]) == code
        assert "Pixel 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--samples=1"], "--files is missing"),
        (["--files={small}", "--data={x}", "--output={out}"], "open"),
        (["--files={web}", "--data={x}", "--output={out}", "--samples=0"], "at least 1"),
        (["--files={web}", "--data={record}", "--output={out}"], "image or x"),
        (["--read=r.json", "--output={out}"], "give one of them"),
    ],
)
def test_mistakes(made, file, tmp_path, capsys, flags, expected):
    names = {"small": made / "small.tflite", "x": made / "x.npz", "record": made / "small.record.npz", "web": file}
    command = [flag.format(**names, out=tmp_path / "page") for flag in flags]
    assert page.main(["r2keras-page", *command]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "page").exists()
