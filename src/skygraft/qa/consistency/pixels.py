r"""Compare a coadd's own pixels with those of its visits, as they were before injection.

Injection takes zeropoint and WCS from the headers, of visits and coadd alike: where these are wrong, both injections
are wrong in the same way, and agree. The light that was in the images tells. In stamps about the coadd's brighter
objects and on empty sky, visits are warped onto the coadd's grid, and the coadd's pixels C are fitted:

.. math:: C = \sum_v \beta_v\, \hat w_v\, T_v, \qquad \hat w_v = w_v / \sum_u w_u,

with the visits' warped pixels T_v in units of the coadd and their assumed weights w_v. Noise is part of the pixels:
what is in the coadd has beta near one, what is not has zero. The shift of the coadd's pixels is fitted by the gradient
of the mean of the visits, and taken out, before; the zeropoint is the slope of C against that mean, on bright pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.qa.consistency.grids import Grid, grid_on
from skygraft.qa.consistency.light import LitImage
from skygraft.qa.consistency.pixel_fits import HALF, LEAST_PIXELS, Stack
from skygraft.qa.consistency.resampling import LANCZOS, warp_stamps

__all__ = ["PixelCheck", "PixelFindings"]

type FloatArray = NDArray[np.float64]

_MOST_BYTES = 1e9
"""Memory for the stamps of all visits."""
_MOST_OBJECTS, _LEAST_OBJECTS = 150, 4
_MOST_SKY = 60
_BRIGHT = 20.0
"""Signal to noise of a pixel from which on it tells zeropoint and shift."""
_MOST_UNEXPLAINED = 0.5
"""Fraction of the variance of a coadd's sky up to which it can be made of the visits."""


@dataclass(frozen=True, eq=False)
class PixelFindings:
    """What the pixels of a coadd and its visits say; NaN where they do not say it.

    Parameters
    ----------
    n_objects, n_pixels : int
        Objects and pixels that were compared.
    zeropoint, zeropoint_error : float
        Magnitude by which the coadd's pixels are fainter than its zeropoint says, and its standard error.
    dx, dy, shift_error : float
        Position of the light on the coadd from where the WCS of visits and coadd put it, and its error, coadd pixels.
    core, core_error : float
        Light of the cores of bright objects relative to that around them, minus one, and its error.
    present, present_error : dict of str to float
        By visit, the fraction of its assumed weight with which it is in the coadd, and its error; empty where pixels do
        not tell.
    unexplained : float
        Fraction of the variance of the coadd's sky that is not noise of these visits.
    visit_shifts : dict of str to (float, float, float)
        By visit, the position of the coadd's light from where that visit's WCS puts it, less the shift of all, and its
        error; coadd pixels.
    note : str
        Why nothing is known.
    """

    n_objects: int = 0
    n_pixels: int = 0
    zeropoint: float = np.nan
    zeropoint_error: float = np.nan
    dx: float = np.nan
    dy: float = np.nan
    shift_error: float = np.nan
    core: float = np.nan
    core_error: float = np.nan
    present: dict[str, float] = field(default_factory=dict)
    present_error: dict[str, float] = field(default_factory=dict)
    unexplained: float = np.nan
    visit_shifts: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    note: str = ""

    def lines(self) -> list[str]:
        """What the pixels say, for people."""
        said = []
        if np.isfinite(self.zeropoint):
            said.append(f"zeropoint off by {1e3 * self.zeropoint:+.2f} ± {1e3 * self.zeropoint_error:.2f} mmag")
        if np.isfinite(self.dx):
            said.append(f"light off by {self.dx:+.4f}, {self.dy:+.4f} ± {self.shift_error:.4f} pix")
        if np.isfinite(self.core):
            said.append(f"cores {100 * self.core:+.2f} ± {100 * self.core_error:.2f} %")
        found = [f"the images' own pixels ({self.n_objects} objects): {', '.join(said)}"] if said else []
        if self.present:
            low = min(self.present, key=lambda name: self.present[name])
            found.append(
                f"weights in the coadd by those assumed: {min(self.present.values()):.3f} ({low}) to "
                f"{max(self.present.values()):.3f}; {100 * self.unexplained:.0f} % of its noise is of no visit given"
            )
        return found + ([f"the images' own pixels: {self.note}"] if self.note else [])


@dataclass(frozen=True, eq=False)
class _Cutouts:
    """Pixels of a visit about the stamps."""

    name: str
    weight: float
    rows: NDArray[np.intp]
    pixels: NDArray[np.float32]
    bad: NDArray[np.bool_]
    grid: Grid


class PixelCheck:
    """Gathers the visits' pixels about stamps of a coadd; `result` compares them.

    Parameters
    ----------
    coadd : LitImage
        The coadd.
    bad : ndarray of bool, shape (ny, nx)
        Its pixels that are left out.
    """

    def __init__(self, coadd: LitImage, bad: NDArray[np.bool_]) -> None:
        exposure = coadd.exposure
        self._wcs, (x0, y0) = exposure.wcs, exposure.xy0
        self._x, self._y, self._n_objects, self._noise = _places(exposure, bad)
        size = 2 * HALF + 1
        columns = (self._x[:, None] + np.arange(-HALF, HALF + 1)).astype(np.intp)
        lines = (self._y[:, None] + np.arange(-HALF, HALF + 1)).astype(np.intp)
        self._coadd = exposure.image[lines[:, :, None], columns[:, None, :]].astype(np.float64)
        self._good = ~bad[lines[:, :, None], columns[:, None, :]]
        assert self._coadd.shape[1:] == (size, size)
        self._x, self._y = self._x + float(x0), self._y + float(y0)
        self._scale = coadd.photo_calib.scale(self._x, self._y)
        self._visits: list[_Cutouts] = []

    def add(self, visit: LitImage, bad: NDArray[np.bool_], weight: float) -> None:
        """Cut the visit's pixels about the stamps.

        Parameters
        ----------
        visit : LitImage
            The visit.
        bad : ndarray of bool, shape (ny, nx)
            Its pixels that are left out.
        weight : float
            Its assumed weight.
        """
        if not len(self._x):
            return
        exposure = visit.exposure
        grid = grid_on(exposure, self._wcs, self._x, self._y)
        ny, nx = exposure.shape
        rows = np.flatnonzero(((grid.at > 0) & (grid.at < (nx, ny))).all(axis=1))
        if not rows.size:
            return
        grid = grid[rows]
        reach = int(np.ceil((HALF + 2) * np.abs(grid.matrices).sum(axis=2).max())) + LANCZOS.order + 1
        middle = np.rint(grid.at).astype(np.intp)
        around = np.arange(-reach, reach + 1)
        columns, lines = middle[:, :1] + around, middle[:, 1:] + around
        outside = ((lines < 0) | (lines >= ny))[:, :, None] | ((columns < 0) | (columns >= nx))[:, None, :]
        at = np.clip(lines, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]
        wrong = outside | bad[at]
        factor = (visit.photo_calib.scale(*(grid.at + exposure.xy0).T) / self._scale[rows])[:, None, None]
        pixels = np.where(wrong, 0.0, exposure.image[at] * factor)
        # Where something is masked its light is spread by interpolation: those pixels do not count.
        inner = Grid(grid.at - middle + reach, grid.matrices, grid.inverses, grid.area)
        self._visits.append(_Cutouts(visit.image_id, weight, rows, pixels.astype(np.float32), wrong, inner))

    def _warped(self, visit: _Cutouts, shift: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Warp a visit onto the coadd's pixels, which are `shift` off where the WCS puts them; its sky is taken off."""
        n, size = len(visit.rows), 2 * HALF + 1
        out, seen = np.empty((n, size, size), np.float32), np.empty((n, size, size), np.bool_)
        first = np.tile(-HALF - shift, (n, 1))
        index = np.arange(n)
        grid = visit.grid
        warp_stamps(visit.pixels, visit.bad, index, grid.at, grid.matrices, first, LANCZOS.table, out, seen)
        # A bad pixel anywhere in the footprint of the interpolation.
        touched = np.empty_like(out)
        flat = np.empty_like(seen)
        warp_stamps(
            visit.bad.astype(np.float32), visit.bad, index, grid.at, grid.matrices, first, LANCZOS.table, touched, flat
        )
        values = out.astype(np.float64)
        return values, seen & (np.abs(touched) < 1e-6)

    def result(self) -> PixelFindings:
        """Fit weights, zeropoint and shift."""
        n_pixels = int(self._good.sum())
        self._limit()
        if not self._visits or n_pixels < LEAST_PIXELS:
            return PixelFindings(self._n_objects, n_pixels, note="too few pixels that are not masked")
        weight = np.array([visit.weight for visit in self._visits])
        shift, error = np.zeros(2), np.nan
        stack = self._stack(shift, weight)
        if self._n_objects >= _LEAST_OBJECTS:
            for _ in range(4):
                step, error = stack.shift()
                if not np.isfinite(step).all() or np.abs(shift + step).max() > 3:
                    shift, error = np.full(2, np.nan), np.nan
                    stack = self._stack(np.zeros(2), weight)
                    break
                shift = shift + step
                stack = self._stack(shift, weight)
                if np.abs(step).max() < 2e-3:
                    break
        present, present_error, unexplained, n_used = stack.present()
        known = np.isfinite(present) & (unexplained < _MOST_UNEXPLAINED)
        factors = np.where(known, np.clip(present, 0.0, None), 1.0)
        slope, slope_error, core, core_error = stack.slopes(factors)
        if self._n_objects < _LEAST_OBJECTS:
            slope = slope_error = core = core_error = np.nan
        notes = ["too few objects for zeropoint and shift"] if self._n_objects < _LEAST_OBJECTS else []
        if unexplained >= _MOST_UNEXPLAINED:
            notes.append("the noise of the coadd is not that of these visits: it was made of other images")
        shifts = [stack.shift(k) for k in range(len(weight))] if self._n_objects >= _LEAST_OBJECTS else []
        told = [(visit.name, k) for k, visit in enumerate(self._visits) if known[k]]
        return PixelFindings(
            self._n_objects,
            n_used,
            float(-2.5 * np.log10(slope)) if slope > 0 else np.nan,
            float(1.0857 * slope_error),
            float(shift[0]) if self._n_objects >= _LEAST_OBJECTS else np.nan,
            float(shift[1]) if self._n_objects >= _LEAST_OBJECTS else np.nan,
            float(error),
            core,
            core_error,
            {name: float(present[k]) for name, k in told},
            {name: float(present_error[k]) for name, k in told},
            unexplained,
            {
                visit.name: (float(own[0]), float(own[1]), own_error)
                for visit, (own, own_error) in zip(self._visits, shifts, strict=False)
                if np.isfinite(own).all()
            },
            "; ".join(notes),
        )

    def _limit(self) -> None:
        """Leave out stamps, the faintest objects first, where those of all visits take too much memory."""
        n, size = len(self._x), 2 * HALF + 1
        most = max(30, int(_MOST_BYTES / (32 * size**2 * max(1, len(self._visits)))))
        if n <= most:
            return
        objects = min(self._n_objects, 2 * most // 3)
        sky = np.linspace(self._n_objects, n - 1, min(n - self._n_objects, most - objects)).astype(np.intp)
        kept = np.concatenate([np.arange(objects), sky]) if n > self._n_objects else np.arange(objects)
        place = np.full(n, -1)
        place[kept] = np.arange(len(kept))
        self._x, self._y, self._n_objects = self._x[kept], self._y[kept], objects
        self._coadd, self._good = self._coadd[kept], self._good[kept]
        for k, visit in enumerate(self._visits):
            here = place[visit.rows] >= 0
            self._visits[k] = replace(
                visit,
                rows=place[visit.rows][here],
                pixels=visit.pixels[here],
                bad=visit.bad[here],
                grid=visit.grid[here],
            )
        self._visits = [visit for visit in self._visits if len(visit.rows)]

    def _stack(self, shift: FloatArray, weight: FloatArray) -> Stack:
        n, size = len(self._x), 2 * HALF + 1
        images = np.zeros((len(self._visits), n, size, size))
        seen = np.zeros(images.shape, np.bool_)
        for k, visit in enumerate(self._visits):
            images[k, visit.rows], seen[k, visit.rows] = self._warped(visit, shift)
        return Stack(self._coadd, self._good, images, seen, weight, self._n_objects, self._noise)


def _places(exposure: Exposure, bad: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray, int, float]:
    """Choose pixels (x, y) of the coadd's array for stamps: its brightest sound objects, then empty sky.

    The number of objects and the noise of a pixel are given, too.
    """
    import sep

    pixels = np.where(bad, 0.0, exposure.image).astype(np.float32)
    ny, nx = pixels.shape
    none = np.zeros(0), np.zeros(0), 0, np.nan
    if min(ny, nx) <= 2 * HALF + 2 or bad.all():
        return none
    background = sep.Background(pixels, mask=bad, bw=64, bh=64)
    noise = float(background.globalrms)
    if not noise > 0:
        return none
    try:
        objects = sep.extract(pixels - background.back(), 5.0, err=noise, mask=bad, minarea=5)
    except Exception as error:  # SEP raises plain exceptions where its buffers are full
        if "overflow" not in str(error) and "full" not in str(error):
            raise
        objects = sep.extract(pixels - background.back(), 50.0, err=noise, mask=bad, minarea=5)
    x, y = np.rint(objects["x"]).astype(int), np.rint(objects["y"]).astype(int)
    inside = (x > HALF) & (x < nx - HALF - 1) & (y > HALF) & (y < ny - HALF - 1)
    bright = np.flatnonzero(inside & (objects["peak"] > _BRIGHT * noise / 2)).tolist()
    rows = [i for i in bright if not bad[y[i] - 3 : y[i] + 4, x[i] - 3 : x[i] + 4].any()]
    rows.sort(key=lambda i: -objects["flux"][i])
    rows = rows[:_MOST_OBJECTS]
    # A grid of places, always the same ones, some of which are empty sky.
    side = max(1, int(np.ceil(np.sqrt(_MOST_SKY))))
    gx, gy = np.meshgrid(
        np.linspace(HALF + 1, nx - HALF - 2, side).astype(int),
        np.linspace(HALF + 1, ny - HALF - 2, side).astype(int),
    )
    return (
        np.concatenate([x[rows], gx.ravel()]).astype(float),
        np.concatenate([y[rows], gy.ravel()]).astype(float),
        len(rows),
        noise,
    )
