"""What FITS images of space telescopes share: one plane of total noise, data quality that is only copied, mid times."""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from skygraft.errors import FormatError, PsfError
from skygraft.exposure import COADD_NOISE, PHOTON_VARIANCE, Exposure, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import ImageCalibration, StrPath
from skygraft.formats.fits import LAYOUT, FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_headers import Headers, finite_number, read_visit_info
from skygraft.formats.fits_layout import (
    FitsLayout,
    HduInfo,
    Plane,
    find_layout,
    inherited_headers,
    is_flat,
    list_hdus,
    renamed,
)
from skygraft.formats.fits_planes import read_mask, read_pixels, variance_from_noise
from skygraft.formats.fits_write import write_planes
from skygraft.formats.roman import no_space_psf
from skygraft.formats.space_flags import add_marks, add_no_data, marks_file, marks_of, name_bits
from skygraft.formats.space_noise import added_variance
from skygraft.noise import CoaddNoise
from skygraft.photometry import ReferenceCandidate
from skygraft.places import is_file

__all__ = ["SpaceFitsFormat", "companion_hdu", "first_number", "middle_of", "required"]

PHOTONS = "VAR_POISSON"


class SpaceFitsFormat(FitsFormat):
    """Base class of FITS images of space telescopes.

    The data quality array is copied unchanged; injected pixels are marked in ``<stem>.mask.fits``.
    """

    mission: ClassVar[str]
    """Name of the mission, for messages."""
    bits: ClassVar[Mapping[int, str]]
    """Names of the bits of data quality."""
    reference: ClassVar[ReferenceCandidate]
    """What the mission's calibrated flux is the flux of."""

    @abstractmethod
    def _is_mosaic(self, opened: OpenedImage) -> bool:
        """Whether the image is resampled from others, so that its noise is correlated between pixels."""

    @abstractmethod
    def _check(self, path: Path, hdus: Sequence[HduInfo], given: FitsOptions) -> None:
        """Raise an error that names the product if it is no calibrated image."""

    @abstractmethod
    def _noise(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo], given: FitsOptions) -> Plane | None:
        """Plane of the total noise, where the caller does not name one."""

    def _flags(self, path: Path, image: HduInfo, hdus: Sequence[HduInfo]) -> HduInfo | None:
        """HDU of the data quality, None if the product has none."""
        return companion_hdu("DQ", image, hdus)

    def _opened(self, path: Path, layout: FitsLayout, hdus: tuple[HduInfo, ...], given: FitsOptions) -> OpenedImage:
        return OpenedImage(path, layout, hdus, inherited_headers(hdus, layout.image.hdu))

    def _open(self, path: StrPath, given: FitsOptions) -> OpenedImage:
        path, hdus = Path(path), list_hdus(path)
        if not is_fits(path):
            raise FormatError("this is no FITS file", path=path)
        self._check(path, hdus, given)
        layout = self._find(path, given, hdus)
        if isinstance(given.psf, str | os.PathLike):
            layout = dataclasses.replace(layout, psf=Path(given.psf))
        elif given.psf is not None:
            layout = dataclasses.replace(layout, psf=None)
        return self._opened(path, layout, hdus, given)

    def _find(self, path: Path, given: FitsOptions, hdus: Sequence[HduInfo]) -> FitsLayout:
        """Find image, noise, data quality and marks: planes that the caller names, or those of the mission."""
        named = given.variance or given.weight or given.rms
        off: dict[str, Any] = {} if named else {"variance": False, "weight": False, "rms": False}
        # A mask beside the image is the file of marks, not its data quality.
        off |= {} if given.mask else {"mask": False}
        layout = find_layout(path, dataclasses.replace(given, **off), hdus)
        image = hdus[layout.image.hdu]
        if not named and False not in (given.rms, given.weight):
            layout = dataclasses.replace(layout, noise=self._noise(path, image, hdus, given))
        if given.mask is None:
            flags = self._flags(path, image, hdus)
            layout = dataclasses.replace(layout, mask=None if flags is None else flags.plane("mask", path))
        marks = marks_file(path)
        return dataclasses.replace(layout, marks=marks if is_file(marks) else None)

    def _mask(self, opened: OpenedImage, given: FitsOptions) -> tuple[NDArray[np.int32] | None, dict[str, int]]:
        shape = opened.image.shape or (0, 0)
        mask, planes = np.zeros(shape, dtype=np.int32), dict(given.mask_planes or {})
        if opened.layout.mask is not None:
            mask = np.array(read_mask(opened.layout.mask)[0])
            planes = name_bits(mask, self._names(given))
        if self._is_mosaic(opened):
            empty = ~np.isfinite(read_pixels(opened.layout.image)[0])
            weights = self._coverage(opened, given)
            if weights is not None and (seen := read_pixels(weights)[0] > 0).any():
                empty |= ~seen
            planes = add_no_data(mask, planes, empty)
        return add_marks(mask, planes, opened.layout.marks)

    def _coverage(self, opened: OpenedImage, given: FitsOptions) -> Plane | None:
        """Plane that is positive where a mosaic has data."""
        weights = companion_hdu("WHT", opened.image, opened.hdus)
        return None if weights is None else weights.plane("weight", opened.path)

    def _names(self, given: FitsOptions) -> Mapping[int, str]:
        return {**self.bits, **{bit: name for name, bit in (given.mask_planes or {}).items()}}

    def _further(self, opened: OpenedImage, given: FitsOptions) -> dict[str, Any]:
        found: dict[str, Any] = {}
        photons = companion_hdu(PHOTONS, opened.image, opened.hdus)
        if photons is not None:
            pixels = read_pixels(photons.plane("variance", opened.path))[0]
            found[PHOTON_VARIANCE] = np.asarray(pixels, dtype=np.float32)
        if self._is_mosaic(opened):
            found[COADD_NOISE] = CoaddNoise()
        return found

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        return (*super()._candidates(opened), self.reference)

    def _calibration(self, opened: OpenedImage, given: FitsOptions) -> ImageCalibration:
        return dataclasses.replace(super()._calibration(opened, given), n_files=len(opened.layout.files) + 1)

    def _no_psf(self, opened: OpenedImage) -> PsfError:
        return no_space_psf(opened.path, self.mission)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write image and noise planes, and a mask of injected pixels beside them; see `Format.write`.

        What a source adds to the total variance is added to VAR_POISSON, if there is one, as well.
        """
        source, target = Path(like), Path(path)
        layout = exposure.extra.get(LAYOUT)
        if not isinstance(layout, FitsLayout) or layout.image.path != source:
            hdu = layout.image.hdu if isinstance(layout, FitsLayout) else None
            layout = self._find(source, self.Options(hdu=hdu), list_hdus(source))
        stored, named = None, dict[str, int]()
        if layout.mask is not None:
            stored = read_mask(layout.mask)[0]
            # Planes of the exposure keep the names that they were read with.
            bits = {(int(v) & 0xFFFFFFFF).bit_length() - 1: n for n, v in exposure.mask_planes.items()}
            known = name_bits(stored, self.bits)
            named = {bits.get(bit, name): bit for name, bit in known.items()}
        marks = marks_of(exposure, stored, named, source)
        kept = dataclasses.replace(layout, mask=None, marks=None)
        beside = marks_file(target)
        if marks is None and overwrite and beside.is_file() and beside not in layout.files:
            # Marks of an output that is replaced would be read with the new one.
            beside.unlink()
        outputs = self._outputs(kept, target)
        return write_planes(
            exposure,
            kept,
            outputs,
            new_masks={} if marks is None else {beside: marks},
            further=self._photons(exposure, layout),
            overwrite=overwrite,
        )

    def _outputs(self, layout: FitsLayout, target: Path) -> dict[Path, Path]:
        """Output path of each file of the layout."""
        return renamed(layout, target)

    def _photons(self, exposure: Exposure, layout: FitsLayout) -> dict[int, NDArray[np.float32]]:
        """New pixels of the plane of photon noise by its HDU; empty if there is none, or it did not change."""
        hdus = list_hdus(layout.image.path)
        photons = companion_hdu(PHOTONS, hdus[layout.image.hdu], hdus)
        if photons is None or layout.noise is None or exposure.variance is None:
            return {}
        before = variance_from_noise(layout.noise.role, read_pixels(layout.noise)[0])
        changed, added = added_variance(exposure.variance, before)
        if not changed.any():
            return {}
        old = read_pixels(photons.plane("variance", layout.image.path))[0]
        return {photons.index: np.where(changed, old + added, old)}


def companion_hdu(name: str, image: HduInfo, hdus: Sequence[HduInfo]) -> HduInfo | None:
    """Return the HDU of that name, EXTVER and shape of an image; None if there is none."""
    found = [hdu for hdu in hdus if hdu.name == name and hdu.shape == image.shape and hdu.index != image.index]
    same = [hdu for hdu in found if hdu.version == image.version]
    alone = sum(is_flat(hdu) and hdu.name == image.name for hdu in hdus) == 1
    return same[0] if len(same) == 1 else found[0] if len(found) == 1 and alone else None


def required(path: Path, image: HduInfo, hdus: Sequence[HduInfo], name: str, option: str) -> HduInfo | None:
    """Return an HDU that all images of a product have; None if the file is one plane that was cut from it.

    Raises
    ------
    FormatError
        If it is not there; the error says with which option the image is read without it.
    """
    found = companion_hdu(name, image, hdus)
    alone = not any(is_flat(hdu) and hdu.shape == image.shape and hdu.index != image.index for hdu in hdus)
    if found is None and not alone:
        raise FormatError(
            f"the file has no HDU {name} that goes with {image.name or 'its image'} (HDU {image.index})",
            path=path,
            hdu=name,
            fix=f"Download the file again, or read it without ({option}=False)",
        )
    return found


def middle_of(headers: Headers, seconds: float | None, mjd: float | None, *keys: str) -> VisitInfo:
    """Read the middle of an exposure, or of the exposures of a mosaic.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    seconds : float or None
        Exposure time.
    mjd : float or None
        The middle (MJD, TAI) as the caller gives it.
    *keys : str
        Keywords of the middle, MJD (UTC), in order of preference; without them it is between EXPSTART and EXPEND.
        Times at the solar system's barycentre, which can be 8 minutes off, are not among them.

    Returns
    -------
    VisitInfo
    """
    if mjd is not None:
        return VisitInfo(float(mjd), seconds)
    middle = next((v for card in headers.find_all(*keys) if (v := _day(finite_number(card))) is not None), None)
    if middle is None:
        ends = [_day(finite_number(card)) for card in headers.find_all("EXPSTART", "EXPEND")]
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None and ends[0] <= ends[1]:
            middle = (ends[0] + ends[1]) / 2
    if middle is None:
        # The exposure time is not in EXPOSURE, which JWST uses for the number of the exposure.
        return VisitInfo(read_visit_info(headers, exposure_time=seconds or 1e-3).mjd, seconds)
    return VisitInfo(float(Time(middle, format="mjd", scale="utc").tai.mjd), seconds)


def _day(value: float | None) -> float | None:
    """A plausible MJD of a space telescope: from 1985 to 2100."""
    return value if value is not None and 46000 < value < 88000 else None


def first_number(headers: Headers, *keys: str) -> float | None:
    """Return the first positive number among some keywords."""
    values = (finite_number(card) for card in headers.find_all(*keys))
    return next((value for value in values if value is not None and 0 < value <= 1e8), None)
