"""Convert objects of an LSST afw archive: WCS, photometric calibration, detector, filter and the like.

Each function takes the archive and an object's number. Classes are identified by the name that they are stored under;
an unknown class is an error that names it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, FormatError, SkygraftError, WcsError
from skygraft.formats.afw_archive import Archive, ArchivedObject, Row
from skygraft.photometry import (
    ChebyshevField,
    PhotoCalib,
    PixelAreaField,
    ProductField,
    ReferenceCandidate,
    SpatialField,
)
from skygraft.wcs import AstWcs, FitsWcs

__all__ = [
    "Amplifier",
    "Detector",
    "build_apcorr_names",
    "build_detector",
    "build_field",
    "build_filter",
    "build_photo_calib",
    "build_polygon",
    "build_wcs",
    "expect_object",
    "index_box",
]

_PHOTOCALIB_IN_NJY = 1
"""First version of a stored PhotoCalib whose calibration is nJy for one image unit."""


@dataclass(frozen=True)
class Amplifier:
    """An amplifier: its region of the detector (first pixel and size, parent pixels) and gain (electrons per adu)."""

    name: str
    x_min: int
    y_min: int
    width: int
    height: int
    gain: float


@dataclass(frozen=True)
class Detector:
    """A detector: name, number and amplifiers."""

    name: str
    id: int
    amplifiers: tuple[Amplifier, ...]

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Regions of the amplifiers: first x, first y, width and height, in parent pixels."""
        return [(amp.x_min, amp.y_min, amp.width, amp.height) for amp in self.amplifiers]

    def gain_map(self, xy0: tuple[int, int], shape: tuple[int, int]) -> float | NDArray[np.float32] | None:
        """Return the gain of each pixel of an image.

        Parameters
        ----------
        xy0 : (int, int)
            Parent coordinates (x, y) of the image's first pixel.
        shape : (int, int)
            Rows and columns of the image.

        Returns
        -------
        float, ndarray of float32, or None
            A number if all amplifiers in the image have the same gain; None if an amplifier has no gain, or the
            amplifiers do not cover the image.
        """
        (x0, y0), (ny, nx) = xy0, shape
        boxes = [(amp.x_min - x0, amp.y_min - y0, amp.width, amp.height, amp.gain) for amp in self.amplifiers]
        x_edges = np.unique(np.clip([0, nx, *(x + w for x, _, width, _, _ in boxes for w in (0, width))], 0, nx))
        y_edges = np.unique(np.clip([0, ny, *(y + h for _, y, _, height, _ in boxes for h in (0, height))], 0, ny))
        # One number for each cell between edges; NaN where no amplifier is.
        cells = np.full((y_edges.size - 1, x_edges.size - 1), np.nan, dtype=np.float32)
        used = set()
        for x, y, width, height, gain in boxes:
            (i0, i1), (j0, j1) = np.searchsorted(x_edges, (x, x + width)), np.searchsorted(y_edges, (y, y + height))
            part = cells[j0:j1, i0:i1]
            if part.size:
                part[:] = gain
                used.add(gain)
        if not (cells.min() > 0 and cells.max() < np.inf):
            return None
        if len(used) == 1:
            return float(used.pop())
        return np.repeat(np.repeat(cells, np.diff(x_edges), axis=1), np.diff(y_edges), axis=0)


def expect_object(archive: Archive, key: int, *names: str) -> ArchivedObject:
    """Return an object of an archive after checking its class.

    Parameters
    ----------
    archive : Archive
    key : int
        Number of the object.
    *names : str
        Allowed classes; any if none is given.

    Raises
    ------
    FormatError
        If the object is of another class, or not in the archive.
    """
    found = archive.get(key)
    if names and found.name not in names:
        raise FormatError(
            f"object {key} of the archive is a {found.name}; a {' or '.join(names)} was expected",
            path=archive.path,
            hdu=found.hdu,
        )
    return found


def build_wcs(archive: Archive, key: int) -> AstWcs | FitsWcs:
    """Build the WCS that is stored as a SkyWcs, or as a TanWcs in older archives.

    Raises
    ------
    WcsError
        If the WCS cannot be read.
    FormatError
        If the object is of another class, or damaged.
    """
    found = expect_object(archive, key, "SkyWcs", "TanWcs")
    try:
        if found.name == "TanWcs":
            return FitsWcs(_tan_header(found))
        return AstWcs.from_skywcs(found.row()["wcs"], os.fspath(archive.path))
    except WcsError as error:
        raise type(error)(error.message, path=archive.path, hdu=found.hdu, fix=error.fix) from error


def _tan_header(found: ArchivedObject) -> dict[str, Any]:
    """FITS cards of a TanWcs, whose reference pixel is 0-based and whose matrices are stored column by column."""
    row = found.row()
    cd = np.reshape(row["cd"], (2, 2), order="F")
    header: dict[str, Any] = {f"{key.upper()}": row[key] for key in ("ctype1", "ctype2", "equinox", "radesys")}
    header |= {f"CUNIT{i}": row[f"cunit{i}"] for i in (1, 2)}
    header |= {f"CRVAL{i}": row[f"crval_{axis}"] for i, axis in ((1, "x"), (2, "y"))}
    header |= {f"CRPIX{i}": row[f"crpix_{axis}"] + 1.0 for i, axis in ((1, "x"), (2, "y"))}
    header |= {f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in range(2) for j in range(2)}
    if len(found.catalogs) > 1 and found.catalogs[1]:
        sip = found.row(1)
        for name in ("A", "B", "Ap", "Bp"):
            flat = np.atleast_1d(sip[name])
            size = round(np.sqrt(flat.size))
            terms = np.reshape(flat, (size, size), order="F")
            header[f"{name.upper()}_ORDER"] = size - 1
            pairs = ((i, j) for i in range(size) for j in range(size - i) if terms[i, j])
            header |= {f"{name.upper()}_{i}_{j}": float(terms[i, j]) for i, j in pairs}
    return header


def build_filter(archive: Archive, key: int) -> tuple[str | None, str | None]:
    """Return band and physical filter of a FilterLabel; None for one that is missing."""
    row = expect_object(archive, key, "FilterLabel").row()
    return (
        str(row["band"]) if row.get("band_exists", True) and row["band"] else None,
        str(row["physical"]) if row.get("physical_exists", True) and row["physical"] else None,
    )


def build_polygon(archive: Archive, key: int) -> NDArray[np.float64]:
    """Return the vertices (x, y) of a Polygon in parent pixels, shape (N, 2); the first is not repeated."""
    rows = [row for part in expect_object(archive, key, "Polygon").catalogs for row in part]
    vertices = np.array([(row["vertices_x"], row["vertices_y"]) for row in rows], dtype=np.float64)
    return vertices[:-1] if len(vertices) > 1 and np.array_equal(vertices[0], vertices[-1]) else vertices


def build_apcorr_names(archive: Archive, key: int) -> tuple[str, ...]:
    """Return the names of the flux fields that an ApCorrMap has corrections for."""
    return tuple(str(row["name"]) for part in expect_object(archive, key, "ApCorrMap").catalogs for row in part)


def build_detector(archive: Archive, key: int) -> Detector:
    """Build a Detector with its amplifiers."""
    found = expect_object(archive, key, "Detector")
    row = found.row()
    amplifiers = tuple(
        Amplifier(
            str(amp["name"]),
            int(amp["bbox_min_x"]),
            int(amp["bbox_min_y"]),
            int(amp["bbox_extent_x"]),
            int(amp["bbox_extent_y"]),
            float(amp["gain"]),
        )
        for amp in (found.catalogs[1] if len(found.catalogs) > 1 else [])
    )
    return Detector(str(row["name"]), int(row["id"]), amplifiers)


def index_box(row: Row) -> tuple[int, int, int, int]:
    """Return first and last column, first and last row of a stored box (inclusive)."""
    return row["bbox_min_x"], row["bbox_max_x"], row["bbox_min_y"], row["bbox_max_y"]


def build_field(archive: Archive, key: int) -> SpatialField:
    """Build a bounded field.

    Raises
    ------
    CalibrationError
        If its class is not supported.
    """
    found = expect_object(archive, key)
    if found.name == "ProductBoundedField":
        return ProductField([build_field(archive, row["id"]) for part in found.catalogs for row in part])
    if found.name == "ChebyshevBoundedField":
        row = found.row()
        coefficients = np.atleast_1d(row["coefficients"]).reshape(-1, row["order_x"] + 1)
        return ChebyshevField(coefficients, index_box(row))
    if found.name == "PixelAreaBoundedField":
        row = found.row()
        return PixelAreaField(build_wcs(archive, row["wcs"]), row["scaling"], index_box(row))
    raise CalibrationError(
        f"the photometric calibration varies as a {found.name}, which is not supported; ChebyshevBoundedField, "
        "ProductBoundedField and PixelAreaBoundedField are",
        path=archive.path,
        hdu=found.hdu,
        fix="Give the calibration (photo_calib=)",
    )


def build_photo_calib(
    archive: Archive, key: int, *, unit: str, candidates: tuple[ReferenceCandidate, ...] = ()
) -> PhotoCalib:
    """Build a PhotoCalib.

    Parameters
    ----------
    archive, key
        The archive, and the number of the object.
    unit : str
        Unit of the image.
    candidates : tuple of ReferenceCandidate
        Candidates for its reference.

    Returns
    -------
    PhotoCalib

    Raises
    ------
    CalibrationError
        If its version or the class of its field is not supported.
    UncalibratedImageError
        If its value is not a positive finite number.
    """
    found = expect_object(archive, key, "PhotoCalib", "Calib")
    row = found.row()
    try:
        if found.name == "Calib":
            return PhotoCalib.from_fluxmag0(row["fluxmag0"], unit, candidates=candidates)
        version = row.get("version", 0)
        if version < _PHOTOCALIB_IN_NJY:
            raise CalibrationError(
                f"the PhotoCalib is of version {version}, which did not say the unit of its calibration",
                fix="Give the calibration (photo_calib=)",
            )
        # The stored field is the complete calibration; the mean must not be multiplied in again.
        mean = row["calibrationMean"] if row["isConstant"] else 1.0
        field = None if row["isConstant"] else build_field(archive, row["field"])
        try:
            return PhotoCalib(mean, unit, field, candidates=candidates)
        except ConfigError:
            # The pipelines use the PhotoCalib alone. If it is not 1, BUNIT = nJy is wrong (as in some older coadds) and
            # the pixels are counts.
            return PhotoCalib(mean, "adu", field, candidates=candidates)
    except CalibrationError as error:
        raise _placed(error, archive, found) from error


def _placed(error: SkygraftError, archive: Archive, found: ArchivedObject) -> SkygraftError:
    return type(error)(
        error.message, path=error.path or archive.path, hdu=error.hdu or found.hdu, key=error.key, fix=error.fix
    )
