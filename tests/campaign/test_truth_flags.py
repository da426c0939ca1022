"""What a whole campaign says of sources near the edges of its images, from FITS files to the truth tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable

from kits.plain_images import SCALE, write_plain_image
from skygraft import read_exposure
from skygraft.campaign import Campaign
from skygraft.catalog import Flag, write_catalog
from skygraft.errors import CatalogError

RA, DEC, SIZE = 150.1, 0.0, 200


def write_campaign(folder: Path, stars: dict[str, Any], **settings: Any) -> Campaign:
    """Two CCDs of one visit, 200 pixels wide, that adjoin: the second begins where the first ends."""
    for number, first in ((1, SIZE + 0.5), (2, 0.5)):
        write_plain_image(
            folder / f"raw/ccd{number}.fits", RA, DEC, SIZE, seed=number, EXPNUM=7, CCDNUM=number, CRPIX1=first
        )
    write_catalog(QTable(stars), folder / "fakes.parquet")
    content = {
        "name": "edges",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
        "margin_arcsec": 15.0,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content | settings))
    return Campaign.from_yaml(folder / "campaign.yaml")


def star_at(x: float) -> dict[str, Any]:
    """A star of magnitude 18 at pixel x of the second CCD; x grows to the West."""
    return {
        "injection_id": [1],
        "ra": [RA - (x + 0.5) * SCALE / 3600],
        "dec": [DEC],
        "source_type": ["Star"],
        "mag_r": [18.0],
    }


def truth_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [row for path in (folder / "out/truth").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["detector"]: row for row in rows}


def test_the_primary_row_is_of_the_ccd_that_holds_the_star(tmp_path: Path) -> None:
    assert write_campaign(tmp_path, star_at(4.0)).run(n_workers=0).ok
    rows = truth_of(tmp_path)
    assert rows["1"]["x"] == pytest.approx(204.0, abs=1e-3)
    assert rows["2"]["x"] == pytest.approx(4.0, abs=1e-3)
    flux = 10 ** (0.4 * (27.0 - 18.0))
    assert 0 < rows["1"]["flux_deposited"] < 0.1 * flux
    assert rows["2"]["flux_deposited"] > 0.9 * flux
    assert [rows[ccd]["is_primary"] for ccd in "12"] == [False, True]
    assert [bool(rows[ccd]["flags"] & Flag.CENTER_OFF_IMAGE) for ccd in "12"] == [True, False]
    assert pq.read_table(tmp_path / "out/sources.parquet")["n_primary_r"].to_pylist() == [1]


@pytest.mark.parametrize("mark", [True, False])
def test_the_planes_of_the_fakes_can_be_left_out_of_a_campaign(tmp_path: Path, mark: bool) -> None:
    assert write_campaign(tmp_path, star_at(100.0), injection={"mark_injected": mark}).run(n_workers=0).ok
    (path,) = [p for p in (tmp_path / "out/images").rglob("ccd2*.fits") if "mask" not in p.name]
    image = read_exposure(path)
    assert (image.image != fits.getdata(tmp_path / "raw/ccd2.fits")).any()
    assert ("INJECTED" in image.mask_planes) is mark
    assert not image.bad().any()


def test_a_campaign_in_the_conventions_of_source_injection(tmp_path: Path) -> None:
    """Records and provenance say which version is meant; what it cannot draw is refused, or flagged."""
    both = {name: values * 2 for name, values in star_at(100.0).items()} | {
        "injection_id": [1, 2],
        "source_type": ["Star", "BulgeDisk"],
        "bulge_fraction": [0.5, 0.5],
        "bulge_half_light_radius": [0.5, 0.5],
        "disk_half_light_radius": [1.0, 1.0],
    }
    injection = {"conventions": "lsst_source_injection", "noise": False, "flux_mode": "aperture", "aperture": "12 pix"}
    strict, lenient = tmp_path / "strict", tmp_path / "lenient"
    with pytest.raises(CatalogError, match=r"(?s)1 of 2 sources .*injection_id 2: .*BulgeDisk"):
        write_campaign(strict, both, injection=injection).plan()

    catalog = {"path": "fakes.parquet", "on_bad": "flag"}
    assert write_campaign(lenient, both, injection=injection, catalog=catalog).run(n_workers=0).ok
    records = [json.loads(path.read_text()) for path in (lenient / "out/records").rglob("*-7-2.json")]
    assert records[0]["injection"]["conventions"]["commit"].startswith("8da8778")
    assert (records[0]["n_drawn"], records[0]["flags"]) == (1, {"TYPE_UNKNOWN": 1})
    provenance = json.loads((lenient / "out/provenance.json").read_text())
    assert provenance["activity"]["sg:run"]["sg:conventions"] == "lsst_source_injection"
    assert provenance["activity"]["sg:run"]["sg:conventions_version"].startswith("8da8778")
