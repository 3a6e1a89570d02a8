"""How much memory a `.tflite` file takes to run, measured on a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
# A process that has imported everything and run nothing; what it takes more from here on is the file's.
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
    """Returns the most memory that loading a file and running it three times took, in bytes; None off Linux.

    A fresh process with LiteRT alone loads the file; counted is what it holds at its highest beyond what it held
    before, so code that LiteRT touches for the first time (about a megabyte) is in every figure.

    Args:
        path: the file, of fixed input shapes or run at those it gives.
        num_threads: threads of the interpreter.
        xnnpack: whether the XNNPACK delegate may run operators.

    Raises:
        RuntimeError: the process failed.
    """
    if not os.access(CLEAR, os.W_OK) or not STATUS.exists():
        return None
    command = [sys.executable, "-c", PROBE, str(path), str(num_threads), str(int(xnnpack))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"Measuring the memory of {path} failed ({reason}).")
    return int(done.stdout.split()[-1])
