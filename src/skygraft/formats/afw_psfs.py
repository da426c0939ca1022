"""Convert PSFs of an LSST afw archive, including those of coadds and warped images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import PsfError, SkygraftError
from skygraft.formats.afw_archive import Archive, ArchivedObject, Row
from skygraft.formats.afw_objects import build_polygon, build_wcs, expect_object, index_box
from skygraft.formats.afw_piff import PICKLED, build_piff_psf
from skygraft.psf import (
    PSF,
    Box,
    CoaddInput,
    CoaddPSF,
    DoubleGaussianPSF,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    PsfexPSF,
    Warp,
    WarpedPSF,
    check_psf_soundness,
)
from skygraft.wcs import AstMapping

__all__ = ["build_psf"]

_DEEPEST = 8
"""Largest nesting of PSFs. A coadd of warped images has three levels; a damaged archive may refer to itself."""
_OLD_WARP = Warp(3, 10000)
"""Warping of coadds whose files do not record it."""


@dataclass(frozen=True)
class _Place:
    """The context of a PSF: archive, box in which the PSF is valid, permission to unpickle, and nesting depth."""

    archive: Archive
    box: Box | None
    allow_pickle: bool
    depth: int = 0

    def build(self, key: int, box: Box | None = None) -> PSF:
        """Build another PSF of the same archive that this one consists of."""
        if self.depth == _DEEPEST:
            raise PsfError(f"PSFs of the archive refer to each other more than {_DEEPEST} deep, or in a circle")
        return _build(_Place(self.archive, box, self.allow_pickle, self.depth + 1), key)


def build_psf(archive: Archive, key: int, valid_box: Box | None = None, *, allow_pickle: bool = False) -> PSF:
    """Build a PSF.

    Parameters
    ----------
    archive, key
        The archive, and the number of the object.
    valid_box : Box, optional
        Pixels of the image, inside which a spatially varying PSF is valid; by default what the model records.
    allow_pickle : bool
        Read PSFs that are stored as a pickle, which can execute any code.

    Returns
    -------
    PSF

    Raises
    ------
    PsfError
        If its class is not supported, its values are invalid, or it is a pickle and `allow_pickle` is false.
    """
    return _build(_Place(archive, valid_box, allow_pickle), key)


def _build(place: _Place, key: int) -> PSF:
    archive = place.archive
    found = expect_object(archive, key)
    builder = _PSF_BUILDERS.get(found.name)
    if builder is None:
        raise PsfError(
            f"the image's PSF is a {found.name}, which cannot be read; those that can are "
            f"{', '.join(sorted(_PSF_BUILDERS))}",
            path=archive.path,
            hdu=found.hdu,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        )
    try:
        psf = builder(place, found)
        # Nested PSFs are checked here only.
        check_psf_soundness(psf, place.box)
        return psf
    except (SkygraftError, ValueError) as error:
        if place.depth and isinstance(error, SkygraftError):
            raise  # the outermost PSF adds its name and place
        message = error.message if isinstance(error, SkygraftError) else str(error)
        raise PsfError(
            f"the image's PSF, a {found.name}, cannot be used: {message}",
            path=archive.path,
            hdu=found.hdu,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        ) from error


def _piff(place: _Place, found: ArchivedObject) -> PSF:
    if not place.allow_pickle:
        raise PsfError(PICKLED)
    return build_piff_psf(np.asarray(found.row()["bytes"], dtype=np.uint8).tobytes(), place.box)


def _shape(row: Row) -> tuple[int, int]:
    return row["dimensions_y"], row["dimensions_x"]


def _gaussian(_place: _Place, found: ArchivedObject) -> PSF:
    row = found.row()
    return GaussianPSF(row["sigma"], shape=_shape(row))


def _double_gaussian(_place: _Place, found: ArchivedObject) -> PSF:
    row = found.row()
    return DoubleGaussianPSF(row["sigma1"], row["sigma2"], row["b"], shape=_shape(row))


def _kernel_psf(place: _Place, found: ArchivedObject) -> PSF:
    row = found.row()
    average = (float(row["averagePosition_x"]), float(row["averagePosition_y"]))
    kernel = place.archive.get(row["kernel"])
    if kernel.name == "FixedKernel":
        return FixedKernelPSF(_centred(kernel.row()), normalize=True, average_position=average)
    if kernel.name != "LinearCombinationKernel":
        raise PsfError(f"its kernel is a {kernel.name}; FixedKernel and LinearCombinationKernel are supported")
    parts = kernel.row()
    basis = np.stack(
        [
            _centred(expect_object(place.archive, int(part), "FixedKernel").row())
            for part in np.atleast_1d(parts["components"])
        ]
    )
    box: Box | None = None
    if "spatialfunctions" in parts and np.any(parts["spatialfunctions"]):
        functions = [place.archive.get(int(part)) for part in np.atleast_1d(parts["spatialfunctions"])]
        boxes = {_function_box(function) for function in functions}
        if len(boxes) != 1:
            raise PsfError("its spatial functions are not all of one kind and range")
        box = boxes.pop()
        coefficients = [np.atleast_1d(function.row()["coefficients"]) for function in functions]
    else:
        coefficients = [np.array([amplitude]) for amplitude in np.atleast_1d(parts["amplitudes"])]
    return KernelBasisPSF(
        basis, coefficients, chebyshev_box=box, normalize=True, valid_box=place.box, average_position=average
    )


def _function_box(function: ArchivedObject) -> Box | None:
    name, row = function.name, function.row()
    if name in ("PolynomialFunction2D", "PolynomialFunction2F"):
        return None
    if name in ("Chebyshev1Function2D", "Chebyshev1Function2F"):
        return Box(row["min_x"], row["max_x"], row["min_y"], row["max_y"])
    raise PsfError(f"it varies as a {name}; PolynomialFunction2 and Chebyshev1Function2 are supported")


def _centred(row: Row) -> NDArray[np.float64]:
    """Return the image of a FixedKernel, padded with zeros so that its centre is the middle pixel."""
    ny, nx = _shape(row)
    image = np.asarray(row["image"], dtype=np.float64).reshape(ny, nx)
    pads = []
    for size, centre in ((ny, row["center_y"]), (nx, row["center_x"])):
        if not 0 <= centre < size:
            raise PsfError(f"the centre of a kernel of {nx} x {ny} pixels is pixel {centre}, which it does not have")
        excess = 2 * centre + 1 - size
        pads.append((max(-excess, 0), max(excess, 0)))
    return np.pad(image, pads)


def _psfex(place: _Place, found: ArchivedObject) -> PSF:
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
        valid_box=place.box,
        average_position=average,
    )


def _pair(values: Any) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _warped(place: _Place, found: ArchivedObject) -> PSF:
    row = found.row()
    transform = expect_object(place.archive, row["transformIndex"], "TransformPoint2ToPoint2").row()
    psf = place.build(row["psfIndex"])
    # The stored transform is from pixels of the model to pixels of the image.
    forward, backward = (AstMapping.from_record(transform["bytes"], inverted=i) for i in (False, True))
    start = psf.average_position or (0.0, 0.0)
    x, y = forward(np.array([start[0]]), np.array([start[1]]))
    at = (float(x[0]), float(y[0]))
    return WarpedPSF(
        psf, backward, _stored_warp(place, row["controlIndex"]), at=at, valid_box=place.box, average_position=at
    )


def _stored_warp(place: _Place, key: int) -> Warp:
    row = expect_object(place.archive, key, "WarpingControl").row()
    if row.get("interpLength"):
        raise PsfError(f"it interpolates positions over {row['interpLength']} pixels, which is not supported")
    kernel = expect_object(place.archive, row["warpingKernelIndex"], "LanczosWarpingKernel").row()
    return Warp(int(kernel["order"]), int(row["cacheSize"]))


_LANCZOS = re.compile(r"lanczos(\d+)")


def _coadd(place: _Place, found: ArchivedObject) -> PSF:
    if len(found.catalogs) > 1:
        head, rows = found.row(), found.catalogs[1]
        match = _LANCZOS.fullmatch(str(head["warpingkernelname"]).lower())
        if match is None:
            raise PsfError(
                f"its inputs are warped by {head['warpingkernelname']!r}; lanczos3 and its kin are supported"
            )
        warp = Warp(int(match[1]), int(head["cachesize"]))
        wcs, average = build_wcs(place.archive, head["coaddwcs"]), (float(head["avgpos_x"]), float(head["avgpos_y"]))
    else:
        # The oldest version had one table, whose last row is the coadd itself.
        *rows, head = found.catalogs[0]
        warp, wcs, average = _OLD_WARP, build_wcs(place.archive, head["wcs"]), None
    if place.box is None:
        raise PsfError("a coadd's PSF inside of another PSF is not supported")
    made: dict[int, Any] = {}

    def once(key: int, build: Callable[[int], Any]) -> Any:
        if key not in made:
            made[key] = build(key)
        return made[key]

    names = _input_names(place.archive)
    inputs = [_coadd_input(place, row, once, names) for row in rows]
    return CoaddPSF(inputs, wcs, warp, place.box, average_position=average)


def _input_names(archive: Archive) -> dict[int, str]:
    """Visit and detector of a coadd's inputs by id, as far as the coadd's table lists them."""
    found = archive.find("CoaddInputs")
    rows = found[0].catalogs[1] if found and len(found[0].catalogs) > 1 else []
    return {int(row["id"]): f"{row['visit']}-{row['ccd']}" for row in rows if {"id", "visit", "ccd"} <= row.keys()}


def _coadd_input(
    place: _Place, row: Row, once: Callable[[int, Callable[[int], Any]], Any], names: dict[int, str]
) -> CoaddInput:
    x_min, x_max, y_min, y_max = index_box(row)
    box = Box(x_min - 0.5, x_max + 0.5, y_min - 0.5, y_max + 0.5)
    wcs: BaseLowLevelWCS = once(row["wcs"], lambda key: build_wcs(place.archive, key))
    psf: PSF = once(row["psf"], lambda key: place.build(key, box))
    polygon = row.get("validPolygon", 0)
    return CoaddInput(
        psf,
        wcs,
        box,
        float(row["weight"]),
        build_polygon(place.archive, polygon) if polygon else None,
        name=names.get(int(row["id"]), str(row["id"])),
    )


_PSF_BUILDERS: dict[str, Callable[[_Place, ArchivedObject], PSF]] = {
    "GaussianPsf": _gaussian,
    "SingleGaussianPsf": _gaussian,
    "DoubleGaussianPsf": _double_gaussian,
    "KernelPsf": _kernel_psf,
    "PcaPsf": _kernel_psf,
    "PsfexPsf": _psfex,
    "WarpedPsf": _warped,
    "CoaddPsf": _coadd,
    "PiffPsf": _piff,
}
