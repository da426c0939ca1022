"""Stacks of MegaPipe (CADC): tiles of CFIS and UNIONS, and its other images of MegaCam.

A tile is ``CFIS.<xxx>.<yyy>.<band>.fits``, with ``.weight.fits.fz`` (inverse variance) beside it; ``CFIS_LSB.*`` keeps
faint extended light. UNIONS has Pan-STARRS images on the same pixels, ``PSS.DR4.<xxx>.<yyy>.<band>.fits`` with
``.weight.fits``. A PSFEx model is read from ``<stem>.psf``. UNIONS' images of HSC (``WISHES.*``, ``calexp-CFIS_*``)
are files of the LSST pipelines, which `skygraft.formats.lsst_afw` reads.

Zeropoint: "scaled to have a photometric zero-point of 30.000 in AB magnitudes"
(http://cfht.hia.nrc.ca/megapipe/docs/data.html; of the Pan-STARRS tiles: the package unionsdata). A zeropoint in the
header must agree.

What the calibrated flux is the flux of: calibration stars are those of SDSS and Pan-STARRS (Gwyn 2008, PASP 120, 212;
the pages of the CFIS releases at CADC). In what aperture MegaPipe measures them was not found there, so the caller says
it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

from skygraft.errors import CalibrationError
from skygraft.exposure import DataId, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import StrPath
from skygraft.formats.fits import FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_layout import is_flat, list_hdus, split_name
from skygraft.formats.fits_zeropoint import ZEROPOINT_KEYS, ZEROPOINT_TOLERANCE
from skygraft.formats.stacks import equivalent_gain, of_a_stack
from skygraft.photometry import PhotoCalib, ReferenceCandidate

__all__ = ["MegaPipeFormat"]

ZEROPOINT = 30.0
"""AB magnitude of one unit of a stack."""

_TILE = re.compile(
    r"^(?P<survey>CFIS|CFIS_LSB|PSS\.[A-Za-z0-9]+|MegaPipe)\.(?P<x>\d{3})\.(?P<y>\d{3})\.(?P<band>[A-Za-z]\w*)"
    r"(?:\.MP\d{4})?$"
)
_GROUP = re.compile(
    r"^(?:G\d{3}\.\d{3}\.\d{3}[+-]\d+\.\d+|[DW][1-4](?:[+-]\d[+-]\d|\.[A-Z0-9]+))\.(?P<band>[A-Z][A-Z0-9]*)$"
)
_UNCLEAR = (
    "MegaPipe's documents give the zeropoint 30, but not in what aperture calibration stars were measured. Give "
    "'total' if you take magnitudes for total ones, 'psf_model' for those of a PSF fit, or your catalogue's aperture"
)


class MegaPipeFormat(FitsFormat):
    """Stacks of MegaPipe: ``CFIS.<xxx>.<yyy>.<band>.fits`` of CFIS and UNIONS, ``MegaPipe.*``, ``G002.*``.

    One image unit has AB magnitude 30. What that is the flux of is not documented: ``aperture=`` says it.
    """

    name: ClassVar[str] = "megapipe"
    looked_for: ClassVar[str] = (
        "a FITS image named like a stack of MegaPipe (CFIS.191.307.r, CFIS_LSB.*, PSS.DR4.*, MegaPipe.*, G002.*, "
        "D1.*), which is not of the LSST pipelines"
    )

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS, has an image, and is named like a stack of MegaPipe."""
        if _band(path) is None or not is_fits(path):
            return False
        hdus = list_hdus(path)
        by_lsst = any(str(hdu.header.get("EXTTYPE", "")).strip() == "ARCHIVE_INDEX" for hdu in hdus)
        return not by_lsst and any(map(is_flat, hdus))

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        found = super()._data_id(opened, given)
        by_name = "GPC1" if opened.name.startswith("PSS.") else "MegaPrime"
        return of_a_stack(found, given, band=_band(opened.path), instrument=found.instrument or by_name)

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        # A stack is of exposures of years.
        return dataclasses.replace(super()._visit_info(opened, given), mjd=given.mjd)

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        unclear = ReferenceCandidate("unclear", origin=_UNCLEAR, level="default")
        return (*super()._candidates(opened), unclear)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        asked = given.zeropoint is not None or given.zeropoint_key is not None
        if asked or opened.headers.find(*ZEROPOINT_KEYS) is not None:
            unit, calib, error = super()._photo_calib(opened, given, exposure_time, scale)
            if calib is None or asked or abs(float(calib.zeropoint()) - ZEROPOINT) <= ZEROPOINT_TOLERANCE:
                return unit, calib, error
            card = opened.headers.find(*ZEROPOINT_KEYS)
            key = "" if card is None else card.key
            error = CalibrationError(
                f"{key} gives {float(calib.zeropoint()):.4f} mag for one {unit}; stacks of MegaPipe have {ZEROPOINT:g}",
                path=opened.path,
                hdu=opened.image.index,
                key=key,
                fix="Say what holds with zeropoint= (the AB magnitude of one image unit) or zeropoint_key= (a keyword)",
            )
            return unit, None, error
        unit = given.unit or "adu"
        return unit, PhotoCalib.from_zeropoint(ZEROPOINT, unit), None

    def _gain(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, calib: PhotoCalib | None
    ) -> RecordedGain:
        return equivalent_gain(opened.headers)


def _band(path: StrPath) -> str | None:
    """The band in the name of a stack; None if the name is not that of one."""
    stem = split_name(path)[0]
    match = _TILE.match(stem) or _GROUP.match(stem)
    return None if match is None else match["band"].lower() if len(match["band"]) == 1 else match["band"]
