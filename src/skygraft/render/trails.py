"""Trails: stars that move in a straight line at a constant rate during the exposure.

A trail is the mean of a star over the line. A star's image is band-limited, so that this mean is a sum over few places:
Gauss-Legendre quadrature of a function without frequencies above half a cycle per pixel is exact to 1e-7 with the
number of places that `nodes` gives, about one and a half for each pixel. Each place has the PSF of its own position.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from skygraft.psf import PSF
from skygraft.render.canvas import Canvas
from skygraft.render.normalisation import Normalisation
from skygraft.render.sources import Sources
from skygraft.render.stars import StarPainter, Stars

__all__ = ["MAX_TRAIL", "add_trails", "nodes", "trail_extents"]

MAX_TRAIL = 1e6
"""Pixels; longer ones are a mistake."""

_LONGEST = 32.0
"""Pixels; longer trails are cut into pieces of this length at most."""
_AT_ONCE = 4096
"""Places that are drawn at a time."""


def trail_extents(sources: Sources, rows: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
    """Return the extents (dx, dy) of trails in pixels.

    Parameters
    ----------
    sources : Sources
        The sources.
    rows : ndarray of int, shape (N,), optional
        Which of them; by default all.

    Returns
    -------
    ndarray, shape (N, 2)
        From the position angle and the length on the sky by the Jacobian, or as given in pixels; 0 without a length.
    """
    at = np.arange(len(sources)) if rows is None else rows

    def column(name: str, default: float) -> NDArray[np.float64]:
        if name not in sources.shape:
            return np.full(len(at), default)
        found = np.asarray(sources.shape[name], dtype=np.float64)[at]
        return np.asarray(np.where(np.isfinite(found), found, default))

    pa, angle = np.radians(column("trail_pa", 0.0)), np.radians(column("trail_angle_pix", 0.0))
    sky = column("trail_length", 0.0)[:, None] * np.column_stack([np.sin(pa), np.cos(pa)])
    given = column("trail_length_pix", np.nan)
    pixels = given[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    of_sky = np.flatnonzero(~np.isfinite(given))
    pixels[of_sky] = np.linalg.solve(sources.jacobian[at[of_sky]], sky[of_sky, :, None])[:, :, 0]
    return np.asarray(pixels)


@functools.lru_cache(maxsize=512)
def nodes(length: float, finer: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places along a trail, from 0 to 1 of its extent, and their parts of its flux.

    Parameters
    ----------
    length : float
        Pixels.
    finer : float
        Highest frequency of the star's image, in units of half a cycle per pixel.

    Returns
    -------
    places, weights : ndarray, shape (K,)
        The weights add up to 1.
    """
    pieces = max(int(np.ceil(length * finer / _LONGEST)), 1)
    most = length * finer / pieces
    at, weights = np.polynomial.legendre.leggauss(int(np.ceil(most + 3.0 * np.cbrt(most) + 1.0)))
    places = ((np.arange(pieces)[:, None] + 0.5 * (at + 1.0)) / pieces).reshape(-1)
    return places, np.tile(0.5 * weights / pieces, pieces)


def add_trails(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: PSF,
    painter: StarPainter,
    canvas: Canvas,
    normalisation: Normalisation,
) -> Stars:
    """Add trails to the canvas.

    Only the part of a trail whose light reaches the canvas is drawn, so that its time is bounded by the image, and the
    PSF is not asked for far from it.

    Parameters
    ----------
    sources : Sources
        The sources.
    rows : ndarray of int, shape (N,)
        Those to draw.
    psf : PSF
        The image's PSF.
    painter : StarPainter
        Of this PSF.
    canvas : Canvas
        Changed in place.
    normalisation : Normalisation
        What ties kernels to the calibration.

    Returns
    -------
    Stars
        For each trail; the scale and such are means over what is drawn of it, NaN where nothing is.

    Raises
    ------
    PsfError
        If the PSF cannot be evaluated or normalised somewhere on a trail. Nothing has been drawn then, if they are few.
    """
    extents = trail_extents(sources, rows)
    begin, end = _near_parts(sources.x[rows], sources.y[rows], extents, canvas, max(psf.shape) // 2 + 2)
    finer = 2.0 if painter.draws_between_pixels else 1.0
    lengths = np.hypot(*extents.T) * (end - begin)
    # In steps of a pixel, so that the same nodes serve many trails.
    found = [nodes(float(n), finer) if n >= 0 else (np.empty(0), np.empty(0)) for n in _rounded_up(lengths)]
    counts = np.array([len(places) for places, _ in found])
    owner = np.repeat(np.arange(len(rows)), counts)
    at = begin[owner] + np.concatenate([places for places, _ in found]) * (end - begin)[owner]
    weight = np.concatenate([weights for _, weights in found]) * (end - begin)[owner]
    whole = np.hypot(*extents.T) == 0
    weight = np.where(whole[owner], 1.0 / counts[owner], weight)
    x = sources.x[rows][owner] + at * extents[owner, 0]
    y = sources.y[rows][owner] + at * extents[owner, 1]
    drawn = [
        painter.add(canvas, x[part], y[part], sources.flux[rows][owner[part]] * weight[part], normalisation)
        for part in (slice(start, start + _AT_ONCE) for start in range(0, len(x), _AT_ONCE))
    ]

    def total(name: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        arrays = [getattr(stars, name) for stars in drawn]
        return np.bincount(owner, weights=weights * np.concatenate([np.empty(0), *arrays]), minlength=len(rows))

    all_of = np.bincount(owner, weights=weight, minlength=len(rows))
    with np.errstate(invalid="ignore"):
        scale, fraction, fwhm = (total(name, weight) / all_of for name in ("scale", "aperture_fraction", "fwhm"))
    ones = np.ones(len(x))
    clipped = (begin > -0.5) | (end < 0.5) | (total("clipped", ones) > 0)
    return Stars(scale, fraction, fwhm, total("deposited", ones), clipped, total("undersampled", ones) > 0)


def _rounded_up(lengths: NDArray[np.float64]) -> list[float]:
    """Lengths in steps of a tenth below a pixel and of a pixel above, not less than they are; -1 for none."""
    steps = np.where(lengths < 1, np.ceil(lengths * 10) / 10, np.ceil(lengths))
    return [float(step) for step in np.where(lengths >= 0, steps, -1.0)]


def _near_parts(
    x: NDArray[np.float64], y: NDArray[np.float64], extents: NDArray[np.float64], canvas: Canvas, margin: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the part of each trail begins and ends that is within a margin of the canvas, from -0.5 to 0.5.

    The end is before the beginning where there is none (Liang & Barsky 1984).
    """
    ny, nx = canvas.model.shape
    begin, end = np.full(len(x), -0.5), np.full(len(x), 0.5)
    for place, step, low, high in (
        (x, extents[:, 0], canvas.x0 - margin, canvas.x0 + nx - 1 + margin),
        (y, extents[:, 1], canvas.y0 - margin, canvas.y0 + ny - 1 + margin),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (low - place) / step, (high - place) / step
        inside = (place >= low) & (place <= high)
        still = step == 0
        one = np.where(still, np.where(inside, -np.inf, np.inf), one)
        other = np.where(still, np.where(inside, np.inf, -np.inf), other)
        begin = np.maximum(begin, np.minimum(one, other))
        end = np.minimum(end, np.where(still, other, np.maximum(one, other)))
    return begin, end
