"""Positions of detections, and which of them are on an image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.io import read_table
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError
from skygraft.survey.image_columns import IndexedImage
from skygraft.views.places import separation

__all__ = ["DetectionPositions"]

type FloatArray = NDArray[np.float64]


class DetectionPositions:
    """Positions of detections, each of some image or of any that shows the place.

    Parameters
    ----------
    table : path-like or table-like
        A file, or a table of any library, with ``ra`` and ``dec`` (degrees, or with units). With ``image_id``,
        ``visit`` or ``band``, a row belongs to images that have the same; a row where one is empty belongs to any.

    Raises
    ------
    CatalogError
        If a column is missing, or has no positions.
    """

    def __init__(self, table: Any) -> None:
        path = Path(table) if isinstance(table, (str, os.PathLike)) else None
        rows = read_table(path) if path is not None else as_table(table, origin="detections")
        self._path = path
        ra, dec = self._angles(rows, "ra"), self._angles(rows, "dec")
        good = np.isfinite(ra) & np.isfinite(dec)
        if (np.abs(dec[good]) > 90).any() or (np.abs(ra[good]) > 360).any():
            raise CatalogError("positions are not on the sphere", path=path, key="dec", fix="Give degrees")
        self.n_bad = int(np.count_nonzero(~good))
        order = np.flatnonzero(good)[np.argsort(dec[good], kind="stable")]
        self._number, self._ra, self._dec = order, ra[order], dec[order]
        self._of = {
            name: np.array([_text(value) for value in rows[name].tolist()], dtype=object)[order]
            for name in ("image_id", "visit", "band")
            if name in rows.colnames
        }

    def _angles(self, rows: Table, name: str) -> FloatArray:
        if name not in rows.colnames:
            raise CatalogError(
                f"the detections have no column {name!r}; they have {', '.join(rows.colnames) or 'none'}",
                path=self._path,
                key=name,
                fix="Give a table with ra and dec, degrees",
            )
        column = rows[name]
        try:
            values = column.to_value("deg") if hasattr(column, "to_value") else column
            if getattr(column, "unit", None) is not None and not hasattr(column, "to_value"):
                values = column.quantity.to_value("deg")
            filled = np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
        except (TypeError, ValueError) as error:  # astropy's UnitConversionError is both
            raise CatalogError(
                f"the column is not an angle ({error})", path=self._path, key=name, fix="Give degrees"
            ) from error
        mask = getattr(column, "mask", None)
        return np.where(mask, np.nan, filled) if mask is not None else np.asarray(filled)

    def of(self, image: IndexedImage) -> tuple[FloatArray, FloatArray]:
        """Find the detections that may be on an image.

        Parameters
        ----------
        image : IndexedImage

        Returns
        -------
        ra, dec : ndarray
            ICRS degrees, in the order of the table; some may be off the image.
        """
        reach = 0.55 * float(np.hypot(image.nx, image.ny)) * image.pixel_scale
        margin = reach / 3600
        low, high = np.searchsorted(self._dec, [image.dec - margin, image.dec + margin])
        part = slice(int(low), int(high))
        near = separation(image.ra, image.dec, self._ra[part], self._dec[part]) <= reach
        for name, values in self._of.items():
            own = _text(getattr(image, name))
            near &= np.array([value in ("", own) for value in values[part]], dtype=np.bool_)
        found = np.flatnonzero(near) + part.start
        found = found[np.argsort(self._number[found], kind="stable")]
        return self._ra[found], self._dec[found]


def _text(value: Any) -> str:
    """A value as text; whole numbers that a file holds as floating point are whole, and what is missing is empty."""
    if value is None or value is np.ma.masked or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
