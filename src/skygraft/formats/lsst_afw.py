"""Exposures of the LSST pipelines' afw library: calexps and coadds of all versions, read without the pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.dataset import LINEAGE
from skygraft.errors import (
    CalibrationError,
    ConfigError,
    FormatError,
    PsfError,
    UncalibratedImageError,
)
from skygraft.exposure import AMPLIFIERS, COADD_INPUTS, COADD_NOISE, DataId, Exposure, VisitInfo
from skygraft.fitsfile.cards import CardUpdates, card_value
from skygraft.fitsfile.rewrite import rewrite_fits
from skygraft.formats import afw_objects
from skygraft.formats.afw_file import (
    AfwFile,
    image_shape,
    image_wcs,
    image_xy0,
    mapped,
    open_afw,
    planes_of,
    read_plane,
)
from skygraft.formats.afw_layout import find_planes
from skygraft.formats.afw_names import GivenCatalog, parse_name, source_catalog_of
from skygraft.formats.afw_psfs import build_psf
from skygraft.formats.base import (
    CAUTION,
    FILES,
    Chunks,
    Format,
    ImageCalibration,
    ImageFootprint,
    ReadOptions,
    StrPath,
    identify_files,
    refuse_overwrite,
)
from skygraft.formats.fits_fingerprints import find_touched, with_fingerprints
from skygraft.formats.fits_gain import flux_unit_of
from skygraft.formats.fits_headers import Headers, band_name, read_visit_info
from skygraft.formats.parts import open_planes
from skygraft.formats.stored_plane import StoredPlane
from skygraft.noise import CoaddNoise
from skygraft.photometry import (
    PhotoCalib,
    ReferenceCandidate,
    aperture_correction_hints,
    canonical_unit,
    default_candidate,
    header_candidates,
    schema_candidates,
)
from skygraft.planes import Planes
from skygraft.psf import PSF, Box

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AfwOptions", "LsstAfwFormat"]

_SIMULATED = "HAS-SIMULATED-CONTENT"
_INJECTED = "INJECTED"
_MASK_BITS = 32


@dataclass(frozen=True)
class AfwOptions(ReadOptions):
    """Reading options, for what the file does not record or records wrongly.

    Parameters
    ----------
    source_catalog : path or False, optional
        The source catalogue (FITS or Parquet) whose schema names the calibration flux; by default it is searched for
        in the image's directory (`find_source_catalog`); False for none.
    allow_pickle : bool, optional
        Read a PSF that is stored as a Python pickle (``PiffPsf``). A pickle can run any program on this machine: allow
        it only for files whose origin you trust.
    instrument, visit, detector, tract, patch, band : optional
        Parts of the data id.
    """

    source_catalog: GivenCatalog = None
    allow_pickle: bool = False
    instrument: str | None = None
    visit: int | None = None
    detector: int | str | None = None
    tract: int | None = None
    patch: int | None = None
    band: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.allow_pickle, bool):
            raise ConfigError(f"allow_pickle={self.allow_pickle!r} is neither true nor false", key="allow_pickle")


def _band(opened: AfwFile) -> str | None:
    component = opened.side_component("FILTER")
    if component is not None:
        band, physical = afw_objects.build_filter(*component)
        return band or (band_name(physical) if physical else None)
    name = str(card_value(opened.primary, "FILTER", "")).strip()
    return band_name(name) if name not in ("", "_unknown_") else None


def _data_id(opened: AfwFile, options: AfwOptions) -> DataId:
    stem, named_visit, named_detector = parse_name(opened.path)
    detector = opened.detector
    instrument = str(card_value(opened.primary, "INSTRUMENT", card_value(opened.primary, "INSTRUME", ""))).strip()
    visit = card_value(opened.primary, "IDNUM", 0) or named_visit
    found: dict[str, Any] = {
        "instrument": instrument or None,
        "visit": int(visit) if visit else None,
        "detector": detector.id if detector else named_detector,
        "band": _band(opened),
        "name": stem,
    }
    if _is_coadd(opened):
        found |= {"visit": None, "detector": None}
    given = {key: getattr(options, key) for key in ("instrument", "visit", "detector", "tract", "patch", "band")}
    return DataId(**(found | {key: value for key, value in given.items() if value is not None}))


def _visit_info(opened: AfwFile) -> VisitInfo:
    headers = Headers([(0, opened.primary)])
    found = read_visit_info(headers)
    time = found.exposure_time if found.exposure_time and np.isfinite(found.exposure_time) else None
    middle = str(card_value(opened.primary, "TIME-MID", ""))
    if found.mjd is None and time and middle:
        # The oldest files: UTC, ending in Z. Without an exposure time the value is a placeholder.
        old = fits.Header([("DATE-AVG", middle.rstrip("Z")), ("TIMESYS", "UTC")])
        found = read_visit_info(Headers([(0, old)]))
    return VisitInfo(found.mjd, time if time and time > 0 else None)


def _candidates(opened: AfwFile, catalog: Path | None, instrument: str | None) -> tuple[ReferenceCandidate, ...]:
    found = [*header_candidates(opened.primary, path=opened.path, hdu=0)]
    if catalog is not None:
        found += schema_candidates(catalog, keep_unclear=True)
    component = opened.side_component("AP_CORR_MAP")
    if component is not None:
        origin = f"the aperture corrections of {opened.path.name}"
        found += aperture_correction_hints(afw_objects.build_apcorr_names(*component), origin)
    default = default_candidate(instrument)
    return tuple([*found, default] if default is not None else found)


def _unit(opened: AfwFile) -> str:
    unit = str(card_value(opened.header(), "BUNIT", "adu")).strip()
    if not unit:
        raise FormatError(
            "the image's unit is blank",
            path=opened.path,
            hdu=opened.hdus["IMAGE"],
            key="BUNIT",
            fix="Write its unit into the header, or remove the card of an image in counts (adu)",
        )
    # Files of afw without units are in counts; with units, each plane has its own, and one of them was lost here.
    if "BUNIT" not in opened.header() and "VARIANCE" in opened.hdus:
        of_variance = str(card_value(opened.header("VARIANCE"), "BUNIT", "")).strip()
        if of_variance:
            raise FormatError(
                f"the image has no unit, but its variance has one ({of_variance})",
                path=opened.path,
                hdu=opened.hdus["IMAGE"],
                key="BUNIT",
                fix="Write the image's unit into the header of the IMAGE plane",
            )
    return canonical_unit(unit)


def _photo_calib(
    opened: AfwFile, unit: str, candidates: tuple[ReferenceCandidate, ...]
) -> tuple[PhotoCalib | None, CalibrationError | None]:
    try:
        component = opened.component("PHOTOCALIB")
        if component is not None:
            stored = component[0].names.get(component[1])
            if stored not in (None, "PhotoCalib", "Calib"):
                raise UncalibratedImageError(
                    f"the image's calibration is a {stored}; PhotoCalib and Calib are supported",
                    fix="Give its zeropoint (photo_calib=PhotoCalib.from_zeropoint(...))",
                )
            return afw_objects.build_photo_calib(*component, unit=unit, candidates=candidates), None
        flux = card_value(opened.primary, "FLUXMAG0")
        if flux is not None:
            return PhotoCalib.from_fluxmag0(float(flux), unit, candidates=candidates), None
        if unit in ("nJy", "nanomaggy"):
            make = PhotoCalib.nanojansky if unit == "nJy" else PhotoCalib.nanomaggies
            return make(candidates=candidates), None
        raise UncalibratedImageError(
            "the image has neither a PhotoCalib nor FLUXMAG0",
            path=opened.path,
            hdu=0,
            fix="Calibrate the image, or give its zeropoint (photo_calib=PhotoCalib.from_zeropoint(...))",
        )
    except CalibrationError as error:
        return None, type(error)(
            error.message,
            path=error.path or opened.path,
            hdu=error.hdu if error.path else 0,
            key=error.key,
            fix=error.fix,
        )


def _psf(opened: AfwFile, valid_box: Box, *, allow_pickle: bool) -> tuple[PSF | None, PsfError | None]:
    component = opened.component("PSF")
    if component is None:
        return None, PsfError(
            "the image has no PSF",
            path=opened.path,
            hdu=0,
            key="PSF_ID",
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        )
    try:
        return build_psf(*component, valid_box=valid_box, allow_pickle=allow_pickle), None
    except PsfError as error:
        return None, error


def _gain(
    opened: AfwFile, unit: str, calib: PhotoCalib | None, xy0: tuple[int, int], shape: tuple[int, int]
) -> tuple[float | NDArray[np.float32] | None, str, str]:
    """Gain in electrons per image unit, its origin, and the reason if it is not known."""
    if _is_coadd(opened):
        return None, "", "a coadd's gain is not that of its inputs' amplifiers"
    # For an image in electrons, too, the gain is estimated from the variance plane, as in the pipelines.
    if unit != "adu":
        return None, "", f"the image is in {unit}, and the amplifiers' gains are of electrons per count"
    detector = opened.detector
    if detector is None:
        return None, "", "the file records no detector"
    flux_unit = flux_unit_of(float(calib.zeropoint())) if calib is not None and calib.is_constant else None
    if flux_unit is not None and not str(card_value(opened.header(), "BUNIT", "")).strip():
        return None, "", f"there is no BUNIT, and the calibration is that of an image in {flux_unit}"
    gain, name = detector.gain_map(xy0, shape), detector.name or detector.id
    if gain is None:
        return None, "", f"the amplifiers of detector {name} have no gains, or do not cover the image"
    return gain, f"amplifiers of detector {name} in the file", ""


def _calibration(
    opened: AfwFile, catalog: Path | None, instrument: str | None, *, allow_pickle: bool
) -> ImageCalibration:
    (ny, nx), (x0, y0) = shape, xy0 = image_shape(opened), image_xy0(opened)
    unit = _unit(opened)
    candidates = _candidates(opened, catalog, instrument)
    photo_calib, uncalibrated = _photo_calib(opened, unit, candidates)
    box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    psf, no_psf = _psf(opened, box, allow_pickle=allow_pickle)
    gain, gain_origin, no_gain = _gain(opened, unit, photo_calib, xy0, shape)
    return ImageCalibration(
        unit=unit if photo_calib is None else photo_calib.unit,
        wcs=image_wcs(opened, xy0),
        shape=shape,
        xy0=xy0,
        photo_calib=photo_calib,
        no_photo_calib=uncalibrated,
        candidates=candidates,
        psf=psf,
        no_psf=no_psf,
        gain=gain,
        gain_origin=gain_origin,
        no_gain=no_gain,
        has_variance="VARIANCE" in opened.hdus,
    )


def _read_planes(opened: AfwFile, found: ImageCalibration) -> xr.Dataset:
    planes: xr.Dataset = Planes.from_arrays(
        read_plane(opened, "IMAGE", np.float32),
        read_plane(opened, "VARIANCE", np.float32) if "VARIANCE" in opened.hdus else None,
        read_plane(opened, "MASK", np.int32),
        mask_planes=_mask_planes(opened.header("MASK"), opened.path),
        xy0=found.xy0,
        units=found.unit,
    )
    return planes


def _open_planes(opened: AfwFile, found: ImageCalibration, chunks: Chunks) -> xr.Dataset | None:
    """Planes that are read later; None if they can only be read as a whole."""
    found_planes = [StoredPlane.find(plane, exact=True) for plane in planes_of(opened)]
    stored = {plane.name: plane for plane in found_planes if plane is not None}
    if len(stored) < len(found_planes):
        return None
    names = _mask_planes(opened.header("MASK"), opened.path)
    planes: xr.Dataset = open_planes(stored, mask_planes=names, units=found.unit, xy0=found.xy0, chunks=chunks)
    return planes


def _mask_planes(header: fits.Header, path: Path) -> dict[str, int]:
    """Mask planes and their bit numbers: only the file's own MP_ cards say them."""
    planes: dict[str, int] = {}
    for key in header:
        if not key.upper().startswith("MP_"):
            continue
        bit, name = header[key], key[3:].upper()
        if isinstance(bit, bool) or not isinstance(bit, int) or bit >= _MASK_BITS or name.split() != [name]:
            raise FormatError(
                f"the mask plane {name!r} has bit {bit!r}; a word and a bit of 0 to {_MASK_BITS - 1} are needed",
                path=path,
                key=key,
                fix="Make or fetch the file again",
            )
        if bit >= 0:
            planes[name] = bit
    return planes


class LsstAfwFormat(Format):
    """Images that the LSST pipelines write with afw, such as ``calexp`` and ``deepCoadd_calexp``."""

    name: ClassVar[str] = "lsst_afw"
    looked_for: ClassVar[str] = "HDUs with EXTTYPE = IMAGE, MASK (and VARIANCE) behind an empty primary HDU"
    Options: ClassVar[type[ReadOptions]] = AfwOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file has afw's image and mask HDUs.

        Raises
        ------
        CorruptFileError
            If the file is missing, empty or damaged.
        """
        with mapped(path) as raw:
            return find_planes(raw) is not None

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image from headers and archive; see `Format.footprint`."""
        parsed = AfwOptions.parse(options, self.name, path)
        image, catalog = Path(path), source_catalog_of(path, parsed.source_catalog)
        with open_afw(path) as opened:
            xy0 = image_xy0(opened)
            return ImageFootprint.of(
                image,
                self.name,
                image_wcs(opened, xy0),
                image_shape(opened),
                xy0,
                data_id=_data_id(opened, parsed),
                visit_info=_visit_info(opened),
                files=[file for file in (image, catalog) if file is not None],
                hdu=opened.hdus["IMAGE"],
            )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`.

        If the PSF cannot be read, ``extra[NO_PSF]`` is the reason. ``extra`` also contains ``"coadd_inputs"`` (whether
        this is a coadd that lists its inputs), ``"valid_polygon"`` (vertices, or None) and ``"aperture_corrections"``
        (names of flux fields).
        """
        return self._exposure(path, None, options)

    def open(self, path: StrPath, *, chunks: Chunks = None, **options: Any) -> Exposure:
        """Open an exposure; see `Format.open`. What `read` adds to ``extra`` is there too."""
        return self._exposure(path, (chunks,), options)

    def _exposure(self, path: StrPath, lazy: tuple[Chunks] | None, options: Mapping[str, Any]) -> Exposure:
        """The exposure, with its planes, or with planes in such chunks that are read later."""
        parsed = AfwOptions.parse(options, self.name, path)
        image, catalog = Path(path), source_catalog_of(path, parsed.source_catalog)
        stamps = identify_files([p for p in (image, catalog) if p is not None])
        with open_afw(path) as opened:
            data_id = _data_id(opened, parsed)
            found = _calibration(opened, catalog, data_id.instrument, allow_pickle=parsed.allow_pickle)
            planes = None if lazy is None else _open_planes(opened, found, *lazy)
            whole = planes is None
            if lazy is not None and whole:
                return super().open(path, chunks=lazy[0], **options)
            exposure = Exposure(
                planes=_read_planes(opened, found) if planes is None else planes,
                wcs=found.wcs,
                psf=found.psf,
                photo_calib=found.photo_calib,
                data_id=data_id,
                visit_info=_visit_info(opened),
                gain=found.gain,
                gain_origin=found.gain_origin,
                path=image,
                format=self.name,
                header=Headers([(0, opened.primary)]).as_dict(),
                extra={
                    FILES: stamps,
                    **_extras(opened),
                    **found.extra(),
                    **({CAUTION: opened.caution} if opened.caution else {}),
                },
            )
            return with_fingerprints(exposure, planes_of(opened)) if whole else exposure

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration from headers, archive and source catalogue; see `Format.calibration`."""
        parsed = AfwOptions.parse(options, self.name, path)
        catalog = source_catalog_of(path, parsed.source_catalog)
        with open_afw(path) as opened:
            return _calibration(opened, catalog, _data_id(opened, parsed).instrument, allow_pickle=parsed.allow_pickle)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the three planes into a copy of `like`; see `Format.write`.

        Mask planes that `like` does not have get MP_ cards. With an INJECTED plane the primary header gets
        HAS-SIMULATED-CONTENT, which the pipelines read, and the calibration reference (CALAPRAD or CALAPREF, CALAPORG),
        because the source catalogue that records it is not copied. With a `Lineage` in ``extra`` it names the Butler
        dataset and its inputs. All other HDUs are copied byte for byte.
        """
        refuse_overwrite(path, [like], overwrite=overwrite)
        with open_afw(like, archive=False) as opened:
            hdus, places, primary = dict(opened.hdus), planes_of(opened), list(opened.primary)
            known = _mask_planes(opened.header("MASK"), opened.path)
        wanted = {name: (value & 0xFFFFFFFF).bit_length() - 1 for name, value in exposure.mask_planes.items()}
        for name, bit in wanted.items():
            other = next((n for n, b in known.items() if b == bit), name)
            if known.get(name, bit) != bit or other != name:
                raise FormatError(
                    f"mask plane {name} is bit {bit} here, but that file says "
                    f"{f'bit {known[name]}' if name in known else f'that this bit is {other}'}",
                    path=like,
                    hdu=hdus["MASK"],
                    fix="Give the file that the exposure was read from as like=",
                )
        cards: dict[str, tuple[Any, str] | None] = {
            f"MP_{name}": (bit, "") for name, bit in wanted.items() if name not in known
        }
        updates: dict[int, CardUpdates] = {hdus["MASK"]: cards}
        if _INJECTED in wanted:
            updates[0] = {
                _SIMULATED: (True, "Was any part of this observation simulated?"),
                **_reference_cards(exposure.photo_calib),
            }
        if (lineage := exposure.extra.get(LINEAGE)) is not None:
            updates[0] = {**updates.get(0, {}), **lineage.cards(primary)}
        images: dict[int, NDArray[Any]] = {hdus["IMAGE"]: exposure.image, hdus["MASK"]: exposure.mask}
        if exposure.variance is not None and "VARIANCE" in hdus:
            images[hdus["VARIANCE"]] = exposure.variance
        changes = {plane.hdu: find_touched(exposure, plane) for plane in places}
        touched = {hdu: tiles for hdu, tiles in changes.items() if tiles is not None}
        return (rewrite_fits(like, path, images, updates, overwrite, touched=touched),)


def _is_coadd(opened: AfwFile) -> bool:
    """Whether the image lists inputs; the list may exist but be empty in a single image."""
    component = opened.component("COADD_INPUTS")
    return component is not None and any(component[0].get(component[1]).catalogs)


def _reference_cards(photo_calib: PhotoCalib | None) -> CardUpdates:
    """Cards of the calibration reference, since the source catalogue that records it is not copied."""
    if photo_calib is None or photo_calib.reference is None:
        return {}
    recorded = photo_calib.reference_origin.encode("ascii", "replace").decode()
    origin = {"CALAPORG": (recorded[:68], "")}
    if photo_calib.aperture is None:
        return {"CALAPREF": (str(photo_calib.reference), "what calibrated flux is the flux of"), **origin}
    return {"CALAPRAD": (photo_calib.aperture.radius_pixels, "[pix] radius of the calibration aperture"), **origin}


def _extras(opened: AfwFile) -> dict[str, Any]:
    detector = opened.detector
    polygon, corrections = opened.side_component("VALID_POLYGON"), opened.side_component("AP_CORR_MAP")
    return {
        COADD_INPUTS: opened.component("COADD_INPUTS") is not None,
        AMPLIFIERS: () if detector is None else tuple(detector.boxes),
        "valid_polygon": None if polygon is None else afw_objects.build_polygon(*polygon),
        "aperture_corrections": () if corrections is None else afw_objects.build_apcorr_names(*corrections),
        **({COADD_NOISE: CoaddNoise()} if _is_coadd(opened) else {}),
    }
