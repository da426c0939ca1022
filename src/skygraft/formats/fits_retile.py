"""Change some pixels of a tile-compressed FITS image and leave all others the bits that they are.

Tiles without a changed pixel are carried over as bytes. In a tile of quantised floats, changed pixels are quantised
with the tile's own scale, offset and dither, and the others keep the number they have (`fits_quantised`). A tile whose
new values do not fit is stored losslessly in the ``GZIP_COMPRESSED_DATA`` column, which the standard has for this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from isal import isal_zlib
from numpy.typing import NDArray

from skygraft.errors import OutputError
from skygraft.formats.fits_cards import CardUpdates
from skygraft.formats.fits_pixels import differ, scatter_bytes
from skygraft.formats.fits_tiles import COMPRESSED, GZIPPED, RAW, TFORM_BYTES, TFORM_DTYPE, Column, TiledImage, as_row
from skygraft.formats.rice import encode_rice

__all__ = ["rewrite_tiles"]

_GZIP_LEVEL = 1  # Noise does not compress better at a higher one.


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
    replaced = _encode_all(image, list(_touched(image, changed)), new, changed)
    if not replaced:
        return {}, None
    return _assemble(image, header, replaced)


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


def _encode_riced(
    image: TiledImage, tiles: NDArray[np.int64], new: NDArray[Any], changed: NDArray[np.bool_]
) -> Iterator[tuple[int, bytes]]:
    """Tile and bytes for those of some tiles that stay Rice coded."""
    rice = image.rice
    dtype = np.dtype({1: np.uint8, 2: np.int16, 4: np.int32}[rice["bytepix"]])
    for some in image.portions(tiles):
        numbers, counts = image.rice_numbers(some)
        values, marked = image.gather(new, some), image.gather(changed, some)
        if image.quantisation is not None:
            if not image.scaling.trivial:
                values = (values.astype(np.float64) - image.scaling.bzero) / image.scaling.bscale
            fits_in = image.quantisation.requantise(some, numbers, counts, values, marked, dtype)
        else:
            whole = values.astype(np.int64) - int(image.scaling.bzero)
            limits = np.iinfo(image.scaling.dtype)
            fits_in = ~np.any(marked & ((whole < limits.min) | (whole > limits.max)), axis=1)
            np.copyto(numbers, whole, where=marked & fits_in[:, None], casting="unsafe")
        data, ends = encode_rice(numbers[fits_in], counts[fits_in], **rice)
        for tile, start, end in zip(some[fits_in].tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            yield tile, data[start:end].tobytes()


def _requantised(
    image: TiledImage, tile: int, new: NDArray[Any], stored: NDArray[Any], changed: NDArray[np.bool_]
) -> NDArray[Any] | None:
    """The numbers of a tile with the changed pixels quantised anew, or None where they do not fit."""
    assert image.quantisation is not None
    values = new.astype(np.float64)
    if not image.scaling.trivial:
        values = (values - image.scaling.bzero) / image.scaling.bscale
    row, counts = as_row(stored)
    arguments = np.array([tile]), row, counts, values.reshape(1, -1), changed.reshape(1, -1), stored.dtype
    if not image.quantisation.requantise(*arguments).all():
        return None
    return row.reshape(stored.shape).astype(stored.dtype.newbyteorder("="))


def _compress(image: TiledImage, numbers: NDArray[Any]) -> bytes | None:
    """Compressed bytes of the numbers of a tile, or None where the algorithm cannot hold them as they are."""
    if image.algorithm.startswith("GZIP") or image.algorithm == "NOCOMPRESS":
        raw = numbers.astype(numbers.dtype.newbyteorder(">")).reshape(-1)
        if image.algorithm == "NOCOMPRESS":
            return raw.tobytes()
        if image.algorithm == "GZIP_2":
            raw = scatter_bytes(raw.view(np.uint8).reshape(raw.size, -1))
        return _gzip(raw.tobytes())
    if image.algorithm == "HCOMPRESS_1" and int(image.settings.get("SCALE", 0)) > 1:
        return None
    if image.algorithm == "PLIO_1" and (numbers.min() < 0 or numbers.max() >= 1 << 24):
        return None
    encoded = image.codec(numbers.shape).encode(np.ascontiguousarray(numbers))
    dtype = np.dtype(image.element_dtype())
    return bytes(np.frombuffer(encoded, dtype.newbyteorder("=")).astype(dtype).tobytes())


def _encode_all(
    image: TiledImage, tiles: Sequence[int], new: NDArray[Any], changed: NDArray[np.bool_]
) -> dict[int, tuple[str, bytes]]:
    """Column and bytes for every one of some tiles, whose pixels in `new` count where they `changed`."""
    found: dict[int, tuple[str, bytes]] = {}
    if image.quantisation is not None or (image.scaling.integral and new.dtype.kind in "iub"):
        some = np.asarray(tiles, dtype=np.int64)
        riced = some[image.riced(some)]
        found = {tile: (COMPRESSED, data) for tile, data in _encode_riced(image, riced, new, changed)}
    for tile in tiles:
        if tile not in found:
            where = image.slices(tile)
            found[tile] = _encode(image, tile, new[where], image.stored(tile), changed[where])
    return found


def _encode(
    image: TiledImage, tile: int, new: NDArray[Any], stored: NDArray[Any], changed: NDArray[np.bool_]
) -> tuple[str, bytes]:
    """Column and bytes for a tile with changed pixels."""
    column = image.column_of(tile)
    if not image.lossless(tile):
        numbers = _requantised(image, tile, new, stored, changed)
        data = None if numbers is None else _compress(image, numbers)
        if data is not None:
            return column, data
        native = image.scaling.dtype.newbyteorder("=")
        values = image.values(tile, stored, native)
        values[changed] = new[changed]
        return GZIPPED, _gzip(values.astype(image.scaling.dtype).tobytes())
    numbers = image.scaling.encode(new, stored, changed, path=image.path, hdu=image.hdu)
    if column == RAW:
        return column, numbers.astype(TFORM_DTYPE[image.columns[column].element]).tobytes()
    data = _compress(image, numbers) if column == COMPRESSED else None
    return (GZIPPED, _gzip(numbers.tobytes())) if data is None else (column, data)


def _gzip(raw: bytes) -> bytes:
    # Intel's deflate: several times faster than zlib's at the same size, and read by every reader of gzip.
    packed: bytes = isal_zlib.compress(raw, _GZIP_LEVEL, wbits=31)
    return packed
