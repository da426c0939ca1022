"""Images of the Hubble Space Telescope: drizzled (``_drz``, ``_drc``) and calibrated exposures (``_flt``, ``_flc``).

The zeropoint is that of PHOTFLAM at the pivot wavelength PHOTPLAM (ACS Data Handbook, section 5.1; WFC3 Data Handbook,
chapter 9)::

    AB = -2.5 log10(PHOTFLAM) - 5 log10(PHOTPLAM) - 2.408

for one electron (or count) per second. Drizzled images are in such rates, whatever BUNIT says, if D001OUUN is "cps".
Mosaics whose weights lie beside them (``_drz_sci.fits`` and ``_drz_wht.fits``) are recognised too, and those of grizli.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import DataId, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import CAUTION, ImageCalibration, StrPath
from skygraft.formats.fits import FitsOptions, OpenedImage
from skygraft.formats.fits_headers import Headers
from skygraft.formats.fits_kinds import refuse_companion
from skygraft.formats.fits_layout import (
    FitsLayout,
    HduInfo,
    Plane,
    find_layout,
    is_flat,
    list_hdus,
    renamed,
    split_name,
)
from skygraft.formats.fits_planes import read_pixels
from skygraft.formats.fits_units import ImageUnit, image_unit
from skygraft.formats.fits_zeropoint import ZEROPOINT_KEYS
from skygraft.formats.jwst import JWST_REFERENCE, jwst_band
from skygraft.formats.roman import no_space_psf
from skygraft.formats.space import SpaceFitsFormat, companion_hdu, first_number, middle_of, required
from skygraft.formats.space_flags import HST_BITS, stem_of
from skygraft.photometry import PhotoCalib, PixelAreaField, ReferenceCandidate, parse_unit, summed_unit
from skygraft.places import is_file
from skygraft.wcs import has_wcs

__all__ = ["HstFormat", "HstOptions"]

HST_REFERENCE = ReferenceCandidate(
    "total",
    origin="HST photometry: PHOTFLAM is for an infinite aperture (ACS Data Handbook 5.1, WFC3 Data Handbook 9.1; "
    "Bohlin 2016, AJ 152, 60)",
    level="default",
)
_LIGHT = 2.99792458e18
"""Speed of light, Angstrom per second."""
_CGS_TO_NJY = 1e32
"""nJy in erg/s/cm2/Hz."""
_TOLERANCE = 0.02
"""Magnitudes up to which PHOTFLAM agrees with another zeropoint of the header."""
_DRIZZLED = re.compile(r"_dr[zcw](?=[_.\-]|$)", re.IGNORECASE)
_PIPELINE = re.compile(r"^([a-z][a-z0-9]{8}|hst_\w+?)_dr[zc]$", re.IGNORECASE)
_INVERSE_VARIANCES = re.compile(
    r"^hlsp_(candels|frontier|hff|hlf|goods|3dhst|clash|relics|cosmos|xdf|hudf)", re.IGNORECASE
)
_NO_IMAGES = {
    "raw": "raw counts",
    "ima": "an intermediate exposure with one image a read",
    "asn": "an association table",
    "spt": "a support file",
    "trl": "a trailer",
    "x1d": "extracted spectra",
    "x2d": "a rectified spectrum",
    "jit": "pointing data",
    "jif": "pointing data",
}
_DISPERSED = re.compile(r"^(G\d{3}L?|PR\d{3}L)$")
_BAND = re.compile(r"^F[A-Z]?\d{3,4}[A-Z]*\d?$")
_FILTERS = ("FILTER", "FILTER1", "FILTER2", "FILTNAM1", "FILTNAM2")


@dataclass(frozen=True)
class HstOptions(FitsOptions):
    """Reading options of HST images: those of `FitsOptions`, and the kind of weights.

    Parameters
    ----------
    weights : {"exposure", "inverse_variance"}, optional
        What the weights of a drizzled image are: exposure times in seconds (AstroDrizzle's EXP, the default of the
        pipeline), from which the photon noise of sources follows pixel by pixel; or inverse variances (IVM). By default
        as the header says, or what is documented of the product.
    """

    weights: Literal["exposure", "inverse_variance"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in (None, "exposure", "inverse_variance"):
            raise ConfigError(f"weights is {self.weights!r}; allowed: 'exposure', 'inverse_variance'", key="weights")


class HstFormat(SpaceFitsFormat):
    """Images of HST: drizzled, and calibrated exposures with the distortion of their header.

    One chip of an exposure with several is read, chosen with ``hdu=``. See `HstOptions` for the options.
    """

    name: ClassVar[str] = "hst"
    looked_for: ClassVar[str] = "a FITS image of TELESCOP = 'HST', or one drizzled by grizli"
    Options: ClassVar[type[HstOptions]] = HstOptions
    mission = "HST"
    bits = HST_BITS
    reference = HST_REFERENCE

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is an image of HST, or a mosaic of HST or JWST images by grizli."""
        if Path(path).is_file() and Path(path).stat().st_size and not is_fits(path):
            return False
        hdus = list_hdus(path)
        images = [hdu for hdu in hdus if hdu.shape is not None]
        if not any(is_flat(hdu) and (has_wcs(hdu.header) or has_wcs(hdus[0].header)) for hdu in images):
            return False
        headers = [hdus[0].header, *(hdu.header for hdu in images[:1])]
        if any(str(header.get("TELESCOP", "")).strip().upper() == "HST" for header in headers):
            return True
        return any("GRIZLIV" in header for header in headers) and "PHOTFLAM" in headers[-1]

    def _check(self, path: Path, hdus: Sequence[HduInfo], given: FitsOptions) -> None:
        stem = split_name(path)[0]
        what = _NO_IMAGES.get(stem.rsplit("_", 1)[-1].lower())
        for header in (hdus[0].header, *(hdu.header for hdu in hdus if hdu.name == "SCI")):
            names = [str(header.get(key, "")).strip().upper() for key in _FILTERS]
            dispersed = next((name for name in names if _DISPERSED.match(name)), None)
            if what is None and dispersed is not None:
                what = f"an exposure through {dispersed}, which disperses light"
        if what is not None:
            raise FormatError(
                f"this is {what}, and no calibrated image of HST",
                path=path,
                fix="Give a drizzled image (_drz.fits, _drc.fits) or a calibrated exposure (_flt.fits, _flc.fits)",
            )
        chips = [hdu for hdu in hdus if hdu.name == "SCI" and is_flat(hdu)]
        if given.hdu is None and len(chips) > 1:
            listed = "; ".join(
                f"hdu={hdu.index}: SCI,{hdu.version}, chip {hdu.header.get('CCDCHIP', '?')}, "
                + "x".join(str(n) for n in reversed(hdu.shape or ()))
                for hdu in chips
            )
            raise FormatError(f"the exposure has {len(chips)} chips: {listed}", path=path, fix="Choose one with hdu=")

    def _find(self, path: Path, given: FitsOptions, hdus: Sequence[HduInfo]) -> FitsLayout:
        layout = super()._find(path, given, hdus)
        image = hdus[layout.image.hdu]
        refuse_companion(path, image, hdus, chosen=given.hdu is not None)
        weights = _weights(path, image, hdus, given)
        if weights is not None and weights.path not in layout.files:
            layout = dataclasses.replace(layout, others=(weights.path,))
        return layout

    def _outputs(self, layout: FitsLayout, target: Path) -> dict[Path, Path]:
        """Weights beside the image keep the name by which they are found again: ``x_drz_wht`` of ``x_drz_sci``."""
        outputs = renamed(layout, target)
        old, new = (_base(split_name(path)[0]) for path in (layout.image.path, target))
        for path in layout.files:
            for before, after in ((old, new), (_DRIZZLED.sub("", old), _DRIZZLED.sub("", new))):
                if path != layout.image.path and path.name.startswith(f"{before}_"):
                    outputs[path] = target.with_name(after + path.name.removeprefix(before))
                    break
        return outputs

    def _noise(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo], given: FitsOptions) -> Plane | None:
        if not _is_drizzled(path, hdus, image):
            errors = required(path, image, hdus, "ERR", "rms")
            return None if errors is None else errors.plane("rms", path)
        if image.name == "SCI" and image.index and given.weight is None:
            required(path, image, hdus, "WHT", "weight")
        weights = _weights(path, image, hdus, given)
        kind, _ = _kind_of_weights(path, hdus, image, given)
        return weights if weights is not None and kind == "inverse_variance" else None

    def _flags(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo]) -> HduInfo | None:
        if _is_drizzled(path, hdus, image):
            return companion_hdu("DQ", image, hdus)
        return required(path, image, hdus, "DQ", "mask")

    def _coverage(self, opened: OpenedImage, given: FitsOptions) -> Plane | None:
        return _weights(opened.path, opened.image, opened.hdus, given)

    def _is_mosaic(self, opened: OpenedImage) -> bool:
        return _is_drizzled(opened.path, opened.hdus, opened.image)

    def _further(self, opened: OpenedImage, given: FitsOptions) -> dict[str, Any]:
        found = super()._further(opened, given)
        kind, why = _kind_of_weights(opened.path, opened.hdus, opened.image, given)
        if opened.layout.noise is None and kind is None and self._is_mosaic(opened):
            if _weights(opened.path, opened.image, opened.hdus, given) is not None:
                found[CAUTION] = (
                    f"the weights are not used: {why}. Give weights='exposure' or weights='inverse_variance'"
                )
        elif not self._is_mosaic(opened) and first_number(opened.headers, "IDCSCALE") is None:
            found[CAUTION] = (
                "the header has no IDCSCALE: fluxes are not corrected for the distortion of the pixels' areas, a few "
                "per cent towards the edges"
            )
        return found

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        headers, several = opened.headers, _chips(opened.hdus) > 1
        chip = headers.find("CCDCHIP")
        stem = stem_of(opened.path)
        detector: Any = _text(headers, "DETECTOR")
        if several and chip is not None and isinstance(chip.value, int):
            detector, stem = chip.value, f"{stem}-chip{chip.value}"
        elif several:
            stem = f"{stem}-{opened.image.index}"
        found: dict[str, Any] = {
            "instrument": _text(headers, "INSTRUME"),
            "detector": detector,
            "band": _band(headers),
            "name": stem,
        }
        return DataId(**(found | {key: value for key, value in given.data_id.items() if value is not None}))

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        seconds = given.exposure_time or first_number(opened.headers, "EXPTIME", "TEXPTIME", "XPOSURE")
        return middle_of(opened.headers, seconds, given.mjd)

    def _unit(self, opened: OpenedImage, given: FitsOptions) -> ImageUnit:
        unit = image_unit(opened.headers, given.unit)
        card = opened.headers.find("D001OUUN")
        if not unit.stated and card is not None and _text(opened.headers, "INSTRUME") in ("ACS", "WFC3"):
            # Their pipelines convert to electrons; those of older cameras leave counts.
            unit = ImageUnit(parse_unit("electron"), stated=True)
        if given.unit is not None or card is None or unit.unit.kind not in ("counts", "electrons"):
            return unit
        rate = str(card.value).strip().lower() == "cps"
        if unit.unit.per_second and not rate:
            raise CalibrationError(
                f"BUNIT is {unit.name!r} and D001OUUN {card.value!r}: is the image a rate or not?",
                path=opened.path,
                key="D001OUUN",
                fix="Give unit= ('electron' or 'electron/s')",
            )
        if not rate or unit.unit.per_second:
            return unit
        # AstroDrizzle does not always adapt BUNIT when it divides by the exposure time.
        return ImageUnit(parse_unit(f"{unit.name}/s"), stated=unit.stated)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        unit = self._unit(opened, given)
        of_counts = unit.unit.kind in ("counts", "electrons")
        if given.zeropoint is not None or given.zeropoint_key is not None or not of_counts:
            return super()._photo_calib(opened, given, exposure_time, scale)
        try:
            if not unit.stated:
                raise CalibrationError(
                    "there is no BUNIT: is the image in electrons, counts, or one of these per second?",
                    path=opened.path,
                    key="BUNIT",
                    fix="Give unit= ('electron/s', 'electron', 'adu/s' or 'adu')",
                )
            njy = _njy_of_rate(opened)
            if not unit.unit.per_second:
                if exposure_time is None:
                    raise CalibrationError(
                        f"PHOTFLAM is of a rate, the image is in {unit.name}, and the exposure time is not known",
                        path=opened.path,
                        key="EXPTIME",
                        fix="Give exposure_time= (seconds)",
                    )
                njy /= exposure_time
            njy *= unit.unit.scale
            calib = PhotoCalib(njy, summed_unit(unit.name), self._areas(opened))
            _refuse_other_zeropoints(opened, calib)
        except UncalibratedImageError as error:
            # Others than the mission's pipeline write other zeropoints.
            found = super()._photo_calib(opened, given, exposure_time, scale)
            return (unit.name, None, error) if isinstance(found[2], UncalibratedImageError) else found
        except CalibrationError as error:
            return unit.name, None, error
        return unit.name, calib, None

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        found = super()._candidates(opened)
        return (*found[:-1], JWST_REFERENCE) if _of_jwst(opened) else found

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        return no_space_psf(opened.path, "JWST" if _of_jwst(opened) else self.mission)

    def _areas(self, opened: OpenedImage) -> PixelAreaField | None:
        """Area of each pixel in units of the nominal one, by which fluxes of an exposure with distortion are scaled."""
        nominal = first_number(opened.headers, "IDCSCALE")
        if nominal is None or self._is_mosaic(opened):
            return None
        ny, nx = opened.image.shape or (0, 0)
        return PixelAreaField(opened.wcs(), (math.degrees(1) * 3600 / nominal) ** 2, (0, nx - 1, 0, ny - 1))

    def _calibration(self, opened: OpenedImage, given: FitsOptions) -> ImageCalibration:
        found = super()._calibration(opened, given)
        map_ = self._gain_map(opened, given, found)
        return found if map_ is None else dataclasses.replace(found, gain=map_, gain_origin="exposure times in WHT")

    def _gain_map(self, opened: OpenedImage, given: FitsOptions, found: ImageCalibration) -> NDArray[np.float32] | None:
        """Electrons per image unit, pixel by pixel, from weights that are exposure times."""
        unit = self._unit(opened, given).unit
        seconds = self._visit_info(opened, given).exposure_time
        kind, _ = _kind_of_weights(opened.path, opened.hdus, opened.image, given)
        if kind != "exposure" or not isinstance(found.gain, float) or not unit.per_second or not seconds:
            return None
        weights = _weights(opened.path, opened.image, opened.hdus, given)
        if weights is None:
            return None
        times = np.array(read_pixels(weights)[0], dtype=np.float32)
        # Where nothing was exposed no photons are counted; a gain must be positive there too.
        times[~(np.isfinite(times) & (times > 0))] = seconds
        return times * np.float32(found.gain / seconds)


def _of_jwst(opened: OpenedImage) -> bool:
    """Whether a mosaic that grizli wrote with HST's keywords is of JWST."""
    card = opened.headers.find("TELESCOP")
    return card is not None and str(card.value).strip().upper() == "JWST"


def _is_drizzled(path: Path, hdus: Sequence[HduInfo], image: HduInfo) -> bool:
    names = {hdu.name for hdu in hdus}
    keys = ("NDRIZIM", "D001OUUN", "D001KERN", "DRIZKERN", "D001PIXF")
    cards = any(key in header for key in keys for header in (image.header, hdus[0].header))
    return "CTX" in names or ("WHT" in names and "ERR" not in names) or cards or bool(_DRIZZLED.search(path.name))


def _base(stem: str) -> str:
    return re.sub(r"_sci$", "", stem, flags=re.IGNORECASE)


def _chips(hdus: Sequence[HduInfo]) -> int:
    return sum(hdu.name == "SCI" and is_flat(hdu) for hdu in hdus)


def _weights(path: Path, image: HduInfo, hdus: Sequence[HduInfo], given: FitsOptions) -> Plane | None:
    """Plane of the weights, in the file or beside it: ``x_drz_wht``, ``x_wht`` of ``x_drz_sci``, ``x_drz``."""
    if given.weight is False:
        return None
    if given.weight is not None:
        return find_layout(path, dataclasses.replace(given, mask=False), hdus).noise
    inside = companion_hdu("WHT", image, hdus)
    if inside is not None:
        return inside.plane("weight", path)
    stem, ending = split_name(path)
    base = _base(stem)
    names = dict.fromkeys((f"{base}_wht", f"{_DRIZZLED.sub('', base)}_wht", f"{base}_weight"))
    for name in names:
        for end in dict.fromkeys((ending, ".fits", ".fits.gz")):
            other = path.with_name(name + end)
            if name != stem and is_file(other):
                flat = [hdu for hdu in list_hdus(other) if hdu.shape == image.shape]
                if len(flat) == 1:
                    return flat[0].plane("weight", other)
    return None


def _kind_of_weights(path: Path, hdus: Sequence[HduInfo], image: HduInfo, given: FitsOptions) -> tuple[str | None, str]:
    """What the weights are, None if nothing says, and where that is said."""
    chosen = given.weights if isinstance(given, HstOptions) else None
    if chosen is not None:
        return chosen, "given"
    for header in (image.header, hdus[0].header):
        for key in ("WHTTYPE", "WHT_TYPE", "FINALWHT"):
            text = str(header.get(key, "")).strip().upper()
            if text == "EXP":
                return "exposure", key
            if text in ("IVM", "ERR", "JWST"):
                return "inverse_variance", key
        if "GRIZLIV" in header:
            return "inverse_variance", "grizli"
    stem = _base(split_name(path)[0])
    if _INVERSE_VARIANCES.match(stem):
        return "inverse_variance", "documentation of the product"
    if _PIPELINE.match(stem):
        return "exposure", "default of the HST pipeline"
    return None, "nothing says whether they are exposure times or inverse variances"


def _njy_of_rate(opened: OpenedImage) -> float:
    """Flux in nJy of one electron (or count) per second."""
    headers, path = opened.headers, opened.path
    pivot = first_number(headers, "PHOTPLAM")
    flam, key = _inverse_sensitivity(headers)
    if flam is None or pivot is None:
        raise UncalibratedImageError(
            f"the header has no {'PHOTFLAM' if flam is None else 'PHOTPLAM'} greater than zero",
            path=path,
            key="PHOTFLAM" if flam is None else "PHOTPLAM",
            fix="Give zeropoint= (the AB magnitude of one image unit)",
        )
    njy = flam * pivot**2 / _LIGHT * _CGS_TO_NJY
    other = first_number(headers, "PHOTFNU")
    if other is not None and abs(2.5 * math.log10(other * 1e9 / njy)) > _TOLERANCE:
        raise CalibrationError(
            f"two zeropoints disagree: {njy:.6g} nJy of one unit per second from {key} and PHOTPLAM, {other * 1e9:.6g} "
            "nJy from PHOTFNU",
            path=path,
            key="PHOTFNU",
            fix="Give zeropoint= (the AB magnitude of one image unit)",
        )
    return njy


def _inverse_sensitivity(headers: Headers) -> tuple[float | None, str]:
    """PHOTFLAM of the image; of a chip of WFC3/UVIS that was not scaled to the other, its own."""
    chip, scaled = headers.find("CCDCHIP"), headers.find("FLUXCORR")
    if chip is not None and scaled is not None and str(scaled.value).strip().upper() != "COMPLETE":
        key = f"PHTFLAM{chip.value}"
        own = first_number(headers, key)
        if own is not None:
            return own, key
    return first_number(headers, "PHOTFLAM"), "PHOTFLAM"


def _refuse_other_zeropoints(opened: OpenedImage, calib: PhotoCalib) -> None:
    ours = float(dataclasses.replace(calib, field=None).zeropoint())
    for card in opened.headers.every(*ZEROPOINT_KEYS):
        value = card.value
        if card.key == "FLUXMAG0" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 < value < 60 and abs(value - ours) > _TOLERANCE:
            raise CalibrationError(
                f"two zeropoints disagree: {ours:.4f} mag from PHOTFLAM and PHOTPLAM, {value:.4f} mag from {card.key} "
                f"in HDU {card.hdu}",
                path=opened.path,
                key=card.key,
                fix=f"Say which one holds: zeropoint_key='{card.key}', or zeropoint=",
            )


def _text(headers: Headers, key: str) -> str | None:
    card = headers.find(key)
    return None if card is None else str(card.value).strip() or None


def _band(headers: Headers) -> str | None:
    """The filter; of two wheels, the one that is not clear."""
    names = [text.upper() for key in _FILTERS if (text := _text(headers, key))]
    if len(names) == 1 and "-" in names[0]:
        # grizli joins the names of JWST's two wheels.
        return jwst_band(*names[0].split("-", 1))
    found = [name for name in names if _BAND.match(name)]
    if found:
        return found[0]
    clear = [name for name in names if not name.startswith(("CLEAR", "N/A"))]
    return clear[0] if clear else None
