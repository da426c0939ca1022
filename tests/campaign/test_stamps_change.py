"""A campaign whose stamps change: the images that they are on are found, and made again if asked for; no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable

from kits.plain_images import write_plain_image
from kits.stamp_kit import Blobs, turned
from kits.tiny_campaign import checksums
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.errors import CampaignError

RA, DEC = 150.1, 2.2


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """Two images a tenth of a degree apart, each with a star, the first with a stamp too."""
    for i in range(2):
        write_plain_image(tmp_path / f"raw/image-{i}.fits", RA + 0.1 * i, DEC, 100, seed=i, EXPNUM=500 + i)
    Blobs(sigma=0.5).write(tmp_path / "stamp.fits", turned(0.2, 30.0), (60, 60))
    rows = QTable(
        {
            "injection_id": [1, 2, 3],
            "ra": [RA, RA + 0.1, RA + 3e-4],
            "dec": [DEC] * 3,
            "source_type": ["Star", "Star", "Stamp"],
            "stamp": ["", "", "stamp.fits"],
            "mag_r": [20.0, 20.0, 18.0],
        }
    )
    write_catalog(rows, tmp_path / "fakes.parquet")
    content = {
        "name": "tiny",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(tmp_path / "campaign.yaml")


def test_a_changed_stamp_makes_its_images_again(campaign: Campaign, tmp_path: Path) -> None:
    campaign.plan()
    assert campaign.run(n_workers=0).n_done == 2
    before = checksums(tmp_path)
    campaign.plan()
    assert campaign.run(n_workers=0).n_skipped == 2
    fits.writeto(tmp_path / "stamp.fits", np.ones((31, 31)), overwrite=True)
    campaign.plan()
    with pytest.raises(CampaignError, match=r"1 images .* made from something else"):
        campaign.run(n_workers=0)
    summary = campaign.run(n_workers=0, redo=True)
    assert (summary.n_done, summary.n_skipped) == (1, 1)
    after = checksums(tmp_path)
    changed = sorted(name for name in after if after[name] != before[name])
    assert changed == [name for name in after if "image-0" in name]


def test_an_image_says_truthfully_which_stamp_it_was_made_with(campaign: Campaign, tmp_path: Path) -> None:
    """One that changed after planning is what the image's key is of."""
    campaign.plan()
    fits.writeto(tmp_path / "stamp.fits", np.ones((31, 31)), overwrite=True)
    assert campaign.run(n_workers=0).n_done == 2
    campaign.plan()
    assert campaign.run(n_workers=0).n_skipped == 2
