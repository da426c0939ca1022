"""Cells of a statistic: bins of numbers and categories, over any columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics.rows import Rows, floats

__all__ = ["MOST_CELLS_BY_GROUP", "Axis", "By", "Cells", "check_groups", "extremes", "is_text", "make_cells"]

type By = str | Sequence[str] | Mapping[str, Any]

_AUTO_BINS = 20
_MOST_CATEGORIES = 10_000
_AUTO_CATEGORIES = 50
_MOST_CELLS = 2_000_000
MOST_CELLS_BY_GROUP = 200_000


@dataclass(frozen=True)
class Axis:
    """Bins or categories of one column."""

    name: str
    unit: str = ""
    edges: NDArray[np.float64] | None = None
    """Edges of its bins, increasing. The last bin holds its upper edge, as in NumPy."""
    categories: tuple[Any, ...] | None = None
    _values: pa.Array | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of bins or categories."""
        if self.edges is not None:
            return len(self.edges) - 1
        assert self.categories is not None
        return len(self.categories)

    @property
    def columns(self) -> list[str]:
        """Columns that `index` reads."""
        return [self.name]

    @property
    def centers(self) -> NDArray[Any]:
        """Middles of the bins, or the categories."""
        if self.edges is not None:
            return 0.5 * (self.edges[1:] + self.edges[:-1])
        assert self.categories is not None
        if self.categories and all(isinstance(value, str) for value in self.categories):
            return np.array(self.categories, dtype=np.str_)
        return np.array(self.categories)

    def index(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """The bin or category of each row; -1 for those that are in none, also NaN and null."""
        if self.edges is not None:
            values = floats(batch, self.name)
            found = np.searchsorted(self.edges, values, side="right") - 1
            found[values == self.edges[-1]] = self.size - 1
            # NaN sorts behind everything.
            return np.where((found >= 0) & (found < self.size), found, -1).astype(np.int64)
        assert self._values is not None
        column = batch.column(self.name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        found = pc.index_in(column.cast(self._values.type), self._values).fill_null(-1)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of the dimension, as xarray takes them: middles, and ``_lower`` and ``_upper`` edges."""
        attrs = {"units": self.unit} if self.unit else {}
        out: dict[str, Any] = {self.name: (self.name, self.centers, attrs)}
        if self.edges is not None:
            out[f"{self.name}_lower"] = (self.name, self.edges[:-1], attrs)
            out[f"{self.name}_upper"] = (self.name, self.edges[1:], attrs)
        return out


@dataclass(frozen=True)
class Cells:
    """All combinations of the bins of several columns, in one flat numbering; of no axis, all rows in one cell."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins of each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of cells."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def columns(self) -> list[str]:
        """Columns that are needed."""
        return [name for axis in self.axes for name in axis.columns]

    @property
    def dims(self) -> list[str]:
        """Names of the dimensions."""
        return [axis.name for axis in self.axes]

    def index(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """The cell of each row; -1 for those in none."""
        flat = np.zeros(batch.num_rows, dtype=np.int64)
        inside = np.ones(batch.num_rows, dtype=bool)
        for axis in self.axes:
            found = axis.index(batch)
            inside &= found >= 0
            flat = flat * axis.size + found
        return np.where(inside, flat, -1)

    def dataset(self, values: Mapping[str, tuple[NDArray[Any], str, str]], attrs: Mapping[str, Any]) -> xr.Dataset:
        """Variables over the cells, and attributes of the whole.

        Values of all cells, unit (empty where there is none) and description of each variable are given.
        """
        dims = self.dims
        variables = {}
        for name, (array, unit, text) in values.items():
            about = {"long_name": text} | ({"units": unit} if unit else {})
            variables[name] = (dims, np.asarray(array).reshape(self.shape), about)
        coordinates: dict[str, Any] = {}
        for axis in self.axes:
            coordinates |= axis.coordinates()
        return xr.Dataset(variables, coords=coordinates, attrs=dict(attrs))


def check_groups(cells: Cells) -> None:
    """Raise a `ConfigError` where counts by groups of rows would not fit into memory."""
    if cells.size > MOST_CELLS_BY_GROUP:
        raise ConfigError(
            f"{cells.size:,} bins are too many for errors by bootstrap, which takes at most {MOST_CELLS_BY_GROUP:,}",
            key="by",
            fix="Give fewer bins or fewer columns, or bootstrap=0",
        )


def make_cells(rows: Rows, by: By | None) -> Cells:
    """The cells of a statistic.

    Parameters
    ----------
    rows : Rows
        The table: read once more where bins or categories are to be found from it.
    by : str, sequence of str, mapping or None
        Columns, or column to bins: edges, a number of bins, categories, or "auto" (round edges that hold all values,
        for text, truth values and few whole numbers all that occur).

    Raises
    ------
    CatalogError
        If a column is missing, or has no values to find bins from.
    ConfigError
        If bins are no bins, or are too many.
    """
    wanted: Mapping[str, Any]
    if by is None:
        wanted = {}
    elif isinstance(by, str):
        wanted = {by: "auto"}
    elif isinstance(by, Mapping):
        wanted = by
    else:
        wanted = dict.fromkeys(by, "auto")
    rows.require(list(wanted))
    made = {name: _given(rows, name, bins) for name, bins in wanted.items()}
    open_ones = [name for name, axis in made.items() if axis is None]
    if open_ones:
        made |= _found(rows, {name: wanted[name] for name in open_ones})
    cells = Cells(tuple(made[name] for name in wanted))  # type: ignore[misc]
    if cells.size > _MOST_CELLS:
        raise ConfigError(
            f"{' x '.join(map(str, cells.shape))} bins are {cells.size:,} cells, of at most {_MOST_CELLS:,}",
            key="by",
            fix="Give fewer bins or fewer columns",
        )
    return cells


def is_text(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _categorical(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_boolean(kind))


def _given(rows: Rows, name: str, bins: Any) -> Axis | None:
    """The axis if its bins are stated; None where they are to be found from the rows."""
    kind = rows.type_of(name)
    if isinstance(bins, str):
        if bins != "auto":
            raise ConfigError(
                f"the bins are {bins!r}, which is neither auto, a number nor edges", key=name, fix='Give "auto"'
            )
        return None
    if isinstance(bins, (int, np.integer)) and not isinstance(bins, bool):
        if bins < 1 or _categorical(kind):
            raise ConfigError(
                f"{bins} bins of a column of {kind} cannot be made", key=name, fix="Give a number of 1 or more"
            )
        return None
    values = list(bins) if isinstance(bins, Iterable) else [bins]
    if _categorical(kind) or any(isinstance(value, str) for value in values):
        return _category_axis(rows, name, values)
    edges = np.asarray(values, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ConfigError(
            f"the edges of the bins are {edges.tolist()}", key=name, fix="Give two or more numbers that increase"
        )
    return Axis(name, rows.unit(name), edges=edges)


def _category_axis(rows: Rows, name: str, values: list[Any]) -> Axis:
    kind = rows.type_of(name)
    kind = pa.string() if is_text(kind) else kind
    if not values:
        raise CatalogError("no row has a value to make bins of", key=name, fix="Check the condition on rows")
    if len(values) > _MOST_CATEGORIES:
        raise ConfigError(
            f"the column has more than {_MOST_CATEGORIES:,} values", key=name, fix="List those that are wanted"
        )
    try:
        array = pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(
            f"the categories {values[:5]} are not values of a column of {kind}", key=name, fix="Give values of it"
        ) from error
    if len(set(values)) < len(values):
        raise ConfigError("a category is listed twice", key=name, fix="List each once")
    return Axis(name, rows.unit(name), categories=tuple(values), _values=array)


def extremes(rows: Rows, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Smallest and largest finite value of columns; infinities of the wrong sign where there is none."""
    found = dict.fromkeys(names, (np.inf, -np.inf))
    for batch in rows.batches(names):
        _widen(found, batch)
    return found


def _widen(ranges: dict[str, tuple[float, float]], batch: pa.RecordBatch) -> None:
    for name, (low, high) in ranges.items():
        values = floats(batch, name)
        values = values[np.isfinite(values)]
        if values.size:
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))


def _found(rows: Rows, wanted: Mapping[str, Any]) -> dict[str, Axis | None]:
    """Axes whose bins follow from the rows, in one pass."""
    numbers = {name: (np.inf, -np.inf) for name in wanted if not _categorical(rows.type_of(name))}
    seen: dict[str, set[Any] | None] = {
        name: set()
        for name in wanted
        if name not in numbers or (wanted[name] == "auto" and pa.types.is_integer(rows.type_of(name)))
    }
    for batch in rows.batches(list(wanted)):
        _widen(numbers, batch)
        for name, values_seen in seen.items():
            if values_seen is None:
                continue
            column = batch.column(name)
            new = values_seen | {value for value in pc.unique(column).to_pylist() if value is not None}
            limit = _AUTO_CATEGORIES if name in numbers else _MOST_CATEGORIES
            seen[name] = new if len(new) <= limit or name not in numbers else None
    out: dict[str, Axis | None] = {}
    for name, bins in wanted.items():
        values_seen = seen.get(name)
        if values_seen is not None:
            out[name] = _category_axis(rows, name, sorted(values_seen))
            continue
        low, high = numbers[name]
        if not low <= high:
            raise CatalogError(
                f"no row of {rows.origin} has a value to make bins of",
                key=name,
                fix="Check the condition on rows, or give the edges of the bins",
            )
        out[name] = Axis(name, rows.unit(name), edges=_edges(low, high, bins))
    return out


def _edges(low: float, high: float, bins: Any) -> NDArray[np.float64]:
    if low == high:
        margin = 0.5 * max(abs(low), 1.0) * (1e-3 if bins != "auto" else 1.0)
        return np.array([low - margin, low + margin])
    if bins != "auto":
        return np.linspace(low, high, int(bins) + 1)
    rough = (high - low) / _AUTO_BINS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= rough * (1 - 1e-9))
    first, last = np.floor(low / step * (1 + 1e-12)), np.ceil(high / step * (1 - 1e-12))
    return np.asarray(step * np.arange(first, last + 1.0))
