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

__all__ = ["add_trails", "nodes", "trail_extents"]

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
    """Return places along a trail, from -0.5 to 0.5 of its extent, and their parts of its flux.

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
    places = ((np.arange(pieces)[:, None] + 0.5 * (at + 1.0)) / pieces - 0.5).reshape(-1)
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
        For each trail; the scale and such are means over the part of it that is near the canvas.

    Raises
    ------
    PsfError
        If the PSF cannot be evaluated or normalised somewhere on a trail. Nothing has been drawn then, if there is one
        trail only, or few.
    """
    extents = trail_extents(sources, rows)
    finer = 2.0 if painter.draws_between_pixels else 1.0
    found = [nodes(float(length), finer) for length in np.hypot(*extents.T).round(3)]
    counts = np.array([len(places) for places, _ in found])
    owner = np.repeat(np.arange(len(rows)), counts)
    places = np.concatenate([places for places, _ in found])
    weight = np.concatenate([weights for _, weights in found])
    x = sources.x[rows][owner] + places * extents[owner, 0]
    y = sources.y[rows][owner] + places * extents[owner, 1]
    # Places from which no light reaches the canvas need no PSF, which may not be defined there.
    half = max(psf.shape) // 2 + 2
    ny, nx = canvas.model.shape
    away = np.maximum(
        np.maximum(canvas.x0 - x, x - (canvas.x0 + nx - 1)), np.maximum(canvas.y0 - y, y - (canvas.y0 + ny - 1))
    )
    nearest = np.minimum.reduceat(away, np.cumsum(counts) - counts)
    near = (away <= half) | (away == nearest[owner])
    clipped = np.bincount(owner, weights=~near, minlength=len(rows)) > 0
    x, y, weight, owner = x[near], y[near], weight[near], owner[near]
    drawn = [
        painter.add(canvas, x[part], y[part], sources.flux[rows][owner[part]] * weight[part], normalisation)
        for part in (slice(start, start + _AT_ONCE) for start in range(0, len(x), _AT_ONCE))
    ]

    def total(name: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        array = np.concatenate([getattr(stars, name) for stars in drawn])
        return np.bincount(owner, weights=weights * array, minlength=len(rows))

    share = weight / np.bincount(owner, weights=weight)[owner]
    ones = np.ones(len(x))
    return Stars(
        total("scale", share),
        total("aperture_fraction", share),
        total("fwhm", share),
        total("deposited", ones),
        clipped | (total("clipped", ones) > 0),
        total("undersampled", ones) > 0,
    )
