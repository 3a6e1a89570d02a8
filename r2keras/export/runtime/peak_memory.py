"""Peak memory of running a `.tflite` file, measured in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from r2keras._util.errors import check_threads

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
# The baseline is the process after its imports; memory beyond that is due to the file.
# Writing 5 to clear_refs resets the peak (VmHWM) to the current size (proc(5)).
PROBE = """
import sys
from pathlib import Path
import numpy
from ai_edge_litert.interpreter import Interpreter, OpResolverType
kind = OpResolverType.AUTO if sys.argv[3] == "1" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
def kilobytes(name):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
model = Interpreter(sys.argv[1], num_threads=int(sys.argv[2]), experimental_op_resolver_type=kind)
model.allocate_tensors()
for _ in range(3):
    model.invoke()
print(1024 * (kilobytes("VmHWM") - before))
"""


def peak_memory(path: str | os.PathLike, num_threads: int = 1, *, xnnpack: bool = True) -> int | None:
    """Returns the peak memory of loading a file and running it three times, in bytes; None on systems other than Linux.

    A new process with only LiteRT loads the file. The result is its peak minus its size before loading, so every figure
    includes the code of LiteRT that is paged in during loading (about a megabyte).

    Args:
        path: the file. Open input sizes are run as the file gives them.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether the XNNPACK delegate may run operators.

    Raises:
        RuntimeError: the process failed.
        TypeError: `num_threads` is not an integer.
        ValueError: `num_threads` is out of range.
    """
    num_threads = check_threads(num_threads)
    if not os.access(CLEAR, os.W_OK) or not STATUS.exists():
        return None
    command = [sys.executable, "-c", PROBE, str(path), str(num_threads), str(int(xnnpack))]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise RuntimeError(f"Measuring the memory of {path} failed ({reason}). Check that LiteRT can run the file.")
    return int(process.stdout.split()[-1])
