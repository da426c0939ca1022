"""Column maps: the columns of a table whose names are other than those of the native schema.

A map is ``{native name: the table's name}``, such as ``{"ra": "RAJ2000", "mag_r": "rmag"}``. A value that begins with
``=`` is one value for all rows, as in ``{"source_type": "=Star"}``. It is applied before the dialect is chosen.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from astropy.table import Table

from skygraft.catalog.columns import refuse, refused
from skygraft.catalog.schema import COLUMNS, is_mag_column
from skygraft.errors import CatalogError

__all__ = ["check_map", "constant_column", "mapped_names", "nearest", "parse_map", "rename_columns"]

_CONSTANT = "="
_SHOWN = 40


def nearest(name: str, known: Iterable[str], n: int = 1, *, likeness: float = 0.5) -> str:
    """Return a question with the names nearest to one that is unknown, or an empty text.

    Parameters
    ----------
    name : str
        The unknown name.
    known : iterable of str
        Those that there are.
    n : int
        How many to name.
    likeness : float
        Least similarity of a name, from 0 to 1 (`difflib.get_close_matches`).

    Returns
    -------
    str
    """
    lowered = {other.lower(): other for other in known}
    found = [lowered[close] for close in difflib.get_close_matches(name.lower(), lowered, n=n, cutoff=likeness)]
    return f"Did you mean {' or '.join(map(repr, found))}?" if found else ""


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """Return the map of texts such as ``ra=RAJ2000``, as options of commands are written.

    Parameters
    ----------
    pairs : iterable of str
        Native name, ``=``, and the table's name; ``source_type==Star`` gives a value to all rows.

    Raises
    ------
    CatalogError
        If a text is no pair, names an unknown native column, or one that was named before.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        name, sign, given = pair.partition("=")
        name, given = name.strip(), given.strip()
        if not sign or not name or not given:
            raise CatalogError(
                f"the column map {pair!r} is not of the form NAME=COLUMN",
                key="columns",
                fix="Write for instance ra=RAJ2000",
            )
        if name in columns:
            raise CatalogError(f"the column {name!r} is mapped twice", key="columns", fix="Keep one of them")
        columns[name] = given
    check_map(columns)
    return columns


def check_map(columns: Mapping[str, str]) -> None:
    """Check that a map names columns of the native schema.

    Parameters
    ----------
    columns : mapping of str to str
        The map.

    Raises
    ------
    CatalogError
        If not; it names the nearest columns that there are.
    """
    for name, given in columns.items():
        if name not in COLUMNS and not is_mag_column(name):
            near = nearest(name, [*COLUMNS, *(["mag_r"] if name.lower().startswith("mag") else [])], 2)
            raise CatalogError(
                f"the column map names {name!r}, which is not a column of the native schema (those of "
                "docs/catalogue_columns.md, and mag_<band>)",
                key=f"columns.{name}",
                fix=near or "A map is written {native name: name in the table}",
            )
        if not isinstance(given, str) or not given.removeprefix(_CONSTANT).strip():
            raise CatalogError(
                f"the column map gives {given!r} for {name!r}; the name of a column is needed",
                key=f"columns.{name}",
                fix="Name a column, or a value for all rows, as in '=Star'",
            )


def mapped_names(names: Iterable[str], columns: Mapping[str, str], *, origin: str = "") -> frozenset[str]:
    """Return the names that a table's columns have after `rename_columns`, with its errors.

    Parameters
    ----------
    names : iterable of str
        The table's columns.
    columns : mapping of str to str
        The map.
    origin : str
        Name of the file, for errors.
    """
    check_map(columns)
    have = list(names)
    taken = {given for given in columns.values() if not given.startswith(_CONSTANT)}
    for name, given in columns.items():
        if given in taken and given not in have:
            listed = ", ".join(sorted(have)[:_SHOWN]) + (f" and {len(have) - _SHOWN} more" * (len(have) > _SHOWN))
            raise CatalogError(
                f"the column map takes {name!r} from {given!r}, which the table does not have; it has {listed}",
                path=origin or None,
                key=f"columns.{name}",
                fix=nearest(given, have, 2) or "Correct the name; capitals count",
            )
        if name in have and name not in taken:
            raise CatalogError(
                f"the column map takes {name!r} from {given!r}, and the table has a column {name!r} too",
                path=origin or None,
                key=f"columns.{name}",
                fix=f"Leave {name!r} out of the map, or out of the table",
            )
    return frozenset({*(name for name in have if name not in taken), *columns})


def rename_columns(table: Table, columns: Mapping[str, str], *, origin: str = "") -> Table:
    """Give a table the native names of a map; units and values are kept.

    Parameters
    ----------
    table : Table
        Unconverted; it is not changed.
    columns : mapping of str to str
        The map.
    origin : str
        Name of the file, for errors.

    Returns
    -------
    Table
        The table itself if there is nothing to rename.

    Raises
    ------
    CatalogError
        If a name of the map is unknown, the table does not have a mapped column, or has one of the native name too.
    """
    if not columns:
        return table
    absent = refused(table)
    mapped_names([*table.colnames, *absent], columns, origin=origin)
    taken = [given for given in columns.values() if not given.startswith(_CONSTANT)]
    out = table.copy(copy_data=False)
    # The dictionary of refusals belongs to the table that was given.
    out.meta = {key: dict(value) if isinstance(value, Mapping) else value for key, value in table.meta.items()}
    for given in set(taken):
        if given in out.colnames:
            out.remove_column(given)
        else:
            _forget(out, given)
    for name, given in columns.items():
        if given.startswith(_CONSTANT):
            out[name] = constant_column(name, given, len(table))
        elif given in absent:
            refuse(out, name, absent[given])
        else:
            out[name] = table[given]
    return out


def _forget(table: Table, name: str) -> None:
    found: Any = refused(table)
    found.pop(name)


def constant_column(name: str, given: str, n: int) -> Any:
    """Return a column with one value for all rows: numbers where the schema has numbers.

    Parameters
    ----------
    name : str
        Native name.
    given : str
        What the map gives for it, such as ``=Star`` or ``=1.5``.
    n : int
        Number of rows.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    CatalogError
        If a number is needed and not given.
    """
    text = given.removeprefix(_CONSTANT).strip()
    spec = COLUMNS.get(name)
    kind = spec.kind if spec else "float"
    if kind in ("float", "int"):
        try:
            value = json.loads(text) if re.fullmatch(r"[-+.0-9eE]+", text) else None
        except ValueError:
            value = None
        if not isinstance(value, (int, float)):
            raise CatalogError(
                f"the column map gives {text!r} for {name!r}, which is a number",
                key=f"columns.{name}",
                fix="Correct it",
            )
        return np.full(n, value)
    return np.full(n, text)
