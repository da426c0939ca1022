"""Read the header of a tile-compressed image: columns of its table, settings of the coder, quantisation.

Each value is checked as it is read: a wrong one would give wrong pixels, or allocate any amount of memory.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.cards import card_value
from skygraft.fitsfile.structure import COPY_AGAIN

__all__ = [
    "COMPRESSED",
    "GZIPPED",
    "RAW",
    "TFORM_BYTES",
    "TFORM_DTYPE",
    "Column",
    "TileHeader",
    "tile_shape_of",
]

COMPRESSED, GZIPPED, RAW = "COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"
TFORM_BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16}
TFORM_DTYPE = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_ALGORITHMS = ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
_DITHERS = {"NO_DITHER": 0, "NONE": 0, "": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}
_MOST_BLOCK = 1024
"""Largest accepted block of the Rice coder, in pixels; the standard allows 16 and 32."""
_SEEDS = 10000
_SETTING = re.compile(r"(?:ZNAME|ZVAL)[1-9]\d{0,2}$")
_ANY = 1e18
_WORDS = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Column:
    """A column of the binary table: name, byte offset in a row, TFORM, and type of its elements."""

    name: str
    offset: int
    form: str
    element: str
    """TFORM letter of the elements in the heap; "" for a column without heap data."""

    @property
    def wide(self) -> bool:
        """Whether the column's descriptors have 64 bits (Q) instead of 32 (P)."""
        return "Q" in self.form.split("(")[0]


def tile_shape_of(header: fits.Header) -> tuple[int, ...]:
    """Return the tile shape of a compressed image; single rows if its header does not give one."""
    width, n = int(header["ZNAXIS1"]), int(header["ZNAXIS"])
    # The header may give a tile larger than the image.
    return tuple(
        min(int(header.get(f"ZTILE{i}", width if i == 1 else 1)), int(header[f"ZNAXIS{i}"])) for i in range(n, 0, -1)
    )


class TileHeader:
    """The checked header of the binary table of a compressed image.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the binary table.
    path, hdu
        For errors.

    Raises
    ------
    FormatError
        If the compression algorithm is not supported.
    CorruptFileError
        If a card is missing or has an invalid value.
    """

    def __init__(self, header: fits.Header, *, path: str | os.PathLike[str], hdu: int) -> None:
        self.header, self.path, self.hdu = header, path, hdu
        self.algorithm = str(header.get("ZCMPTYPE", "")).strip().upper().replace("RICE_ONE", "RICE_1")
        if self.algorithm not in _ALGORITHMS:
            raise FormatError(
                f"the image is compressed with {header.get('ZCMPTYPE')!r}; known are {', '.join(_ALGORITHMS)}",
                path=path,
                hdu=hdu,
                key="ZCMPTYPE",
                fix="Compress the image with GZIP_2 or RICE_1, or copy it again",
            )
        self.columns = self._columns()
        self.settings = self._settings()

    def damaged(self, message: str, key: str | None = None) -> CorruptFileError:
        """Return an error with this message that names the file and HDU."""
        return CorruptFileError(message, path=self.path, hdu=self.hdu, key=key, fix=COPY_AGAIN)

    def _columns(self) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        offset = 0
        for i in range(1, int(self.header["TFIELDS"]) + 1):
            form = str(self.header[f"TFORM{i}"]).strip()
            match = re.match(r"(\d*)([PQ])([A-Z])|(\d*)([A-Z])", form)
            if match is None:
                raise self.damaged(f"TFORM{i} is {form!r}, which is not a column format", f"TFORM{i}")
            title = self.header.get(f"TTYPE{i}", "")
            if not isinstance(title, str) or not title.strip():
                raise self.damaged(f"TTYPE{i} is {title!r}; the name of a column is needed", f"TTYPE{i}")
            name = title.strip().upper()
            if match.group(2):
                size = int(match.group(1) or 1) * (8 if match.group(2) == "P" else 16)
                if int(match.group(1) or 1) != 1 or match.group(3) not in TFORM_DTYPE:
                    raise self.damaged(f"TFORM{i} is {form!r}; one array of numbers is needed", f"TFORM{i}")
            elif match.group(5) == "X":
                size = (int(match.group(4) or 1) + 7) // 8
            else:
                size = int(match.group(4) or 1) * TFORM_BYTES.get(match.group(5), 1)
            if name in columns:
                raise self.damaged(f"two columns are called {name!r}", f"TTYPE{i}")
            columns[name] = Column(name, offset, form, match.group(3) or "")
            offset += size
        for name in (COMPRESSED, GZIPPED, RAW):
            if name in columns and not columns[name].element:
                raise self.damaged(f"column {name} is {columns[name].form!r}, not an array of variable length")
        if COMPRESSED not in columns:
            raise self.damaged(f"the compressed image has no column {COMPRESSED}; it has {', '.join(columns)}")
        return columns

    def _settings(self) -> dict[str, float]:
        settings: dict[str, float] = {}
        numbers = {int(key[5:] if key.startswith("ZNAME") else key[4:]) for key in self.header if _SETTING.match(key)}
        for i in sorted(numbers):
            name, value = self.header.get(f"ZNAME{i}"), self.header.get(f"ZVAL{i}")
            if not isinstance(name, str) or not name.strip():
                raise self.damaged(f"ZNAME{i} is {name!r}; the name of a setting is needed", f"ZNAME{i}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not _WORDS[0] <= value <= _WORDS[1]:
                raise self.damaged(f"{name} is {value!r}; a number is needed", f"ZVAL{i}")
            settings[name.strip().upper()] = value
        return settings

    def _setting(self, name: str, default: int, allowed: range | tuple[int, ...]) -> int:
        value = self.settings.get(name, default)
        if value not in allowed:
            choice = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
            raise self.damaged(f"{name} of the {self.algorithm} coder is {value}; it can be {choice}", name)
        return int(value)

    def rice(self) -> dict[str, int]:
        """Return the settings of the Rice coder: ``block`` and ``bytepix``."""
        block = self._setting("BLOCKSIZE", 32, range(1, _MOST_BLOCK + 1))
        return {"block": block, "bytepix": self._setting("BYTEPIX", 4, (1, 2, 4))}

    def hcompress(self) -> dict[str, int]:
        """Return the settings of HCOMPRESS: ``scale`` and ``smooth``."""
        return {"scale": int(self.settings.get("SCALE", 0)), "smooth": self._setting("SMOOTH", 0, (0, 1))}

    def dither(self) -> tuple[int, int]:
        """Return the dithering method (0 for none, 1 or 2 for SUBTRACTIVE_DITHER_1 or _2) and its seed."""
        name = self.header.get("ZQUANTIZ", "")
        if name not in _DITHERS:
            raise self.damaged(f"ZQUANTIZ is {name!r}; known are {', '.join(n for n in _DITHERS if n)}", "ZQUANTIZ")
        kind = _DITHERS[name]
        seed = card_value(self.header, "ZDITHER0") if kind else 0
        if kind and (isinstance(seed, bool) or not isinstance(seed, int) or not 1 <= seed <= _SEEDS):
            raise self.damaged(f"the seed ZDITHER0 of the dither is {seed!r}; it can be 1 to {_SEEDS}", "ZDITHER0")
        return kind, int(seed)

    def blank(self) -> int | None:
        """Return the integer that stands for NaN in quantised pixels, or None if the header has none."""
        for key in ("ZBLANK", "BLANK"):
            value = card_value(self.header, key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not _WORDS[0] <= value <= _WORDS[1]:
                raise self.damaged(f"{key} is {value!r}; a whole number of 32 bits is needed", key)
            return value
        return None

    def most_pixels(self, name: str, sizes: Any) -> Any:
        """Return the largest number of pixels that compressed data can encode.

        Parameters
        ----------
        name : str
            Column of the data, which determines the coding.
        sizes : array_like
            Bytes of compressed data.

        Returns
        -------
        ndarray of float, shape of `sizes`
        """
        algorithm = "GZIP_1" if name == GZIPPED else "NOCOMPRESS" if name == RAW else self.algorithm
        sizes = np.asarray(sizes, dtype=np.float64)
        if algorithm == "RICE_1":
            rice = self.rice()
            # The shortest block, of equal pixels, is a single code of this many bits.
            return sizes * 8 / {1: 3, 2: 4, 4: 5}[rice["bytepix"]] * rice["block"]
        # Deflate can repeat 258 bytes with two bits; PLIO encodes a run of 4095 pixels in 16 bits. HCOMPRESS tiles
        # state their shape, which is checked.
        return sizes * {"GZIP_1": 1032, "GZIP_2": 1032, "PLIO_1": 2048, "NOCOMPRESS": 1}.get(algorithm, _ANY)
