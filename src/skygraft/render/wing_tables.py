"""Tables of the light of a PSF's extended wings by radius, as it is and blurred by galaxies, for `WingPainter`.

A table has cubic pieces in ``(r / unit)^2``, found by the bits of that number as in `skygraft.render.radial`: Hermite's
cubics, so that value and slope are continuous. Where a cell of `skygraft.render.coarse` may stand for its pixels is
found by trying: the polynomial through a cell's nodes is compared with the light along the radius and across it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.psf.wings import Wings
from skygraft.render.coarse import FINEST, N_LEVELS, NODE

__all__ = ["FIRST_OCTAVE", "N_PIECES", "OFFSET", "PIECES", "WingTable", "blur_of", "wing_table"]

FIRST_OCTAVE, PIECES = -3, 32
"""Binary logarithm of the argument at which tables begin, and pieces of an octave."""
_N_OCTAVES = 34
N_PIECES = PIECES * _N_OCTAVES
"""Pieces of a table: radii up to 46,000 times the unit."""
OFFSET = 2.0**FIRST_OCTAVE
_MISSED = 8e-3
"""Largest error of a cell, relative to the light at its place."""
_TRIED_PER_DECADE = 40
_FINER = 4
"""Widths of blurs between one and twice it."""
_LEAST_BLUR = 0.35
"""Pixels: sources with less are points."""
_GAUSSIAN_REACH, _GAUSSIAN_NODES = 7.0, 561

type _Radial = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class WingTable:
    """Light by radius.

    Parameters
    ----------
    pieces : ndarray of float32, shape (4 N_PIECES,)
        Coefficients of the cubics, constant terms first.
    unit : float
        Pixels: the argument is ``(r / unit)^2 + OFFSET``.
    inner : float
        Radius inside which there is nothing, pixels.
    radii : ndarray, shape (N_LEVELS,)
        Radius outside which cells of each size stand for their pixels, pixels.
    """

    pieces: NDArray[np.float32]
    unit: float
    inner: float
    radii: NDArray[np.float64]


def blur_of(sigma: float) -> int:
    """Round the width of a blur to one of those that there are tables for.

    Parameters
    ----------
    sigma : float
        Standard deviation of the Gaussian, pixels.

    Returns
    -------
    int
        Number of the width; 0 for none.
    """
    if not sigma > _LEAST_BLUR:
        return 0
    return 1 + round(_FINER * math.log2(sigma / _LEAST_BLUR))


@functools.lru_cache(maxsize=256)
def wing_table(wings: Wings, blur: int) -> WingTable:
    """Tabulate the light of wings, ``b W`` of `Wings`, blurred by a Gaussian.

    Parameters
    ----------
    wings : Wings
        The wings.
    blur : int
        Number of the width, from `blur_of`.

    Returns
    -------
    WingTable
    """
    light: _Radial = wings.light if blur == 0 else _Blurred(wings, _LEAST_BLUR * 2.0 ** ((blur - 1) / _FINER))
    unit = wings.inner
    octaves = OFFSET * 2.0 ** np.arange(_N_OCTAVES + 1)
    starts = (octaves[:-1, None] * (1.0 + np.arange(PIECES) / PIECES)).ravel()
    ends = np.append(starts[1:], octaves[-1])
    # Beyond the outer radius the profile goes on in the table; whoever draws stops there.
    value = light(unit * np.sqrt(starts - OFFSET))
    step = 1e-4 * (ends - starts)
    slope = np.zeros(len(starts))
    u = starts - OFFSET
    low, high = np.maximum(u - step, 0.0), u + step
    slope = (light(unit * np.sqrt(high)) - light(unit * np.sqrt(low))) / (high - low)
    if wings.reach < math.inf:  # no step at the end, which the last piece would smear out
        beyond = unit * np.sqrt(high) > wings.reach
        value[beyond], slope[beyond] = _continued(wings, unit, u[beyond])
    h = ends - starts
    h = h[:-1]
    rise, here, there = value[1:] - value[:-1], h * slope[:-1], h * slope[1:]
    pieces = np.zeros((N_PIECES, 4), dtype=np.float32)
    pieces[:-1] = np.stack([value[:-1], here, 3 * rise - 2 * here - there, here + there - 2 * rise], axis=1)
    radii = _least_radii(light, wings, 0.0 if blur else wings.inner)
    return WingTable(np.ascontiguousarray(pieces.ravel()), unit, 0.0 if blur else wings.inner, radii)


def _continued(wings: Wings, unit: float, u: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Continue a profile beyond its end by a power law of its slope there: value, and slope in u."""
    end = wings.reach
    near, last = 0.98 * end, float(wings.light(np.array([end * (1 - 1e-9)]))[0])
    before = float(wings.light(np.array([near]))[0])
    power = math.log(before / last) / math.log(end / near) if last > 0 and before > 0 else 0.0
    value = last * (np.sqrt(u) * unit / end) ** -power
    return value, -0.5 * power * value / u


class _Blurred:
    """The light of wings, convolved with a round Gaussian."""

    def __init__(self, wings: Wings, sigma: float) -> None:
        self._wings, self._sigma = wings, sigma

    def __call__(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.special import i0e

        sigma = self._sigma
        offsets = np.linspace(-_GAUSSIAN_REACH, _GAUSSIAN_REACH, _GAUSSIAN_NODES) * sigma
        found = np.empty(len(r))
        for start in range(0, len(r), 64):
            at = r[start : start + 64, None]
            others = at + offsets
            weight = np.where(others > 0, others, 0.0) / sigma**2 * np.exp(-0.5 * (offsets / sigma) ** 2)
            weight *= i0e(np.abs(at * others) / sigma**2)
            light = self._wings.light(np.maximum(others, 0.0))
            found[start : start + 64] = (weight * light).sum(axis=1) * (offsets[1] - offsets[0])
        return found


def _least_radii(light: _Radial, wings: Wings, inner: float) -> NDArray[np.float64]:
    """Find the radius outside which each size of cell is accurate."""
    end = min(wings.reach, 1e5)
    first = max(inner, 0.5)
    tried = np.geomspace(first, end, max(2, math.ceil(_TRIED_PER_DECADE * math.log10(end / first))))
    t = np.linspace(-1.0, 1.0, 17)
    weights = np.stack([0.5 * t / NODE * (t / NODE - 1.0), 1.0 - (t / NODE) ** 2, 0.5 * t / NODE * (t / NODE + 1.0)])
    places, nodes = t, NODE * np.array([-1.0, 0.0, 1.0])
    radii = np.full(N_LEVELS, math.inf)
    for level in range(N_LEVELS):
        half = 0.5 * ((FINEST << level) - 1)
        error = np.zeros(len(tried))
        for along in (True, False):
            if along:
                true, known = (np.maximum(tried[:, None] + half * (1.0 + at), 1e-3) for at in (places, nodes))
            else:
                true, known = (np.hypot(tried[:, None], half * at) for at in (places, nodes))
            inside = true <= wings.reach
            exact = light(true.ravel()).reshape(true.shape)
            made = light(np.minimum(known, wings.reach).ravel()).reshape(known.shape) @ weights
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = np.where(
                    inside & (known <= wings.reach).all(axis=1)[:, None], np.abs(made / exact - 1.0), 0.0
                )
            error += np.nanmax(np.where(np.isfinite(relative), relative, 1.0), axis=1)
        bad = np.flatnonzero(error > _MISSED)
        radii[level] = tried[min(bad[-1] + 1, len(tried) - 1)] if bad.size else first
        if bad.size and bad[-1] == len(tried) - 1:
            radii[level] = math.inf
    return np.maximum.accumulate(radii)
