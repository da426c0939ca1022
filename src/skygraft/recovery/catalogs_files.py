"""Read the files of detection catalogues: FITS, LDAC, Source Extractor's text, Parquet, and other tables."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.columns import ColumnReader, parse_unit, refused
from skygraft.catalog.fits_tables import read_fits
from skygraft.catalog.io import read_table
from skygraft.catalog.text_tables import FETCH_AGAIN
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.fitsfile.open import fits_errors, is_fits, open_fits

__all__ = ["Columns", "RawCatalog", "SkyBox", "open_raw"]

_HEAD_LINE = re.compile(r"#\s*(\d+)\s+([A-Za-z]\w*)\b[^\[]*(?:\[([^\]]*)\])?\s*$")
_SEX_UNITS = {"pixel": "pix", "count": "ct", "mag": "mag", "deg": "deg"}
_TEXT_BYTES = 1 << 30


@dataclass(frozen=True)
class SkyBox:
    """Declinations, and right ascensions where they do not wrap, that a reader may restrict itself to; degrees."""

    dec: tuple[float, float]
    ra: tuple[float, float] | None = None


@dataclass(frozen=True)
class RawCatalog:
    """A catalogue's file: its columns by name, and what its headers say.

    Parameters
    ----------
    path : Path
        The file.
    names : tuple of str
        Names of all columns.
    header : mapping
        Cards of its headers, names in capitals; ``ALIAS`` is a tuple of all such cards.
    read : callable
        Gives the table of the columns named; it may leave out rows outside of a `SkyBox`.
    """

    path: Path
    names: tuple[str, ...]
    header: Mapping[str, Any] = field(repr=False)
    read: Callable[[Sequence[str], tuple[str, str, float] | None, SkyBox | None], Table] = field(repr=False)


def open_raw(path: str | os.PathLike[str], hdu: int | str | None = None) -> RawCatalog:
    """Open a catalogue; its format is recognised by its content.

    Parameters
    ----------
    path : path-like
        FITS (also LDAC, and LSST's afw tables), Source Extractor's ASCII_HEAD, Parquet (a file, or a folder of them),
        ECSV, CSV or VOTable.
    hdu : int or str, optional
        HDU of the table, for FITS files with several.

    Returns
    -------
    RawCatalog

    Raises
    ------
    CatalogError
        If there is no such file, or it is no table that is known.
    CorruptFileError
        If it is truncated or damaged.
    """
    path = Path(path)
    try:
        stat = path.stat()
        start = b"" if path.is_dir() else _start(path)
    except FileNotFoundError:
        raise CatalogError(
            "there is no such catalogue", path=path, fix="Make it, or correct the path in recovery: catalogs:"
        ) from None
    except (OSError, ValueError) as error:
        raise CatalogError(f"the catalogue cannot be read ({error})", path=path, fix="Check the path") from error
    if path.is_dir() or start.startswith(b"PAR1"):
        return _parquet(path)
    if not start:
        raise CorruptFileError("the file is empty (0 bytes)", path=path, fix=FETCH_AGAIN)
    if is_fits(path):
        return _fits(str(path), stat.st_mtime_ns, stat.st_size, hdu)
    if hdu is not None:
        raise CatalogError("hdu is given, and this is no FITS file", path=path, key="hdu", fix="Leave it out")
    if _HEAD_LINE.match(start.split(b"\n")[0].decode("latin-1").rstrip()):
        return _of_table(path, _read_ascii_head(path), {})
    table = read_table(path)
    return _of_table(path, table, table.meta)


def _start(path: Path) -> bytes:
    if not path.is_file():
        raise CatalogError("this is not a regular file", path=path, fix="Give a file that can be read to its end")
    with path.open("rb") as file:
        return file.read(512)


def _of_table(path: Path, table: Table, header: Mapping[str, Any]) -> RawCatalog:
    def read(names: Sequence[str], place: Any = None, box: SkyBox | None = None) -> Table:
        return table[list(names)]

    return RawCatalog(path, tuple(table.colnames), {str(k).upper(): v for k, v in header.items()}, read)


# A catalogue of many images is read by each of them.
@functools.lru_cache(maxsize=2)
def _fits(name: str, mtime: int, size: int, hdu: int | str | None) -> RawCatalog:
    path = Path(name)
    which, cards = _fits_headers(path, hdu)
    table = read_fits(path, which)
    if "SEXNFIN" in cards and cards["SEXNFIN"] != len(table):
        raise CorruptFileError(
            f"the header counts {cards['SEXNFIN']} sources (SEXNFIN), and there are {len(table)} rows",
            path=path,
            fix="Run Source Extractor again",
        )
    # LSST's flags are bits of one column.
    column = cards.get("FLAGCOL")
    if isinstance(column, int) and 1 <= column <= len(table.colnames):
        bits = np.asarray(table[table.colnames[column - 1]])
        for i in range(bits.shape[1] if bits.ndim == 2 else 0):
            if isinstance(flag := cards.get(f"TFLAG{i + 1}"), str) and flag not in table.colnames:
                table[flag] = bits[:, i].astype(bool)
    return _of_table(path, table, cards)


def _fits_headers(path: Path, hdu: int | str | None) -> tuple[int | str, dict[str, Any]]:
    """Choose the HDU of the table, and return it with the cards that hold for it."""
    cards: dict[str, Any] = {}
    with warnings.catch_warnings(), fits_errors(path):
        warnings.simplefilter("ignore")
        with open_fits(path, memmap=False) as hdus:
            tables = [i for i, h in enumerate(hdus) if isinstance(h, (fits.BinTableHDU, fits.TableHDU))]
            tables = [i for i in tables if not isinstance(hdus[i], fits.CompImageHDU)]
            heads = [i for i in tables if hdus[i].name == "LDAC_IMHEAD"]
            rest = [i for i in tables if i not in heads]
            if len(rest) > 1 and any("AFW_TYPE" in hdus[i].header for i in rest):
                # What follows the first are its archive.
                rest = rest[:1]
            if hdu is not None:
                which = hdus.index_of(hdu) if isinstance(hdu, str) and hdu in hdus else hdu
            elif len(rest) != 1:
                listed = ", ".join(f"{i} ({hdus[i].name or 'unnamed'})" for i in rest)
                raise CatalogError(
                    f"the file holds {len(rest)} tables{': ' if listed else ''}{listed}",
                    path=path,
                    fix="Say which with hdu:" if rest else "Give a FITS file with a binary table",
                )
            else:
                which = rest[0]
            sources = [hdus[0].header]
            # Source Extractor puts the image's header before its objects.
            before = [i for i in heads if isinstance(which, int) and i < which]
            if before:
                try:
                    text = "".join(np.ravel(hdus[before[-1]].data[0][0]).astype("U80").tolist())
                except UnicodeDecodeError as error:
                    raise CatalogError(
                        "the image's header, which Source Extractor copies before its objects, is no text",
                        path=path,
                        hdu=before[-1],
                        fix="Run Source Extractor again, or copy the file again",
                    ) from error
                lines = [text[i : i + 80] for i in range(0, len(text), 80)]
                sources.append(fits.Header.fromstring("".join(line.ljust(80) for line in lines)))
            if isinstance(which, int) and which < len(hdus):
                sources.append(hdus[which].header)
            for header in sources:
                for card in header.cards:
                    _keep(cards, card)
    return which, cards


def _keep(cards: dict[str, Any], card: Any) -> None:
    try:
        key, value = card.keyword.upper(), card.value
    except fits.VerifyError:
        return  # of the image's header, only a few cards are needed
    if key == "ALIAS":
        cards[key] = (*cards.get(key, ()), str(value))
    elif key and key not in ("COMMENT", "HISTORY"):
        cards[key] = value


def _read_ascii_head(path: Path) -> Table:
    """Read Source Extractor's ASCII_HEAD: columns are numbered in the first lines, and vectors leave gaps."""
    if path.stat().st_size > _TEXT_BYTES:
        raise CatalogError("the text is larger than 1 GiB", path=path, fix="Write FITS_LDAC instead (CATALOG_TYPE)")
    heads: list[tuple[int, str, str]] = []
    rows: list[list[str]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("#"):
                if (match := _HEAD_LINE.match(line.rstrip())) is not None and not rows:
                    heads.append((int(match[1]), match[2], (match[3] or "").split()[0] if match[3] else ""))
            elif line.strip():
                rows.append(line.split())
    width = len(rows[0]) if rows else heads[-1][0]
    for number, row in enumerate(rows):
        if len(row) != width:
            raise CorruptFileError(
                f"this row has {len(row)} values, the first has {width}",
                path=path,
                row=number,
                fix="The file may be truncated: run Source Extractor again",
            )
    if width < heads[-1][0] or heads[0][0] < 1 or [i for i, _, _ in heads] != sorted({i for i, _, _ in heads}):
        raise CorruptFileError(
            f"the header numbers columns up to {heads[-1][0]}, and rows have {width} values", path=path, fix=FETCH_AGAIN
        )
    table = Table()
    ends = [*(i for i, _, _ in heads[1:]), width + 1]
    for (first, name, unit), end in zip(heads, ends, strict=True):
        try:
            values = np.array([row[first - 1 : end - 1] for row in rows], dtype=np.float64)
        except ValueError as error:
            raise CorruptFileError(f"{name} is no number in every row ({error})", path=path, key=name) from None
        values = values.reshape(len(rows), end - first)
        column = values[:, 0] if end - first == 1 else values
        # A number of an object, or flags, are whole
        whole = bool(np.all(column == np.rint(column))) and name in ("NUMBER", "FLAGS", "IMAFLAGS_ISO")
        table[name] = column.astype(np.int64) if whole else column
        table[name].unit = _SEX_UNITS.get(unit, unit) or None
    return table


def _parquet(path: Path) -> RawCatalog:
    import pyarrow as pa
    import pyarrow.dataset as pads

    try:
        dataset = pads.dataset(path, format="parquet", partitioning="hive" if path.is_dir() else None)
        schema = dataset.schema
        there = tuple(schema.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"not a readable Parquet file: {error}", path=path, fix=FETCH_AGAIN) from error
    if path.is_dir() and not dataset.files:
        raise CatalogError("the folder holds no Parquet files", path=path, fix="Give a folder with tables in it")

    def read(names: Sequence[str], place: tuple[str, str, float] | None = None, box: SkyBox | None = None) -> Table:
        chosen = None
        if place is not None and box is not None:
            ra, dec, degrees = place
            chosen = (pads.field(dec) >= box.dec[0] / degrees) & (pads.field(dec) <= box.dec[1] / degrees)
            if box.ra is not None:
                chosen &= (pads.field(ra) >= box.ra[0] / degrees) & (pads.field(ra) <= box.ra[1] / degrees)
        try:
            table = dataset.to_table(columns=list(names), filter=chosen)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise CorruptFileError(f"not a readable Parquet file: {error}", path=path, fix=FETCH_AGAIN) from error
        return from_arrow(table, origin=str(path))

    header = {
        k.decode(errors="replace").upper(): v.decode(errors="replace") for k, v in (schema.metadata or {}).items()
    }
    return RawCatalog(path, there, header, read)


class Columns:
    """The columns of a catalogue as arrays, with units.

    Parameters
    ----------
    table : Table
        The columns that were read.
    path : Path
        The file, for errors.
    units : mapping of str to str
        Units that the user gave for columns without one.
    """

    def __init__(self, table: Table, path: Path, units: Mapping[str, str]) -> None:
        self.table, self.path = table, path
        for name, unit in units.items():
            if name not in table.colnames:
                continue
            given, own = parse_unit(unit), parse_unit(getattr(table[name], "unit", None))
            if given is None:
                raise CatalogError(f"{unit!r} is not a unit", path=path, key=f"units.{name}", fix="Give one like rad")
            if own is not None and own != given:
                raise CatalogError(
                    f"the file says {own} for {name}, and units says {unit}", path=path, key=name, fix="Leave it out"
                )
            self.table[name].unit = given

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Any) -> Columns:
        """Return the columns with some of the rows only."""
        return Columns(self.table[rows], self.path, {})

    def __contains__(self, name: object) -> bool:
        return name in self.table.colnames

    def unit(self, name: str) -> Any:
        """Return the unit of a column; None where the file does not say, or names no unit that is known."""
        return self._reader(name).unit

    def _reader(self, name: str, element: int | None = None) -> ColumnReader:
        if name not in self.table.colnames:
            if name in refused(self.table):
                raise refused(self.table)[name].error(name, str(self.path))
            raise CatalogError(
                f"there is no column {name!r}",
                path=self.path,
                key=name,
                fix="Give the catalogue with all of its columns",
            )
        column = self.table[name]
        return ColumnReader(column if element is None else column[:, element], name, str(self.path))

    def floats(self, name: str, unit: str | None = None, element: int | None = None) -> Any:
        """Return a column, or one element of a vector, in a unit; NaN where missing, or infinite: no measurement.

        Raises
        ------
        CatalogError
            If it is not numbers, or of a unit that cannot be converted.
        """
        values = self._reader(name, element).floats(unit)
        return np.where(np.isinf(values), np.nan, values)

    def width(self, name: str) -> int:
        """Return the number of elements in each row."""
        shape = np.shape(self.table[name])
        return int(shape[1]) if len(shape) > 1 else 1

    def integers(self, name: str, default: int) -> Any:
        """Return a column of whole numbers."""
        return self._reader(name).integers(default)

    def booleans(self, name: str, default: bool) -> Any:
        """Return a column of truth values."""
        return self._reader(name).booleans(default)

    def texts(self, name: str) -> Any:
        """Return a column as text."""
        return self._reader(name).texts()
