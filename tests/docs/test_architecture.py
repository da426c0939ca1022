"""The page on the architecture names modules that exist, and the layers that import-linter checks."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_the_layers_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    table = re.search(r"^\| package \| what it does \|\n\|[-|]+\|\n((?:\|.*\n)+)", ARCHITECTURE, re.M)
    assert table is not None
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in table[1].splitlines()]
    assert [sorted(row) for row in rows] == [sorted(layer.split(" | ")) for layer in layers]


def named() -> list[tuple[str, str]]:
    """Modules, classes and functions of skygraft that a page names in full."""
    return sorted(
        {
            (page.name, name)
            for page in PAGES
            for name in re.findall(r"`(skygraft(?:\.\w+)+)(?:\(\))?`", page.read_text())
        }
    )


@pytest.mark.parametrize(("page", "name"), named())
def test_what_pages_name_exists(page: str, name: str) -> None:
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[k:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"{page}: there is no {name}")


def test_modules_of_the_drawing_exist() -> None:
    (picture,) = [text for text in re.findall(r"```text\n(.*?)```", ARCHITECTURE, re.S) if "galsim_engine" in text]
    for name in ("stars", "shift", "fine_stars", "components", "cores", "wings", "coarse", "galsim_engine"):
        assert name in picture and (ROOT / f"src/skygraft/render/{name}.py").exists()
