"""CCD images of the Legacy Surveys: Community Pipeline products, calibrated by the survey's own tables.

An image (``*_ooi_*``) has its inverse variance (``*_oow_*``) and data quality (``*_ood_*``) in the same directory.
Zeropoint, gain and astrometric offset come from the survey-ccds table, the PSF from the survey's PSFEx models; MAGZERO
in the header is older than both and is not used.

Injected sources are marked in a separate file (``*_injected_*``, a bit mask with ``MP_<NAME>`` cards). The data
quality file is copied unchanged: newer versions have one code per pixel instead of bits, and readers treat every
non-zero value as a bad pixel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.cards import card_value
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import (
    FILES,
    Format,
    ImageCalibration,
    ImageFootprint,
    ReadOptions,
    StrPath,
    identify_files,
)
from skygraft.formats.fits_fingerprints import with_fingerprints
from skygraft.formats.fits_headers import Headers, band_name, read_visit_info
from skygraft.formats.fits_layout import HduInfo, inherited_headers, is_flat, list_hdus
from skygraft.formats.fits_planes import read_mask, read_pixels, variance_from_noise
from skygraft.formats.fits_units import image_unit
from skygraft.formats.fits_write import write_planes
from skygraft.formats.given import GivenPsf, make_psf
from skygraft.formats.legacy_dq import dq_kind_of, read_dq
from skygraft.formats.legacy_gain import PER_SECOND, read_legacy_gain
from skygraft.formats.legacy_layout import LegacyLayout, find_layout
from skygraft.formats.legacy_tables import CcdRow, beside, find_ccds, find_psfex, find_root, find_row
from skygraft.photometry import PhotoCalib, ReferenceCandidate, default_candidate, header_candidates
from skygraft.planes import Planes
from skygraft.psf import PSF, read_psfex
from skygraft.wcs import FitsWcs, check_pixel_scale, pixel_scale, read_fits_wcs

__all__ = ["LegacySurveyFormat", "LegacySurveyOptions"]

_LAYOUT = "legacy_layout"
_DQ = "legacy_dq"


@dataclass(frozen=True)
class LegacySurveyOptions(ReadOptions):
    """Reading options of CCD images of the Legacy Surveys.

    Parameters
    ----------
    ccds : path or sequence of paths, optional
        The survey-ccds table; by default it is searched for in the directories above the image.
    root : path, optional
        The survey directory, which contains ``calib``; by default the table's directory or, if that has no ``calib``,
        the nearest one above the image that has.
    hdu, ccdname : int or str, str, optional
        The CCD, if the file has several.
    dq : {"codes", "bits"}, optional
        Encoding of data quality, if the pipeline's version (PLVER) does not determine it.
    zeropoint_column : {"zpt", "ccdzpt"}
        Column of the zeropoint: that of the exposure (default) or of the CCD.
    astrometry : {"ccds", "header"}
        With "ccds" the table's astrometric offsets (ccdraoff, ccddecoff) are added to the header's WCS, as the survey
        does; with "header" the WCS is not changed.
    weight, mask : bool
        False if the image has no such file.
    psf : PSF, path, mapping or False, optional
        Replaces the survey's PSFEx model; see `skygraft.formats.given.make_psf`; False for none.
    """

    ccds: StrPath | Sequence[StrPath] | None = None
    root: StrPath | None = None
    hdu: int | str | None = None
    ccdname: str | None = None
    dq: Literal["codes", "bits"] | None = None
    zeropoint_column: Literal["zpt", "ccdzpt"] = "zpt"
    astrometry: Literal["ccds", "header"] = "ccds"
    weight: bool = True
    mask: bool = True
    psf: GivenPsf | bool | None = None

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[Any, ...]] = {
            "dq": (None, "codes", "bits"),
            "zeropoint_column": ("zpt", "ccdzpt"),
            "astrometry": ("ccds", "header"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(str(v) for v in values if v)}", key=name
                )


@dataclass(frozen=True)
class _Opened:
    """An image with its headers and table row."""

    path: Path
    hdus: tuple[HduInfo, ...]
    image: HduInfo
    headers: Headers
    row: CcdRow
    root: Path
    layout: LegacyLayout
    psf: Path | None
    looked_for_psf: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        files = [*self.layout.files().values(), self.psf]
        return tuple(p for p in files if p is not None)

    @property
    def primary(self) -> fits.Header:
        return self.hdus[0].header

    @property
    def camera(self) -> str:
        return self.row.text("camera").lower()

    @property
    def exposure_time(self) -> float | None:
        return self.row.number("exptime")


class LegacySurveyFormat(Format):
    """CCD images of the Legacy Surveys (DECam, 90prime, Mosaic-3), calibrated by the survey-ccds table.

    Pixel coordinates are those of the file, also for cut-outs. The calibrated flux is the amplitude of a unit-sum PSF
    fit (`PSF_MODEL`), as registered for the Legacy Surveys from data release 8 on.
    """

    name: ClassVar[str] = "legacy_survey"
    looked_for: ClassVar[str] = "a FITS image called *_ooi_* (Community Pipeline)"
    Options: ClassVar[type[LegacySurveyOptions]] = LegacySurveyOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS and named like an image of the Community Pipeline."""
        name = Path(path).name
        if "_ooi_" not in name or name.endswith(".psf") or not is_fits(path):
            return False
        return any(map(is_flat, list_hdus(path)))

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        wcs = self._wcs(opened, given)
        ny, nx = opened.image.shape or (0, 0)
        return ImageFootprint.of(
            opened.path,
            self.name,
            wcs,
            (ny, nx),
            data_id=self._data_id(opened),
            visit_info=self._visit_info(opened),
            files=opened.files,
            hdu=opened.image.index,
            pinned={"ccds": os.fspath(opened.row.table.absolute()), "root": os.fspath(opened.root.absolute())},
        )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        stamps, layout = identify_files(opened.files), opened.layout
        found = self._calibration(opened, given)
        image, _ = read_pixels(layout.planes.image)
        variance = None
        if layout.planes.noise is not None:
            variance = variance_from_noise("weight", read_pixels(layout.planes.noise)[0])
        mask, planes, dq_kind = self._mask(opened, given, image.shape)
        exposure = Exposure(
            Planes.from_arrays(image, variance, mask, mask_planes=planes, units=found.unit),
            found.wcs,
            psf=found.psf,
            photo_calib=found.photo_calib,
            data_id=self._data_id(opened),
            visit_info=self._visit_info(opened),
            gain=found.gain,
            gain_origin=found.gain_origin,
            path=opened.path,
            format=self.name,
            header=opened.headers.as_dict(),
            extra={FILES: stamps, _LAYOUT: layout, _DQ: dq_kind, **found.extra()},
        )
        return with_fingerprints(exposure, layout.planes.planes)

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration from headers, survey table and PSF model; see `Format.calibration`."""
        given = self.Options.parse(options, self.name, path)
        return self._calibration(self._open(path, given), given)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write image, weight and data quality to one directory; see `Format.write`.

        Mask planes that the data quality file does not have (``INJECTED``) are written to an ``*_injected_*`` file.

        Raises
        ------
        FormatError
            If a mask plane of the data quality file was changed, or the output is not named ``*_ooi_*``.
        """
        source, target = Path(like), Path(path)
        if "_ooi_" not in target.name:
            raise FormatError(
                "the output is not called *_ooi_*, so its weight and data quality could not be found",
                path=target,
                fix=f"Keep the input's name ({source.name}), in another directory",
            )
        layout = exposure.extra.get(_LAYOUT)
        if not isinstance(layout, LegacyLayout) or layout.planes.image.path != source:
            layout = find_layout(source, list_hdus(source))
        outputs = {
            p: target if kind == "ooi" else beside(target, kind)
            for kind, p in layout.files().items()
            if kind != "injected"
        }
        marks = self._new_planes(exposure, layout)
        masks = {beside(target, "injected"): marks} if marks is not None else {}
        return write_planes(exposure, layout.planes, outputs, new_masks=masks, overwrite=overwrite)

    def _new_planes(self, exposure: Exposure, layout: LegacyLayout) -> tuple[NDArray[np.int32], dict[str, int]] | None:
        """Bits and names of mask planes that the data quality file does not have; None if none of them is set."""
        dq_planes: dict[str, int] = {}
        if layout.dq is not None:
            kind = exposure.extra.get(_DQ) or dq_kind_of(layout.dq, None, "")
            dq, dq_planes = read_dq(layout.dq, kind)
            for name, bit in dq_planes.items():
                now = (exposure.mask & exposure.mask_planes.get(name, 0)) != 0
                if not np.array_equal(now, (dq >> bit & 1) != 0):
                    raise FormatError(
                        f"mask plane {name} was changed, and data quality files are only copied",
                        path=layout.dq.path,
                        hdu=layout.dq.hdu,
                        fix="Use another mask plane for new flags",
                    )
        new = {name: value for name, value in exposure.mask_planes.items() if name not in dq_planes}
        bits = np.int32(np.bitwise_or.reduce(np.array([*new.values(), 0], dtype=np.int32)))
        marks: NDArray[np.int32] = exposure.mask & bits
        return (marks, new) if marks.any() else None

    def _open(self, path: StrPath, given: LegacySurveyOptions) -> _Opened:
        path = Path(path)
        if "_ooi_" not in path.name:
            raise FormatError(
                "an image of the Legacy Surveys is called *_ooi_*", path=path, fix="Give that file, under that name"
            )
        hdus = list_hdus(path)
        wanted = given.ccdname if given.ccdname is not None else given.hdu
        layout = find_layout(path, hdus, wanted, weight=given.weight, mask=given.mask)
        image = hdus[layout.planes.image.hdu]
        tables = find_ccds(path, given.ccds)
        row = find_row(path, tables, ccdname=image.name, hdu=image.index)
        root = find_root(path, row.table) if given.root is None else Path(given.root)
        psf, looked = (None, ()) if given.psf is not None and given.psf is not True else find_psfex(root, row)
        return _Opened(path, hdus, image, inherited_headers(hdus, image.index), row, root, layout, psf, looked)

    def _wcs(self, opened: _Opened, given: LegacySurveyOptions) -> FitsWcs:
        header, hdu = opened.image.header, opened.image.index
        names = ("ccdraoff", "ccddecoff")
        offsets = tuple(opened.row.number(name) for name in names)
        if given.astrometry == "header" or offsets == (None, None):
            return read_fits_wcs(header, path=opened.path, hdu=hdu)
        if None in offsets:
            # Tables have both or neither; with one of them the image would lie beside its place.
            lost = names[offsets.index(None)]
            raise FormatError(
                f"{opened.row.origin} has one astrometric offset, but no {lost}",
                path=opened.row.table,
                key=lost,
                fix="Restore the column, or read with astrometry='header'",
            )
        values = [card_value(header, f"CRVAL{axis}") for axis in (1, 2)]
        # A CRVAL that is not a number is refused by `read_fits_wcs`, which names it.
        if all(isinstance(value, int | float) for value in values):
            # Arcsec, measured against the survey's reference catalogue; the RA offset is a true angle.
            ra, dec = (offset or 0.0 for offset in offsets)
            header = header.copy()
            header["CRVAL1"] = values[0] + ra / 3600 / math.cos(math.radians(values[1]))
            header["CRVAL2"] = values[1] + dec / 3600
        return read_fits_wcs(header, path=opened.path, hdu=hdu)

    def _data_id(self, opened: _Opened) -> DataId:
        row = opened.row
        return DataId(
            instrument=row.text("camera") or None,
            visit=int(row.values["expnum"]),
            detector=row.text("ccdname"),
            band=band_name(row.text("filter")),
            name=opened.path.name.split(".fits")[0],
        )

    def _visit_info(self, opened: _Opened) -> VisitInfo:
        return read_visit_info(opened.headers, exposure_time=opened.exposure_time)

    def _calibration(self, opened: _Opened, given: LegacySurveyOptions) -> ImageCalibration:
        wcs = self._wcs(opened, given)
        ny, nx = opened.image.shape or (0, 0)
        unit, photo_calib, missing = self._photo_calib(opened, given)
        gain = read_legacy_gain(opened.headers, opened.row)
        scale = float(np.ravel(pixel_scale(wcs, (nx - 1) / 2, (ny - 1) / 2))[0])
        check_pixel_scale(scale, opened.path)
        psf = self._psf(opened, given, scale)
        return ImageCalibration(
            unit=unit,
            wcs=wcs,
            shape=(ny, nx),
            photo_calib=photo_calib,
            no_photo_calib=missing,
            candidates=self._candidates(opened),
            psf=None if isinstance(psf, PsfError) else psf,
            no_psf=psf if isinstance(psf, PsfError) else None,
            gain=gain.value,
            gain_origin=gain.origin,
            no_gain=gain.reason,
            has_variance=opened.layout.planes.noise is not None,
            n_files=len(opened.layout.files().keys() | {"injected"}),
        )

    def _candidates(self, opened: _Opened) -> tuple[ReferenceCandidate, ...]:
        found: list[ReferenceCandidate] = []
        for header in (opened.image.header, opened.primary):
            found += header_candidates(header, opened.path, opened.image.index)
        default = default_candidate("Legacy Surveys")
        return tuple(dict.fromkeys(found if default is None else [*found, default]))

    def _photo_calib(
        self, opened: _Opened, given: LegacySurveyOptions
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        """Unit of the pixels, their calibration, and the reason if there is none."""
        row, camera, column = opened.row, opened.camera, given.zeropoint_column
        per_second = PER_SECOND.get(camera)
        unit = "adu/s" if per_second else "adu"
        zeropoint, seconds = row.number(column), opened.exposure_time
        place: dict[str, Any] = {"path": row.table, "row": row.row}
        if per_second is None:
            error: CalibrationError = CalibrationError(
                f"camera {camera!r} has no known rule for its zeropoint; those that have: {', '.join(PER_SECOND)}",
                **place,
                key="camera",
                fix="Give the calibration of the image (photo_calib=)",
            )
        elif (stated := image_unit(opened.headers)).unit.kind not in ("counts", "electrons", "other"):
            error = CalibrationError(
                f"the header says that the image is in {stated.name}; the table's zeropoints are of counts",
                path=opened.path,
                hdu=opened.image.index,
                key="BUNIT",
                fix="Give the calibration of the image (photo_calib=)",
            )
        elif zeropoint is None or not 0 < zeropoint < 60:
            error = UncalibratedImageError(
                f"the CCD has no zeropoint ({column} = {row.values.get(column)})",
                **place,
                key=column,
                fix="Leave the CCD out, or give its calibration (photo_calib=)",
            )
        elif not per_second and (seconds is None or seconds <= 0):
            error = UncalibratedImageError(
                f"the zeropoint is per second and the exposure time is {row.values.get('exptime')}",
                **place,
                key="exptime",
                fix="Give the calibration of the image (photo_calib=)",
            )
        else:
            if not per_second:
                zeropoint += 2.5 * math.log10(seconds or 1.0)
            return unit, PhotoCalib.from_zeropoint(zeropoint, unit, candidates=self._candidates(opened)), None
        return unit, None, error

    def _psf(self, opened: _Opened, given: LegacySurveyOptions, scale: float) -> PSF | PsfError:
        if given.psf is False:
            return PsfError("the image was read without its PSF (psf=False)", path=opened.path)
        ccdname, expnum = opened.row.text("ccdname"), int(opened.row.values["expnum"])
        if isinstance(given.psf, str | os.PathLike):
            # The file may contain one CCD or several, but this CCD must be among them.
            return read_psfex(given.psf, ccdname=ccdname, expnum=expnum)
        if given.psf is not None and given.psf is not True:
            return make_psf(given.psf, scale)
        if opened.psf is None:
            looked = ", ".join(os.fspath(p.relative_to(opened.root)) for p in opened.looked_for_psf)
            return PsfError(
                f"there is no PSFEx model of this CCD in {opened.root} (looked for {looked})",
                path=opened.path,
                fix="Fetch the survey's calib directory, say where it is (root=), or give psf=",
            )
        return read_psfex(opened.psf, ccdname=ccdname, expnum=expnum)

    def _mask(
        self, opened: _Opened, given: LegacySurveyOptions, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int32], dict[str, int], str | None]:
        """Mask, bit numbers of its planes, and the encoding of data quality."""
        mask, planes, kind = np.zeros(shape, dtype=np.int32), dict[str, int](), None
        if opened.layout.dq is not None:
            kind = dq_kind_of(opened.layout.dq, given.dq, opened.camera)
            mask, planes = read_dq(opened.layout.dq, kind)
        if opened.layout.injected is not None:
            made = opened.layout.injected
            marks, names = read_mask(list_hdus(made)[1].plane("mask", made))
            if marks.shape != mask.shape:
                raise FormatError(
                    f"it has shape {marks.shape}, the image {mask.shape}", path=opened.layout.injected, hdu=1
                )
            for name, bit in names.items():
                taken = planes.values()
                target = bit if bit not in taken else next(b for b in range(31) if b not in taken)
                mask |= ((marks >> bit & 1) << target).astype(np.int32)
                planes[name] = target
        return mask, planes, kind
