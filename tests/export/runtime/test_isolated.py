"""Files in a process of their own: the same results, and errors where that process crashes or hangs."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from r2keras.export import LiteRTModel, TFLMModel, to_tflm, verify
from r2keras.export.runtime import isolated, sessions
from r2keras.export.tflite import schema
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.writer import write
from tests.export.models import dense_net, random_inputs


@pytest.fixture(scope="module")
def for_microcontrollers(tmp_path_factory):
    pytest.importorskip("tflite_micro")
    model = dense_net()
    path = tmp_path_factory.mktemp("mcu") / "mcu.tflite"
    to_tflm(model, path, check=False)
    return model, path


def test_results_are_the_same(exported):
    model, _, path, _ = exported
    inputs = random_inputs(model)
    here, apart = LiteRTModel(path), LiteRTModel(path, isolated=True)
    assert (apart.input_names, apart.input_shapes) == (here.input_names, here.input_shapes)
    np.testing.assert_array_equal(apart.predict(inputs, 7), here.predict(inputs, 7))
    assert apart.latency(3).median_ms > 0
    assert verify(model, path, inputs, isolated=True) == verify(model, path, inputs)


def test_results_are_the_same_for_microcontrollers(for_microcontrollers):
    model, path = for_microcontrollers
    inputs = random_inputs(model)
    np.testing.assert_array_equal(TFLMModel(path, isolated=True).predict(inputs), TFLMModel(path).predict(inputs))


def test_a_crash_is_an_error_and_the_process_is_gone(exported):
    model = LiteRTModel(exported[2], isolated=True)
    process = model._session._process
    process.kill()
    with pytest.raises(ValueError, match=r"dense\.tflite cannot be run: it ended the runtime's process with SIGKILL"):
        model.predict(random_inputs(exported[0]))
    assert process.returncode is not None


def test_a_file_that_crashes_the_runtime_is_an_error(exported, tmp_path):
    """An operator that is called another one passes the checks, and reads what it does not have."""
    file = read(exported[2])
    graph = file.subgraphs[0]
    operator = graph.operators[-1]
    schema.set_kind(file, operator, "HASHTABLE_LOOKUP", 1)
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    path = tmp_path / "m.tflite"
    path.write_bytes(write(file))
    with pytest.raises(ValueError, match=r"m\.tflite"):
        LiteRTModel(path, isolated=True).predict(random_inputs(exported[0]))


def test_a_file_that_does_not_end_is_an_error(exported, monkeypatch):
    monkeypatch.setattr(isolated, "LIMIT_SECONDS", 0.001)
    with pytest.raises(ValueError, match=r"cannot be run: it did not finish within 0\.001 seconds"):
        LiteRTModel(exported[2], isolated=True)


def test_an_interrupt_leaves_no_timer(exported, monkeypatch):
    """Python would wait ten minutes for it at exit."""
    timers = []

    class Interrupted(threading.Timer):
        def start(self):
            timers.append(self)
            super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(isolated.threading, "Timer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        LiteRTModel(exported[2], isolated=True)
    try:
        assert timers[0].daemon and timers[0].finished.is_set()
    finally:
        timers[0].cancel()


def test_the_process_ends_with_the_model(exported):
    model = LiteRTModel(exported[2], isolated=True)
    process = model._session._process
    assert process.poll() is None
    del model
    assert process.poll() is not None


def test_the_process_imports_neither_keras_nor_tensorflow():
    """It runs the source of one module, whose imports are NumPy and the runtimes."""
    code = Path(sessions.__file__).read_text(encoding="utf-8")
    checks = "import sys; assert not {'keras', 'tensorflow', 'r2keras'} & set(sys.modules), sys.modules"
    code = code.replace("serve(sys.stdin.buffer, answers)", checks)
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
