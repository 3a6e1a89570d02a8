"""The benchmark of palettes: its naive formula is correct, interrupted runs resume, all rows are shown."""

import json

import numpy as np
import pytest

from benchmarks import dkm, dkm_scaling, dkm_step
from benchmarks.common import Rows
from tests.oracles_dkm import numpy_dkm

ABOUT = {"cpu": "X", "cores": 2, "system": "Linux", "versions": {"numpy": "2"}, "date": "2026-01-01", "load": 0.1}
FIGURES = {"step_s": 0.0481, "cpu_s": 0.05, "extra_mb": 127.4}


def row_of(num_bits=4, dim=1, way="r2keras", load=0.1):
    return {"num_bits": num_bits, "dim": dim, "way": way, **FIGURES, "start_s": 0.6, "machine": ABOUT | {"load": load}}


def test_the_naive_form_is_the_formula():
    tf = pytest.importorskip("tensorflow")
    vectors = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    found = dkm_step.naive(tf, tf.constant(vectors), tf.constant(vectors[:4]), 0.2 * vectors.var(axis=0).mean())
    np.testing.assert_allclose(found.numpy(), numpy_dkm(vectors, vectors[:4], 0.2)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dim", dkm_scaling.DIMS)
def test_both_ways_take_the_same_step(dim):
    tf = pytest.importorskip("tensorflow")
    values = (0.02 * np.random.default_rng(0).normal(size=(400, dim))).astype("float32")
    start = tf.constant(dkm_step._spread(values, 4)[None])
    ours, naive = (dkm_step._step(tf, way, values, start, 0.1, 2)().numpy() for way in dkm_step.WAYS)
    assert np.linalg.norm(ours - naive) < 1e-2 * np.linalg.norm(naive)


def test_steps_stop_at_the_limit_of_time_or_of_number():
    for seconds, wanted in ((0.0, dkm_step.FEWEST), (60.0, dkm_step.REPEATS)):
        calls = []
        found = dkm_step._timed(lambda: calls.append(1), seconds)  # noqa: B023
        assert len(calls) == 1 + wanted and 0 <= found["step_s"] < 1


@pytest.mark.slow
def test_the_memory_of_vectors_does_not_grow_with_the_updates():
    pytest.importorskip("tensorflow")
    config = {"way": "r2keras", "num_bits": 6, "dim": 4, "size": 2**18, "search": False, "seconds": 0.0}
    few, many = (dkm_step.apart({**config, "updates": updates})["extra_mb"] for updates in (1, 9))
    # One map of assignments is 16 MiB; kept, there would be one an update.
    assert many - few < 0.6 * 8 * 16


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"ended with status 1: TypeError.*no_such"):
        dkm_step.apart({"no_such": 1})


def test_every_panel_has_every_value_and_what_does_not_fit_is_left_out():
    points = dkm_scaling.points()
    assert len({tuple(point.values()) for point in points}) == len(points)
    for panel, values in dkm_scaling.PANELS.items():
        for dim in dkm_scaling.DIMS:
            found = [point[panel] for point in dkm_scaling.series(points, panel, "r2keras", dim)]
            assert found == sorted(values)
        naive = [point[panel] for point in dkm_scaling.series(points, panel, "naive", 1)]
        assert set(naive) < set(values) or panel == "updates"
    assert not [p for p in points if p["way"] == "naive" and p["num_bits"] == 8]


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    path, seen = tmp_path / "rows.json", []

    def measure(config):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(config)
        return FIGURES

    with pytest.raises(KeyboardInterrupt):
        dkm_scaling.run(Rows(path, dkm_scaling.KEYS), measure=measure)
    assert len(json.loads(path.read_text())) == 3
    assert not dkm_scaling.run(Rows(path, dkm_scaling.KEYS), minutes=-1, measure=measure)
    rest = []
    rows = Rows(path, dkm_scaling.KEYS)
    assert dkm_scaling.run(rows, measure=lambda config: rest.append(config) or FIGURES)
    assert len(rest) == len(dkm_scaling.points()) - 3 == len(rows.rows) - 3
    assert f"4 of {len(rows.rows)}: " in capsys.readouterr().err


def test_the_plot_has_three_panels_of_both_figures(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [{**point, **FIGURES, "machine": ABOUT} for point in dkm_scaling.points()]
    dkm_scaling.write_plot(rows, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    words = *dkm_scaling.LABELS.values(), *dkm_scaling.FIGURES.values(), "naive, scalars", "naive, vectors of 4", "2^22"
    assert all(f">{word}<" in text for word in words)
    dkm_scaling.write_plot(rows[:1], tmp_path / "again.svg")
    dkm_scaling.write_plot(rows, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    header, _, first, *_ = dkm.scaling_table(rows).splitlines()
    assert header.count("|") == first.count("|") and first.startswith("| 16,384 | 4 / 1 | 3 | naive | 0.0481 |")


def test_configs_without_rows_are_measured_or_those_that_are_named():
    rows = [row_of(way=way) for way in dkm_step.WAYS] + [row_of(2)]
    assert dkm.chosen(None, rows, dkm_step.WAYS) == [(2, 1), (4, 4), (4, 2)]
    assert dkm.chosen(None, rows, (*dkm_step.WAYS, dkm.PEER)) == list(dkm.CONFIGS)
    assert dkm.chosen(["4/1"], rows, dkm_step.WAYS) == [(4, 1)]
    with pytest.raises(ValueError, match=r"--configs=3/1 is unknown\. Expected bits/dim of: 4/1"):
        dkm.chosen(["3/1"], rows, dkm_step.WAYS)


def test_table():
    lines = dkm.table([row_of(2), row_of()]).splitlines()
    assert lines[2:4] == [
        "| 4 / 1 | r2keras | 0.048 | 0.050 | 127 | 0.60 |",
        "| 2 / 1 | r2keras | 0.048 | 0.050 | 127 | 0.60 |",
    ]
    assert lines[5:] == ["2026-01-01: X, 2 cores, Linux; numpy 2; load 0.1 before the run."]


def test_rows_of_different_runs_name_their_machines():
    lines = dkm.table([row_of(2, load=7.0), row_of(4), row_of(4, 2)]).splitlines()[6:]
    assert [line.partition(": 2026")[0] for line in lines if line] == ["4 / 1; 4 / 2", "2 / 1"]
    assert lines[-1].endswith("load 7.0 before the run.")
