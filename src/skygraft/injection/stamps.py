"""Stamps on one image: which file each has in its band, and the flux of those that bring their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog import values
from skygraft.catalog.schema import strings
from skygraft.catalog.stamp_paths import band_stamp_columns, stamps_in_band
from skygraft.render import Sources
from skygraft.render.stamp_placing import place_stamps

__all__ = ["light_per_flux", "own_flux", "own_totals", "unit_magnitudes", "with_stamps"]


def own_flux(table: QTable) -> NDArray[np.bool_]:
    """Return which rows are stamps whose flux is that of their pixels, shape (N,)."""
    if "stamp_flux" not in table.colnames:
        return np.zeros(len(table), dtype=np.bool_)
    return np.asarray((strings(table, "stamp_flux") == "stamp") & (strings(table, "source_type") == "Stamp"))


def unit_magnitudes(
    table: QTable, mag: NDArray[np.float64], band: str | None, own: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return magnitudes in which stamps with a flux of their own have that of one unit of their pixels.

    Parameters
    ----------
    table : QTable
        Canonical columns.
    mag : ndarray, shape (N,)
        Magnitudes of all rows in the band.
    band : str or None
        The image's band; in others than its own a stamp has none.
    own : ndarray of bool, shape (N,)
        From `own_flux`.
    """
    if not own.any():
        return mag
    there = stamps_in_band(table, band) != ""
    return np.where(own, np.where(there, values(table, "stamp_zeropoint"), np.nan), mag)


def with_stamps(
    shape: dict[str, NDArray[Any]], table: QTable, band: str | None, rows: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Return the shape columns of some rows with the stamps of a band in the column ``stamp``."""
    if "stamp" in shape or band_stamp_columns(table):
        return shape | {"stamp": stamps_in_band(table, band)[rows]}
    return shape


def own_totals(
    table: QTable,
    sources: Sources,
    rows: NDArray[np.intp],
    own: NDArray[np.bool_],
    mag: NDArray[np.float64],
    inst_flux: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return magnitudes and fluxes in which those of stamps with a flux of their own are of all of their pixels.

    Parameters
    ----------
    table : QTable
        Canonical columns.
    sources : Sources
        Some of its rows, on the image.
    rows : ndarray of int
        Which.
    own : ndarray of bool, shape (N,)
        From `own_flux`.
    mag, inst_flux : ndarray, shape (N,)
        Of all rows; of those stamps that of one unit of their pixels.

    Returns
    -------
    mag, inst_flux : ndarray, shape (N,)
        NaN where the stamp cannot be read; the magnitude also where the pixels do not sum to a positive number.
    """
    if not own.any():
        return mag, inst_flux
    total = np.full(len(table), np.nan)
    mine = np.flatnonzero(own[rows])
    for row, stamp in zip(rows[mine].tolist(), place_stamps(sources, mine).stamps, strict=True):
        total[row] = np.nan if isinstance(stamp, Exception) else stamp.total
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.where(total > 0, mag - 2.5 * np.log10(total), np.nan)
    return np.where(own, whole, mag), np.where(own, inst_flux * total, inst_flux)


def light_per_flux(sources: Sources) -> NDArray[np.float64]:
    """Return how much more light than its flux each source may leave, shape (N,): a stamp's pixels may cancel in it."""
    ratio = np.ones(len(sources))
    rows = np.flatnonzero(sources.source_type == "Stamp")
    placed = place_stamps(sources, rows)
    for k, stamp in enumerate(placed.stamps):
        if not isinstance(stamp, Exception):
            ratio[rows[k]] = stamp.absolute / (1.0 if placed.own_flux[k] else abs(stamp.total))
    return ratio
