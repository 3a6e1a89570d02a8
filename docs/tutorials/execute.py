"""Executes the tutorial notebooks and stores their outputs: `python docs/tutorials/execute.py [NAME ...]`."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

import nbformat
from absl import app, logging
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
# Far more than any cell needs, so that only a cell that hangs ends there.
SECONDS_PER_CELL = 3600
# Lines of TensorFlow's native log, which differ between machines; warnings and errors of Python are kept.
NATIVE_LOG = re.compile(r"^(WARNING: All log messages before absl|[IWEF]\d{4} [\d:]{5}|[\d-]{10} \d\d:.*: [IWEF] )")
# One thread per operator and no GPU: the outputs then depend little on the machine.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "KERAS_BACKEND": "tensorflow",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTRAOP_THREADS": "1",
}


def notebooks(names: list[str]) -> list[Path]:
    """Returns the paths of the notebooks with these names, or of all.

    Raises:
        FileNotFoundError: no notebook has that name.
    """
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.ipynb")))
            raise FileNotFoundError(f"{path.name} is missing. Expected one of: {known}. Pass its name without .ipynb.")
    return paths


def execute(path: Path) -> nbformat.NotebookNode:
    """Returns a notebook with the outputs of a run in an empty folder; the file is left untouched.

    Args:
        path: the notebook.

    Raises:
        CellExecutionError: a cell raised an error.
        CellTimeoutError: a cell took longer than an hour.
    """
    notebook = nbformat.read(path, as_version=4)
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", record_timing=False)
        client.execute(cwd=folder, env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(without_native_log, cell.outputs) if output.get("text") != ""]
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def without_native_log(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Removes lines of TensorFlow's native log from an output that is a stream of standard error."""
    if output.output_type == "stream" and output.name == "stderr":
        lines = output.text.splitlines(keepends=True)
        output.text = "".join(line for line in lines if not NATIVE_LOG.match(line)).strip("\n")
    return output


def main(arguments: list[str]) -> None:
    """Executes the named notebooks, or all, and writes each when it has finished."""
    for path in notebooks(arguments[1:]):
        start = time.monotonic()
        notebook = execute(path)
        nbformat.write(notebook, path)
        logging.info("%s: %.0f s", path.name, time.monotonic() - start)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    app.run(main)
