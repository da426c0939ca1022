"""Two small campaigns of one catalogue: science images, and templates with other pixels, seeing and zeropoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import QTable

from kits.plain_images import SCALE, plain_header
from kits.views_kit import rotated
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog

RA, DEC = 150.1, 2.2
SIZE = 300
TRANSIENTS, STARS, VARIABLE = (1, 2), (3, 4), 5
MAG = 19.0
RADIUS = 4.0
"""Of the calibration aperture, pixels: it holds another part of the light in each campaign."""
SCIENCE_FWHM, TEMPLATE_FWHM = 0.8, 1.2


def make_catalog() -> QTable:
    """Transients in science images only, constant stars, a variable star as a pair of twins, and a far transient."""
    dx = np.array([-14.3, 13.1, -12.2, 14.4, 0.3, 0.3, 40.0])
    dy = np.array([-13.4, 12.9, 14.7, -13.8, 0.2, 0.2, 0.0])
    return QTable(
        {
            "injection_id": [1, 2, 3, 4, 5, 6, 7],
            "object_id": [1, 2, 3, 4, 5, 5, 7],
            "ra": RA + dx / 3600 / np.cos(np.radians(DEC)),
            "dec": DEC + dy / 3600,
            "source_type": ["Star"] * 7,
            "mag_r": [MAG, MAG + 2, MAG, MAG - 2, MAG, MAG + 1, MAG],
            "inject_into": ["science", "science", "both", "", "science", "template", "science"],
        }
    )


def write_image(path: Path, ra: float, dec: float, size: int, *, noise: float, seed: int, **cards: Any) -> None:
    pixels = 100.0 + noise * np.random.default_rng(seed).normal(size=(size, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(pixels.astype(np.float32), plain_header(ra, dec, size, **cards)).writeto(path)


def write_campaign(folder: Path, name: str, fwhm: float, role: str) -> Path:
    content = {
        "name": name,
        "survey": {
            "images": f"{name}/*.fits",
            "role": role,
            "calibration": {"psf": {"kind": "gaussian", "fwhm": f"{fwhm} arcsec"}},
        },
        "catalog": {"path": "fakes.parquet"},
        "injection": {"seed": 3, "noise": False, "flux_tolerance": 1e-4},
        "output": f"out-{name}",
        "margin_arcsec": 5.0,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    assert Campaign.from_yaml(path).run(n_workers=0).ok
    return path


def write_pair(folder: Path, *, noise: float = 0.0) -> tuple[Path, Path]:
    """Write and run both campaigns; the YAML files of science images and templates."""
    write_catalog(make_catalog(), folder / "fakes.parquet")
    for k in range(2):
        turned = rotated(15.0 * k)
        write_image(
            folder / f"science/{k}.fits", RA + k / 3600, DEC, SIZE, noise=noise, seed=k, EXPNUM=10 + k, **turned
        )
    # Larger pixels, turned and mirrored, and a zeropoint 1.3 mag brighter.
    c, s = 1.1 * SCALE / 3600 * np.cos(0.7), 1.1 * SCALE / 3600 * np.sin(0.7)
    write_image(
        folder / "templates/0.fits", RA - 1 / 3600, DEC + 1 / 3600, SIZE + 100, noise=noise, seed=9, EXPNUM=90,
        MAGZERO=28.3, CALAPRAD=RADIUS, CD1_1=c, CD1_2=s, CD2_1=-s, CD2_2=c,
    )  # fmt: skip
    return write_campaign(folder, "science", SCIENCE_FWHM, "science"), write_campaign(
        folder, "templates", TEMPLATE_FWHM, "template"
    )
