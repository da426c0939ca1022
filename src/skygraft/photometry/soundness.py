"""Checks that every photometric calibration passes before fluxes are computed with it."""

from __future__ import annotations

import math
import os

import numpy as np

from skygraft.errors import CalibrationError, UncalibratedImageError, shown
from skygraft.photometry.aperture import LARGEST_RADIUS
from skygraft.photometry.photo_calib import PhotoCalib

__all__ = ["check_calibration_soundness", "check_radius"]

_ZEROPOINTS = (-20.0, 70.0)
"""AB magnitudes of one image unit; 8.9 (jansky) to 56 (maggies of 1e-22) occur."""
_LEAST_RADIUS = 0.1
"""Pixels."""
_ALWAYS_HELD = 100.0
"""Pixels: a radius that costs nothing, even on a cut-out that is smaller."""

type Edges = tuple[float, float, float, float]


def check_calibration_soundness(calib: PhotoCalib, box: Edges, path: str | os.PathLike[str] | None = None) -> None:
    """Refuse a calibration that gives no flux anywhere on the image, or one that no image has.

    Parameters
    ----------
    calib : PhotoCalib
        The calibration.
    box : (float, float, float, float)
        The image's outer edges x_min, x_max, y_min, y_max, parent pixels: one that varies is checked at nine places.
    path : path-like, optional
        The image, for messages.

    Raises
    ------
    UncalibratedImageError
        If it is not positive and finite anywhere, or the zeropoint is not from -20 to 70 somewhere.
    """
    x, y = np.meshgrid(np.linspace(*box[:2], 3), np.linspace(*box[2:], 3))
    with np.errstate(all="ignore"):
        zeropoint = np.atleast_1d(calib.zeropoint(x.ravel(), y.ravel()))
    known = zeropoint[np.isfinite(zeropoint)]
    fix = "Give the calibration (photo_calib=, --zeropoint, survey: calibration: zeropoint)"
    if not known.size:
        raise UncalibratedImageError(
            "the photometric calibration is not positive and finite anywhere on the image", path=path, fix=fix
        )
    wrong = known[(known < _ZEROPOINTS[0]) | (known > _ZEROPOINTS[1])]
    if wrong.size:
        raise UncalibratedImageError(
            f"the photometric calibration is a zeropoint of {wrong[0]:.4g} AB mag for one {calib.unit or 'unit'}; "
            f"{_ZEROPOINTS[0]:g} to {_ZEROPOINTS[1]:g} are allowed",
            path=path,
            fix=fix,
        )


def check_radius(
    radius: float, shape: tuple[int, int], origin: str, path: str | os.PathLike[str] | None = None
) -> None:
    """Refuse an aperture that is larger than the image, or smaller than any.

    Parameters
    ----------
    radius : float
        Pixels.
    shape : (int, int)
        Rows and columns of the image.
    origin : str
        Where the radius is from.
    path : path-like, optional
        The image, for messages.

    Raises
    ------
    CalibrationError
        If the radius is below 0.1 pixels, above 1000, or above the image's diagonal (and 100 pixels).
    """
    most = min(max(math.hypot(*shape), _ALWAYS_HELD), LARGEST_RADIUS)
    if not _LEAST_RADIUS <= radius <= most:
        raise CalibrationError(
            f"the aperture has a radius of {shown(radius)} pixels ({origin}); {_LEAST_RADIUS:g} to {most:.0f} are "
            f"allowed on an image of {shape[1]} x {shape[0]} pixels",
            path=path,
            key="aperture",
            fix="Correct it where it is from; it is the radius, not the area or the flux",
        )
