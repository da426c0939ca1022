"""Sérsic and Moffat profiles, many at a time: in Fourier space where compact, in real space where they are wide.

The compact part of a profile is drawn by a transform, together with the PSF's (`skygraft.render.cores`).

An n = 4 profile reaches forty half-light radii. So that its transform need not be that large, the wide ones of the
Gaussians that it is made of (see `skygraft.render.radial`) are taken out of T and drawn in real space
(`skygraft.render.wings`); wide means much wider than the PSF, whose moments are then all that matters of it. Flat
galaxies, narrow on one axis, need large transforms nevertheless.

Over random indices from 0.5 to 4.5, half-light radii to 10 pixels, shapes and places, with a Moffat PSF of 3 to 4.5
pixels FWHM, the largest error was 2.7e-4 of the peak, and 7e-5 in the median; 2e-4 and 1e-5 for small disks. Over
Moffat profiles of exponents from 1.5 to 20 it was 1.6e-4, and 1.6e-5 in the median; with `PRECISE` 2.8e-5 and 4e-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from skygraft.errors import InjectionError
from skygraft.jit import compiled, prefetch
from skygraft.psf.linear import aligned
from skygraft.render import kolmogorov, moffat, spergel
from skygraft.render.canvas import Canvas
from skygraft.render.coarse import Cells, CoarseField
from skygraft.render.cores import draw_cores
from skygraft.render.moffat import MOST_SPLIT_BETA
from skygraft.render.prepared import FOLDS, EvaluatedPsf
from skygraft.render.profiles import MAX_STAMP, largest_transform, rim_radius
from skygraft.render.radial import LEAST_SPLIT_INDEX, WIDTHS, Placed, gaussian_fluxes, radial_tables
from skygraft.render.spergel import MOST_SPLIT_NU
from skygraft.render.truncated import place_truncated
from skygraft.render.wings import add_wings

__all__ = ["FAST", "PRECISE", "Care", "ProfilePainter", "Profiles", "axes_of", "can_be_split", "metric_of"]

_PIXELS_AT_ONCE = 1 << 20
_LINE = 16
"""Pixels of the canvas in a cache line."""
_SIZES = tuple(sorted(m << e for m in (8, 10, 12) for e in range(2, 11) if (m << e) % 16 == 0 and m << e <= MAX_STAMP))
"""Of transforms, multiples of 16 pixels. For each the PSF's basis is transformed, so that there should not be many."""


@dataclass(frozen=True)
class Care:
    """Tolerances with which profiles are drawn.

    Parameters
    ----------
    least_ratio : float
        Smallest ratio of the narrowest sigma of a Gaussian to that of the PSF, for it to count as wide.
    moments : float
        Largest share of a wide Gaussian in the peak, divided by the fourth power of that ratio.
    rim : float
        Brightness of a profile at the edge of its transform's box, relative to its peak.
    kernel_part : float
        Part of the kernel's half-width that the box leaves free around the profile; the kernel's faint rim may wrap
        around to the other side.
    margin : int
        Pixels that the box leaves free on each side of the kernel for the smallest profiles, because a kernel that is
        moved by a fraction of a pixel rings beyond its own box.
    missed : float
        Largest error of a coarse cell, relative to the peak of the whole profile.
    beyond : float
        Largest error from frequencies beyond those of the grid that a profile is drawn on, relative to its peak.
    """

    least_ratio: float
    moments: float
    rim: float
    kernel_part: float
    margin: int
    missed: float
    beyond: float


FAST = Care(least_ratio=2.2, moments=5e-4, rim=1.5e-4, kernel_part=0.2, margin=0, missed=2e-5, beyond=1e-4)
"""To 3e-4 of the peak."""
PRECISE = Care(least_ratio=2.5, moments=4e-5, rim=1e-5, kernel_part=0.4, margin=32, missed=8e-6, beyond=1e-5)
"""To 5e-5 of the peak."""


@dataclass(frozen=True, eq=False)
class Profiles:
    """N profiles whose surfaces of equal brightness are ellipses.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Parent pixel coordinates.
    amplitude : ndarray, shape (N,)
        Flux, image units, times what the kernel is multiplied by.
    n : ndarray, shape (N,)
        Sérsic index, 0.3 to 6.2; see `skygraft.render.radial`. One for other profiles.
    beta : ndarray, shape (N,)
        Exponent of a Moffat profile; NaN for others.
    nu : ndarray, shape (N,)
        Index of a Spergel profile, infinity for a Kolmogorov profile; NaN for others.
    metric : ndarray, shape (N, 3)
        P, the matrix of the half-light ellipse x' P x = 1: xx, xy, yy, per square pixel; see `metric_of`. Of a
        truncated profile: that of the ellipse at which it ends; of a Moffat: where the radius is one
        `skygraft.render.moffat.unit`.
    reach : ndarray, shape (N,)
        Elliptical radius, where that ellipse has 1, to which the profile is drawn.
    steepness : ndarray, shape (N,)
        How steep a truncated profile is, see `skygraft.render.truncated`; NaN for those that do not end.
    half : ndarray of int, shape (N,)
        Half the stamp: pixels on either side of the middle one.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    n: NDArray[np.float64]
    beta: NDArray[np.float64]
    nu: NDArray[np.float64]
    metric: NDArray[np.float64]
    reach: NDArray[np.float64]
    steepness: NDArray[np.float64]
    half: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


def metric_of(
    jacobian: NDArray[np.float64], radius: NDArray[np.float64], q: NDArray[np.float64], pa: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The half-light ellipse in pixels.

    Parameters
    ----------
    jacobian : ndarray, shape (N, 2, 2)
        Arcsec per pixel, rows (East, North), columns (x, y).
    radius : ndarray, shape (N,)
        Half-light radius of the circle of the same area, arcsec.
    q : ndarray, shape (N,)
        Minor over major axis.
    pa : ndarray, shape (N,)
        Position angle of the major axis from North through East, degrees.

    Returns
    -------
    ndarray, shape (N, 3)
        xx, xy, yy of P.
    """
    sine, cosine = np.sin(np.radians(pa)), np.cos(np.radians(pa))
    major, minor = radius / np.sqrt(q), radius * np.sqrt(q)
    # Rows: along the major axis (East, North) = (sin, cos), and across it.
    to_axes = np.stack(
        [np.stack([sine, cosine], -1) / major[:, None], np.stack([cosine, -sine], -1) / minor[:, None]], axis=1
    )
    m = to_axes @ jacobian
    return np.stack([(m[:, :, i] * m[:, :, j]).sum(axis=1) for i, j in ((0, 0), (0, 1), (1, 1))], axis=1)


def axes_of(metric: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longest and shortest half-light radius in pixels, each of shape (N,)."""
    xx, xy, yy = metric.T
    middle, spread = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    most = middle + spread
    # Of a flat ellipse middle - spread would be a difference of large numbers.
    return np.sqrt(most / (xx * yy - xy * xy)), 1.0 / np.sqrt(most)


class ProfilePainter:
    """Draws profiles on one canvas; their smooth parts are added by `finish`.

    Parameters
    ----------
    canvas : Canvas
        Changed in place.
    care : Care
        Tolerances.
    """

    def __init__(self, canvas: Canvas, care: Care) -> None:
        self.canvas, self.care = canvas, care
        self._coarse = CoarseField(canvas)
        self.is_half_done = False
        """True if `add` failed after it had drawn some of the profiles."""

    def add(
        self, profiles: Profiles, psf: EvaluatedPsf, owner: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Add profiles, each convolved with its kernel, in the order given.

        Parameters
        ----------
        profiles : Profiles
            N of them.
        psf : EvaluatedPsf
            The PSF at some positions.
        owner : ndarray of int, shape (N,)
            Which of them is each profile's.

        Returns
        -------
        deposited : ndarray, shape (N,)
            Flux that landed on the canvas.
        clipped : ndarray of bool, shape (N,)
            Whether part of the stamp lay off the canvas.

        Raises
        ------
        InjectionError
            If one needs a larger transform than the image allows; nothing has been drawn then.
        """
        canvas = self.canvas
        self.is_half_done = False
        moments = psf.moments()[owner]
        fluxes = gaussian_fluxes(profiles.n, profiles.beta, profiles.nu)
        size, first_wide, reach, peak = _sizes(profiles, fluxes, moments, max(psf.prepared.psf.shape) // 2, self.care)
        placed = radial_tables().place(profiles.n, first_wide, profiles.beta, profiles.nu)
        placed = place_truncated(placed, profiles.n, profiles.steepness, axes_of(profiles.metric)[0])
        fluxes[np.arange(len(WIDTHS)) < first_wide[:, None]] = 0.0
        fold = _folds(profiles, psf, owner, placed, size, peak, self.care)
        deposited, clipped = np.zeros(len(profiles)), np.zeros(len(profiles), dtype=np.bool_)
        x, y, amplitude = profiles.x, profiles.y, profiles.amplitude
        wide = _Wide(
            x + moments[:, 1], y + moments[:, 2], amplitude * moments[:, 0], profiles.metric,
            moments[:, 3:].copy(), fluxes, WIDTHS, reach, self.care.missed * np.abs(peak), fluxes.any(axis=1),
        )  # fmt: skip
        drawn = size * fold
        most = largest_transform(canvas.model.shape)
        if drawn.max(initial=0) > most:
            raise InjectionError(
                f"the profile needs a transform of {drawn.max()} pixels a side; {most} are allowed on this image",
                fix="Leave out sources that are much larger than the image",
            )
        end = np.cumsum(drawn**2)
        images = aligned((max(_PIXELS_AT_ONCE, int(drawn.max(initial=0)) ** 2),))
        start = 0
        while start < len(profiles):
            # Sums are made in the order of the sources; so only so many images are held as fit into the cache.
            before = int(end[start] - drawn[start] ** 2)
            stop = max(start + 1, int(np.searchsorted(end, before + _PIXELS_AT_ONCE, side="right")))
            some = np.arange(start, stop)
            first = end[some] - drawn[some] ** 2 - before
            draw_cores(
                images, first, size[some], fold[some], some, (x, y), amplitude, profiles.metric, psf, owner, placed
            )
            _add_all(
                canvas.model, (canvas.x0, canvas.y0), self._coarse.cells, images, first, size, start, x, y,
                profiles.half, wide, deposited, clipped,
            )  # fmt: skip
            start = stop
            self.is_half_done = True
        return deposited, clipped

    def finish(self) -> None:
        """Add the coarse cells to the canvas; to be called once."""
        self._coarse.add_to(self.canvas)


def can_be_split(profiles: Profiles) -> NDArray[np.bool_]:
    """Return which profiles may be split into wide Gaussians and a compact rest, shape (N,); others are not split."""
    steep = np.where(np.isnan(profiles.beta), profiles.n < LEAST_SPLIT_INDEX, profiles.beta > MOST_SPLIT_BETA)
    steep |= np.isfinite(profiles.nu) & (profiles.nu > MOST_SPLIT_NU)
    return np.asarray(np.isnan(profiles.steepness) & ~steep)


def _sizes(
    profiles: Profiles, fluxes: NDArray[np.float64], moments: NDArray[np.float64], half_kernel: int, care: Care
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute how each profile is to be drawn.

    Returns
    -------
    size, first_wide : ndarray of int, shape (N,)
        Size of the transform in pixels, and index of the first of the Gaussians that are drawn in real space.
    reach : ndarray, shape (N,)
        Radius to which these are drawn, half-light radii.
    peak : ndarray, shape (N,)
        Approximate peak of the profile, image units.
    """
    major, minor = axes_of(profiles.metric)
    variance = np.maximum(0.5 * (moments[:, 3] + moments[:, 5]), 0.25)
    # The share of each Gaussian in the profile's peak.
    peaks = fluxes / (WIDTHS**2 + (variance / (major * minor))[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = fluxes / WIDTHS**2 / peaks.sum(axis=1)[:, None]
        radius = WIDTHS * np.sqrt(2.0 * np.log(np.maximum(share / care.rim, 1.0)))
    # What moments of the PSF do not tell goes with the fourth power of its size over that of the Gaussian.
    ratio = WIDTHS * (minor / np.sqrt(variance))[:, None]
    narrow = (ratio < care.least_ratio) | (share > care.moments * ratio**4)
    first = len(WIDTHS) - np.argmax(narrow[:, ::-1], axis=1)
    first[~narrow.any(axis=1)] = 0
    flat = np.isinf(profiles.nu)
    first[flat] = np.maximum(first[flat], np.searchsorted(WIDTHS, kolmogorov.FIRST_WIDE))
    core = np.where(np.arange(len(WIDTHS)) < first[:, None], radius, 0.0).max(axis=1)
    endless = np.isnan(profiles.steepness)
    wide = (core < profiles.reach) & (first < len(WIDTHS)) & can_be_split(profiles)
    # Where a profile is cut, its light may be anything but faint.
    room = np.where(endless, care.kernel_part, 1.0) * half_kernel
    # What is beyond the box comes in again on the other side: little of a steep profile's flux is much at its edge.
    # And a steep one still has something to be seen where its flux is all but complete.
    reach = np.fmax(_blurred_reach(profiles, moments), radius.max(axis=1))
    extent = np.where(endless, reach, 1.0)
    steep = np.flatnonzero(endless & (profiles.n < LEAST_SPLIT_INDEX))
    extent[steep] = np.maximum(profiles.reach[steep], rim_radius(profiles.n[steep], care.rim))
    whole = np.flatnonzero(profiles.beta > MOST_SPLIT_BETA)
    extent[whole] = np.maximum(profiles.reach[whole], moffat.rim_radius(profiles.beta[whole], care.rim))
    others = np.flatnonzero(np.isfinite(profiles.nu) & (profiles.nu > MOST_SPLIT_NU))
    extent[others] = np.maximum(profiles.reach[others], spergel.rim_radius(profiles.nu[others], care.rim))
    wanted = 2 * np.ceil(np.where(wide, core, extent) * major + room).astype(np.int64) + 3
    sizes = np.array(_SIZES)
    wanted = np.clip(wanted, 2 * (half_kernel + care.margin) + 3, MAX_STAMP)
    areas = np.hypot(WIDTHS * major[:, None], np.sqrt(variance)[:, None])
    areas *= np.hypot(WIDTHS * minor[:, None], np.sqrt(variance)[:, None])
    peak = profiles.amplitude * moments[:, 0] * (fluxes / areas).sum(axis=1) / (2.0 * np.pi)
    return sizes[np.searchsorted(sizes, wanted)], np.where(wide, first, len(WIDTHS)), reach, peak


def _blurred_reach(profiles: Profiles, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the radius that holds as much of each blurred profile as its reach does of the profile itself.

    To first order in s, the variance that the PSF adds along an axis in units of the profile's, this is further out by
    s / 2 times the logarithmic slope of the profile there; half as much again for the PSF's own wings.
    """
    xx, xy, yy = profiles.metric.T
    added = 0.5 * (moments[:, 3] * xx + 2.0 * moments[:, 4] * xy + moments[:, 5] * yy)
    reach = profiles.reach
    b = gammaincinv(2.0 * profiles.n, 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(
            np.isnan(profiles.beta), b / profiles.n * reach ** (1.0 / profiles.n - 1.0), 2.0 * profiles.beta / reach
        )
        spergels, flat = np.flatnonzero(np.isfinite(profiles.nu)), np.isinf(profiles.nu)
        slope[spergels] = spergel.slope(profiles.nu[spergels], reach[spergels])
        slope[flat] = kolmogorov.SLOPE / reach[flat]
        further = 0.75 * np.maximum(added, 0.0) * slope
    return np.where(np.isnan(profiles.steepness), reach + np.where(np.isfinite(further), further, 0.0), reach)


def _folds(
    profiles: Profiles,
    psf: EvaluatedPsf,
    owner: NDArray[np.int64],
    placed: Placed,
    size: NDArray[np.int64],
    peak: NDArray[np.float64],
    care: Care,
) -> NDArray[np.int64]:
    """Return the factor by which the grid of each profile must be finer than pixels, shape (N,): 1 for sampled PSFs.

    What a grid misses of the PSF, it misses of the profile by as much less as the profile's transform is less than one
    at the grid's Nyquist frequency; `peak` is that of the profile.
    """
    fold = np.ones(len(profiles), dtype=np.int64)
    if psf.prepared.between is None:
        return fold
    major, minor = axes_of(profiles.metric)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_psf = 0.88 / psf.fwhm[owner] ** 2
        peak = peak / (profiles.amplitude * psf.sums[owner])
        relative = np.where(peak > 0, of_psf / peak, 1.0 + major * minor * of_psf)
    relative = np.where(np.isfinite(relative), np.maximum(relative, 1.0), 1.0)
    enough = np.zeros(len(profiles), dtype=np.bool_)
    for finer, missed in zip(FOLDS, psf.prepared.missed, strict=True):
        # Transforms of profiles that end go through zero.
        there = [np.abs(placed.at((factor * np.pi * finer * minor) ** 2)) for factor in (1.0, 1.15, 1.35)]
        enough |= (missed * relative * np.max(there, axis=0) <= care.beyond) | (2 * finer * size > MAX_STAMP)
        fold[~enough] = min(2 * finer, FOLDS[-1])
    return fold


class _Wide(NamedTuple):
    """The wide Gaussians of N profiles: the parameters of `add_wings`, one row each, and whether there are any."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    metric: NDArray[np.float64]
    moments: NDArray[np.float64]
    fluxes: NDArray[np.float64]
    widths: NDArray[np.float64]
    reach: NDArray[np.float64]
    allowed: NDArray[np.float64]
    present: NDArray[np.bool_]


@compiled
def _add_all(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    cells: Cells,
    images: NDArray[np.float32],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
    start: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    half: NDArray[np.int64],
    wide: _Wide,
    deposited: NDArray[np.float64],
    clipped: NDArray[np.bool_],
) -> None:
    """Add the profiles from `start` on to the canvas in their order, the core of each and then its wings."""
    rows, columns = model.shape
    largest = 0
    for k in range(len(size)):
        largest = max(largest, size[k])
    along = np.empty(largest, dtype=np.float64)
    for k in range(len(first)):
        s = start + k
        n, ix, iy = size[s], int(np.rint(x[s])), int(np.rint(y[s]))
        core = images[first[k] : first[k] + n * n].reshape((n, n))
        # The next profile's rows are prefetched meanwhile: each is on a memory page of its own, far from the cache.
        following = min(s + 1, start + len(first) - 1)
        next_i, next_j = int(np.rint(x[following])) - corner[0], int(np.rint(y[following])) - corner[1]
        next_low, next_high = max(0, next_i - size[following] // 2), min(columns, next_i + size[following] // 2)
        next_row = next_j - size[following] // 2
        deposited[s] = _add_core(
            model, core, ix - corner[0], iy - corner[1], half[s], along, (next_row, next_low, next_high)
        )
        left, bottom = ix - corner[0] - half[s], iy - corner[1] - half[s]
        clipped[s] = left < 0 or bottom < 0 or left + 2 * half[s] >= columns or bottom + 2 * half[s] >= rows
        if wide.present[s]:
            deposited[s] += add_wings(
                model, corner, cells, wide.x[s], wide.y[s], wide.amplitude[s], wide.metric[s], wide.moments[s],
                wide.fluxes[s], wide.widths, wide.reach[s], wide.allowed[s], (ix, iy), half[s],
            )  # fmt: skip


@compiled(inline="always")
def _add_core(
    model: NDArray[np.float32],
    core: NDArray[np.float32],
    ix: int,
    iy: int,
    half: int,
    along: NDArray[np.float64],
    following: tuple[int, int, int],
) -> float:
    """Add the core of a profile around the pixel (ix, iy), and return the flux that landed on the canvas.

    `following` (first row, first column, end column) is the next profile's part of the canvas, which is prefetched.
    """
    rows, columns = model.shape
    middle = core.shape[0] // 2
    # Also the row and the column where what reaches beyond the box has come in again: no light is lost.
    low, high = min(half, middle), min(half, core.shape[0] - 1 - middle)
    j0, j1 = max(0, iy - low), min(rows - 1, iy + high)
    i0, i1 = max(0, ix - low), min(columns - 1, ix + high)
    if i1 < i0:
        return 0.0
    # The flux of each column: unlike one sum over all, these are made several at a time.
    along = along[: i1 - i0 + 1]
    along[:] = 0.0
    for j in range(j0, j1 + 1):
        next_j = following[0] + j - j0
        if 0 <= next_j < rows:
            for i in range(following[1], following[2] + _LINE - 1, _LINE):
                prefetch(model, next_j, min(i, columns - 1))
        into, line = model[j, i0 : i1 + 1], core[j - iy + middle, i0 - ix + middle : i1 - ix + middle + 1]
        for i in range(len(into)):
            into[i] += line[i]
            along[i] += line[i]
    flux = 0.0
    for i in range(len(along)):
        flux += along[i]
    return flux
