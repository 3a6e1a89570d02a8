r"""A few-bit LSTM language model: embedding, LSTM and softmax at 1 to 8 bits, its hidden state too, widened or not.

    python examples/ptb_lstm.py                                       # a small generated text, float
    python examples/ptb_lstm.py --data_dir=DIR                        # Penn Treebank, 300 units, the float network
    python examples/ptb_lstm.py --data_dir=DIR --start_from=out/ptb/float_w32a32_300units_seed0_12epochs_from0.npz \
        --weight_bits=2 --activation_bits=3 --width=1.5 --method=alternating
    python examples/ptb_lstm.py --data_dir=DIR --export               # and the .tflite: does it compute the same?
    python examples/ptb_lstm.py --table                               # all rows so far, and front.svg

Every finished run is a row of `results.json`. Training is stateful truncated back-propagation over windows of 30 words;
the perplexity is that of the whole validation part, over all words of the vocabulary. A killed run goes on after its
last whole epoch when the same command is given again; a finished one only writes and measures its file, with --export:
one step of the network, few-bit weights inside, run word by word on ai-edge-litert beside Keras.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from absl import app
from pilot_lib.quiet import quiet_start
from ptb_lib.settings import Settings, UsageError, fail, parse_flags, settings_from_flags


def main(argv: list[str]) -> int:
    del argv
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(settings_from_flags())
    except UsageError as error:
        return fail(error, 2)
    except (ValueError, OSError, ImportError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Whole epochs are kept; the same command goes on there.\n")
        return 130


def run(settings: Settings) -> int:
    """Trains one network, or shows what is there; returns the exit code."""
    with quiet_start():  # TensorFlow comes with these: not before the flags are known to be good.
        import keras
        from rich.console import Console
    if settings.table:
        return show(settings)
    if keras.backend.backend() != "tensorflow":
        raise ValueError("The example trains on the TensorFlow backend: unset KERAS_BACKEND")
    with quiet_start():
        from ptb_lib import run as work
    work.run(settings, Console(width=None if sys.stdout.isatty() else 120))
    return 0


def show(settings: Settings) -> int:
    """Prints the table of all rows and draws the front."""
    from ptb_lib.plot import write_front
    from ptb_lib.rows import read_rows, table

    rows = read_rows(Path(settings.results))
    if not rows:
        raise UsageError(f"{settings.results} has no rows yet: run the example without --table first")
    path = Path(settings.results).with_suffix(".svg")
    write_front(rows, path)
    sys.stdout.write(f"{table(rows)}\nFront: {path}\n")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
