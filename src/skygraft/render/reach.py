"""How far from its position a source of any type reaches, before the PSF."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaincinv

from skygraft.catalog.schema import SPERGEL_RANGE
from skygraft.errors import InjectionError
from skygraft.render.knots import knots_reach
from skygraft.render.kolmogorov import kolmogorov_reach
from skygraft.render.profiles import SAFELY, gaussian_radius, moffat_reach, sersic_radius
from skygraft.render.real_galaxies import real_galaxy
from skygraft.render.sources import Sources
from skygraft.render.spergel import spergel_reach
from skygraft.render.stamp_grids import FRAME
from skygraft.render.stamp_placing import place_stamps
from skygraft.render.truncated import LEAST_RATIO, steepness

__all__ = ["moffat_beta", "reach_pixels", "trail_vector", "value_within"]


def reach_pixels(sources: Sources, i: int, flux_tolerance: float) -> float:
    """Radius in pixels outside which source `i`, before the PSF, has a part `flux_tolerance` of its flux."""
    flux_tolerance *= SAFELY
    kind = str(sources.source_type[i])
    jacobian = sources.jacobian[i]
    # The smallest singular value is arcsec per pixel along the axis on which the source is largest in pixels.
    scale = float(np.linalg.svd(jacobian, compute_uv=False)[-1])
    trail = 0.0
    if kind == "Trail" or sources.value("trail_length", i, 0.0) > 0:
        trail = 0.5 * _trail_length_pixels(sources, i)
    return trail + _reach_at_rest(sources, i, flux_tolerance, kind, scale)


def _reach_at_rest(sources: Sources, i: int, flux_tolerance: float, kind: str, scale: float) -> float:
    if kind in ("Star", "Trail"):
        return 0.0
    if kind == "RandomKnots":
        return knots_reach(sources, i)
    if kind == "RealGalaxy":
        path, row = sources.text("real_galaxy_catalog", i), int(sources.value("real_galaxy", i, -1))
        return real_galaxy(path, row).reach / scale
    if kind == "Stamp":
        placed = place_stamps(sources, np.array([i]))
        stamp = placed.stamps[0]
        if isinstance(stamp, Exception):
            raise stamp
        return placed.half_side(0, FRAME)
    if kind == "BulgeDisk":
        fraction = sources.value("bulge_fraction", i, 0.5)
        return (
            max(
                _sersic_reach(
                    sources.value(f"{part}_n", i, n),
                    sources.value(f"{part}_half_light_radius", i, math.nan),
                    sources.value(f"{part}_q", i, 1.0),
                    flux_tolerance,
                )
                for part, n, share in (("bulge", 4.0, fraction), ("disk", 1.0, 1.0 - fraction))
                if share != 0
            )
            / scale
        )
    q = sources.value("q", i, 1.0)
    radius = sources.value("half_light_radius", i, math.nan)
    if kind == "Gaussian":
        return gaussian_radius(radius, flux_tolerance) / math.sqrt(q) / scale
    if kind == "Moffat":
        return radius * float(moffat_reach(moffat_beta(sources, i), flux_tolerance)) / math.sqrt(q) / scale
    if kind == "Spergel":
        nu = np.array([value_within(sources, i, "spergel_nu", *SPERGEL_RANGE)])
        return radius * float(spergel_reach(nu, flux_tolerance)[0]) / math.sqrt(q) / scale
    if kind == "Kolmogorov":
        return radius * kolmogorov_reach(flux_tolerance) / math.sqrt(q) / scale
    if kind in ("InclinedExponential", "InclinedSersic"):
        cut = kind == "InclinedSersic"
        n, trunc = (sources.value("n", i, 1.0), sources.value("trunc", i, 0.0)) if cut else (1.0, 0.0)
        return _inclined_reach(n, radius, trunc, sources.value("scale_h_over_r", i, 0.1), flux_tolerance) / scale
    return _sersic_reach(sources.value("n", i, 1.0), radius, q, flux_tolerance, sources.value("trunc", i, 0.0)) / scale


def _inclined_reach(n: float, radius: float, trunc: float, h_over_r: float, tolerance: float) -> float:
    """Return the radius of a cylinder's shadow at any inclination: of one outside which there is little of the disk.

    The disk is a Sérsic profile times sech(z / h)^2, of which 1 - tanh(z / h) is beyond a height z; each direction may
    have half of what is left out.
    """
    if trunc > 0:
        steep = float(steepness(np.array([n]), np.array([max(trunc / radius, LEAST_RATIO)]))[0])
        scale = trunc / steep**n if steep > 0 else radius / float(gammaincinv(2.0 * n, 0.5)) ** n
    else:
        scale = radius / float(gammaincinv(2.0 * n, 0.5)) ** n
    height = h_over_r * scale * math.atanh(1.0 - 0.5 * tolerance)
    return math.hypot(sersic_radius(n, radius, 0.5 * tolerance, trunc), height)


def _sersic_reach(n: float, radius: float, q: float, tolerance: float, trunc: float = 0.0) -> float:
    return sersic_radius(n, radius, tolerance, trunc) / math.sqrt(q)


def moffat_beta(sources: Sources, i: int) -> float:
    """Return the Moffat exponent of source `i`.

    Raises
    ------
    InjectionError
        If it is not above 1, or missing.
    """
    beta = sources.value("moffat_beta", i, math.nan)
    if not beta > 1:
        raise InjectionError(
            f"moffat_beta is {beta}; a Moffat needs an exponent above 1",
            row=f"injection_id {sources.injection_id[i]}",
            key="moffat_beta",
        )
    return beta


def value_within(sources: Sources, i: int, name: str, low: float, high: float) -> float:
    """Return a shape parameter of source `i`.

    Raises
    ------
    InjectionError
        If it is missing, or not between `low` and `high`.
    """
    value = sources.value(name, i, math.nan)
    if not low <= value <= high:
        raise InjectionError(
            f"{name} is {value:g}; allowed are {low:g} to {high:g}",
            row=f"injection_id {sources.injection_id[i]}",
            key=name,
        )
    return value


def trail_vector(sources: Sources, i: int) -> tuple[float, float]:
    """The trail's extent (dx, dy) in pixels."""
    length = sources.value("trail_length_pix", i, math.nan)
    if math.isfinite(length):
        angle = math.radians(sources.value("trail_angle_pix", i, 0.0))
        return length * math.cos(angle), length * math.sin(angle)
    length = sources.value("trail_length", i, 0.0)
    pa = math.radians(sources.value("trail_pa", i, 0.0))
    dx, dy = np.linalg.solve(sources.jacobian[i], [length * math.sin(pa), length * math.cos(pa)])
    return float(dx), float(dy)


def _trail_length_pixels(sources: Sources, i: int) -> float:
    return math.hypot(*trail_vector(sources, i))
