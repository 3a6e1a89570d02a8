r"""A low-bit LSTM language model: embedding, LSTM and softmax at 1 to 8 bits, the hidden state too, at any width.

    python examples/ptb_lstm.py                                       # a small generated text, float
    python examples/ptb_lstm.py --data_dir=DIR                        # Penn Treebank, 300 units, the float network
    python examples/ptb_lstm.py --data_dir=DIR --start_from=out/ptb/float_w32a32_300units_seed0_12epochs_from0.npz \
        --weight_bits=2 --activation_bits=3 --width=1.5 --method=alternating
    python examples/ptb_lstm.py --data_dir=DIR --export               # also writes and checks the .tflite file
    python examples/ptb_lstm.py --table                               # all rows so far, and their plot, results.svg

Every finished run is a row of `results.json`. Training is truncated back-propagation over windows of 30 words, with the
LSTM's state carried from window to window. The perplexity is that of the whole validation text, over all words of the
vocabulary. To resume a killed run after its last whole epoch, run the same command again.

With `--export`, one step of the network is written to a `.tflite` file with low-bit weights, which then reads the text
word by word on ai-edge-litert, next to Keras. A finished run is not trained again for that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common_lib.flag_checks import UsageError
from common_lib.program import make_console, start
from ptb_lib.settings import Settings, settings_from_flags

from r2keras._util.native_log import quiet_imports


def main() -> int:
    """Trains one network, or prints the table; returns the exit code."""
    settings = settings_from_flags()
    with quiet_imports():  # Keras imports TensorFlow, so it waits until the flags are checked.
        import keras
    if settings.table:
        show_table(settings)
        return 0
    if keras.backend.backend() != "tensorflow":
        raise ValueError("This example trains on the TensorFlow backend: unset KERAS_BACKEND")
    with quiet_imports():
        from ptb_lib.run import run
    run(settings, make_console())
    return 0


def show_table(settings: Settings) -> None:
    """Prints the table of all rows and draws their plot."""
    from ptb_lib.plot import write_front
    from ptb_lib.rows import read_rows, table

    rows = read_rows(Path(settings.results))
    if not rows:
        raise UsageError(f"{settings.results} has no rows yet: run the example without --table first")
    path = Path(settings.results).with_suffix(".svg")
    write_front(rows, path)
    sys.stdout.write(f"{table(rows)}\nPlot: {path}\n")


if __name__ == "__main__":
    start(main)
