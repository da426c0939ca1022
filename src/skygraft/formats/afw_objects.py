"""Objects of an LSST afw archive as skygraft's own: WCS, photometric calibration, PSF, detector and the like.

Each function takes the archive and an object's number. Classes are told by the name they are stored under; one that
is not known is an error that names it, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, FormatError, PsfError, SkygraftError, WcsError
from skygraft.formats.afw_archive import Archive, ArchivedObject, Row
from skygraft.photometry import (
    ChebyshevField,
    PhotoCalib,
    PixelAreaField,
    ProductField,
    ReferenceCandidate,
    SpatialField,
)
from skygraft.psf import PSF, Box, DoubleGaussianPSF, FixedKernelPSF, GaussianPSF, KernelBasisPSF, PsfexPSF
from skygraft.wcs import AstWcs

__all__ = [
    "Amplifier",
    "Detector",
    "build_apcorr_names",
    "build_detector",
    "build_field",
    "build_filter",
    "build_photo_calib",
    "build_polygon",
    "build_psf",
    "build_wcs",
]

_PHOTOCALIB_IN_NJY = 1
"""First version of a stored PhotoCalib whose calibration is nJy for one image unit."""


@dataclass(frozen=True)
class Amplifier:
    """One amplifier's part of a detector: first pixel and size, in parent pixels, and gain in electrons per adu."""

    name: str
    x_min: int
    y_min: int
    width: int
    height: int
    gain: float


@dataclass(frozen=True)
class Detector:
    """Name, number and amplifiers of a detector."""

    name: str
    id: int
    amplifiers: tuple[Amplifier, ...]

    def gain_map(self, xy0: tuple[int, int], shape: tuple[int, int]) -> float | NDArray[np.float32] | None:
        """Gain over an image: one number where all its amplifiers agree, None where one has none or misses a pixel.

        Parameters
        ----------
        xy0 : (int, int)
            Parent coordinates of the image's first pixel.
        shape : (int, int)
            Rows and columns of the image.
        """
        gains = np.full(shape, np.nan, dtype=np.float32)
        used = set()
        for amp in self.amplifiers:
            x, y = amp.x_min - xy0[0], amp.y_min - xy0[1]
            part = gains[max(y, 0) : max(y + amp.height, 0), max(x, 0) : max(x + amp.width, 0)]
            if part.size:
                part[:] = amp.gain
                used.add(amp.gain)
        if not np.all(np.isfinite(gains) & (gains > 0)):
            return None
        return float(used.pop()) if len(used) == 1 else gains


def _object(archive: Archive, key: int, *names: str) -> ArchivedObject:
    found = archive.get(key)
    if names and found.name not in names:
        raise FormatError(
            f"object {key} of the archive is a {found.name}; a {' or '.join(names)} was expected",
            path=archive.path,
            hdu=found.hdu,
        )
    return found


def build_wcs(archive: Archive, key: int) -> AstWcs:
    """The WCS stored as a SkyWcs.

    Raises
    ------
    WcsError
        If it cannot be read.
    FormatError
        If the object is of another class, or damaged.
    """
    found = _object(archive, key, "SkyWcs")
    try:
        return AstWcs.from_skywcs(found.row()["wcs"])
    except WcsError as error:
        raise type(error)(error.message, path=archive.path, hdu=found.hdu, fix=error.fix) from error


def build_filter(archive: Archive, key: int) -> tuple[str | None, str | None]:
    """Band and physical filter of a FilterLabel; None for one that it does not have."""
    row = _object(archive, key, "FilterLabel").row()
    return (
        str(row["band"]) if row.get("band_exists", True) and row["band"] else None,
        str(row["physical"]) if row.get("physical_exists", True) and row["physical"] else None,
    )


def build_polygon(archive: Archive, key: int) -> NDArray[np.float64]:
    """Vertices (N, 2), x and y in parent pixels, of a Polygon; the first is not repeated."""
    rows = [row for part in _object(archive, key, "Polygon").catalogs for row in part]
    vertices = np.array([(row["vertices_x"], row["vertices_y"]) for row in rows], dtype=np.float64)
    return vertices[:-1] if len(vertices) > 1 and np.array_equal(vertices[0], vertices[-1]) else vertices


def build_apcorr_names(archive: Archive, key: int) -> tuple[str, ...]:
    """The flux fields that an ApCorrMap has corrections for."""
    return tuple(str(row["name"]) for part in _object(archive, key, "ApCorrMap").catalogs for row in part)


def build_detector(archive: Archive, key: int) -> Detector:
    """A Detector and its amplifiers."""
    found = _object(archive, key, "Detector")
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


def _index_box(row: Row) -> tuple[int, int, int, int]:
    return row["bbox_min_x"], row["bbox_max_x"], row["bbox_min_y"], row["bbox_max_y"]


def build_field(archive: Archive, key: int) -> SpatialField:
    """A bounded field.

    Raises
    ------
    CalibrationError
        If it is of a class that is not supported.
    """
    found = _object(archive, key)
    if found.name == "ProductBoundedField":
        return ProductField([build_field(archive, row["id"]) for part in found.catalogs for row in part])
    if found.name == "ChebyshevBoundedField":
        row = found.row()
        coefficients = np.atleast_1d(row["coefficients"]).reshape(-1, row["order_x"] + 1)
        return ChebyshevField(coefficients, _index_box(row))
    if found.name == "PixelAreaBoundedField":
        row = found.row()
        return PixelAreaField(build_wcs(archive, row["wcs"]), row["scaling"], _index_box(row))
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
    """A PhotoCalib.

    Parameters
    ----------
    archive, key
        Where it is.
    unit : str
        Unit of the image.
    candidates : tuple of ReferenceCandidate
        What was found about its reference.

    Raises
    ------
    CalibrationError
        If its version or its field is not supported.
    UncalibratedImageError
        If its value makes no sense.
    """
    found = _object(archive, key, "PhotoCalib", "Calib")
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
        # The stored field is the whole calibration; its mean is there for convenience.
        mean = row["calibrationMean"] if row["isConstant"] else 1.0
        field = None if row["isConstant"] else build_field(archive, row["field"])
        try:
            return PhotoCalib(mean, unit, field, candidates=candidates)
        except ConfigError:
            # The pipelines go by the PhotoCalib alone; a BUNIT of nJy beside one that is not 1 is a slip of whoever
            # wrote it (older coadds have such), and the pixels are counts.
            return PhotoCalib(mean, "adu", field, candidates=candidates)
    except CalibrationError as error:
        raise _placed(error, archive, found) from error


def _placed(error: SkygraftError, archive: Archive, found: ArchivedObject) -> SkygraftError:
    return type(error)(
        error.message, path=error.path or archive.path, hdu=error.hdu or found.hdu, key=error.key, fix=error.fix
    )


def build_psf(archive: Archive, key: int, valid_box: Box | None = None) -> PSF:
    """A PSF; one that varies holds inside `valid_box` (the image it was made for), None for what the model says.

    Raises
    ------
    PsfError
        If it is of a class that is not supported, or its values make no sense.
    """
    found = _object(archive, key)
    builder = _PSF_BUILDERS.get(found.name)
    if builder is None:
        why = " (it is a pickle, which would have to be executed)" if found.name == "PiffPsf" else ""
        raise PsfError(
            f"the image's PSF is a {found.name}, which cannot be read{why}; those that can are "
            f"{', '.join(sorted(_PSF_BUILDERS))}",
            path=archive.path,
            hdu=found.hdu,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        )
    try:
        return builder(archive, found, valid_box)
    except (SkygraftError, ValueError) as error:
        message = error.message if isinstance(error, SkygraftError) else str(error)
        raise PsfError(
            f"the image's PSF, a {found.name}, cannot be used: {message}",
            path=archive.path,
            hdu=found.hdu,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        ) from error


def _shape(row: Row) -> tuple[int, int]:
    return row["dimensions_y"], row["dimensions_x"]


def _gaussian(_archive: Archive, found: ArchivedObject, _box: Box | None) -> PSF:
    row = found.row()
    return GaussianPSF(row["sigma"], shape=_shape(row))


def _double_gaussian(_archive: Archive, found: ArchivedObject, _box: Box | None) -> PSF:
    row = found.row()
    return DoubleGaussianPSF(row["sigma1"], row["sigma2"], row["b"], shape=_shape(row))


def _kernel_psf(archive: Archive, found: ArchivedObject, valid_box: Box | None) -> PSF:
    row = found.row()
    average = (float(row["averagePosition_x"]), float(row["averagePosition_y"]))
    kernel = archive.get(row["kernel"])
    if kernel.name == "FixedKernel":
        return FixedKernelPSF(_centred(kernel.row()), normalize=True, average_position=average)
    if kernel.name != "LinearCombinationKernel":
        raise PsfError(f"its kernel is a {kernel.name}; FixedKernel and LinearCombinationKernel are supported")
    parts = kernel.row()
    basis = np.stack(
        [_centred(_object(archive, int(part), "FixedKernel").row()) for part in np.atleast_1d(parts["components"])]
    )
    box: Box | None = None
    if "spatialfunctions" in parts and np.any(parts["spatialfunctions"]):
        functions = [archive.get(int(part)) for part in np.atleast_1d(parts["spatialfunctions"])]
        boxes = {_function_box(function) for function in functions}
        if len(boxes) != 1:
            raise PsfError("its spatial functions are not all of one kind and range")
        box = boxes.pop()
        coefficients = [np.atleast_1d(function.row()["coefficients"]) for function in functions]
    else:
        coefficients = [np.array([amplitude]) for amplitude in np.atleast_1d(parts["amplitudes"])]
    return KernelBasisPSF(
        basis, coefficients, chebyshev_box=box, normalize=True, valid_box=valid_box, average_position=average
    )


def _function_box(function: ArchivedObject) -> Box | None:
    name, row = function.name, function.row()
    if name in ("PolynomialFunction2D", "PolynomialFunction2F"):
        return None
    if name in ("Chebyshev1Function2D", "Chebyshev1Function2F"):
        return Box(row["min_x"], row["max_x"], row["min_y"], row["max_y"])
    raise PsfError(f"it varies as a {name}; PolynomialFunction2 and Chebyshev1Function2 are supported")


def _centred(row: Row) -> NDArray[np.float64]:
    """The image of a FixedKernel, padded with zeros so that its centre is the middle pixel."""
    ny, nx = _shape(row)
    image = np.asarray(row["image"], dtype=np.float64).reshape(ny, nx)
    pads = []
    for size, centre in ((ny, row["center_y"]), (nx, row["center_x"])):
        excess = 2 * centre + 1 - size
        pads.append((max(-excess, 0), max(excess, 0)))
    return np.pad(image, pads)


def _psfex(_archive: Archive, found: ArchivedObject, valid_box: Box | None) -> PSF:
    row, model = found.row(), found.row(1)
    width, height, number = (int(v) for v in model["_size"])
    basis = np.asarray(model["_comp"], dtype=np.float64).reshape(number, height, width)
    degrees = np.atleast_1d(model["degree"]) if row["ngroup"] else np.zeros(1, dtype=int)
    degree = int(degrees[0])
    if degree and (row["ndim"] != 2 or len(degrees) != 1):
        raise PsfError(f"it varies with {row['ndim']} variables in {len(degrees)} groups; x and y in one are supported")
    zero, scale = (0.0, 0.0), (1.0, 1.0)
    if row["ndim"] == 2:
        zero = _pair(model["_context_first"])
        scale = _pair(model["_context_second"])
    average = (float(row["averagePosition_x"]), float(row["averagePosition_y"]))
    return PsfexPSF(
        basis,
        degree,
        zero,
        scale,
        float(row["_pixstep"]),
        convention="lsst",
        valid_box=valid_box,
        average_position=average,
    )


def _pair(values: Any) -> tuple[float, float]:
    return float(values[0]), float(values[1])


_PSF_BUILDERS: dict[str, Callable[[Archive, ArchivedObject, Box | None], PSF]] = {
    "GaussianPsf": _gaussian,
    "SingleGaussianPsf": _gaussian,
    "DoubleGaussianPsf": _double_gaussian,
    "KernelPsf": _kernel_psf,
    "PcaPsf": _kernel_psf,
    "PsfexPsf": _psfex,
}
