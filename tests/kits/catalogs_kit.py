"""A campaign on an image with real stars, and Source Extractor's own catalogues of it before and after injection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import QTable

from kits.plain_images import SCALE, plain_header
from skygraft.campaign import Campaign
from skygraft.campaign.pairs import ImagePair, read_pair
from skygraft.catalog import write_catalog

RA, DEC, SIZE, FWHM = 150.1, 2.2, 400, 4.0
SEX = shutil.which("source-extractor") or shutil.which("sex")
"""Source Extractor, where it is installed."""
SEX_SETUP = Path("/usr/share/source-extractor")
COLUMNS = (
    "NUMBER", "X_IMAGE", "Y_IMAGE", "ALPHA_J2000", "DELTA_J2000", "MAG_AUTO", "MAGERR_AUTO", "FLUX_AUTO",
    "FLUXERR_AUTO", "FLUX_APER(3)", "FLUXERR_APER(3)", "MAG_APER(3)", "FLUX_RADIUS", "FWHM_IMAGE", "FLAGS",
    "CLASS_STAR", "ELONGATION", "THETA_IMAGE", "THETA_J2000",
)  # fmt: skip


def write_star_campaign(folder: Path, n: int = 60) -> Campaign:
    """Write an image with 20 real stars and a campaign that injects `n` stars and galaxies on a grid.

    The first fake lies on the first real star, which is brighter.
    """
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIZE, :SIZE]
    pixels = rng.normal(100.0, 5.0, (SIZE, SIZE))
    places = rng.uniform(30, SIZE - 30, (20, 2))
    sigma = FWHM / 2.3548
    for px, py in places:
        pixels += 20000.0 / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / sigma**2)
    path = folder / "raw" / "field_1.fits"
    path.parent.mkdir(parents=True)
    fits.PrimaryHDU(pixels.astype(np.float32), plain_header(RA, DEC, SIZE)).writeto(path)
    side = int(np.ceil(np.sqrt(n)))
    grid = np.stack(np.meshgrid(np.linspace(25, SIZE - 25, side), np.linspace(25, SIZE - 25, side)), -1).reshape(-1, 2)
    grid = grid[:n] + rng.uniform(-2, 2, (n, 2))
    grid[0] = places[0]
    star = np.arange(n) % 3 != 0
    middle = (SIZE - 1) / 2
    table = QTable(
        {
            "injection_id": np.arange(100, 100 + n),
            "ra": RA - (grid[:, 0] - middle) * SCALE / 3600 / np.cos(np.radians(DEC)),
            "dec": DEC + (grid[:, 1] - middle) * SCALE / 3600,
            "source_type": np.where(star, "Star", "Sersic"),
            "mag_r": np.where(np.arange(n) == 0, 20.0, rng.uniform(17.5, 22.5, n)),
            "n": np.where(star, np.nan, 1.0),
            "half_light_radius": np.where(star, np.nan, 0.6),
            "q": np.where(star, np.nan, 0.5),
            "pa": np.where(star, np.nan, 30.0),
        }
    )
    write_catalog(table, folder / "fakes.parquet")
    content = {
        "name": "stars",
        "survey": {
            "images": "raw/*.fits",
            "calibration": {"psf": {"kind": "moffat", "fwhm": f"{FWHM * SCALE} arcsec"}},
        },
        "catalog": {"path": "fakes.parquet"},
        "injection": {"seed": 1},
        "output": "out",
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(folder / "campaign.yaml")


def pair_of(campaign: Campaign) -> ImagePair:
    from skygraft.campaign import read_plan

    return read_pair(campaign.config, read_plan(campaign.layout.plan)[0])


def run_sextractor(
    image: Path, out: Path, kind: str = "FITS_LDAC", *, columns: Sequence[str] = COLUMNS, **settings: object
) -> Path:
    """Run Source Extractor with its default settings, but for those given."""
    assert SEX is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / "columns.param").write_text("\n".join(columns))
    (out.parent / "empty.sex").write_text("")
    given = {
        "PARAMETERS_NAME": "columns.param",
        "FILTER_NAME": SEX_SETUP / "default.conv",
        "STARNNW_NAME": SEX_SETUP / "default.nnw",
        "CATALOG_TYPE": kind,
        "CATALOG_NAME": out.name,
        "PHOT_APERTURES": "6,12,24",
        "MAG_ZEROPOINT": 27.0,
        "PIXEL_SCALE": 0,
        "SEEING_FWHM": FWHM * SCALE,
        "GAIN_KEY": "GAIN",
        "VERBOSE_TYPE": "QUIET",
        **settings,
    }
    options = [text for key, value in given.items() for text in (f"-{key}", str(value))]
    subprocess.run([SEX, str(image), "-c", "empty.sex", *options], cwd=out.parent, check=True, capture_output=True)
    return out
