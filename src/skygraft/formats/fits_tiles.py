"""Change some pixels of a tile-compressed FITS image and leave all others the bits that they are.

A compressed image is a table with one row per tile (FITS standard 4.0, section 10). Tiles without a changed pixel are
carried over as bytes. In a tile of quantised floats, changed pixels are quantised with the tile's own scale, offset
and dither (without bias: `round_fairly`), and the others keep the integer they have. A tile whose new values do not
fit is stored losslessly in the ``GZIP_COMPRESSED_DATA`` column, which the standard has for this.
"""

from __future__ import annotations

import functools
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed import _codecs
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError, OutputError
from skygraft.formats.fits_cards import CardUpdates, card_value
from skygraft.formats.fits_pixels import PixelScaling, differ, round_fairly

__all__ = ["TiledImage", "dither_randoms", "rewrite_tiles"]

_COMPRESSED, _GZIPPED, _RAW = "COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"
_GZIP_LEVEL = 1  # As cfitsio: noise does not compress better at a higher one.
_ZERO = -2147483646
"""The integer that stands for exactly 0.0 with SUBTRACTIVE_DITHER_2."""
_RESERVED = 16
"""Integers at either end of the range that are kept for such meanings."""
_TFORM_BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16}
_TFORM_DTYPE = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_NUMBER_OF_RANDOMS = 10000


@functools.cache
def dither_randoms() -> NDArray[np.float64]:
    """The 10000 numbers in [0, 1) that all readers dither with (FITS standard 4.0, appendix I), float32 in value."""
    numbers = np.empty(_NUMBER_OF_RANDOMS)
    seed = 1
    for i in range(_NUMBER_OF_RANDOMS):
        seed = 16807 * seed % 2147483647
        numbers[i] = seed / 2147483647
    return numbers.astype(np.float32).astype(np.float64)


def _dither(row: int, size: int) -> NDArray[np.float64]:
    """Dither of the `size` pixels of a tile; `row` counts tiles from 0 and includes ZDITHER0 - 1."""
    randoms = dither_randoms()
    start = row % _NUMBER_OF_RANDOMS
    pieces, have = [], 0
    while have < size:
        piece = randoms[int(randoms[start] * 500) :]
        pieces.append(piece)
        have += piece.size
        start = (start + 1) % _NUMBER_OF_RANDOMS
    return np.concatenate(pieces)[:size]


@dataclass(frozen=True)
class _Column:
    name: str
    offset: int
    form: str
    element: str
    """Letter of the elements in the heap; "" for a column that is all in the row."""

    @property
    def wide(self) -> bool:
        return "Q" in self.form.split("(")[0]


class TiledImage:
    """The tiles of one compressed image.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the binary table (not of the image that astropy makes of it).
    data : memoryview
        Table and heap.
    path, hdu
        For errors.
    """

    def __init__(self, header: fits.Header, data: memoryview, *, path: str | os.PathLike[str], hdu: int) -> None:
        self.path, self.hdu = path, hdu
        self.algorithm = str(header["ZCMPTYPE"]).strip().upper().replace("RICE_ONE", "RICE_1")
        ndim = int(header["ZNAXIS"])
        self.shape = tuple(int(header[f"ZNAXIS{i}"]) for i in range(ndim, 0, -1))
        self.tile_shape = tuple(
            int(header.get(f"ZTILE{i}", self.shape[-1] if i == 1 else 1)) for i in range(ndim, 0, -1)
        )
        self.grid = tuple(-(-n // t) for n, t in zip(self.shape, self.tile_shape, strict=True))
        self.scaling = PixelScaling.from_header(header, "ZBITPIX")
        self.settings = {
            str(header[f"ZNAME{i}"]).strip().upper(): header[f"ZVAL{i}"] for i in range(1, 20) if f"ZNAME{i}" in header
        }
        self.columns = self._columns(header)
        width, self.n_rows = int(header["NAXIS1"]), int(header["NAXIS2"])
        self.rows = np.frombuffer(data[: width * self.n_rows], np.uint8).reshape(self.n_rows, width)
        self.heap = data[int(header.get("THEAP", width * self.n_rows)) :]
        if self.n_rows != math.prod(self.grid) or _COMPRESSED not in self.columns:
            raise CorruptFileError(
                f"the compressed image has {self.n_rows} rows for {math.prod(self.grid)} tiles",
                path=path,
                hdu=hdu,
                fix="Copy or download the file again",
            )
        self._scales(header)

    def _scales(self, header: fits.Header) -> None:
        self.quantised = self.scaling.bitpix < 0 and ("ZSCALE" in self.columns or "ZSCALE" in header)
        self.scale = self._per_tile("ZSCALE", header, 1.0)
        self.zero = self._per_tile("ZZERO", header, 0.0)
        blank = card_value(header, "ZBLANK", card_value(header, "BLANK"))
        self.blank = (
            self._fixed("ZBLANK").astype(np.int64)
            if "ZBLANK" in self.columns
            else None
            if blank is None
            else np.full(self.n_rows, int(blank))
        )
        method = str(header.get("ZQUANTIZ", "NO_DITHER")).strip()
        self.dither_method = {"SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}.get(method, 0)
        self.dither_seed = int(card_value(header, "ZDITHER0", 0)) if self.dither_method else 0

    @staticmethod
    def _columns(header: fits.Header) -> dict[str, _Column]:
        columns: dict[str, _Column] = {}
        offset = 0
        for i in range(1, int(header["TFIELDS"]) + 1):
            form = str(header[f"TFORM{i}"]).strip()
            match = re.match(r"(\d*)([PQ])([A-Z])|(\d*)([A-Z])", form)
            if match is None:
                raise FormatError(f"TFORM{i} = {form!r} is no column format")
            name = str(header.get(f"TTYPE{i}", "")).strip().upper()
            if match.group(2):
                size = int(match.group(1) or 1) * (8 if match.group(2) == "P" else 16)
            else:
                size = int(match.group(4) or 1) * _TFORM_BYTES.get(match.group(5), 1)
            columns[name] = _Column(name, offset, form, match.group(3) or "")
            offset += size
        return columns

    def _fixed(self, name: str) -> NDArray[Any]:
        column = self.columns[name]
        dtype = np.dtype(_TFORM_DTYPE[column.form.lstrip("0123456789")[0]])
        cells = self.rows[:, column.offset : column.offset + dtype.itemsize]
        return np.ascontiguousarray(cells).view(dtype)[:, 0]

    def _per_tile(self, name: str, header: fits.Header, default: float) -> NDArray[np.float64]:
        if name in self.columns:
            return self._fixed(name).astype(np.float64)
        return np.full(self.n_rows, float(card_value(header, name, default)))

    @functools.cached_property
    def descriptors(self) -> dict[str, NDArray[np.int64]]:
        """Of each column with data in the heap: number of elements and offset in the heap, shape (n_rows, 2)."""
        found = {}
        for column in self.columns.values():
            if column.element:
                dtype = np.dtype(">i8" if column.wide else ">u4")
                cells = self.rows[:, column.offset : column.offset + 2 * dtype.itemsize]
                found[column.name] = np.ascontiguousarray(cells).view(dtype).astype(np.int64)
        return found

    def stored_bytes(self, name: str, tile: int) -> memoryview:
        """The bytes in the heap of one cell."""
        count, offset = self.descriptors[name][tile]
        size = int(count) * _TFORM_BYTES[self.columns[name].element]
        if offset < 0 or offset + size > len(self.heap):
            raise self._damaged(tile, "it lies outside of the data")
        return self.heap[int(offset) : int(offset) + size]

    def slices(self, tile: int) -> tuple[slice, ...]:
        """Where a tile lies in the image."""
        index = np.unravel_index(tile, self.grid)
        return tuple(
            slice(int(i) * t, min((int(i) + 1) * t, n))
            for i, t, n in zip(index, self.tile_shape, self.shape, strict=True)
        )

    def tile_shape_of(self, tile: int) -> tuple[int, ...]:
        """Shape of one tile: those at the image's edges may be smaller."""
        return tuple(s.stop - s.start for s in self.slices(tile))

    def column_of(self, tile: int) -> str:
        """The column that holds a tile's pixels."""
        for name in (_COMPRESSED, _GZIPPED, _RAW):
            if name in self.descriptors and self.descriptors[name][tile, 0] > 0:
                return name
        raise self._damaged(tile, "it has no data")

    def stored(self, tile: int) -> NDArray[Any]:
        """The numbers stored for one tile, uncompressed: integers where the tile is quantised, else as ZBITPIX."""
        shape = self.tile_shape_of(tile)
        size = math.prod(shape)
        column = self.column_of(tile)
        buffer = self.stored_bytes(column, tile)
        if column == _RAW:
            return np.frombuffer(buffer, _TFORM_DTYPE[self.columns[column].element])[:size].reshape(shape)
        algorithm = "GZIP_1" if column == _GZIPPED else self.algorithm
        try:
            if algorithm.startswith("GZIP") or algorithm == "NOCOMPRESS":
                return self._from_bytes(buffer, algorithm, size, column == _COMPRESSED).reshape(shape)
            numbers = self._codec(shape).decode(np.frombuffer(buffer, self._element_dtype()))
        except (zlib.error, ValueError, RuntimeError, CfitsioException) as error:
            raise self._damaged(tile, error) from error
        return np.asarray(numbers)[:size].reshape(shape)

    def _element_dtype(self) -> str:
        return _TFORM_DTYPE[self.columns[_COMPRESSED].element]

    def _from_bytes(self, buffer: memoryview, algorithm: str, size: int, quantisable: bool) -> NDArray[Any]:
        raw = bytes(buffer) if algorithm == "NOCOMPRESS" else zlib.decompress(buffer, 31)
        if not size or len(raw) % size:
            raise ValueError(f"{len(raw)} bytes for {size} pixels")
        itemsize = len(raw) // size
        numbers = np.frombuffer(raw, np.uint8)
        if algorithm == "GZIP_2":
            numbers = np.ascontiguousarray(numbers.reshape(itemsize, size).T).reshape(-1)
        floats = self.scaling.bitpix < 0 and not (self.quantised and quantisable)
        return numbers.view(
            {1: ">u1", 2: ">i2", 4: ">f4" if floats else ">i4", 8: ">f8" if floats else ">i8"}[itemsize]
        )

    def _codec(self, shape: tuple[int, ...]) -> Any:
        size = math.prod(shape)
        if self.algorithm == "RICE_1":
            bytepix = int(self.settings.get("BYTEPIX", 4))
            return _codecs.Rice1(blocksize=int(self.settings.get("BLOCKSIZE", 32)), bytepix=bytepix, tilesize=size)
        if self.algorithm == "PLIO_1":
            return _codecs.PLIO1(tilesize=size)
        flat = tuple(n for n in shape if n != 1)
        if self.algorithm == "HCOMPRESS_1" and len(flat) == 2:
            scale, smooth = int(self.settings.get("SCALE", 0)), bool(self.settings.get("SMOOTH", 0))
            return _codecs.HCompress1(scale=scale, smooth=smooth, bytepix=8, nx=flat[0], ny=flat[1])
        raise FormatError(
            f"images compressed with {self.algorithm} are not supported",
            path=self.path,
            hdu=self.hdu,
            fix="Compress the image with GZIP_2 or RICE_1",
        )

    def _lossless(self, tile: int) -> bool:
        return not self.quantised or self.column_of(tile) != _COMPRESSED

    def values(self, tile: int, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Pixel values of the numbers stored for a tile."""
        if self._lossless(tile):
            return self.scaling.decode(stored, dtype)
        q = stored.astype(np.float64)
        if self.dither_method:
            dither = _dither(tile + self.dither_seed - 1, stored.size).reshape(stored.shape)
            values = (q - dither + 0.5) * self.scale[tile] + self.zero[tile]
            if self.dither_method == 2:
                values[stored == _ZERO] = 0.0
        else:
            values = q * self.scale[tile] + self.zero[tile]
        if self.blank is not None:
            values[stored == self.blank[tile]] = np.nan
        # Through the stored type first, as every reader does.
        values = values.astype(self.scaling.dtype.newbyteorder("="))
        if not self.scaling.trivial:
            values = values * self.scaling.bscale + self.scaling.bzero
        out: NDArray[Any] = values.astype(dtype)
        return out

    def decode(self, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """The whole image."""
        native = self.scaling.dtype.newbyteorder("=")
        out = self._decode_rows()
        if out is not None:
            return out.astype(dtype or native)
        out = np.empty(self.shape, dtype or native)
        for tile in range(self.n_rows):
            out[self.slices(tile)] = self.values(tile, self.stored(tile), out.dtype)
        return out

    def _decode_rows(self) -> NDArray[Any] | None:
        """The whole image where it is losslessly gzipped by rows, as afw and cfitsio do; None where it is not."""
        lossless = not self.quantised and self.scaling.trivial and self.scaling.blank is None
        if not (lossless and self.algorithm.startswith("GZIP") and self.tile_shape == (1, *self.shape[1:])):
            return None
        itemsize, size = self.scaling.dtype.itemsize, math.prod(self.shape[1:])
        cells = np.empty((self.n_rows, size, itemsize), np.uint8)
        layout = (itemsize, size) if self.algorithm == "GZIP_2" else (size, itemsize)
        cells_by_byte = cells.swapaxes(1, 2) if self.algorithm == "GZIP_2" else cells
        for tile in range(self.n_rows):
            if not self.descriptors[_COMPRESSED][tile, 0]:
                return None
            try:
                raw = zlib.decompress(self.stored_bytes(_COMPRESSED, tile), 31)
            except zlib.error as error:
                raise self._damaged(tile, error) from error
            if len(raw) != size * itemsize:
                return None
            cells_by_byte[tile] = np.frombuffer(raw, np.uint8).reshape(layout)
        return cells.reshape(self.n_rows, -1).view(self.scaling.dtype).reshape(self.shape)

    def _damaged(self, tile: int, error: Exception | str) -> CorruptFileError:
        return CorruptFileError(
            f"tile {tile} cannot be uncompressed ({error})",
            path=self.path,
            hdu=self.hdu,
            fix="Copy or download the file again",
        )

    def quantise(self, tile: int, new: NDArray[Any], stored: NDArray[Any], changed: NDArray[np.bool_]) -> Any:
        """The integers of a tile with the changed pixels quantised anew, or None where they do not fit."""
        values = new[changed].astype(np.float64)
        if not self.scaling.trivial:
            values = (values - self.scaling.bzero) / self.scaling.bscale
        nan = np.isnan(values)
        if (nan.any() and self.blank is None) or self.scale[tile] == 0:
            return None
        q = (np.where(nan, 0.0, values) - self.zero[tile]) / self.scale[tile]
        if self.dither_method:
            dither = _dither(tile + self.dither_seed - 1, stored.size).reshape(stored.shape)
            q = q + dither[changed] - 0.5
        limit = 2 ** (8 * min(stored.dtype.itemsize, 4) - 1) - _RESERVED
        if not np.all(np.abs(q) < limit):
            return None
        numbers = round_fairly(q, stored, changed)
        if self.dither_method == 2:
            numbers[values == 0] = _ZERO
        if self.blank is not None:
            numbers[nan] = self.blank[tile]
        out = stored.astype(stored.dtype.newbyteorder("="))
        out[changed] = numbers
        return out

    def compress(self, numbers: NDArray[Any]) -> bytes | None:
        """Compressed bytes of the numbers of a tile, or None where the algorithm cannot hold them as they are."""
        if self.algorithm.startswith("GZIP") or self.algorithm == "NOCOMPRESS":
            raw = numbers.astype(numbers.dtype.newbyteorder(">")).reshape(-1)
            if self.algorithm == "NOCOMPRESS":
                return raw.tobytes()
            if self.algorithm == "GZIP_2":
                raw = np.ascontiguousarray(raw.view(np.uint8).reshape(raw.size, -1).T)
            return _gzip(raw.tobytes())
        if self.algorithm == "HCOMPRESS_1" and int(self.settings.get("SCALE", 0)) > 1:
            return None
        if self.algorithm == "PLIO_1" and (numbers.min() < 0 or numbers.max() >= 1 << 24):
            return None
        encoded = self._codec(numbers.shape).encode(np.ascontiguousarray(numbers))
        dtype = np.dtype(self._element_dtype())
        return bytes(np.frombuffer(encoded, dtype.newbyteorder("=")).astype(dtype).tobytes())

    def encode(
        self, tile: int, new: NDArray[Any], stored: NDArray[Any], changed: NDArray[np.bool_]
    ) -> tuple[str, bytes]:
        """Column and bytes for a tile with changed pixels."""
        column = self.column_of(tile)
        if not self._lossless(tile):
            numbers = self.quantise(tile, new, stored, changed)
            data = None if numbers is None else self.compress(numbers)
            if data is not None:
                return column, data
            native = self.scaling.dtype.newbyteorder("=")
            values = self.values(tile, stored, native)
            values[changed] = new[changed]
            return _GZIPPED, _gzip(values.astype(self.scaling.dtype).tobytes())
        numbers = self.scaling.encode(new, stored, changed, path=self.path, hdu=self.hdu)
        if column == _RAW:
            return column, numbers.astype(_TFORM_DTYPE[self.columns[column].element]).tobytes()
        data = self.compress(numbers) if column == _COMPRESSED else None
        return (_GZIPPED, _gzip(numbers.tobytes())) if data is None else (column, data)


def _gzip(raw: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(raw) + packer.flush()


def _touched(image: TiledImage, changed: NDArray[np.bool_]) -> Iterator[int]:
    """Tiles that have changed pixels."""
    for axis, (length, step) in enumerate(zip(image.shape, image.tile_shape, strict=True)):
        changed = np.logical_or.reduceat(changed, np.arange(0, length, step), axis=axis)
    yield from (int(tile) for tile in np.flatnonzero(changed))


def rewrite_tiles(
    header: fits.Header,
    data: memoryview,
    new: NDArray[Any],
    original: NDArray[Any] | None = None,
    *,
    path: str | os.PathLike[str],
    hdu: int,
) -> tuple[CardUpdates, Sequence[bytes | memoryview] | None]:
    """Table and heap of a compressed image with new pixels.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the binary table.
    data : memoryview
        Table and heap as they are.
    new : ndarray
        New pixel values.
    original : ndarray, optional
        Pixel values as they were read, to save decoding.
    path, hdu
        For errors.

    Returns
    -------
    updates : mapping
        Cards to change.
    parts : sequence of bytes or None
        Table, then heap; None where no pixel changed.

    Raises
    ------
    CorruptFileError
        If a tile is damaged.
    OutputError
        If new values do not fit into the image's type.
    """
    image = TiledImage(header, data, path=path, hdu=hdu)
    changed = differ(new, image.decode(new.dtype) if original is None else original)
    replaced: dict[int, tuple[str, bytes]] = {}
    for tile in _touched(image, changed):
        where = image.slices(tile)
        replaced[tile] = image.encode(tile, new[where], image.stored(tile), changed[where])
    if not replaced:
        return {}, None
    return _assemble(image, header, replaced)


def _assemble(
    image: TiledImage, header: fits.Header, replaced: dict[int, tuple[str, bytes]]
) -> tuple[CardUpdates, Sequence[bytes | memoryview]]:
    columns, rows = dict(image.columns), image.rows.copy()
    descriptors = {name: values.copy() for name, values in image.descriptors.items()}
    updates: dict[str, tuple[Any, str] | None] = {}
    if _GZIPPED not in columns and any(name == _GZIPPED for name, _ in replaced.values()):
        wide = columns[_COMPRESSED].wide
        number = int(header["TFIELDS"]) + 1
        form = "1QB" if wide else "1PB"
        columns[_GZIPPED] = _Column(_GZIPPED, rows.shape[1], form, "B")
        rows = np.hstack([rows, np.zeros((image.n_rows, 16 if wide else 8), np.uint8)])
        descriptors[_GZIPPED] = np.zeros((image.n_rows, 2), np.int64)
        updates |= {
            "NAXIS1": (rows.shape[1], ""),
            "TFIELDS": (number, ""),
            f"TTYPE{number}": (_GZIPPED, "tiles that do not quantise, lossless"),
            f"TFORM{number}": (form, ""),
        }
    heap: list[bytes | memoryview] = []
    size = 0
    for tile in range(image.n_rows):
        new_name, new_bytes = replaced.get(tile, ("", b""))
        for name, values in descriptors.items():
            cell: bytes | memoryview
            if name == new_name:
                cell = new_bytes
            elif new_name and name in (_COMPRESSED, _GZIPPED, _RAW):
                cell = b""
            elif name in image.descriptors:
                cell = image.stored_bytes(name, tile)
            else:
                cell = b""
            values[tile] = len(cell) // _TFORM_BYTES[columns[name].element], size if cell else 0
            if cell:
                heap.append(cell)
                size += len(cell)
    for name, values in descriptors.items():
        column = columns[name]
        if not column.wide and size >= 1 << 31:
            raise OutputError(
                "the compressed image grows beyond the 2 GiB that its descriptors reach",
                path=image.path,
                hdu=image.hdu,
                fix="Write it uncompressed",
            )
        raw = values.astype(">i8" if column.wide else ">u4").view(np.uint8).reshape(image.n_rows, -1)
        rows[:, column.offset : column.offset + raw.shape[1]] = raw
        index = list(columns).index(name) + 1
        longest = int(values[:, 0].max())
        base = column.form.split("(")[0]
        updates[f"TFORM{index}"] = (f"{base}({longest})", "")
    updates["PCOUNT"] = (size, "")
    if "THEAP" in header:
        updates["THEAP"] = (rows.size, "")
    return updates, [rows.tobytes(), b"".join(heap)]
