"""Layout of afw exposures: the HDUs of the planes, and the parent coordinates of the first pixel.

Both are written redundantly in a file (EXTTYPE and EXTNAME; the pixel WCS "A" and LTV, in every plane), so that a
damaged card is found by comparison with the others. A file with an afw archive is always treated as an afw exposure,
even if parts of it are lost: read as any other kind of image it would have another zeropoint, and no PSF.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astropy.io import fits

from skygraft.errors import FormatError
from skygraft.fitsfile.cards import card_value, header_of
from skygraft.fitsfile.open import RawFits

__all__ = ["check_planes", "find_planes", "has_archive", "read_xy0"]

PLANES = ("IMAGE", "MASK", "VARIANCE")
_ORIGIN = ("CRPIX1A", "CRPIX2A", "CRVAL1A", "CRVAL2A")
_LARGEST = 2**31
"""Upper limit of pixel coordinates, which are int32 in afw."""
_FIX = "Copy or download the file again, or write it again with the pipelines that made it"


def has_archive(primary: fits.Header) -> bool:
    """Return whether a primary header refers to an afw archive."""
    keys = ("AR_HDU", "EXPINFO_V", "SKYWCS_ID", "PSF_ID", "PHOTOCALIB_ID")
    return any(key in primary for key in keys) or any(key.startswith("ARCHIVE_ID_") for key in primary)


def find_planes(raw: RawFits) -> dict[str, int] | None:
    """Return the HDU numbers of the existing planes (see `check_planes`), or None if it is not an afw exposure."""
    hdus: dict[str, int] = {}
    for span in raw.spans[1:4]:
        header = header_of(raw.header_cards(span.index))
        kind = str(card_value(header, "EXTTYPE", "")).strip()
        if kind in PLANES and (header.get("XTENSION") == "IMAGE" or card_value(header, "ZIMAGE", False)):
            hdus.setdefault(kind, span.index)
    if {"IMAGE", "MASK"} <= hdus.keys() or has_archive(header_of(raw.header_cards(0))):
        return hdus
    return None


def check_planes(headers: Mapping[str, fits.Header], hdus: Mapping[str, int], archive: bool, path: Path) -> None:
    """Check that no plane is missing, and that each has the right name and pixel type.

    Parameters
    ----------
    headers, hdus : mapping
        Header and HDU number of each plane that was found, by EXTTYPE.
    archive : bool
        Whether the file has an afw archive; it then needs all three planes.
    path : Path
        The file, for errors.

    Raises
    ------
    FormatError
        If not.
    """
    wanted = PLANES if archive else PLANES[:2]
    lost = [name for name in wanted if name not in hdus]
    if lost:
        raise FormatError(
            f"this is an exposure of the LSST pipelines (afw), and none of its HDUs 1 to 3 is an image with EXTTYPE = "
            f"{lost[0]!r}",
            path=path,
            key="EXTTYPE",
            fix=_FIX,
        )
    for name, header in headers.items():
        called = str(card_value(header, "EXTNAME", "")).strip()
        if called in PLANES and called != name:
            raise FormatError(
                f"EXTTYPE says that this is the {name} plane, and EXTNAME that it is {called}",
                path=path,
                hdu=hdus[name],
                key="EXTTYPE",
                fix=_FIX,
            )
        bits = card_value(header, "ZBITPIX" if card_value(header, "ZIMAGE", False) else "BITPIX")
        if isinstance(bits, int) and (bits < 0) == (name == "MASK") and name != "IMAGE":
            raise FormatError(
                f"the {name.lower()} has pixels of {abs(bits)}-bit {'floats' if bits < 0 else 'integers'}; a mask is "
                "of integers, and a variance of floats",
                path=path,
                hdu=hdus[name],
                key="BITPIX",
                fix=_FIX,
            )


def read_xy0(headers: Mapping[str, fits.Header], hdus: Mapping[str, int], archive: bool, path: Path) -> tuple[int, int]:
    """Return the parent coordinates (x, y) of the first pixel, on which all planes must agree.

    Parameters
    ----------
    headers, hdus, archive, path
        See `check_planes`.

    Raises
    ------
    FormatError
        If cards are missing, are not integers, or disagree.
    """
    found = {name: _origin(header, archive and name == "IMAGE", path, hdus[name]) for name, header in headers.items()}
    first = found["IMAGE"]
    for name, other in found.items():
        if other != first and _ORIGIN[2] in headers[name]:
            raise FormatError(
                f"the first pixel of the image is {first} in the parent frame, and that of the {name.lower()} {other}",
                path=path,
                hdu=hdus[name],
                key="CRVAL1A" if other[0] != first[0] else "CRVAL2A",
                fix=_FIX,
            )
    return first


def _origin(header: fits.Header, required: bool, path: Path, hdu: int) -> tuple[int, int]:
    """Parent coordinates of the first pixel of one plane, from the pixel WCS "A" or else from LTV."""

    def refused(message: str, key: str) -> FormatError:
        return FormatError(message, path=path, hdu=hdu, key=key, fix=_FIX)

    def number(key: str) -> int | None:
        value: Any = card_value(header, key)
        if value is None:
            return None
        real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not real or abs(value) >= _LARGEST or value != round(value):
            raise refused(f"{key} is {value!r}; a whole number of pixels is needed", key)
        return int(value)

    offsets = [number(f"LTV{axis}") for axis in (1, 2)]
    if (offsets[0] is None) != (offsets[1] is None):
        key = "LTV1" if offsets[0] is None else "LTV2"
        raise refused(f"there is no {key}, and one of the other axis", key)
    shifted = None if offsets[0] is None or offsets[1] is None else (-offsets[0], -offsets[1])
    present = [key for key in _ORIGIN if card_value(header, key) is not None]
    if not present and not required:
        return shifted or (0, 0)
    missing = next((key for key in _ORIGIN if key not in present), None)
    if missing is not None:
        raise refused(f"there is no {missing}: afw writes with it where the first pixel lies", missing)
    if not required and any(card_value(header, key) != 1 for key in _ORIGIN[:2]):
        # An alternate WCS "A" that was not written by afw.
        return shifted or (0, 0)
    pixel_1, pixel_2, x0, y0 = (number(key) for key in _ORIGIN)
    if (pixel_1, pixel_2) != (1, 1) or x0 is None or y0 is None:
        key = _ORIGIN[0 if pixel_1 != 1 else 1]
        raise refused(f"{key} is {card_value(header, key)}; afw writes 1", key)
    if shifted is not None and shifted != (x0, y0):
        axis = 1 if shifted[0] != x0 else 2
        raise refused(
            f"CRVAL{axis}A is {(x0, y0)[axis - 1]}, and LTV{axis} is {-shifted[axis - 1]}: they say where the first "
            "pixel lies, and disagree",
            f"CRVAL{axis}A",
        )
    return x0, y0
