"""Rows of any table, streamed in batches: only the columns that are needed, in bounded memory."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError, CorruptFileError, SkygraftError

__all__ = ["Rows", "Where", "bools", "floats", "open_rows", "texts"]

type Where = pc.Expression | Sequence[Any] | str | None

_BATCH_ROWS = 1 << 17
_NAMES_LISTED = 30
_TEXT_TABLES = (".fits", ".fit", ".ecsv", ".csv", ".vot", ".xml")
_USABLE = "usable"
_E_PER_MAG = 0.4 * math.log(10.0)
_DERIVED: dict[str, tuple[tuple[str, ...], Callable[..., Any], str]] = {
    "mag_below_depth": (("mag", "depth"), pc.subtract, "mag"),
    # Depth is the magnitude of 5 sigma. What is measured of a fake that was missed has no S/N.
    "snr_expected": (("mag", "depth"), lambda mag, depth: pc.exp((depth - mag) * _E_PER_MAG) * 5.0, ""),
    "phase": (("mjd", "peak_mjd"), pc.subtract, "d"),
}
"""Columns that follow from others, for tables that do not have them, and their units."""


class Rows:
    """The rows of a table: those that a condition keeps, as often as they are asked for.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset or pyarrow.RecordBatchReader
        The table. A reader can be read once.
    origin : str
        What it is, for messages and provenance.
    units : mapping of str to str
        Units of columns, where they are known.
    where : pyarrow.compute.Expression, optional
        Rows to keep.
    """

    def __init__(
        self,
        dataset: ds.Dataset | pa.RecordBatchReader,
        origin: str,
        units: Mapping[str, str],
        where: pc.Expression | None = None,
    ) -> None:
        self._dataset = dataset
        self._used = False
        self.origin = origin
        self.units = dict(units)
        self.where = where
        self.schema: pa.Schema = dataset.schema

    def keeping(self, where: Where, usable: str | None) -> Rows:
        """The rows that fulfil a condition as well, and are usable if there is such a column."""
        condition = expression(where)
        if usable is not None and (usable in self.names or usable != _USABLE):
            self.require([usable])
            flag = pc.field(usable)
            condition = flag if condition is None else condition & flag
        both = self.where if condition is None else condition if self.where is None else self.where & condition
        return Rows(self._dataset, self.origin, self.units, both)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    def has(self, name: str) -> bool:
        """Whether there is a column of this name, or it follows from others."""
        return name in self.names or (name in _DERIVED and all(part in self.names for part in _DERIVED[name][0]))

    def require(self, names: Sequence[str]) -> None:
        """Raise an error that lists the columns that are missing, with the nearest names.

        Raises
        ------
        CatalogError
            If a column is missing.
        """
        missing = [name for name in dict.fromkeys(names) if not self.has(name)]
        if not missing:
            return
        near = {name: difflib.get_close_matches(name, self.names, n=3, cutoff=0.5) for name in missing}
        hints = [f"{name}: {', '.join(found)}" for name, found in near.items() if found]
        nearest = dict.fromkeys(one for found in near.values() for one in found)
        others = [name for name in self.names if name not in nearest]
        there = [*nearest, *others[: max(0, _NAMES_LISTED - len(nearest))]]
        listed = ", ".join(there) + (f", ... ({len(self.names)} columns)" if len(there) < len(self.names) else "")
        plural = "s" if len(missing) > 1 else ""
        raise CatalogError(
            f"{self.origin} has no column{plural} {', '.join(missing)}; it has {listed}",
            key=missing[0],
            fix=(f"The nearest names are {'; '.join(hints)}. " if hints else "")
            + "Name the column that holds it in the call, or rename the table's",
        )

    def type_of(self, name: str) -> pa.DataType:
        """The Arrow type of a column; of a dictionary that of its values."""
        self.require([name])
        if name not in self.names:
            return pa.float64()
        kind = self.schema.field(name).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def unit(self, name: str) -> str:
        """The unit of a column; empty where it is unknown or there is none."""
        if name in _DERIVED and name not in self.units:
            return _DERIVED[name][2]
        return self.units.get(name, "")

    def batches(self, columns: Sequence[str | None]) -> Iterator[pa.RecordBatch]:
        """The rows in batches, with these columns only.

        Parameters
        ----------
        columns : sequence of str or None
            Names; None is left out.

        Yields
        ------
        pyarrow.RecordBatch

        Raises
        ------
        CatalogError
            If a column is missing, or a reader is to be read a second time.
        CorruptFileError
            If the file cannot be read.
        """
        wanted = [name for name in dict.fromkeys(columns) if name is not None]
        self.require(wanted)
        projection = {name: pc.field(name) for name in wanted if name in self.names}
        for name in wanted:
            if name not in projection:
                parts, function, _ = _DERIVED[name]
                projection[name] = function(*(pc.field(part) for part in parts))
        if not projection:  # rows alone
            projection = {self.names[0]: pc.field(self.names[0])}
        try:
            for scanner in self._scanners(projection):
                for batch in scanner.to_batches():
                    if batch.num_rows:
                        yield batch
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise CorruptFileError(
                f"{self.origin} cannot be read ({error})", fix="Check the condition and the file, or write it again"
            ) from error

    def _scanners(self, projection: dict[str, pc.Expression]) -> Iterator[ds.Scanner]:
        if not isinstance(self._dataset, pa.RecordBatchReader):
            yield self._scanner(self._dataset, projection)
            return
        if self._used:
            raise CatalogError(
                "a RecordBatchReader can be read only once, and this statistic reads its rows twice",
                fix="Give the edges of the bins, or a pyarrow dataset",
            )
        self._used = True
        self._scanner(ds.dataset(self._dataset.schema.empty_table()), projection)  # a reader of no rows is checked, too
        # A scan of the whole reader would empty it in the background and hold every row that is not used yet.
        for batch in self._dataset:
            yield self._scanner(ds.dataset(pa.Table.from_batches([batch])), projection)

    def _scanner(self, dataset: ds.Dataset, projection: dict[str, pc.Expression]) -> ds.Scanner:
        options = {"columns": projection, "filter": self.where, "batch_size": _BATCH_ROWS}
        try:
            # Few batches are read ahead: a scan of any length holds some tens of MB.
            return dataset.scanner(**options, batch_readahead=2, fragment_readahead=1)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            if missing := re.search(r"FieldRef\.Name\(([^)]*)\)", str(error)):
                self.require([missing[1]])
            raise CatalogError(
                f"{self.origin} cannot be searched by {self.where} ({error})",
                key="where",
                fix="Check the names and types of the columns in the condition",
            ) from error

    def attrs(self) -> dict[str, Any]:
        """What provenance says of the rows: where they are from, which were kept, and by what version."""
        from importlib.metadata import version

        return {
            "data": self.origin,
            "rows_kept": "all" if self.where is None else str(self.where),
            "software": f"skygraft {version('skygraft')}",
        }


def expression(where: Where) -> pc.Expression | None:
    """A condition on rows as an Arrow expression.

    Parameters
    ----------
    where : pyarrow.compute.Expression, str, list or None
        An expression; the name of a column of true and false; or conditions as pandas and pyarrow take them:
        ``[("band", "==", "r"), ("mag", "<", 24)]``.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if where is None or isinstance(where, pc.Expression):
        return where
    if isinstance(where, str):
        return pc.field(where)
    try:
        return pq.filters_to_expression(list(where))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the condition on rows cannot be understood: {where!r}",
            key="where",
            fix='Give a pyarrow expression such as pc.field("band") == "r", or [("band", "==", "r")]',
        ) from error


def open_rows(data: Any, *, where: Where = None, usable: str | None = _USABLE) -> Rows:
    """The rows of a table in any form.

    Parameters
    ----------
    data : path-like, table or mapping
        A Parquet file or a folder of them (with ``name=value`` folders), an Arrow file, a FITS, ECSV, CSV or VOTable
        file; a pyarrow Dataset, Table, RecordBatch or RecordBatchReader; a pandas or polars DataFrame; an astropy
        Table; or a mapping of names to arrays.
    where : pyarrow.compute.Expression, str, list or None
        Rows to keep (see `expression`).
    usable : str or None
        Column of true and false: rows to keep. The default is used where the table has it; None keeps all rows.

    Returns
    -------
    Rows

    Raises
    ------
    CatalogError
        If it is no table, or columns are missing.
    CorruptFileError
        If the file cannot be read.
    """
    if isinstance(data, Rows):
        return data.keeping(where, usable)
    found = _open_path(Path(data).expanduser()) if isinstance(data, (str, os.PathLike)) else _from_memory(data)
    return found.keeping(where, usable)


def _open_path(path: Path) -> Rows:
    if not path.exists():
        raise CatalogError(
            "there is no such table", path=path, fix="Check the path; skygraft recover makes that of a campaign"
        )
    try:
        if path.is_file() and path.name.lower().removesuffix(".gz").endswith(_TEXT_TABLES):
            from astropy.table import Table

            found = _from_astropy(Table.read(path))
            return Rows(ds.dataset(found), str(path), _units(found.schema))
        dataset = _open_folder(path) if path.is_dir() else _open_file(path)
        return Rows(dataset, str(path), _units(dataset.schema))
    except SkygraftError:
        raise
    except Exception as error:  # readers raise what they like
        raise CorruptFileError(
            f"the table cannot be read ({type(error).__name__}: {error})", path=path, fix="Write it again"
        ) from error


def _open_file(path: Path) -> ds.Dataset:
    return ds.dataset(path, format="ipc" if path.suffix in (".arrow", ".feather") else "parquet")


def _open_folder(path: Path) -> ds.Dataset:
    """The tables of a folder: those in folders ``name=value`` alone where there are such.

    Beside these a campaign keeps tables of other things.
    """
    tables = sorted(table for part in path.glob("*=*") for table in part.rglob("*.parquet"))
    tables = tables or sorted(path.rglob("*.parquet"))
    if not tables:
        raise CatalogError("the folder has no Parquet file", path=path, fix="Give the folder of the table")
    hive = ds.partitioning(flavor="hive")
    dataset = ds.dataset(
        [str(table) for table in tables], format="parquet", partitioning=hive, partition_base_dir=str(path)
    )
    if (path / "_common_metadata").is_file():
        # The first table may have nothing but nulls in a column.
        full = pq.read_schema(path / "_common_metadata")
        places = [field for field in dataset.schema if field.name not in full.names]
        return dataset.replace_schema(pa.schema([*full, *places]))
    return dataset


def _from_memory(data: Any) -> Rows:
    module = type(data).__module__.partition(".")[0]
    name = f"{module}.{type(data).__name__}"
    if isinstance(data, (ds.Dataset, pa.RecordBatchReader)):
        files = getattr(data, "files", [])
        return Rows(data, f"{name} of {len(files)} files" if files else name, _units(data.schema))
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    elif module == "astropy":
        data = _from_astropy(data)
    elif module == "pandas":
        data = pa.Table.from_pandas(data, preserve_index=False)
    elif module == "polars":
        data = (data.collect() if type(data).__name__ == "LazyFrame" else data).to_arrow()
    elif isinstance(data, Mapping):
        data, name = _from_mapping(data), "mapping of arrays"
    elif hasattr(data, "__arrow_c_stream__") and not isinstance(data, pa.Table):
        data = pa.table(data)
    if not isinstance(data, pa.Table):
        raise CatalogError(
            f"{name} is no table",
            fix="Give a Parquet file or folder, a pyarrow, pandas, polars or astropy table, or a mapping of arrays",
        )
    return Rows(ds.dataset(data), f"{name} of {data.num_rows:,} rows", _units(data.schema))


def _from_mapping(data: Mapping[str, Any]) -> pa.Table:
    fields, arrays = [], []
    for name, values in data.items():
        unit = getattr(values, "unit", None)
        array = _arrow_array(name, values)
        fields.append(
            pa.field(str(name), array.type, metadata={"unit": unit.to_string()} if unit is not None else None)
        )
        arrays.append(array)
    lengths = {str(f.name): len(a) for f, a in zip(fields, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise CatalogError(f"the columns differ in length: {lengths}", fix="Give columns of one length")
    if not fields:
        raise CatalogError("the table has no columns", fix="Give a table with at least one column")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _arrow_array(name: str, values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    plain = np.asarray(np.ma.getdata(values) if mask is not None else getattr(values, "value", values))
    if plain.ndim != 1:
        raise CatalogError(f"the column has the shape {plain.shape}", key=name, fix="Give columns of one dimension")
    if not plain.dtype.isnative:  # FITS tables
        plain = plain.astype(plain.dtype.newbyteorder("="))
    if plain.dtype.kind == "S":
        plain = np.char.decode(plain, "utf-8", "replace")
    try:
        return pa.array(plain.tolist() if plain.dtype.kind in "OUT" else plain, mask=mask)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CatalogError(f"the column cannot be read ({error})", key=name, fix="Give numbers or text") from error


def _from_astropy(table: Any) -> pa.Table:
    return _from_mapping({name: table[name] for name in table.colnames if table[name].ndim == 1})


def _units(schema: pa.Schema) -> dict[str, str]:
    found = {field.name: (field.metadata or {}).get(b"unit", b"").decode("utf-8", "replace") for field in schema}
    return {name: unit for name, unit in found.items() if unit}


def floats(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """A column as numbers; NaN where it is null.

    Raises
    ------
    CatalogError
        If it holds something else.
    """
    column = batch.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        if not (pa.types.is_null(kind) or pa.types.is_decimal(kind)):
            raise CatalogError(f"the column holds {kind}, not numbers", key=name, fix="Name a column of numbers")
        column = column.cast(pa.float64())
    if column.null_count or not pa.types.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False).fill_null(float("nan"))
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def bools(batch: pa.RecordBatch, name: str) -> NDArray[np.bool_]:
    """A column as true and false; false where it is null. Numbers are true where they are not 0.

    Raises
    ------
    CatalogError
        If it holds something else.
    """
    if pa.types.is_boolean(batch.column(name).type):
        return np.asarray(batch.column(name).fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)
    values = floats(batch, name)
    if bad := np.setdiff1d(values[np.isfinite(values)], [0.0, 1.0])[:1].tolist():
        raise CatalogError(
            f"the column holds {bad[0]:g}, where only true (1) and false (0) are allowed",
            key=name,
            fix="Name a column that says for each fake whether it was found",
        )
    return np.asarray(values == 1.0)


def texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column as Arrow text; null stays null."""
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())
