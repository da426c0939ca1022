"""Each notebook runs from its first cell to its last, and prints what it was saved with."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDS_DATA = sorted(path.stem for path in (ROOT / "examples" / "notebooks").glob("*.ipynb"))

# Jupyter's kernel and pyzmq warn of what they do to each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def saver() -> Iterator[ModuleType]:
    """The script that saves notebooks with their outputs; kernels and commands are forked."""
    for name in ("nbformat", "nbclient"):
        pytest.importorskip(name, reason="needs the dependency group docs: uv sync --group docs")
    spec = importlib.util.spec_from_file_location("save_notebooks", ROOT / "docs" / "save_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from kits.forked_kernels import forked_kernels

    with tempfile.TemporaryDirectory() as folder, forked_kernels(Path(folder)) as kernels:
        module.NotebookClient = functools.partial(module.NotebookClient, kernel_manager_class=kernels)
        yield module


def printed(notebook: Any) -> list[str]:
    """What the cells print, cell by cell."""
    return [
        "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def saved(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def test_the_tutorial_prints_what_it_was_saved_with(saver: ModuleType, demo: Path) -> None:
    before = saved(ROOT / "docs" / "tutorial.ipynb")
    now = saver.run_notebook(ROOT / "docs" / "tutorial.ipynb", demo)
    assert sum(bool(text) for text in printed(before)) >= 8
    assert printed(now) == printed(before)
    assert pictures(now) == 2


@pytest.mark.parametrize("name", NEEDS_DATA)
def test_an_example_prints_what_it_was_saved_with(
    name: str, saver: ModuleType, data_dir: Path, request: pytest.FixtureRequest
) -> None:
    path = ROOT / "examples" / "notebooks" / f"{name}.ipynb"
    before = saved(path)
    text = "".join(cell.source for cell in before.cells)
    if "source-extractor" in text and not shutil.which("source-extractor"):
        pytest.skip("Source Extractor is not installed: apt-get install source-extractor")
    demo = request.getfixturevalue("demo") if "skygraft-demo" in text else None
    now = saver.run_notebook(path, demo, data_dir)
    assert any(printed(before)), f"{name} was never saved with its outputs"
    assert printed(now) == printed(before)
    assert pictures(now) == pictures(before)
