"""How far the light of each source reaches, so that only those that touch an image are drawn on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError, SkygraftError
from skygraft.render import Sources, reach_pixels
from skygraft.render.components import are_profiles, are_trailed, components
from skygraft.render.profiles import MAX_STAMP
from skygraft.render.stamp_grids import FRAME
from skygraft.render.stamp_placing import place_stamps
from skygraft.render.trails import trail_extents

__all__ = ["Reach", "reach_of"]


@dataclass(frozen=True, eq=False)
class Reach:
    """The distance to which the light of sources reaches.

    Parameters
    ----------
    pixels : ndarray, shape (N,)
        Half the side of the square about the source that holds its light after the PSF; infinite for a stamp whose
        file cannot be read.
    bad_stamps : dict of int to str
        The sources whose stamp or real galaxy cannot be used, and why.
    """

    pixels: NDArray[np.float64]
    bad_stamps: dict[int, str] = field(default_factory=dict)


def reach_of(sources: Sources, half_kernel: int, flux_tolerance: float) -> Reach:
    """Compute how far the light of sources reaches: as far as their stamps are drawn.

    Parameters
    ----------
    sources : Sources
        Also those that cannot be drawn; where a size is missing, it counts as a point.
    half_kernel : int
        Pixels of the PSF kernel on either side of its middle.
    flux_tolerance : float
        Part of a source's flux that its stamp may leave out.

    Returns
    -------
    Reach
    """
    pixels = np.full(len(sources), half_kernel + 1.0)
    known = np.zeros(len(sources), dtype=np.bool_)
    if {"trail_length", "trail_length_pix"} & set(sources.shape):
        with_shape = np.arange(len(sources))
    else:
        with_shape = np.flatnonzero(sources.source_type != "Star")
    with np.errstate(invalid="ignore", divide="ignore"):
        jacobian = sources.jacobian[with_shape]
        known[with_shape] = np.isfinite(jacobian).all(axis=(1, 2)) & (np.abs(np.linalg.det(jacobian)) > 0)
    profiles = np.flatnonzero(known & are_profiles(sources))
    if profiles.size:
        found = components(sources, profiles, np.ones(profiles.size), half_kernel, flux_tolerance)
        np.maximum.at(pixels, profiles[found.owner], found.profiles.half)
    stamps = np.flatnonzero(known & (sources.source_type == "Stamp"))
    bad_stamps = _reach_of_stamps(sources, stamps, half_kernel, pixels) if stamps.size else {}
    moving = are_trailed(sources) & np.isin(sources.source_type, ("Star", "Stamp"))
    trails = np.flatnonzero(known & (moving | (sources.source_type == "Trail")))
    if trails.size:
        pixels[trails] += 0.5 * np.hypot(*trail_extents(sources, trails).T)
    rest = known & ~np.isin(sources.source_type, ("Star", "Trail", "Stamp"))
    rest[profiles] = False
    for row in np.flatnonzero(rest).tolist():  # what there are no tables for
        try:
            own = reach_pixels(sources, row, flux_tolerance)
        except FormatError as error:  # of a catalogue of real galaxies
            bad_stamps[row] = str(error)
            continue
        except (SkygraftError, ArithmeticError, ValueError):
            continue  # parameters that nothing can be drawn from: whoever draws it flags it
        if np.isfinite(own):
            pixels[row] += own
    cut = sources.source_type != "Star"
    cut[profiles] = False
    cut[trails] = np.nan_to_num(_numbers(sources, "draw_size", trails)) > 0
    pixels[cut] = np.minimum(pixels[cut], _largest(sources, cut))
    pixels = np.ceil(pixels)
    pixels[list(bad_stamps)] = np.inf
    return Reach(pixels, bad_stamps)


def _numbers(sources: Sources, name: str, rows: NDArray[np.intp] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """Read a shape column as numbers, NaN where it is absent."""
    if name not in sources.shape:
        return np.full(len(sources), np.nan)[rows]
    return np.asarray(sources.shape[name], dtype=np.float64)[rows]


def _largest(sources: Sources, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute half the side of the largest stamp that each source may have, pixels."""
    asked = np.nan_to_num(_numbers(sources, "draw_size", rows))
    return np.asarray(0.5 * np.where(asked > 0, np.minimum(asked, MAX_STAMP), MAX_STAMP))


def _reach_of_stamps(
    sources: Sources, rows: NDArray[np.intp], half_kernel: int, pixels: NDArray[np.float64]
) -> dict[int, str]:
    """Fill in the reach of stamps, each file opened once, and return those that cannot be used."""
    placed, bad = place_stamps(sources, rows), dict[int, str]()
    for k, stamp in enumerate(placed.stamps):
        row = int(rows[k])
        if isinstance(stamp, Exception):
            bad[row] = str(stamp)
            continue
        pixels[row] = placed.half_side(k, FRAME) + (half_kernel + 1 if placed.convolved[k] else 2)
    return bad
