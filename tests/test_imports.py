"""Modules of a room import each other in one direction, also inside of functions."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import skygraft

ROOT = Path(skygraft.__file__).parent
ROOMS = ["fitsfile", "wcs", "skymap", "catalog", "psf", "photometry", "formats", "survey", "qa", "demo", "cli"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_no_circle_of_imports(room: str) -> None:
    modules = {module_name(path): path for path in (ROOT / room).rglob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = {
            full if (full := f"{node.module}.{alias.name}") in modules else str(node.module)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        imports[name] = (found & modules.keys()) - {name}
    assert len(imports) > 2 and any(imports.values())
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
