"""Images of Roman's Wide Field Instrument in ASDF: calibrated exposures (``_cal``) and mosaics (``_coadd``).

The layouts are those of the Roman attribute dictionary (https://rad.readthedocs.io), tags ``wfi_image`` and
``wfi_mosaic``: arrays ``data``, ``err``, ``var_poisson``, ``dq``, calibration and a gwcs in ``meta``. The tree is read
as plain values, so that `roman_datamodels` is not needed and versions that it does not know can be read.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import COADD_NOISE, PHOTON_VARIANCE, DataId, Exposure, VisitInfo
from skygraft.formats.asdf_blocks import AsdfArray, is_asdf, map_asdf
from skygraft.formats.asdf_rewrite import rewrite_asdf
from skygraft.formats.base import (
    CAUTION,
    FILES,
    Format,
    ImageCalibration,
    ImageFootprint,
    ReadOptions,
    StrPath,
    identify_files,
    refuse_overwrite,
)
from skygraft.formats.fits_headers import band_name, check_number
from skygraft.formats.fits_write import write_mask
from skygraft.formats.roman_tree import RomanTree, read_roman_tree, read_roman_wcs
from skygraft.formats.space_flags import ROMAN_BITS, add_marks, add_no_data, marks_file, marks_of, name_bits, stem_of
from skygraft.formats.space_noise import added_variance
from skygraft.noise import CoaddNoise
from skygraft.photometry import PhotoCalib, ReferenceCandidate, parse_unit, summed_unit
from skygraft.places import is_file
from skygraft.planes import Planes
from skygraft.wcs import GwcsWcs, check_pixel_scale, pixel_scale

__all__ = ["RomanFormat", "RomanOptions"]

ROMAN_REFERENCE = ReferenceCandidate(
    "total",
    origin="Roman photometry: conversion_megajanskys is for all of a source's light, apertures are corrected to it by "
    "the apcorr reference files (Roman pipeline documentation, photom and source_catalog)",
    level="default",
)
_AREA_TOLERANCE = 0.1
_NOISE = ("err", "var_poisson", "var_rnoise")
_NO_GAIN = "electrons per DN are in a reference file of the mission, not in the image"
_NJY = 1e15
"""nJy in a megajansky."""


@dataclass(frozen=True)
class RomanOptions(ReadOptions):
    """Reading options of Roman images.

    Parameters
    ----------
    zeropoint : float, optional
        AB magnitude of one image unit in one pixel, instead of what ``meta`` says.
    exposure_time : float, optional
        Seconds.
    mjd : float, optional
        Middle of the exposure, MJD, TAI.
    band : str, optional
        Instead of the optical element.
    newer : bool
        Read a file of a newer major version of its schema than is known.
    variance, mask : bool
        False if the file has no variance or no data quality.
    """

    zeropoint: float | None = None
    exposure_time: float | None = None
    mjd: float | None = None
    band: str | None = None
    newer: bool = False
    variance: bool = True
    mask: bool = True

    def __post_init__(self) -> None:
        for name in ("zeropoint", "exposure_time", "mjd"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, positive=name != "zeropoint")


@dataclass(frozen=True)
class _Opened:
    path: Path
    tree: RomanTree
    marks: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.marks is None else (self.path, self.marks)

    def wcs(self) -> GwcsWcs:
        return read_roman_wcs(self.path)


class RomanFormat(Format):
    """Images of Roman's Wide Field Instrument in ASDF, of levels 2 (exposures) and 3 (mosaics).

    The first pixel of the file is (0, 0). Injected pixels are marked in ``<stem>.mask.fits``: the data quality array
    is copied unchanged.
    """

    name: ClassVar[str] = "roman"
    looked_for: ClassVar[str] = "an ASDF file whose tree has a key 'roman'"
    Options: ClassVar[type[RomanOptions]] = RomanOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is ASDF and its tree has a key ``roman``; needs no further package."""
        if not is_asdf(path):
            return False
        with Path(path).open("rb") as stream:
            head = stream.read(1 << 20)
        return re.search(rb"^(roman|'roman'|\"roman\"):", head, re.MULTILINE) is not None

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        return ImageFootprint.of(
            opened.path,
            self.name,
            opened.wcs(),
            opened.tree.shape,
            data_id=self._data_id(opened, given),
            visit_info=self._visit_info(opened, given),
            files=opened.files,
        )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        tree, stamps = opened.tree, identify_files(opened.files)
        found = self._calibration(opened, given)
        extra: dict[str, Any] = {FILES: stamps, **found.extra()}
        with map_asdf(opened.path) as file:
            image = file.read(tree.arrays["data"], "data").astype(np.float32)
            variance = _variance(file.read, tree.arrays) if given.variance else None
            mask, planes = np.zeros(tree.shape, dtype=np.int32), dict[str, int]()
            if given.mask and "dq" in tree.arrays:
                mask = _bits(file.read(tree.arrays["dq"], "dq"))
                planes = name_bits(mask, ROMAN_BITS)
            if tree.is_mosaic:
                empty = ~np.isfinite(image)
                # Simulated mosaics may have no weights at all.
                if "weight" in tree.arrays and (seen := file.read(tree.arrays["weight"], "weight") > 0).any():
                    empty |= ~seen
                planes = add_no_data(mask, planes, empty)
            if "var_poisson" in tree.arrays:
                extra[PHOTON_VARIANCE] = file.read(tree.arrays["var_poisson"], "var_poisson").astype(np.float32)
        mask, planes = add_marks(mask, planes, opened.marks)
        if tree.is_mosaic:
            extra[COADD_NOISE] = CoaddNoise()
        if tree.caution:
            extra[CAUTION] = tree.caution
        return Exposure(
            Planes.from_arrays(image, variance, mask, mask_planes=planes, units=found.unit),
            found.wcs,
            psf=found.psf,
            photo_calib=found.photo_calib,
            data_id=self._data_id(opened, given),
            visit_info=self._visit_info(opened, given),
            gain=found.gain,
            gain_origin=found.gain_origin,
            path=opened.path,
            format=self.name,
            header=tree.as_dict(),
            extra=extra,
        )

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration from the tree; see `Format.calibration`."""
        given = self.Options.parse(options, self.name, path)
        return self._calibration(self._open(path, given), given)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write a copy of the file with the changed pixels of its arrays; see `Format.write`.

        The tree, and every block without a changed pixel, is copied byte for byte. What a source adds to the variance
        is added to ``var_poisson`` as well as to ``err``.
        """
        source, target = Path(like), Path(path)
        opened = self._open(source, RomanOptions(newer=True, variance=False, mask=False))
        arrays = opened.tree.arrays
        with map_asdf(source) as file:
            old = {name: file.read(array, name) for name, array in arrays.items()}
        if old["data"].shape != exposure.shape:
            raise FormatError(
                f"the exposure has shape {exposure.shape}, the file to follow {old['data'].shape}",
                path=source,
                fix="Give the file that the exposure was read from as like=",
            )
        # One that the exposure was read without is not compared.
        known = set(exposure.mask_planes) & set(ROMAN_BITS.values())
        stored = _bits(old["dq"]) if "dq" in old and known else None
        named = {} if stored is None else name_bits(stored, ROMAN_BITS)
        marks = marks_of(exposure, stored, named, source)
        new = _changed_arrays(exposure, old)
        beside = marks_file(target)
        outputs = (target,) if marks is None else (target, beside)
        for output in outputs:
            refuse_overwrite(output, opened.files, overwrite=overwrite)
        existed = beside.exists()
        if marks is not None:
            write_mask(beside, *marks, inputs=tuple(map(os.fspath, opened.files)), overwrite=overwrite)
        elif overwrite and existed and beside not in opened.files:
            # Marks of an output that is replaced would be read with the new one.
            beside.unlink()
        try:
            rewrite_asdf(source, target, {arrays[name]: values for name, values in new.items()}, overwrite)
        except BaseException:
            if marks is not None and not existed:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
            raise
        return outputs

    def _open(self, path: StrPath, given: RomanOptions) -> _Opened:
        path = Path(path)
        identify_files([path])
        marks = marks_file(path)
        tree = read_roman_tree(path, newer=given.newer)
        needed = (("variance", given.variance, _NOISE), ("mask", given.mask and not tree.is_mosaic, ("dq",)))
        for option, wanted, names in needed:
            if wanted and not tree.arrays.keys() & set(names):
                raise FormatError(
                    f"the tree has none of roman.{', roman.'.join(names)}",
                    path=path,
                    key=names[0],
                    fix=f"Give the file as the pipeline wrote it, or read it without ({option}=False)",
                )
        return _Opened(path, tree, marks if is_file(marks) else None)

    def _data_id(self, opened: _Opened, given: RomanOptions) -> DataId:
        tree = opened.tree
        # Mosaics of the first versions of the schema have them among their basic information.
        band = tree.text("instrument", "optical_element") or tree.text("basic", "optical_element")
        detector = tree.text("instrument", "detector")
        return DataId(
            instrument=tree.text("instrument", "name") or tree.text("basic", "instrument"),
            detector=None if tree.is_mosaic else detector,
            band=given.band or (None if band is None else band_name(band)),
            name=stem_of(opened.path),
        )

    def _visit_info(self, opened: _Opened, given: RomanOptions) -> VisitInfo:
        mjd, seconds = opened.tree.times()
        return VisitInfo(given.mjd if given.mjd is not None else mjd, given.exposure_time or seconds)

    def _calibration(self, opened: _Opened, given: RomanOptions) -> ImageCalibration:
        tree, wcs = opened.tree, opened.wcs()
        ny, nx = tree.shape
        scale = float(np.ravel(pixel_scale(wcs, (nx - 1) / 2, (ny - 1) / 2))[0])
        check_pixel_scale(scale, opened.path)
        unit = parse_unit(tree.unit)
        photo_calib: PhotoCalib | None = None
        missing: CalibrationError | None = None
        try:
            njy = _njy_per_unit(tree, scale, given)
            photo_calib = PhotoCalib(njy, summed_unit(unit.name), candidates=(ROMAN_REFERENCE,))
        except CalibrationError as error:
            missing = error
        seconds = self._visit_info(opened, given).exposure_time
        electrons = unit.kind == "electrons" and unit.per_second and seconds is not None
        return ImageCalibration(
            unit=unit.name,
            wcs=wcs,
            shape=tree.shape,
            photo_calib=photo_calib,
            no_photo_calib=missing,
            candidates=(ROMAN_REFERENCE,),
            no_psf=no_space_psf(opened.path, "Roman"),
            gain=seconds if electrons else None,
            gain_origin="the image is in electrons per second: the exposure time" if electrons else "",
            no_gain="" if electrons else _NO_GAIN,
            has_variance=given.variance and bool(tree.arrays.keys() & set(_NOISE)),
            n_files=2,
        )


def no_space_psf(path: Path, mission: str) -> PsfError:
    """Return the error of an image of a space telescope without a PSF: how to make one."""
    return PsfError(
        f"files of {mission} contain no PSF",
        path=path,
        fix="Give psf=, for example the file of a grid that STPSF computes (psf_grid(..., save=True)), or "
        "{kind: moffat, fwhm: 0.1 arcsec}",
    )


def _njy_per_unit(tree: RomanTree, scale: float, given: RomanOptions) -> float:
    """Flux in nJy of one image unit in one pixel."""
    if given.zeropoint is not None:
        return PhotoCalib.from_zeropoint(given.zeropoint).njy_per_unit
    by_wcs = (scale / 3600 / (180 / math.pi)) ** 2
    area, where = tree.pixel_area() or (by_wcs, "the WCS")
    if abs(area / by_wcs - 1) > _AREA_TOLERANCE:
        raise CalibrationError(
            f"two areas of a pixel disagree: {area:.6g} sr from {where}, {by_wcs:.6g} sr from the WCS",
            path=tree.path,
            key="pixel_area",
            fix="Give zeropoint= (the AB magnitude of one image unit in one pixel)",
        )
    if parse_unit(tree.unit).kind == "surface brightness":
        return parse_unit(tree.unit).scale * area
    conversion = tree.number("photometry", "conversion_megajanskys")
    if conversion is None or conversion <= 0:
        raise UncalibratedImageError(
            f"the image is in {tree.unit}, and meta.photometry.conversion_megajanskys is not given",
            path=tree.path,
            key="conversion_megajanskys",
            fix="Run the photom step of the Roman pipeline, or give zeropoint= (the AB magnitude of one image unit)",
        )
    return conversion * area * _NJY


def _bits(values: NDArray[Any]) -> NDArray[np.int32]:
    return values.astype(np.int64).astype(np.uint32).view(np.int32)


def _variance(read: Any, arrays: Mapping[str, AsdfArray]) -> NDArray[np.float32] | None:
    """Total variance: err squared, or else the sum of its parts."""
    if "err" in arrays:
        total: NDArray[np.float32] = np.square(read(arrays["err"], "err").astype(np.float32))
        return total
    parts = [read(arrays[k], k).astype(np.float32) for k in ("var_poisson", "var_rnoise", "var_flat") if k in arrays]
    return np.asarray(sum(parts[1:], parts[0]), dtype=np.float32) if parts else None


def _changed_arrays(exposure: Exposure, old: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """New values of the arrays of which a pixel changed."""
    found: dict[str, NDArray[Any]] = {}
    before = old["data"].astype(np.float32)
    changed = (exposure.image != before) & ~(np.isnan(exposure.image) & np.isnan(before))
    if changed.any():
        found["data"] = np.where(changed, exposure.image.astype(old["data"].dtype), old["data"])
    variance = _variance(lambda array, name: old[name], {k: k for k in old})  # type: ignore[misc]
    if exposure.variance is None or variance is None:
        return found
    changed, added = added_variance(exposure.variance, variance)
    if changed.any():
        if "err" in old:
            # In the type of the file, which may be of 16 bits.
            found["err"] = np.where(changed, np.sqrt(exposure.variance), old["err"].astype(np.float32))
        if "var_poisson" in old:
            found["var_poisson"] = np.where(changed, old["var_poisson"] + added, old["var_poisson"])
    return found
