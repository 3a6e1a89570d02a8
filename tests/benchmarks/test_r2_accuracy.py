"""The R2 benchmark: rows, resuming, table and bad flags. Figures are not judged."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
LSQ = {"method": "lsq", "activation_bits": 2, "batch_norm": "replace", "granularity": "per_channel", "dim": 1}
SMALL = ("--smoke", "--methods=min_max,ewgs", "--bits=1,3")


def start(*flags):
    """Runs the script."""
    return run("benchmarks/r2_accuracy.py", *flags)


@pytest.fixture
def library(monkeypatch):
    """Lets a test import the benchmark's own modules."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
def test_a_run_and_a_second_one(tmp_path):
    flags = (*SMALL, f"--out={tmp_path / 'rows'}", f"--work={tmp_path / 'work'}")
    code, out, error = start(*flags)
    assert code == 0, error[-4000:]
    rows = json.loads((tmp_path / "rows" / "r2_accuracy.json").read_text())
    assert {(row["regularizer"], row["method"]) for row in rows} == {
        (name, method) for name in ("none", "linf") for method in ("min_max", "ewgs")
    }
    assert len({json.dumps({k: v for k, v in row.items() if k != "accuracy"}) for row in rows}) == len(rows) == 6
    for row in rows:
        assert 0.1 < row["float_accuracy"] <= 1 and 0 < row["accuracy"] <= 1 and row["max_over_std"] > 1
    code, again, error = start(*flags)
    assert code == 0 and "float training" not in error
    assert again == out and "L-inf scale-free" in again


def test_what_decides_most_comes_first(library):
    from r2_plan import COLUMNS, METHODS, jobs_of

    jobs = list(jobs_of(["digits"], list(COLUMNS.values()), ["*"], [1, 2, 4], [0, 1]))
    assert jobs[0].column.name == "none" and {cell.weight_bits for cell in jobs[0].cells} == {2}
    cells = [(job.seed, job.column, cell) for job in jobs for cell in job.cells]
    assert len(cells) == len(set(cells)) and {cell.method for *_, cell in cells} == set(METHODS)
    few = list(jobs_of(["digits"], [COLUMNS["none"]], ["m*"], [2], [0]))
    assert {cell.method for job in few for cell in job.cells} == {"min_max", "mse"}


def row(name, seed, accuracy, **other):
    regularizer, free, _ = name.partition("_scale_free")
    figures = {"float_accuracy": 0.9, "max_over_std": 4.0, "kurtosis": 3.0, "accuracy": accuracy}
    cell = {
        "method": "mse",
        "weight_bits": 2,
        "activation_bits": 8,
        "batch_norm": "keep",
        "granularity": "per_tensor",
        "dim": 1,
    }
    where = {"net": "digits", "regularizer": regularizer, "form": "scale_free" if free else "paper", "split": "test"}
    return where | cell | figures | {"factor": 0.01 if free else 0.0, "seed": seed} | other


def test_table_has_mean_and_spread_and_shows_what_is_missing(library):
    from r2_table import table

    rows = [row("none", seed, value) for seed, value in enumerate((0.1, 0.2, 0.3))]
    rows += [row("linf_scale_free", 0, 0.5), row("none", 0, 0.4, **LSQ)]
    text = table(rows)
    assert "| none | L-inf scale-free |" in text
    assert "W2A8 mse, per tensor, batch norm kept | 20.0 ± 10.0 | **50.0** (n=1) |" in text
    assert "W2A2 lsq, per channel, trained, first and last kernels 8 bits | **40.0** (n=1) | - |" in text
    below = text.splitlines()[-1]
    assert below.startswith("Not measured: the columns L2, KURE") and "L-inf scale-free" not in below
    assert (
        "W2A8 (min-max, mse, min-max per channel, mse per channel, adaround per channel, equalize per channel)" in below
    )
    assert "W4A4 (lsq, ewgs, pact-dorefa)" in below and "W2A2 (ewgs, pact-dorefa)" in below


def test_table_of_strengths(library):
    from r2_table import table

    rows = [row("linf_scale_free", 0, a, factor=f, split="validation") for a, f in ((0.5, 0.01), (0.6, 0.1))]
    assert "W2A8 mse, per tensor, batch norm kept | 50.0 (n=1) | **60.0** (n=1) |" in table(rows)
    rows[1]["float_accuracy"] = 0.7
    assert "| L-inf scale-free | float | **90.0** (n=1) | 70.0 (n=1) |" in table(rows)
    rows += [row("none", seed, 0.7, split="validation") for seed in (0, 1)]
    assert "batch norm kept | **70.0** ± 0.0 (n=2) | 50.0 (n=1) | 60.0 (n=1) |" in table(rows)


def test_rows_name_their_revision_where_there_is_git(library, monkeypatch):
    import common

    common.revision.cache_clear()
    monkeypatch.setattr(common.shutil, "which", lambda name: None)
    assert common.revision() is None
    monkeypatch.undo()
    common.revision.cache_clear()
    monkeypatch.setattr(common.subprocess, "run", lambda *a, **k: common.subprocess.CompletedProcess(a, 0, "abc1234\n"))
    assert common.revision() == "abc1234"
    common.revision.cache_clear()


def test_the_page_has_the_table_of_the_results(library):
    from r2_table import table

    rows = json.loads((FOLDER / "results" / "r2_accuracy.json").read_text())
    assert rows and table(rows) in (ROOT / "docs/results/r2_tables.md").read_text()


def test_images_are_shifted_and_mirrored(library):
    from r2_cells import augmented

    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    found = augmented(x, np.random.default_rng(1), pad=1)
    assert found.shape == x.shape and found.dtype == np.float32
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    windows += [window[:, :, ::-1] for window in windows]
    hits = np.array([[np.array_equal(image, w[n]) for w in windows] for n, image in enumerate(found)])
    assert (hits.sum(1) == 1).all() and hits.any(0).sum() > 9
    gray = x[..., :1]
    assert augmented(gray, np.random.default_rng(1)) is gray


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--nets=resnet21",), "--nets=resnet21 is unknown"),
        (("--regularizers=l3",), "--regularizers=l3 is unknown"),
        (("--bits=9",), "--bits=9 is unknown"),
        (("--seeds=-1",), "--seeds=-1: expected numbers"),
        (("--factors=big",), "--factors=big: expected numbers"),
        (("again",), "Unexpected argument 'again'"),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    code, _, error = start(*flags, f"--out={tmp_path}")
    assert code == 2 and words in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_missing_data(tmp_path):
    places = [f"--{flag}={tmp_path / name}" for flag, name in (("data_dir", ""), ("out", "o"), ("work", "w"))]
    code, _, error = start("--nets=fashion_cnn", *places)
    assert code == 1 and "fashion_mnist_train.npz is missing" in error
    assert "Traceback" not in error
