"""From an image's catalogue to its drawn sources in the package's conventions: which, scaled by what, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from skygraft.catalog.flags import Flag, has_flag
from skygraft.conventions import LSST
from skygraft.errors import CalibrationError, CatalogError
from skygraft.exposure import Exposure
from skygraft.injection.lsst.engine import draw
from skygraft.injection.lsst.jacobians import forward_jacobians
from skygraft.injection.lsst.profiles import refusals
from skygraft.injection.marking import Drawn
from skygraft.injection.options import InjectionOptions
from skygraft.injection.placing import Placed, subset
from skygraft.injection.reach import Reach
from skygraft.photometry import CalibrationAperture, CalibrationReference, describe_reference
from skygraft.render import Sources

__all__ = ["TRIM_PADDING", "calibration_radius", "draw_sources", "drawable", "within_padding"]

TRIM_PADDING = 100
"""Pixels off the image within which the centre of a source may lie."""
_LISTED = 10
"""Rows that an error lists."""


def within_padding(sources: Sources) -> Reach:
    """How far from an image's edge sources are considered: the same for all; what they touch their stamps decide."""
    return Reach(np.full(len(sources), float(TRIM_PADDING)))


def calibration_radius(exposure: Exposure, reference: CalibrationReference | None, radius: float | None) -> float:
    """Radius in pixels of the aperture that the PSF is scaled by: the given one, or that of the image's calibration.

    Raises
    ------
    CalibrationError
        If the image is not calibrated to an aperture.
    """
    if radius is not None:
        return radius
    if isinstance(reference, CalibrationAperture):
        return reference.radius_pixels
    raise CalibrationError(
        f"the image is calibrated to {describe_reference(reference)['kind']}; conventions {LSST!r} scale the PSF "
        "by the flux in an aperture",
        path=exposure.path,
        fix="Use flux_mode 'aperture' with a radius, or skygraft's own conventions",
    )


def drawable(placed: Placed, on_bad: Literal["raise", "flag"]) -> Placed:
    """Leave out the sources that the package cannot draw, and flag them in the truth table.

    Raises
    ------
    CatalogError
        If there are any, and `on_bad` is ``"raise"``.
    """
    refused = refusals(placed.sources)
    if not refused:
        return placed
    ids = placed.sources.injection_id
    reasons = [f"injection_id {ids[i]}: {text}" for i, (_, text) in refused.items()]
    if on_bad == "raise":
        more = f"\n  ... and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        raise CatalogError(
            f"{len(reasons)} of {len(ids)} sources on the image cannot be drawn with conventions {LSST!r}:\n  "
            + "\n  ".join(reasons[:_LISTED])
            + more,
            row=f"injection_id {ids[next(iter(refused))]}",
            key="source_type",
            fix="Change them, keep them undrawn with on_bad='flag' (in a campaign, catalog: {on_bad: flag}), or use "
            "skygraft's own conventions",
        )
    keep = np.ones(len(ids), dtype=np.bool_)
    for i, (flag, _) in refused.items():
        keep[i] = False
        placed.truth["flags"][placed.rows[i]] |= int(flag)
    return dataclasses.replace(
        placed,
        sources=subset(placed.sources, keep),
        rows=placed.rows[keep],
        messages=(*placed.messages, *reasons),
    )


def draw_sources(
    exposure: Exposure,
    placed: Placed,
    options: InjectionOptions,
    radius: float,
    image_id: str,
    progress: Callable[[int], None] | None,
) -> Drawn:
    """The exposure's planes with the sources on them; their flags for what is off the image are put right."""
    rows, sources = placed.rows, placed.sources
    ra, dec = (np.asarray(placed.truth[name].value, dtype=np.float64)[rows] for name in ("ra", "dec"))
    if len(sources):
        jacobian = forward_jacobians(exposure.wcs, ra, dec, sources.x, sources.y)
        sources = dataclasses.replace(sources, jacobian=jacobian)
    drawn = draw(
        exposure,
        sources,
        radius=radius,
        noise=options.noise,
        variance=options.adds_variance,
        seed=options.seed,
        image_id=image_id,
        mark_injected=options.mark_injected,
        progress=progress,
    )
    nowhere = rows[has_flag(drawn.report.flags, Flag.NO_OVERLAP)]
    placed.truth["flags"][nowhere] &= ~int(Flag.CENTER_OFF_IMAGE | Flag.PHOTOCALIB_EXTRAPOLATED)
    return drawn
