"""Write a copy of a FITS file with the pixels of some images, and some header cards, changed.

All other bytes are copied. Compressed images are changed tile by tile (`retile`); astropy would requantise them, which
changes every pixel. The output appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from skygraft.disk import atomic_path
from skygraft.errors import FormatError, OutputError, OutputExistsError
from skygraft.fitsfile.cards import CardUpdates, checksum_cards, edit_cards, header_of, join_cards
from skygraft.fitsfile.open import RawFits, map_fits
from skygraft.fitsfile.packed import packing_writer
from skygraft.fitsfile.pixels import PixelScaling, PixelsDoNotFitError, changed_pixels
from skygraft.fitsfile.retile import rewrite_tiles
from skygraft.fitsfile.structure import BLOCK, parse_card

__all__ = ["atomic_output", "rewrite_fits"]

_SWAPPED_AT_ONCE = 1 << 17
"""Pixels whose bytes are swapped at a time: half a MB stays in the processor's cache until it is written."""
_BUFFERED = 1 << 18
"""Bytes that are gathered before they are written; larger parts are written as they are, without a copy."""

type Part = bytes | memoryview


@contextlib.contextmanager
def atomic_output(
    path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]] = (), overwrite: bool = False
) -> Iterator[IO[bytes]]:
    """Open an output file that appears under its name only when it is complete and synced to disk.

    Parameters
    ----------
    path : path-like
        The output; it is compressed if its name ends in ``.gz``, ``.bz2``, ``.xz`` or ``.zst``.
    inputs : iterable of path-like
        Files that must never be overwritten.
    overwrite : bool
        Replace an output that exists.

    Yields
    ------
    file object
        Open for writing bytes. If the block raises, no file is left behind.

    Raises
    ------
    OutputExistsError
        If the output exists and `overwrite` is false, or is one of the inputs.
    OutputError
        If the output cannot be written (no such directory, no permission, disk full).
    """
    path = Path(path)
    _refuse(path, inputs, overwrite)
    with atomic_path(path, make_folder=False) as temporary:
        with temporary.open("xb", buffering=_BUFFERED) as stream, packing_writer(stream, path) as packed:
            yield packed
        _refuse(path, inputs, overwrite)


def _refuse(path: Path, inputs: Iterable[str | os.PathLike[str]], overwrite: bool) -> None:
    if path.exists() and not path.is_file():
        # With enough permissions, renaming onto a device such as /dev/null would replace the device.
        what = "a directory" if path.is_dir() else "no ordinary file"
        raise OutputError(f"the output is {what}", path=path, fix="Give the name of a file")
    for source in inputs:
        with contextlib.suppress(FileNotFoundError):
            if path.samefile(source):
                raise OutputExistsError(
                    "the output is the input itself, which is never overwritten",
                    path=path,
                    fix="Give another output path",
                )
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputExistsError(
            "the output exists already", path=path, fix="Give another path, or overwrite=True to replace it"
        )


def rewrite_fits(
    like: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Mapping[int, NDArray[Any]],
    header_updates: Mapping[int, CardUpdates] | None = None,
    overwrite: bool = False,
    *,
    touched: Mapping[int, NDArray[np.bool_]] | None = None,
) -> Path:
    """Write a copy of a FITS file with new pixels in some images and some header cards changed.

    Other HDUs are copied byte for byte. In a changed image, unchanged pixels keep their stored numbers: integers with
    BSCALE and quantised floats are converted only where the pixel changed, with the same scale, offset and dither, and
    compressed tiles without a changed pixel keep their bytes. CHECKSUM and DATASUM are updated in changed HDUs that
    have them.

    Parameters
    ----------
    like : path-like
        The file to copy; never changed.
    path : path-like
        The output; compressed as a whole if its name ends in ``.gz``, ``.bz2``, ``.xz`` or ``.zst``.
    images : mapping of int to ndarray
        New pixel values by HDU number (0-based), in the shape of the image; leading axes of length one may be left out.
    header_updates : mapping of int to mapping
        Card changes by HDU number; see `CardUpdates`.
    overwrite : bool
        Replace an output that exists.
    touched : mapping of int to ndarray of bool
        By HDU number, which tiles changed (or, of an uncompressed image, whether it did), if the caller knows: this
        saves decoding the others. See `skygraft.formats.fits_fingerprints`.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    CorruptFileError
        If `like` is damaged.
    FormatError
        If a given HDU does not exist, or is not an image of that shape.
    OutputError
        If new values do not fit into the image's type, or the output cannot be written.
    OutputExistsError
        If the output exists and `overwrite` is false, or is `like`.
    """
    updates = header_updates or {}
    touched = touched or {}
    with map_fits(like) as raw, warnings.catch_warnings():
        # Non-standard cards are copied unchanged; astropy's warnings about them do not help.
        warnings.simplefilter("ignore", AstropyUserWarning)
        _check(raw, images, updates)
        with atomic_output(path, inputs=[like], overwrite=overwrite) as stream:
            position = 0
            for span in raw.spans:
                if span.index not in images and not updates.get(span.index):
                    continue
                stream.write(raw.buffer[position : span.start])
                position = span.end
                cards, parts = _change(
                    raw,
                    span.index,
                    images.get(span.index),
                    touched.get(span.index),
                    updates.get(span.index, {}),
                    path,
                )
                stream.write(join_cards(checksum_cards(cards, parts)))
                size = 0
                for part in parts:
                    size += memoryview(part).nbytes
                    stream.write(part)
                stream.write(bytes(-size % BLOCK))
            stream.write(raw.buffer[position:])
    return Path(path)


def _check(raw: RawFits, images: Mapping[int, NDArray[Any]], updates: Mapping[int, CardUpdates]) -> None:
    for index in {*images, *updates}:
        if not 0 <= index < len(raw.spans):
            raise FormatError(
                f"there is no HDU {index}: the file has {len(raw.spans)}",
                path=raw.path,
                hdu=index,
                fix="Give the number of one of its image HDUs, 0-based",
            )


def _change(
    raw: RawFits,
    index: int,
    new: NDArray[Any] | None,
    touched: NDArray[np.bool_] | None,
    updates: CardUpdates,
    path: str | os.PathLike[str],
) -> tuple[list[bytes], Sequence[Part]]:
    """Return the new cards and the new data, in parts, of one HDU."""
    span = raw.spans[index]
    cards = raw.header_cards(index)
    data = raw.buffer[span.data_start : span.data_start + span.data_size]
    if new is None:
        return edit_cards(cards, updates, path=path, hdu=index), [data]
    header = header_of(cards)
    compressed = bool(header.get("ZIMAGE", False))
    prefix = "ZNAXIS" if compressed else "NAXIS"
    shape = tuple(int(header[f"{prefix}{i}"]) for i in range(int(header.get(prefix, 0)), 0, -1))
    kind = parse_card(cards[0])[1].split("/")[0].strip(" '").strip()
    is_image = compressed or ((index == 0 or kind == "IMAGE") and bool(shape))
    if len(shape) > new.ndim and shape == (1,) * (len(shape) - new.ndim) + new.shape:
        # A cube of a single plane.
        new = new.reshape(shape)
    if not is_image or new.shape != shape:
        what = f"an image of shape {shape}" if is_image else "no image"
        raise FormatError(
            f"the new pixels have shape {new.shape}; this HDU is {what}",
            path=raw.path,
            hdu=index,
            fix="Give an array of the image's shape, rows first",
        )
    changes: CardUpdates = {}
    parts: Sequence[Part] | None = None
    if compressed:
        changes, parts = rewrite_tiles(header, data, new, touched, path=path, hdu=index)
    elif touched is None or touched.any():
        changes, parts = _plain_image(header, data, new, shape, path, index)
    if parts is not None:
        # ZDATASUM and ZHECKSUM are checksums of the image before compression: no longer valid, and optional.
        changes = {**changes, "ZHECKSUM": None, "ZDATASUM": None}
    else:
        parts = [data]
    return edit_cards(edit_cards(cards, changes, path=path, hdu=index), updates, path=path, hdu=index), parts


def _plain_image(
    header: Any,
    data: memoryview,
    new: NDArray[Any],
    shape: tuple[int, ...],
    path: str | os.PathLike[str],
    hdu: int,
) -> tuple[CardUpdates, Sequence[Part] | None]:
    scaling = PixelScaling.from_header(header, path=path, hdu=hdu)
    if scaling.trivial and new.dtype == scaling.dtype.newbyteorder("="):
        return {}, _Swapped(new, scaling.dtype)
    stored = np.frombuffer(data, dtype=scaling.dtype).reshape(shape)
    changed = changed_pixels(new, scaling.decode(stored, new.dtype))
    if not changed.any():
        return {}, None
    try:
        return {}, [_bytes(scaling.encode(new, stored, changed, path=path, hdu=hdu))]
    except PixelsDoNotFitError:
        # A new mask plane may not fit into 8 or 16 bits: integers are then stored as 32 bits, without loss.
        wide = PixelScaling(32)
        limits = np.iinfo(np.int32)
        if not scaling.integral or new.dtype.kind not in "iu" or scaling.bitpix >= 32:
            raise
        if new.min() < limits.min or new.max() > limits.max:
            raise
        out = new.astype(wide.dtype)
        return {"BITPIX": (32, ""), "BZERO": None, "BSCALE": None, "BLANK": None}, [_bytes(out)]


class _Swapped(Sequence[memoryview]):
    """Pixels converted to FITS byte order a part at a time, which is faster than allocating a second plane."""

    def __init__(self, pixels: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self._pixels, self._dtype = np.ascontiguousarray(pixels).reshape(-1), dtype

    def __len__(self) -> int:
        return (self._pixels.size + _SWAPPED_AT_ONCE - 1) // _SWAPPED_AT_ONCE

    def __getitem__(self, part: Any) -> Any:
        if not 0 <= part < len(self):
            raise IndexError(part)
        some = self._pixels[part * _SWAPPED_AT_ONCE : (part + 1) * _SWAPPED_AT_ONCE]
        return _bytes(some.astype(self._dtype))


def _bytes(array: NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).view(np.uint8).reshape(-1))
