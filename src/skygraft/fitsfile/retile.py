"""Change some pixels of a tile-compressed FITS image, and leave the bits of all others unchanged.

The bytes of tiles without a changed pixel are copied. In a tile of quantised floats, changed pixels are quantised with
the tile's own scale, offset and dither, and the others keep their number (`quantised`). A tile whose new values do not
fit, or whose floats were stored as integers without a scale, is stored losslessly in the column
``GZIP_COMPRESSED_DATA``, which the standard provides for this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import OutputError
from skygraft.fitsfile.cards import CardUpdates
from skygraft.fitsfile.pixels import changed_pixels
from skygraft.fitsfile.rice import encode_rice
from skygraft.fitsfile.shuffle import gzip_bytes, gzip_rows, gzip_shuffled
from skygraft.fitsfile.tile_header import COMPRESSED, GZIPPED, RAW, TFORM_BYTES, TFORM_DTYPE, Column
from skygraft.fitsfile.tiles import TiledImage, as_row

__all__ = ["rewrite_tiles"]


def rewrite_tiles(
    header: fits.Header,
    data: memoryview,
    new: NDArray[Any],
    touched: NDArray[np.bool_] | None = None,
    *,
    path: str | os.PathLike[str],
    hdu: int,
) -> tuple[CardUpdates, Sequence[bytes | memoryview] | None]:
    """Return table and heap of a compressed image with new pixels.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the binary table.
    data : memoryview
        Table and heap before the change.
    new : ndarray
        New pixel values of the whole image.
    touched : ndarray of bool, shape (T,), optional
        Which tiles have changed pixels, if the caller knows: the others, and often all, need not be decoded.
    path, hdu
        For errors.

    Returns
    -------
    updates : mapping
        Cards to change.
    parts : sequence of bytes or None
        Table, then heap; None if no pixel changed.

    Raises
    ------
    CorruptFileError
        If a tile is damaged.
    OutputError
        If new values do not fit into the image's type, or the heap exceeds its descriptors.
    """
    image = TiledImage(header, data, path=path, hdu=hdu)
    tiles = np.arange(image.n_rows) if touched is None else np.flatnonzero(touched)
    if touched is not None and tiles.size and _only_shuffled_rows(image, new.dtype):
        return _assemble_rows(image, header, [*_encode_rows(image, tiles, new)])
    replaced = _encode_all(image, tiles, new, known=touched is not None)
    if not replaced:
        return {}, None
    return _assemble(image, header, replaced)


def _only_shuffled_rows(image: TiledImage, dtype: np.dtype[Any]) -> bool:
    """Whether all tiles are rows compressed with GZIP_2, and there is nothing else in the heap."""
    if not image.shuffled_rows(dtype) or [*image.descriptors] != [COMPRESSED]:
        return False
    return TFORM_BYTES[image.columns[COMPRESSED].element] == 1 and bool(image.descriptors[COMPRESSED][:, 0].all())


type _Rows = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""Some rows: their indices, their compressed bytes, and where the bytes of each begin and end."""


def _encode_rows(image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any]) -> Iterator[_Rows]:
    """Compress changed rows, some at a time."""
    rows = new.reshape(image.n_rows, -1)
    for portion in image.batches_of(tiles):
        first, n = int(portion[0]), len(portion)
        together = int(portion[-1]) - first + 1 == n
        yield portion, *gzip_rows(rows[first : first + n] if together else rows[portion])


def _assemble_rows(
    image: TiledImage, header: fits.Header, replaced: list[_Rows]
) -> tuple[CardUpdates, Sequence[bytes | memoryview]]:
    """Table and heap of an image whose tiles are all rows in one column; heap in large pieces, not row by row."""
    values = image.descriptors[COMPRESSED].copy()
    heap: list[bytes | memoryview] = []
    done = 0
    for tiles, data, ends in replaced:
        values[tiles, 0] = np.diff(ends)
        packed = memoryview(data)
        breaks = np.flatnonzero(np.diff(tiles) != 1) + 1
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(tiles)], strict=True):
            first = int(tiles[start])
            heap += (image.stored_bytes(COMPRESSED, tile) for tile in range(done, first))
            heap.append(packed[ends[start] : ends[stop]])
            done = first + stop - start
    heap += (image.stored_bytes(COMPRESSED, tile) for tile in range(done, image.n_rows))
    values[:, 1] = np.cumsum(values[:, 0]) - values[:, 0]
    return _finish(image, header, image.rows.copy(), image.columns, {COMPRESSED: values}, {}, heap)


def _assemble(
    image: TiledImage, header: fits.Header, replaced: dict[int, tuple[str, bytes]]
) -> tuple[CardUpdates, Sequence[bytes | memoryview]]:
    columns, rows = dict(image.columns), image.rows.copy()
    descriptors = {name: values.copy() for name, values in image.descriptors.items()}
    updates: dict[str, tuple[Any, str] | None] = {}
    if GZIPPED not in columns and any(name == GZIPPED for name, _ in replaced.values()):
        wide = columns[COMPRESSED].wide
        number = int(header["TFIELDS"]) + 1
        form = "1QB" if wide else "1PB"
        columns[GZIPPED] = Column(GZIPPED, rows.shape[1], form, "B")
        rows = np.hstack([rows, np.zeros((image.n_rows, 16 if wide else 8), np.uint8)])
        descriptors[GZIPPED] = np.zeros((image.n_rows, 2), np.int64)
        updates |= {
            "NAXIS1": (rows.shape[1], ""),
            "TFIELDS": (number, ""),
            f"TTYPE{number}": (GZIPPED, "tiles that do not quantise, lossless"),
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
            elif new_name and name in (COMPRESSED, GZIPPED, RAW):
                cell = b""
            elif name in image.descriptors:
                cell = image.stored_bytes(name, tile)
            else:
                cell = b""
            values[tile] = len(cell) // TFORM_BYTES[columns[name].element], size if cell else 0
            if cell:
                heap.append(cell)
                size += len(cell)
    return _finish(image, header, rows, columns, descriptors, updates, heap)


def _finish(
    image: TiledImage,
    header: fits.Header,
    rows: NDArray[np.uint8],
    columns: Mapping[str, Column],
    descriptors: Mapping[str, NDArray[np.int64]],
    updates: dict[str, tuple[Any, str] | None],
    heap: list[bytes | memoryview],
) -> tuple[CardUpdates, Sequence[bytes | memoryview]]:
    """Write the descriptors into the rows of the table, and what depends on them into the cards."""
    size = sum(map(len, heap))
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
    return updates, [rows.tobytes(), *heap]


def _encode_rice_coded(
    image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any], known: bool
) -> tuple[dict[int, tuple[str, bytes]], list[int]]:
    """Encode the changed ones of some Rice-coded tiles.

    Returns column and bytes by tile, and the changed tiles that Rice coding cannot represent.
    """
    found: dict[int, tuple[str, bytes]] = {}
    misfits: list[int] = []
    for portion in image.batches_of(tiles):
        if image.quantisation is not None:
            numbers, counts, changed, fits_in = _quantised_numbers(image, portion, new)
        else:
            numbers, counts, changed, fits_in = _integer_numbers(image, portion, new, known)
        misfits += portion[changed & ~fits_in].tolist()
        good = changed & fits_in
        which: Any = slice(None) if good.all() else good  # a slice avoids a copy
        data, ends = encode_rice(numbers[which], counts[which], **image.rice)
        for tile, start, end in zip(portion[good].tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            found[tile] = COMPRESSED, data[start:end].tobytes()
    return found, misfits


type _Numbers = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]
"""New numbers of N tiles, shape (N, M); pixels in each; which tiles changed; in which of them all numbers fit."""


def _quantised_numbers(image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any]) -> _Numbers:
    numbers, counts = image.rice_numbers(tiles)
    values = image.gather(new, tiles)
    old = image.rice_values(tiles, numbers, counts, new.dtype)
    dtype = np.dtype({1: np.uint8, 2: np.int16, 4: np.int32}[image.rice["bytepix"]])
    return numbers, counts, *_requantise(image, tiles, numbers, counts, old, values, dtype)


def _integer_numbers(image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any], known: bool) -> _Numbers:
    """Pixels less BZERO, which for unchanged pixels are the numbers stored before."""
    values, counts = image.gather(new, tiles), image.counts(tiles)
    if known:
        changed = np.ones(len(tiles), dtype=np.bool_)
    else:
        marked = changed_pixels(values, image.scaling.decode(image.rice_numbers(tiles)[0], new.dtype))
        # Rows of smaller tiles are padded after their last pixel.
        marked &= np.arange(marked.shape[1]) < counts[:, None]
        changed = marked.any(axis=1)
    limits, zero = np.iinfo(image.scaling.dtype), int(image.scaling.bzero)
    whole = values if zero == 0 else values.astype(np.int64) - zero
    if np.can_cast(whole.dtype, image.scaling.dtype):
        fits_in = np.ones(len(tiles), dtype=np.bool_)
    else:
        inside = (whole >= limits.min) & (whole <= limits.max)
        fits_in = np.asarray(np.all(inside | (np.arange(whole.shape[1]) >= counts[:, None]), axis=1))
    return whole.astype(np.int32, copy=False), counts, changed, fits_in


def _requantise(
    image: TiledImage,
    tiles: NDArray[np.int64],
    numbers: NDArray[np.int32],
    counts: NDArray[np.int64],
    old: NDArray[Any],
    new: NDArray[Any],
    dtype: np.dtype[Any],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Quantise changed pixels in place; returns which tiles changed, and in which all changed pixels fit."""
    assert image.quantisation is not None
    wanted = new
    if not image.scaling.trivial:
        wanted = (new.astype(np.float64) - image.scaling.bzero) / image.scaling.bscale
    return image.quantisation.requantise(tiles, numbers, counts, old, new, wanted, dtype)


def _requantised(
    image: TiledImage, tile: int, new: NDArray[Any], stored: NDArray[Any], old: NDArray[Any]
) -> NDArray[Any] | None:
    """Numbers of a tile with its changed pixels quantised, or None if they do not fit."""
    row, counts = as_row(stored)
    before, after = (np.ascontiguousarray(pixels).reshape(1, -1) for pixels in (old, new))
    if not _requantise(image, np.array([tile]), row, counts, before, after, stored.dtype)[1].all():
        return None
    return row.reshape(stored.shape).astype(stored.dtype.newbyteorder("="))


def _compress(image: TiledImage, numbers: NDArray[Any]) -> bytes | None:
    """Compressed bytes of the numbers of a tile, or None if the algorithm cannot store them losslessly."""
    if image.algorithm == "GZIP_2":
        return gzip_shuffled(numbers)
    if image.algorithm in ("GZIP_1", "NOCOMPRESS"):
        raw = numbers.astype(numbers.dtype.newbyteorder(">")).tobytes()
        return raw if image.algorithm == "NOCOMPRESS" else gzip_bytes(raw)
    if image.algorithm == "HCOMPRESS_1" and image.header.hcompress()["scale"] > 1:
        return None
    if image.algorithm == "PLIO_1" and (numbers.min() < 0 or numbers.max() >= 1 << 24):
        return None
    encoded = image.codec(numbers.shape).encode(np.ascontiguousarray(numbers))
    dtype = np.dtype(image.element_dtype())
    return bytes(np.frombuffer(encoded, dtype.newbyteorder("=")).astype(dtype).tobytes())


def _encode_all(
    image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any], known: bool
) -> dict[int, tuple[str, bytes]]:
    """Column and bytes of each changed tile among `tiles`; with `known`, all of them are changed."""
    found: dict[int, tuple[str, bytes]] = {}
    others = tiles.tolist()
    if (image.quantisation is not None and not image.unscaled) or (image.scaling.integral and new.dtype.kind in "iub"):
        rice_coded = image.rice_coded(tiles)
        found, misfits = _encode_rice_coded(image, tiles[rice_coded], new, known)
        others = tiles[~rice_coded].tolist() + misfits
    if known and image.shuffled_rows(new.dtype):
        rows = np.array([tile for tile in others if image.column_of(tile) == COMPRESSED], np.int64)
        for portion, packed, ends in _encode_rows(image, rows, new):
            bounds = zip(portion.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True)
            found |= {tile: (COMPRESSED, packed[start:end].tobytes()) for tile, start, end in bounds}
        others = [tile for tile in others if tile not in found]
    for tile in others:
        encoded = _encode(image, tile, new[image.slices(tile)], known)
        if encoded is not None:
            found[tile] = encoded
    return found


def _encode(image: TiledImage, tile: int, new: NDArray[Any], known: bool) -> tuple[str, bytes] | None:
    """Column and bytes of a tile with changed pixels; None if no pixel changed."""
    column = image.column_of(tile)
    if known and column == COMPRESSED and image.plain(new.dtype):
        numbers = new
    else:
        stored = image.stored(tile)
        old = image.values(tile, stored, new.dtype)
        changed = changed_pixels(new, old)
        if not changed.any():
            return None
        if not image.lossless(tile):
            return _encode_quantised(image, tile, new, stored, old, changed)
        numbers = image.scaling.encode(new, stored, changed, path=image.path, hdu=image.hdu)
    if column == RAW:
        return column, numbers.astype(TFORM_DTYPE[image.columns[column].element]).tobytes()
    data = _compress(image, numbers) if column == COMPRESSED else None
    return (GZIPPED, gzip_bytes(numbers.astype(image.scaling.dtype).tobytes())) if data is None else (column, data)


def _encode_quantised(
    image: TiledImage,
    tile: int,
    new: NDArray[Any],
    stored: NDArray[Any],
    old: NDArray[Any],
    changed: NDArray[np.bool_],
) -> tuple[str, bytes]:
    numbers = None if image.unscaled else _requantised(image, tile, new, stored, old)
    data = None if numbers is None else _compress(image, numbers)
    if data is not None:
        return COMPRESSED, data
    floats = image.unquantised(tile, stored)
    scaling = image.scaling
    floats[changed] = new[changed] if scaling.trivial else (new[changed].astype(float) - scaling.bzero) / scaling.bscale
    return GZIPPED, gzip_bytes(floats.astype(scaling.dtype).tobytes())
