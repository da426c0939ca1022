"""Save the notebooks with their outputs.

`uv run --group docs python docs/save_notebooks.py skygraft-demo DATA [NAME ...]`, where the arguments are the folder
that `skygraft demo` makes, the reference data, and the notebooks; by default all of them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOKS = [HERE / "tutorial.ipynb", *sorted((HERE.parent / "examples" / "notebooks").glob("*.ipynb"))]
VARIES = "varies"
"""Tag of cells whose output differs from run to run, such as times: it is not saved."""


def run_notebook(path: Path, demo: Path | None = None, data: Path | None = None) -> nbformat.NotebookNode:
    """The notebook with the outputs that its cells have; a cell that fails raises its error.

    Parameters
    ----------
    path : Path
        The notebook.
    demo : Path, optional
        The folder that `skygraft demo` makes, which the notebook finds beside itself.
    data : Path, optional
        The reference data, which the notebook finds as ``data`` beside itself.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for name, target in {"skygraft-demo": demo, "data": data}.items():
            if target is not None:
                (Path(folder) / name).symlink_to(target.resolve())
        # The shell's cells find the command of this environment.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        NotebookClient(
            notebook,
            kernel_name="python3",
            record_timing=False,
            timeout=None,
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            # What is compiled and how long it takes differs from run to run.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            if VARIES in cell.metadata.get("tags", []):
                cell.outputs = []
    return notebook


if __name__ == "__main__":
    _, demo_folder, data_folder, *names = sys.argv
    for notebook in NOTEBOOKS:
        if not names or notebook.stem in names:
            nbformat.write(run_notebook(notebook, Path(demo_folder), Path(data_folder)), notebook)
