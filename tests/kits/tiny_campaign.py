"""A campaign of a few small images, for tests of how it is run and not of what it makes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import QTable

from kits.plain_images import write_plain_image
from skygraft.catalog import write_catalog

RA, DEC = 150.1, 2.2


def write_tiny_campaign(folder: Path, n_images: int = 4, **settings: Any) -> Path:
    """Write images, a catalogue of stars and the campaign's YAML file.

    Parameters
    ----------
    folder : Path
        Where to.
    n_images : int
        Number of images, all of the same piece of sky.
    **settings
        More for the YAML file.

    Returns
    -------
    Path
        The YAML file; its outputs go to ``folder / "out"``.
    """
    for i in range(n_images):
        write_plain_image(folder / f"raw/image-{i:03}.fits", RA, DEC, 100, seed=i, EXPNUM=500 + i)
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-8, 8, (2, 12)) / 3600
    stars = QTable(
        {
            "injection_id": np.arange(12),
            "ra": RA + offsets[0],
            "dec": DEC + offsets[1],
            "source_type": np.full(12, "Star"),
            "mag_r": rng.uniform(19, 22, 12),
        }
    )
    write_catalog(stars, folder / "fakes.parquet")
    content: dict[str, Any] = {
        "name": "tiny",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content | settings))
    return path


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every image that the campaign has made."""
    images = folder / "out" / "images"
    return {
        path.relative_to(images).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(images.rglob("*.fits"))
    }
