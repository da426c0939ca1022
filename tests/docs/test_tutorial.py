"""The tutorial runs from its first cell to its last, and prints what it was saved with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def printed(notebook: Any) -> list[str]:
    """What the cells print, cell by cell."""
    return [
        "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


# Jupyter's kernel and pyzmq warn of what they do to each other.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_it_prints_what_it_was_saved_with(demo: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the dependency group docs: uv sync --group docs")
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("save_tutorial", DOCS / "save_tutorial.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    saved = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    now = module.run_tutorial(demo)
    assert sum(bool(text) for text in printed(saved)) >= 8
    assert printed(now) == printed(saved)
    outputs = [output for cell in now.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
