"""Select what one image needs from a catalogue: magnitudes in its band, rows of its visit."""

from __future__ import annotations

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.schema import bands_of, values
from skygraft.errors import CatalogError

__all__ = ["band_column", "select_for_visit"]


def select_for_visit(table: QTable, visit: int | None) -> QTable:
    """Select the rows for a visit: those for all visits (``visit`` is -1, or there is no such column) and for this one.

    A campaign does this itself; `skygraft.inject` injects all rows that it is given.

    Parameters
    ----------
    table : QTable
        Canonical table.
    visit : int or None
        The visit; None for an image without visit (a coadd), which gets only the rows for all visits.

    Returns
    -------
    QTable
        The table itself if all rows are selected, otherwise a copy.
    """
    if "visit" not in table.colnames:
        return table
    wanted = values(table, "visit")
    keep = wanted == -1
    if visit is not None:
        keep |= wanted == visit
    return table if keep.all() else table[keep]


def band_column(table: QTable, band: str | None) -> NDArray[np.float64]:
    """Return the AB magnitudes in a band, shape (N,); NaN for sources that are not in the band.

    Parameters
    ----------
    table : QTable
        Canonical table.
    band : str or None
        Band of the image; None (unknown) is allowed if the table has only one band.

    Returns
    -------
    ndarray

    Raises
    ------
    CatalogError
        If the table does not have the band; the error names the bands that it has.
    """
    bands = bands_of(table)
    if band is not None and band in bands:
        return values(table, f"mag_{band}")
    # A plain `mag`, as in a table made by hand, applies to any image.
    if not bands and "mag" in table.colnames:
        return values(table, "mag")
    if band is None and len(bands) == 1:
        return values(table, f"mag_{bands[0]}")
    have = ", ".join(bands) or "none"
    if band is None:
        raise CatalogError(
            f"the image does not say its band, and the catalogue has several: {have}",
            key="band",
            fix="Give the image's band",
        )
    raise CatalogError(
        f"the catalogue has no magnitudes in band {band!r}; it has {have}",
        key=f"mag_{band}",
        fix=f"Add a column mag_{band}, or choose images of another band",
    )
