"""New planes for the image, and the mask planes that say where the sources are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import InjectionError
from skygraft.exposure import PHOTON_VARIANCE, Exposure, add_mask_plane
from skygraft.injection.coadd_noise import NoiseModel
from skygraft.injection.placing import LARGEST_FLUX
from skygraft.jit import compiled, worth_compiling
from skygraft.noise import Gain
from skygraft.planes import Planes
from skygraft.render import Canvas, RenderReport, Sources

__all__ = ["Drawn", "check_planes", "mark", "new_planes", "with_planes"]

_CORE = 1
"""Half-width of the INJECTED_CORE square: 3 x 3 pixels."""
_BLOCK = 128
"""Pixels that are skipped together where there is no flux."""
_FEW = 50_000_000
"""Pixels of images for which numpy takes less time than compiling."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """An exposure's planes with the sources drawn on them.

    Parameters
    ----------
    planes : Planes
        With new arrays for those that changed.
    report : RenderReport
        One entry per source.
    gain : Gain or None
        What noise and variance were made with; None without them.
    noise : NoiseModel or None
        How the noise is correlated between pixels; None without noise, or where LSST's conventions make it.
    """

    planes: Planes
    report: RenderReport
    gain: Gain | None
    noise: NoiseModel | None = None


def new_planes(exposure: Exposure, image: NDArray[np.float32], *, new_variance: bool, new_mask: bool = True) -> Planes:
    """Give an exposure's planes another image, and empty arrays for the other planes that will change.

    Parameters
    ----------
    exposure : Exposure
        The image.
    image : ndarray of float32, shape (ny, nx)
        The new image plane.
    new_variance, new_mask : bool
        Whether variance and mask will change too; their new arrays are not filled.

    Returns
    -------
    Planes
    """
    old = exposure.plain
    changed = {"mask": new_mask, "variance": new_variance and "variance" in old}
    empty = {name: np.empty_like(old[name], order="C") for name, new in changed.items() if new}
    return old.with_arrays({"image": image, **empty})


def with_planes(exposure: Exposure, planes: Planes) -> Exposure:
    """Give an exposure new planes, and the variance of the new light to the part that is photon noise.

    Parameters
    ----------
    exposure : Exposure
        The image before injection.
    planes : Planes
        The new planes.

    Returns
    -------
    Exposure
    """
    photons, before = exposure.extra.get(PHOTON_VARIANCE), exposure.variance
    if photons is None or before is None or planes["variance"] is before:
        return exposure.replace(planes=planes)
    after = planes["variance"]
    photons = np.where(np.isfinite(before) & (after != before), photons + (after - before), photons)
    return exposure.replace(planes=planes, extra={**exposure.extra, PHOTON_VARIANCE: photons})


def mark(
    planes: Planes,
    canvas: Canvas,
    exposure: Exposure,
    sources: Sources,
    report: RenderReport,
    threshold: float,
) -> None:
    """Fill the new mask: INJECTED where the model exceeds the noise, INJECTED_CORE on 3 x 3 pixels at each source.

    Parameters
    ----------
    planes : Planes
        With a new array for the mask, which is filled.
    canvas : Canvas
        The light of the sources.
    exposure : Exposure
        The image before injection.
    sources : Sources
        The sources.
    report : RenderReport
        One entry per source.
    threshold : float
        INJECTED marks pixels changed by more than this many standard deviations of their noise.
    """
    injected = np.int32(1 << add_mask_plane(planes, "INJECTED"))
    core = np.int32(1 << add_mask_plane(planes, "INJECTED_CORE"))
    mask = planes["mask"]
    if exposure.variance is not None:
        variance = exposure.variance
    else:
        variance = np.full((1, mask.shape[1]), _image_sigma(exposure.image) ** 2, dtype=np.float32)
    work = exposure.mask, mask, canvas.model, canvas.model.view(np.uint32), variance, injected, threshold
    if worth_compiling(_mark, *work, work=lambda: mask.size, limit=_FEW):
        _mark(*work)
    else:
        _mark_few(*work)
    on_canvas = report.stamp_size > 0
    _mark_cores(mask, canvas.x0, canvas.y0, sources.x[on_canvas], sources.y[on_canvas], core)


def _image_sigma(image: NDArray[np.float32]) -> float:
    """Estimate the standard deviation of an image without a variance plane, robustly."""
    sample = image.ravel()[:: max(1, image.size // 200_000)]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(sample - np.median(sample))))


@compiled
def _mark(
    before: NDArray[np.int32],
    mask: NDArray[np.int32],
    model: NDArray[np.float32],
    bits: NDArray[np.uint32],
    variance: NDArray[Any],
    bit: np.int32,
    threshold: float,
) -> None:
    """Copy a mask, setting a bit where the model exceeds `threshold` sigma; one row of variance holds for all rows."""
    squared = threshold * threshold
    for j in range(model.shape[0]):
        v = variance[min(j, variance.shape[0] - 1)]
        for i in range(model.shape[1]):
            mask[j, i] = before[j, i]
        for start in range(0, model.shape[1], _BLOCK):
            flux, out = model[j, start : start + _BLOCK], mask[j, start : start + _BLOCK]
            some, words = np.uint32(0), bits[j, start : start + _BLOCK]
            for i in range(np.uint64(words.size)):
                some |= words[i]
            for i in range(flux.size if some else 0):
                # Where the variance is not known, every changed pixel is marked.
                known = float(v[start + i]) if v[start + i] > 0.0 and v[start + i] < np.inf else 0.0
                out[i] |= bit if float(flux[i]) * float(flux[i]) > squared * known else 0


def _mark_few(
    before: NDArray[np.int32],
    mask: NDArray[np.int32],
    model: NDArray[np.float32],
    bits: NDArray[np.uint32],
    variance: NDArray[Any],
    bit: np.int32,
    threshold: float,
) -> None:
    """Do what `_mark` does, in numpy."""
    mask[:] = before
    lit = np.nonzero(bits)
    flux, known = model[lit].astype(np.float64), np.broadcast_to(variance, model.shape)[lit].astype(np.float64)
    known[~((known > 0.0) & (known < np.inf))] = 0.0
    with np.errstate(invalid="ignore"):
        over = flux * flux > threshold * threshold * known
    mask[lit] |= np.where(over, bit, np.int32(0))


def _mark_cores(
    mask: NDArray[np.int32], x0: int, y0: int, x: NDArray[np.float64], y: NDArray[np.float64], bit: np.int32
) -> None:
    """Set a bit in the squares about the pixels nearest to (x, y), as far as they are on the canvas."""
    ny, nx = mask.shape
    square = np.arange(-_CORE, _CORE + 1)
    rows = (np.rint(y).astype(np.int64) - y0)[:, None, None] + square[:, None]
    columns = (np.rint(x).astype(np.int64) - x0)[:, None, None] + square
    rows, columns = np.broadcast_arrays(rows, columns)
    within = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    mask[rows[within], columns[within]] |= bit


def check_planes(exposure: Exposure, planes: Planes, report: RenderReport, gain: Gain | None) -> None:
    """Check that finite pixels have stayed finite; only where the flux is large enough to overflow.

    Parameters
    ----------
    exposure : Exposure
        The image before.
    planes : Planes
        The new planes.
    report : RenderReport
        What was drawn.
    gain : Gain or None
        What noise and variance were made with.

    Raises
    ------
    InjectionError
        If one is.
    """
    most = float(np.abs(report.flux_deposited).sum())
    if most < LARGEST_FLUX and (gain is None or most / float(np.min(gain.value)) < LARGEST_FLUX):
        return
    for name in ("image", "variance"):
        if name in planes:
            lost = np.isfinite(exposure.plain[name]) & ~np.isfinite(planes[name])
            if lost.any():
                raise InjectionError(
                    f"{np.count_nonzero(lost)} pixels of the {name} plane would not be finite",
                    path=exposure.path,
                    fix="Check the brightest sources of the catalogue, the zeropoint and the gain",
                )
