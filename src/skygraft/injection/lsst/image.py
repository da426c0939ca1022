"""Injection into one image in the package's conventions: which sources are drawn, how scaled, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import QTable

from skygraft.catalog import values
from skygraft.catalog.flags import NOT_DRAWN, Flag, has_flag
from skygraft.catalog.schema import strings
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
from skygraft.render import SHAPE_COLUMNS, Sources

__all__ = [
    "TRIM_PADDING",
    "calibration_radius",
    "draw_sources",
    "drawable",
    "refusal_error",
    "undrawable",
    "within_padding",
]

TRIM_PADDING = 100
"""Pixels off the image within which the centre of a source may lie."""
_LISTED = 10
"""Rows that an error lists."""


def within_padding(sources: Sources) -> Reach:
    """Give the distance from an image's edge within which sources are considered: the same for all.

    Which pixels they touch is decided by their stamps.

    Parameters
    ----------
    sources : Sources
        The sources.

    Returns
    -------
    Reach
    """
    return Reach(np.full(len(sources), float(TRIM_PADDING)))


def calibration_radius(exposure: Exposure, reference: CalibrationReference | None, radius: float | None) -> float:
    """Find the radius of the aperture that the PSF is scaled by: the given one, or that of the image's calibration.

    Parameters
    ----------
    exposure : Exposure
        The image.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of; None where nothing says.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``; None in the other modes.

    Returns
    -------
    float
        Pixels.

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

    Parameters
    ----------
    placed : Placed
        The sources on the image; flags in its truth table are changed.
    on_bad : {"raise", "flag"}
        Whether such a source is an error.

    Returns
    -------
    Placed
        Without them.

    Raises
    ------
    CatalogError
        If there are any, and `on_bad` is ``"raise"``.
    """
    refused = refusals(placed.sources)
    if not refused:
        return placed
    reasons = _in_words(refused, placed.sources)
    if on_bad == "raise":
        raise refusal_error(reasons, f"{len(placed.sources)} sources on the image")
    keep = np.ones(len(placed.sources), dtype=np.bool_)
    for i, (flag, _) in refused.items():
        keep[i] = False
        placed.truth["flags"][placed.rows[i]] |= int(flag)
    return dataclasses.replace(
        placed,
        sources=subset(placed.sources, keep),
        rows=placed.rows[keep],
        messages=(*placed.messages, *reasons),
    )


def undrawable(table: QTable) -> list[str]:
    """List the rows of a canonical catalogue that the package cannot draw, and why, for `refusal_error`.

    Parameters
    ----------
    table : QTable
        The catalogue in canonical form.

    Returns
    -------
    list of str
    """
    table = table[~has_flag(values(table, "flags"), NOT_DRAWN)]
    nothing = np.zeros(len(table))
    sources = Sources(
        values(table, "injection_id"),
        strings(table, "source_type"),
        nothing,
        nothing,
        nothing,
        np.zeros((len(table), 2, 2)),
        {name: values(table, name) for name in SHAPE_COLUMNS if name in table.colnames},
    )
    return _in_words(refusals(sources), sources)


def _in_words(refused: dict[int, tuple[Flag, str]], sources: Sources) -> list[str]:
    return [f"injection_id {sources.injection_id[i]}: {text}" for i, (_, text) in refused.items()]


def refusal_error(reasons: list[str], of: str, path: Path | None = None) -> CatalogError:
    """The error that lists the first of the rows that the package cannot draw.

    Parameters
    ----------
    reasons : list of str
        Of `undrawable`.
    of : str
        Number and kind of the rows that were checked: ``"100 sources"``.
    path : Path, optional
        The catalogue.
    """
    more = f"\n  ... and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    return CatalogError(
        f"{len(reasons)} of {of} cannot be drawn with conventions {LSST!r}:\n  "
        + "\n  ".join(reasons[:_LISTED])
        + more,
        path=path,
        key="source_type",
        fix="Change them, keep them undrawn with on_bad='flag' (in a campaign, catalog: {on_bad: flag}), or use "
        "skygraft's own conventions",
    )


def draw_sources(
    exposure: Exposure,
    placed: Placed,
    options: InjectionOptions,
    radius: float,
    image_id: str,
    progress: Callable[[int], None] | None,
) -> Drawn:
    """Draw the sources on an exposure's planes as the package does, and correct their flags for what is off the image.

    Parameters
    ----------
    exposure : Exposure
        The image.
    placed : Placed
        The sources; flags in its truth table are changed.
    options : InjectionOptions
        How to inject.
    radius : float
        Of the aperture that the PSF is scaled by, pixels.
    image_id : str
        Name of the image in random streams.
    progress : callable or None
        Called with the number of sources drawn since the last call.

    Returns
    -------
    Drawn
    """
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
