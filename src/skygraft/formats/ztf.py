"""Science images of the Zwicky Transient Facility, ``ztf_<time>_<field>_<filter>_c<ccd>_o_q<quadrant>_sciimg.fits``.

Beside an image, by its name, are its bit mask (``_mskimg.fits``) and its PSF at the middle of the quadrant
(``_sciimgdaopsfcent.fits``, 25 x 25 pixels); both may be absent. The products are described by Masci et al. 2019, PASP
131, 018003, and the ZTF Science Data System explanatory supplement
(https://irsa.ipac.caltech.edu/data/ZTF/docs/ztf_explanatory_supplement.pdf).

**What the flux is the flux of.** MAGZP is fitted to PSF-fit photometry of stars of Pan-STARRS1, together with a colour
term: ``m(PS1) = MAGZP - 2.5 log10(flux) + CLRCOEFF * colour``, with the colour that PCOLOR names. It holds for the
amplitude of a fit of the PSF; fluxes in apertures need the corrections of the catalogue (APCOR) first. The colour term
is not applied: a source of magnitude m gets the flux of a source of m and PS1 colour zero.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy import units as u
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning

from skygraft.errors import CalibrationError, FormatError, PsfError, SkygraftError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import CAUTION, StrPath
from skygraft.formats.fits import LAYOUT, FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_headers import Headers, finite_number
from skygraft.formats.fits_layout import (
    FitsLayout,
    HduInfo,
    Plane,
    inherited_headers,
    is_flat,
    list_hdus,
    renamed,
    split_name,
)
from skygraft.formats.fits_planes import read_pixels
from skygraft.formats.fits_write import write_planes
from skygraft.formats.survey_products import survey_product
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.places import is_file
from skygraft.psf import PSF, FixedKernelPSF

__all__ = ["MASK_PLANES", "ZtfFormat", "ZtfOptions"]

MASK_PLANES = {
    "TRACK": 0,
    "DETECTED": 1,
    "LOW_RESPONSE": 2,
    "HIGH_RESPONSE": 3,
    "NOISY": 4,
    "GHOST": 5,
    "BLEED": 6,
    "SPIKE": 7,
    "SATURATED": 8,
    "DEAD": 9,
    "NAN": 10,
    "DETECTED_PSF": 11,
    "HALO": 12,
}
"""Bits of ``mskimg``, as its header says: tracks of aircraft and satellites, objects of Source Extractor, ...,
positions of PSF-fitted sources (11), halos of bright stars."""

_NAME = re.compile(r"^ztf_(?P<time>\d{14})_(?P<field>\d{6})_z(?P<band>[gri])_c(?P<ccd>\d\d)_o_q(?P<quadrant>[1-4])_")
_SCIENCE = "sciimg"
_MASK = "mskimg"
_PSF = "daopsfcent"
_REFERENCE = ReferenceCandidate(
    "psf_model",
    origin="ZTF fits MAGZP to PSF-fit photometry (Masci et al. 2019)",
    level="default",
)
_BAD_IMAGE = 1 << 25
"""Bit of INFOBITS, and those above it: the image failed the pipeline's tests, and its calibration is not to be used."""
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz", ".fits.bz2")


@dataclass(frozen=True)
class ZtfOptions(FitsOptions):
    """Reading options of ZTF images: those of ordinary FITS."""


class ZtfFormat(FitsFormat):
    """Science images of ZTF; see `skygraft.formats.ztf` for what their flux means.

    The visit is the time in the file's name (``20200723164595``: the date and the fraction of the day), the detector
    the readout channel, ``4 * (CCDID - 1) + QID - 1``. The PSF is that of the middle of the quadrant, for the whole
    image. There is no noise plane; the gain is GAIN of the header.
    """

    name: ClassVar[str] = "ztf"
    looked_for: ClassVar[str] = "INSTRUME of ZTF in the header of an image, and MAGZP there or *_sciimg* in its name"
    Options: ClassVar[type[FitsOptions]] = ZtfOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is a science image of ZTF, by its header and name; it may lack MAGZP."""
        path = Path(path)
        if path.is_file() and path.stat().st_size and not is_fits(path):
            return False
        return survey_product(path) is None and _is_science(list_hdus(path), path)

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        names = MASK_PLANES if given.mask_planes is None else given.mask_planes
        exposure = super().read(path, **{**options, "mask_planes": dict(names)})
        caution = _caution(inherited_headers(list_hdus(path), exposure.extra[LAYOUT].image.hdu))
        return exposure.replace(extra={**exposure.extra, CAUTION: caution}) if caution else exposure

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write image, mask and PSF image to one directory, under the survey's names; see `Format.write`.

        Raises
        ------
        FormatError
            If the input is called ``*_sciimg*`` and the output is not: its mask and PSF could not be found.
        """
        source, target = Path(like), Path(path)
        if _SCIENCE not in source.name:
            return super().write(exposure, target, like=source, overwrite=overwrite)
        if _SCIENCE not in target.name:
            raise FormatError(
                f"the output is not called *_{_SCIENCE}*, so its mask and PSF image could not be found",
                path=target,
                fix=f"Keep the input's name ({source.name}), in another directory",
            )
        layout = self._layout_to_follow(exposure, source)
        outputs = {layout.image.path: target}
        if layout.mask is not None and layout.mask.path != source:
            outputs[layout.mask.path] = _of_survey(target, layout.mask.path, _MASK, layout)
        if layout.psf is not None:
            outputs[layout.psf] = _of_survey(target, layout.psf, _PSF, layout)
        outputs = renamed(layout, target) | outputs
        masks = {}
        if layout.mask is None and exposure.mask.any():
            masks[target.with_name(target.name.replace(_SCIENCE, _MASK, 1))] = (exposure.mask, exposure.mask_planes)
        return write_planes(exposure, layout, outputs, new_masks=masks, overwrite=overwrite)

    def _open(self, path: StrPath, given: FitsOptions) -> OpenedImage:
        opened = super()._open(path, given)
        if not _is_science(opened.hdus, opened.path):
            raise FormatError(
                "this is no science image of ZTF: an image with INSTRUME of ZTF and MAGZP in its header",
                path=path,
                fix="Read it with format='auto'",
            )
        layout = _with_companions(opened.path, opened.layout, opened.image, given)
        return dataclasses.replace(opened, layout=layout)

    def _layout_to_follow(self, exposure: Exposure, like: Path) -> FitsLayout:
        layout: FitsLayout = super()._layout_to_follow(exposure, like)
        known: bool = exposure.extra.get(LAYOUT) is layout
        return layout if known else _with_companions(like, layout, list_hdus(like)[layout.image.hdu], self.Options())

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        found = super()._data_id(opened, given)
        ccd, quadrant, band = (opened.headers.find(key) for key in ("CCDID", "QID", "FILTER"))
        numbers = [None if card is None else finite_number(card) for card in (ccd, quadrant)]
        name = _NAME.match(opened.path.name)
        if None in numbers and name is not None:
            numbers = [float(name["ccd"]), float(name["quadrant"])]
        one, two = numbers
        letter = "" if band is None else str(band.value).strip()[-1:].lower()
        if letter not in ("g", "r", "i") and name is not None:
            letter = name["band"]
        visit = None if name is None else int(name["time"])
        detector = None if one is None or two is None else int(4 * (one - 1) + two - 1)
        return dataclasses.replace(
            found,
            instrument=given.instrument or "ZTF",
            visit=found.visit if visit is None or given.visit is not None else visit,
            detector=found.detector if detector is None or given.detector is not None else detector,
            band=given.band or letter or found.band,
        )

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        found = super()._visit_info(opened, given)
        if given.mjd is not None:
            return found
        start = _start(opened.headers)
        if start is None:
            return found
        middle = start + (found.exposure_time or 0.0) / 2 * u.s
        return VisitInfo(float(middle.tai.mjd), found.exposure_time)

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        return (*super()._candidates(opened), _REFERENCE)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        if given.zeropoint is None and given.zeropoint_key is None:
            given = dataclasses.replace(given, zeropoint_key="MAGZP")
        unit, calib, error = super()._photo_calib(opened, given, exposure_time, scale)
        if error is not None and error.key == "MAGZP":
            error.fix = "Fetch the image again, or give zeropoint= (the AB magnitude of one DN in a PSF fit)"
        return unit, calib, error

    def _gain(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, calib: PhotoCalib | None
    ) -> RecordedGain:
        found = super()._gain(opened, given, exposure_time, calib)
        card = opened.headers.find("GAIN")
        value = None if card is None else finite_number(card)
        if found.value is not None or card is None or value is None or value <= 1 or given.unit is not None:
            return found
        # ZTF's gains are 5 to 6.5 electrons per count, whatever the card's comment says.
        return RecordedGain(value, f"GAIN in the header of HDU {card.hdu}")

    def _psf(self, opened: OpenedImage, given: FitsOptions, scale: float) -> PSF | None:
        beside = opened.layout.psf
        if beside is not None and _PSF in beside.name and given.psf is None:
            return _psf_of_image(beside)
        return super()._psf(opened, given, scale)

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        return PsfError(
            f"there is no PSF image beside it (*_{_SCIENCE}{_PSF}.fits)",
            path=opened.path,
            fix="Fetch it into the image's directory, or give psf= ({kind: moffat, fwhm: 2 arcsec})",
        )


def _is_science(hdus: tuple[HduInfo, ...], path: Path) -> bool:
    """Whether a file has an image whose header, or name, is that of a calibrated exposure of ZTF."""
    for hdu in hdus:
        if not is_flat(hdu):
            continue
        headers = inherited_headers(hdus, hdu.index)
        camera, origin = headers.find("INSTRUME"), headers.find("ORIGIN")
        texts = [str(card.value).strip().lower() for card in (camera, origin) if card is not None]
        by_ztf = any(text.startswith(("ztf", "zwicky transient")) for text in texts)
        if by_ztf and (headers.find("MAGZP") is not None or (_NAME.match(path.name) and _SCIENCE in path.name)):
            return True
    return False


def _companion(path: Path, name: str) -> Path | None:
    """The file in the directory of `path` whose name is `name` with one of the suffixes of FITS."""
    stem = split_name(name)[0]
    return next((p for suffix in _SUFFIXES if is_file(p := path.with_name(stem + suffix))), None)


def _with_companions(path: Path, layout: FitsLayout, image: HduInfo, given: FitsOptions) -> FitsLayout:
    """Add the mask and the PSF image of the survey's names, where there are no others."""
    if _SCIENCE not in path.name:
        return layout
    if layout.mask is None and given.mask is None:
        mask = _companion(path, path.name.replace(_SCIENCE, _MASK, 1))
        if mask is not None:
            layout = dataclasses.replace(layout, mask=_mask_plane(mask, image))
    if layout.psf is None and given.psf is None:
        # Cut-outs have more behind "sciimg"; their PSF is that of the whole image.
        before = path.name[: path.name.index(_SCIENCE) + len(_SCIENCE)]
        layout = dataclasses.replace(layout, psf=_companion(path, before + _PSF))
    return layout


def _mask_plane(path: Path, image: HduInfo) -> Plane:
    found = [hdu for hdu in list_hdus(path) if is_flat(hdu)]
    same = [hdu for hdu in found if hdu.shape == image.shape]
    if len(same) != 1:
        shapes = ", ".join(str(hdu.shape) for hdu in found) or "none"
        raise FormatError(
            f"its mask has images of shape {shapes}, the image {image.shape}",
            path=path,
            fix="Fetch the mask of this image, or read without it (mask=False)",
        )
    return same[0].plane("mask", path)


def _of_survey(target: Path, source: Path, kind: str, layout: FitsLayout) -> Path:
    """Output of a companion file: named after the output as the survey names it, if the input's is."""
    if kind == _MASK and _MASK in source.name:
        stem = split_name(target.name.replace(_SCIENCE, _MASK, 1))[0]
        return target.with_name(stem + split_name(source)[1])
    if kind == _PSF and _PSF in source.name:
        before = target.name[: target.name.index(_SCIENCE) + len(_SCIENCE)]
        return target.with_name(before + source.name[source.name.index(_PSF) :])
    return renamed(layout, target)[source]


def _psf_of_image(path: Path) -> PSF:
    """The PSF in an image, scaled to sum one; it is the same everywhere."""
    images = [hdu for hdu in list_hdus(path) if is_flat(hdu)]
    if len(images) != 1:
        raise PsfError(f"the PSF file has {len(images)} images", path=path, fix="Fetch it again, or give psf=")
    kernel = np.asarray(read_pixels(images[0].plane("image", path))[0], dtype=np.float64)
    ny, nx = kernel.shape
    problem = ""
    if not np.isfinite(kernel).all():
        problem = "has pixels that are not finite"
    elif kernel.sum() <= 0:
        problem = f"sums to {kernel.sum():g}"
    elif ny % 2 == 0 or nx % 2 == 0:
        problem = f"has {ny} x {nx} pixels, and no middle one"
    else:
        y, x = np.unravel_index(int(np.argmax(kernel)), kernel.shape)
        if abs(int(y) - ny // 2) > 1 or abs(int(x) - nx // 2) > 1:
            problem = f"has its peak at ({x}, {y}), not in the middle ({nx // 2}, {ny // 2})"
    if problem:
        raise PsfError(f"the PSF image {problem}", path=path, fix="Fetch it again, or give psf=")
    try:
        return FixedKernelPSF(kernel, normalize=True)
    except SkygraftError as error:
        raise PsfError(error.message, path=path, fix="Fetch it again, or give psf=") from error


def _start(headers: Headers) -> Time | None:
    """Beginning of the exposure, from OBSMJD, OBSJD (UTC) or SHUTOPEN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.filterwarnings("ignore", message=".*dubious year")
        for key, form, low, high in (("OBSMJD", "mjd", 5e4, 1e5), ("OBSJD", "jd", 2.45e6, 2.5e6)):
            card = headers.find(key)
            value = None if card is None else finite_number(card)
            if value is not None and low < value < high:
                return Time(value, format=form, scale="utc")
        card = headers.find("SHUTOPEN")
        if card is None:
            return None
        try:
            return Time(str(card.value).strip(), scale="utc")
        except ValueError:
            return None


def _caution(headers: Headers) -> str:
    """What INFOBITS says of the image's quality; "" if that is good."""
    card = headers.find("INFOBITS")
    value = None if card is None else finite_number(card)
    if value is None or value < _BAD_IMAGE:
        return ""
    return (
        f"INFOBITS = {int(value)}: the image failed the tests of ZTF's pipeline (bit 25 or above), so its zeropoint "
        "and WCS may be wrong"
    )
