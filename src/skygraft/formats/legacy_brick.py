"""Coadds of the Legacy Surveys: bricks of ``coadd/``, from DR1 to DR11.

An image (``legacysurvey-<brick>-image-<band>.fits.fz``) has its inverse variance, map of PSF sizes and mask in files of
its directory. Its unit is the nanomaggy (AB zeropoint 22.5). `skygraft.formats.legacy_coadd` says what that is the flux
of, and in which system positions are.

The survey publishes no PSF of its coadds, but `psfsize`: the FWHM of the Gaussian that has the effective area of the
PSF, averaged over the exposures (``legacypipe/coadds.py``). The PSF is a Moffat of that effective area, whose own FWHM
is 0.77 of the map's. For PSFEx models of single exposures it differs by 0.2 to 0.7 % of the peak (rms over the kernel).
A PSF image of the coadd (``copsf``) is used where it is there.

One file holds the mask of all bands, so it is copied and never changed: injected sources are marked in
``legacysurvey-<brick>-injected-<band>.fits.fz``.
"""

from __future__ import annotations

import dataclasses
import filecmp
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from skygraft.errors import ConfigError, FormatError, OutputExistsError, PsfError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import CAUTION, ImageCalibration, StrPath
from skygraft.formats.brick_files import KINDS, BrickFile, find_brick_file, mask_hdu, mask_names
from skygraft.formats.fits import FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_headers import finite_number, read_data_id
from skygraft.formats.fits_layout import (
    FitsLayout,
    HduInfo,
    Plane,
    PlaneOptions,
    Role,
    is_flat,
    list_hdus,
    renamed,
    split_name,
)
from skygraft.formats.fits_planes import header_planes, read_mask
from skygraft.formats.fits_write import copy_file, write_planes
from skygraft.formats.legacy_brick_psf import psf_of_image, psf_of_sizes
from skygraft.formats.legacy_coadd import OpenedCoadd, other_survey, psf_of_file, release_of, survey_reference, unit_of
from skygraft.photometry import ReferenceCandidate
from skygraft.psf import PSF, MoffatMapPSF

__all__ = ["LegacyBrickFormat", "LegacyBrickOptions"]

PARTS = "legacy_brick"
"""Key of `Exposure.extra`: the `BrickParts` that were read."""

_SHARED = "legacy_brick_mask"
"""Key of `Exposure.extra`: the `_SharedMask` as it was read."""

_APPROXIMATE = (
    "the PSF is a Moffat (beta {beta:g}) of the effective area that the survey's map of PSF sizes gives: an "
    "approximation; psf= gives a better one"
)


@dataclass(frozen=True)
class LegacyBrickOptions(FitsOptions):
    """Reading options of coadds of the Legacy Surveys: those of ordinary FITS, with the brick's files as defaults.

    Parameters
    ----------
    psf_beta : float
        Exponent of the Moffat that has the size of the map. Fits to 20 of the survey's PSFEx models of DECam exposures
        give 2.2 to 4.1, median 2.9.
    """

    psf_beta: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        beta = self.psf_beta
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 1 < beta < 100:
            raise ConfigError(f"psf_beta is {beta!r}; a number above 1 (and below 100) is needed", key="psf_beta")


@dataclass(frozen=True)
class BrickParts:
    """The files of an image of a brick; missing ones are None.

    Parameters
    ----------
    brick : BrickFile
        The image.
    layout : FitsLayout
        Image and inverse variance.
    maskbits : Plane or None
        Mask of all bands, which is copied.
    injected : Plane or None
        Mask of injected sources.
    psfsize, copsf : Plane or None
        Map of PSF sizes; PSF image.
    """

    brick: BrickFile
    layout: FitsLayout
    maskbits: Plane | None
    injected: Plane | None
    psfsize: Plane | None
    copsf: Plane | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, without repetition, the image's first."""
        more = (plane.path for plane in (self.maskbits, self.injected, self.psfsize, self.copsf) if plane is not None)
        return tuple(dict.fromkeys((*self.layout.files, *more)))


@dataclass(frozen=True)
class _SharedMask:
    """The bits of an exposure's mask that are those of all bands, and a digest of them."""

    bits: int
    digest: int

    @classmethod
    def of(cls, exposure: Exposure, injected: Plane | None) -> Self:
        marks = {} if injected is None else header_planes(list_hdus(injected.path)[injected.hdu].header)
        bits = 0
        for name, value in exposure.mask_planes.items():
            bits |= 0 if name in marks else int(value) & 0xFFFFFFFF
        return cls(bits, _digest(exposure.mask, bits))

    def unchanged(self, exposure: Exposure) -> bool:
        return _digest(exposure.mask, self.bits) == self.digest


def _digest(mask: NDArray[np.int32], bits: int) -> int:
    return int(xxhash.xxh3_64_intdigest(np.ascontiguousarray(mask & np.uint32(bits).astype(np.int32))))


@dataclass(frozen=True)
class _OpenedBrick(OpenedCoadd):
    """An image of a brick with its headers and files."""

    parts: BrickParts

    @property
    def files(self) -> tuple[Path, ...]:
        return self.parts.files

    @property
    def name(self) -> str:
        return self.parts.brick.name


class LegacyBrickFormat(FitsFormat):
    """Coadds of the Legacy Surveys (``legacysurvey-<brick>-image-<band>.fits.fz``), in nanomaggies.

    Inverse variance, mask and PSF size are read from the brick's other files, as far as they are there. The calibrated
    flux is the amplitude of a unit-sum PSF fit (`PSF_MODEL`) from data release 6 on, and that inside 3.5 arcsec before.
    """

    name: ClassVar[str] = "legacy_brick"
    looked_for: ClassVar[str] = "a FITS image called legacysurvey-<brick>-image-<band> (a coadd of the Legacy Surveys)"
    Options: ClassVar[type[LegacyBrickOptions]] = LegacyBrickOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is FITS and one of a brick with an image; maps that will be refused are so, too."""
        path = Path(path)
        by_name = find_brick_file(path) is not None
        if not (by_name or "-image-" in path.name) or not is_fits(path):
            return False
        hdus = list_hdus(path)
        return (by_name or find_brick_file(path, hdus) is not None) and any(map(is_flat, hdus))

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        exposure = super().read(path, **options)
        parts = self._open(path, given).parts
        extra = {**exposure.extra, PARTS: parts}
        if parts.maskbits is not None:
            extra[_SHARED] = _SharedMask.of(exposure, parts.injected)
        if isinstance(exposure.psf, MoffatMapPSF):
            extra[CAUTION] = _APPROXIMATE.format(beta=given.psf_beta)
        return exposure.replace(extra=extra)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the image and copies of its brick's other files to one directory; see `Format.write`.

        The mask of all bands is copied; one that is there already is left alone if it is the same. Mask planes that it
        does not have (``INJECTED``) are written to ``legacysurvey-<brick>-injected-<band>.fits.fz``.

        Raises
        ------
        FormatError
            If the output is not named like an image of a brick, or a plane of the mask of all bands was changed.
        OutputExistsError
            If another mask of all bands is there.
        """
        source = Path(like)
        target = find_brick_file(Path(path), list_hdus(source))
        if target is None or target.kind != "image":
            raise FormatError(
                "the output is not called <survey>-<brick>-image-<band>, so its other files could not be found",
                path=path,
                fix=f"Keep the input's name ({source.name}), in another directory",
            )
        parts, shared = exposure.extra.get(PARTS), exposure.extra.get(_SHARED)
        if not isinstance(parts, BrickParts) or parts.brick.path != source:
            parts, shared = self._open(source, self.Options()).parts, None
        outputs = _outputs(parts, target)
        marks = _new_planes(exposure, parts.maskbits, shared)
        masks = {} if marks is None else {target.sibling("injected", ".fits.fz"): marks}
        if parts.maskbits is None:
            return write_planes(exposure, parts.layout, outputs, new_masks=masks, overwrite=overwrite)
        mask = target.sibling("maskbits", split_name(parts.maskbits.path)[1])
        _copy_shared(parts.maskbits.path, mask, overwrite=overwrite)
        return (*write_planes(exposure, parts.layout, outputs, new_masks=masks, overwrite=overwrite), mask)

    def _open(self, path: StrPath, given: FitsOptions) -> _OpenedBrick:
        path = Path(path)
        hdus = list_hdus(path)
        brick = find_brick_file(path, hdus)
        if brick is None:
            raise FormatError(
                "a coadd of the Legacy Surveys is called <survey>-<brick>-image-<band>",
                path=path,
                fix="Give that file, under that name, or read it with format='fits'",
            )
        if brick.kind != "image" and given.hdu is None:
            raise FormatError(
                f"this holds {KINDS[brick.kind]} of a brick of the Legacy Surveys, by its file's name, and no science "
                "image",
                path=path,
                fix=f"{_what_to_give(brick)}; if this is a science image, choose its HDU with hdu=",
            )
        opened = super()._open(path, given)
        if brick.kind != "image":
            # A name is no proof, and whoever chooses the HDU is believed; what lies beside it belongs to the image.
            parts = BrickParts(brick, opened.layout, None, None, None, None)
            return _OpenedBrick(path, opened.layout, opened.hdus, opened.headers, parts)
        layout, image = opened.layout, opened.image
        noise_given = any(getattr(given, role) is not None for role in ("variance", "weight", "rms"))
        if layout.noise is None and not noise_given:
            layout = dataclasses.replace(layout, noise=_companion(brick, "invvar", "weight", image))
        mask = layout.mask is None and given.mask is None
        psf = given.psf is None or given.psf is True
        parts = BrickParts(
            brick,
            layout,
            maskbits=_companion(brick, "maskbits", "mask", image) if mask else None,
            injected=_companion(brick, "injected", "mask", image),
            psfsize=_companion(brick, "psfsize", "image", image) if psf else None,
            copsf=_companion(brick, "copsf", "image", None) if psf else None,
        )
        return _OpenedBrick(path, layout, opened.hdus, opened.headers, parts)

    def _calibration(self, opened: OpenedImage, given: FitsOptions) -> ImageCalibration:
        # Early releases state no unit; images of WISE and GALEX have other zeropoints.
        if given.unit is None and not other_survey(_brick_of(opened).band):
            given = dataclasses.replace(given, unit=unit_of(opened.headers))
        return super()._calibration(opened, given)

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        found = read_data_id(opened.headers, given.data_id, name=opened.name)
        band, number = opened.headers.find("FILTERX"), opened.headers.find("BRICKID")
        if given.band is None:
            name = _brick_of(opened).band if band is None else str(band.value).strip()
            found = dataclasses.replace(found, band=name)
        if given.tract is None and number is not None:
            found = dataclasses.replace(found, tract=_identifier(finite_number(number)))
        return found

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        # The mean over the exposures, in TAI; how long a pixel was exposed differs from pixel to pixel.
        card = opened.headers.find("MJD_MEAN")
        mean = None if card is None else finite_number(card)
        return VisitInfo(mean if given.mjd is None else float(given.mjd), given.exposure_time)

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        default = survey_reference(release_of(opened.headers), _brick_of(opened).band)
        found = super()._candidates(opened)
        return tuple(dict.fromkeys(found if default is None else [*found, default]))

    def _mask(self, opened: OpenedImage, given: FitsOptions) -> tuple[NDArray[np.int32] | None, dict[str, int]]:
        parts = _parts_of(opened)
        mask, planes = super()._mask(opened, given)
        if parts.maskbits is not None:
            mask, planes = _read_maskbits(parts.maskbits, given)
        if parts.injected is None:
            return mask, planes
        marks, names = read_mask(parts.injected)
        mask = np.zeros(marks.shape, dtype=np.int32) if mask is None else mask
        for name, bit in names.items():
            place = planes.get(name)
            if place is None:
                place = bit if bit not in planes.values() else next(b for b in range(31) if b not in planes.values())
            mask |= ((marks >> bit & 1) << place).astype(np.int32)
            planes[name] = place
        return mask, planes

    def _psf(self, opened: OpenedImage, given: FitsOptions, scale: float) -> PSF | None:
        parts = _parts_of(opened)
        if opened.layout.psf is not None:
            return psf_of_file(opened.layout.psf, scale, parts.brick.band)
        if given.psf is not None and given.psf is not True:
            return super()._psf(opened, given, scale)
        if parts.copsf is not None:
            return psf_of_image(parts.copsf, scale)
        if parts.psfsize is not None:
            beta = given.psf_beta if isinstance(given, LegacyBrickOptions) else LegacyBrickOptions().psf_beta
            return psf_of_sizes(parts.psfsize, scale, beta)
        return super()._psf(opened, given, scale)

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        brick = _brick_of(opened)
        return PsfError(
            f"neither the map of PSF sizes ({brick.sibling('psfsize').name}) nor a PSF image of the coadd is beside it",
            path=opened.path,
            fix="Fetch the map from the same directory of the survey, or give psf= (such as {kind: moffat, fwhm: "
            "1.1 arcsec})",
        )


def _parts_of(opened: OpenedImage) -> BrickParts:
    assert isinstance(opened, _OpenedBrick)
    return opened.parts


def _brick_of(opened: OpenedImage) -> BrickFile:
    return _parts_of(opened).brick


def _identifier(value: float | None) -> int | None:
    return int(value) if value is not None and value == math.floor(value) and abs(value) < 2**53 else None


def _what_to_give(brick: BrickFile) -> str:
    image = brick.sibling("image").name if brick.band else f"{brick.survey}-{brick.brick}-image-<band>"
    used = (
        "; it is found beside the image" if brick.kind in ("invvar", "maskbits", "injected", "psfsize", "copsf") else ""
    )
    return f"Give the image ({image}){used}"


def _companion(brick: BrickFile, kind: str, role: Role, image: HduInfo | None) -> Plane | None:
    """Return the plane in the file of another kind beside an image; None if there is no such file."""
    other = brick.find(kind)
    if other is None:
        return None
    option = {"invvar": "weight=False", "maskbits": "mask=False"}.get(kind, "psf=False")
    if kind == "maskbits":
        hdu = mask_hdu(other)
    else:
        flat = [hdu for hdu in list_hdus(other) if is_flat(hdu)]
        if len(flat) != 1:
            raise FormatError(
                f"it should hold {KINDS[kind]}, and has {len(flat)} images",
                path=other,
                fix=f"Fetch it again, or read the image without it ({option})",
            )
        hdu = flat[0]
    if image is not None and hdu.shape != image.shape:
        raise FormatError(
            f"it has shape {hdu.shape}, the image {image.shape}",
            path=other,
            hdu=hdu.index,
            fix=f"Fetch the {kind} file of this image again, or read the image without it ({option})",
        )
    return hdu.plane(role, other)


def _read_maskbits(plane: Plane, given: PlaneOptions) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Read the mask of all bands: its bits have the names given by the caller, of its header, or of the survey."""
    named = dict(getattr(given, "mask_planes", None) or {})
    for name, bit in mask_names(plane.path, list_hdus(plane.path)[plane.hdu]).items():
        if name not in named and bit not in named.values():
            named[name] = bit
    return read_mask(plane, named)


def _outputs(parts: BrickParts, target: BrickFile) -> dict[Path, Path]:
    """Return the output of each file that is rewritten or copied for this image alone."""
    outputs = renamed(parts.layout, target.path)
    planes = {"psfsize": parts.psfsize, "copsf": parts.copsf}
    if parts.layout.noise is not None and parts.layout.noise.path == parts.brick.find("invvar"):
        planes["invvar"] = parts.layout.noise
    for kind, plane in planes.items():
        if plane is not None:
            outputs[plane.path] = target.sibling(kind, split_name(plane.path)[1])
    return outputs


def _new_planes(
    exposure: Exposure, maskbits: Plane | None, shared: _SharedMask | None
) -> tuple[NDArray[np.int32], dict[str, int]] | None:
    """Bits and names of mask planes that the mask of all bands does not have; None if none of them is set."""
    taken = 0
    if maskbits is not None:
        if shared is None:
            bits, planes = _read_maskbits(maskbits, PlaneOptions())
            taken = int(np.bitwise_or.reduce(np.array([1 << bit for bit in planes.values()], dtype=np.int64)))
            shared = _SharedMask(taken, _digest(bits, taken))
        taken = shared.bits
        if not shared.unchanged(exposure):
            raise FormatError(
                "a plane of the brick's mask was changed, and that file is only copied: it is of all bands",
                path=maskbits.path,
                hdu=maskbits.hdu,
                fix="Use another mask plane for new flags",
            )
    new = {name: value for name, value in exposure.mask_planes.items() if not int(value) & taken}
    mine = np.int32(np.bitwise_or.reduce(np.array([*new.values(), 0], dtype=np.int32)))
    marks: NDArray[np.int32] = exposure.mask & mine
    return (marks, new) if marks.any() else None


def _copy_shared(source: Path, target: Path, *, overwrite: bool) -> None:
    """Copy a file that images of several bands have in common, unless the same copy is there."""
    if target.is_file() and not target.samefile(source) and filecmp.cmp(source, target, shallow=False):
        return
    if target.exists() and target.samefile(source):
        raise OutputExistsError(
            "the output is the input itself, which is never overwritten", path=target, fix="Give another directory"
        )
    copy_file(source, target, overwrite=overwrite)
