"""r2keras-inspect and r2keras-benchmark: what they print and write, and their one sentence for mistakes."""

import json

from r2keras.cli import benchmark, inspect_file


def test_inspect(made, tmp_path, capsys):
    written = tmp_path / "out.json"
    assert inspect_file.main(["r2keras-inspect", f"--file={made / 'small.tflite'}", f"--json={written}"]) == 0
    shown = capsys.readouterr().out
    assert "CONV_2D" in shown and "Runtimes" in shown
    assert json.loads(written.read_text())["inputs"][0]["name"] == "image"
    assert inspect_file.main(["r2keras-inspect", f"--file={made / 'x.npz'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert inspect_file.main(["r2keras-inspect", f"--file={written}", f"--json={written}"]) == 2
    assert "choose another name" in capsys.readouterr().err


def test_benchmark(made, tmp_path, capsys):
    file, written = made / "small.tflite", tmp_path / "t.json"
    command = ["r2keras-benchmark", f"--files={file}", "--rounds=2", "--runs=1", f"--json={written}"]
    assert benchmark.main(command) == 0
    assert "times the first" in capsys.readouterr().out
    assert "operators" not in json.loads(written.read_text())
    assert benchmark.main([*command, "--operators"]) == 0
    assert "runs on" in capsys.readouterr().out
    (found,) = json.loads(written.read_text())["operators"]
    assert "CONV_2D" in {row["kind"] for row in found["rows"]}
    assert json.loads(written.read_text())["rows"][0]["ratios"] == [1.0, 1.0, 1.0]
    assert benchmark.main(["r2keras-benchmark", f"--files={file},{file}"]) == 2
    assert "twice" in capsys.readouterr().err
    assert benchmark.main(["r2keras-benchmark", f"--files={file}", "--threads=100000"]) == 2
    assert capsys.readouterr().err.strip().endswith("--threads=100000 should be a number from 1 to 1024.")
