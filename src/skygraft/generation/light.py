"""How far from a galaxy's centre its light lies: radii drawn by inverting the profile's curve of growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.schema import strings, values

__all__ = ["DRAWN_FROM", "Ellipses", "light_ellipses", "on_ellipse", "sersic_radius"]

type Array = NDArray[np.float64]

DRAWN_FROM = ("Sersic", "BulgeDisk", "Gaussian", "Moffat")
"""Source types from whose light a radius can be drawn."""


@dataclass(frozen=True, eq=False)
class Ellipses:
    """The profile of each of N galaxies that holds the place drawn.

    Parameters
    ----------
    n : ndarray
        Sérsic index; NaN for a Moffat.
    beta : ndarray
        Exponent of a Moffat; NaN for others.
    radius : ndarray
        Circularised half-light radius, arcsec; NaN where the galaxy has none.
    q, pa : ndarray
        Axis ratio, and position angle in degrees.
    trunc : ndarray
        Circularised radius at which a Sérsic ends, arcsec; NaN for none.
    """

    n: Array
    beta: Array
    radius: Array
    q: Array
    pa: Array
    trunc: Array

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Return which have a size and a shape."""
        whole = (self.radius > 0) & np.isfinite(self.radius) & (self.q > 0) & (self.q <= 1) & np.isfinite(self.pa)
        return whole & ((self.n > 0) | (self.beta > 1)) & ~(self.trunc <= self.radius)

    def radii(self, share: Array, within: float = np.inf) -> Array:
        """Return the circularised radii inside which some shares of the light lie, arcsec.

        Parameters
        ----------
        share : ndarray, shape (N,)
            In (0, 1).
        within : float
            The light considered ends at this many half-light radii.

        Returns
        -------
        ndarray, shape (N,)
        """
        out = np.full(len(share), np.nan)
        cut = np.isfinite(self.trunc)
        rows = np.flatnonzero(np.isfinite(self.n) & ~cut)
        out[rows] = self.radius[rows] * sersic_radius(share[rows], self.n[rows], within)
        rows = np.flatnonzero(np.isfinite(self.n) & cut)
        if rows.size:
            out[rows] = _truncated_radii(share[rows], self.n[rows], self.radius[rows], self.trunc[rows], within)
        rows = np.flatnonzero(np.isfinite(self.beta))
        if rows.size:
            out[rows] = self.radius[rows] * _moffat_radius(share[rows], self.beta[rows], within)
        return out


def sersic_radius(share: Array, n: Array | float, within: float = np.inf) -> Array:
    """Return the radius inside which a share of a Sérsic profile's light lies, in half-light radii.

    The curve of growth is the incomplete gamma function P(2n, b x^(1/n)), with P(2n, b) = 1/2 (Graham & Driver 2005,
    PASA 22, 118, equation 2).

    Parameters
    ----------
    share : ndarray, shape (N,)
        In (0, 1).
    n : ndarray or float
        Sérsic index.
    within : float
        The light considered ends at this many half-light radii.

    Returns
    -------
    ndarray, shape (N,)
    """
    from scipy.special import gammainc, gammaincinv

    n = np.asarray(n, dtype=np.float64)
    b = gammaincinv(2.0 * n, 0.5)
    if np.isfinite(within):
        share = share * gammainc(2.0 * n, b * within ** (1.0 / n))
    return np.asarray((gammaincinv(2.0 * n, share) / b) ** n)


def _truncated_radii(share: Array, n: Array, half: Array, trunc: Array, within: float) -> Array:
    """Return radii in arcsec; `half` is the half-light radius of what the truncation leaves."""
    from scipy.special import gammainc, gammaincinv

    from skygraft.render.truncated import steepness

    steep = steepness(n, trunc / half)
    end = np.minimum(within * half / trunc, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = gammainc(2.0 * n, steep * end ** (1.0 / n))
        radius = trunc * (gammaincinv(2.0 * n, share * whole) / steep) ** n
    # Of a profile that is a flat disk, light goes as area.
    radius = np.where(steep < 1e-9, trunc * end * np.sqrt(share), radius)
    # What ends so far out that next to nothing is lost is as good as not truncated.
    return np.where(np.isnan(steep), half * sersic_radius(share, n, within), radius)


def _moffat_radius(share: Array, beta: Array, within: float) -> Array:
    """Return radii over the half-light radius; the curve of growth is 1 - (1 + x**2)**(1 - beta)."""
    half = np.sqrt(0.5 ** (1.0 / (1.0 - beta)) - 1.0)
    if np.isfinite(within):
        share = share * -np.expm1((1.0 - beta) * np.log1p((within * half) ** 2))
    return np.asarray(np.sqrt(np.expm1(np.log1p(-share) / (1.0 - beta))) / half)


def light_ellipses(table: Table, pick: Array) -> Ellipses:
    """Return the profiles of canonical galaxies; of a `BulgeDisk`, the bulge or the disk.

    Parameters
    ----------
    table : Table
        Canonical table.
    pick : ndarray, shape (N,)
        In (0, 1): the bulge is taken where it is below the bulge's share of the light.

    Returns
    -------
    Ellipses
        With NaN where a source type has no such profile.
    """
    kind = strings(table, "source_type")
    both = kind == "BulgeDisk"
    bulge = both & (pick < values(table, "bulge_fraction"))

    def column(name: str) -> Array:
        out = values(table, name)
        if both.any():
            out = np.where(both, np.where(bulge, values(table, f"bulge_{name}"), values(table, f"disk_{name}")), out)
        return np.asarray(out, dtype=np.float64)

    known = np.isin(kind, DRAWN_FROM)
    n = np.where(kind == "Gaussian", 0.5, np.where(known & (kind != "Moffat"), column("n"), np.nan))
    beta = np.where(kind == "Moffat", values(table, "moffat_beta"), np.nan)
    radius = np.where(known, column("half_light_radius"), np.nan)
    trunc = values(table, "trunc")
    trunc = np.where((kind == "Sersic") & (trunc > 0), trunc, np.nan)
    return Ellipses(n, beta, radius, column("q"), column("pa"), trunc)


def on_ellipse(radius: Array, angle: Array, q: Array, pa: Array) -> tuple[Array, Array]:
    """Return the offsets of points on ellipses, to the East and North.

    Parameters
    ----------
    radius : ndarray, shape (N,)
        Circularised radius sqrt(ab) of the ellipse, arcsec.
    angle : ndarray, shape (N,)
        Radians around the circle that the ellipse is when its axes are made equal, from the major axis.
    q, pa : ndarray, shape (N,)
        Axis ratio, and position angle of the major axis in degrees.

    Returns
    -------
    east, north : ndarray, shape (N,)
        arcsec.
    """
    major, minor = radius * np.cos(angle) / np.sqrt(q), radius * np.sin(angle) * np.sqrt(q)
    sine, cosine = np.sin(np.radians(pa)), np.cos(np.radians(pa))
    return major * sine + minor * cosine, major * cosine - minor * sine
