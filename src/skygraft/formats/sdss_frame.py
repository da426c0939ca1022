"""Frames of the Sloan Digital Sky Survey, ``frame-<band>-<run>-<camcol>-<field>.fits(.bz2)``, DR8 and later.

A frame is one band of one field of one of the six columns of detectors: HDU 0 the calibrated, sky-subtracted image in
nanomaggies, HDU 1 the calibration of each column (nanomaggies per count), HDU 2 the sky that was subtracted (counts),
HDU 3 the astrometric solution (asTrans). The data model is at
https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html.

**What the flux is the flux of.** SDSS calibrates stars by their flux in its aperture 7, a circle of 7.43 arcsec radius:
Padmanabhan et al. 2008, ApJ 674, 1217 (ubercalibration), and the survey's page on magnitudes, by which PSF magnitudes
are corrected "to a radius of 7.4 arcsec" with bright stars. Frames are in the survey's own magnitude system, which
differs from AB by u(AB) = u - 0.04 and z(AB) = z + 0.02, and by less in g, r, i (DR8, page on flux calibration). These
offsets are not applied: a catalogue's magnitudes are SDSS's.

**Positions** come from the TAN cards of HDU 0, which SDSS fitted to the astrometric solution. They leave out its cubic
terms and its dependence on colour (tens of milliarcsec).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.open import is_fits
from skygraft.formats.base import (
    CAUTION,
    FILES,
    ImageCalibration,
    ImageFootprint,
    StrPath,
    identify_files,
    refuse_overwrite,
)
from skygraft.formats.fits import FitsFormat, FitsOptions, OpenedImage
from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_headers import Headers, finite_number
from skygraft.formats.fits_layout import HduInfo, is_flat, list_hdus, split_name
from skygraft.formats.fits_planes import read_pixels
from skygraft.formats.fits_units import image_unit
from skygraft.formats.fits_write import write_variance
from skygraft.formats.sdss_camera import (
    BANDS,
    CAMCOLS,
    calibration_vector,
    dark_variance,
    frame_variance,
    gain_of,
    middle_of_exposure,
    sky_counts,
)
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.places import is_file
from skygraft.planes import Planes
from skygraft.psf import PSF, read_psfield
from skygraft.wcs import has_wcs, pixel_scale

__all__ = ["SdssFrameFormat", "SdssFrameOptions"]

_REFERENCE = ReferenceCandidate(
    "aperture",
    radius_arcsec=7.43,
    origin="SDSS calibrates stars in its aperture 7, of 7.43 arcsec (Padmanabhan et al. 2008)",
    level="default",
)
_SCALE, _SCALE_TOLERANCE = 0.396, 0.02
"""Arcsec per pixel of a frame, and by how much of that others may differ."""
_RESAMPLED = "nanomaggy, resampled"
_NAME = re.compile(r"frame-([ugriz])-(\d{6})-([1-6])-(\d{4})")
_NANOMAGGIES = ("nanomaggy", "nanomaggies", "nmgy", "nmaggy")
_PSFIELD_ENDINGS = (".fit", ".fits", ".fit.gz", ".fits.gz", ".fit.bz2", ".fits.bz2")


@dataclass(frozen=True)
class SdssFrameOptions(FitsOptions):
    """Reading options of SDSS frames: those of ordinary FITS, and these.

    Parameters
    ----------
    field : int, optional
        Number of the field in its run, if the file's name does not have it.
    psfield : path or False, optional
        The psField file with the field's PSFs; by default the one beside the frame. False for none.
    """

    field: int | None = None
    psfield: StrPath | bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.field is not None and (isinstance(self.field, bool) or not isinstance(self.field, int)):
            raise ConfigError(f"field is {self.field!r}; a whole number is needed", key="field")


@dataclass(frozen=True)
class _Detector:
    """Which detector a frame is of, and the parts of the file that belong to it."""

    run: int
    camcol: int
    band: str
    vector: int | None
    sky: int | None


class SdssFrameFormat(FitsFormat):
    """Calibrated frames of SDSS; see `skygraft.formats.sdss_frame` for what their flux means.

    The visit is ``run * 10000 + field``, and the detector band and column, such as ``r4``. The gain is that of the data
    model's table, divided by the calibration of each column. Frames have no noise plane: the variance is computed from
    image, sky and calibration by the formula of the data model, and written beside the frame (``<stem>.variance.fits``)
    where injection changes it. The PSF is that of the field's psField file, where there is one.
    """

    name: ClassVar[str] = "sdss_frame"
    looked_for: ClassVar[str] = "RUN, CAMCOL and FILTER of SDSS in the header of an image in nanomaggies"
    Options: ClassVar[type[FitsOptions]] = SdssFrameOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file is a calibrated frame, by its header."""
        if Path(path).is_file() and Path(path).stat().st_size and not is_fits(path):
            return False
        return _detector(list_hdus(path)) is not None

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        found = super().footprint(path, **options)
        given = self.Options.parse(options, self.name, path)
        psfield = _find_psfield(Path(path), list_hdus(path), given)
        if psfield is None:
            return found
        files = (*found.files, os.fspath(psfield))
        return dataclasses.replace(
            found,
            files=files,
            n_bytes=found.n_bytes + psfield.stat().st_size,
            pinned={"psfield": os.fspath(psfield.absolute())},
        )

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        exposure = super().read(path, **options)
        given = self.Options.parse(options, self.name, path)
        extra = dict(exposure.extra)
        psfield = _find_psfield(Path(path), list_hdus(path), given)
        if psfield is not None:
            extra[FILES] = {**extra[FILES], **identify_files([psfield])}
        planes = exposure.plain
        if exposure.variance is None and given.variance is not False:
            variance = _variance(Path(path), exposure.image)
            if variance is None:
                extra[CAUTION] = (
                    "this is a part of a frame, without the sky and the calibration of its columns: its variance is "
                    "not known"
                )
            else:
                unit = str(planes.attrs("image")["units"])
                bits = {name: value.bit_length() - 1 for name, value in exposure.mask_planes.items()}
                planes = Planes.from_arrays(exposure.image, variance, exposure.mask, mask_planes=bits, units=unit)
        return exposure.replace(planes=planes, extra=extra)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the frame, and beside it mask and variance where injection set or changed them; see `Format.write`."""
        target, variance = Path(path), exposure.variance
        layout = self._layout_to_follow(exposure, Path(like))
        if layout.noise is None and variance is not None:
            old = _variance(Path(like), read_pixels(layout.image)[0])
            if old is not None and np.array_equal(old, variance, equal_nan=True):
                variance = None
        if layout.noise is not None or variance is None:
            return super().write(exposure, path, like=like, overwrite=overwrite)
        refuse_overwrite(target, [like], overwrite=overwrite)
        written = target.with_name(f"{split_name(target)[0]}.variance.fits")
        there = written.exists()
        write_variance(written, variance, inputs=(like,), overwrite=overwrite)
        try:
            return (*super().write(exposure, path, like=like, overwrite=overwrite), written)
        except BaseException:
            if not there:
                with contextlib.suppress(OSError):
                    written.unlink(missing_ok=True)
            raise

    def _data_id(self, opened: OpenedImage, given: FitsOptions) -> DataId:
        detector = _known(opened.hdus)
        name = _NAME.search(opened.path.name)
        visit = given.visit
        field = given.field if isinstance(given, SdssFrameOptions) else None
        if field is None and name is not None and int(name[2]) == detector.run and int(name[3]) == detector.camcol:
            field = int(name[4])
        if field is None and (card := opened.headers.find("FIELD")) is not None:
            number = finite_number(card)
            field = None if number is None else int(number)
        if visit is None and field is not None:
            visit = detector.run * 10000 + field
        return DataId(
            instrument=given.instrument or "SDSS",
            visit=visit,
            detector=f"{detector.band}{detector.camcol}" if given.detector is None else given.detector,
            tract=given.tract,
            patch=given.patch,
            band=given.band or detector.band,
            name=opened.name,
        )

    def _visit_info(self, opened: OpenedImage, given: FitsOptions) -> VisitInfo:
        mjd, seconds = middle_of_exposure(opened.headers, (opened.image.shape or (0, 0))[0])
        return VisitInfo(
            mjd if given.mjd is None else float(given.mjd),
            seconds if given.exposure_time is None else float(given.exposure_time),
        )

    def _candidates(self, opened: OpenedImage) -> tuple[ReferenceCandidate, ...]:
        return (*super()._candidates(opened), _REFERENCE)

    def _photo_calib(
        self, opened: OpenedImage, given: FitsOptions, exposure_time: float | None, scale: float
    ) -> tuple[str, PhotoCalib | None, CalibrationError | None]:
        if not _resampled(scale):
            return super()._photo_calib(opened, given, exposure_time, scale)
        given = dataclasses.replace(given, unit=_RESAMPLED if given.unit in (None, "nanomaggy") else given.unit)
        if given.zeropoint is None:
            error = UncalibratedImageError(
                f"the frame was resampled to pixels of {scale:.4g} arcsec (SDSS's are {_SCALE}), and whether that kept "
                "fluxes or surface brightness is not known",
                path=opened.path,
                hdu=opened.image.index,
                fix="Give zeropoint=: 22.5 if pixels were added up, "
                f"{22.5 - 5 * math.log10(scale / _SCALE):.3f} if they were averaged or interpolated",
            )
            return image_unit(opened.headers, given.unit).name, None, error
        return super()._photo_calib(opened, given, exposure_time, scale)

    def _calibration(self, opened: OpenedImage, given: FitsOptions) -> ImageCalibration:
        if given.unit is None and opened.headers.find("BUNIT") is None:
            given = dataclasses.replace(given, unit="nanomaggy")
        found = super()._calibration(opened, given)
        gain, array = RecordedGain(None, reason=f"the image is in {found.unit}, not in nanomaggies"), None
        ny, nx = found.shape
        if _resampled(float(np.ravel(pixel_scale(found.wcs, (nx - 1) / 2, (ny - 1) / 2))[0])):
            gain = RecordedGain(None, reason="the frame was resampled")
        elif found.unit == "nanomaggy":
            gain, array = _gain(opened)
        psf, no_psf = found.psf, found.no_psf
        if psf is None and given.psf is not False:
            psf, no_psf = _psfield_psf(opened, given)
        derived = (
            opened.layout.noise is None
            and given.variance is not False
            and _sky_and_calibration(opened.path, found.shape) is not None
        )
        return dataclasses.replace(
            found,
            psf=psf,
            no_psf=no_psf,
            gain=gain.value if array is None else array,
            gain_origin=gain.origin,
            no_gain=gain.reason,
            has_variance=found.has_variance or derived,
            n_files=found.n_files + derived,
        )


def _resampled(scale: float) -> bool:
    return abs(scale / _SCALE - 1) > _SCALE_TOLERANCE


def _detector(hdus: tuple[HduInfo, ...]) -> _Detector | None:
    """Which detector the frame is of; None if it is no frame."""
    header = hdus[0].header
    if not is_flat(hdus[0]) or not has_wcs(header) or not {"RUN", "CAMCOL", "FILTER"} <= set(header):
        return None
    headers = Headers([(0, header)])
    run, camcol = (headers.find(key) for key in ("RUN", "CAMCOL"))
    band, unit = (headers.find(key) for key in ("FILTER", "BUNIT"))
    if run is None or camcol is None or band is None:
        return None
    numbers = finite_number(run), finite_number(camcol)
    name = str(band.value).strip()
    vector = next((h.index for h in hdus[1:] if h.shape is not None and len(h.shape) == 1), None)
    sky = next((h.index for h in hdus[1:] if _is_sky(h.header)), None)
    in_nanomaggies = unit is not None and str(unit.value).strip().lower() in _NANOMAGGIES
    if None in numbers or numbers[1] not in CAMCOLS or name not in tuple(BANDS) or not (in_nanomaggies or sky):
        return None
    return _Detector(int(numbers[0] or 0), int(numbers[1] or 0), name, vector, sky)


def _is_sky(header: Mapping[str, Any]) -> bool:
    names = {str(header[key]).strip().upper() for key in header if str(key).startswith("TTYPE")}
    return {"ALLSKY", "XINTERP", "YINTERP"} <= names


def _known(hdus: tuple[HduInfo, ...]) -> _Detector:
    found = _detector(hdus)
    if found is None:
        raise ConfigError(
            "this is no frame of SDSS: an image in nanomaggies with RUN, CAMCOL (1 to 6) and FILTER (u, g, r, i, z) in "
            "its header",
            key="format",
            fix="Read it with format='auto'",
        )
    return found


def _gain(opened: OpenedImage) -> tuple[RecordedGain, NDArray[np.float32] | None]:
    """Electrons per nanomaggy: one number, or one for each pixel; or the reason why it is not known."""
    detector, shape = _known(opened.hdus), opened.image.shape or (0, 0)
    per_count = gain_of(detector.band, detector.camcol, detector.run)
    table = f"{per_count:g} electrons per count (SDSS data model, column {detector.camcol}, {detector.band})"
    if detector.vector is not None:
        vector = calibration_vector(opened.path, detector.vector, shape[1])
        if vector is not None:
            row = (per_count / vector).astype(np.float32)
            gain = np.ascontiguousarray(np.broadcast_to(row, shape))
            return RecordedGain(None, f"{table}, over the calibration of each column in HDU {detector.vector}"), gain
    card = opened.headers.find("NMGY")
    value = None if card is None else finite_number(card)
    if value is not None and value > 0:
        return RecordedGain(per_count / value, f"{table}, over NMGY = {value:g} nanomaggies per count"), None
    what = "is that of a larger frame" if detector.vector is not None else "(HDU 1 of a frame) is not in the file"
    return RecordedGain(None, reason=f"the calibration of its columns {what}, and there is no NMGY card"), None


def _sky_and_calibration(path: Path, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
    """Sky and calibration of a frame, from which its variance follows; None if the file is a cut-out without them."""
    detector = _known(list_hdus(path))
    if detector.vector is None and detector.sky is None:
        return None
    if detector.vector is None or detector.sky is None:
        lost = "calibration of its columns (HDU 1)" if detector.vector is None else "sky (HDU 2: ALLSKY)"
        raise FormatError(
            f"the frame lacks the {lost}, without which its variance is not known",
            path=path,
            fix="Fetch the frame again, or read it with variance=False",
        )
    vector, sky = calibration_vector(path, detector.vector, shape[1]), sky_counts(path, detector.sky, shape)
    return None if vector is None or sky is None else (sky, vector)


def _variance(path: Path, image: NDArray[Any]) -> NDArray[np.float32] | None:
    """Variance of a frame; None if its file is a cut-out without sky and calibration."""
    ny, nx = image.shape
    found = _sky_and_calibration(path, (ny, nx))
    if found is None:
        return None
    detector = _known(list_hdus(path))
    numbers = detector.band, detector.camcol, detector.run
    return frame_variance(image, found[1], found[0], gain_of(*numbers), dark_variance(*numbers))


def _find_psfield(path: Path, hdus: tuple[HduInfo, ...], given: FitsOptions) -> Path | None:
    """The file with the PSFs of the field: the given one, or that beside the frame."""
    if not isinstance(given, SdssFrameOptions) or given.psfield is False or given.psf is not None:
        return None
    if isinstance(given.psfield, str | os.PathLike):
        return Path(given.psfield)
    name = _NAME.search(path.name)
    if name is None:
        return None
    stem = f"psField-{name[2]}-{name[3]}-{name[4]}"
    return next((p for end in _PSFIELD_ENDINGS if is_file(p := path.with_name(stem + end))), None)


def _psfield_psf(opened: OpenedImage, given: FitsOptions) -> tuple[PSF | None, PsfError | None]:
    psfield = _find_psfield(opened.path, opened.hdus, given)
    if psfield is None:
        return None, PsfError(
            "there is no psField file of the frame's field beside it",
            path=opened.path,
            fix="Fetch psField-<run>-<camcol>-<field>.fit into its directory, say where it is (psfield=), or give psf= "
            "({kind: moffat, fwhm: 1.3 arcsec})",
        )
    try:
        ny, nx = opened.image.shape or (0, 0)
        return read_psfield(psfield, _known(opened.hdus).band, shape=(ny, nx)), None
    except PsfError as error:
        return None, PsfError(error.message, path=psfield, fix=error.fix)
