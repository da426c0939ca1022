"""The accepted dialects, and the choice of one: by column names only, never by values."""

from __future__ import annotations

import difflib

from skygraft.catalog.dialects.base import Canonical, Dialect, Source, build_table, carried_columns
from skygraft.catalog.dialects.injectors import InsertFakes, Obiwan, SynPipe
from skygraft.catalog.dialects.native import Lsst, Native
from skygraft.catalog.dialects.simulations import CatSim, RomanIsim, SkyCatalogs
from skygraft.errors import DialectError

__all__ = ["DIALECTS", "Canonical", "Dialect", "Source", "build_table", "carried_columns", "choose_dialect"]

MAX_SHOWN = 40  # column names in an error

DIALECTS: dict[str, Dialect] = {
    d.name: d for d in (Native(), Lsst(), InsertFakes(), SynPipe(), Obiwan(), SkyCatalogs(), RomanIsim(), CatSim())
}
"""All dialects by name."""


def choose_dialect(columns: frozenset[str], dialect: str = "auto", *, origin: str = "") -> Dialect:
    """Choose the dialect of a table by its columns.

    Parameters
    ----------
    columns : frozenset of str
        Column names.
    dialect : str
        A name, or "auto" to recognise it.
    origin : str
        File name for error messages.

    Returns
    -------
    Dialect

    Raises
    ------
    DialectError
        If the name is unknown, or no dialect or several match; the error lists the columns of each dialect.
    """
    if dialect != "auto":
        if dialect in DIALECTS:
            return DIALECTS[dialect]
        near = difflib.get_close_matches(dialect, DIALECTS, n=1)
        raise DialectError(
            f"there is no dialect {dialect!r}; there are auto, {', '.join(DIALECTS)}",
            path=origin or None,
            key="dialect",
            fix=f"Did you mean {near[0]!r}?" if near else "Use 'auto'",
        )
    matching = [d for d in DIALECTS.values() if d.matches(columns)]
    if len(matching) == 1:
        return matching[0]
    have = ", ".join(sorted(columns)[:MAX_SHOWN]) or "none"
    if len(columns) > MAX_SHOWN:
        have += f" and {len(columns) - MAX_SHOWN} more"
    if matching:
        raise DialectError(
            f"the columns match {len(matching)} dialects: "
            + "; ".join(f"{d.name} ({d.looks_for})" for d in matching)
            + f". The columns are: {have}",
            path=origin or None,
            fix=f"Choose one, as in dialect={matching[0].name!r}",
        )
    raise DialectError(
        "the columns match no dialect. Looked for "
        + "; ".join(f"{d.name}: {d.looks_for}" for d in DIALECTS.values())
        + f". The columns are: {have}",
        path=origin or None,
        fix=_read_elsewhere(columns)
        or "Say which columns are those of the native schema, as in columns={'ra': 'RAJ2000', 'mag_r': 'rmag'}",
    )


def _read_elsewhere(columns: frozenset[str]) -> str | None:
    """Return how to read a known kind of table that is not a catalogue of sources."""
    shapes = (
        "read its galaxies' shapes with skygraft.generation.cosmos_shapes(path), and give them positions with "
        "skygraft.generation.random_catalog(region, bands=..., n=..., shapes=...)"
    )
    if "sersicfit" in columns:
        return f"This is the table of fits of a GalSim COSMOS catalogue: {shapes}"
    if "IDENT" in columns and {"GAL_FILENAME", "dmag", "ZPHOT", "zphot"} & columns:
        return f"This belongs to a GalSim COSMOS catalogue, whose fits are in the file *_fits.fits beside it: {shapes}"
    return None
