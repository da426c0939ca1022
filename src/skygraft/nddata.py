"""Exposures as astropy's `NDData` and `CCDData`, for software that works on these."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, VarianceUncertainty
from astropy.wcs import WCS

from skygraft.photometry.reference import CalibrationAperture
from skygraft.photometry.units import parse_unit
from skygraft.wcs.array_frame import array_wcs, fitted_wcs

if TYPE_CHECKING:
    from skygraft.exposure import Exposure

__all__ = ["to_ccddata", "to_nddata"]


def to_nddata(exposure: Exposure, bad: str | Iterable[str] | None = None) -> NDData:
    """Make an `~astropy.nddata.NDData` of an exposure; see `Exposure.to_nddata`.

    Parameters
    ----------
    exposure : Exposure
        The exposure.
    bad : str or iterable of str, optional
        Mask planes that make a pixel bad; see `Exposure.bad`.

    Returns
    -------
    NDData
    """
    return NDData(exposure.image.copy(), **_parts(exposure, bad))


def to_ccddata(exposure: Exposure, bad: str | Iterable[str] | None = None) -> CCDData:
    """Make a `~astropy.nddata.CCDData` of an exposure; see `Exposure.to_ccddata`.

    Parameters
    ----------
    exposure : Exposure
        The exposure.
    bad : str or iterable of str, optional
        Mask planes that make a pixel bad; see `Exposure.bad`.

    Returns
    -------
    CCDData
    """
    parts = _parts(exposure, bad)
    if not isinstance(parts["wcs"], WCS):
        parts["wcs"], parts["meta"]["WCSERR"] = fitted_wcs(exposure.wcs, exposure.xy0, exposure.shape)
    return CCDData(exposure.image.copy(), flags=exposure.mask.copy(), **parts)


def _parts(exposure: Exposure, bad: str | Iterable[str] | None) -> dict[str, Any]:
    variance = exposure.variance
    return {
        "uncertainty": None if variance is None else VarianceUncertainty(variance.copy()),
        "mask": exposure.bad(bad),
        "wcs": array_wcs(exposure.wcs, exposure.xy0),
        "unit": _unit(exposure),
        "meta": _meta(exposure),
    }


def _unit(exposure: Exposure) -> Any:
    """The image's unit as astropy's; dimensionless where astropy does not know it."""
    name = parse_unit(exposure.plain.units).name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            return u.Unit(name)
        except ValueError:
            return u.dimensionless_unscaled


def _meta(exposure: Exposure) -> dict[str, Any]:
    """What is known of the image, under FITS keywords that `skygraft.read_exposure` understands."""
    data_id, info, calib, gain = exposure.data_id, exposure.visit_info, exposure.photo_calib, exposure.gain
    meta: dict[str, Any] = {
        "INSTRUME": data_id.instrument,
        "EXPNUM": data_id.visit,
        "CCDNUM": data_id.detector,
        "TRACT": data_id.tract,
        "PATCH": data_id.patch,
        "FILTER": data_id.band,
        "TIMESYS": None if info.mjd is None else "TAI",
        "MJD-AVG": info.mjd,
        "EXPTIME": info.exposure_time,
        "GAIN": float(gain) if gain is not None and np.ndim(gain) == 0 else None,
        "MAGZERO": None if calib is None else float(calib.zeropoint(*exposure.box.center)),
        "LTV1": -exposure.xy0[0],
        "LTV2": -exposure.xy0[1],
    }
    reference = None if calib is None else calib.reference
    if isinstance(reference, CalibrationAperture):
        in_arcsec = reference.unit == "arcsec"
        meta["CALAPRAS" if in_arcsec else "CALAPRAD"] = (
            reference.radius_arcsec if in_arcsec else reference.radius_pixels
        )
    elif reference is not None:
        meta["CALAPREF"] = str(reference)
    return {key: value for key, value in meta.items() if value is not None}
