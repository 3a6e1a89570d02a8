"""The Penn Treebank example: its rows, and runs as a person starts them."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.scripts import run, run_warm

sys.path.append(str(Path(__file__).parents[2] / "examples"))

from ptb_lib import rows

FLOAT = {
    "data": "text",
    "method": "float",
    "weight_bits": 32,
    "activation_bits": 32,
    "width": 1.0,
    "units": 300,
    "regularizer": "none",
    "seed": 0,
    "past": [],
    "epochs": 5,
    "dropout": 0.4,
    "commitment": 0.0,
    "perplexity": 100.0,
    "bytes": 8000,
    "counted": "all weights, float",
}


def start(*flags, **options):
    """Runs the example; returns its exit code, standard output and standard error."""
    return run("examples/ptb_lstm.py", *flags, **options)


def start_warm(*flags, **options):
    """Does the same where TensorFlow is imported already."""
    return run_warm("examples/ptb_lstm.py", *flags, **options)


def test_help_shows_every_flag_with_its_default(tmp_path):
    settings = (Path(__file__).parents[2] / "examples" / "ptb_lib" / "settings.py").read_text(encoding="utf-8")
    code, out, error = start("--help", cwd=tmp_path)
    assert (code, error) == (0, "")
    lines = {line.split(":")[0].strip(" -"): line for line in out.splitlines() if line.startswith("  --")}
    assert list(lines) == re.findall(r'DEFINE_\w+\(\s*"(\w+)"', settings) and len(lines) > 20
    assert lines["units"].endswith(" Default: 300.")
    assert "python examples/ptb_lstm.py --data_dir=DIR" in out


class TestRows:
    def test_a_run_replaces_its_own_row(self, tmp_path):
        path = tmp_path / "rows.json"
        other = FLOAT | {"seed": 1}
        for row in (FLOAT, other, FLOAT | {"perplexity": 99.0}):
            rows.add_row(path, row)
        assert rows.read_rows(path) == [other, FLOAT | {"perplexity": 99.0}]
        assert [name.name for name in tmp_path.iterdir()] == ["rows.json"]

    @pytest.mark.parametrize("content", ["[{", "{}", '[{"seed": 0}]', "[3]"])
    def test_damaged_file(self, tmp_path, content):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(ValueError, match="choose another --results"):
            rows.read_rows(tmp_path / "rows.json")

    def test_a_kind_is_its_best_training_averaged_over_seeds(self):
        from ptb_lib.plot import best_kinds

        seeds = [FLOAT | {"seed": seed, "perplexity": value} for seed, value in enumerate((99.0, 95.0, 97.0))]
        longer = FLOAT | {"epochs": FLOAT["epochs"] + 1, "perplexity": 98.0}
        small = FLOAT | {"weight_bits": 2, "activation_bits": 3, "bytes": 800}
        found = {row["weight_bits"]: row for row in best_kinds([*seeds, longer, small])}
        assert [found[32][name] for name in ("perplexity", "spread", "seeds")] == pytest.approx([97.0, 2.0, 3])
        assert [found[2][name] for name in ("perplexity", "spread", "seeds")] == [FLOAT["perplexity"], 0.0, 1]

    def test_a_network_far_off_keeps_its_position(self, tmp_path):
        from ptb_lib.plot import write_front

        off = FLOAT | {"method": "wrpn", "weight_bits": 2, "bytes": 800, "perplexity": 512.0}
        write_front([FLOAT, off], tmp_path / "front.svg")
        written = (tmp_path / "front.svg").read_text()
        assert "<dc:date>" not in written
        ticks = [int(number) for number in re.findall(r">(\d+)</text>", written)]
        assert max(ticks) >= 300 and "W2A" in written and "Validation perplexity against bytes" in written

    def test_front_and_table(self):
        small = FLOAT | {
            "method": "alternating",
            "weight_bits": 2,
            "activation_bits": 3,
            "perplexity": 101.0,
            "bytes": 800,
        }
        bad = FLOAT | {"method": "ste", "weight_bits": 4, "activation_bits": 4, "perplexity": 120.0, "bytes": 1200}
        assert rows.front([FLOAT, bad, small]) == [small, FLOAT]
        lines = rows.table([bad, small, FLOAT, FLOAT | {"epochs": 4, "perplexity": 105.0}]).splitlines()
        assert len(lines) == 6 and "| float | 32 / 32 |" in lines[2] and "| +5.0 % |" in lines[2]
        assert "| +1.0 % | 800 | 10.0 |" in lines[5]

    def test_table_shows_files_where_rows_have_them(self):
        file = {"file_bytes": 8100, "file_perplexity": 100.25, "keras_perplexity": 100.5}
        lines = rows.table([FLOAT | file, FLOAT | {"seed": 1}]).splitlines()
        assert lines[0].endswith("| file bytes | file / Keras |")
        assert lines[2].endswith("| 8,100 | 100.250 / 100.500 |") and lines[3].endswith("| - | - |")


def test_small_run(tmp_path):
    code, out, error = start_warm("--smoke", f"--out={tmp_path / 'out'}", cwd=tmp_path)
    assert code == 0 and "Validation perplexity" in out, error
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert row["perplexity"] == row["history"][-1] > 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
class TestProgram:
    def test_float_then_few_bits_then_the_table(self, tmp_path):
        folder = tmp_path / "out"
        code, out, error = start_warm("--smoke", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "Validation perplexity" in out, error
        (checkpoint,) = folder.glob("*.npz")
        few = ("--smoke", f"--out={folder}", f"--start_from={checkpoint}", "--weight_bits=2", "--activation_bits=3")
        code, out, error = start_warm(*few, "--width=1.5", cwd=tmp_path)
        assert code == 0, error
        found = json.loads((folder / "results.json").read_text())
        assert [(row["method"], row["units"], row["past"]) for row in found] == [
            ("float", 12, []),
            ("alternating", 18, [{"epochs": 1, "method": "float", "units": 12, "regularizer": "none"}]),
        ]
        assert found[1]["bytes"] < found[0]["bytes"] and found[0]["shortened"]
        code, again, _ = start_warm(*few, "--width=1.5", cwd=tmp_path)
        assert code == 0 and "Epoch" not in again and again.splitlines()[-1] == out.splitlines()[-1]
        code, out, error = start_warm(*few, "--width=1.5", "--export", "--export_words=60", cwd=tmp_path)
        assert code == 0 and "Epoch" not in out and "words" in out.splitlines()[-1], error
        (row,) = [row for row in json.loads((folder / "results.json").read_text()) if row["units"] == 18]
        assert row["file_words"] == 60 and row["perplexity"] == found[1]["perplexity"]
        assert row["file_perplexity"] == pytest.approx(row["keras_perplexity"], rel=1e-3)
        sizes = sorted(path.stat().st_size for path in folder.glob("*.tflite"))
        assert sizes == sorted([row["file_bytes"], row["packed_bytes"]])
        code, out, _ = start_warm("--table", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "| alternating | 2 / 3 | 1.5 | 18 |" in out and (folder / "results.svg").is_file()
        # Without its row the finished run has no epoch left to train: it is measured again from the checkpoint.
        (folder / "results.json").unlink()
        code, out, _ = start_warm("--smoke", f"--out={folder}", cwd=tmp_path)
        assert code == 0 and "Epoch" not in out and (folder / "results.json").is_file()
        assert list(tmp_path.iterdir()) == [folder]

    def test_a_wide_float_network_is_a_start_of_its_own(self, tmp_path):
        runs = [(), ("--width=1.5",)]
        for flags in runs:
            code, _, error = start_warm("--smoke", f"--out={tmp_path}", *flags, cwd=tmp_path)
            assert code == 0, error
        for checkpoint in sorted(tmp_path.glob("float_*.npz")):
            flags = (f"--start_from={checkpoint}", "--weight_bits=2", "--activation_bits=3", "--width=1.5")
            code, _, error = start_warm("--smoke", f"--out={tmp_path}", *flags, cwd=tmp_path)
            assert code == 0, error
        found = json.loads((tmp_path / "results.json").read_text())[2:]
        assert [[stage["units"] for stage in row["past"]] for row in found] == [[12], [18]]
        assert found[0]["before_training"] != found[1]["before_training"]
        assert len(list(tmp_path.glob("alternating_*.npz"))) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width=0.001"], "reduces 300 units to zero"),
        (["--weight_bits=9"], "expected 1 to 8, or 32"),
        (["--activation_bits=1"], "expected 2 to 8, or 32"),
        (["--method=alternating"], "cannot be combined with --weight_bits=32"),
        (["--epochs=0"], "expected at least 1"),
        (["--export_words=-1"], "expected at least 0"),
        (["--dropout=1"], "out of range"),
        (["--commitment=-1"], "expected 0 or more"),
        (["--commitment=0.1"], "give --activation_bits too"),
        (["--decay=0"], "expected above 0, at most 1"),
        (["--method=nothing"], "should be one of"),
        (["stray"], "write --flag=value"),
    ],
)
def test_bad_flags_are_one_sentence_and_quick(flags, words, tmp_path):
    code, out, error = start(*flags, f"--out={tmp_path / 'out'}")
    assert (code, out, error.count("\n")) == (2, "", 1) and words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--start_from=nowhere.npz"], 2, "train the float network first"),
        (["--data_dir=nowhere"], 1, "is missing"),
        (["--table"], 2, "has no rows yet"),
    ],
)
def test_missing_files_are_one_sentence(flags, code, words, tmp_path):
    found, _, error = start("--smoke", *flags, f"--out={tmp_path / 'out'}")
    assert found == code and error.count("\n") == 1 and words in error
