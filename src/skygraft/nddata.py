"""Exposures as astropy's `NDData` and `CCDData`, for software that works on these."""

from __future__ import annotations

import warnings
from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData, VarianceUncertainty
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.data_id import DataId, VisitInfo
from skygraft.photometry.photo_calib import PhotoCalib
from skygraft.photometry.reference import CalibrationAperture
from skygraft.photometry.units import parse_unit
from skygraft.planes import Planes
from skygraft.psf.base import Box
from skygraft.wcs.array_frame import array_wcs, fitted_wcs

__all__ = ["keywords", "to_ccddata", "to_nddata"]


def to_nddata(planes: Planes, wcs: BaseLowLevelWCS, bad: NDArray[np.bool_], meta: dict[str, Any]) -> NDData:
    """Make an `~astropy.nddata.NDData` of an image; see `Exposure.to_nddata`.

    Parameters
    ----------
    planes : Planes
        The pixels.
    wcs : BaseLowLevelWCS
        Parent pixels to sky.
    bad : ndarray of bool, shape (ny, nx)
        Pixels to leave out.
    meta : dict
        See `keywords`.

    Returns
    -------
    NDData
    """
    return NDData(planes["image"].copy(), **_parts(planes, wcs, bad, meta))


def to_ccddata(planes: Planes, wcs: BaseLowLevelWCS, bad: NDArray[np.bool_], meta: dict[str, Any]) -> CCDData:
    """Make a `~astropy.nddata.CCDData` of an image; see `Exposure.to_ccddata`.

    Parameters
    ----------
    planes, wcs, bad, meta
        As of `to_nddata`.

    Returns
    -------
    CCDData
    """
    parts = _parts(planes, wcs, bad, meta)
    if not isinstance(parts["wcs"], WCS):
        parts["wcs"], parts["meta"]["WCSERR"] = fitted_wcs(wcs, planes.xy0, planes.shape)
    return CCDData(planes["image"].copy(), flags=planes["mask"].copy(), **parts)


def _parts(planes: Planes, wcs: BaseLowLevelWCS, bad: NDArray[np.bool_], meta: dict[str, Any]) -> dict[str, Any]:
    variance = planes.get("variance")
    return {
        "uncertainty": None if variance is None else VarianceUncertainty(variance.copy()),
        "mask": bad,
        "wcs": array_wcs(wcs, planes.xy0),
        "unit": _unit(planes),
        "meta": meta | {"LTV1": -planes.xy0[0], "LTV2": -planes.xy0[1]},
    }


def _unit(planes: Planes) -> Any:
    """The image's unit as astropy's; dimensionless where astropy does not know it."""
    name = parse_unit(planes.units).name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            return u.Unit(name)
        except ValueError:
            return u.dimensionless_unscaled


def keywords(
    data_id: DataId,
    info: VisitInfo,
    calib: PhotoCalib | None,
    gain: float | NDArray[np.float32] | None,
    box: Box,
) -> dict[str, Any]:
    """Collect what is known of an image under FITS keywords that `skygraft.read_exposure` understands.

    Parameters
    ----------
    data_id : DataId
        Which image it is.
    info : VisitInfo
        When it was taken.
    calib : PhotoCalib or None
        Its zeropoint, taken at the centre of `box`, and aperture.
    gain : float, ndarray or None
        Electrons per image unit; left out if it is a map.
    box : Box
        The image's edges in parent pixels.

    Returns
    -------
    dict
        Keywords and values, without those that are not known.
    """
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
        "MAGZERO": None if calib is None else float(calib.zeropoint(*box.center)),
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
