"""Images of the James Webb Space Telescope: mosaics (``_i2d``) and calibrated exposures (``_cal``, ``_crf``).

Pixels are surface brightness, MJy/sr; the area of a pixel, PIXAR_SR, makes them a flux. Exposures are not corrected
for the distortion of their pixels' areas: AREA holds it, and their sky positions are those of the gwcs in the ASDF
extension (the FITS header is a polynomial approximation to it). Products: "Data Products" in the documentation of the
JWST calibration pipeline, https://jwst-pipeline.readthedocs.io.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from astropy.io import fits

from skygraft.errors import CalibrationError, ConfigError, CorruptFileError, FormatError, WcsError
from skygraft.exposure import DataId, VisitInfo
from skygraft.fitsfile.open import is_fits, open_fits
from skygraft.formats.base import CAUTION, StrPath
from skygraft.formats.fits import FitsOptions, OpenedImage
from skygraft.formats.fits_headers import Headers, finite_number
from skygraft.formats.fits_layout import FitsLayout, HduInfo, Plane, inherited_headers, is_flat, list_hdus
from skygraft.formats.fits_planes import read_pixels
from skygraft.formats.fits_units import image_unit
from skygraft.formats.space import SpaceFitsFormat, companion_hdu, first_number, middle_of, required
from skygraft.formats.space_flags import JWST_BITS, stem_of
from skygraft.photometry import GridField, PhotoCalib, ReferenceCandidate
from skygraft.wcs import GwcsWcs, read_gwcs, require_asdf

__all__ = ["JwstFormat", "JwstOptions"]

JWST_REFERENCE = ReferenceCandidate(
    "total",
    origin="JWST photometry: PHOTMJSR is for all of a source's light, apertures are corrected to it by the apcorr "
    "reference files (Gordon et al. 2022, AJ 163, 267; JWST pipeline documentation, photom and source_catalog)",
    level="default",
)
_FILTER = re.compile(r"^F\d{3,4}[A-Z]\d?$")
_PRODUCTS = {
    "Level1bModel": "uncalibrated ramps (_uncal)",
    "RampModel": "ramps (_ramp)",
    "CubeModel": "a cube of single integrations (_rateints, _calints)",
    "IFUImageModel": "an exposure of an integral-field spectrograph",
    "IFUCubeModel": "a spectral cube (_s3d)",
    "MultiSlitModel": "spectra of several slits",
    "SlitModel": "a spectrum (_s2d)",
    "MultiSpecModel": "extracted spectra (_x1d)",
    "SegmentationMapModel": "a segmentation map (_segm)",
}
_SPECTRA = re.compile(r"WFSS|GRISM|SOSS|LRS|MRS|IFU|SPEC|SLIT|BRIGHTOBJ|DARK|FLAT|LED|LAMP")
_SAME = 5.0
"""Pixels by which two descriptions of a WCS may differ at the middle of an image: headers without SIP are linear."""
_GOOD_SIP = 0.05
"""Pixels: SIPMXERR above which the approximation of the header is worth a warning."""


_MATRIX = (
    "CD1_1", "CD1_2", "CD2_1", "CD2_2", "PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2",
)  # fmt: skip
_SQUARE = 1e-5


@dataclass(frozen=True)
class JwstOptions(FitsOptions):
    """Reading options of JWST images: those of `FitsOptions`, and the choice of the WCS.

    Parameters
    ----------
    wcs : {"auto", "fits", "gwcs"}
        Which of the two WCS of an exposure to use: the gwcs of its ASDF extension, or the SIP approximation of its
        header. By default ("auto") the gwcs of exposures, and the header of mosaics, which have no distortion.
    """

    wcs: Literal["auto", "fits", "gwcs"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wcs not in ("auto", "fits", "gwcs"):
            raise ConfigError(f"wcs is {self.wcs!r}; allowed: auto, fits, gwcs", key="wcs")


@dataclass(frozen=True)
class _JwstOpened(OpenedImage):
    choice: str = "auto"

    def wcs(self) -> Any:
        if self.choice == "fits" or (self.choice == "auto" and is_resampled(self.path, self.hdus, self.headers)):
            return super().wcs()
        status = self.path.stat()
        found = _gwcs(str(self.path), status.st_size, status.st_mtime_ns)
        if found is not None:
            self._check_same(found)
            return found
        alone = sum(map(is_flat, self.hdus)) == 1
        if self.choice == "auto" and alone and "A_ORDER" in self.image.header:
            # A plane cut from an exposure has no other.
            return super().wcs()
        raise WcsError(
            "the file has no ASDF extension with the WCS of this exposure",
            path=self.path,
            hdu="ASDF",
            fix="Download the file again, or read it with wcs='fits': the WCS of the header, which is an approximation",
        )

    def _check_same(self, found: GwcsWcs) -> None:
        """Raise if the gwcs is that of another image: cutting one out moves the pixels of the header only."""
        ny, nx = self.image.shape or (0, 0)
        x, y = (nx - 1) / 2, (ny - 1) / 2
        try:
            there = super().wcs().pixel_to_world_values(x, y)
        except WcsError:
            return
        off = float(np.hypot(*(np.array(found.world_to_pixel_values(*there)) - (x, y))))
        if not off <= _SAME:
            raise WcsError(
                f"the WCS of the ASDF extension is {off:.3g} pixels off that of the header at the middle of the image: "
                "it may have been cut from a larger one",
                path=self.path,
                hdu="ASDF",
                fix="Read it with wcs='fits', the WCS of the header",
            )


class JwstFormat(SpaceFitsFormat):
    """Images of JWST, as its pipeline writes them: mosaics (``_i2d``) and calibrated exposures (``_cal``, ``_crf``).

    The variance is that of ERR; photon noise of sources follows VAR_POISSON, since the detector's gain is not in the
    files. See `JwstOptions` for the options.
    """

    name: ClassVar[str] = "jwst"
    looked_for: ClassVar[str] = "a FITS file of TELESCOP = 'JWST' with an HDU SCI, or with one image and PIXAR_SR"
    Options: ClassVar[type[JwstOptions]] = JwstOptions
    mission = "JWST"
    bits = JWST_BITS
    reference = JWST_REFERENCE

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is of JWST and has an HDU SCI, or is a single plane of surface brightness."""
        if Path(path).is_file() and Path(path).stat().st_size and not is_fits(path):
            return False
        hdus = list_hdus(path)
        telescope = str(hdus[0].header.get("TELESCOP", "")).strip().upper()
        if telescope != "JWST":
            return False
        images = [hdu for hdu in hdus if hdu.shape is not None]
        alone = len(images) == 1 and "PIXAR_SR" in images[0].header and "GRIZLIV" not in images[0].header
        return alone or any(hdu.name == "SCI" for hdu in images)

    def _check(self, path: Path, hdus: Sequence[HduInfo], given: FitsOptions) -> None:
        primary = hdus[0].header
        model, kind = (str(primary.get(key, "")).strip() for key in ("DATAMODL", "EXP_TYPE"))
        science = [hdu for hdu in hdus if hdu.name == "SCI" and hdu.shape is not None]
        what = _PRODUCTS.get(model)
        if what is None and _SPECTRA.search(kind):
            what = f"an exposure of type {kind}"
        if what is None and science and science[0].shape is not None and len(science[0].shape) > 2:
            what = f"a cube of {len(science[0].shape)} axes"
        if what is None and science:
            unit = image_unit(inherited_headers(hdus, science[0].index), given.unit)
            if unit.stated and unit.unit.kind in ("counts", "electrons"):
                what = f"an image in {unit.name} (_rate)"
        if what is not None:
            raise FormatError(
                f"this is {what}, and no calibrated image",
                path=path,
                key="DATAMODL" if model in _PRODUCTS else None,
                fix="Give a mosaic (_i2d.fits) or a calibrated exposure (_cal.fits) of the imaging pipeline",
            )

    def _noise(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo], given: FitsOptions) -> Plane | None:
        errors = required(path, image, hdus, "ERR", "rms")
        return None if errors is None else errors.plane("rms", path)

    def _flags(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo]) -> HduInfo | None:
        if is_resampled(path, hdus, inherited_headers(hdus, image.index)):
            return companion_hdu("DQ", image, hdus)
        return required(path, image, hdus, "DQ", "mask")

    def _opened(self, path: Path, layout: FitsLayout, hdus: tuple[HduInfo, ...], given: FitsOptions) -> OpenedImage:
        headers = inherited_headers(hdus, layout.image.hdu)
        return _JwstOpened(path, layout, hdus, headers, given.wcs if isinstance(given, JwstOptions) else "auto")

    def _is_mosaic(self, opened: OpenedImage) -> bool:
        return is_resampled(opened.path, opened.hdus, opened.headers)

    def _further(self, opened: OpenedImage, given: FitsOptions) -> dict[str, Any]:
        found = super()._further(opened, given)
        if not self._is_mosaic(opened) and not isinstance(opened.wcs(), GwcsWcs):
            card = opened.headers.find("SIPMXERR")
            error = None if card is None else finite_number(card)
            asked = isinstance(given, JwstOptions) and given.wcs == "fits"
            if error is None or error > _GOOD_SIP or not asked:
                off = "by an unknown amount" if error is None else f"by up to {error:.2g} pixels (SIPMXERR)"
                found[CAUTION] = f"positions are those of the SIP approximation in the header, which is off {off}"
        if not self._is_mosaic(opened) and companion_hdu("AREA", opened.image, opened.hdus) is None:
            without = (
                "the file has no HDU AREA: fluxes are not corrected for the distortion of the pixels' areas, a few per "
                "cent towards the edges"
            )
            found[CAUTION] = f"{found[CAUTION]}; {without}" if CAUTION in found else without
        return found

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        headers = opened.headers
        mosaic = self._is_mosaic(opened)
        texts = {key: _text(headers, key) for key in ("INSTRUME", "DETECTOR", "FILTER", "PUPIL")}
        found: dict[str, Any] = {
            "instrument": texts["INSTRUME"],
            "visit": None if mosaic else _visit(headers),
            "detector": None if mosaic else texts["DETECTOR"],
            "band": jwst_band(texts["FILTER"], texts["PUPIL"]),
            "name": stem_of(opened.path),
        }
        return DataId(**(found | {key: value for key, value in given.data_id.items() if value is not None}))

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        seconds = given.exposure_time or first_number(opened.headers, "XPOSURE", "EFFEXPTM", "TMEASURE")
        return middle_of(opened.headers, seconds, given.mjd, "MJD-AVG", "EXPMID")

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        unit, calib, missing = super()._photo_calib(opened, given, exposure_time, scale)
        area = companion_hdu("AREA", opened.image, opened.hdus)
        if calib is None or area is None or self._is_mosaic(opened) or given.zeropoint is not None:
            return unit, calib, missing
        # Relative to PIXAR_SR: surface brightness times the area of this very pixel is flux.
        relative = np.array(read_pixels(area.plane("image", opened.path))[0], dtype=np.float32)
        good = np.isfinite(relative) & (relative > 0)
        if not good.any():
            return unit, calib, missing
        relative[~good] = np.median(relative[good])
        return unit, dataclasses.replace(calib, field=GridField(relative)), missing


def is_resampled(path: Path, hdus: Sequence[HduInfo], headers: Headers) -> bool:
    """Return whether a JWST image was resampled to pixels without distortion."""
    names = {hdu.name for hdu in hdus}
    if len(hdus) == 1 and "_cal" not in path.name and _has_square_pixels(headers):
        # A plane of a mosaic, in a file of its own.
        return True
    step = headers.find("S_RESAMP")
    done = step is not None and str(step.value).strip().upper() == "COMPLETE"
    named = any("_i2d" in name for name in (path.name, _text(headers, "FILENAME") or ""))
    return bool(names & {"CON", "WHT"}) or done or named or headers.find("PXSCLRT", "RESWHT") is not None


def _has_square_pixels(headers: Headers) -> bool:
    """Whether the matrix of a header is that of square pixels, without SIP: those of exposures are off by 1e-3."""
    found = {key: card for key in _MATRIX if (card := headers.find(key)) is not None}
    numbers = {key: finite_number(card) for key, card in found.items()}
    if headers.find("A_ORDER") is not None or None in numbers.values():
        return False
    a, b, c, d = (float(numbers.get(key) or 0.0) for key in _MATRIX[:4])
    if not any((a, b, c, d)):
        steps = [float(numbers.get(key) or 0.0) for key in _MATRIX[8:]]
        turn = [float(numbers.get(key, unit) or 0.0) for key, unit in zip(_MATRIX[4:8], (1, 0, 0, 1), strict=True)]
        a, b, c, d = turn[0] * steps[0], turn[1] * steps[0], turn[2] * steps[1], turn[3] * steps[1]
    size = a * a + b * b
    return size > 0 and abs(c * c + d * d - size) < _SQUARE * size and abs(a * c + b * d) < _SQUARE * size


def jwst_band(filter_name: str | None, pupil: str | None) -> str | None:
    """Return the band of an image from the two wheels of its camera: the narrower of two filters is in the pupil's.

    Examples
    --------
    >>> [jwst_band(*pair) for pair in (("F444W", "CLEAR"), ("F444W", "F470N"), ("CLEAR", "F115W"), ("F770W", None))]
    ['F444W', 'F470N', 'F115W', 'F770W']
    """
    for name in (pupil, filter_name):
        if name and _FILTER.match(name.upper()):
            return name.upper()
    return filter_name


def _text(headers: Headers, key: str) -> str | None:
    card = headers.find(key)
    return None if card is None else str(card.value).strip() or None


def _visit(headers: Headers) -> int | None:
    """Number of the exposure: program, observation, visit, group, sequence, activity and exposure, digit by digit."""
    widths = (("VISIT_ID", 11), ("VISITGRP", 2), ("SEQ_ID", 1), ("ACT_ID", 2), ("EXPOSURE", 3))
    digits = ""
    for key, width in widths:
        text = _text(headers, key)
        if text is None or not text.isdecimal() or int(text) >= 10**width:
            return None
        digits += f"{int(text):0{width}d}"
    number = int(digits)
    return number if number < 2**63 else None


@lru_cache(maxsize=4)
def _gwcs(path: str, n_bytes: int, mtime_ns: int) -> GwcsWcs | None:
    """The gwcs in the ASDF extension of a file; None if it has no such extension."""
    with open_fits(path) as hdus:
        found = [hdu for hdu in hdus if hdu.name == "ASDF"]
        if len(found) != 1:
            return None
        require_asdf("the WCS of an exposure of JWST", path)
        table = found[0]
        data = table.data
        # Early versions of the pipeline wrote an image, later ones a table of one cell.
        cell = data.field(0) if isinstance(data, fits.FITS_rec) and len(data.columns) else data
        content = b"" if cell is None else np.asarray(cell).tobytes()
        if not content.startswith(b"#ASDF "):
            raise CorruptFileError(
                "the ASDF extension holds no ASDF file", path=path, hdu="ASDF", fix="Copy or download the file again"
            )
    fix = (
        "Update the packages (pip install --upgrade gwcs asdf-astropy asdf), or read it with wcs='fits', the "
        "approximation in the header"
    )
    return read_gwcs(content, ("meta", "wcs"), path=path, hdu="ASDF", fix=fix)
