"""How far the light of each source reaches, so that only those that touch an image are drawn on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import SkygraftError
from skygraft.render import Sources, reach_pixels
from skygraft.render.components import are_profiles, components
from skygraft.render.profiles import MAX_STAMP
from skygraft.render.stamps import read_stamp
from skygraft.render.trails import trail_extents

__all__ = ["Reach", "reach_of"]

_NONE = ("", "None", "nan", "--")
"""Text of empty cells."""


@dataclass(frozen=True, eq=False)
class Reach:
    """The distance to which the light of sources reaches.

    Parameters
    ----------
    pixels : ndarray, shape (N,)
        Half the side of the square about the source that holds its light after the PSF; infinite for a stamp whose
        file cannot be read.
    bad_stamps : dict of int to str
        The sources whose stamp cannot be used, and why.
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
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(sources.jacobian).all(axis=(1, 2)) & (np.abs(np.linalg.det(sources.jacobian)) > 0)
    profiles = np.flatnonzero(known & are_profiles(sources))
    if profiles.size:
        found = components(sources, profiles, np.ones(profiles.size), half_kernel, flux_tolerance)
        np.maximum.at(pixels, profiles[found.owner], found.profiles.half)
    trails = np.flatnonzero(known & (sources.source_type == "Trail"))
    if trails.size:
        pixels[trails] += 0.5 * np.hypot(*trail_extents(sources, trails).T)
    stamps = np.flatnonzero(known & (sources.source_type == "Stamp"))
    bad_stamps = _reach_of_stamps(sources, stamps, half_kernel, pixels) if stamps.size else {}
    rest = known & ~np.isin(sources.source_type, ("Star", "Trail", "Stamp"))
    rest[profiles] = False
    for row in np.flatnonzero(rest).tolist():  # the few profiles that there are no tables for
        try:
            own = reach_pixels(sources, row, flux_tolerance)
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


def _texts(sources: Sources, name: str, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    if name not in sources.shape:
        return np.full(len(rows), "")
    return np.char.strip(np.asarray(sources.shape[name])[rows].astype(np.str_))


def _reach_of_stamps(
    sources: Sources, rows: NDArray[np.intp], half_kernel: int, pixels: NDArray[np.float64]
) -> dict[int, str]:
    """Fill in the reach of stamps, reading each file once, and return those that cannot be used."""
    stamp, alignment, psf = (_texts(sources, name, rows) for name in ("stamp", "stamp_alignment", "stamp_psf"))
    bad: dict[int, str] = {}
    # Arcsec per pixel along the axis on which the source is largest in pixels.
    scale = np.linalg.svd(sources.jacobian[rows], compute_uv=False)[:, -1]
    paths, kind = np.unique(stamp, return_inverse=True)
    for k, path in enumerate(paths.tolist()):
        mine = np.flatnonzero(kind == k)
        try:
            if path in _NONE:
                raise SkygraftError("a Stamp needs the path of its image in the column stamp")
            picture = read_stamp(path)
        except (SkygraftError, OSError, ValueError, TypeError, LookupError) as error:
            bad |= dict.fromkeys(rows[mine].tolist(), str(error))
            continue
        half = np.full(len(mine), 0.5 * float(np.hypot(*picture.image.shape)))
        if picture.jacobian is not None:
            by_wcs = alignment[mine] != "pixel"
            half[by_wcs] *= float(np.linalg.svd(picture.jacobian, compute_uv=False)[0]) / scale[mine][by_wcs]
        pixels[rows[mine]] = half + np.where(psf[mine] == "none", 2, half_kernel + 1)
    return bad
