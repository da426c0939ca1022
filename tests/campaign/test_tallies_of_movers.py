"""Objects with an ephemeris in the tables and in recovery: what is said of them adds up."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.table import Table

from kits.plain_images import write_plain_image
from skygraft.campaign import Campaign
from skygraft.qa.verify import verify_campaign

RA, DEC, START = 150.1, 2.2, 60100.0
HOURS = (0.0, 0.5, 1.0, 3.0)
"""Three times when the object is on the images, and one when it has left them."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    root = tmp_path_factory.mktemp("tallies")
    for i, hours in enumerate(HOURS):
        cards = {"EXPNUM": 500 + i, "MJD-AVG": START + hours / 24, "EXPTIME": 60.0}
        write_plain_image(root / f"raw/{i}.fits", RA, DEC, 128, seed=i, **cards)
    times = START + np.arange(-1.0, 5.0, 0.2) / 24
    way = {"id": np.full(len(times), 7), "mjd": times, "ra": RA + 8.0 * (times - START) * 24 / 3600}
    Table(way | {"dec": np.full(len(times), DEC), "mag_r": np.full(len(times), 17.0)}).write(root / "ephemerides.csv")
    fakes = {"injection_id": [1], "ra": [RA], "dec": [DEC + 6 / 3600], "source_type": ["Star"], "mag_r": [17.0]}
    Table(fakes).write(root / "fakes.csv")
    settings = {
        "name": "movers",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.csv", "ephemerides": "ephemerides.csv"},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    (root / "campaign.yaml").write_text(yaml.safe_dump(settings))
    campaign = Campaign.from_yaml(root / "campaign.yaml")
    assert campaign.run(n_workers=0).ok
    return campaign


def test_every_image_counts_for_the_piece_of_its_time(done: Campaign) -> None:
    rows = pq.read_table(done.layout.campaign_sources).to_pylist()
    moving = [row for row in rows if row["injection_id"] == 7]
    assert len(moving) > 3
    seen = [START + hours / 24 for hours in HOURS[:3]]
    for row in moving:
        inside = [t for t in seen if row["mjd_from"] <= t < row["mjd_to"]]
        assert row["n_drawn"] == row["n_drawn_r"] == len(inside)
        np.testing.assert_array_equal(row["first_mjd"], min(inside, default=np.nan))
    assert sum(row["n_drawn"] for row in moving) == 3
    (star,) = (row for row in rows if row["injection_id"] == 1)
    assert star["n_drawn"] == 4


def test_verify_adds_the_pieces_up(done: Campaign) -> None:
    found = verify_campaign(done, processes=1)
    assert [row for row in found.failures if row["check"] in ("primary", "tables")] == []
    table = pq.read_table(done.layout.campaign_sources)
    column = table.column_names.index("n_drawn")
    counts = table["n_drawn"].to_numpy().copy()
    counts[np.flatnonzero(table["injection_id"].to_numpy() == 7)[0]] += 1
    pq.write_table(table.set_column(column, table.schema.field(column), [counts]), done.layout.campaign_sources)
    notes = {row["check"]: row["note"] for row in verify_campaign(done, processes=1).failures}
    assert "injection_id 7 has 4, the truth 3" in notes["tables"]
