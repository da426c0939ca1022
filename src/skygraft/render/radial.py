"""Sérsic profiles as functions of radius, in Fourier space and as sums of Gaussians, tabulated once per index.

The transform of a Sérsic profile of unit flux depends on its index n and on kappa = (k r_half)^2 only:

    T(n, kappa) = 2 pi  integral I(r) J0(k r) r dr,    I(r) = b^(2n) / (2 pi n Gamma(2n)) exp(-b r^(1/n)),

with r in half-light radii and P(2n, b) = 1/2 (Ciotti 1991; Graham & Driver 2005). The integral is done by FFTLog
(Hamilton 2000) at fixed indices, 5 per cent apart; between them the tables are interpolated by cubic polynomials in
ln n. Over kappa a table is cubic pieces, 16 to an octave of kappa + 2^-20: which piece a kappa falls into, and where in
it, can be read off the bits of a float32.

The same profile is also a sum of Gaussians of widths sqrt(2) apart. exp(-b r^(1/n)) is an integral over Gaussians
exp(-s r^2) whose weights are the density of a one-sided stable distribution of index 1/(2n) (Pollard 1946; as an
integral: Kanter 1975), which the trapezoidal rule in ln s makes a sum, to 1e-7 of the central brightness from n = 1.2
on and 1e-5 at n = 0.9. The wide ones of them can be taken out of the transform and be drawn in real space. The sum need
not be exact for that, because exactly what is taken out of the transform is drawn in real space.

Moffat profiles (`skygraft.render.moffat`) have tables of the same kind, 5 per cent in beta - 1 apart, and Spergel
profiles (`skygraft.render.spergel`), 2.5 per cent in 1 + nu apart; there is one for Kolmogorov profiles
(`skygraft.render.kolmogorov`).
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, gammaln

from skygraft.catalog.schema import MOFFAT_RANGE, SERSIC_RANGE, SPERGEL_RANGE
from skygraft.lazy import lazy_module
from skygraft.render import kolmogorov, moffat, spergel

fft = lazy_module("scipy.fft")

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

__all__ = [
    "DENSE",
    "FIRST_OCTAVE",
    "LEAST_SPLIT_INDEX",
    "MAX_INDEX",
    "MIN_INDEX",
    "N_PIECES",
    "PIECES",
    "WIDTHS",
    "Placed",
    "RadialTables",
    "cubics_through",
    "gaussian_fluxes",
    "intensity",
    "kappas",
    "radial_tables",
]

MIN_INDEX, MAX_INDEX = SERSIC_RANGE
"""Range of the Sérsic index of the tables."""

WIDTHS: NDArray[np.float64] = 0.02 * np.exp2(0.5 * np.arange(-12, 31))
"""Widths (sigma) of the Gaussians, in half-light radii.

Some must be no wider than the PSF, whatever the profile's size: the part of the cusp that a sum of Gaussians misses is
as wide as the narrowest of them.
"""

FIRST_OCTAVE, PIECES, _OCTAVES = -20, 16, 48
N_PIECES = _OCTAVES * PIECES
DENSE = 2
"""Pieces of tables over k itself, to a wavenumber of one over the radius."""
_THIRDS = np.arange(4) / 3.0

_STEP = 0.05
"""Between the indices of tables, in ln n."""
_FIRST = math.log(MIN_INDEX) - 2 * _STEP
_MOFFATS, _SPERGELS, _KOLMOGOROV = 1000, 2000, 3000
"""Numbers of tables from here on belong to Moffat profiles, to Spergel profiles, and to the Kolmogorov profile."""
_FIRST_MOFFAT = math.log(MOFFAT_RANGE[0] - 1.0) - 2 * _STEP
_SPERGEL_STEP = 0.025
_FIRST_SPERGEL = math.log1p(SPERGEL_RANGE[0]) - 2 * _SPERGEL_STEP
_LOG_POINTS = 8192
_LOG_REACH = math.log(1e9)
_LEAST_KAPPA = 1e-11
"""Below it T is 1 to within 1e-8, even for n = 6, which FFTLog does not reach."""
_LEAST_SUM_INDEX = 0.6
"""Below it the integral is dominated by one Gaussian, which widths this far apart do not sample."""
_FAINT_FLUX, _FAINT_PEAK = 1e-8, 1e-7
_ANGLES = np.linspace(-36.0, 36.0, 1441)
"""Of the integral for the stable density: logarithms of the tangent of half the angle."""
LEAST_SPLIT_INDEX = 1.0
"""Below it the wide Gaussians fit the rim badly, and the remainder there would be aliased back."""


def intensity(n: float, r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Surface brightness of a Sérsic profile of unit flux.

    Parameters
    ----------
    n : float
        Sérsic index.
    r : ndarray
        Radius in half-light radii.

    Returns
    -------
    ndarray
        Flux per square half-light radius.
    """
    b = float(gammaincinv(2 * n, 0.5))
    log_peak = 2 * n * math.log(b) - math.log(2 * math.pi * n) - float(gammaln(2 * n))
    return np.asarray(np.exp(log_peak - b * r ** (1 / n)))


@dataclass(frozen=True, eq=False)
class _Node:
    """One index or exponent: the cubic pieces of T, and the fluxes of the Gaussians that make up the profile."""

    pieces: NDArray[np.float64]
    fluxes: NDArray[np.float64]


@functools.cache
def _node(i: int) -> _Node:
    if i == _KOLMOGOROV:
        return _Node(cubics_through(kolmogorov.transform(np.sqrt(kappas()))), kolmogorov.gaussian_fluxes(WIDTHS))
    if i >= _SPERGELS:
        nu = math.expm1(_FIRST_SPERGEL + (i - _SPERGELS) * _SPERGEL_STEP)
        return _Node(cubics_through(spergel.transform(nu, np.sqrt(kappas()))), spergel.gaussian_fluxes(nu, WIDTHS))
    if i >= _MOFFATS:
        beta = 1.0 + math.exp(_FIRST_MOFFAT + (i - _MOFFATS) * _STEP)
        return _Node(cubics_through(moffat.transform(beta, np.sqrt(kappas()))), moffat.gaussian_fluxes(beta, WIDTHS))
    n = math.exp(_FIRST + i * _STEP)
    log_k = 0.5 * np.log(np.maximum(kappas(), _LEAST_KAPPA))
    return _Node(cubics_through(_transform(n)(log_k)), _fit(n))


def _transform(n: float) -> CubicSpline:
    """T over ln k, by FFTLog."""
    from scipy.interpolate import CubicSpline  # takes a second to import, and stars do without

    step = 2 * _LOG_REACH / (_LOG_POINTS - 1)
    log_r = (np.arange(_LOG_POINTS) - 0.5 * (_LOG_POINTS - 1)) * step
    r = np.exp(log_r)
    offset = fft.fhtoffset(step, mu=0.0)
    k = np.exp(offset + log_r)
    with np.errstate(under="ignore"):
        transform = fft.fht(2 * math.pi * r * intensity(n, r), step, mu=0.0, offset=offset) / k
    return CubicSpline(np.log(k), transform)


@functools.cache
def kappas() -> NDArray[np.float64]:
    """Return the arguments that define the cubic pieces, shape (N_PIECES, 4): the ends of each piece and its thirds."""
    octave, part = np.divmod(np.arange(N_PIECES), PIECES)
    shifted = np.ldexp(1.0 + (part[:, None] + _THIRDS) / PIECES, FIRST_OCTAVE + octave[:, None])
    return np.asarray(np.maximum(shifted - 2.0**FIRST_OCTAVE, 0.0))


def cubics_through(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic pieces through values at `kappas`, shape (..., N_PIECES, 4): constant term first, in 0 ... 1."""
    return np.asarray(values @ np.linalg.inv(_THIRDS[:, None] ** np.arange(4)).T)


@functools.cache
def _gaussian_pieces() -> NDArray[np.float64]:
    """Return the transforms exp(-kappa sigma^2 / 2) of the Gaussians as cubic pieces, shape (widths, N_PIECES, 4)."""
    return cubics_through(np.exp(-0.5 * kappas() * WIDTHS[:, None, None] ** 2))


def _fit(n: float) -> NDArray[np.float64]:
    """Return the fluxes, not negative, of Gaussians whose sum approximates the profile."""
    if n < _LEAST_SUM_INDEX:
        return np.zeros(len(WIDTHS))
    index, b = 0.5 / n, float(gammaincinv(2 * n, 0.5))
    power = 1.0 / (1.0 - index)
    # Of the transform exp(-u^index); sin(angle) = 1 / cosh(t).
    log_s = np.log(0.5 / WIDTHS**2) - math.log(b) / index
    angle, log_sine = 2.0 * np.arctan(np.exp(_ANGLES)), -np.log(np.cosh(_ANGLES))
    log_a = power * (index * np.log(np.sin(index * angle)) + (1.0 - index) * np.log(np.sin((1.0 - index) * angle)))
    log_a -= power * log_sine
    with np.errstate(over="ignore", under="ignore"):
        argument = np.exp(log_a - index * power * log_s[:, None])
        integrand = np.exp(log_a - argument + log_sine)
        density = index * power * np.exp(-power * log_s) * integrand.sum(axis=1) * (_ANGLES[1] - _ANGLES[0]) / math.pi
        peaks = density * np.exp(log_s) * math.log(2.0) * float(intensity(n, np.zeros(1))[0])
    fluxes = peaks * 2.0 * math.pi * WIDTHS**2
    fluxes /= fluxes.sum()
    # Those without visible flux or brightness are dropped: arithmetic with denormal numbers is very slow.
    return np.where((fluxes > _FAINT_FLUX) | (peaks > _FAINT_PEAK * peaks.max()), fluxes, 0.0)


@functools.cache
def radial_tables() -> RadialTables:
    """Return the tables of this process."""
    return RadialTables()


@dataclass(frozen=True, eq=False)
class Placed:
    """The tables of N indices: the table of the i-th is ``sum(weights[i, j] * pieces[rows[i, j]])``.

    Parameters
    ----------
    pieces : ndarray of float32, shape (M, N_PIECES, 4)
        Cubic pieces of T over kappa, constant term first, in 0 ... 1 over each piece.
    rows : ndarray of int, shape (N, 4)
        Rows of `pieces`.
    weights : ndarray, shape (N, 4)
        Weights of these rows.
    dense : ndarray of float32, shape (D, 4)
        Cubic pieces of T over k, `DENSE` of them for each unit of k, one table after the other, for profiles that have
        such tables instead.
    ends : ndarray of int, shape (N, 2)
        First piece of each profile's dense table, and the one after its last; zeros for profiles without one.
    """

    pieces: NDArray[np.float32]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    dense: NDArray[np.float32]
    ends: NDArray[np.int64]

    def at(self, kappa: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value of each of the N tables at its own kappa, shape (N,)."""
        octave = np.floor(np.log2(kappa + 2.0**FIRST_OCTAVE))
        place = PIECES * (octave - FIRST_OCTAVE) + PIECES * ((kappa + 2.0**FIRST_OCTAVE) / 2.0**octave - 1.0)
        piece = np.clip(place.astype(np.int64), 0, N_PIECES - 1)
        powers = (place - piece)[:, None] ** np.arange(4)
        return np.asarray(
            (self.pieces[self.rows, piece[:, None]] * self.weights[:, :, None] * powers[:, None]).sum((1, 2))
        )

    def replaced(self, which: NDArray[np.int64], by: NDArray[np.float32], row: NDArray[np.int64]) -> Placed:
        """Return a copy in which some profiles have tables of their own.

        Parameters
        ----------
        which : ndarray of int, shape (K,)
            Indices of these profiles.
        by : ndarray of float32, shape (T, N_PIECES, 4)
            Tables.
        row : ndarray of int, shape (K,)
            Index in `by` of the table of each.
        """
        rows, weights = self.rows.copy(), self.weights.copy()
        rows[which], weights[which] = len(self.pieces) + row[:, None], [1.0, 0.0, 0.0, 0.0]
        return Placed(np.concatenate([self.pieces, by]), rows, weights, self.dense, self.ends)

    def with_dense(self, which: NDArray[np.int64], tables: list[NDArray[np.float32]]) -> Placed:
        """Return a copy in which the profiles `which` have dense tables."""
        ends = self.ends.copy()
        after = np.cumsum([len(table) for table in tables]) + len(self.dense)
        ends[which, 0], ends[which, 1] = after - [len(table) for table in tables], after
        return Placed(self.pieces, self.rows, self.weights, np.concatenate([self.dense, *tables]), ends)


class RadialTables:
    """Tables of T, with or without wide Gaussians, computed when first needed; threads may share them."""

    def __init__(self) -> None:
        self._pieces = np.empty((16, N_PIECES, 4), dtype=np.float32)
        self._known: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    def place(
        self,
        n: NDArray[np.float64],
        first_wide: NDArray[np.int64],
        beta: NDArray[np.float64] | None = None,
        nu: NDArray[np.float64] | None = None,
    ) -> Placed:
        """Return the tables for some indices or exponents.

        Parameters
        ----------
        n : ndarray, shape (N,)
            Sérsic indices, `MIN_INDEX` to `MAX_INDEX`.
        first_wide : ndarray of int, shape (N,)
            Index of the first Gaussian that is left out of the transform; ``len(WIDTHS)`` leaves none out.
        beta : ndarray, shape (N,), optional
            Exponents of Moffat profiles; NaN for Sérsic profiles.
        nu : ndarray, shape (N,), optional
            Indices of Spergel profiles, infinity for Kolmogorov profiles; NaN for others.
        """
        nodes, weights = _around(n, beta, nu)
        keys, which = np.unique(nodes * (len(WIDTHS) + 1) + first_wide[:, None], return_inverse=True)
        with self._lock:
            found = np.array([self._row(*divmod(key, len(WIDTHS) + 1)) for key in keys.tolist()], dtype=np.int64)
            pieces = self._pieces
        none = np.zeros((0, 4), dtype=np.float32), np.zeros((len(n), 2), dtype=np.int64)
        return Placed(pieces, found[which.reshape(nodes.shape)], weights, *none)

    def _row(self, node: int, first_wide: int) -> int:
        row = self._known.get((node, first_wide))
        if row is None:
            row = self._known[node, first_wide] = len(self._known)
            if row == len(self._pieces):
                # A new array, because other threads may be using the old one.
                self._pieces = np.concatenate([self._pieces, np.empty_like(self._pieces)])
            made = _node(node)
            wide = np.tensordot(made.fluxes[first_wide:], _gaussian_pieces()[first_wide:], 1)
            rest = made.pieces - wide
            # Exact at wavenumber zero, where an error of the table would be an error of the flux.
            rest[0, 0] = made.fluxes[:first_wide].sum() if first_wide < len(WIDTHS) else 1.0
            self._pieces[row] = rest
        return row


def gaussian_fluxes(
    n: NDArray[np.float64], beta: NDArray[np.float64] | None = None, nu: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the fluxes of the Gaussians whose sum is a profile of unit flux, as used in the tables.

    Parameters
    ----------
    n : ndarray, shape (N,)
        Sérsic indices, `MIN_INDEX` to `MAX_INDEX`.
    beta, nu : ndarray, shape (N,), optional
        As in `RadialTables.place`.

    Returns
    -------
    ndarray, shape (N, widths)
    """
    nodes, weights = _around(n, beta, nu)
    known, which = np.unique(nodes, return_inverse=True)
    each = np.array([_node(i).fluxes for i in known.tolist()]).reshape(-1, len(WIDTHS))
    return np.asarray((each[which.reshape(nodes.shape)] * weights[:, :, None]).sum(axis=1))


def _around(
    n: NDArray[np.float64], beta: NDArray[np.float64] | None, nu: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the four tables around each index or exponent, and the weights of the cubic polynomial through them."""
    position = (np.log(n) - _FIRST) / _STEP
    if beta is not None:
        moffats = np.isfinite(beta)
        position[moffats] = _MOFFATS + (np.log(beta[moffats] - 1.0) - _FIRST_MOFFAT) / _STEP
    others = nu is not None and not np.isnan(nu).all()
    if nu is not None and others:
        spergels = np.isfinite(nu)
        position[spergels] = _SPERGELS + (np.log1p(nu[spergels]) - _FIRST_SPERGEL) / _SPERGEL_STEP
    first = position.astype(np.int64) - 1
    nodes, weights = first[:, None] + np.arange(4), _lagrange(position - first)
    if nu is not None and others:
        nodes[np.isinf(nu)], weights[np.isinf(nu)] = _KOLMOGOROV, [1.0, 0.0, 0.0, 0.0]
    return nodes, weights


def _lagrange(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of values at 0, 1, 2, 3 in the cubic interpolation at t, shape (N, 4)."""
    return np.stack(
        [
            -(t - 1) * (t - 2) * (t - 3) / 6,
            t * (t - 2) * (t - 3) / 2,
            -t * (t - 1) * (t - 3) / 2,
            t * (t - 1) * (t - 2) / 6,
        ],
        axis=-1,
    )
