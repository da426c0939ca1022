"""Tables of the light of a PSF's extended wings by radius, as it is and blurred by galaxies, for `WingPainter`.

A table has cubic pieces in ``(r / unit)^2``, found by the bits of that number as in `skygraft.render.radial`: Hermite's
cubics, so that value and slope are continuous. Where a cell of `skygraft.render.coarse` may stand for its pixels is
found by trying: the polynomial through a cell's nodes is compared with the light along the radius and across it.

A profile is a sum of round Gaussians, and so are the wings that it blurs: tables of Gaussians half an octave apart are
made by FFTLog (Hamilton 2000), once for each image's wings, and added up for each galaxy. What is blurred are wings
without an end: it is the blurred ones that end where they are drawn to.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.lazy import lazy_module
from skygraft.psf.wings import Wings
from skygraft.render.coarse import FINEST, N_LEVELS, NODE

fft = lazy_module("scipy.fft")

__all__ = ["FIRST_OCTAVE", "N_PIECES", "OFFSET", "PIECES", "SIGMAS", "WingTable", "blur_of", "wing_table"]

FIRST_OCTAVE, PIECES = -3, 32
"""Binary logarithm of the argument at which tables begin, and pieces of an octave."""
_N_OCTAVES = 34
N_PIECES = PIECES * _N_OCTAVES
"""Pieces of a table: radii up to 46,000 times the unit."""
OFFSET = 2.0**FIRST_OCTAVE
_MISSED = 8e-3
"""Largest error of a cell, relative to the light at its place."""
_TRIED_PER_DECADE = 40
_LEAST_BLUR, _N_BLURS = 0.35, 22
"""Standard deviation of the narrowest Gaussian that blurs, pixels, and how many there are, half an octave apart."""
SIGMAS: NDArray[np.float64] = np.append(0.0, _LEAST_BLUR * np.exp2(0.5 * np.arange(_N_BLURS)))
"""Standard deviations of the Gaussians that there are tables for, pixels, the first that of a point."""
_LOG_POINTS, _LEAST_RADIUS, _BEYOND = 4096, 1e-3, 500.0
"""Of FFTLog, which begins at so much of the inner radius and ends at so many of the outer."""
_BIAS = 0.3
"""Of FFTLog: less gives more noise about the centre, more a larger constant far out."""
_UNBLURRED, _FROM_JOIN = 50.0, 3.0
"""Standard deviations, and join radii, beyond which a Gaussian changes nothing (1e-3 of the light at most)."""
_CENTER = 0.02
"""Part of the inner radius within which blurred light is constant."""
_FURTHEST = 1e5

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


def blur_of(fluxes: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread sums of Gaussians over those that there are tables for, with the second moments that they have.

    Parameters
    ----------
    fluxes, widths : ndarray, shape (N, M)
        Of the Gaussians of N profiles; standard deviations in pixels.

    Returns
    -------
    ndarray, shape (N, len(SIGMAS))
        Flux of each Gaussian.
    """
    squares = SIGMAS**2
    wanted = np.minimum(widths, SIGMAS[-1]) ** 2
    upper = np.clip(np.searchsorted(squares, wanted), 1, len(squares) - 1)
    part = (wanted - squares[upper - 1]) / (squares[upper] - squares[upper - 1])
    found = np.zeros((len(fluxes), len(squares)))
    rows = np.arange(len(fluxes))[:, None]
    np.add.at(found, (rows, upper), fluxes * part)
    np.add.at(found, (rows, upper - 1), fluxes * (1.0 - part))
    return found


def wing_table(wings: Wings, blur: NDArray[np.float64]) -> WingTable:
    """Tabulate the light of wings, ``b W`` of `Wings`, blurred by a sum of Gaussians.

    Parameters
    ----------
    wings : Wings
        The wings.
    blur : ndarray, shape (len(SIGMAS),)
        Fluxes of the Gaussians, from `blur_of`.

    Returns
    -------
    WingTable
    """
    used = np.flatnonzero(blur)
    if used.tolist() == [0] and blur[0] == 1.0:
        return _points_table(wings)
    parts = _parts(wings)
    parts.make(used)
    # Those that are not made are zero, and so are their fluxes.
    pieces = (blur @ parts.pieces).astype(np.float32)
    error, light = np.tensordot(blur, parts.trials, 1)
    return WingTable(pieces, wings.inner, 0.0, _least_radii(error, light, parts.tried))


@functools.lru_cache(maxsize=16)
def _points_table(wings: Wings) -> WingTable:
    """Tabulate the wings of points."""
    tried = _tried(wings, wings.inner)
    error, light = _trials(wings.light, tried, wings.reach)
    return WingTable(
        _pieces(_without_end(wings), wings.inner).astype(np.float32),
        wings.inner,
        wings.inner,
        _least_radii(error, light, tried),
    )


class _Parts:
    """Of each Gaussian, once it was asked for: cubic pieces, and what `_trials` found; threads may share them."""

    def __init__(self, wings: Wings) -> None:
        self._wings, self.tried = wings, _tried(wings, 0.0)
        self.pieces = np.zeros((len(SIGMAS), 4 * N_PIECES))
        self.trials = np.zeros((len(SIGMAS), 2, N_LEVELS, 2, len(self.tried)))
        self._made = np.zeros(len(SIGMAS), dtype=np.bool_)
        self._lock = threading.Lock()

    def make(self, which: NDArray[np.intp]) -> None:
        """Make those of some Gaussians."""
        if self._made[which].all():
            return
        with self._lock:
            for k in which[~self._made[which]].tolist():
                light = _blurred(self._wings, float(SIGMAS[k])) if k else _without_end(self._wings)
                self.pieces[k] = _pieces(light, self._wings.inner)
                self.trials[k] = _trials(light, self.tried, math.inf)
                self._made[k] = True


@functools.lru_cache(maxsize=16)
def _parts(wings: Wings) -> _Parts:
    return _Parts(wings)


def _pieces(light: _Radial, unit: float) -> NDArray[np.float64]:
    """Return the cubic pieces of some light, one after the other."""
    octaves = OFFSET * 2.0 ** np.arange(_N_OCTAVES + 1)
    starts = (octaves[:-1, None] * (1.0 + np.arange(PIECES) / PIECES)).ravel()
    h = np.diff(np.append(starts, octaves[-1]))
    u = starts - OFFSET
    low, high = np.maximum(u - 1e-4 * h, 0.0), u + 1e-4 * h
    value = light(unit * np.sqrt(u))
    slope = (light(unit * np.sqrt(high)) - light(unit * np.sqrt(low))) / (high - low)
    h = h[:-1]
    rise, here, there = value[1:] - value[:-1], h * slope[:-1], h * slope[1:]
    pieces = np.zeros((N_PIECES, 4))
    pieces[:-1] = np.stack([value[:-1], here, 3 * rise - 2 * here - there, here + there - 2 * rise], axis=1)
    return pieces.ravel()


def _without_end(wings: Wings) -> _Radial:
    """The light of wings, continued beyond their end by a power law of its slope there: no step, which would smear."""
    end = wings.reach
    if math.isinf(end):
        return wings.light
    before, last = wings.light(np.array([0.98 * end, end * (1 - 1e-9)])).tolist()
    power = math.log(before / last) / -math.log(0.98) if last > 0 and before > 0 else 0.0

    def light(r: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(r <= end, wings.light(r), last * (np.maximum(r, end) / end) ** -power)

    return light


@functools.lru_cache(maxsize=16)
def _spectrum(wings: Wings) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Radii and wavenumbers of FFTLog, the transform of the light without an end, and the offset of the wavenumbers."""
    end = min(wings.reach, _FURTHEST)
    log_r = np.linspace(math.log(_LEAST_RADIUS * wings.inner), math.log(_BEYOND * end), _LOG_POINTS)
    step, r = float(log_r[1] - log_r[0]), np.exp(log_r)
    offset = float(fft.fhtoffset(step, mu=0.0, bias=_BIAS))
    with np.errstate(under="ignore"):
        # Faded out far beyond the end: an endless power law may have no transform.
        light = _without_end(wings)(r) * np.exp(-((r / (0.1 * _BEYOND * end)) ** 2))
    return r, np.exp(offset) / r[::-1], np.asarray(fft.fht(r * light, step, mu=0.0, offset=offset, bias=_BIAS)), offset


def _blurred(wings: Wings, sigma: float) -> _Radial:
    """The light of wings without an end, convolved with a round Gaussian."""
    from scipy.interpolate import CubicSpline  # takes a second to import, and stars do without

    r, k, spectrum, offset = _spectrum(wings)
    log_r = np.log(r)
    with np.errstate(under="ignore"):
        kept = spectrum * np.exp(-0.5 * (k * sigma) ** 2)
    curve = CubicSpline(log_r, fft.ifht(kept, float(log_r[1] - log_r[0]), mu=0.0, offset=offset, bias=_BIAS) / r)
    first, last = _CENTER * wings.inner, max(_UNBLURRED * sigma, _FROM_JOIN * wings.join)
    last, plain = min(last, r[-1]), _without_end(wings)
    return lambda at: np.where(at < last, curve(np.log(np.clip(at, first, last))), plain(at))


def _tried(wings: Wings, inner: float) -> NDArray[np.float64]:
    """Radii at which cells are tried, pixels."""
    first, end = max(inner, 0.5), min(wings.reach, _FURTHEST)
    return np.geomspace(first, end, max(2, math.ceil(_TRIED_PER_DECADE * math.log10(end / first))))


def _trials(light: _Radial, tried: NDArray[np.float64], end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the largest errors of cells of each size, along the radius and across it, and the light at their places.

    Returns
    -------
    tuple of ndarray, each of shape (N_LEVELS, 2, len(tried))
        Both zero where a cell reaches beyond the end.
    """
    t = np.linspace(-1.0, 1.0, 17)
    weights = np.stack([0.5 * t / NODE * (t / NODE - 1.0), 1.0 - (t / NODE) ** 2, 0.5 * t / NODE * (t / NODE + 1.0)])
    nodes = NODE * np.array([-1.0, 0.0, 1.0])
    error, there = np.zeros((2, N_LEVELS, 2, len(tried)))
    for level in range(N_LEVELS):
        half = 0.5 * ((FINEST << level) - 1)
        for way in range(2):
            if way == 0:
                true, known = (np.maximum(tried[:, None] + half * (1.0 + at), 1e-3) for at in (t, nodes))
            else:
                true, known = (np.hypot(tried[:, None], half * at) for at in (t, nodes))
            exact = light(true.ravel()).reshape(true.shape)
            made = light(np.minimum(known, end).ravel()).reshape(known.shape) @ weights
            missed = np.where((true <= end) & (known <= end).all(axis=1)[:, None], np.abs(made - exact), 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                worst = np.nan_to_num(missed / exact, nan=0.0, posinf=1e300).argmax(axis=1)
            rows = np.arange(len(tried))
            error[level, way], there[level, way] = missed[rows, worst], exact[rows, worst]
    return error, there


def _least_radii(
    error: NDArray[np.float64], light: NDArray[np.float64], tried: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the radius outside which each size of cell is accurate, from what `_trials` found."""
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.where(error > 0, np.minimum(np.abs(error / light), 1.0), 0.0).sum(axis=1)
    radii = np.full(N_LEVELS, math.inf)
    for level in range(N_LEVELS):
        bad = np.flatnonzero(missed[level] > _MISSED)
        if not bad.size or bad[-1] < len(tried) - 1:
            radii[level] = tried[bad[-1] + 1] if bad.size else tried[0]
    return np.maximum.accumulate(radii)
