"""What the images are like: depth, seeing and mask planes, read from the images themselves."""

from __future__ import annotations

import functools
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array, numpy_array, one_array
from skygraft.disk import atomic_path
from skygraft.errors import CatalogError, ConfigError, CorruptFileError, SkygraftError
from skygraft.generation.cells import Points
from skygraft.generation.footprint import FootprintArea, ImageJob, SurveyImages
from skygraft.photometry import CalibrationAperture
from skygraft.processes import process_mapper
from skygraft.psf import Box
from skygraft.wcs.local import pixel_scale

__all__ = ["ImageConditions", "MaskedPlaces", "depth_at", "measure_images", "read_masks"]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Progress = Callable[[int, int], None]

_STRIDE = 7
"""Step in rows and columns at which the variance plane is sampled."""
_KEPT = 64
"""Masks that are kept unpacked: 2 MB for each 4000 x 4000 pixels."""


@dataclass(frozen=True, eq=False)
class ImageConditions:
    """Depth and seeing of some images.

    Parameters
    ----------
    m5 : ndarray, shape (K,)
        AB magnitude of a flux of 5 sigma in the calibration aperture (or by a fit of the PSF, where images are
        calibrated to that); NaN where it is not known.
    fwhm : ndarray, shape (K,)
        Of the widest PSF on each image, arcsec; NaN where it is not known.
    problems : tuple of str
        Why images have no depth.
    """

    m5: Floats
    fwhm: Floats
    problems: tuple[str, ...] = ()


def measure_images(
    images: SurveyImages,
    *,
    depth: bool,
    file: Path | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> ImageConditions:
    """Measure depth and seeing of images.

    The depth is that of the sky: the median variance of the good pixels, times the aperture's area, or the number of
    pixels of the PSF, 1 / sum(K^2) (King 1983, PASP 95, 163), gives sigma.

    Parameters
    ----------
    images : SurveyImages
    depth : bool
        Measure the depth, which needs the pixels; without it, the seeing alone is read.
    file : Path, optional
        Parquet table of what was measured before (``image_id``, ``m5``, ``fwhm``): images in it are not read again.
        What is measured is added to it.
    processes : int
        Processes that read.
    progress : callable, optional
        Called with the numbers of images done and in total.

    Returns
    -------
    ImageConditions

    Raises
    ------
    CatalogError
        If no image has what was asked for; names why.
    """
    ids = images.table.column("image_id").to_pylist()
    known = _read_known(file)
    missing = [row for row, name in enumerate(ids) if name not in known or (depth and not np.isfinite(known[name][0]))]
    problems: list[str] = []
    done = len(ids) - len(missing)
    number = min(processes, max(1, len(missing)))
    with process_mapper(number) as mapper:
        work = functools.partial(_measure, depth=depth)
        for row, found in zip(missing, mapper(work, [images.job(row) for row in missing]), strict=True):
            known[ids[row]] = found[:2]
            if found[2]:
                problems.append(f"{ids[row]}: {found[2]}")
            done += 1
            if progress is not None:
                progress(done, len(ids))
    m5, fwhm = (np.array([known[name][k] for name in ids], dtype=np.float64) for k in (0, 1))
    wanted, what = (m5, "depth") if depth else (fwhm, "seeing")
    if not np.isfinite(wanted).any():
        raise CatalogError(
            f"no image has a {what}: {problems[0] if problems else 'none is recorded'}",
            path=images.origin,
            key="footprint",
            fix="Give depth: {m5: {BAND: magnitude}}" if depth else "Give the separation in arcsec",
        )
    if file is not None and missing:
        _write_known(file, known)
    return ImageConditions(m5, fwhm, tuple(problems))


def _measure(job: ImageJob, *, depth: bool) -> tuple[float, float, str]:
    """Depth and widest FWHM (arcsec) of an image, and what is wrong with it."""
    m5, fwhm, problem = np.nan, np.nan, ""
    try:
        image = job.exposure() if depth else job.calibration()
        (ny, nx), (x0, y0) = image.shape, image.xy0
        box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
        x, y = x0 + 0.5 * (nx - 1), y0 + 0.5 * (ny - 1)
        scale = float(pixel_scale(image.wcs, x, y).ravel()[0])
        if image.psf is not None:
            fwhm = float(image.psf.fwhm_range(box)[1]) * scale
        if depth:
            m5 = _depth_of(image, x, y)
            problem = "" if np.isfinite(m5) else "it has no variance plane, or no good pixel"
    except SkygraftError as error:
        problem = str(error)
    except Exception as error:  # a broken image may raise anything, and must not stop the others
        problem = f"{type(error).__name__}: {error}"
    return m5, fwhm, problem


def _depth_of(image: Any, x: float, y: float) -> float:
    """AB magnitude of 5 sigma in the calibration aperture of an exposure; NaN without variance."""
    if image.photo_calib is None or image.variance is None:
        return np.nan
    variance = image.variance[::_STRIDE, ::_STRIDE]
    good = np.isfinite(variance) & (variance > 0)
    unmasked = good & ~image.bad()[::_STRIDE, ::_STRIDE]
    good = unmasked if unmasked.any() else good
    if not good.any():
        return np.nan
    aperture = image.photo_calib.reference
    if isinstance(aperture, CalibrationAperture):
        n_pixels = np.pi * aperture.radius_pixels**2
    elif image.psf is not None:
        kernel = np.asarray(image.psf.kernels([x], [y]))[0].astype(np.float64)
        n_pixels = float(kernel.sum() ** 2 / (kernel**2).sum())
    else:
        return np.nan
    sigma = np.sqrt(float(np.median(variance[good])) * n_pixels)
    return float(image.photo_calib.magnitude(5.0 * sigma, x, y))


def _read_known(file: Path | None) -> dict[str, tuple[float, float]]:
    if file is None or not file.exists():
        return {}
    try:
        with pq.ParquetFile(file) as opened:
            table = opened.read(columns=["image_id", "m5", "fwhm"])
        columns = [numpy_array(one_array(table.column(name)).cast(pa.float64()).fill_null(np.nan)) for name in
                   ("m5", "fwhm")]  # fmt: skip
        ids = table.column("image_id").to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise CorruptFileError(
            f"not a table of depths, with image_id, m5 and fwhm ({error})",
            path=file,
            key="depth.file",
            fix="Remove it; it is measured and written again",
        ) from error
    return {name: (float(m5), float(fwhm)) for name, m5, fwhm in zip(ids, *columns, strict=True)}


def _write_known(file: Path, known: dict[str, tuple[float, float]]) -> None:
    names = sorted(known)
    m5, fwhm = np.array([known[name] for name in names]).T
    table = pa.table({"image_id": names, "m5": arrow_array(m5.copy()), "fwhm": arrow_array(fwhm.copy())})
    with atomic_path(file) as temporary:
        pq.write_table(table, temporary)


def depth_at(
    footprint: FootprintArea, m5: Floats, points: Points, of: Literal["mean", "deepest", "shallowest"] = "mean"
) -> Floats:
    """Find the depth of the images at positions.

    Parameters
    ----------
    footprint : FootprintArea
    m5 : ndarray, shape (K,)
        Depth of each image, NaN for those that do not count.
    points : Points
        N positions.
    of : {"mean", "deepest", "shallowest"}
        Of the images that show a position.

    Returns
    -------
    ndarray, shape (N,)
        AB magnitude; NaN where no image that counts shows the position.
    """
    point, image = footprint.pairs(points)
    values = m5[image]
    good = np.isfinite(values)
    point, values = point[good], values[good]
    n = len(points)
    if of == "mean":
        count = np.bincount(point, minlength=n)
        total = np.bincount(point, weights=values, minlength=n)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)
    sign = 1.0 if of == "deepest" else -1.0
    best = np.full(n, -np.inf)
    np.maximum.at(best, point, sign * values)
    return np.where(np.isfinite(best), sign * best, np.nan)


@dataclass(frozen=True, eq=False)
class _Mask:
    """The bad pixels of an image."""

    packed: bytes
    shape: tuple[int, int]
    xy0: tuple[int, int]
    wcs: Any


class MaskedPlaces:
    """The places that the mask planes of images mark.

    Parameters
    ----------
    footprint : FootprintArea
    masks : sequence
        Of each image, from `read_masks`.
    every : bool
        A place is masked only if every image that shows it marks it; otherwise if any does.
    """

    def __init__(self, footprint: FootprintArea, masks: Sequence[_Mask | None], every: bool) -> None:
        self._footprint, self._masks, self._every = footprint, masks, every
        self._open: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def near(self, points: Points) -> NDArray[np.bool_]:
        """Find which positions are on masked pixels, as booleans."""
        point, image = self._footprint.pairs(points)
        bad = np.zeros(len(point), dtype=np.bool_)
        order = np.argsort(image, kind="stable")
        numbers, starts = np.unique(image[order], return_index=True)
        for k, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            mask = self._masks[k]
            if mask is not None:
                bad[rows] = self._marked(k, mask, points.ra[point[rows]], points.dec[point[rows]])
        n_bad = np.bincount(point, weights=bad, minlength=len(points))
        if self._every:
            return np.asarray((n_bad > 0) & (n_bad == np.bincount(point, minlength=len(points))))
        return np.asarray(n_bad > 0)

    def _marked(self, k: int, mask: _Mask, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        bits = self._open.pop(k, None)
        if bits is None:
            bits = np.frombuffer(zlib.decompress(mask.packed), dtype=np.uint8)
        self._open[k] = bits
        while len(self._open) > _KEPT:
            self._open.popitem(last=False)
        x, y = mask.wcs.world_to_pixel_values(ra, dec)
        ny, nx = mask.shape
        with np.errstate(invalid="ignore"):
            column = np.clip(np.rint(np.nan_to_num(x) - mask.xy0[0]), 0, nx - 1).astype(np.int64)
            row = np.clip(np.rint(np.nan_to_num(y) - mask.xy0[1]), 0, ny - 1).astype(np.int64)
        at = row * nx + column
        return np.asarray((bits[at >> 3] >> (7 - (at & 7))) & 1, dtype=np.bool_)


def read_masks(
    footprint: FootprintArea,
    planes: Sequence[str] | None,
    *,
    grow: int = 0,
    every: bool = False,
    processes: int = 1,
    progress: Progress | None = None,
) -> MaskedPlaces:
    """Read the masks of the images of a footprint.

    Parameters
    ----------
    footprint : FootprintArea
    planes : sequence of str or None
        Mask planes to avoid; None for all that mark bad pixels (see `skygraft.Exposure.bad`). Images that lack a plane
        are not masked by it.
    grow : int
        Pixels by which the masked places are grown.
    every : bool
        See `MaskedPlaces`.
    processes, progress
        As in `measure_images`.

    Returns
    -------
    MaskedPlaces

    Raises
    ------
    ConfigError
        If no image has one of the planes.
    """
    images = footprint.images
    jobs = [images.job(row) for row in range(len(images))]
    masks: list[_Mask | None] = []
    names: set[str] = set()
    number = min(processes, len(jobs))
    with process_mapper(number) as mapper:
        work = functools.partial(_read_mask, planes=None if planes is None else tuple(planes), grow=grow)
        for mask, known in mapper(work, jobs):
            masks.append(mask)
            names.update(known)
            if progress is not None:
                progress(len(masks), len(jobs))
    absent = [name for name in planes or () if name not in names]
    if absent:
        raise ConfigError(
            f"no image has the mask plane {', '.join(absent)}; there are {', '.join(sorted(names)) or 'none'}",
            path=images.origin,
            key="avoid.masks.planes",
            fix="Name planes that the images have",
        )
    return MaskedPlaces(footprint, masks, every)


def _read_mask(job: ImageJob, *, planes: tuple[str, ...] | None, grow: int) -> tuple[_Mask | None, list[str]]:
    try:
        image = job.exposure()
    except Exception:  # nothing can be injected into an image that cannot be read
        return None, []
    known = list(image.mask_planes)
    bad = image.bad(None if planes is None else [name for name in planes if name in known])
    bad |= ~np.isfinite(image.image)
    if grow:
        from scipy.ndimage import binary_dilation

        bad = binary_dilation(bad, iterations=grow)
    return _Mask(zlib.compress(np.packbits(bad).tobytes(), 1), image.shape, image.xy0, image.wcs), known
