"""Save the tutorial with its outputs: `uv run --group docs python docs/save_tutorial.py skygraft-demo`.

The argument is the folder that `skygraft demo` makes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).with_name("tutorial.ipynb")


def run_tutorial(demo: Path) -> nbformat.NotebookNode:
    """The tutorial with the outputs that its cells have on a demo's folder; a cell that fails raises its error."""
    notebook = nbformat.read(TUTORIAL, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "skygraft-demo").symlink_to(demo.resolve())
        NotebookClient(
            notebook, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            # What is compiled and how long it takes differs from run to run.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    nbformat.write(run_tutorial(Path(sys.argv[1])), TUTORIAL)
