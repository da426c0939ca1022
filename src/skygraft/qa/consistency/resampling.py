"""Resample pixels onto a coadd's grid, and sum light about sources on any grid: the compiled loops of the check.

Light is summed in circles as band-limited functions (Bickerton & Lupton 2013): such sums do not depend on the pixels
that the light is sampled on, so that visits are measured on their own pixels, without interpolation, with circles of
the coadd's radius.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.warped import Warp

__all__ = ["LANCZOS", "SUMS", "ApertureTable", "aperture_table", "sums_about", "warp_stamps"]

LANCZOS = Warp(3, 4096)
"""How the reference coadder resamples visits: Lanczos-3, weights scaled to sum one, phases to 1/4096 pixel."""

SUMS = ("flux", "g", "gx", "gy", "gxx", "gxy", "gyy")
"""What `sums_about` sums: light in the circle, and light times a Gaussian and 1, x, y, xx, xy, yy, coadd pixels."""

_STEP = 0.05
"""Pixels between entries of a table of aperture weights, which are interpolated by cubics: to 2e-6."""

type ApertureTable = NDArray[np.float64]


@functools.lru_cache(maxsize=64)
def aperture_table(radius: float, reach: float, taper: tuple[float, float] | None = None) -> ApertureTable:
    """Compute the weight of a pixel in a circular aperture by its distance, and the derivative by the radius.

    The disc is band-limited to frequencies |k| <= 1/2 per pixel, a circle instead of the square of
    `skygraft.photometry.sinc_coefficients`, so that weights depend on the distance alone:
    ``w(d) = 2 pi r integral_0^(1/2) J1(2 pi k r) J0(2 pi k d) dk``.

    Parameters
    ----------
    radius : float
        Of the aperture, pixels.
    reach : float
        Largest distance that is needed, pixels.
    taper : (float, float), optional
        Distances between which weights fall to zero: they ring on outside of the circle, and a neighbour that is cut
        where pixels end would count by which of its pixels are there.

    Returns
    -------
    ndarray of float64, shape (2, n)
        Weights and their derivative at distances of 0.05 pixels. Read-only, and cached.

    References
    ----------
    Bickerton & Lupton 2013, MNRAS 431, 1275.
    """
    from scipy.special import j0, j1

    distance = _STEP * np.arange(-1, int(np.ceil(reach / _STEP)) + 4)
    nodes, weights = np.polynomial.legendre.leggauss(64 + int(2.5 * (radius + reach)))
    k, weights = 0.25 * (nodes + 1.0), 0.25 * weights
    along = j0(2 * np.pi * np.abs(distance)[:, None] * k)
    z = 2 * np.pi * k * radius
    table = np.stack([along @ (weights * 2 * np.pi * radius * j1(z)), along @ (weights * 2 * np.pi * z * j0(z))])
    if taper is not None:
        part = np.clip((np.abs(distance) - taper[0]) / (taper[1] - taper[0]), 0.0, 1.0)
        table *= np.cos(0.5 * np.pi * part) ** 2
    table.setflags(write=False)
    return table


@compiled(reads=("planes", "bad", "index", "at", "matrices", "first", "taps"))
def warp_stamps(
    planes: NDArray[np.float32],
    bad: NDArray[np.bool_],
    index: NDArray[np.int64],
    at: NDArray[np.float64],
    matrices: NDArray[np.float64],
    first: NDArray[np.float64],
    taps: NDArray[np.float64],
    out: NDArray[np.float32],
    seen: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    """Resample pixels onto stamps of a coadd's grid, times the area of a coadd's pixel in pixels of the image.

    Parameters
    ----------
    planes, bad : ndarray, shape (M, ny, nx)
        Pixels, and those that are left out.
    index : ndarray of int, shape (N,)
        Which plane each stamp is made of.
    at : ndarray, shape (N, 2)
        Position (x, y) of each source in its plane.
    matrices : ndarray, shape (N, 2, 2)
        From pixels of the coadd to those of the plane, about the source.
    first : ndarray, shape (N, 2)
        First pixel (x, y) of each stamp from the source, coadd pixels.
    taps : ndarray, shape (phases, 2 order)
        Table of weights: `skygraft.psf.warped.Warp.table`.
    out, seen : ndarray, shape (N, S, S)
        Filled: the resampled pixels (light off the plane counts as none), and whether the plane has all the pixels of
        the interpolation, and none of the four nearest is bad.
    """
    ny, nx = planes.shape[1:]
    n, size = out.shape[:2]
    phases, width = taps.shape
    order = width // 2
    for s in range(n):
        plane, wrong = planes[index[s]], bad[index[s]]
        a, b, c, d = matrices[s, 0, 0], matrices[s, 0, 1], matrices[s, 1, 0], matrices[s, 1, 1]
        area = abs(a * d - b * c)
        for j in range(size):
            v = first[s, 1] + j
            for i in range(size):
                u = first[s, 0] + i
                x, y = a * u + b * v + at[s, 0], c * u + d * v + at[s, 1]
                seen[s, j, i] = False
                out[s, j, i] = 0.0
                if not (-width < x < nx + width and -width < y < ny + width):
                    continue
                left, low = int(np.floor(x)), int(np.floor(y))
                tx = taps[min(int((x - left) * phases), phases - 1)]
                ty = taps[min(int((y - low) * phases), phases - 1)]
                x0, y0 = left + 1 - order, low + 1 - order
                value = 0.0
                for m in range(max(0, -y0), min(width, ny - y0)):
                    row = 0.0
                    for k in range(max(0, -x0), min(width, nx - x0)):
                        row += tx[k] * plane[y0 + m, x0 + k]
                    value += ty[m] * row
                out[s, j, i] = area * value
                if x0 >= 0 and y0 >= 0 and x0 + width <= nx and y0 + width <= ny:
                    seen[s, j, i] = not (
                        wrong[low, left] or wrong[low, left + 1] or wrong[low + 1, left] or wrong[low + 1, left + 1]
                    )


@compiled(reads=("planes", "index", "at", "inverses", "table"))
def sums_about(
    planes: NDArray[np.float32],
    index: NDArray[np.int64],
    at: NDArray[np.float64],
    inverses: NDArray[np.float64],
    radius: float,
    table_radius: float,
    table: ApertureTable,
    sigma: float,
    half: float,
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Sum light about sources on the pixels that it is on, in circles and with weights of the coadd.

    Parameters
    ----------
    planes : ndarray, shape (M, ny, nx)
        Pixels.
    index : ndarray of int, shape (N,)
        The plane of each source.
    at : ndarray, shape (N, 2)
        Position (x, y) of each source in its plane.
    inverses : ndarray, shape (N, 2, 2)
        From pixels of the plane to those of the coadd.
    radius : float
        Of the aperture, coadd pixels.
    table_radius, table : float and ndarray
        Of `aperture_table`, for about that radius in pixels of the plane.
    sigma : float
        Standard deviation of the Gaussian, coadd pixels.
    half : float
        Coadd pixels along each axis up to which pixels count.

    Returns
    -------
    ndarray of float64, shape (N, 7)
        `SUMS`, in units of the plane.
    """
    ny, nx = planes.shape[1:]
    n = len(at)
    found = np.zeros((n, 7))
    last = table.shape[1] - 3
    for s in range(n):
        plane = planes[index[s]]
        a, b, c, d = inverses[s, 0, 0], inverses[s, 0, 1], inverses[s, 1, 0], inverses[s, 1, 1]
        area = abs(a * d - b * c)
        scale = 1.0 / np.sqrt(area)
        grown = radius * scale - table_radius
        # Extent of the square of the coadd in the plane's own pixels.
        wide = int(np.ceil(half * (abs(d) + abs(b)) / area)) + 1
        high = int(np.ceil(half * (abs(c) + abs(a)) / area)) + 1
        x, y = at[s, 0], at[s, 1]
        for j in range(max(0, int(np.floor(y)) - high), min(ny, int(np.floor(y)) + high + 2)):
            for i in range(max(0, int(np.floor(x)) - wide), min(nx, int(np.floor(x)) + wide + 2)):
                value = float(plane[j, i])
                if value == 0.0:
                    continue
                u, v = a * (i - x) + b * (j - y), c * (i - x) + d * (j - y)
                if abs(u) > half or abs(v) > half:
                    continue
                square = u * u + v * v
                place = np.sqrt(square) * scale / 0.05 + 1.0
                k = int(place)
                if k < last:
                    t = place - k
                    # Lagrange's cubic through the four nearest entries.
                    w0, w1 = -t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2
                    w2, w3 = -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6
                    weight = w0 * table[0, k - 1] + w1 * table[0, k] + w2 * table[0, k + 1] + w3 * table[0, k + 2]
                    slope = w0 * table[1, k - 1] + w1 * table[1, k] + w2 * table[1, k + 1] + w3 * table[1, k + 2]
                    found[s, 0] += value * (weight + grown * slope)
                if square < 50.0 * sigma * sigma:
                    g = value * np.exp(-0.5 * square / (sigma * sigma))
                    found[s, 1] += g
                    found[s, 2] += g * u
                    found[s, 3] += g * v
                    found[s, 4] += g * u * u
                    found[s, 5] += g * u * v
                    found[s, 6] += g * v * v
    return found
