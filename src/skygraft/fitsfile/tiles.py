"""Read a tile-compressed FITS image: a binary table with one row per tile (FITS standard 4.0, section 10).

Rice-coded tiles are decoded many at a time, since an image may have thousands; other tiles one by one.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from astropy.io import fits
from isal import isal_zlib
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.cards import finite_value
from skygraft.fitsfile.codecs import codec_errors, load_codec
from skygraft.fitsfile.inflate import PADDING, inflate_all
from skygraft.fitsfile.pixels import PixelScaling
from skygraft.fitsfile.quantised import Quantisation
from skygraft.fitsfile.rice import RiceError, decode_rice
from skygraft.fitsfile.shuffle import unshuffle, unshuffle_rows, unshuffle_words
from skygraft.fitsfile.tile_checks import check_plio, decode_hcompress, hcompressed_shape
from skygraft.fitsfile.tile_header import (
    COMPRESSED,
    GZIPPED,
    RAW,
    TFORM_BYTES,
    TFORM_DTYPE,
    TileHeader,
    tile_shape_of,
)

__all__ = ["TiledImage", "as_row", "tile_slices"]

_CODERS_OF_INTEGERS = ("RICE_1", "HCOMPRESS_1", "PLIO_1")
_LEAST_GZIP = 18
"""Bytes of a gzip stream's header and trailer."""
_BadDeflateError: type[Exception] = cast(Any, isal_zlib.error)
_ROWS_AT_ONCE = 64
_AT_ONCE = 1 << 17
"""Pixels that are processed at a time, so that they stay in the processor's cache from one step to the next."""


def tile_slices(shape: tuple[int, ...], tile_shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Iterate over the slices of an image that its tiles cover, in the order of the file."""
    along = ([slice(i, min(i + t, n)) for i in range(0, n, t)] for n, t in zip(shape, tile_shape, strict=True))
    return itertools.product(*along)


class TiledImage:
    """The tiles of one compressed image.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the binary table (not the image header that astropy derives from it).
    data : memoryview
        Table and heap.
    path, hdu
        For errors.
    in_part : bool
        Whether only some tiles are in the heap: none is looked at before it is asked for.

    Raises
    ------
    FormatError
        If the compression algorithm is not supported.
    CorruptFileError
        If the header or the descriptors of the table are damaged.
    """

    def __init__(
        self,
        header: fits.Header,
        data: memoryview,
        *,
        path: str | os.PathLike[str],
        hdu: int,
        in_part: bool = False,
    ) -> None:
        self.path, self.hdu, self.in_part = path, hdu, in_part
        self.header = TileHeader(header, path=path, hdu=hdu)
        self.algorithm, self.columns = self.header.algorithm, self.header.columns
        self.shape = tuple(int(header[f"ZNAXIS{i}"]) for i in range(int(header["ZNAXIS"]), 0, -1))
        self.tile_shape = tile_shape_of(header)
        self.grid = tuple(-(-n // t) for n, t in zip(self.shape, self.tile_shape, strict=True))
        self.scaling = PixelScaling.from_header(header, "ZBITPIX", path=path, hdu=hdu)
        width, self.n_rows = int(header["NAXIS1"]), int(header["NAXIS2"])
        if self.n_rows != math.prod(self.grid):
            raise self.header.damaged(f"the compressed image has {self.n_rows} rows for {math.prod(self.grid)} tiles")
        self.rows = np.frombuffer(data[: width * self.n_rows], np.uint8).reshape(self.n_rows, width)
        self.heap = data[int(header.get("THEAP", width * self.n_rows)) :]
        self._check_room()
        has = {name for name in ("ZSCALE", "ZZERO") if name in self.columns or name in header}
        if len(has) == 1:
            raise self.header.damaged(f"the compressed image has {has.pop()} without ZSCALE and ZZERO both")
        has_scale = bool(has)
        self.unscaled = self.scaling.bitpix < 0 and not has_scale and self.algorithm in _CODERS_OF_INTEGERS
        """Whether floats are stored as integers without a scale: other values need the lossless column."""
        self.quantisation = self._quantisation(header) if has_scale or self.unscaled else None

    def _check_room(self) -> None:
        """Raise if the image is larger than its compressed bytes can encode, before any memory is allocated for it."""
        room = sum(
            float(np.sum(self.header.most_pixels(name, found[:, 0] * TFORM_BYTES[self.columns[name].element])))
            for name, found in self.descriptors.items()
            if name in (COMPRESSED, GZIPPED, RAW)
        )
        if self.algorithm == "HCOMPRESS_1" and not self.in_part and self.descriptors[COMPRESSED][0, 0] > 0:
            self._check_hcompressed(0)
        if math.prod(self.shape) > room:
            raise self.header.damaged(f"an image of shape {self.shape} does not fit into {len(self.heap)} bytes")

    def _check_hcompressed(self, tile: int) -> None:
        """Raise if the shape stated in an HCOMPRESS tile is wrong: the decoder writes that many pixels unchecked."""
        shape = tuple(n for n in self.tile_shape_of(tile) if n != 1)
        if hcompressed_shape(self.stored_bytes(COMPRESSED, tile)) != shape:
            raise self._damaged(tile, f"it does not begin as an HCOMPRESS tile of shape {shape}")

    def _quantisation(self, header: fits.Header) -> Quantisation | None:
        if self.scaling.bitpix > 0:
            return None
        blank = self.header.blank()
        blanks = None if blank is None else np.full(self.n_rows, blank)
        if "ZBLANK" in self.columns:
            blanks = self._fixed("ZBLANK").astype(np.int64)
        dither, seed = self.header.dither()
        scale, zero = self._per_tile("ZSCALE", header, 1.0), self._per_tile("ZZERO", header, 0.0)
        # Scale and zero of a tile that is not quantised are irrelevant.
        bad = ~(np.isfinite(scale) & (scale != 0) & np.isfinite(zero)) & (self.descriptors[COMPRESSED][:, 0] > 0)
        if bad.any():
            tile = int(np.argmax(bad))
            raise self._damaged(tile, f"its ZSCALE is {scale[tile]:g}, its ZZERO {zero[tile]:g}")
        return Quantisation(scale, zero, blanks, dither, seed)

    def _fixed(self, name: str) -> NDArray[Any]:
        column = self.columns[name]
        code = column.form.lstrip("0123456789")[0]
        if code not in TFORM_DTYPE:
            raise self.header.damaged(f"column {name} is {column.form!r}; a number for each tile is needed")
        dtype = np.dtype(TFORM_DTYPE[code])
        cells = self.rows[:, column.offset : column.offset + dtype.itemsize]
        return np.ascontiguousarray(cells).view(dtype)[:, 0]

    def _per_tile(self, name: str, header: fits.Header, default: float) -> NDArray[np.float64]:
        if name in self.columns:
            return self._fixed(name).astype(np.float64)
        return np.full(self.n_rows, finite_value(header, name, default, path=self.path, hdu=self.hdu))

    @functools.cached_property
    def descriptors(self) -> dict[str, NDArray[np.int64]]:
        """Number of elements and offset in the heap of each cell, shape (n_rows, 2), for each column with heap data."""
        found = {}
        for column in self.columns.values():
            if column.element:
                dtype = np.dtype(">i8" if column.wide else ">u4")
                cells = self.rows[:, column.offset : column.offset + 2 * dtype.itemsize]
                places = np.ascontiguousarray(cells).view(dtype).astype(np.int64)
                count, offset = places.T
                most = (len(self.heap) - offset) // TFORM_BYTES[column.element]
                outside = (count < 0) | ((count > 0) & ((offset < 0) | (count > most)))
                if outside.any():
                    raise self._damaged(int(np.argmax(outside)), "it lies outside of the data")
                found[column.name] = places
        return found

    def stored_bytes(self, name: str, tile: int) -> memoryview:
        """Return the bytes of one cell in the heap."""
        count, offset = self.descriptors[name][tile].tolist()
        return self.heap[offset : offset + count * TFORM_BYTES[self.columns[name].element]]

    def slices(self, tile: int) -> tuple[slice, ...]:
        """Return the slices of the image that a tile covers."""
        return self._places[tile]

    @functools.cached_property
    def _places(self) -> list[tuple[slice, ...]]:
        return list(tile_slices(self.shape, self.tile_shape))

    def tile_shape_of(self, tile: int) -> tuple[int, ...]:
        """Return the shape of one tile; tiles at the image's edges may be smaller than the others."""
        return tuple(s.stop - s.start for s in self.slices(tile))

    def column_of(self, tile: int) -> str:
        """Return the name of the column that contains a tile's pixels.

        Raises
        ------
        CorruptFileError
            If the tile has no data.
        """
        for name in (COMPRESSED, GZIPPED, RAW):
            if name in self.descriptors and self.descriptors[name][tile, 0] > 0:
                return name
        raise self._damaged(tile, "it has no data")

    def stored(self, tile: int) -> NDArray[Any]:
        """Return the decompressed numbers of one tile: integers if the tile is quantised, otherwise of type ZBITPIX.

        Parameters
        ----------
        tile : int
            Index of the tile.

        Returns
        -------
        ndarray, shape of the tile

        Raises
        ------
        CorruptFileError
            If the tile cannot be decompressed.
        """
        shape = self.tile_shape_of(tile)
        size = math.prod(shape)
        column = self.column_of(tile)
        buffer = self.stored_bytes(column, tile)
        if column == RAW:
            numbers = np.frombuffer(buffer, TFORM_DTYPE[self.columns[column].element])
            if numbers.size != size:
                raise self._damaged(tile, f"{numbers.size} numbers for {size} pixels")
            return numbers.reshape(shape)
        algorithm = "GZIP_1" if column == GZIPPED else self.algorithm
        if algorithm.startswith("GZIP") or algorithm == "NOCOMPRESS":
            return self._from_bytes(buffer, algorithm, tile, column == COMPRESSED).reshape(shape)
        if algorithm == "HCOMPRESS_1":
            self._check_hcompressed(tile)
        codec, words = self.codec(shape), np.frombuffer(buffer, self.element_dtype())
        try:
            if algorithm == "HCOMPRESS_1":
                numbers = decode_hcompress(codec, buffer, size)
            else:
                if algorithm == "PLIO_1":
                    check_plio(words, size)
                numbers = np.asarray(codec.decode(words))
                if self.algorithm == "RICE_1" and numbers.itemsize == 1:
                    numbers = numbers.view(np.uint8)  # as everywhere in FITS
        except codec_errors() as error:
            raise self._damaged(tile, error) from error
        if numbers.size < size:
            raise self._damaged(tile, f"{numbers.size} numbers for {size} pixels")
        return numbers[:size].reshape(shape)

    def element_dtype(self) -> str:
        """Return the dtype of the elements of compressed data."""
        return TFORM_DTYPE[self.columns[COMPRESSED].element]

    def _inflate(self, buffer: memoryview, tile: int, size: int) -> bytes:
        """Decompress a gzipped tile of `size` pixels of 1, 2, 4 or 8 bytes."""
        # The last four bytes give the decompressed size: a damaged stream may expand to a thousand times its size.
        announced = int.from_bytes(buffer[-4:], "little") if len(buffer) > _LEAST_GZIP else 0
        if announced not in (size, 2 * size, 4 * size, 8 * size):
            raise self._damaged(tile, f"{announced} bytes for {size} pixels")
        try:
            raw: bytes = isal_zlib.decompress(buffer, 31, announced)
        except (_BadDeflateError, ValueError, OverflowError) as error:
            raise self._damaged(tile, error) from error
        if len(raw) != announced:
            raise self._damaged(tile, f"{len(raw)} bytes for {size} pixels")
        return raw

    def _from_bytes(self, buffer: memoryview, algorithm: str, tile: int, quantisable: bool) -> NDArray[Any]:
        size = math.prod(self.tile_shape_of(tile))
        raw = bytes(buffer) if algorithm == "NOCOMPRESS" else self._inflate(buffer, tile, size)
        itemsize = len(raw) // size
        floats = self.scaling.bitpix < 0 and (self.quantisation is None or not quantisable)
        allowed = (4, 8) if floats else (1, 2, 4, 8)
        if len(raw) != itemsize * size or itemsize not in allowed:
            raise self._damaged(tile, f"{len(raw)} bytes for {size} pixels")
        numbers = np.frombuffer(raw, np.uint8)
        if algorithm == "GZIP_2":
            numbers = unshuffle(numbers, itemsize)
        return numbers.view(
            {1: ">u1", 2: ">i2", 4: ">f4" if floats else ">i4", 8: ">f8" if floats else ">i8"}[itemsize]
        )

    def codec(self, shape: tuple[int, ...]) -> Any:
        """Return astropy's coder for a tile of some shape, for RICE_1, PLIO_1 and HCOMPRESS_1.

        Raises
        ------
        FormatError
            If tiles of this shape, or this algorithm, have no coder.
        """
        load = functools.partial(load_codec, path=self.path, hdu=self.hdu)
        size = math.prod(shape)
        if self.algorithm == "RICE_1":
            return load("Rice1", {"blocksize": self.rice["block"], "bytepix": self.rice["bytepix"], "tilesize": size})
        if self.algorithm == "PLIO_1":
            return load("PLIO1", {"tilesize": size})
        flat = tuple(n for n in shape if n != 1)
        if self.algorithm == "HCOMPRESS_1" and len(flat) == 2:
            return load("HCompress1", self.header.hcompress() | {"bytepix": 8, "nx": flat[0], "ny": flat[1]})
        raise FormatError(
            f"images compressed with {self.algorithm} are not supported with tiles of shape {shape}",
            path=self.path,
            hdu=self.hdu,
            fix="Compress the image with GZIP_2 or RICE_1",
        )

    def lossless(self, tile: int) -> bool:
        """Return whether a tile stores its pixels losslessly, not quantised."""
        return self.quantisation is None or self.column_of(tile) != COMPRESSED

    def values(self, tile: int, stored: NDArray[Any], dtype: np.dtype[Any], *, in_numpy: bool = False) -> NDArray[Any]:
        """Convert the stored numbers of a tile to pixel values.

        Parameters
        ----------
        tile : int
            Index of the tile.
        stored : ndarray
            Result of `stored`.
        dtype : dtype
            Type of the pixel values.
        in_numpy : bool
            Whether nothing compiled is loaded for it.

        Returns
        -------
        ndarray, same shape
        """
        if self.quantisation is None or self.lossless(tile):
            return self.scaling.decode(stored, dtype)
        row = self._quantised_values(np.array([tile]), *as_row(stored), dtype, in_numpy=in_numpy)
        return row.reshape(stored.shape)

    def unquantised(self, tile: int, stored: NDArray[Any]) -> NDArray[Any]:
        """Convert the stored numbers of a quantised tile to floats, without applying the image's BSCALE and BZERO."""
        assert self.quantisation is not None
        dtype = self.scaling.dtype.newbyteorder("=")
        return self.quantisation.values(np.array([tile]), *as_row(stored), dtype).reshape(stored.shape)

    def _quantised_values(
        self,
        tiles: NDArray[np.int64],
        numbers: NDArray[np.int32],
        counts: NDArray[np.int64],
        dtype: np.dtype[Any],
        *,
        in_numpy: bool = False,
    ) -> NDArray[Any]:
        assert self.quantisation is not None
        # Rounded to the stored type first, as in other readers.
        stored = self.scaling.dtype.newbyteorder("=")
        values = self.quantisation.values(tiles, numbers, counts, stored, in_numpy=in_numpy)
        if not self.scaling.trivial:
            values = values * self.scaling.bscale + self.scaling.bzero
        return values.astype(dtype, copy=False)

    def plain(self, dtype: np.dtype[Any]) -> bool:
        """Return whether the stored numbers are exactly the pixel values of type `dtype`."""
        exact = self.quantisation is None and self.scaling.trivial and self.scaling.blank is None
        return exact and dtype == self.scaling.dtype.newbyteorder("=")

    def shuffled_rows(self, dtype: np.dtype[Any]) -> bool:
        """Return whether tiles are rows of four-byte pixel values of that type, compressed with GZIP_2."""
        return self.algorithm == "GZIP_2" and self._by_rows and dtype.itemsize == 4 and self.plain(dtype)

    def decode(self, dtype: np.dtype[Any] | None = None, only: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the whole image, by default in its stored type.

        Parameters
        ----------
        dtype : dtype, optional
            Type of the pixel values.
        only : ndarray of int64, optional
            The tiles to decompress; pixels of the others are undefined, and take no memory before they are touched.
        """
        out = np.empty(self.shape, dtype or self.scaling.dtype.newbyteorder("="))
        wanted = np.arange(self.n_rows) if only is None else only
        rice_coded = self.rice_coded(wanted)
        for tiles in self.batches_of(wanted[rice_coded]):
            numbers, counts = self.rice_numbers(tiles)
            self.scatter(out, tiles, self.rice_values(tiles, numbers, counts, out.dtype))
        shuffled = self.algorithm == "GZIP_2" and out.ndim == 2 and out.itemsize == 4 and self.plain(out.dtype)
        words = out.view(np.uint32) if shuffled else None
        whole = only is None and self._by_rows
        if words is not None and whole and self.descriptors[COMPRESSED][:, 0].all():
            self._unshuffle_rows(words)
            return out
        for tile in wanted[~rice_coded].tolist():
            where = self.slices(tile)
            if words is not None and self.column_of(tile) == COMPRESSED:
                self._unshuffle(tile, words, where)
            else:
                out[where] = self.values(tile, self.stored(tile), out.dtype)
        return out

    def check(self) -> None:
        """Raise `CorruptFileError` for the first tile that cannot be decompressed."""
        rice_coded = self.rice_coded(np.arange(self.n_rows))
        for tiles in self.batches_of(np.flatnonzero(rice_coded)):
            self.rice_numbers(tiles)
        for tile in np.flatnonzero(~rice_coded).tolist():
            self.stored(tile)

    def _unshuffle(self, tile: int, image: NDArray[np.uint32], where: tuple[slice, ...]) -> None:
        """Decompress a tile directly into the image, in one pass."""
        (y0, ny), (x0, nx) = ((s.start, s.stop - s.start) for s in where)
        raw = self._inflate(self.stored_bytes(COMPRESSED, tile), tile, ny * nx)
        if len(raw) != 4 * ny * nx:
            raise self._damaged(tile, f"{len(raw)} bytes for {ny * nx} pixels")
        unshuffle_words(np.frombuffer(raw, np.uint8), image, y0, x0, ny, nx)

    def _unshuffle_rows(self, image: NDArray[np.uint32]) -> None:
        """Decompress tiles that are rows, some at a time."""
        n, size = image.shape[1], 4 * image.shape[1]
        sizes, starts = self.descriptors[COMPRESSED].T
        heap, starts = np.frombuffer(self.heap, np.uint8), np.ascontiguousarray(starts)
        ends = starts + sizes * TFORM_BYTES[self.columns[COMPRESSED].element]
        raw, sums = np.empty(_ROWS_AT_ONCE * (size + PADDING), np.uint8), np.empty(_ROWS_AT_ONCE, np.int64)
        for start in range(0, len(image), _ROWS_AT_ONCE):
            rows = image[start : start + _ROWS_AT_ONCE]
            some = slice(start, start + len(rows))
            stated = sums[: len(rows)]
            inflate_all(heap, starts[some], ends[some], size, raw, stated)
            inflated = raw.reshape(_ROWS_AT_ONCE, -1)[: len(rows), :size]
            found = np.fromiter(map(isal_zlib.crc32, inflated), np.int64, len(rows))
            # The library takes those at the end of the data, the unusual ones, and says what is wrong with the others.
            for k in np.flatnonzero(found != stated).tolist():
                unpacked = self._inflate(self.stored_bytes(COMPRESSED, start + k), start + k, n)
                if len(unpacked) != size:
                    raise self._damaged(start + k, f"{len(unpacked)} bytes for {n} pixels")
                inflated[k] = np.frombuffer(unpacked, np.uint8)
            unshuffle_rows(raw, size + PADDING, rows)

    def rice_coded(self, tiles: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the given tiles are Rice-coded, as booleans."""
        if self.algorithm != "RICE_1" or self.columns[COMPRESSED].element != "B":
            return np.zeros(len(tiles), dtype=np.bool_)
        return np.asarray(self.descriptors[COMPRESSED][tiles, 0] > 0)

    def batches_of(self, tiles: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Split tiles into groups small enough for the processor's cache."""
        step = max(1, _AT_ONCE // math.prod(self.tile_shape))
        for start in range(0, len(tiles), step):
            yield tiles[start : start + step]

    @property
    def _by_rows(self) -> bool:
        return self.tile_shape == (*(1 for _ in self.shape[1:]), self.shape[-1])

    def counts(self, tiles: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of pixels of each tile."""
        if self._by_rows:
            return np.full(len(tiles), self.shape[-1])
        return np.array([math.prod(self.tile_shape_of(tile)) for tile in tiles.tolist()], dtype=np.int64)

    def scatter(self, image: NDArray[Any], tiles: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write the values of some tiles, shape (N, M), into an image.

        Parameters
        ----------
        image : ndarray
            The whole image; written in place.
        tiles : ndarray of int64, shape (N,)
            Indices of the tiles.
        values : ndarray, shape (N, M)
            Pixels of each tile, as returned by `gather`.
        """
        if self._by_rows:
            image.reshape(self.n_rows, -1)[tiles] = values
            return
        for tile, row in zip(tiles.tolist(), values, strict=True):
            shape = self.tile_shape_of(tile)
            image[self.slices(tile)] = row[: math.prod(shape)].reshape(shape)

    def gather(self, image: NDArray[Any], tiles: NDArray[np.int64]) -> NDArray[Any]:
        """Return the pixels of some tiles of an image, shape (N, M); zero after the last pixel of a smaller tile.

        Parameters
        ----------
        image : ndarray
            The whole image.
        tiles : ndarray of int64, shape (N,)
            Indices of the tiles.
        """
        if self._by_rows:
            return np.asarray(image.reshape(self.n_rows, -1)[tiles])
        out = np.zeros((len(tiles), math.prod(self.tile_shape)), dtype=image.dtype)
        for tile, row in zip(tiles.tolist(), out, strict=True):
            piece = image[self.slices(tile)].reshape(-1)
            row[: piece.size] = piece
        return out

    @property
    def rice(self) -> dict[str, int]:
        """Settings of the Rice coder, ``block`` and ``bytepix``."""
        return self.header.rice()

    def rice_numbers(self, tiles: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the numbers of some Rice-coded tiles, shape (N, M), and the number of pixels of each, shape (N,)."""
        sizes, offsets = self.descriptors[COMPRESSED][tiles].T
        counts = self.counts(tiles)
        heap = np.frombuffer(self.heap, np.uint8)
        try:
            numbers = decode_rice(heap, np.ascontiguousarray(offsets), np.ascontiguousarray(sizes), counts, **self.rice)
        except RiceError as error:
            raise self._damaged(int(tiles[error.tile]), error) from error
        # Pad to the width that `gather` returns: that of a full tile.
        missing = math.prod(self.tile_shape) - numbers.shape[1]
        return (np.pad(numbers, ((0, 0), (0, missing))) if missing else numbers), counts

    def rice_values(
        self, tiles: NDArray[np.int64], numbers: NDArray[np.int32], counts: NDArray[np.int64], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Convert the result of `rice_numbers` to pixel values, shape (N, M)."""
        if self.quantisation is None:
            return self.scaling.decode(numbers, dtype)
        return self._quantised_values(tiles, numbers, counts, dtype)

    def _damaged(self, tile: int, error: Exception | str) -> CorruptFileError:
        return CorruptFileError(
            f"tile {tile} cannot be uncompressed ({error})",
            path=self.path,
            hdu=self.hdu,
            fix="Copy or download the file again",
        )


def as_row(stored: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the numbers of one tile in the layout of several: shape (1, M), and the number of pixels, shape (1,)."""
    return np.array(stored.reshape(1, -1), dtype=np.int32), np.array([stored.size])
