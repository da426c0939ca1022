"""A small campaign whose stars lie where the tests know: three bands of one place, another image, and a coadd."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.table import QTable

from kits.made_once import made_once
from kits.plain_images import SCALE, write_plain_image
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog

RA, DEC = 150.1, 2.2
SIZE = 220
BANDS = {"g": 501, "r": 502, "i": 503}
FAR = (150.16, 2.25)


def rotated(angle: float) -> dict[str, float]:
    """Cards of the CD matrix, turned by some degrees."""
    c, s = SCALE / 3600 * np.cos(np.radians(angle)), SCALE / 3600 * np.sin(np.radians(angle))
    return {"CD1_1": -c, "CD1_2": s, "CD2_1": s, "CD2_2": c}


def make_catalog() -> QTable:
    """Stars on a loose grid, of which number 5 is in the middle and alone; galaxies; some stars on the far image."""
    places = [(dx, dy) for dy in (-14, 0, 14) for dx in (-14, 0, 14)]
    n = len(places)
    galaxy = np.array([k in (1, 6) for k in range(n)] + [False] * 3)
    ra = [RA + dx / 3600 / np.cos(np.radians(DEC)) for dx, _ in places] + [FAR[0] + d / 3600 for d in (-6, 0, 6)]
    dec = [DEC + dy / 3600 for _, dy in places] + [FAR[1] + d / 3600 for d in (5, -5, 2)]
    mags = np.array([19.5, 18.5, 20.0, 21.0, 17.5, 20.5, 19.0, 22.0, 21.5, 18.0, 19.0, 20.0])
    return QTable(
        {
            "injection_id": np.arange(1, n + 4),
            "ra": ra,
            "dec": dec,
            "source_type": np.where(galaxy, "Sersic", "Star"),
            "mag_g": mags + 0.5,
            "mag_r": mags,
            "mag_i": mags - 0.2,
            "n": np.where(galaxy, 1.0, np.nan),
            "half_light_radius": np.where(galaxy, 0.8, np.nan),
            "q": np.where(galaxy, 0.5, np.nan),
            "pa": np.where(galaxy, 30.0, np.nan),
        }
    )


def write_survey(folder: Path) -> Path:
    for k, (band, visit) in enumerate(BANDS.items()):
        write_plain_image(
            folder / f"raw/{band}.fits", RA + (k + 0.37) / 3600, DEC - (k + 0.21) / 3600, SIZE, seed=k, sky=100.0,
            EXPNUM=visit, FILTER=band, **rotated(20.0 * k),
        )  # fmt: skip
    write_plain_image(folder / "raw/far.fits", *FAR, SIZE, seed=9, sky=100.0, EXPNUM=502, CCDNUM=2, FILTER="r")
    write_catalog(make_catalog(), folder / "fakes.parquet")
    content = {
        "name": "small",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "skymap": {
            "kind": "explicit",
            "tracts": [
                {"ra": RA, "dec": DEC, "pixel_scale": SCALE, "size": 4000, "patches": [4, 4], "border": 50},
            ],
        },
        "injection": {"seed": 3},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML file of the campaign, which has been run; not to be changed."""

    def make(folder: Path) -> None:
        assert Campaign.from_yaml(write_survey(folder)).run(n_workers=0).ok

    return made_once(tmp_path_factory, "views-campaign", make) / "campaign.yaml"


@pytest.fixture
def campaign(made: Path) -> Campaign:
    return Campaign.from_yaml(made)


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The YAML file of a copy of it that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(made.parent, folder)
    # The output folder names the survey by its whole path.
    config = folder / "out" / "campaign.yaml"
    config.write_text(config.read_text().replace(str(made.parent), str(folder)))
    return folder / "campaign.yaml"
