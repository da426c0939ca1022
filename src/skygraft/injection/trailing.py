"""Trails of sources that move during the exposure."""

from __future__ import annotations

import dataclasses

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import rates_at, values
from skygraft.exposure import VisitInfo
from skygraft.render import Sources

__all__ = ["SHORTEST", "with_trails"]

SHORTEST = 0.01
"""Pixels; sources that move less during the exposure are drawn as if they stood still."""


def with_trails(
    sources: Sources, table: QTable, rows: NDArray[np.intp], visit_info: VisitInfo
) -> tuple[Sources, NDArray[np.bool_], tuple[str, ...]]:
    """Give the sources that move by their rates a trail: as long as they go in the exposure time.

    A star becomes a Trail; extended sources keep their type and have ``trail_length`` and ``trail_pa``, along which
    they are drawn out. Sources whose catalogue gives a length keep it. Proper motion makes no trail.

    Parameters
    ----------
    sources : Sources
        Those of `rows`.
    table : QTable
        The catalogue in canonical form.
    rows : ndarray of int, shape (N,)
        Rows of the catalogue.
    visit_info : VisitInfo
        Time of mid-exposure, at which length and direction are those of the motion, and the exposure time.

    Returns
    -------
    sources : Sources
        The same, or some of them with trails.
    endless : ndarray of bool, shape (N,)
        Trails that have no length, because the image does not say its exposure time.
    messages : tuple of str
        What is to be said of them.
    """
    is_trail = sources.source_type == "Trail"
    endless = np.zeros(len(sources), dtype=np.bool_)
    given = {name for name in ("trail_length", "trail_length_pix") if name in table.colnames}
    rates = rates_at(table[rows], visit_info.mjd) if _may_move(table) else None
    if rates is None and not given and not is_trail.any():
        return sources, endless, ()
    length, in_pixels = (values(table, name)[rows] for name in ("trail_length", "trail_length_pix"))
    pa = values(table, "trail_pa")[rows]
    # Lengths in pixels are those of trails: catalogues of LSST have any value there for other types.
    in_pixels[~is_trail] = np.nan
    length[~is_trail & ~(length > 0)] = np.nan
    none = np.isnan(length) & np.isnan(in_pixels)
    bare = is_trail & none
    moving = none & (rates.any(axis=1) if rates is not None else False)
    messages: tuple[str, ...] = ()
    time = visit_info.exposure_time
    if time is None or not 0 < time < np.inf:
        endless = bare
        if endless.any():
            messages = (f"{np.count_nonzero(endless)} trails are given by rates, and the image has no exposure time",)
        if (points := moving & ~is_trail).any():
            messages += (
                f"{np.count_nonzero(points)} moving sources are drawn without a trail: the image has no exposure time",
            )
    elif rates is not None and moving.any():
        east, north = rates[moving].T
        length[moving] = np.hypot(east, north) * time / 3600
        pa[moving] = np.degrees(np.arctan2(east, north))
        sky = np.column_stack([east, north])[:, :, None] * time / 3600
        with np.errstate(all="ignore"):
            pixels = np.linalg.norm(_solved(sources.jacobian[moving], sky), axis=1)
        still = np.flatnonzero(moving)[(pixels < SHORTEST) & ~is_trail[moving]]
        length[still] = np.nan
        moving[still] = False
    else:
        moving[:] = False
    length[bare & np.isnan(length) & ~endless] = 0.0
    types = sources.source_type
    if (stars := (length > 0) & (types == "Star")).any():
        types = np.where(stars, "Trail", types)
    shape = {**sources.shape, "trail_length": length, "trail_pa": pa}
    if "trail_length_pix" in given:
        shape["trail_length_pix"] = in_pixels
    return dataclasses.replace(sources, source_type=types, shape=shape), endless, messages


def _may_move(table: QTable) -> bool:
    return bool({"rate_ra_cosdec", "rate_dec"} & set(table.colnames))


def _solved(jacobian: NDArray[np.float64], sky: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets in pixels of offsets on the sky, shape (N, 2, 1); infinite where the Jacobian is singular."""
    determinant = np.linalg.det(jacobian)
    usable = np.isfinite(jacobian).all(axis=(1, 2)) & (determinant != 0)
    pixels = np.full((len(sky), 2), np.inf)
    pixels[usable] = np.linalg.solve(jacobian[usable], sky[usable])[:, :, 0]
    return pixels
