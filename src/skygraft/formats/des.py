"""Images of the Dark Energy Survey's pipeline (DESDM): coadd tiles of DR1 and DR2 (and of DELVE), and single CCDs.

A tile is ``DES0001-4914_r4575p01_r.fits.fz``, with the extensions SCI, MSK and WGT (inverse variance), beside its PSFEx
model ``DES0001-4914_r4575p01_r_psfcat.psf``. A CCD is ``D00233569_r_c10_r2357p01_immasked.fits.fz`` (or ``_nwgint``),
with the same extensions.

Zeropoints: tiles are scaled to MAGZERO = 30 (AB) for one image unit. BUNIT says COUNTS/S and the card's comment "Mag
Zero-point in magnitudes/s", but there is no exposure time to apply: the unit is what has magnitude 30. That of a CCD is
in tables (of FGCM) and in no header.

What the calibrated flux is the flux of: headers do not state it, nor the documents of the releases, as far as they were
looked at, so the caller says it. Catalogues of the survey have MAG_PSF (the amplitude of a PSFEx model) and MAG_APER_8
(an aperture of 22.22 pixels or 5.84 arcsec diameter).

Mask bits: MSK of a tile is 1 where no input has a good pixel, and SCI is interpolated there (``coadd_assemble`` of the
package despyfits). Those of a CCD are BADPIX bits (``desimage.h`` of the same).
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

from skygraft.errors import CalibrationError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import DataId, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import StrPath
from skygraft.formats.fits import FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_headers import finite_number
from skygraft.formats.fits_layout import HduInfo, is_flat, list_hdus, split_name
from skygraft.formats.fits_zeropoint import ZEROPOINT_TOLERANCE
from skygraft.formats.stacks import equivalent_gain, of_a_stack
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.places import is_file

__all__ = ["DesFormat"]

TILE_ZEROPOINT = 30.0
"""AB magnitude of one unit of a coadd tile."""

_TILE = re.compile(r"^(?P<tile>DES\d{4}[+-]\d{4})(?:_r\d+p\d+)?_(?P<band>[a-zA-Z]+)(?:_nobkg)?$")
_TILE_NAME = re.compile(r"^DES\d{4}[+-]\d{4}$")
_CCD = re.compile(r"^D\d{8}_(?P<band>[a-zA-Z]+)_c(?P<ccd>\d{1,2})_r\d+p\d+_(?P<kind>immasked|nwgint|immask)$")
_TILE_PLANES = {"NO_GOOD_INPUT": 0}
_BADPIX = (
    *("BPM", "SATURATE", "INTERP", "BADAMP", "CRAY", "STAR", "TRAIL", "EDGEBLEED", "SSXTALK", "EDGE", "STREAK"),
    *("SUSPECT", "FIXED", "NEAREDGE", "TAPEBUMP"),
)
_CCD_PLANES = {name: bit for bit, name in enumerate(_BADPIX)}
_UNCLEAR = (
    "the Dark Energy Survey documents that {what}, but not what flux of a star that is. Give 'psf_model' if your "
    "magnitudes are MAG_PSF, {{diameter: 5.84 arcsec}} if they are MAG_APER_8"
)


class DesFormat(FitsFormat):
    """Coadd tiles (``DES0001-4914_r4575p01_r.fits.fz``) and CCDs (``*_immasked``) of the Dark Energy Survey.

    The unit of a tile has AB magnitude 30. What that is the flux of is not documented: ``aperture=`` says it.
    """

    name: ClassVar[str] = "des"
    looked_for: ClassVar[str] = (
        "an extension SCI, and the name of a tile (DES0001-4914) in TILENAME or the file's name, or that of a CCD "
        "(D00233569_r_c10_r2357p01_immasked)"
    )

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS and has the extensions and the name of the survey's images."""
        if not is_fits(path):
            return False
        hdus = list_hdus(path)
        if "SCI" not in {hdu.name for hdu in hdus if is_flat(hdu)}:
            return False
        stem = split_name(path)[0]
        return _CCD.match(stem) is not None or _TILE.match(stem) is not None or _tile_in(hdus) is not None

    def _open(self, path: StrPath, given: FitsOptions) -> OpenedImage:
        opened = super()._open(path, given)
        if _band_of(opened) == "det":
            raise FormatError(
                "this is the detection image of a tile, the combination of several bands, which has no calibration",
                path=path,
                fix="Give the images of the bands (<tile>_<band>.fits.fz)",
            )
        noise_given = any(getattr(given, role) is not None for role in ("variance", "weight", "rms"))
        for name, there, option in (
            ("WGT", opened.layout.noise is not None or noise_given, "weight=False"),
            ("MSK", opened.layout.mask is not None or given.mask is not None, "mask=False"),
        ):
            if not there:
                listed = "; ".join(map(str, opened.hdus))
                raise FormatError(
                    f"images of the survey have the extension {name}, and this file has {listed}",
                    path=path,
                    fix=f"Fetch the file again, or read it without ({option})",
                )
        psf = opened.layout.psf
        if psf is None and (given.psf is None or given.psf is True):
            psf = _find_psf(opened.path)
        return dataclasses.replace(opened, layout=dataclasses.replace(opened.layout, psf=psf))

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        found = super()._data_id(opened, given)
        band = given.band or _band_of(opened) or found.band
        found = dataclasses.replace(found, band=band, instrument=found.instrument or "DECam")
        if not _is_tile(opened):
            return found
        number = opened.headers.find("TILEID")
        tract = None if number is None else finite_number(number)
        return of_a_stack(found, given, tract=None if tract is None else int(tract))

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        found = super()._visit_info(opened, given)
        # A tile is of exposures of years; MJD-OBS is that of one of them.
        return dataclasses.replace(found, mjd=given.mjd) if _is_tile(opened) else found

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        what = "tiles have the zeropoint 30" if _is_tile(opened) else "zeropoints of CCDs are those of FGCM"
        unclear = ReferenceCandidate("unclear", origin=_UNCLEAR.format(what=what), level="default")
        return (*super()._candidates(opened), unclear)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        if given.zeropoint is not None or given.zeropoint_key is not None:
            return super()._photo_calib(opened, given, exposure_time, scale)
        unit = given.unit or "adu"
        if not _is_tile(opened):
            error: CalibrationError = UncalibratedImageError(
                "zeropoints of the survey's CCDs are in its tables, not in their headers",
                path=opened.path,
                fix="Give zeropoint= (the AB magnitude of one image unit), from the table of FGCM zeropoints",
            )
            return super()._photo_calib(opened, given, exposure_time, scale)[0], None, error
        for card in opened.headers.every("MAGZERO"):
            value = finite_number(card)
            if value is None or abs(value - TILE_ZEROPOINT) > ZEROPOINT_TOLERANCE:
                error = CalibrationError(
                    f"MAGZERO = {card.value}, and that of the survey's tiles is {TILE_ZEROPOINT:g}",
                    path=opened.path,
                    hdu=card.hdu,
                    key="MAGZERO",
                    fix="Say what holds with zeropoint= (the AB magnitude of one image unit)",
                )
                return unit, None, error
        return unit, PhotoCalib.from_zeropoint(TILE_ZEROPOINT, unit), None

    def _gain(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, calib: PhotoCalib | None
    ) -> RecordedGain:
        if not _is_tile(opened):
            return super()._gain(opened, given, exposure_time, calib)
        return equivalent_gain(opened.headers)

    def _mask_names(self, opened: OpenedImage, given: FitsOptions) -> dict[str, int]:
        named = super()._mask_names(opened, given)
        if opened.layout.mask is None:
            return named
        for name, bit in (_TILE_PLANES if _is_tile(opened) else _CCD_PLANES).items():
            if name not in named and bit not in named.values():
                named[name] = bit
        return named

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        looked = ", ".join(_psf_names(opened.path))
        return PsfError(
            f"there is no PSFEx model of the image beside it or in ../psf or ../../psf (looked for {looked})",
            path=opened.path,
            fix="Fetch it from the survey's archive, or give psf= (a PSF, the path of a model, or {kind: moffat, fwhm: "
            "0.9 arcsec})",
        )


def _tile_in(hdus: tuple[HduInfo, ...]) -> str | None:
    """Name of the tile in a file's headers, or None."""
    names = (str(hdu.header.get("TILENAME", "")).strip() for hdu in hdus)
    return next((name for name in names if _TILE_NAME.match(name)), None)


def _is_tile(opened: OpenedImage) -> bool:
    return _CCD.match(split_name(opened.path)[0]) is None


def _band_of(opened: OpenedImage) -> str | None:
    """The band by the header, or by the file's name."""
    card = opened.headers.find("BAND")
    if card is not None:
        return str(card.value).strip()
    stem = split_name(opened.path)[0]
    match = _TILE.match(stem) or _CCD.match(stem)
    return None if match is None else match["band"]


def _psf_names(path: Path) -> tuple[str, ...]:
    """Names of the image's PSFEx model."""
    stem = split_name(path)[0]
    ccd = _CCD.match(stem)
    if ccd is not None:
        return (f"{stem.removesuffix('_' + ccd['kind'])}_psfexcat.psf",)
    return (f"{stem.removesuffix('_nobkg')}_psfcat.psf",)


def _find_psf(path: Path) -> Path | None:
    """Return the PSFEx model beside an image, or in the folder ``psf`` of its run, as in the survey's archive.

    There a tile is in ``p01/coadd``, a CCD in ``p01/red/immask``, and the models of both in ``p01/psf``.
    """
    above = path.absolute().parents
    folders = (path.parent, *(folder / "psf" for folder in above[1:3]))
    return next((f for folder in folders for name in _psf_names(path) if is_file(f := folder / name)), None)
