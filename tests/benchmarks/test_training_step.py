"""The training step benchmark: its rows, its table, its timing by turns, and bad flags. No figure is judged."""

import json
from pathlib import Path

import pytest

from tests.scripts import run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
SMOKE_ROWS = {
    ("regularizers", "cnn", "control"),
    ("regularizers", "cnn", "margin"),
    ("fake_quantize", "cnn", "control"),
    ("fake_quantize", "cnn", "mse_2bit_per_channel"),
    ("tfmot", "cnn", "control"),
    ("tfmot", "cnn", "tfmot_8bit_weights_only"),
    ("tfmot_config", "cnn", "control"),
    ("tfmot_config", "cnn", "r2keras_8bit"),
    ("import", "", "import_r2keras"),
}


def start(*flags):
    """Runs the script."""
    return run("benchmarks/training_step.py", *flags)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A smoke run: its results file and what it printed."""
    path = tmp_path_factory.mktemp("benchmark") / "results" / "steps.json"
    code, out, error = start("--smoke", f"--out={path}")
    assert code == 0, error[-4000:]
    return path, out


@pytest.fixture
def library(monkeypatch):
    """Lets a test import the benchmark's own modules."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
class TestSmoke:
    def test_one_row_per_variant(self, smoke):
        rows = json.loads(smoke[0].read_text())
        assert {(row["group"], row["net"], row["variant"]) for row in rows} == SMOKE_ROWS
        assert len(rows) == len(SMOKE_ROWS)

    def test_rows_hold_figures(self, smoke):
        for row in json.loads(smoke[0].read_text()):
            assert 0 < row["lower_quartile"] <= row["upper_quartile"]
            assert row["value"] > 0 and row["seconds"] > 0 and row["baseline_seconds"] > 0
            assert row["unit"] in ("ratio", "seconds") and row["rounds"] == 1
            assert row["machine"]["versions"]["keras"] and row["machine"]["cores"] >= 1
            goals = {"margin": 1.03, "mse_2bit_per_channel": 1.05, "import_r2keras": 0.2, "r2keras_8bit": 1.15}
            assert row["goal"] == goals.get(row["variant"])

    def test_table_is_printed_again_without_measuring(self, smoke):
        path, printed = smoke
        before = path.read_text()
        assert start("--table", f"--out={path}") == (0, printed, "") and path.read_text() == before
        assert printed.count("| cnn | the baseline again |") == 4 and "| - | import_r2keras |" in printed

    def test_nothing_else_is_written(self, smoke):
        assert list(smoke[0].parent.iterdir()) == [smoke[0]]


@pytest.mark.parametrize("flag", ["--nets=vgg", "--variants=linf,l3", "--rounds=0", "--nets=", "spare"])
def test_bad_flags_end_at_once(flag, tmp_path):
    code, _, error = start("--smoke", f"--out={tmp_path / 'a.json'}", flag)
    assert code != 0
    assert flag.split("=")[0].strip("-").split(",")[0] in error or "empty" in error.lower()
    assert not list(tmp_path.iterdir())


def test_damaged_results_are_named_and_kept(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"group": ')
    code, _, error = start("--smoke", f"--out={path}")
    assert code == 1 and str(path) in error and "Traceback" not in error
    assert path.read_text() == '[{"group": '


@pytest.mark.slow
def test_unwritable_out_ends_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = start("--smoke", f"--out={tmp_path / 'file' / 'a.json'}")
    assert code == 1 and "Could not write" in error and "Traceback" not in error


def test_turns_are_taken_in_every_round(library):
    from common import interleave

    calls, rounds = [], []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    figures = interleave(steps, 4, 2, lambda: rounds.append(len(calls)))
    assert rounds == [6, 12, 18, 24]
    assert all(sorted(calls[i : i + 3]) == ["a", "b", "c"] for i in range(0, 24, 3))
    assert {name: len(values) for name, values in figures.items()} == {"a": 4, "b": 4, "c": 4}


def test_rows_are_ratios_of_the_same_round(library):
    from step_plan import Job
    from step_rows import rows_of

    job = Job("regularizers", "resnet20", ("linf",), 3, 1)
    (row,) = rows_of(job, {"l2": [1.0, 2.0, 4.0], "linf": [1.1, 2.0, 4.8]}, {})
    assert (row["value"], row["lower_quartile"], row["upper_quartile"]) == (1.1, 1.05, 1.15)
    imports = {"import_keras": [3.0, 3.0, 3.0], "import_r2keras": [0.3, 0.1, 0.2]}
    (row,) = rows_of(Job("import", "", ("import_r2keras",), 3, 1), imports, {})
    assert row["value"] == 0.1


def test_a_row_replaces_its_predecessor(library, tmp_path):
    from common import Rows

    store = Rows(tmp_path / "a.json", ("name",))
    store.add([{"name": "x", "value": 1}, {"name": "y", "value": 2}])
    store.add([{"name": "x", "value": 3}])
    assert Rows(tmp_path / "a.json", ("name",)).rows == [{"name": "y", "value": 2}, {"name": "x", "value": 3}]


def test_patterns_choose_variants(library):
    from step_plan import jobs_of, unknown

    jobs = jobs_of(["resnet20"], ["linf", "mse_*bit_per_channel", "import"], 5, 2)
    chosen = {job.group: job.variants for job in jobs}
    mse = ("mse_8bit_per_channel", "mse_2bit_per_channel")
    assert chosen == {
        "regularizers": ("control", "linf"),
        "fake_quantize": ("control", *mse),
        "import": ("import_r2keras",),
    }
    assert unknown(["linf", "tfmot", "linfty"]) == ["linfty"]


def test_the_page_has_the_table_of_the_results(library):
    from common import Rows
    from step_rows import KEYS, table

    rows = Rows(FOLDER / "results" / "training_step.json", KEYS).rows
    assert rows and table(rows) in (ROOT / "docs/results/training_cost.md").read_text()


@pytest.mark.slow
def test_the_control_of_a_tfmot_group_is_its_baseline(library):
    import tfmot_steps
    from step_plan import CONTROL, Job

    for group in ("tfmot", "tfmot_config"):
        job = Job(group, "cnn", (CONTROL,), 1, 1)
        control, baseline = (tfmot_steps.build(job, variant) for variant in (CONTROL, job.baseline))
        kinds = [[type(layer).__name__ for layer in model.layers] for model in (control, baseline)]
        assert kinds[0] == kinds[1], group
        assert ("QuantizeWrapperV2" in kinds[0]) == (group == "tfmot_config")
