"""The pilot as a person runs it: to the end, killed and resumed, stopped, and with bad flags."""

import html
import json
import os
import re
import shlex
import signal
import time
from importlib import import_module
from pathlib import Path

import pytest

from r2keras import CompressionRecord
from tests import scripts

KEYS = {
    "regularizer",
    "method",
    "num_bits",
    "seed",
    "float_accuracy",
    "accuracy",
    "file_accuracy",
    "file_bytes",
    "ideal_bytes",
    "latency_ms",
    "max_over_std",
    "path",
    "validation_accuracy",
    "float_validation_accuracy",
    "test_samples",
    "validation_samples",
}
# One of the two float models of a smoke run, and two of its four jobs, one of them with 8 bits at the edges.
FEW = ("--regularizers=linf", "--methods=ptq_mse@4,qat@2")
SMALL = ("--smoke", "--regularizers=none", "--bits=4", "--methods=ptq_mse")


def run(*flags, **options):
    """Runs the pilot; returns its exit code, standard output and standard error."""
    return scripts.run("examples/pilot.py", *flags, **options)


def run_warm(*flags, **options):
    """Does the same where TensorFlow is imported already."""
    return scripts.run_warm("examples/pilot.py", *flags, **options)


def rows_in(folder):
    """Returns the finished rows."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def wait_for_a_row(pid, folder):
    """Waits until the process of a run has finished a row."""
    while not rows_in(folder):
        os.kill(pid, 0)  # Raises if it has ended.
        time.sleep(0.05)


def state(folder):
    """Returns every kept file with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"}


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A smoke run that is killed after its first row and started again: folder, rows at the kill, output."""
    folder = tmp_path_factory.mktemp("pilot") / "out"
    flags = ("--smoke", f"--out={folder}", *FEW)
    with scripts.started_warm("examples/pilot.py", *flags, cwd=folder.parent) as (pid, finish):
        wait_for_a_row(pid, folder)
        os.kill(pid, signal.SIGKILL)
        assert finish()[0] == -signal.SIGKILL
    first = rows_in(folder)
    code, out, error = run_warm(*flags, cwd=folder.parent)
    assert code == 0, error
    assert list(folder.parent.iterdir()) == [folder]
    return folder, first, out


class TestKilledAndResumed:
    def test_one_complete_row_per_experiment(self, killed_and_resumed):
        rows = rows_in(killed_and_resumed[0])
        assert all(set(row) >= KEYS and None not in row.values() for row in rows)
        found = sorted((r["regularizer"], r["method"], r["num_bits"], r["seed"]) for r in rows)
        jobs = [("float", 32), ("ptq_mse", 4), ("qat", 2)]
        assert found == [("linf", *job, 0) for job in jobs]

    def test_figures(self, killed_and_resumed):
        for row in rows_in(killed_and_resumed[0]):
            assert Path(row["path"]).stat().st_size == row["file_bytes"] > row["ideal_bytes"] > 0
            assert row["file_accuracy"] == pytest.approx(row["accuracy"], abs=0.01)
            assert row["latency_ms"] > 0 and row["max_over_std"] > 1
            assert 0 <= row["float_accuracy"] <= 1
            assert (row["test_samples"], row["validation_samples"]) == (256, 129)

    def test_fewer_bits_are_smaller_files(self, killed_and_resumed):
        sizes = {row["num_bits"]: row["file_bytes"] for row in rows_in(killed_and_resumed[0])}
        assert sizes[32] > 4 * sizes[4] and sizes[4] > 1.2 * sizes[2]

    def test_rows_of_before_the_kill_are_kept(self, killed_and_resumed):
        folder, first, _ = killed_and_resumed
        assert first and rows_in(folder)[: len(first)] == first

    def test_ends_with_table_and_advice(self, killed_and_resumed):
        folder, _, out = killed_and_resumed
        assert "ptq_mse" in out and "report.html" in out
        assert (folder / "report.html").stat().st_size > 10_000
        assert (folder / "models" / "linf_seed0.keras").is_file()
        assert (folder / "files" / "linf_seed0_qat_w2.npz").is_file()

    def test_the_report_links_the_files_and_says_what_to_do_next(self, killed_and_resumed):
        folder, _, out = killed_and_resumed
        assert "Chosen on 129 validation samples" in " ".join(out.split())
        page = (folder / "report.html").read_text(encoding="utf-8")
        links = re.findall(r'<a href="([^"]*)"', page)
        assert links and all((folder / link).is_file() for link in links)
        commands = [html.unescape(text) for text in re.findall(r"<pre>(r2keras-[^<]*)</pre>", page)]
        expected = "verify convert page convert android convert"
        assert [command.split()[0] for command in commands] == [f"r2keras-{name}" for name in expected.split()]
        for command in commands:
            name, *flags = shlex.split(command)
            assert import_module(f"r2keras.cli.{name.removeprefix('r2keras-')}").main([name, *flags]) == 0

    def test_settings_at_their_default_are_folded_away(self, killed_and_resumed):
        page = (killed_and_resumed[0] / "report.html").read_text(encoding="utf-8")
        shown, _, folded = page.partition("Settings at their default")
        assert "<dt>epochs</dt><dd>1</dd>" in shown
        assert "<dt>batch_size</dt><dd>64</dd>" in folded and "<dt>model</dt><dd>tapered_cnn</dd>" in folded

    def test_other_settings_are_refused(self, killed_and_resumed):
        folder, _, _ = killed_and_resumed
        before = state(folder)
        code, _, error = run_warm("--smoke", "--epochs=2", f"--out={folder}", *FEW)
        assert code == 2 and error.count("\n") == 1
        assert "--epochs=1" in error and "--epochs=2" in error and "choose another --out" in error
        assert state(folder) == before

    def test_a_second_run_only_reports(self, killed_and_resumed):
        folder, _, _ = killed_and_resumed
        before = state(folder)
        code, out, error = run_warm("--smoke", f"--out={folder}", *FEW, "--max_drop=0.99", "--max_bytes=1")
        assert code == 0, error
        assert "No result meets the limits" in out
        assert state(folder) == before


def test_help_shows_the_flags_and_their_defaults():
    code, out, _ = run("--help")
    lines = {line.split(":")[0].strip(" -"): line for line in out.splitlines() if line.startswith("  --")}
    assert code == 0 and len(lines) > 15
    assert lines["max_drop"].endswith("0.01 is one point. Default: 0.01.")
    assert "by default 15 for digits, 6 for fashion_mnist" in lines["epochs"]
    assert {"dataset", "model", "methods", "bits", "seeds", "epochs", "out", "smoke", "edge_bits"} <= set(lines)


@pytest.mark.slow
def test_every_job_of_a_smoke_run(tmp_path):
    code, _, error = run_warm("--smoke", f"--out={tmp_path}")
    assert code == 0, error
    jobs = {("float", 32), *((method, bits) for method in ("ptq_mse", "qat") for bits in (4, 2))}
    found = {(row["regularizer"], row["method"], row["num_bits"]) for row in rows_in(tmp_path)}
    assert found == {(name, *job) for name in ("none", "linf") for job in jobs}


@pytest.mark.slow
def test_palettes_by_name(tmp_path):
    methods = "ptq_palette", "dkm", "dkm_vector"
    code, _, error = run_warm(
        "--smoke", "--regularizers=none", "--bits=1", f"--methods={','.join(methods)}", f"--out={tmp_path}"
    )
    assert code == 0, error
    rows = {row["method"]: row for row in rows_in(tmp_path)}
    assert set(rows) == {"float", *methods}
    dims = {}
    for method in methods:
        assert rows[method]["file_accuracy"] == pytest.approx(rows[method]["accuracy"], abs=0.01)
        record = CompressionRecord.load(Path(rows[method]["path"]).with_suffix(".npz"))
        dims[method] = {t.spec.dim for t in record.tensors.values() if t.spec.kind == "palettize"}
    assert dims == {"ptq_palette": {1}, "dkm": {1}, "dkm_vector": {4}}


@pytest.mark.slow
def test_methods_and_activations_by_name(tmp_path):
    methods = "ptq_equalize,ptq_adaround,lsq,ewgs,dorefa,pact,wrpn,ternary,binary"
    flags = ("--smoke", "--regularizers=none", "--bits=4,2", f"--methods={methods}", "--activation_bits=8")
    code, _, error = run_warm(*flags, f"--out={tmp_path}")
    assert code == 0, error
    rows = {(row["method"], row["num_bits"]): row for row in rows_in(tmp_path)}
    widths = {"ternary": [2], "binary": [1]}
    assert set(rows) == {("float", 32)} | {(m, bits) for m in methods.split(",") for bits in widths.get(m, [4, 2])}
    for (method, _), row in rows.items():
        assert row["file_accuracy"] == pytest.approx(row["accuracy"], abs=0.02)
        if method != "float":
            record = CompressionRecord.load(Path(row["path"]).with_suffix(".npz"))
            assert {grid.num_bits for grid in record.activations.values()} == {8}


def test_stopped_by_the_person(tmp_path):
    folder = tmp_path / "out"
    with scripts.started_warm("examples/pilot.py", *SMALL, f"--out={folder}") as (pid, finish):
        wait_for_a_row(pid, folder)
        os.kill(pid, signal.SIGINT)
        code, out, error = finish()
    assert code == 130, error
    assert "Finished rows: 1" in out and "to resume" in out and "Traceback" not in error


def test_a_model_file_without_training(tmp_path):
    from r2keras.workloads import nets

    nets.cnn((8, 8, 1), 10).save(tmp_path / "mine.keras")
    folder = tmp_path / "out"
    code, _, error = run_warm(*SMALL, f"--model={tmp_path / 'mine.keras'}", "--epochs=0", f"--out={folder}")
    assert code == 0, error
    assert [row["model"] for row in rows_in(folder)] == ["mine.keras"] * 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bits=9"], "expected integers from 1 to 8"),
        (["--bits=four"], "expected integers"),
        (["--bits="], "--bits"),
        (["--regularizers=none,linff"], "--regularizers=linff is unknown"),
        (["--methods=ptq"], "expected one of ptq_min_max"),
        (["--dataset=mnist"], "expected one of digits"),
        (["--granularity=per_group"], "expected one of per_channel"),
        (["--seeds=0"], "expected integers from 1"),
        (["--seeds=a,b"], "expected integers"),
        (["--epochs=0"], "expected at least 1"),
        (["--max_drop=1"], "one percentage point is 0.01"),
        (["--max_accuracy_drop=1"], "--max_drop=1.0 is not a fraction"),
        (["--methods=qat@9"], "expected integers from 1 to 8"),
        (["--methods=qat@"], "expected integers"),
        (["--methods=ternary@4"], "ternary has 2 bits per weight"),
        (["--max_bytes=0"], "expected at least 1"),
        (["--edge_bits=9"], "at most 8"),
        (["--activation_bits=9"], "expected 2 to 8"),
        (["--methods=qat,pact"], "give --activation_bits too"),
        (["--methods=dkm", "--activation_bits=8"], "cannot be combined with --methods=dkm"),
        (["--methods=wrpn", "--bits=2,1"], "remove 1 from --bits"),
        (["--methods=wrpn@1"], "write wrpn@2"),
        (["--learning_rate=-1"], "above 0"),
        (["--factor=0"], "above 0"),
        (["--epoch=3"], "epoch"),
        (["--epochs=x"], "epochs"),
        (["digits"], "write --flag=value"),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    code, out, error = run_warm(*flags, f"--out={tmp_path / 'out'}")
    assert code == 2 and words in error and error.count("\n") == 1 and not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model=cnnn"], "Did you mean 'cnn'"),
        (["--dataset=cifar10", "--data_dir=absent"], "cifar10_train20k.npz is missing"),
    ],
)
def test_bad_input(flags, words, tmp_path):
    code, _, error = run_warm("--smoke", f"--out={tmp_path / 'out'}", *flags)
    assert code == 1 and words in error and error.count("\n") == 1


def test_out_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = run_warm("--smoke", f"--out={tmp_path / 'file' / 'out'}")
    assert code == 1 and "Could not write" in error and error.count("\n") == 1


def test_disk_that_fills_up(tmp_path):
    folder = tmp_path / "out"
    code, _, error = run_warm(*SMALL, f"--out={folder}", file_limit=60_000)
    assert code == 1 and "Could not write" in error and error.count("\n") == 1
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"settings.json"}


class TestProgress:
    """The time left, on a clock of the test's own."""

    @pytest.fixture
    def display(self, monkeypatch):
        import io

        monkeypatch.syspath_prepend(str(scripts.ROOT / "examples"))
        from pilot_lib import progress
        from rich.console import Console

        clock = iter(range(0, 1000, 10))
        monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
        self.screen = io.StringIO()
        return progress.ProgressDisplay(["training", "qat", "training", "qat"], Console(file=self.screen, width=200))

    def test_mean_of_the_kind(self, display):
        assert display.left() == ""
        with display.task("training", "a"):  # 10 s by the clock; a kind not seen yet counts as the others do
            pass
        assert display.left() == "0 min 30 s left"
        with display.task("qat", "b"):
            display.epochs(2).on_epoch_end(0, {})  # one more look at the clock: 20 s
        assert display.left() == "0 min 30 s left"
        assert self.screen.getvalue().splitlines()[-1] == "[2/4] b (0 min 30 s left)"

    def test_within_a_task(self, display):
        with display.task("training", "a"):
            assert display.left(90.4) == "1 min 30 s left of this task"
        with display.task("qat", "b"):
            assert display.left(5.0) == "0 min 25 s left"

    def test_done(self, display):
        for kind in ("training", "qat", "training", "qat"):
            with display.task(kind, kind):
                pass
        assert display.left() == "done"

    def test_a_failed_task_does_not_count(self, display):
        with pytest.raises(OSError), display.task("training", "a"):
            raise OSError
        with display.task("training", "a"):
            pass
        assert "[1/4]" in self.screen.getvalue()
