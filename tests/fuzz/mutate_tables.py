"""Damage tables as tables: columns that are gone, of another type or unit, odd cells, rows in another order.

The table is read, changed and written again as a file of the same format by astropy or pyarrow, not by the product.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io.registry import IORegistryError
from astropy.table import MaskedColumn, Table

from fuzz.mutate import Change, Mutator

_ASTROPY = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".vot": "votable", ".fits": "fits", ".fit": "fits"}
FORMATS = (*_ASTROPY, ".parquet", ".parq")
"""Endings of the tables that can be damaged as such."""
ODD = (np.nan, np.inf, -np.inf, 1e300, -1e300, -1.0, 0.0, 1e-320, 2.0**63)
_UNITS = {"deg": ("rad", np.pi / 180), "arcsec": ("deg", 1 / 3600), "d": ("s", 86400.0), "nJy": ("uJy", 1e-3),
          "arcsec / h": ("deg / d", 24 / 3600), "mas": ("arcsec", 1e-3)}  # fmt: skip
_OTHER_UNITS = ("kg", "furlong per fortnight", "", "m", "[[", "mag", "Jy", "pix", "deg deg", "10**5000 s", "1/0")

type _TableMutator = Callable[[Table, np.random.Generator], tuple[Table, dict[str, Any]] | None]


def read(data: bytes, ending: str) -> Table | None:
    """Read a table of a format; None if it is none."""
    if ending.startswith(".parq"):
        found = pq.read_table(pa.BufferReader(data))
        table = Table()
        for i, field in enumerate(found.schema):
            values = found.column(i).to_pylist()
            missing = np.array([v is None for v in values], dtype=bool)
            fill: Any = "" if pa.types.is_string(field.type) or pa.types.is_large_string(field.type) else 0
            filled = [fill if v is None else v for v in values]
            if any(isinstance(v, (list, dict)) for v in filled):
                return None
            table[field.name] = MaskedColumn(filled, mask=missing) if missing.any() else np.array(filled)
            unit = (field.metadata or {}).get(b"unit")
            if unit is not None and filled and not isinstance(filled[0], str):
                table[field.name].unit = unit.decode()
        return table
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Table.read(io.BytesIO(data), format=_ASTROPY[ending])
        except (IORegistryError, OSError, ValueError, TypeError, IndexError):
            return None


def written(table: Table, ending: str) -> bytes:
    """A table as the bytes of a file."""
    if ending.startswith(".parq"):
        fields, arrays = [], []
        for name in table.colnames:
            column = table[name]
            mask = np.ma.getmaskarray(np.ma.asarray(column)) if isinstance(column, MaskedColumn) else None
            values = [None if mask is not None and mask.ravel()[i] else v for i, v in enumerate(column.tolist())]
            arrays.append(pa.array(values))
            unit = getattr(column, "unit", None)
            fields.append(pa.field(name, arrays[-1].type, metadata={"unit": str(unit)} if unit else None))
        file = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), file)
        return file.getvalue().to_pybytes()
    stream: Any = io.BytesIO() if ending in (".fits", ".fit", ".vot") else io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.write(stream, format=_ASTROPY[ending])
    content = stream.getvalue()
    return content if isinstance(content, bytes) else content.encode()


def _numbers(table: Table) -> list[str]:
    return [n for n in table.colnames if table[n].dtype.kind in "iuf" and table[n].ndim == 1]


def _picked(names: list[str], rng: np.random.Generator) -> str:
    return names[rng.integers(len(names))]


def column_gone(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]]:
    """A column is not there, or has another name."""
    name = _picked(table.colnames, rng)
    if rng.random() < 0.5 or len(table.colnames) == 1:
        table.rename_column(name, f"{name}_")
    else:
        table.remove_column(name)
    return table, {"what": f"column {name} gone", "column": name, "loses": f"column {name}", "plain": True}


def column_words(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """A column of numbers has words, truth values, lists or nothing instead."""
    if not (names := _numbers(table)):
        return None
    name, n, kind = _picked(names, rng), len(table), rng.integers(5)
    if kind == 0:
        table[name] = np.array([f"w{i}" for i in range(n)])
    elif kind == 1:
        table[name] = np.arange(n) % 2 == 0
    elif kind == 2:
        table[name] = MaskedColumn(np.asarray(table[name]), mask=np.ones(n, dtype=bool))
    elif kind == 3:
        table[name] = np.stack([np.asarray(table[name])] * 2, axis=1)
    else:
        table[name] = np.asarray(table[name]) * (1 + 1j)
    said = ("words", "truth values", "nothing", "two numbers a cell", "complex numbers")[kind]
    return table, {"what": f"column {name} has {said}", "column": name, "loses": f"column {name}", "plain": True}


def column_texts(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """A column of numbers has the same numbers as text."""
    if not (names := _numbers(table)):
        return None
    name = _picked(names, rng)
    unit = table[name].unit
    table[name] = np.array([repr(v) for v in np.asarray(table[name]).tolist()])
    table[name].unit = unit
    return table, {"what": f"column {name} as text", "column": name, "keeps": True}


def cell(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """A cell has an odd number, or none."""
    if not (names := _numbers(table)) or not len(table):
        return None
    name, row = _picked(names, rng), int(rng.integers(len(table)))
    column = table[name]
    if rng.random() < 0.25:
        mask = np.ma.getmaskarray(np.ma.asarray(column)).copy()
        mask[row] = True
        table[name] = MaskedColumn(np.asarray(column), mask=mask, unit=column.unit)
        value: float | None = None
    else:
        value = ODD[rng.integers(len(ODD))]
        values = np.asarray(column).astype(float)
        values[row] = value
        table[name] = MaskedColumn(values, mask=np.ma.getmaskarray(np.ma.asarray(column)), unit=column.unit)
    about: dict[str, Any] = {"what": f"{name} of row {row} is {value}", "column": name, "row": row, "value": value}
    return table, about


def unit_other(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """A column has another unit: its values are converted, or the unit is that of something else."""
    if not (names := _numbers(table)):
        return None
    known = [n for n in names if str(table[n].unit) in _UNITS]
    if known and rng.random() < 0.5:
        name = _picked(known, rng)
        unit, factor = _UNITS[str(table[name].unit)]
        table[name] = MaskedColumn(
            np.asarray(table[name]) * factor, mask=np.ma.getmaskarray(np.ma.asarray(table[name])), unit=unit
        )
        return table, {"what": f"column {name} in {unit}", "column": name, "keeps": True}
    name, unit = _picked(names, rng), _OTHER_UNITS[rng.integers(len(_OTHER_UNITS))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astropy import units as u

        table[name].unit = u.Unit(unit, parse_strict="silent")
    return table, {"what": f"column {name} says unit {unit!r}", "column": name}


def rows_moved(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """Rows or columns are in another order, or a row is there twice."""
    kind = rng.integers(3)
    if kind == 0:
        return table[list(rng.permutation(table.colnames))], {"what": "columns in another order", "keeps": True}
    if len(table) < 2:
        return None
    if kind == 1:
        return table[rng.permutation(len(table))], {"what": "rows in another order", "keeps": True}
    row = int(rng.integers(len(table)))
    return table[[*range(len(table)), row]], {"what": f"row {row} twice"}


def rows_gone(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]]:
    """No row is left, or one or all but one."""
    n = len(table)
    kept = ([], [0], [i for i in range(n) if i != int(rng.integers(n))])[rng.integers(3)] if n else []
    return table[kept], {"what": f"{len(kept)} of {n} rows"}


def column_twice(table: Table, rng: np.random.Generator) -> tuple[Table, dict[str, Any]] | None:
    """A column is there twice, the second time in capitals or with other numbers."""
    if not (names := _numbers(table)):
        return None
    name = _picked(names, rng)
    other = name.upper() if name.upper() != name else name.lower()
    if other in table.colnames:
        return None
    table[other] = np.asarray(table[name]) * 2
    return table, {"what": f"columns {name} and {other}"}


_TABLE: tuple[_TableMutator, ...] = (
    column_gone, column_gone, column_words, column_texts, cell, cell, cell, unit_other, rows_moved, rows_gone,
    column_twice,
)  # fmt: skip


def table_mutator(ending: str) -> Mutator:
    """Return what damages tables of files with an ending."""

    def mutator(data: bytes, rng: np.random.Generator) -> Change | None:
        table = read(data, ending)
        if table is None or not table.colnames:
            return None
        made = _TABLE[rng.integers(len(_TABLE))](table, rng)
        if made is None:
            return None
        try:
            return Change(written(made[0], ending), **made[1])
        except (ValueError, TypeError, KeyError, OverflowError, NotImplementedError, pa.ArrowInvalid):
            return None  # the format has no such column

    return mutator
