"""Planes of cubes that hold PSFs of several wavelengths, and choosing one of them.

poppy's ``calc_datacube``, which STPSF and WebbPSF have for integral field units, makes each extension of a stamp a
cube with a plane for each wavelength, given in metres by ``WAVELN00``, ``WAVELN01``, ...; from a hundred planes on by
``WVLN0000``, .... A stamp over a filter has one image, and as many weights, ``WGHT0`` and following.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError

__all__ = ["choose_plane", "plane_wavelengths", "wavelength_in_metres"]

_WAVELENGTH = re.compile(r"(?:WAVELN\d{2}|WVLN\d{4})$")


def plane_wavelengths(header: Mapping[str, Any], n: int) -> NDArray[np.float64] | None:
    """Give the wavelengths of a cube's planes, metres, shape (n,); None if the header has no n of them.

    Parameters
    ----------
    header : mapping
        The cube's header.
    n : int
        Its planes.

    Returns
    -------
    ndarray, or None
    """
    keys = sorted(key for key in header if _WAVELENGTH.match(str(key)))
    try:
        found = np.array([float(header[key]) for key in keys])
    except (TypeError, ValueError):
        return None
    return found if len(found) == n and np.isfinite(found).all() and (found > 0).all() else None


def wavelength_in_metres(value: Any) -> float:
    """Convert a wavelength with a unit, such as ``"4.44 um"``, to metres.

    Parameters
    ----------
    value : str or Quantity
        The wavelength.

    Returns
    -------
    float

    Raises
    ------
    ConfigError
        If it is no length above zero.
    """
    from astropy import units as u

    try:
        metres = float(u.Quantity(value).to_value(u.m))
    except (TypeError, ValueError, u.UnitsError):
        metres = np.nan
    if not 0 < metres < np.inf:
        raise ConfigError(
            f"wavelength is {value!r}", key="psf.wavelength", fix="Give a length with its unit, such as 4.44 um"
        )
    return metres


def choose_plane(
    header: Mapping[str, Any], n: int, plane: int | None, wavelength: Any
) -> tuple[int | None, str, str | None, str]:
    """Choose a plane of a cube.

    Parameters
    ----------
    header : mapping
        The cube's header.
    n : int
        Its planes.
    plane : int or None
        The plane that is asked for, counted from 0.
    wavelength : str, Quantity or None
        The wavelength that is asked for.

    Returns
    -------
    plane : int or None
        None where the cube has no wavelengths and no plane is asked for: it is no datacube. -1 if there is an error.
    what : str
        What it is, for descriptions.
    key : str or None
        The setting that an error is about.
    problem : str
        What is wrong, or nothing.
    """
    known = plane_wavelengths(header, n)
    text = "" if known is None else ", ".join(f"{1e6 * one:.4g}" for one in known[:6]) + (", ..." if n > 6 else "")
    has = f"planes 0 to {n - 1}" + (f", of {text} micrometres" if text else "")
    if plane is not None:
        if not 0 <= plane < n:
            return -1, "", "plane", f"plane is {plane}; the cube has {has}"
        at = "" if known is None else f" ({1e6 * known[plane]:.4g} micrometres)"
        return plane, f"plane {plane}{at} of", None, ""
    if wavelength is None:
        if known is None:
            return None, "", None, ""
        if n == 1:
            return 0, f"{1e6 * known[0]:.4g} micrometres of", None, ""
        return -1, "", "wavelength", f"the cube holds PSFs of several wavelengths: {has}"
    if known is None:
        return -1, "", "wavelength", f"the cube says no wavelengths of its planes (WAVELN00, ...); it has {has}"
    metres = wavelength_in_metres(wavelength)
    nearest = int(np.abs(known - metres).argmin())
    others = np.abs(np.delete(known, nearest) - known[nearest])
    allowed = 0.5 * float(others.min()) if len(others) and others.min() > 0 else 0.01 * float(known[nearest])
    if abs(float(known[nearest]) - metres) > 1.000001 * allowed:
        return -1, "", "wavelength", f"no plane of the cube is of {1e6 * metres:.4g} micrometres; it has {has}"
    return nearest, f"plane {nearest} ({1e6 * known[nearest]:.4g} micrometres) of", None, ""
