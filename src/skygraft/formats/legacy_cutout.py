"""Cut-outs of Legacy Surveys coadds, as the sky viewer makes them (``fits-cutout``, ``subimage``).

The viewer (repository legacysurvey/imagine) writes SURVEY, VERSION, BANDS (or BAND) and IMAGETYP (IMAGE, INVVAR,
MASKBITS: one HDU each); cut-outs from before it had weights and masks have no IMAGETYP. Pixels are nanomaggies at the
coadds' own scale, 0.262 arcsec; at another scale they are averages. Of several bands it writes a cube, with a plane for
each in the order of BAND0, BAND1, ..., of which ``band`` chooses one; the others are carried over unchanged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from skygraft.errors import CalibrationError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import DataId
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import StrPath
from skygraft.formats.brick_files import MASKBITS, VIEWER_SURVEYS, find_brick_file
from skygraft.formats.fits import FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_layout import HduInfo, is_flat, list_hdus, planes_of_cubes
from skygraft.formats.fits_units import image_unit
from skygraft.formats.legacy_coadd import OpenedCoadd, psf_of_file, release_of, survey_reference, unit_of
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.psf import PSF

__all__ = ["LegacyCutoutFormat"]

_SCALE = 0.262
_SCALE_TOLERANCE = 0.02
_IMAGE, _WEIGHT, _MASK = "image", "invvar", "maskbits"


class LegacyCutoutFormat(FitsFormat):
    """Cut-outs of Legacy Surveys coadds by the sky viewer, in nanomaggies; of several bands, that of ``band``.

    Calibrated as the coadds are: see `skygraft.formats.legacy_brick`. Give the viewer's ``coadd-psf`` as ``psf=``.
    """

    name: ClassVar[str] = "legacy_cutout"
    looked_for: ClassVar[str] = "SURVEY = 'LegacySurvey' (or DECaLS, MzLS) and BANDS (or BAND) in the header"

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS and has the cards of the viewer; cubes, which are refused, have them, too."""
        if not is_fits(path) or find_brick_file(Path(path)) is not None:
            return False
        return any(hdu.shape is not None and _kind(hdu) for hdu in list_hdus(path))

    def _hdus(self, path: StrPath, given: FitsOptions) -> tuple[HduInfo, ...]:
        hdus = list_hdus(path)
        cube = next((hdu for hdu in hdus if hdu.shape is not None and _kind(hdu) == _IMAGE and not is_flat(hdu)), None)
        if cube is None:
            return hdus
        bands = _bands(cube)
        if len(cube.shape or ()) != 3 or len(bands) != (cube.shape or (0,))[0]:
            raise FormatError(
                f"this is a cube of shape {cube.shape}, and its bands (BAND0, BAND1, ...) are {', '.join(bands)}",
                path=path,
                hdu=cube.index,
                fix="Fetch it again from the Legacy Surveys' viewer",
            )
        if given.band not in bands:
            raise FormatError(
                f"this is a cube of several bands ({', '.join(bands)}) of the Legacy Surveys' viewer"
                + ("" if given.band is None else f", none of which is {given.band}"),
                path=path,
                hdu=cube.index,
                key="band",
                fix=f"Choose one with band={bands[0]!r} (in a campaign survey: {{options: {{band: {bands[0]}}}}}); the "
                "others are carried over unchanged",
            )
        found = planes_of_cubes(hdus, bands.index(given.band))
        return tuple(hdu if hdu.slab is None else _of_band(hdu, given.band) for hdu in found)

    def _open(self, path: StrPath, given: FitsOptions) -> OpenedCoadd:
        hdus = self._hdus(path, given)
        if given.hdu is None:
            given = dataclasses.replace(given, hdu=_choose(path, hdus))
        image = next((hdu for hdu in hdus if given.hdu in (hdu.index, hdu.name)), None)
        changes: dict[str, Any] = {}
        if image is not None and all(getattr(given, role) is None for role in ("variance", "weight", "rms")):
            changes["weight"] = _partner(image, hdus, _WEIGHT)
        if image is not None and given.mask is None:
            changes["mask"] = _partner(image, hdus, _MASK)
        opened = super()._open(path, dataclasses.replace(given, **changes))
        return OpenedCoadd(opened.path, opened.layout, opened.hdus, opened.headers)

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        found = super()._data_id(opened, given)
        return found if given.band is not None else dataclasses.replace(found, band=_band(opened.image) or found.band)

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        default = survey_reference(release_of(opened.headers), _band(opened.image))
        found = super()._candidates(opened)
        return tuple(dict.fromkeys(found if default is None else [*found, default]))

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        unit = given.unit or unit_of(opened.headers)
        averaged = abs(scale / _SCALE - 1) > _SCALE_TOLERANCE
        if averaged:
            unit = given.unit or "nanomaggy, averaged"
        if averaged and given.zeropoint is None:
            error = UncalibratedImageError(
                f"the cut-out has pixels of {scale:.4g} arcsec, and those of the coadds have {_SCALE}: averages of "
                "nanomaggies per pixel, whose flux depends on how they were made",
                path=opened.path,
                hdu=opened.image.index,
                fix=f"Fetch it with pixscale={_SCALE}, or give zeropoint= (the AB magnitude of one image unit: "
                f"{22.5 - 5 * math.log10(scale / _SCALE):.3f} for averages)",
            )
            return image_unit(opened.headers, unit).name, None, error
        return super()._photo_calib(opened, dataclasses.replace(given, unit=unit), exposure_time, scale)

    def _mask_names(self, opened: OpenedImage, given: FitsOptions) -> dict[str, int]:
        named = super()._mask_names(opened, given)
        if opened.layout.mask is None or given.mask is not None:
            return named
        for bit, name in enumerate(MASKBITS):
            if name not in named and bit not in named.values():
                named[name] = bit
        return named

    def _psf(self, opened: OpenedImage, given: FitsOptions, scale: float) -> PSF | None:
        if opened.layout.psf is not None:
            return psf_of_file(opened.layout.psf, scale, _band(opened.image))
        return super()._psf(opened, given, scale)

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        return PsfError(
            "a cut-out has no PSF",
            path=opened.path,
            fix="Give psf= (the viewer's coadd-psf at the same place, or {kind: moffat, fwhm: 1.1 arcsec})",
        )


def _text(hdu: HduInfo, *keys: str) -> str:
    return next((str(hdu.header[key]).strip() for key in keys if key in hdu.header), "")


def _kind(hdu: HduInfo) -> str:
    """IMAGETYP of an HDU of the viewer, in lower case, "image" without it; "" for another HDU."""
    if _text(hdu, "SURVEY").lower() not in VIEWER_SURVEYS or not _text(hdu, "BANDS", "BAND"):
        return ""
    return _text(hdu, "IMAGETYP", "IMTYPE").lower() or _IMAGE


def _band(hdu: HduInfo) -> str:
    return _text(hdu, "BAND", "BAND0", "BANDS")


def _of_band(hdu: HduInfo, band: str) -> HduInfo:
    header = hdu.header.copy()
    header["BAND"] = band
    return dataclasses.replace(hdu, header=header)


def _bands(hdu: HduInfo) -> list[str]:
    """The bands of a cube, by its cards BAND0, BAND1, ..., or else the letters of BANDS."""
    numbered = [str(hdu.header[key]).strip() for i in range(99) if (key := f"BAND{i}") in hdu.header]
    return numbered or list(_text(hdu, "BANDS"))


def _choose(path: StrPath, hdus: Sequence[HduInfo]) -> int:
    """Return the number of the only image."""
    images = [hdu for hdu in hdus if hdu.shape is not None and _kind(hdu) == _IMAGE]
    if len(images) != 1:
        listed = "; ".join(" ".join((str(h.index), _text(h, "BRICK"), _band(h))) for h in images)
        others = ", ".join(kind for kind in map(_kind, hdus) if kind)
        raise FormatError(
            f"the file has {len(images)} images of the Legacy Surveys: {listed}"
            if images
            else f"the file has no image, only {others or 'other HDUs'}",
            path=path,
            fix="Choose one with hdu=" if images else "Give the image that it belongs to",
        )
    return images[0].index


def _partner(image: HduInfo, hdus: Sequence[HduInfo], kind: str) -> int | None:
    """Number of the HDU of another kind for the same pixels; None if there is none."""
    for hdu in hdus:
        same = hdu.shape == image.shape and _text(hdu, "BRICK") == _text(image, "BRICK")
        if _kind(hdu) == kind and same and (kind == _MASK or _band(hdu) == _band(image)):
            return hdu.index
    return None
