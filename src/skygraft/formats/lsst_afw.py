"""Exposures of the LSST pipelines' afw library: calexps and coadds, old and new, without the pipelines."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import (
    CalibrationError,
    CorruptFileError,
    FormatError,
    PsfError,
    SkygraftError,
    UncalibratedImageError,
)
from skygraft.exposure import COADD_NOISE, DataId, Exposure, VisitInfo, make_planes
from skygraft.formats import afw_objects
from skygraft.formats.afw_archive import Archive, component_id
from skygraft.formats.afw_names import find_source_catalog, parse_name
from skygraft.formats.afw_psfs import build_psf
from skygraft.formats.base import (
    FILES,
    Format,
    ImageCalibration,
    ImageFootprint,
    ReadOptions,
    StrPath,
    refuse_overwrite,
    stamp_files,
)
from skygraft.formats.fits_fingerprints import find_touched, with_fingerprints
from skygraft.formats.fits_gain import flux_unit_of
from skygraft.formats.fits_headers import Headers, band_name, read_visit_info
from skygraft.formats.fits_layout import Plane, Role
from skygraft.formats.fitsfile.cards import CardUpdates, card_value, header_of
from skygraft.formats.fitsfile.open import RawFits, map_fits
from skygraft.formats.fitsfile.pixels import PixelScaling
from skygraft.formats.fitsfile.rewrite import rewrite_fits
from skygraft.formats.fitsfile.tiles import TiledImage, tile_shape_of
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
from skygraft.psf import PSF, Box
from skygraft.wcs import footprint, pixel_scale, read_fits_wcs

__all__ = ["AfwOptions", "LsstAfwFormat"]

type GivenCatalog = str | os.PathLike[str] | Literal[False] | None

_PLANES = ("IMAGE", "MASK", "VARIANCE")
_SIMULATED = "HAS-SIMULATED-CONTENT"
_INJECTED = "INJECTED"
_TABLE_KEYS = re.compile(r"Z[A-Z]+\d*$|TTYPE\d+$|TFORM\d+$|TFIELDS$|PCOUNT$|GCOUNT$|XTENSION$|THEAP$")


@dataclass(frozen=True)
class AfwOptions(ReadOptions):
    """What the file does not say, or not rightly.

    Parameters
    ----------
    source_catalog : path or False, optional
        The source catalogue (FITS or Parquet) that says in its schema which flux the calibration is of; by default
        it is looked for beside the image (`find_source_catalog`); False for none.
    instrument, visit, detector, tract, patch, band : optional
        Parts of the data id.
    """

    source_catalog: GivenCatalog = None
    instrument: str | None = None
    visit: int | None = None
    detector: int | str | None = None
    tract: int | None = None
    patch: int | None = None
    band: str | None = None


@dataclass(frozen=True)
class _Opened:
    """An afw file whose headers were read."""

    raw: RawFits
    primary: fits.Header
    hdus: dict[str, int]
    archive: Archive | None

    @property
    def path(self) -> Path:
        return self.raw.path

    def header(self, plane: str = "IMAGE") -> fits.Header:
        return header_of(self.raw.header_cards(self.hdus[plane]))

    def component(self, name: str) -> tuple[Archive, int] | None:
        key = component_id(self.primary, name)
        return None if self.archive is None or not key else (self.archive, key)


@contextlib.contextmanager
def _damage_named(path: StrPath) -> Iterator[None]:
    """Name the file where a header or a table of the archive makes no sense; astropy's warnings are silenced."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)
            yield
    except SkygraftError:
        raise
    except (KeyError, IndexError, ValueError, OverflowError, VerifyError) as error:
        raise CorruptFileError(
            f"a header or a table of the file is damaged ({error})", path=path, fix="Copy or download the file again"
        ) from error


@contextlib.contextmanager
def _open(path: StrPath) -> Iterator[_Opened]:
    with map_fits(path) as raw, _damage_named(path):
        hdus = _find_planes(raw)
        if hdus is None:
            raise FormatError(
                "this is no afw exposure: it has no HDU with EXTTYPE or EXTNAME = IMAGE followed by one with MASK",
                path=path,
                fix="Name the format that it is in (format=)",
            )
        primary = header_of(raw.header_cards(0))
        index = card_value(primary, "AR_HDU")
        yield _Opened(raw, primary, hdus, None if index is None else Archive(raw, int(index) - 1))


def _find_planes(raw: RawFits) -> dict[str, int] | None:
    """HDU numbers of the planes; None where the file is not laid out as afw does."""
    hdus: dict[str, int] = {}
    for span in raw.spans[1:4]:
        header = header_of(raw.header_cards(span.index))
        kind = str(card_value(header, "EXTTYPE", "")).strip()
        if kind in _PLANES and (header.get("XTENSION") == "IMAGE" or card_value(header, "ZIMAGE", False)):
            hdus.setdefault(kind, span.index)
    return hdus if {"IMAGE", "MASK"} <= hdus.keys() else None


def _planes(opened: _Opened) -> list[Plane]:
    roles: dict[str, Role] = {"IMAGE": "image", "MASK": "mask", "VARIANCE": "variance"}
    planes = []
    for name, index in opened.hdus.items():
        header = opened.header(name)
        tiles = tile_shape_of(header) if card_value(header, "ZIMAGE", False) else None
        planes.append(Plane(roles[name], opened.path, index, tiles))
    return planes


def _read_plane(opened: _Opened, plane: str, dtype: type[np.generic]) -> NDArray[Any]:
    index, header = opened.hdus[plane], opened.header(plane)
    span = opened.raw.spans[index]
    data = opened.raw.buffer[span.data_start : span.data_start + span.data_size]
    if card_value(header, "ZIMAGE", False):
        return TiledImage(header, data, path=opened.path, hdu=index).decode(np.dtype(dtype))
    scaling = PixelScaling.from_header(header)
    return scaling.decode(np.frombuffer(data, scaling.dtype).reshape(_shape(opened, plane)), np.dtype(dtype))


def _shape(opened: _Opened, plane: str = "IMAGE") -> tuple[int, int]:
    header = opened.header(plane)
    axes = "ZNAXIS" if card_value(header, "ZIMAGE", False) else "NAXIS"
    if header[axes] != 2:
        raise FormatError(
            f"the {plane.lower()} has {header[axes]} axes, not two", path=opened.path, hdu=opened.hdus[plane]
        )
    return int(header[f"{axes}2"]), int(header[f"{axes}1"])


def _xy0(header: fits.Header) -> tuple[int, int]:
    """Parent coordinates of the first pixel: the pixel WCS "A", or, where there is none, LTV."""
    if card_value(header, "CRPIX1A") == 1 and card_value(header, "CRPIX2A") == 1:
        return round(card_value(header, "CRVAL1A", 0)), round(card_value(header, "CRVAL2A", 0))
    return -round(card_value(header, "LTV1", 0)), -round(card_value(header, "LTV2", 0))


def _wcs(opened: _Opened, xy0: tuple[int, int]) -> BaseLowLevelWCS:
    component = opened.component("SKYWCS")
    if component is not None and component[0].names.get(component[1]) == "SkyWcs":
        return afw_objects.build_wcs(*component)
    header = opened.header()
    if card_value(header, "ZIMAGE", False):
        ny, nx = _shape(opened)
        header = fits.Header([card for card in header.cards if not _TABLE_KEYS.match(card.keyword)])
        header["NAXIS1"], header["NAXIS2"] = nx, ny
    return read_fits_wcs(header, xy0=xy0, path=opened.path, hdu=opened.hdus["IMAGE"])


def _detector(opened: _Opened) -> afw_objects.Detector | None:
    component = opened.component("DETECTOR")
    return None if component is None else afw_objects.build_detector(*component)


def _band(opened: _Opened) -> str | None:
    component = opened.component("FILTER")
    if component is not None:
        band, physical = afw_objects.build_filter(*component)
        return band or (band_name(physical) if physical else None)
    name = str(card_value(opened.primary, "FILTER", "")).strip()
    return band_name(name) if name not in ("", "_unknown_") else None


def _data_id(opened: _Opened, options: AfwOptions) -> DataId:
    stem, named_visit, named_detector = parse_name(opened.path)
    detector = _detector(opened)
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


def _visit_info(opened: _Opened) -> VisitInfo:
    headers = Headers([(0, opened.primary)])
    found = read_visit_info(headers)
    time = found.exposure_time if found.exposure_time and np.isfinite(found.exposure_time) else None
    middle = str(card_value(opened.primary, "TIME-MID", ""))
    if found.mjd is None and time and middle:
        # The oldest files: UTC, ending in Z. Without an exposure time it is only the epoch's zero.
        old = fits.Header([("DATE-AVG", middle.rstrip("Z")), ("TIMESYS", "UTC")])
        found = read_visit_info(Headers([(0, old)]))
    return VisitInfo(found.mjd, time if time and time > 0 else None)


def _files(path: Path, options: AfwOptions) -> tuple[Path, Path | None]:
    if options.source_catalog is False:
        return path, None
    return path, find_source_catalog(path) if options.source_catalog is None else Path(options.source_catalog)


def _candidates(opened: _Opened, catalog: Path | None, instrument: str | None) -> tuple[ReferenceCandidate, ...]:
    found = [*header_candidates(opened.primary, path=opened.path, hdu=0)]
    if catalog is not None:
        found += schema_candidates(catalog, keep_unclear=True)
    component = opened.component("AP_CORR_MAP")
    if component is not None:
        origin = f"the aperture corrections of {opened.path.name}"
        found += aperture_correction_hints(afw_objects.build_apcorr_names(*component), origin)
    default = default_candidate(instrument)
    return tuple([*found, default] if default is not None else found)


def _unit(opened: _Opened) -> str:
    return canonical_unit(str(card_value(opened.header(), "BUNIT", "adu")).strip() or "adu")


def _photo_calib(
    opened: _Opened, unit: str, candidates: tuple[ReferenceCandidate, ...]
) -> tuple[PhotoCalib | None, CalibrationError | None]:
    try:
        component = opened.component("PHOTOCALIB")
        if component is not None:
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


def _psf(opened: _Opened, valid_box: Box) -> tuple[PSF | None, PsfError | None]:
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
        return build_psf(*component, valid_box=valid_box), None
    except PsfError as error:
        return None, error


def _gain(
    opened: _Opened, unit: str, calib: PhotoCalib | None, xy0: tuple[int, int], shape: tuple[int, int]
) -> tuple[float | NDArray[np.float32] | None, str, str]:
    """Electrons per image unit, where they are recorded, and why they are not known."""
    if _is_coadd(opened):
        return None, "", "a coadd's gain is not that of its inputs' amplifiers"
    # An image in electrons is no exception: what its variance plane says is what the pipelines go by, too.
    if unit != "adu":
        return None, "", f"the image is in {unit}, and the amplifiers' gains are of electrons per count"
    detector = _detector(opened)
    if detector is None:
        return None, "", "the file records no detector"
    flux_unit = flux_unit_of(float(calib.zeropoint())) if calib is not None and calib.is_constant else None
    if flux_unit is not None and not str(card_value(opened.header(), "BUNIT", "")).strip():
        return None, "", f"there is no BUNIT, and the calibration is that of an image in {flux_unit}"
    gain, name = detector.gain_map(xy0, shape), detector.name or detector.id
    if gain is None:
        return None, "", f"the amplifiers of detector {name} have no gains, or do not cover the image"
    return gain, f"amplifiers of detector {name} in the file", ""


def _calibration(opened: _Opened, catalog: Path | None, instrument: str | None) -> ImageCalibration:
    (ny, nx), (x0, y0) = shape, xy0 = _shape(opened), _xy0(opened.header())
    unit = _unit(opened)
    candidates = _candidates(opened, catalog, instrument)
    photo_calib, uncalibrated = _photo_calib(opened, unit, candidates)
    psf, no_psf = _psf(opened, Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5))
    gain, gain_origin, no_gain = _gain(opened, unit, photo_calib, xy0, shape)
    return ImageCalibration(
        unit=unit if photo_calib is None else photo_calib.unit,
        wcs=_wcs(opened, xy0),
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


def _mask_planes(header: fits.Header) -> dict[str, int]:
    """Mask planes and their bit numbers: only the file's own MP_ cards say them."""
    return {
        key[3:].upper(): int(header[key])
        for key in header
        if key.upper().startswith("MP_") and isinstance(header[key], int) and header[key] >= 0
    }


class LsstAfwFormat(Format):
    """Images that the LSST pipelines wrote with afw: ``calexp``, ``deepCoadd_calexp`` and their kin."""

    name: ClassVar[str] = "lsst_afw"
    looked_for: ClassVar[str] = "HDUs with EXTTYPE = IMAGE, MASK (and VARIANCE) behind an empty primary HDU"
    Options: ClassVar[type[ReadOptions]] = AfwOptions

    def matches(self, path: StrPath) -> bool:
        """Whether the file has afw's image and mask HDUs.

        Raises
        ------
        CorruptFileError
            If the file is missing, empty or damaged.
        """
        with map_fits(path) as raw, _damage_named(path):
            return _find_planes(raw) is not None

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Where the image lies on the sky, from headers and archive; see `Format.footprint`."""
        parsed = AfwOptions.parse(options, self.name, path)
        image, catalog = _files(Path(path), parsed)
        files = tuple(os.fspath(p) for p in (image, catalog) if p is not None)
        with _open(path) as opened:
            ny, nx = shape = _shape(opened)
            x0, y0 = xy0 = _xy0(opened.header())
            wcs = _wcs(opened, xy0)
            corners = footprint(wcs, Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5))
            x, y = x0 + (nx - 1) / 2, y0 + (ny - 1) / 2
            ra, dec = wcs.pixel_to_world_values(x, y)
            return ImageFootprint(
                path=image,
                format=self.name,
                data_id=_data_id(opened, parsed),
                visit_info=_visit_info(opened),
                shape=shape,
                xy0=xy0,
                corners=corners,
                center=(float(ra), float(dec)),
                pixel_scale=float(pixel_scale(wcs, x, y)[0]),
                hdu=opened.hdus["IMAGE"],
                n_bytes=sum(Path(p).stat().st_size for p in files),
                files=files,
            )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`. A PSF that cannot be read leaves its reason in ``extra[NO_PSF]``.

        ``extra`` also holds ``"coadd_inputs"`` (whether it is a coadd that lists its inputs), ``"valid_polygon"``
        (vertices, or None) and ``"aperture_corrections"`` (names of flux fields).
        """
        parsed = AfwOptions.parse(options, self.name, path)
        image, catalog = _files(Path(path), parsed)
        stamps = stamp_files([p for p in (image, catalog) if p is not None])
        with _open(path) as opened:
            data_id = _data_id(opened, parsed)
            found = _calibration(opened, catalog, data_id.instrument)
            planes = make_planes(
                _read_plane(opened, "IMAGE", np.float32),
                _read_plane(opened, "VARIANCE", np.float32) if "VARIANCE" in opened.hdus else None,
                _read_plane(opened, "MASK", np.int32),
                mask_planes=_mask_planes(opened.header("MASK")),
                xy0=found.xy0,
                units=found.unit,
            )
            exposure = Exposure(
                planes=planes,
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
                extra={FILES: stamps, **_extras(opened), **found.extra()},
            )
            return with_fingerprints(exposure, _planes(opened))

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """What headers, archive and source catalogue say of the calibration; see `Format.calibration`."""
        parsed = AfwOptions.parse(options, self.name, path)
        _, catalog = _files(Path(path), parsed)
        with _open(path) as opened:
            return _calibration(opened, catalog, _data_id(opened, parsed).instrument)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the three planes into a copy of `like`; see `Format.write`.

        Mask planes that `like` does not have get their MP_ card, and with an INJECTED plane the primary header says
        HAS-SIMULATED-CONTENT, which the pipelines read, and what the calibrated flux is the flux of (CALAPRAD or
        CALAPREF, CALAPORG), because the source catalogue stays with the input. All other HDUs are the same bytes.
        """
        refuse_overwrite(path, [like], overwrite=overwrite)
        with _open(like) as opened:
            hdus, places = dict(opened.hdus), _planes(opened)
            known = _mask_planes(opened.header("MASK"))
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
        images: dict[int, NDArray[Any]] = {hdus["IMAGE"]: exposure.image, hdus["MASK"]: exposure.mask}
        if exposure.variance is not None and "VARIANCE" in hdus:
            images[hdus["VARIANCE"]] = exposure.variance
        told = {plane.hdu: find_touched(exposure, plane) for plane in places}
        touched = {hdu: tiles for hdu, tiles in told.items() if tiles is not None}
        return (rewrite_fits(like, path, images, updates, overwrite, touched=touched),)


def _is_coadd(opened: _Opened) -> bool:
    """Whether the image lists inputs: a single image may carry an empty list."""
    component = opened.component("COADD_INPUTS")
    return component is not None and any(component[0].get(component[1]).catalogs)


def _reference_cards(photo_calib: PhotoCalib | None) -> CardUpdates:
    """Cards that say what the calibrated flux is the flux of: the source catalogue stays with the input."""
    if photo_calib is None or photo_calib.reference is None:
        return {}
    told = photo_calib.reference_origin.encode("ascii", "replace").decode()
    origin = {"CALAPORG": (told[:68], "")}
    if photo_calib.aperture is None:
        return {"CALAPREF": (str(photo_calib.reference), "what calibrated flux is the flux of"), **origin}
    return {"CALAPRAD": (photo_calib.aperture.radius_pixels, "[pix] radius of the calibration aperture"), **origin}


def _extras(opened: _Opened) -> dict[str, Any]:
    polygon, corrections = opened.component("VALID_POLYGON"), opened.component("AP_CORR_MAP")
    return {
        "coadd_inputs": opened.component("COADD_INPUTS") is not None,
        "valid_polygon": None if polygon is None else afw_objects.build_polygon(*polygon),
        "aperture_corrections": () if corrections is None else afw_objects.build_apcorr_names(*corrections),
        **({COADD_NOISE: CoaddNoise()} if _is_coadd(opened) else {}),
    }
