"""Ordinary FITS images: planes in one or several files, calibration in keywords."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.disk import FileIdentity
from skygraft.errors import CalibrationError, PsfError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.open import is_fits, open_fits
from skygraft.formats.base import (
    CAUTION,
    FILES,
    Chunks,
    Format,
    ImageCalibration,
    ImageFootprint,
    StrPath,
    identify_files,
)
from skygraft.formats.fits_fingerprints import with_fingerprints
from skygraft.formats.fits_gain import RecordedGain, read_gain
from skygraft.formats.fits_headers import (
    Headers,
    check_number,
    read_data_id,
    read_visit_info,
)
from skygraft.formats.fits_kinds import (
    LEGACY_CAUTION,
    is_legacy_image,
    lsst_images_kind,
    refuse_archive,
    refuse_companion,
)
from skygraft.formats.fits_layout import (
    FitsLayout,
    HduInfo,
    PlaneOptions,
    find_layout,
    inherited_headers,
    is_flat,
    list_hdus,
    planes_of_cubes,
    renamed,
    split_name,
)
from skygraft.formats.fits_planes import mask_planes_of, read_mask, read_pixels, variance_from_noise
from skygraft.formats.fits_units import ImageUnit, image_unit
from skygraft.formats.fits_write import write_planes
from skygraft.formats.fits_zeropoint import GivenZeropoint, read_photo_calib
from skygraft.formats.given import GivenPsf, make_psf
from skygraft.formats.parts import open_planes
from skygraft.formats.psf_target import PsfTarget
from skygraft.formats.stored_plane import StoredPlane
from skygraft.formats.survey_products import refuse_product
from skygraft.photometry import PhotoCalib, ReferenceCandidate, header_candidates
from skygraft.planes import Planes
from skygraft.psf import PSF, Box
from skygraft.wcs import (
    TABLE_NAMES,
    FitsWcs,
    LookupTable,
    check_pixel_scale,
    has_wcs,
    names_tables,
    pixel_scale,
    read_fits_wcs,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LAYOUT", "FitsFormat", "FitsOptions", "OpenedImage"]

LAYOUT = "fits_layout"
"""Key of `Exposure.extra`: the `FitsLayout` that was read."""
_EVEN = 2e-3
"""Fraction by which areas of pixels differ in an image without distortion, at most: that of a projection."""


@dataclass(frozen=True)
class FitsOptions(PlaneOptions):
    """Reading options, for what the files do not record or record wrongly.

    Parameters
    ----------
    hdu, variance, weight, rms, mask
        See `PlaneOptions`.
    psf : PSF, path, mapping or False, optional
        See `skygraft.formats.given.make_psf`; by default the PSFEx model in the image's directory; False for none.
    mask_planes : mapping of str to int, optional
        Names of mask planes and their bit numbers.
    zeropoint : float, optional
        AB magnitude of one image unit.
    zeropoint_key : str, optional
        The only zeropoint keyword to use, if two disagree.
    unit : str, optional
        Unit of the pixels, instead of BUNIT.
    pixel_area : str, optional
        Area of a pixel of a surface-brightness image, instead of PIXAR_SR: ``"2.25e-14 sr"``, ``"0.0009 arcsec2"``, or
        ``"wcs"`` for the area that the WCS gives at the image's centre.
    exposure_time : float, optional
        Seconds.
    mjd : float, optional
        Middle of the exposure, MJD, TAI.
    instrument, visit, detector, tract, patch, band : optional
        Parts of the data id.
    """

    psf: GivenPsf | bool | None = None
    mask_planes: Mapping[str, int] | None = None
    zeropoint: float | None = None
    zeropoint_key: str | None = None
    unit: str | None = None
    pixel_area: str | None = None
    exposure_time: float | None = None
    mjd: float | None = None
    instrument: str | None = None
    visit: int | None = None
    detector: int | str | None = None
    tract: int | None = None
    patch: int | None = None
    band: str | None = None

    def __post_init__(self) -> None:
        for name in ("zeropoint", "exposure_time", "mjd"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, positive=name != "zeropoint")

    @property
    def data_id(self) -> dict[str, Any]:
        """Parts of the data id, None for those not given."""
        keys = ("instrument", "visit", "detector", "tract", "patch", "band")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class OpenedImage:
    """An image file with its headers.

    Parameters
    ----------
    path : Path
        The file.
    layout : FitsLayout
        Its planes and their files.
    hdus : tuple of HduInfo
        The HDUs of the file.
    headers : Headers
        Headers of the image: its own, then the primary one.
    """

    path: Path
    layout: FitsLayout
    hdus: tuple[HduInfo, ...]
    headers: Headers

    @property
    def image(self) -> HduInfo:
        """The HDU of the image."""
        return self.hdus[self.layout.image.hdu]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that reading the image opens, the image first."""
        return self.layout.files

    @property
    def name(self) -> str:
        """Name of the image, after its file."""
        stem = split_name(self.path)[0]
        alone = sum(map(is_flat, self.hdus)) == 1
        several = self.layout.image.hdu and not alone and self.image.name not in ("IMAGE", "SCI")
        return f"{stem}-{self.image.name or self.image.index}" if several else stem

    def wcs(self) -> FitsWcs:
        """Return the image's WCS."""
        header, index = self.image.header, self.image.index
        tables: list[LookupTable] = []
        if names_tables(header):
            with open_fits(self.path) as hdus:
                tables = [LookupTable.of(hdu) for hdu in hdus if hdu.name in TABLE_NAMES and hdu.is_image]
        primary = self.hdus[0].header if index else None
        return read_fits_wcs(header, primary=primary, tables=tables, path=self.path, hdu=index)


class FitsFormat(Format):
    """FITS images with planes in HDUs or companion files, and calibration in keywords.

    See `FitsOptions` for the options, `skygraft.formats.fits_layout` for the names by which planes are found, and
    `skygraft.formats.fits_headers` for the keywords. The first pixel of the file is (0, 0).
    """

    name: ClassVar[str] = "fits"
    looked_for: ClassVar[str] = (
        "a FITS file with a two-dimensional image and CTYPE keywords (not one of images.lsst.io)"
    )
    Options: ClassVar[type[FitsOptions]] = FitsOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS and has a two-dimensional image with a WCS."""
        if Path(path).is_file() and Path(path).stat().st_size and not is_fits(path):
            return False
        hdus = list_hdus(path)
        # lsst.images: the WCS keywords are approximate, and the PSF is in an archive that this format does not read.
        if lsst_images_kind(hdus) is not None:
            return False
        return any(is_flat(hdu) and (has_wcs(hdu.header) or has_wcs(hdus[0].header)) for hdu in hdus)

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        ny, nx = opened.image.shape or (0, 0)
        return ImageFootprint.of(
            opened.path,
            self.name,
            opened.wcs(),
            (ny, nx),
            data_id=self._data_id(opened, given),
            visit_info=self._visit_info(opened, given),
            files=opened.files,
            hdu=opened.image.index,
        )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        layout = opened.layout
        stamps = identify_files(opened.files)
        found = self._calibration(opened, given)
        image, _ = read_pixels(layout.image)
        variance = None
        if layout.noise is not None:
            variance = variance_from_noise(layout.noise.role, read_pixels(layout.noise)[0])
        mask, planes = self._mask(opened, given)
        made = Planes.from_arrays(image, variance, mask, mask_planes=planes, units=found.unit)
        return with_fingerprints(self._exposure(opened, given, made, found, stamps), layout.planes)

    def open(self, path: StrPath, *, chunks: Chunks = None, **options: Any) -> Exposure:
        """Open an exposure; see `Format.open`. Bits of the mask that have no name are not named before they are read.

        Formats that are derived from this one and have a `read` or a mask of their own are read as a whole.
        """
        own = type(self)
        if any(getattr(own, name) is not getattr(FitsFormat, name) for name in ("read", "_mask", "_further")):
            return super().open(path, chunks=chunks, **options)
        given = self.Options.parse(options, self.name, path)
        opened = self._open(path, given)
        planes = [StoredPlane.find(plane) for plane in opened.layout.planes]
        stored = {plane.name: plane for plane in planes if plane is not None}
        if len(stored) < len(planes):
            return super().open(path, chunks=chunks, **options)
        stamps = identify_files(opened.files)
        found = self._calibration(opened, given)
        named = self._mask_names(opened, given)
        if opened.layout.mask is not None:
            header = list_hdus(opened.layout.mask.path)[opened.layout.mask.hdu].header
            named = mask_planes_of(np.zeros(0, dtype=np.int32), header, named)
        lazy = open_planes(stored, mask_planes=named, units=found.unit, chunks=chunks, nameless_bits=True)
        return self._exposure(opened, given, lazy, found, stamps)

    def _exposure(
        self,
        opened: OpenedImage,
        given: FitsOptions,
        planes: xr.Dataset,
        found: ImageCalibration,
        stamps: Mapping[str, FileIdentity],
    ) -> Exposure:
        return Exposure(
            planes,
            found.wcs,
            psf=found.psf,
            photo_calib=found.photo_calib,
            data_id=self._data_id(opened, given),
            visit_info=self._visit_info(opened, given),
            gain=found.gain,
            gain_origin=found.gain_origin,
            path=opened.path,
            format=self.name,
            header=opened.headers.as_dict(),
            extra={LAYOUT: opened.layout, FILES: stamps, **found.extra(), **self._further(opened, given)},
        )

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration from headers and PSF model; see `Format.calibration`."""
        given = self.Options.parse(options, self.name, path)
        return self._calibration(self._open(path, given), given)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write an exposure with its companion files and PSF model to one directory; see `Format.write`.

        Companion files are named after the output (``<stem>.weight.fits``). If the input has no mask and a mask bit is
        set, ``<stem>.mask.fits`` is added.
        """
        layout = self._layout_to_follow(exposure, Path(like))
        masks = {}
        if layout.mask is None and exposure.mask.any():
            masks[Path(path).with_name(f"{split_name(path)[0]}.mask.fits")] = (exposure.mask, exposure.mask_planes)
        return write_planes(exposure, layout, renamed(layout, Path(path)), new_masks=masks, overwrite=overwrite)

    def _open(self, path: StrPath, given: FitsOptions) -> OpenedImage:
        hdus = self._hdus(path, given)
        refuse_archive(Path(path), hdus)
        if given.hdu is None:
            refuse_product(Path(path))
        layout = find_layout(path, given, hdus)
        refuse_companion(Path(path), hdus[layout.image.hdu], hdus, chosen=given.hdu is not None)
        if isinstance(given.psf, str | os.PathLike):
            layout = dataclasses.replace(layout, psf=Path(given.psf))
        elif given.psf is not None:
            layout = dataclasses.replace(layout, psf=None)
        return OpenedImage(layout.image.path, layout, hdus, inherited_headers(hdus, layout.image.hdu))

    def _hdus(self, path: StrPath, given: FitsOptions) -> tuple[HduInfo, ...]:
        """The HDUs among which the planes are looked for."""
        return list_hdus(path)

    def _further(self, opened: OpenedImage, given: FitsOptions) -> dict[str, Any]:
        """Further entries of `Exposure.extra`."""
        return {CAUTION: LEGACY_CAUTION} if is_legacy_image(opened.path, opened.headers) else {}

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        return read_data_id(opened.headers, given.data_id, name=opened.name)

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        return read_visit_info(opened.headers, exposure_time=given.exposure_time, mjd=given.mjd)

    def _calibration(self, opened: OpenedImage, given: FitsOptions) -> ImageCalibration:
        wcs, layout = opened.wcs(), opened.layout
        ny, nx = opened.image.shape or (0, 0)
        seconds = self._visit_info(opened, given).exposure_time
        candidates = self._candidates(opened)
        center_scale = float(np.ravel(pixel_scale(wcs, (nx - 1) / 2, (ny - 1) / 2))[0])
        check_pixel_scale(center_scale, opened.path)
        unit, photo_calib, missing = self._photo_calib(opened, given, seconds, center_scale)
        gain = self._gain(opened, given, seconds, photo_calib)
        if photo_calib is not None:
            photo_calib = dataclasses.replace(photo_calib, candidates=candidates)
        psf = self._psf(opened, given, center_scale)
        no_psf = None if psf is not None else self._no_psf(opened)
        return ImageCalibration(
            unit=unit,
            wcs=wcs,
            shape=(ny, nx),
            photo_calib=photo_calib,
            no_photo_calib=missing,
            candidates=candidates,
            psf=psf,
            no_psf=no_psf,
            gain=gain.value,
            gain_origin=gain.origin,
            no_gain=gain.reason,
            has_variance=layout.noise is not None,
            n_files=len(opened.files) + (layout.mask is None),
        )

    def _mask(self, opened: OpenedImage, given: FitsOptions) -> tuple[NDArray[np.int32] | None, dict[str, int]]:
        """Mask (None if there is none) and bit numbers of its planes."""
        named = self._mask_names(opened, given)
        return (None, named) if opened.layout.mask is None else read_mask(opened.layout.mask, named)

    def _mask_names(self, opened: OpenedImage, given: FitsOptions) -> dict[str, int]:
        """Bit numbers of mask planes that are known besides those of the mask's header."""
        return dict(given.mask_planes or {})

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        found: list[ReferenceCandidate] = []
        for index in dict.fromkeys((opened.image.index, 0)):
            found += header_candidates(opened.hdus[index].header, opened.path, index)
        return tuple(found)

    def _unit(self, opened: OpenedImage, given: FitsOptions) -> ImageUnit:
        return image_unit(opened.headers, given.unit)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        """Unit of the pixels, their calibration, and the reason if there is none."""
        unit = self._unit(opened, given)
        try:
            calib = read_photo_calib(
                opened.headers,
                unit=unit,
                exposure_time=exposure_time,
                pixel_scale=scale,
                given=GivenZeropoint(given.zeropoint, given.zeropoint_key, given.pixel_area),
                path=opened.path,
                even=unit.unit.kind == "surface brightness" and _even_pixels(opened),
            )
        except CalibrationError as error:
            error.hdu = opened.image.index if error.hdu is None else error.hdu
            return unit.name, None, error
        if given.zeropoint is None and given.zeropoint_key is None and is_legacy_image(opened.path, opened.headers):
            return unit.name, None, self._stale(opened, unit.name, calib)
        return unit.name, calib, None

    def _stale(self, opened: OpenedImage, unit: str, calib: PhotoCalib) -> CalibrationError:
        """Return the error for the outdated header zeropoint of a Legacy Surveys image."""
        return CalibrationError(
            f"{LEGACY_CAUTION}; its zeropoint ({float(calib.zeropoint()):.4f} mag for one {unit}) may be 5 mag off",
            path=opened.path,
            hdu=opened.image.index,
            fix="Read it with format='legacy_survey' and ccds= (the survey-ccds table), or give zeropoint= (the AB "
            "magnitude of one image unit); zeropoint_key= (a keyword) uses the header's in spite of this",
        )

    def _gain(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, calib: PhotoCalib | None
    ) -> RecordedGain:
        unit = self._unit(opened, given)
        zeropoint = float(calib.zeropoint()) if calib is not None and calib.is_constant else None
        if unit.unit.kind == "counts" and unit.unit.per_second and is_legacy_image(opened.path, opened.headers):
            return RecordedGain(None, reason=f"images of the Legacy Surveys in {unit.name} may be of photoelectrons")
        return read_gain(opened.headers, unit=unit, exposure_time=exposure_time, zeropoint=zeropoint)

    def _psf(self, opened: OpenedImage, given: FitsOptions, scale: float) -> PSF | None:
        layout = opened.layout
        if given.psf is False or (layout.psf is None and (given.psf is None or given.psf is True)):
            return None
        ny, nx = opened.image.shape or (0, 0)
        box = Box(-0.5, nx - 0.5, -0.5, ny - 0.5)
        target = PsfTarget(scale, opened.path, self._data_id(opened, given), box, opened.headers.as_dict())
        psf: Any = layout.psf if layout.psf is not None else given.psf
        return make_psf(psf, scale, target)

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        return PsfError(
            f"there is no PSF model beside the image ({split_name(opened.path)[0]}.psf)",
            path=opened.path,
            fix="Give psf= (a PSF, the path of a PSFEx model, or {kind: moffat, fwhm: 0.9 arcsec})",
        )

    def _layout_to_follow(self, exposure: Exposure, like: Path) -> FitsLayout:
        refuse_archive(like, list_hdus(like))
        layout = exposure.extra.get(LAYOUT)
        if isinstance(layout, FitsLayout):
            if layout.image.path == like:
                return layout
            hdus = list_hdus(like)
            hdus = hdus if layout.image.slab is None else planes_of_cubes(hdus, layout.image.slab)
            return find_layout(like, PlaneOptions(hdu=layout.image.hdu), hdus)
        return find_layout(like, PlaneOptions(), list_hdus(like))


def _even_pixels(opened: OpenedImage) -> bool:
    """Whether all pixels of an image have the same area by its WCS, as those of mosaics do."""
    ny, nx = opened.image.shape or (0, 0)
    x, y = np.meshgrid(np.linspace(0, nx - 1, 3), np.linspace(0, ny - 1, 3))
    areas = pixel_scale(opened.wcs(), x.ravel(), y.ravel()) ** 2
    return bool(np.ptp(areas) < _EVEN * areas.min())
