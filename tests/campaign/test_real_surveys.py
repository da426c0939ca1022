"""Campaigns on real images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import QTable

from skygraft.campaign import Campaign, parse_config
from skygraft.catalog import write_catalog
from skygraft.survey import index_images

pytestmark = pytest.mark.data


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_three_bands_of_the_legacy_surveys(data_dir: Path, tmp_path: Path) -> None:
    """DECam g, r, z of one field, listed by a CCD table: each band gets its own magnitudes."""
    root = data_dir / "decam_grz"
    before = tree(root)
    index = index_images({"ccds": "survey-ccds-1.fits.gz"}, root)
    ra, dec = float(np.mean(index["ra"])), float(np.mean(index["dec"]))
    rng = np.random.default_rng(2)
    n = 20
    fakes = QTable(
        {
            "injection_id": np.arange(n),
            "ra": ra + rng.uniform(-20, 20, n) / 3600,
            "dec": dec + rng.uniform(-20, 20, n) / 3600,
            "source_type": ["Star"] * n,
            "mag_g": np.full(n, 20.0),
            "mag_r": np.full(n, 19.0),
            "mag_z": np.full(n, 18.0),
        }
    )
    write_catalog(fakes, tmp_path / "fakes.ecsv")
    config = {
        "name": "legacy",
        "survey": {"root": str(root), "ccds": "survey-ccds-1.fits.gz"},
        "catalog": {"path": "fakes.ecsv"},
        "injection": {"noise": False},
        "margin_arcsec": 5,
        "output": "out",
    }
    campaign = Campaign(parse_config(config, base_dir=tmp_path))
    plan = campaign.plan()
    assert plan.problems == ()
    assert plan.bands == {"g": 1, "r": 1, "z": 1}
    assert [(use.kind, use.n_images) for use in plan.checks.uses] == [("psf_model", 3)]
    assert campaign.run(n_workers=0).ok
    assert tree(root) == before
    truth = pq.read_table(campaign.layout.truth).to_pylist()
    assert {(row["band"], row["mag"]) for row in truth} == {("g", 20.0), ("r", 19.0), ("z", 18.0)}
    for path in campaign.layout.records.rglob("*.json"):
        record = json.loads(path.read_text())
        assert "Legacy" in record["calibration"]["origin"]
        # Image, weight and data quality, named as the survey names them.
        names = [Path(name).name for name in record["outputs"]]
        assert any("_oow_" in name for name in names)
        assert any("_ood_" in name for name in names)
