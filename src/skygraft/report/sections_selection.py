"""The selection function of a report: a file that others can use, its domain, and how it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skygraft.report.blocks import Cell, Code, Column, Note, Section, Table, Text, cell, within
from skygraft.report.counting import total
from skygraft.report.recovered import Recovered, kind_name

if TYPE_CHECKING:
    from skygraft.statistics import SelectionFunction

__all__ = ["SELECTION_FILE", "selection_section", "write_selection"]

SELECTION_FILE = "selection.nc"


def write_selection(folder: Path, found: Recovered) -> list[tuple[str, str]]:
    """Write the selection function, if there is one; a file of an earlier report that is none any more goes.

    Returns the name of the file, and what it is.
    """
    path = folder / SELECTION_FILE
    if found.selection is None:
        path.unlink(missing_ok=True)
        return []
    found.selection.save(path)
    what = f"selection function by {', '.join(found.selection.per) or 'all'}; read it by skygraft.selection"
    return [(SELECTION_FILE, what)]


def selection_section(found: Recovered, folder: str) -> Section:
    """What the selection function is, where it is known, and the lines of Python that use its file in a folder."""
    section = Section("selection", "Selection function")
    function = found.selection
    if function is None:
        why = found.problems.get("selection", "there is no usable fake")
        section.add(Note("missing", f"There is no selection function: {why.rstrip('.')}."))
        return section
    where = ""
    if "depth" in function.table:
        where = " At a position it follows the local depth; without one it is the mean over the area of the fakes."
    section.add(
        Text(
            f"A selection function as a product: {folder}/{SELECTION_FILE} holds the probability that a source of "
            "given magnitude, size, band and type is found, with its standard error, for whoever has to model what "
            f"this survey misses.{where} Nothing is extrapolated: beyond its domain it is NaN."
        ),
        Code("Python", _example(function, folder)),
        _domain(found, function),
    )
    return section


def _groups(function: SelectionFunction) -> list[dict[str, str]]:
    table = function.table
    return [{name: str(table[name].values[i]) for name in function.per} for i in range(table.sizes["group"])]


def _example(function: SelectionFunction, folder: str) -> str:
    """Lines that work, for the middle of the first group that has a curve."""
    table = function.table
    has = np.isfinite(table["parameters"].values[..., 0])
    i, j = (int(k) for k in np.argwhere(has)[0])
    low, high = (float(table[name].values[i, j]) for name in ("mag_low", "mag_high"))
    asked: dict[str, Any] = {"mag": round((low + high) / 2, 1)}
    if table.attrs["size"] and j > 0:
        asked["size"] = float(f"{np.exp(table['log_size'].values[i, j]):.2g}")
    asked |= _groups(function)[i]
    given = ", ".join(repr(value) if name == "mag" else f"{name}={value!r}" for name, value in asked.items())
    probability, error = function.sel(**asked)
    said = f"  # {within(float(probability), float(error), 3)}" if np.isfinite(probability) else ""
    return (
        "import skygraft\n"
        f'selection = skygraft.selection("{folder}/{SELECTION_FILE}")\n'
        f"probability, error = selection.sel({given}){said}"
    )


def _domain(found: Recovered, function: SelectionFunction) -> Table:
    table = function.table
    rows: list[list[Cell]] = []
    for i, group in enumerate(_groups(function)):
        band, kind = group.get("band", ""), group.get("source_type", "")
        if not total(found.counts.usable, band=band or None, kind=kind or None):
            continue
        for j in range(table.sizes["size_bin"]):
            here = table.isel(group=i, size_bin=j)
            n, reason = int(here["n"]), str(here["reason"].item())
            if not n:
                continue
            size = "point sources" if j == 0 and table.attrs["size"] else "all"
            if j > 0:
                size = f"{float(here['size_low']):.2f} to {float(here['size_high']):.2f}"
            mags = f"{float(here['mag_low']):.2f} to {float(here['mag_high']):.2f}"
            rows.append(
                [
                    cell(band or "all"),
                    cell(kind_name(kind) if kind else "all"),
                    Cell(size, float(here["size_low"]) if j > 0 else 0.0),
                    cell("–" if reason else mags),
                    cell(n),
                    cell(f"no curve: {reason}" if reason else ""),
                ]
            )
    return Table(
        "Its domain: where it is known, and from how many fakes",
        (
            Column("band"),
            Column("type"),
            Column("half-light radius", "arcsec"),
            Column("magnitudes"),
            Column("fakes", numeric=True),
            Column("remarks", long=True),
        ),
        rows,
        folded=len(rows) > 12,
    )
