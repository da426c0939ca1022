"""What coadds of the Legacy Surveys have in common, as files of a brick and as cut-outs of the viewer.

What is calibrated: from DR6 on "PSF photometry uses the same PSF models for zeropoint-fitting as is later used in
cataloging" (https://www.legacysurvey.org/dr10/description/#photometry), so that a star's flux is the amplitude of a
unit-sum PSF. Until DR5 zeropoints were those of "7 arcsec diameter aperture photometry"
(https://www.legacysurvey.org/dr5/description/#photometry).

Positions are those of Gaia, in ICRS (https://www.legacysurvey.org/dr10/description/#astrometry). Headers say
``EQUINOX = 2000`` and no RADESYS, which by the FITS standard would be FK5, 0.02 arcsec away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skygraft.formats.fits import OpenedImage
from skygraft.formats.fits_headers import Headers, finite_number
from skygraft.formats.fits_layout import is_flat, list_hdus
from skygraft.formats.fits_zeropoint import ZEROPOINT_KEYS, ZEROPOINT_TOLERANCE
from skygraft.formats.given import make_psf
from skygraft.photometry import ReferenceCandidate, default_candidate
from skygraft.psf import PSF, read_psf_image
from skygraft.wcs import FitsWcs, read_fits_wcs

__all__ = ["OpenedCoadd", "other_survey", "psf_of_file", "release_of", "survey_reference", "unit_of"]

_ZEROPOINT = 22.5
_FIRST_PSF_RELEASE = 6
_APERTURE_ORIGIN = (
    "Legacy Surveys until DR5: zeropoints from photometry in an aperture of 7 arcsec diameter "
    "(legacysurvey.org/dr5/description)"
)
_OTHER_BANDS = re.compile(r"^(?:W[1-4]|[NF]UV)$", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class OpenedCoadd(OpenedImage):
    """A coadd of the Legacy Surveys with its headers."""

    def wcs(self) -> FitsWcs:
        """Return the image's WCS, in ICRS unless the header names another reference system."""
        header = self.image.header
        if "RADESYS" not in header and "RADECSYS" not in header:
            header = header.copy()
            header["RADESYS"] = "ICRS"
        return read_fits_wcs(header, path=self.path, hdu=self.image.index)


def other_survey(band: str) -> bool:
    """Return whether a band is one of WISE or GALEX, whose images on a brick's pixels are not the Legacy Surveys'."""
    return _OTHER_BANDS.match(band) is not None


def survey_reference(release: int | None, band: str) -> ReferenceCandidate | None:
    """Return what the calibrated flux of a coadd is the flux of, by the survey's documents.

    Parameters
    ----------
    release : int or None
        Number of the data release; None, not known, is taken for a recent one.
    band : str
        The band.

    Returns
    -------
    ReferenceCandidate or None
        Of level "default"; of kind "unclear" for a band of WISE or GALEX.
    """
    if other_survey(band):
        return ReferenceCandidate(
            "unclear", origin="coadds of WISE and GALEX are not calibrated by the Legacy Surveys", level="default"
        )
    if release is not None and release < _FIRST_PSF_RELEASE:
        return ReferenceCandidate("aperture", radius_arcsec=3.5, origin=_APERTURE_ORIGIN, level="default")
    return default_candidate("Legacy Surveys")


def unit_of(headers: Headers) -> str | None:
    """Return the unit of a coadd whose header states none; None if it does, or has another zeropoint.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    """
    if headers.find("BUNIT") is not None:
        return None
    zeropoints = [finite_number(card) for card in headers.every(*ZEROPOINT_KEYS)]
    same = all(value is not None and abs(value - _ZEROPOINT) <= ZEROPOINT_TOLERANCE for value in zeropoints)
    return "nanomaggy" if same else None


def psf_of_file(path: Path, scale: float, band: str) -> PSF:
    """Return the PSF that a file gives: images on the coadd's pixels, one for each band, or a PSFEx model.

    Parameters
    ----------
    path : Path
        The viewer's ``coadd-psf`` (an HDU for each band, with BAND), a file of one image, or a PSFEx model.
    scale : float
        Arcsec per pixel.
    band : str
        The coadd's band.

    Returns
    -------
    PSF
        Images are scaled to sum one.

    Raises
    ------
    PsfError, CorruptFileError
        If the file has no PSF of that band.
    """
    images = [hdu for hdu in list_hdus(path) if is_flat(hdu)]
    if not images:
        return make_psf(path, scale)
    several = band if len(images) > 1 else None
    return read_psf_image(path, scale, band=several, oversampling=1, pixel_integrated=True)


def release_of(headers: Headers) -> int | None:
    """Return the number of the data release, or None if the headers do not give it.

    Parameters
    ----------
    headers : Headers
        Headers of the image: DRVERSIO (9010 for DR9), LSDR or DECALSDR ("DR9"), VERSION of a cut-out.

    Examples
    --------
    >>> from astropy.io import fits
    >>> release_of(Headers([(0, fits.Header({"DRVERSIO": 10000, "LSDR": "DR8"}))]))
    10
    """
    for card in headers.find_all("DRVERSIO", "LSDR", "DECALSDR", "VERSION"):
        number: Any = finite_number(card)
        if number is None:
            digits = _DIGITS.search(str(card.value))
            number = None if digits is None else int(digits[0])
        if number is not None and number > 0:
            return int(number // 1000 if number >= 1000 else number)
    return None
