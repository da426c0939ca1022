"""Gravitational lensing of sources that have a size: reduced shear and magnification.

A source that is small against the lens is mapped to the sky linearly, x_image = A x_source (Bartelmann & Schneider
2001, section 3), and keeps its surface brightness. With the reduced shear g along the position angle p, and the
magnification mu, in the axes (East, North)

    A = sqrt(mu / (1 - g^2))  [[1 - g cos 2p,  g sin 2p],
                               [g sin 2p,      1 + g cos 2p]],        det A = mu,

which is what GalSim's ``lens(g1, g2, mu)`` does (Rowe et al. 2015; on how shears add up, Bernstein & Jarvis 2002):
lengths along p grow by sqrt(mu (1 + g) / (1 - g)), those across it by sqrt(mu (1 - g) / (1 + g)).

A profile is taken from arcsec to pixels by one matrix, the Jacobian J at the source. A lensed one is the same profile
with the Jacobian A^-1 J: one that is an ellipse stays one, whatever its radial profile, and no other code needs to know
of lensing. `lensed` makes that change, once, where sources are placed. The factor mu of the flux is not made here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.render.sources import Sources

__all__ = ["lensed", "lensed_ellipse", "lensing_matrices", "matrices_in_pixels"]

_POINTS = ("Star", "Trail")
"""Types without a size of their own: lensing changes their flux alone."""


def lensing_matrices(shear: ArrayLike, shear_pa: ArrayLike, magnification: ArrayLike) -> NDArray[np.float64]:
    """Return the matrices that take offsets on the sky before lensing to those after it.

    Parameters
    ----------
    shear : array_like, shape (N,)
        Reduced shear |g|, 0 to below 1.
    shear_pa : array_like, shape (N,)
        Position angle along which it stretches, degrees from North through East.
    magnification : array_like, shape (N,)
        Factor of the area, positive.

    Returns
    -------
    ndarray, shape (N, 2, 2)
        Rows and columns (East, North).
    """
    g, twice = np.asarray(shear, dtype=np.float64), 2.0 * np.radians(np.asarray(shear_pa, dtype=np.float64))
    stretch = np.sqrt(np.asarray(magnification, dtype=np.float64) / (1.0 - g**2))
    along, across = g * np.cos(twice), g * np.sin(twice)
    rows = np.stack([np.stack([1.0 - along, across], -1), np.stack([across, 1.0 + along], -1)], axis=-2)
    return np.asarray(stretch[..., None, None] * rows)


def _lensing(sources: Sources) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find the sources whose shape is lensed, and the matrix of each; impossible values are none."""
    n = len(sources)
    shear, angle, magnification = (
        np.nan_to_num(np.asarray(sources.shape.get(name, np.full(n, default)), dtype=np.float64), nan=default)
        for name, default in (("shear", 0.0), ("shear_pa", 0.0), ("magnification", 1.0))
    )
    possible = (shear >= 0) & (shear < 1) & (magnification > 0) & np.isfinite(magnification) & np.isfinite(angle)
    rows = np.flatnonzero(possible & ((shear != 0) | (magnification != 1)) & ~np.isin(sources.source_type, _POINTS))
    return rows, lensing_matrices(shear[rows], angle[rows], magnification[rows])


def lensed(sources: Sources) -> Sources:
    """Return the sources with those that have a size sheared and magnified, as their columns say; fluxes stay.

    Parameters
    ----------
    sources : Sources
        With the Jacobians of the image, and `trail_length` and `trail_pa` on the sky.

    Returns
    -------
    Sources
        The same ones if none is lensed. Else the Jacobian of those that are is arcsec before lensing per pixel, and
        their trails, which lensing leaves alone, are in the same arcsec.
    """
    if not {"shear", "magnification"} & set(sources.shape):
        return sources
    rows, matrices = _lensing(sources)
    if not rows.size:
        return sources
    inverse = np.linalg.inv(matrices)
    jacobian = sources.jacobian.copy()
    jacobian[rows] = inverse @ jacobian[rows]
    return dataclasses.replace(sources, jacobian=jacobian, shape=_with_unlensed_trails(sources, rows, inverse))


def _with_unlensed_trails(
    sources: Sources, rows: NDArray[np.intp], inverse: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Return the shape columns with the trails of some sources in the arcsec of their new Jacobians."""
    shape = dict(sources.shape)
    if "trail_length" not in shape:
        return shape
    length = np.array(shape["trail_length"], dtype=np.float64)
    angle = np.array(shape.get("trail_pa", np.zeros(len(sources))), dtype=np.float64)
    turn = np.radians(np.nan_to_num(angle[rows]))
    way = inverse @ (length[rows, None] * np.stack([np.sin(turn), np.cos(turn)], axis=-1))[:, :, None]
    length[rows] = np.hypot(way[:, 0, 0], way[:, 1, 0])
    angle[rows] = np.degrees(np.arctan2(way[:, 0, 0], way[:, 1, 0]))
    return shape | {"trail_length": length, "trail_pa": angle}


def matrices_in_pixels(sources: Sources) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return what lensing does to sources that are given in pixels of the image, such as stamps with its axes.

    Parameters
    ----------
    sources : Sources
        As `lensed` returns them.

    Returns
    -------
    rows : ndarray of int, shape (M,)
        The sources whose shape is lensed.
    matrices : ndarray, shape (M, 2, 2)
        What takes offsets (x, y) before lensing to those after it, of each.
    """
    rows, matrices = _lensing(sources)
    # J of the image is A times that of a lensed source, so that J^-1 A J needs that one alone.
    return rows, np.linalg.solve(sources.jacobian[rows], matrices @ sources.jacobian[rows])


def lensed_ellipse(
    radius: ArrayLike,
    q: ArrayLike,
    pa: ArrayLike,
    shear: ArrayLike,
    shear_pa: ArrayLike,
    magnification: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return radius, axis ratio and position angle of an ellipse after lensing.

    Parameters
    ----------
    radius : array_like, shape (N,)
        Circularised radius, any unit.
    q, pa : array_like, shape (N,)
        Axis ratio, and position angle in degrees, North through East.
    shear, shear_pa, magnification : array_like, shape (N,)
        As in `lensing_matrices`.

    Returns
    -------
    radius, q, pa : ndarray, shape (N,)
        The angle is in [0, 180) degrees.

    Notes
    -----
    In complex ellipticities, e = (1 - q) / (1 + q) exp(2 i pa) and g likewise, the result is (e + g) / (1 + g* e)
    (Seitz & Schneider 1997; Bernstein & Jarvis 2002, section 2.2).
    """
    ratio = np.asarray(q, dtype=np.float64)
    e = (1.0 - ratio) / (1.0 + ratio) * np.exp(2j * np.radians(np.asarray(pa, dtype=np.float64)))
    g = np.asarray(shear, dtype=np.float64) * np.exp(2j * np.radians(np.asarray(shear_pa, dtype=np.float64)))
    after = (e + g) / (1.0 + np.conj(g) * e)
    size = np.asarray(radius, dtype=np.float64) * np.sqrt(np.asarray(magnification, dtype=np.float64))
    angle = np.degrees(0.5 * np.angle(after)) % 180.0
    return size, (1.0 - np.abs(after)) / (1.0 + np.abs(after)), np.where(angle >= 180.0, 0.0, angle)
