"""The elliptical profiles that sources are sums of: Sérsic, Moffat, Spergel and Kolmogorov."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.schema import MOFFAT_RANGE, SPERGEL_RANGE
from skygraft.render import spergel
from skygraft.render.kolmogorov import kolmogorov_reach
from skygraft.render.moffat import core_radius, unit
from skygraft.render.profiles import MAX_STAMP, SAFELY, moffat_reach, rim_radius, sersic_reach
from skygraft.render.radial import LEAST_SPLIT_INDEX, MAX_INDEX, MIN_INDEX
from skygraft.render.sersic import Profiles, axes_of, metric_of
from skygraft.render.sources import Sources
from skygraft.render.spergel import MOST_SPLIT_NU, spergel_reach
from skygraft.render.truncated import LEAST_RATIO, MAX_RADIUS, steepness, truncated_reach

__all__ = ["Components", "are_nearly_flat", "are_profiles", "are_trailed", "components"]

_KINDS = ("Sersic", "Gaussian", "Moffat", "BulgeDisk", "Spergel", "Kolmogorov")
_GAUSSIAN_INDEX = 0.5
_RIM = 1e-4
"""Brightness, relative to the centre, at which a steep profile may be cut."""


@dataclass(frozen=True, eq=False)
class Components:
    """The profiles of some sources.

    Parameters
    ----------
    profiles : Profiles
        N of them, those of one source beside each other.
    owner : ndarray of int, shape (N,)
        Index of each profile's source among those asked for.
    truncated : ndarray of bool, shape (N,)
        True where the stamp is smaller than the flux tolerance requires.
    """

    profiles: Profiles
    owner: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def part(self, which: NDArray[np.int64]) -> Components:
        """Return some of them."""
        profiles = Profiles(*(getattr(self.profiles, field.name)[which] for field in dataclasses.fields(Profiles)))
        return Components(profiles, self.owner[which], self.truncated[which])


@dataclass(frozen=True, eq=False)
class _Parts:
    """One profile of each of several sources."""

    fraction: NDArray[np.float64]
    n: NDArray[np.float64]
    radius: NDArray[np.float64]
    q: NDArray[np.float64]
    pa: NDArray[np.float64]
    trunc: NDArray[np.float64]
    beta: NDArray[np.float64]
    nu: NDArray[np.float64]

    def usable(self, jacobian: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where there are tables for them; `jacobian` has shape (N, 2, 2), arcsec per pixel."""
        whole = (self.n >= MIN_INDEX) & (self.n <= MAX_INDEX) & (self.radius > 0) & (self.q > 0) & (self.q <= 1)
        whole &= np.isnan(self.beta) | (self.beta >= MOFFAT_RANGE[0]) & (self.beta <= MOFFAT_RANGE[1])
        whole &= ~np.isfinite(self.nu) | (self.nu >= SPERGEL_RANGE[0]) & (self.nu <= SPERGEL_RANGE[1])
        cut = np.flatnonzero(whole & self.are_cut())
        edge = axes_of(metric_of(jacobian[cut], self.trunc[cut], self.q[cut], self.pa[cut]))[0]
        whole[cut] = (self.trunc[cut] >= LEAST_RATIO * self.radius[cut]) & (edge <= MAX_RADIUS)
        return whole

    def are_cut(self) -> NDArray[np.bool_]:
        return np.asarray(self.trunc != 0)


def _column(sources: Sources, name: str, rows: NDArray[np.intp], default: float) -> NDArray[np.float64]:
    if name not in sources.shape:
        return np.full(len(rows), default)
    values = np.asarray(sources.shape[name], dtype=np.float64)[rows]
    return np.where(np.isfinite(values), values, default)


def _part(sources: Sources, rows: NDArray[np.intp], prefix: str, n: float, fraction: NDArray[np.float64]) -> _Parts:
    return _Parts(
        fraction,
        _column(sources, f"{prefix}n", rows, n),
        _column(sources, f"{prefix}half_light_radius", rows, np.nan),
        _column(sources, f"{prefix}q", rows, 1.0),
        _column(sources, f"{prefix}pa", rows, 0.0),
        _column(sources, f"{prefix}trunc", rows, 0.0),
        np.full(len(rows), np.nan),
        np.full(len(rows), np.nan),
    )


def _parts(sources: Sources, rows: NDArray[np.intp], kind: str) -> list[_Parts]:
    one = np.ones(len(rows))
    if kind == "BulgeDisk":
        bulge = _column(sources, "bulge_fraction", rows, 0.5)
        return [_part(sources, rows, "bulge_", 4.0, bulge), _part(sources, rows, "disk_", 1.0, 1.0 - bulge)]
    part = _part(sources, rows, "", 1.0, one)
    if kind == "Gaussian":
        part = dataclasses.replace(part, n=_GAUSSIAN_INDEX * one, trunc=0.0 * one)
    elif kind == "Moffat":
        # Of one that has no exponent: none that there are tables for.
        part = dataclasses.replace(part, n=one, trunc=0.0 * one, beta=_column(sources, "moffat_beta", rows, 0.0))
    elif kind == "Spergel":
        part = dataclasses.replace(part, n=one, trunc=0.0 * one, nu=_column(sources, "spergel_nu", rows, -1.0))
    elif kind == "Kolmogorov":
        part = dataclasses.replace(part, n=one, trunc=0.0 * one, nu=np.inf * one)
    return [part]


def are_profiles(sources: Sources) -> NDArray[np.bool_]:
    """Which sources are sums of profiles that there are tables for: with a size and a shape, and at rest."""
    found = np.zeros(len(sources), dtype=np.bool_)
    for kind in _KINDS:
        rows = np.flatnonzero(sources.source_type == kind)
        whole = np.ones(len(rows), dtype=np.bool_)
        for part in _parts(sources, rows, kind):
            whole &= part.usable(sources.jacobian[rows])
        found[rows] = whole
    return found & ~are_trailed(sources)


def are_trailed(sources: Sources) -> NDArray[np.bool_]:
    """Which sources are drawn along a trail on the sky, whatever their type."""
    if "trail_length" not in sources.shape:
        return np.zeros(len(sources), dtype=np.bool_)
    length = np.asarray(sources.shape["trail_length"], dtype=np.float64)
    return np.asarray(np.isfinite(length) & (length > 0))


def are_nearly_flat(sources: Sources, ratio: float) -> NDArray[np.bool_]:
    """Which Sérsic profiles end within so many of their half-light radii."""
    rows = np.arange(len(sources))
    trunc, radius = _column(sources, "trunc", rows, 0.0), _column(sources, "half_light_radius", rows, np.nan)
    return np.asarray((sources.source_type == "Sersic") & (trunc > 0) & (trunc <= ratio * radius))


def components(
    sources: Sources,
    rows: NDArray[np.intp],
    amplitude: NDArray[np.float64],
    half_kernel: int,
    flux_tolerance: float,
) -> Components:
    """The profiles that some sources consist of.

    Parameters
    ----------
    sources : Sources
    rows : ndarray of int, shape (M,)
        Sources for which `are_profiles` holds.
    amplitude : ndarray, shape (M,)
        Their flux times what the kernel is multiplied by.
    half_kernel : int
        Pixels of the kernel on either side of its middle.
    flux_tolerance : float
        Part of the flux of each profile that the stamp may leave out.
    """
    slots: list[tuple[NDArray[np.intp], _Parts]] = []
    for kind in _KINDS:
        places = np.flatnonzero(sources.source_type[rows] == kind)
        slots += [(places, part) for part in _parts(sources, rows[places], kind)]
    owner = np.concatenate([np.empty(0, np.int64), *(places for places, _ in slots)]).astype(np.int64)
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    part = _Parts(
        *(
            np.concatenate([np.empty(0), *(getattr(part, field.name) for _, part in slots)])[order]
            for field in dataclasses.fields(_Parts)
        )
    )
    mine = rows[owner]
    flux_tolerance *= SAFELY
    reach = sersic_reach(part.n, flux_tolerance)
    b = np.full(len(mine), np.nan)
    cut = np.flatnonzero(part.are_cut())
    b[cut] = steepness(part.n[cut], part.trunc[cut] / part.radius[cut])
    ends = np.isfinite(b)
    reach[ends] = truncated_reach(part.n[ends], b[ends], flux_tolerance)
    one = np.where(ends, part.trunc, part.radius)
    moffats = np.flatnonzero(np.isfinite(part.beta))
    in_half_light = unit(part.beta[moffats]) * core_radius(part.beta[moffats])
    reach[moffats] = moffat_reach(part.beta[moffats], flux_tolerance) / in_half_light
    one[moffats] *= in_half_light
    spergels = np.flatnonzero(np.isfinite(part.nu))
    if spergels.size:
        reach[spergels] = spergel_reach(part.nu[spergels], flux_tolerance)
    reach[np.isinf(part.nu)] = kolmogorov_reach(flux_tolerance)
    metric = metric_of(sources.jacobian[mine], one, part.q, part.pa)
    # Of steep profiles there is something to be seen where their flux is all but complete.
    steep = np.flatnonzero(~ends & np.isnan(part.beta) & (part.n < LEAST_SPLIT_INDEX))
    seen = reach.copy()
    seen[steep] = np.maximum(reach[steep], rim_radius(part.n[steep], _RIM))
    steep = np.flatnonzero(np.isfinite(part.nu) & (part.nu > MOST_SPLIT_NU))
    seen[steep] = np.maximum(reach[steep], spergel.rim_radius(part.nu[steep], _RIM))
    half = np.ceil(seen * axes_of(metric)[0]).astype(np.int64) + half_kernel + 1
    asked = _column(sources, "draw_size", mine, 0.0)
    largest = np.where(asked > 0, np.minimum(asked, MAX_STAMP), MAX_STAMP).astype(np.int64)
    allowed = np.maximum((largest - 1) // 2, 1)
    profiles = Profiles(
        sources.x[mine],
        sources.y[mine],
        amplitude[owner] * part.fraction,
        part.n,
        part.beta,
        part.nu,
        metric,
        reach,
        b,
        np.minimum(half, allowed),
    )
    return Components(profiles, owner, half > allowed)
