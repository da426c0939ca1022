"""Read coverage maps (MOC 1.1 and 2.0: FITS, JSON, text) and density maps (HEALPix FITS, healsparse)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError, CorruptFileError, SkygraftError
from skygraft.fitsfile.open import fits_errors, open_fits
from skygraft.generation.cells import CELLS_MOST, CellArea, Points
from skygraft.json_text import parse_json

__all__ = ["MocArea", "read_density_map", "read_moc"]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]

_DEEPEST = 29
_ICRS = ("C", "CEL", "CELESTIAL", "ICRS", "EQ", "EQUATORIAL", "Q", "J2000", "FK5")
_GALACTIC = ("G", "GAL", "GALACTIC", "E", "ECL", "ECLIPTIC")
_UNSEEN = -1.6e30
"""HEALPix writes -1.6375e30 where there are no data."""
_DAMAGE = (ValueError, TypeError, LookupError, OSError, ArithmeticError, AttributeError)
"""What a damaged file raises while it is taken apart."""


class MocArea(CellArea):
    """A coverage map.

    Parameters
    ----------
    ranges : ndarray of int64, shape (N, 2)
        First cell of order 29, and one past the last, of each run; ascending, apart from each other.
    """

    def __init__(self, ranges: Ints) -> None:
        self.ranges = ranges
        n = int((ranges[:, 1] - ranges[:, 0]).sum())
        order = int(np.clip(_DEEPEST - 0.5 * np.log2(max(n, 1) / CELLS_MOST), 0, _DEEPEST))
        # No finer than the map itself.
        ends = np.bitwise_or.reduce(ranges.ravel()) if ranges.size else 0
        while order > 0 and int(ends) % 4 ** (_DEEPEST - order + 1) == 0:
            order -= 1
        while True:
            shift = 2 * (_DEEPEST - order)
            first, last = ranges[:, 0] >> shift, -(-ranges[:, 1] >> shift)
            if order == 0 or int((last - first).sum()) <= 4 * CELLS_MOST:
                break
            order -= 1
        cells = np.unique(_expand(first, last))
        whole = np.isin(cells, _expand(-(-ranges[:, 0] >> shift), ranges[:, 1] >> shift))
        super().__init__(order, cells, whole)

    def test(self, points: Points, index: Ints) -> NDArray[np.bool_]:
        """Find which positions are inside."""
        numbers = points.cells_of(_DEEPEST)
        which = np.searchsorted(self.ranges[:, 0], numbers, side="right") - 1
        return np.asarray((which >= 0) & (numbers < self.ranges[np.maximum(which, 0), 1]))


def read_moc(path: Path) -> MocArea:
    """Read a multi-order coverage map (MOC 2.0, IVOA Recommendation of 2022, and 1.1).

    Parameters
    ----------
    path : Path
        FITS (NUNIQ or RANGE), JSON or text.

    Returns
    -------
    MocArea

    Raises
    ------
    ConfigError
        If there is no such file.
    CorruptFileError
        If it is no coverage map.
    CatalogError
        If it is in another frame than ICRS, one of times, or empty.
    """
    if not path.is_file():
        raise ConfigError("there is no such file", path=path, key="moc", fix="Check the path")
    with path.open("rb") as file:
        start = file.read(80)
    try:
        with fits_errors(path):
            ranges = _from_fits(path) if start.startswith(b"SIMPLE") else _from_text(path.read_text())
    except SkygraftError:
        raise
    except _DAMAGE as error:
        raise CorruptFileError(
            f"not a readable coverage map (MOC): {error}", path=path, fix="Give a MOC as FITS, JSON or text"
        ) from error
    if not len(ranges):
        raise CatalogError("the coverage map is empty", path=path, key="moc", fix="Give one that covers something")
    return MocArea(ranges)


def _from_fits(path: Path) -> Ints:
    with open_fits(path, memmap=False) as hdus:
        table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
        if table is None:
            raise ValueError("it has no table")
        header = table.header
        _check_frame(header, path)
        dimension = str(header.get("MOCDIM", "SPACE")).strip().upper()
        if dimension != "SPACE":
            raise CatalogError(
                f"it is a coverage map of {dimension.lower()}, not of the sky alone",
                path=path,
                key="MOCDIM",
                fix="Give its spatial part",
            )
        ordering = str(header.get("ORDERING", "NUNIQ")).strip().upper()
        values = np.asarray(table.data.field(0)).astype(np.int64).ravel()
    if ordering == "RANGE":
        return _merged(values.reshape(-1, 2))
    if ordering != "NUNIQ":
        raise ValueError(f"ORDERING is {ordering!r}; NUNIQ or RANGE is needed")
    if not len(values):
        return np.zeros((0, 2), dtype=np.int64)
    if values.min() < 4:
        raise ValueError(f"{values.min()} is no cell")
    order = (np.floor(np.log2(values.astype(np.float64)) + 1e-12).astype(np.int64) // 2) - 1
    # log2 of numbers near a power of 4 may round up.
    order -= (values < 4 ** (order + 1)).astype(np.int64)
    return _merged_cells(order, values - 4 ** (order + 1))


def _from_text(text: str) -> Ints:
    """The ranges of JSON, or of the standard's text."""
    orders: list[int] = []
    cells: list[int] = []
    if text.lstrip().startswith("{"):
        content = parse_json(text)
        for key, some in content.items():
            for cell in some:
                orders.append(int(key))
                cells.append(int(cell))
        return _merged_cells(np.array(orders, dtype=np.int64), np.array(cells, dtype=np.int64))
    if re.match(r"\s*s?\d+/", text) is None:
        raise ValueError("it begins like none of FITS, JSON and text")
    ranges: list[tuple[int, int, int]] = []
    order = -1
    for word in text.replace(",", " ").split():
        head, slash, rest = word.rpartition("/")
        if slash:
            order = int(head.removeprefix("s"))
        if rest:
            first, _, last = rest.partition("-")
            ranges.append((order, int(first), int(last or first) + 1))
    array = np.array(ranges, dtype=np.int64).reshape(-1, 3)
    _check_cells(array[:, 0], array[:, 1])
    shift = 2 * (_DEEPEST - array[:, 0])
    return _merged(np.column_stack([array[:, 1] << shift, array[:, 2] << shift]))


def _check_frame(header: fits.Header, path: Path) -> None:
    frame = str(header.get("COORDSYS", "C")).strip().upper()
    if frame in _ICRS:
        return
    known = "galactic or ecliptic" if frame in _GALACTIC else "unknown"
    raise CatalogError(
        f"its frame is {frame!r} ({known}); ICRS (COORDSYS 'C') is needed",
        path=path,
        key="COORDSYS",
        fix="Convert it, such as with mocpy or healpy",
    )


def _check_cells(order: Ints, cells: Ints) -> None:
    if len(order) and not (order.min() >= 0 and order.max() <= _DEEPEST):
        raise ValueError(f"its orders are {order.min()} to {order.max()}; 0 to {_DEEPEST} are allowed")
    if np.any((cells < 0) | (cells >= 12 * 4**order)):
        raise ValueError("it has cells that are not on the sphere")


def _merged_cells(order: Ints, cells: Ints) -> Ints:
    _check_cells(order, cells)
    shift = 2 * (_DEEPEST - order)
    return _merged(np.column_stack([cells << shift, (cells + 1) << shift]))


def _merged(ranges: Ints) -> Ints:
    """Ranges in order, apart from each other."""
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    if not len(ranges):
        return ranges
    if ranges.min() < 0 or ranges.max() > 12 * 4**_DEEPEST:
        raise ValueError("it has cells that are not on the sphere")
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ranges[:, 1])
    begins = np.concatenate([[True], ranges[1:, 0] > reach[:-1]])
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:] - 1, [len(ranges) - 1]])
    return np.column_stack([ranges[first, 0], reach[last]])


def _expand(first: Ints, last: Ints) -> Ints:
    """All numbers of some ascending ranges; empty ranges have none."""
    sizes = np.maximum(last - first, 0)
    starts = np.repeat(first - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return np.asarray(starts + np.arange(int(sizes.sum())), dtype=np.int64)


def read_density_map(path: Path, column: str | int | None = None) -> CellArea:
    """Read a map of densities: a HEALPix map in FITS, implicit or explicit, ring or nested; or a healsparse map.

    Parameters
    ----------
    path : Path
    column : str or int, optional
        Its column, by default the first.

    Returns
    -------
    CellArea
        Its pixels of positive value, which are the weights.

    Raises
    ------
    ConfigError
        If there is no such file, or healsparse is needed and not installed.
    CorruptFileError
        If it is no map.
    CatalogError
        If it is in another frame than ICRS, or no pixel has a positive value.
    """
    if not path.exists():
        raise ConfigError("there is no such file", path=path, key="density_map", fix="Check the path")
    try:
        with fits_errors(path):
            order, cells, values = _healsparse(path) if _is_healsparse(path) else _healpix(path, column)
    except SkygraftError:
        raise
    except _DAMAGE as error:
        raise CorruptFileError(
            f"not a readable map of densities: {error}", path=path, fix="Give a HEALPix map in FITS, or of healsparse"
        ) from error
    good = np.isfinite(values) & (values > 0) & (values > _UNSEEN)
    if not good.any():
        raise CatalogError(
            "no pixel of the map has a positive value", path=path, key="density_map", fix="Check its column and values"
        )
    cells, values = cells[good], values[good]
    rows = np.argsort(cells)
    if np.any(np.diff(cells[rows]) == 0):
        raise CorruptFileError("pixels of the map occur twice", path=path, fix="Give each pixel once")
    return CellArea(order, cells[rows], None, values[rows])


def _is_healsparse(path: Path) -> bool:
    if path.is_dir() or path.suffix in (".hsp", ".hs", ".parquet"):
        return True
    with open_fits(path, memmap=False) as hdus:
        return any(hdu.name in ("COV", "SPARSE") for hdu in hdus)


def _healsparse(path: Path) -> tuple[int, Ints, Floats]:
    try:
        import healsparse
    except ImportError:
        raise ConfigError(
            "the map is of healsparse, which is not installed",
            path=path,
            key="density_map",
            fix="Install it: pip install 'skygraft[healsparse]'",
        ) from None
    found: Any = healsparse.HealSparseMap.read(str(path))
    cells = np.asarray(found.valid_pixels, dtype=np.int64)
    values = np.asarray(found.get_values_pix(cells))
    if values.dtype.names or values.ndim != 1:
        raise ValueError("it has several values in each pixel")
    return _order_of(found.nside_sparse), cells, values.astype(np.float64)


def _healpix(path: Path, column: str | int | None) -> tuple[int, Ints, Floats]:
    with open_fits(path, memmap=False) as hdus:
        table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
        if table is None:
            raise ValueError("it has no table")
        header, data = table.header, table.data
        _check_frame(header, path)
        names = list(data.names)
        explicit = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() == "EXPLICIT"
        if isinstance(column, str) and column not in names:
            raise CatalogError(f"the map has no column {column!r}; it has {', '.join(names)}", path=path, key="column")
        chosen = column if isinstance(column, str) else names[(1 if explicit else 0) + int(column or 0)]
        values = np.asarray(data[chosen], dtype=np.float64).ravel()
        nside = int(header["NSIDE"])
        order = _order_of(nside)
        if explicit:
            pixels = np.asarray(data[names[0]]).astype(np.int64).ravel()
        else:
            pixels = np.arange(len(values), dtype=np.int64) + int(header.get("FIRSTPIX", 0))
        ring = str(header.get("ORDERING", "RING")).strip().upper().startswith("RING")
    if len(pixels) != len(values) or np.any((pixels < 0) | (pixels >= 12 * nside**2)):
        raise ValueError(f"its pixels are not those of NSIDE {nside}")
    if ring:
        from astropy_healpix.core import ring_to_nested

        pixels = np.asarray(ring_to_nested(pixels, nside), dtype=np.int64)
    return order, pixels, values


def _order_of(nside: int) -> int:
    order = int(nside).bit_length() - 1
    if nside < 1 or 1 << order != nside:
        raise ValueError(f"NSIDE is {nside}; a power of two is needed")
    return order
