"""A small exposure whose PSF may get wings."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.photometry import CalibrationAperture, PhotoCalib
from skygraft.psf import MoffatPSF
from skygraft.wcs import read_fits_wcs

SCALE = 0.2
ZEROPOINT = 27.0
POWER = {"model": "power_law", "alpha": 3.0, "join": "20 pix", "blend": "7 pix", "outer": "100 pix"}


def exposure(reference=None, *, shape=(241, 251), variance=100.0, xy0=(0, 0), psf=None, scale=SCALE, **changes):
    """An empty image of `shape` pixels, calibrated to an aperture of 12 pixels unless another reference is given."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cd = scale / 3600 * np.array([[-1.0, 0.0], [0.0, 1.0]])
    header: fits.Header = wcs.to_header()
    reference = reference or CalibrationAperture(12.0, 12.0 * scale, "test")
    parts = {
        "planes": make_planes(
            np.zeros(shape, np.float32), np.full(shape, variance, np.float32), mask_planes={"BAD": 0}, xy0=xy0
        ),
        "wcs": read_fits_wcs(header, xy0=xy0),
        "psf": psf or MoffatPSF(fwhm=4.5, beta=3.0, shape=(61, 61)),
        "photo_calib": PhotoCalib.from_zeropoint(ZEROPOINT, reference=reference, reference_origin="test"),
        "data_id": DataId("TestCam", 12, 3, band="r"),
        "visit_info": VisitInfo(60000.0, 30.0),
        "gain": 2.0,
        "gain_origin": "test",
    }
    return Exposure(**{**parts, **changes})


def catalog_at(exp, x, y, mag, source_type="Star", **columns) -> Table:
    """Sources at pixels."""
    x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    ra, dec = exp.wcs.pixel_to_world_values(x, y)
    table = {
        "injection_id": np.arange(len(x)) + 100,
        "ra": ra,
        "dec": dec,
        "source_type": np.full(len(x), source_type),
        "mag_r": np.broadcast_to(np.asarray(mag, float), x.shape).copy(),
    }
    table |= {name: np.broadcast_to(value, x.shape).copy() for name, value in columns.items()}
    return Table(table)


def flux_of(mag) -> float:
    """Image units of a magnitude."""
    return 10 ** (-0.4 * (float(mag) - ZEROPOINT))
