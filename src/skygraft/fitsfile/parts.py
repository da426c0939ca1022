"""Read a rectangle of the pixels of one HDU: the rows, or the compressed tiles, that it touches, and nothing else."""

from __future__ import annotations

import functools
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.disk import FileIdentity
from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import fits_errors, map_fits
from skygraft.fitsfile.pixels import PixelScaling
from skygraft.fitsfile.tile_parts import decode_parts, ranges_of, tiles_on
from skygraft.fitsfile.tiles import TiledImage
from skygraft.places import RangedFile

__all__ = ["StoredImage"]


@dataclass(frozen=True)
class StoredImage:
    """The pixels of one HDU, which stay in their file; it can be sent to other processes.

    Parameters
    ----------
    path : Path
        The file, or the stub of one in a store (`skygraft.places`).
    hdu : int
        Number of the HDU.
    cards : bytes
        Its header, without END.
    data_start, data_size : int
        Where its data begin in the file, and their size in bytes.
    shape : (int, int)
        Rows and columns.
    tile_shape : (int, int) or None
        Shape of its tiles; None if it is not compressed.
    identity : FileIdentity
        Of the file when it was opened.
    remote : RangedFile or None
        The file in a store.
    """

    path: Path
    hdu: int
    cards: bytes
    data_start: int
    data_size: int
    shape: tuple[int, int]
    tile_shape: tuple[int, int] | None
    identity: FileIdentity
    remote: RangedFile | None

    @classmethod
    def find(cls, path: str | os.PathLike[str], hdu: int) -> StoredImage | None:
        """Look at the header of an image.

        Parameters
        ----------
        path : path-like
            The file.
        hdu : int
            Number of the HDU.

        Returns
        -------
        StoredImage or None
            None if no part of it can be read alone: the file is compressed as a whole, or the HDU is no plain image of
            two dimensions.
        """
        identity = FileIdentity.of(path)
        with map_fits(path) as raw:
            if raw.packed:
                return None
            cards, span = b"".join(raw.header_cards(hdu)), raw.spans[hdu]
        header = _header(cards)
        tiled = header.get("ZIMAGE", False) is True
        prefix = "ZNAXIS" if tiled else "NAXIS"
        axes = [int(header[f"{prefix}{i}"]) for i in range(int(header[prefix]), 0, -1)]
        if len(axes) < 2 or math.prod(axes) == 0 or set(axes[:-2]) - {1} or header.get("GROUPS", False):
            return None
        tiles = None
        if tiled:
            scaling = PixelScaling.from_header(header, "ZBITPIX", path=path, hdu=hdu)
            if not scaling.trivial or scaling.blank is not None:
                return None  # astropy reads these, as a whole
            widths = [axes[-1], *(1 for _ in axes[1:])]
            # The header may give a tile larger than the image.
            ty, tx = (min(int(header.get(f"ZTILE{i}", widths[i - 1])), axes[-i]) for i in (2, 1))
            tiles = ty, tx
        remote = RangedFile.of(path)
        shape = (axes[-2], axes[-1])
        return cls(Path(path), hdu, cards, span.data_start, span.data_size, shape, tiles, identity, remote)

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns of the pieces that it is well read in: whole tiles or rows, about a million pixels."""
        ny, nx = self.shape
        ty, tx = self.tile_shape or (1, nx)
        if tx >= nx:
            return min(ny, max(1, (1 << 20) // (nx * ty)) * ty), nx
        return min(ny, max(1, 1024 // ty) * ty), min(nx, max(1, 1024 // tx) * tx)

    def read(self, rows: range, columns: range, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Read a rectangle.

        Parameters
        ----------
        rows, columns : range
            Of the image, not empty, of step 1.
        dtype : dtype, optional
            Type of the pixel values; by default the stored one, or that which astropy gives to scaled numbers.

        Returns
        -------
        ndarray, shape (rows, columns)
            In native byte order.

        Raises
        ------
        CorruptFileError
            If the file is damaged, or was changed since it was opened.
        PlaceError
            If it cannot be read from its store.
        """
        return self.read_all([(rows, columns)], dtype)[0]

    def read_all(self, parts: Sequence[tuple[range, range]], dtype: np.dtype[Any] | None = None) -> list[NDArray[Any]]:
        """Read several rectangles, rows and columns of each, as `read` does one; from a store at the same time."""
        with self._data() as data, fits_errors(self.path):
            read = self._plain if self.tile_shape is None else self._tiled
            return read(data, parts, dtype)

    @contextmanager
    def _data(self) -> Iterator[memoryview]:
        """The data of the HDU: mapped, or memory that is filled when it is read."""
        if self.remote is not None:
            yield memoryview(mmap.mmap(-1, max(self.data_size, 1)))
            return
        if not self.identity.same_content(FileIdentity.find(self.path)):
            raise CorruptFileError("it was changed since it was opened", path=self.path, fix="Open it again")
        with map_fits(self.path) as raw:
            yield raw.buffer[self.data_start : self.data_start + self.data_size]

    def _fetch(self, data: memoryview, ranges: list[tuple[int, int]]) -> None:
        """Read ranges of the data from the store."""
        if self.remote is None:
            return
        start = self.data_start

        def write(at: int, content: bytes) -> None:
            data[at - start : at - start + len(content)] = content

        self.remote.read([(start + a, start + b) for a, b in ranges], write)

    def _plain(
        self, data: memoryview, parts: Sequence[tuple[range, range]], dtype: np.dtype[Any] | None
    ) -> list[NDArray[Any]]:
        header, (ny, nx) = _header(self.cards), self.shape
        scaling = PixelScaling.from_header(header, path=self.path, hdu=self.hdu)
        size = scaling.dtype.itemsize
        if self.data_size != ny * nx * size:
            raise FormatError(
                f"the HDU has {self.data_size} bytes of data, not those of an image of shape {self.shape}",
                path=self.path,
                hdu=self.hdu,
                fix="Copy or download the file again",
            )
        runs = [(row * nx, columns) for rows, columns in parts for row in rows]
        self._fetch(data, [((at + columns.start) * size, (at + columns.stop) * size) for at, columns in runs])
        whole = np.frombuffer(data, scaling.dtype, count=ny * nx).reshape(ny, nx)
        return [
            self._values(whole[rows.start : rows.stop, columns.start : columns.stop], scaling, dtype)
            for rows, columns in parts
        ]

    def _values(self, stored: NDArray[Any], scaling: PixelScaling, dtype: np.dtype[Any] | None) -> NDArray[Any]:
        """Convert numbers of an image that is not compressed to pixel values."""
        if dtype is not None:
            return scaling.decode(stored, dtype)
        if scaling.trivial and scaling.blank is None:
            return stored.astype(scaling.dtype.newbyteorder("="))
        # What numbers with a scale become is left to astropy, as where whole planes are read.
        header = _cut_header(_header(self.cards), stored.shape)
        part = fits.ImageHDU.fromstring(header.tostring().encode("ascii") + stored.tobytes())
        return np.ascontiguousarray(part.data, dtype=part.data.dtype.newbyteorder("="))

    def _tiled(
        self, data: memoryview, parts: Sequence[tuple[range, range]], dtype: np.dtype[Any] | None
    ) -> list[NDArray[Any]]:
        header = _header(self.cards)
        n_bytes = int(header["NAXIS1"]) * int(header["NAXIS2"])
        if self.remote is not None:
            data[:n_bytes] = _table(self, n_bytes)
        tiled = TiledImage(header, data, path=self.path, hdu=self.hdu, in_part=self.remote is not None)
        if self.remote is not None:
            self._fetch(data, [at for part in parts for at in ranges_of(tiled, tiles_on(tiled, *part))])
        return decode_parts(tiled, parts, dtype)


@functools.lru_cache(maxsize=64)
def _header(cards: bytes) -> fits.Header:
    return header_of([cards])


def _cut_header(header: fits.Header, shape: tuple[int, ...]) -> fits.Header:
    """The cards by which the numbers of a part become values."""
    kept = fits.Header([("XTENSION", "IMAGE"), ("BITPIX", header["BITPIX"]), ("NAXIS", 2)])
    kept["NAXIS1"], kept["NAXIS2"] = shape[1], shape[0]
    kept["PCOUNT"], kept["GCOUNT"] = 0, 1
    for key in ("BSCALE", "BZERO", "BLANK"):
        if key in header:
            kept[key] = header[key]
    return kept


@functools.lru_cache(maxsize=16)
def _table(image: StoredImage, n_bytes: int) -> bytes:
    """The table of a compressed image in a store, which says where its tiles are."""
    found = bytearray(n_bytes)

    def write(at: int, content: bytes) -> None:
        start = at - image.data_start
        found[start : start + len(content)] = content[: n_bytes - start]

    assert image.remote is not None
    image.remote.read([(image.data_start, image.data_start + n_bytes)], write)
    return bytes(found)
