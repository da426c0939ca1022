"""The sources of one image as arrays, with what a renderer needs to know about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPE_COLUMNS", "Sources"]

SHAPE_COLUMNS = (
    *("n", "moffat_beta", "half_light_radius", "q", "pa", "trunc", "bulge_fraction"),
    *(f"{part}_{name}" for part in ("bulge", "disk") for name in ("half_light_radius", "q", "pa", "n")),
    *("trail_length", "trail_pa", "trail_length_pix", "trail_angle_pix"),
    *("stamp", "stamp_alignment", "stamp_psf", "stamp_index", "stamp_rotation", "stamp_flux", "stamp_zeropoint"),
    *("spergel_nu", "inclination", "scale_h_over_r", "n_knots", "real_galaxy_catalog", "real_galaxy"),
    *("shear", "shear_pa", "magnification", "draw_size", "object_id"),
)
"""Catalogue columns that the shape of a source depends on."""


@dataclass(frozen=True)
class Sources:
    """Sources placed on one image, in order of injection id.

    Parameters
    ----------
    injection_id : ndarray of int64, shape (N,)
    source_type : ndarray of str, shape (N,)
        Canonical names: those of `skygraft.catalog.schema.SOURCE_TYPES`.
    x, y : ndarray, shape (N,)
        Parent pixel coordinates, finite.
    flux : ndarray, shape (N,)
        Calibrated flux in image units, finite; may be negative.
    jacobian : ndarray, shape (N, 2, 2)
        Arcsec per pixel, rows (East, North), columns (x, y), at each source; of one that is lensed, arcsec before
        lensing (see `skygraft.render.lensing`).
    shape : mapping of str to ndarray, shape (N,)
        The catalogue's shape columns, NaN (or empty) where a row has none. `trail_length` and `trail_pa` are those
        of any source that moves during the exposure.
    """

    injection_id: NDArray[np.int64]
    source_type: NDArray[np.str_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    jacobian: NDArray[np.float64]
    shape: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.x)

    def value(self, column: str, i: int, default: float) -> float:
        """Return a shape parameter of source `i`, or `default` if the column is absent or not finite."""
        if column not in self.shape:
            return default
        value = float(self.shape[column][i])
        return value if np.isfinite(value) else default

    def text(self, column: str, i: int, default: str = "") -> str:
        """Return a text parameter of source `i`, or `default` if the column is absent or empty."""
        if column not in self.shape:
            return default
        value = str(self.shape[column][i]).strip()
        return value if value and value not in ("None", "nan", "--") else default
