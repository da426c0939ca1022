"""Open exposures of the LSST pipelines' afw library, and read their planes, archive components and WCS."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.cards import card_value, header_of
from skygraft.fitsfile.open import CONVERSIONS, RawFits, fits_errors, map_fits
from skygraft.fitsfile.pixels import PixelScaling
from skygraft.fitsfile.tile_header import tile_shape_of
from skygraft.fitsfile.tiles import TiledImage
from skygraft.formats import afw_objects
from skygraft.formats.afw_archive import Archive, component_id
from skygraft.formats.afw_layout import check_planes, find_planes, has_archive, read_xy0
from skygraft.formats.base import StrPath
from skygraft.formats.fits_layout import Plane, Role
from skygraft.wcs import read_fits_wcs

__all__ = ["AfwFile", "image_shape", "image_wcs", "image_xy0", "mapped", "open_afw", "planes_of", "read_plane"]

_SIDE_CLASSES = {
    "FILTER": "FilterLabel",
    "DETECTOR": "Detector",
    "AP_CORR_MAP": "ApCorrMap",
    "VALID_POLYGON": "Polygon",
}
"""Components that are not essential for injection, and their classes in the archive."""
_TABLE_KEYS = re.compile(r"Z[A-Z]+\d*$|TTYPE\d+$|TFORM\d+$|TFIELDS$|PCOUNT$|GCOUNT$|XTENSION$|THEAP$")


@dataclass(frozen=True)
class AfwFile:
    """An open afw file with its headers.

    Parameters
    ----------
    raw : RawFits
        Bytes of the file.
    primary : astropy.io.fits.Header
        Primary header.
    hdus : dict of str to int
        HDU number of each plane (``"IMAGE"``, ``"MASK"``, ``"VARIANCE"``).
    archive : Archive or None
        The object archive.
    headers : dict of str to Header
        Header of each plane.
    """

    raw: RawFits
    primary: fits.Header
    hdus: dict[str, int]
    archive: Archive | None
    headers: dict[str, fits.Header]

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.raw.path

    def header(self, plane: str = "IMAGE") -> fits.Header:
        """Return the header of a plane."""
        return self.headers[plane]

    def component(self, name: str) -> tuple[Archive, int] | None:
        """Return the archive and a component's number in it, or None if the file has no such component."""
        key = component_id(self.primary, name, self.path)
        return None if self.archive is None or not key else (self.archive, key)

    def side_component(self, name: str) -> tuple[Archive, int] | None:
        """Return a component that is not essential, as `component`; None also if it has an unexpected class."""
        found = self.component(name)
        return None if found is None or self._odd_class(name) else found

    @functools.cached_property
    def detector(self) -> afw_objects.Detector | None:
        """The detector, None if the file records none."""
        component = self.side_component("DETECTOR")
        return None if component is None else afw_objects.build_detector(*component)

    def _odd_class(self, name: str) -> str:
        """Name of the class of a component, if it is not the expected one; otherwise empty."""
        found = self.component(name)
        stored = "" if found is None else found[0].names.get(found[1], "")
        return "" if stored == _SIDE_CLASSES[name] else stored

    @property
    def caution(self) -> str:
        """Warning about components that were left out because of an unexpected class; "" if there are none."""
        odd = {name: self._odd_class(name) for name in _SIDE_CLASSES}
        parts = [f"{name} is a {stored}, not a {_SIDE_CLASSES[name]}" for name, stored in odd.items() if stored]
        return f"parts of the file that are not understood were left out: {'; '.join(parts)}" if parts else ""


@contextlib.contextmanager
def mapped(path: StrPath) -> Iterator[RawFits]:
    """Map a file whose headers and archive are parsed here; astropy's warnings are silenced."""
    with map_fits(path) as raw, fits_errors(path, also=CONVERSIONS), warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        yield raw


@contextlib.contextmanager
def open_afw(path: StrPath, *, archive: bool = True) -> Iterator[AfwFile]:
    """Open an exposure: find its planes, check them against each other, and read the index of its archive.

    Parameters
    ----------
    path : path-like
        The file.
    archive : bool
        Whether to read the archive's index; what does without it takes the file for one without an archive.

    Raises
    ------
    FormatError
        If the file is no afw exposure, or planes or cards are missing or contradict each other.
    CorruptFileError
        If the file is damaged.
    """
    with mapped(path) as raw:
        hdus = find_planes(raw)
        if hdus is None:
            raise FormatError(
                "this is not an afw exposure: it has no HDU with EXTTYPE or EXTNAME = IMAGE followed by one with MASK",
                path=path,
                fix="Name the format that it is in (format=)",
            )
        primary = header_of(raw.header_cards(0))
        headers = {name: header_of(raw.header_cards(hdu)) for name, hdu in hdus.items()}
        check_planes(headers, hdus, has_archive(primary), raw.path)
        index = card_value(primary, "AR_HDU")
        if index is None and has_archive(primary):
            raise FormatError(
                "the file says what is in its archive, and not which HDU that is",
                path=path,
                hdu=0,
                key="AR_HDU",
                fix="Copy or download the file again",
            )
        opened = Archive(raw, int(index) - 1) if archive and index is not None else None
        yield AfwFile(raw, primary, hdus, opened, headers)


def planes_of(opened: AfwFile) -> list[Plane]:
    """Return role, HDU and tiling of each plane."""
    roles: dict[str, Role] = {"IMAGE": "image", "MASK": "mask", "VARIANCE": "variance"}
    planes = []
    for name, index in opened.hdus.items():
        header = opened.header(name)
        tiles = tile_shape_of(header) if card_value(header, "ZIMAGE", False) else None
        planes.append(Plane(roles[name], opened.path, index, tiles))
    return planes


def read_plane(opened: AfwFile, plane: str, dtype: type[np.generic]) -> NDArray[Any]:
    """Return the pixels of a plane, shape (ny, nx).

    Parameters
    ----------
    opened : AfwFile
    plane : {"IMAGE", "MASK", "VARIANCE"}
    dtype : type
        Type of the pixel values.

    Raises
    ------
    CorruptFileError
        If the plane is damaged.
    """
    index, header = opened.hdus[plane], opened.header(plane)
    span = opened.raw.spans[index]
    data = opened.raw.buffer[span.data_start : span.data_start + span.data_size]
    if card_value(header, "ZIMAGE", False):
        return TiledImage(header, data, path=opened.path, hdu=index).decode(np.dtype(dtype))
    scaling = PixelScaling.from_header(header, path=opened.path, hdu=index)
    return scaling.decode(np.frombuffer(data, scaling.dtype).reshape(image_shape(opened, plane)), np.dtype(dtype))


def image_shape(opened: AfwFile, plane: str = "IMAGE") -> tuple[int, int]:
    """Return rows and columns of a plane.

    Raises
    ------
    FormatError
        If the plane does not have two axes, or has no pixels.
    """
    header = opened.header(plane)
    axes = "ZNAXIS" if card_value(header, "ZIMAGE", False) else "NAXIS"
    if header[axes] != 2:
        raise FormatError(
            f"the {plane.lower()} has {header[axes]} axes, not two", path=opened.path, hdu=opened.hdus[plane]
        )
    ny, nx = int(header[f"{axes}2"]), int(header[f"{axes}1"])
    if not ny * nx:
        raise FormatError(f"the {plane.lower()} has no pixels", path=opened.path, hdu=opened.hdus[plane])
    return ny, nx


def image_xy0(opened: AfwFile) -> tuple[int, int]:
    """Return the parent coordinates (x, y) of the first pixel."""
    headers = {name: opened.header(name) for name in opened.hdus}
    return read_xy0(headers, opened.hdus, has_archive(opened.primary), opened.path)


def image_wcs(opened: AfwFile, xy0: tuple[int, int]) -> BaseLowLevelWCS:
    """Return the WCS in the archive, or the header's WCS if the archive has none.

    Parameters
    ----------
    opened : AfwFile
    xy0 : (int, int)
        Parent coordinates of the first pixel.

    Raises
    ------
    WcsError
        If the WCS cannot be used.
    CorruptFileError
        If the archive has a WCS that no card refers to.
    """
    component = opened.component("SKYWCS")
    if component is None and opened.archive is not None and "SkyWcs" in opened.archive.names.values():
        # The WCS in the header only approximates the stored one.
        raise CorruptFileError(
            "the archive holds a SkyWcs, and no card says that it is the image's",
            path=opened.path,
            hdu=0,
            key="SKYWCS_ID",
            fix="Copy the file again, or write it again with the pipelines that made it",
        )
    if component is not None:
        return afw_objects.build_wcs(*component)
    header = opened.header()
    if card_value(header, "ZIMAGE", False):
        ny, nx = image_shape(opened)
        header = fits.Header([card for card in header.cards if not _TABLE_KEYS.match(card.keyword)]).copy()
        header["NAXIS1"], header["NAXIS2"] = nx, ny
    return read_fits_wcs(header, xy0=xy0, path=opened.path, hdu=opened.hdus["IMAGE"])
