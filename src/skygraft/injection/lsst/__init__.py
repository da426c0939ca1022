"""Injection as LSST's own package does it, pixel by pixel: ``conventions="lsst_source_injection"``.

Surveys that have campaigns made with ``lsst.source.injection`` can continue them, or compare. What it does differently
from skygraft, and which of the two is right, is in the README; here it is followed, for better or worse: the package's
way of drawing (GalSim's stamps, interpolants and transforms at GalSim's own accuracy), its calibration (the aperture
correction at the PSF's average position), its Jacobians, its gains, its noise, and its mask planes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.injection.lsst.image import (
        calibration_radius,
        draw_sources,
        drawable,
        refusal_error,
        undrawable,
        within_padding,
    )

__all__ = ["calibration_radius", "draw_sources", "drawable", "refusal_error", "undrawable", "within_padding"]

if not TYPE_CHECKING:  # GalSim is imported only where these conventions are asked for
    __getattr__ = lazy_names(__name__, {"skygraft.injection.lsst.image": tuple(__all__)})
