"""A campaign on two images with real stars and galaxies, for tests from the command line to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import QTable
from numpy.typing import NDArray

from kits.growth_kit import moffat
from kits.plain_images import SCALE, plain_header
from skygraft.catalog import write_catalog

RA, DEC, SIZE = 150.1, 2.2, 700
RADIUS = 12.0
"""Of the calibration aperture, pixels."""
_BOX = 60


def _add(pixels: NDArray[np.float64], x: float, y: float, light: NDArray[np.float64]) -> None:
    """Add a stamp of 2 * _BOX + 1 pixels, centred on the pixel of (x, y)."""
    column, row = round(x), round(y)
    low = max(row - _BOX, 0), max(column - _BOX, 0)
    high = min(row + _BOX + 1, SIZE), min(column + _BOX + 1, SIZE)
    part = light[low[0] - row + _BOX : high[0] - row + _BOX, low[1] - column + _BOX : high[1] - column + _BOX]
    pixels[low[0] : high[0], low[1] : high[1]] += part


def write_field(path: Path, seed: int, **cards: Any) -> None:
    """An image with 12 bright and 40 faint real stars, and 25 galaxies (exponential disks)."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100.0, 5.0, (SIZE, SIZE))
    stamp = 2 * _BOX + 1
    bright = np.stack(np.meshgrid([100, 270, 430, 600], [120, 350, 580]), -1).reshape(-1, 2) + rng.uniform(
        -8, 8, (12, 2)
    )
    faint, disks = rng.uniform(20, SIZE - 20, (40, 2)), rng.uniform(20, SIZE - 20, (25, 2))
    fluxes = np.concatenate([10 ** rng.uniform(5.0, 5.6, 12), 10 ** rng.uniform(2.5, 4.0, 40)])
    for (x, y), flux in zip(np.concatenate([bright, faint]), fluxes, strict=True):
        _add(pixels, x, y, flux * moffat((stamp, stamp), _BOX + x - round(x), _BOX + y - round(y)))
    dy, dx = np.mgrid[-_BOX : _BOX + 1, -_BOX : _BOX + 1]
    for x, y in disks:
        scale, q = rng.uniform(2, 5), rng.uniform(0.4, 1)
        profile = np.exp(-np.hypot(dx, dy / q) / scale)
        _add(pixels, x, y, 10 ** rng.uniform(3, 4) * profile / profile.sum())
    path.parent.mkdir(parents=True, exist_ok=True)
    header = plain_header(RA, DEC, SIZE, CALAPRAD=RADIUS, **cards)
    fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(path)


def make_fakes(side: int = 13) -> QTable:
    """Stars and galaxies in turn on a jittered grid of 10 arcsec; every twelfth is a bright star."""
    rng = np.random.default_rng(8)
    grid = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 2), -1).reshape(-1, 2)
    at = (grid * 10.0 + rng.uniform(-1.5, 1.5, grid.shape)) / 3600
    n = len(at)
    bright = np.arange(n) % 12 == 0
    star = bright | (rng.random(n) < 0.5)
    mag = np.where(bright, rng.uniform(15.0, 16.0, n), rng.uniform(17.5, 23.0, n))
    return QTable(
        {
            "injection_id": np.arange(n) + 1000,
            "ra": RA + at[:, 0] / np.cos(np.radians(DEC)),
            "dec": DEC + at[:, 1],
            "source_type": np.where(star, "Star", "Sersic"),
            "mag_r": mag,
            "n": np.where(star, np.nan, 1.0),
            "half_light_radius": np.where(star, np.nan, rng.uniform(0.3, 0.7, n)),
            "q": np.where(star, np.nan, rng.uniform(0.4, 1.0, n)),
            "pa": np.where(star, np.nan, rng.uniform(0, 180, n)),
        }
    )


def write_field_campaign(folder: Path, n_images: int = 2, **settings: Any) -> Path:
    """Write images, catalogue and configuration; gives the path of the latter. Outputs go to ``folder / "out"``."""
    for i in range(n_images):
        write_field(folder / f"raw/field_{i}.fits", 10 + i, EXPNUM=500 + i)
    write_catalog(make_fakes(), folder / "fakes.parquet")
    content: dict[str, Any] = {
        "name": "field",
        "survey": {
            "images": "raw/*.fits",
            "calibration": {"psf": {"kind": "moffat", "fwhm": f"{4 * SCALE} arcsec", "beta": 3.0}},
        },
        "catalog": {"path": "fakes.parquet"},
        "injection": {"seed": 5},
        "output": "out",
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content | settings))
    return path
