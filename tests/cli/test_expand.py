"""r2keras-expand: the float file or the bundle, or one sentence and no file."""

from __future__ import annotations

import pytest

from r2keras.cli import expand, verify
from r2keras.export import bundle
from r2keras.export import expand as expanded


def run(folder, source, output):
    return expand.main(["expand.py", f"--input={source}", f"--output={folder / output}"])


def test_the_float_file_agrees_with_the_model(made, tmp_path, capsys):
    assert run(tmp_path, made / "small.tflite", "float.tflite") == 0
    written = (tmp_path / "float.tflite").read_bytes()
    assert written == expanded(made / "small.tflite")
    small, large = (line.split()[1] for line in capsys.readouterr().out.splitlines())
    assert (small, large) == (f"{(made / 'small.tflite').stat().st_size:,}", f"{len(written):,}")
    flags = {"model": made / "small.keras", "file": tmp_path / "float.tflite", "data": made / "x.npz"}
    assert verify.main(["verify.py", *(f"--{name}={value}" for name, value in flags.items())]) == 0


def test_the_bundle_is_that_of_the_function(made, tmp_path):
    assert run(tmp_path, made / "small.tflite", "small.bundle") == 0
    assert (tmp_path / "small.bundle").read_bytes() == bundle(made / "small.tflite")


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("none.tflite", "float.tflite", "File not found"),
        ("x.npz", "float.tflite", "not a readable .tflite"),
        ("small.tflite", "float.bin", "should end in .tflite or .bundle"),
    ],
)
def test_mistake_is_one_sentence(made, tmp_path, capsys, source, output, words):
    assert run(tmp_path, made / source, output) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_output_is_needed(capsys):
    assert expand.main(["expand.py", "--input=small.tflite"]) == 2
    assert "--output is missing" in capsys.readouterr().err
