"""The matrix: a sample of its cells in every test run, and the parts that judge, resume and count."""

import itertools
import struct

import numpy as np
import pytest

from benchmarks import matrix
from benchmarks.matrix_cells import run_seed
from benchmarks.matrix_layers import DOMAINS
from benchmarks.matrix_models import FEATURED, build
from benchmarks.matrix_recipes import draw
from benchmarks.matrix_runtimes import Outputs, load_bundle
from benchmarks.matrix_verdicts import (
    EXACT,
    FAULT,
    GOOD,
    REFUSED,
    ROUNDED,
    VERSION,
    WRONG,
    refusal,
    same_dynamic,
    same_floats,
    same_integers,
)

# Seeds of a few layers each; those of all kinds take hours.
SAMPLE = (9, 14)


@pytest.mark.parametrize("seed", SAMPLE)
def test_no_cell_of_the_sample_is_wrong(seed, microcontrollers):
    rows = list(run_seed(seed))
    assert [row for row in rows if row["verdict"] not in GOOD] == []
    assert rows[0]["verdict"] == EXACT and len(rows) >= 5


def test_a_seed_gives_the_same_again():
    cases = [build(3) for _ in range(2)]
    assert cases[0].model.get_config() == cases[1].model.get_config()
    for a, b in zip(cases[0].model.weights + cases[0].testing, cases[1].model.weights + cases[1].testing, strict=True):
        assert np.array_equal(a, b)
    assert str(draw(3, cases[0].model)) == str(draw(3, cases[1].model))


def test_every_block_is_the_subject_of_a_seed():
    featured = {name for _, name in FEATURED}
    assert featured >= {name for blocks in DOMAINS.values() for name in blocks}


SENTENCE = "Invalid value for argument `recipe`. Expected 1. Received: recipe=2."


@pytest.mark.parametrize(
    ("error", "stage", "verdict"),
    [
        (ValueError(SENTENCE), "prepare", REFUSED),
        (TypeError(SENTENCE), "calibrate", REFUSED),
        (ValueError(SENTENCE), "finalize", FAULT),
        (ValueError(SENTENCE), "exact", FAULT),
        (ValueError(f"LiteRT for Microcontrollers cannot run it (no GELU). {SENTENCE}"), "tflm", REFUSED),
        (KeyError(SENTENCE), "prepare", FAULT),
        (ValueError(SENTENCE.replace("recipe", "specs")), "prepare", FAULT),
        (ValueError("Shapes do not match"), "prepare", FAULT),
        (RuntimeError(f"{SENTENCE} This is a defect of r2keras."), "calibrate", FAULT),
        (TypeError(f"Exception encountered when calling f. {SENTENCE}"), "prepare", FAULT),
    ],
)
def test_refusals_come_early_and_say_what_was_expected(error, stage, verdict):
    assert refusal(error, stage)[0] == verdict


def test_floats_are_exact_but_for_ties():
    expected = [np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)]
    off = expected[0].copy()
    off[2] += 0.01
    tied = np.arange(4) == 2
    assert same_floats(expected, Outputs([expected[0] + 5e-6], [None]), None, False)[0] == EXACT
    assert same_floats(expected, Outputs([off], [None]), None, False)[0] == WRONG
    assert same_floats(expected, Outputs([off], [None]), lambda: tied, False)[0] == EXACT
    assert same_floats(expected, Outputs([off], [None]), lambda: ~tied, False)[0] == WRONG
    assert same_floats(expected, Outputs([off * np.nan], [None]), lambda: tied, False)[0] == WRONG
    assert same_floats(expected, Outputs([off[:2]], [None]), lambda: tied, False)[0] == WRONG


def test_integers_may_be_a_step_off():
    expected = [np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)]
    nothing = lambda: [0.0]  # noqa: E731
    step = 0.02
    one, three = (expected[0] + k * step for k in (1, 3))
    assert same_integers(expected, Outputs([one], [step]), nothing)[0] == EXACT
    assert same_integers(expected, Outputs([three], [step]), nothing)[0] == WRONG
    assert same_integers(expected, Outputs([three], [step]), lambda: [4 * step])[0] == ROUNDED
    assert same_integers(expected, Outputs([expected[0][:, ::-1]], [step]), lambda: [2 * step])[0] == WRONG


def test_the_loader_of_bundles_is_that_of_the_document():
    from tests.export.bundle_loader import load

    # One weight of 2 x 3 values in vectors of 2, 4-bit codes, a factor per column, after a skeleton of 16 bytes.
    codes, table = bytes([0x10, 0x32]), np.arange(8, dtype="<f4")
    factors = np.array([1, 10, 100], "<f4")
    blocks = [bytes(range(16)), codes.ljust(16, b"\0"), table.tobytes(), factors.tobytes().ljust(16, b"\0"), bytes(16)]
    starts = list(itertools.accumulate(map(len, blocks), initial=112))
    numbers = [16, 2, 3, 1, 2, 4, starts[1], starts[2], starts[4], 1, 1, starts[3], 1, 3, *[0] * 6]
    head = struct.pack("<8s4I", b"R2KBNDL1", 1, starts[0], 16, 16 + 24) + struct.pack("<20I", *numbers)
    bundle = head.ljust(112, b"\0") + b"".join(blocks)
    assert load_bundle(bundle) == load(bundle)
    assert np.frombuffer(load_bundle(bundle), "<f4", 6, 16).tolist() == [0, 10, 200, 4, 50, 600]


def row(cell, verdict=EXACT, **more):
    return {"cell": cell, "verdict": verdict, "kinds": ["lstm"], "version": VERSION, "reason": "", "recipe": ""} | more


def test_seeds_with_rows_are_not_run_again():
    rows = [row("0-keras"), row("0-exact", WRONG), row("2-keras")]
    assert list(itertools.islice(matrix.seeds_to_run(rows, 0, False), 3)) == [1, 3, 4]
    assert list(itertools.islice(matrix.seeds_to_run(rows, 0, True), 3)) == [0, 1, 3]
    rows = [row("0-keras"), row("0-dynamic"), row("1-keras"), row("1-exact"), row("2-keras", REFUSED)]
    assert list(itertools.islice(matrix.seeds_to_run(rows, 0, False, ["dynamic"]), 3)) == [1, 3, 4]


def test_dynamic_files_may_differ_by_ties_and_a_little_by_rounding():
    expected = [np.linspace(0, 1, 1000).reshape(10, 100)]

    def verdict(off):
        return same_dynamic(expected, Outputs([expected[0] + off], [None]))[0]

    tie = np.zeros((10, 100))
    tie[3] = 0.005
    assert verdict(0.0) == verdict(tie) == EXACT
    assert verdict(0.01) == verdict(4 * tie) == ROUNDED
    assert verdict(0.05) == verdict(np.nan) == WRONG
    moved = [expected[0] + 0.06]
    assert same_dynamic(expected, Outputs([expected[0] + 0.05], [None]), moved)[0] == ROUNDED


def test_a_crash_is_a_fault_and_ends_no_other_cell(monkeypatch):
    monkeypatch.setattr(matrix.Worker, "_start", lambda self: None)
    worker = matrix.Worker(seed=5, rows=[row("5-keras")])

    class Process:
        exitcode = -11

        def join(self):
            pass

        kill = join

    class Pipe:
        def recv(self):
            raise EOFError

    worker.process, worker.pipe = Process(), Pipe()
    rows = worker.take(True)
    assert [r["cell"] for r in rows] == ["5-keras", "5-crash"] and rows[1]["verdict"] == FAULT
    assert "-11, after 5-keras" in rows[1]["reason"] and worker.seed is None


def test_tables_count_by_form_and_kind():
    rows = [row("0-keras"), row("0-tflm", REFUSED), row("1-keras", FAULT), row("1-exact", WRONG, kinds=["conv"])]
    lines = matrix.table(rows).splitlines()
    assert lines[2] == "| keras | 1 | 0 | 0 | 0 | 1 |" and "| all | 1 | 0 | 1 | 1 | 1 |" in lines
    assert lines[-2:] == ["| conv | 0 | 0 **1** | 0 |", "| lstm | 1 **1** | 0 | 0 (1) |"]
