"""Light of the extended wings of injected stars in the apertures of others."""

from __future__ import annotations

import math

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions
from skygraft.injection.calibrating import aperture_radius
from skygraft.injection.winged import WingedImage

__all__ = ["core_sizes", "light_of_wings"]

_AT_ONCE = 256


def core_sizes(exposure: Exposure, options: InjectionOptions, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sides of stamps without the extended wings, where there are some.

    Parameters
    ----------
    exposure : Exposure
        The image before injection.
    options : InjectionOptions
        How it was injected.
    sizes : ndarray of int
        Sides of the stamps of stars, pixels.

    Returns
    -------
    ndarray of int
    """
    if options.wings is None or exposure.psf is None:
        return sizes
    return np.minimum(sizes, 2 * math.ceil(_image(exposure, options).wings.join) + 1)


def light_of_wings(
    exposure: Exposure,
    options: InjectionOptions,
    truth: Table,
    stars: NDArray[np.bool_],
    rows: NDArray[np.intp],
    radius: float,
) -> NDArray[np.float64]:
    """Compute the flux that the wings of other stars leave in apertures.

    Parameters
    ----------
    exposure : Exposure
        The image before injection.
    options : InjectionOptions
        How it was injected.
    truth : Table
        Its truth.
    stars : ndarray of bool
        Rows of the truth that count.
    rows : ndarray of int, shape (M,)
        Rows at which the apertures are.
    radius : float
        Of the apertures, pixels.

    Returns
    -------
    ndarray of float64, shape (M,)
        Image units; zeros without wings.

    Notes
    -----
    The mean over an aperture is that of seven places, which is exact for polynomials up to the fifth degree.
    """
    if options.wings is None or exposure.psf is None or not len(rows):
        return np.zeros(len(rows))
    image = _image(exposure, options)
    lit = np.flatnonzero(stars & np.isfinite(_plain(truth["kernel_scale"])))
    x, y = _plain(truth["x"]), _plain(truth["y"])
    amplitude = _plain(truth["inst_flux"])[lit] * _plain(truth["kernel_scale"])[lit]
    amplitude = amplitude * image.amplitudes(x[lit], y[lit])
    reach = 0.5 * _plain(truth["stamp_size"])[lit]
    angle = np.arange(6) * np.pi / 3
    ring = radius * math.sqrt(2.0 / 3.0)
    places = [(0.0, 0.0, 0.25), *((ring * math.cos(t), ring * math.sin(t), 0.125) for t in angle)]
    found = np.zeros(len(rows))
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        for dx, dy, weight in places:
            r = np.hypot(x[some, None] + dx - x[lit], y[some, None] + dy - y[lit])
            light = np.where(r <= reach, image.wings.light(r), 0.0)
            light[some[:, None] == lit] = 0.0
            found[start : start + _AT_ONCE] += weight * np.pi * radius**2 * (light @ amplitude)
    return found


def _image(exposure: Exposure, options: InjectionOptions) -> WingedImage:
    calib = exposure.photo_calib
    return WingedImage(
        exposure, options, None if calib is None else calib.reference, aperture_radius(exposure, options)
    )


def _plain(column: object) -> NDArray[np.float64]:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)
