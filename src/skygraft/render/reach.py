"""How far from its position a source of any type reaches, before the PSF."""

from __future__ import annotations

import math

import numpy as np

from skygraft.errors import InjectionError
from skygraft.render.profiles import SAFELY, gaussian_radius, moffat_reach, sersic_radius
from skygraft.render.sources import Sources
from skygraft.render.stamp_grids import FRAME
from skygraft.render.stamp_placing import place_stamps

__all__ = ["moffat_beta", "reach_pixels", "trail_vector"]


def reach_pixels(sources: Sources, i: int, flux_tolerance: float) -> float:
    """Radius in pixels outside which source `i`, before the PSF, has a part `flux_tolerance` of its flux."""
    flux_tolerance *= SAFELY
    kind = str(sources.source_type[i])
    jacobian = sources.jacobian[i]
    # The smallest singular value is arcsec per pixel along the axis on which the source is largest in pixels.
    scale = float(np.linalg.svd(jacobian, compute_uv=False)[-1])
    if kind == "Star":
        return 0.0
    if kind == "Trail":
        return 0.5 * _trail_length_pixels(sources, i)
    if kind == "Stamp":
        placed = place_stamps(sources, np.array([i]))
        stamp = placed.stamps[0]
        if isinstance(stamp, Exception):
            raise stamp
        return placed.half_side(0, FRAME)
    if kind == "BulgeDisk":
        return (
            max(
                _sersic_reach(
                    sources.value(f"{part}_n", i, n),
                    sources.value(f"{part}_half_light_radius", i, math.nan),
                    sources.value(f"{part}_q", i, 1.0),
                    flux_tolerance,
                )
                for part, n in (("bulge", 4.0), ("disk", 1.0))
            )
            / scale
        )
    q = sources.value("q", i, 1.0)
    radius = sources.value("half_light_radius", i, math.nan)
    if kind == "Gaussian":
        return gaussian_radius(radius, flux_tolerance) / math.sqrt(q) / scale
    if kind == "Moffat":
        return radius * float(moffat_reach(moffat_beta(sources, i), flux_tolerance)) / math.sqrt(q) / scale
    return _sersic_reach(sources.value("n", i, 1.0), radius, q, flux_tolerance, sources.value("trunc", i, 0.0)) / scale


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
