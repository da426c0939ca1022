"""Photon noise of one source as the package draws it, and what it adds to the variance plane."""

from __future__ import annotations

from typing import Any

import galsim
import numpy as np

from skygraft.exposure import COADD_INPUTS, Exposure
from skygraft.noise import stream_key

__all__ = ["is_coadd", "seed_of", "with_noise"]


def is_coadd(exposure: Exposure) -> bool:
    """Tell whether the package takes an image for a coadd: by its CoaddInputs, or its data id where a format has none.

    Parameters
    ----------
    exposure : Exposure
        The image.

    Returns
    -------
    bool
    """
    known = exposure.extra.get(COADD_INPUTS)
    if known is not None:
        return bool(known)
    data_id = exposure.data_id
    return data_id.visit is None and data_id.tract is not None and data_id.patch is not None


def seed_of(seed: int, n_before: int, image_id: str) -> int:
    """Give the seed of one source: one more with each source drawn before it.

    Zero is random for GalSim, so that the package's noise of that one source cannot be had again; here it is a number
    that depends on the image.

    Parameters
    ----------
    seed : int
        Of the injection.
    n_before : int
        Sources drawn before this one.
    image_id : str
        Name of the image.

    Returns
    -------
    int
    """
    return (seed + n_before) or 1 + stream_key(0, image_id)[0]


def with_noise(flux: Any, inverse_gain: Any, seed: int, *, coadd: bool) -> tuple[Any, Any]:
    """Draw the photon noise of a source, and compute the variance that it adds.

    Parameters
    ----------
    flux : galsim.Image
        Expected flux, image units, single precision.
    inverse_gain : galsim.Image
        Image units per electron, of the same bounds.
    seed : int
        Of its random numbers.
    coadd : bool
        Gaussian noise of the expected variance, as for coadds, instead of Poisson numbers.

    Returns
    -------
    flux, variance : galsim.Image

    Notes
    -----
    With g the gain and F the flux of a pixel, Poisson numbers are drawn with mean F / g, not g F, and multiplied by g,
    not divided by it: their variance g F is g^2 times that of the photons, F / g. The variance plane gets the Poisson
    numbers themselves; for a coadd, the noisy flux over g.
    """
    expected = flux.copy()
    expected *= inverse_gain
    drawable = expected.copy()
    unfit = ~(np.isfinite(expected.array) & (expected.array >= 0))
    drawable.array[unfit] = 0.0
    random = galsim.BaseDeviate(seed)
    if coadd:
        noisy = flux.copy()
        noisy.addNoise(galsim.VariableGaussianNoise(random, drawable))
        variance = noisy.copy()
        variance *= inverse_gain
        return noisy, variance
    drawable.addNoise(galsim.PoissonNoise(random))
    noisy = drawable.copy()
    noisy /= inverse_gain
    variance = drawable
    variance.array[unfit] = expected.array[unfit]
    return noisy, variance
