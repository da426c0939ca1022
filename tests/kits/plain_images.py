"""An ordinary calibrated FITS image for tests: TAN, 0.2 arcsec pixels, zeropoint 27 in 12 pixels, noise of 5 counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

SCALE = 0.2
MJD = 60000.0


def plain_header(ra: float, dec: float, size: int, **cards: Any) -> fits.Header:
    """Its header, centred on (ra, dec) degrees; a card given as None is left out."""
    header = fits.Header(
        {
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": ra,
            "CRVAL2": dec,
            "CRPIX1": (size + 1) / 2,
            "CRPIX2": (size + 1) / 2,
            "CD1_1": -SCALE / 3600,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": SCALE / 3600,
            "RADESYS": "ICRS",
            "MAGZERO": 27.0,
            "GAIN": 2.0,
            "EXPTIME": 100.0,
            "MJD-AVG": MJD,
            "TIMESYS": "TAI",
            "FILTER": "r",
            "INSTRUME": "testcam",
            "EXPNUM": 77,
            "CCDNUM": 1,
            "CALAPRAD": 12.0,
        }
    )
    for key, value in cards.items():
        if value is None:
            header.remove(key)
        else:
            header[key] = value
    return header


def write_plain_image(
    path: Path, ra: float, dec: float, size: int, *, seed: int = 1, sky: float = 0.0, **cards: Any
) -> Path:
    """Write it, its noise from `seed`; the folder is made."""
    pixels = np.random.default_rng(seed).normal(sky, 5.0, (size, size)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(pixels, plain_header(ra, dec, size, **cards)).writeto(path, overwrite=True)
    return path
