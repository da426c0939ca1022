"""A campaign with light curves: who gets which flux, what is made again when a curve changes, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kits.plain_images import write_plain_image
from skygraft import Campaign
from skygraft.catalog import Flag
from skygraft.catalog.partition_read import read_beside, read_partitions
from skygraft.errors import CatalogError
from skygraft.planning.findings import NO_LIGHT_CURVES
from skygraft.qa.verify import verify_campaign
from skygraft.records.files import Layout

RA, DEC = 150.1, 2.2
TIMES = (59990.0, 60001.0, 60002.5, 60004.0)
CURVES = {
    "id": ["sn", "sn", "sn", "var", "var", "var"],
    "mjd": [0.0, 2.0, 6.0, 59000.0, 60002.0, 61000.0],
    "band": ["r"] * 6,
    "flux": [0.0, 1e5, 2e4, 5e4, 6e4, 5e4],
}
FAKES = {
    "injection_id": [1, 2, 3],
    "object_id": [-1, 20, 30],
    "ra": [RA - 4 / 3600, RA, RA + 4 / 3600],
    "dec": [DEC] * 3,
    "source_type": ["Star"] * 3,
    "mag_r": [np.nan, 21.0, 20.0],
    "light_curve": ["sn", "var", ""],
    "light_curve_mjd": [60000.0, np.nan, np.nan],
    "time_delay": [0.5, 0.0, 0.0],
}


def write(
    folder: Path,
    curves: dict[str, list[Any]] = CURVES,
    fakes: dict[str, list[Any]] = FAKES,
    output: str = "out",
    **catalog: Any,
) -> Path:
    for i, mjd in enumerate(TIMES):
        path = folder / f"raw/image-{i}.fits"
        if not path.exists():
            write_plain_image(path, RA, DEC, 96, seed=i, EXPNUM=500 + i, **{"MJD-AVG": mjd})
    pq.write_table(pa.table(fakes), folder / "fakes.parquet")
    pq.write_table(pa.table(curves), folder / "curves.parquet")
    content = {
        "name": "variable",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet", "light_curves": "curves.parquet"} | catalog,
        "output": output,
        "margin_arcsec": 5.0,
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_plan_says_which_images_are_in_bands_without_light_curves(tmp_path: Path) -> None:
    other = {**CURVES, "band": ["g"] * 6}
    found = Campaign.from_yaml(write(tmp_path, other)).plan(processes=1)
    assert found.findings[NO_LIGHT_CURVES].n == len(TIMES)
    assert f"{NO_LIGHT_CURVES} {len(TIMES)}:" in " ".join(str(found).split())
    again = Campaign.from_yaml(write(tmp_path, output="again")).plan(processes=1)
    assert NO_LIGHT_CURVES not in again.findings


def truth(campaign: Campaign) -> dict[tuple[int, int], dict[str, Any]]:
    """Rows of truth by visit and injection id."""
    folder = Layout(campaign.config.output).truth
    tables = [pq.ParquetFile(path).read().to_pylist() for path in sorted(folder.rglob("part-0.parquet"))]
    return {(row["visit"], row["injection_id"]): row for table in tables for row in table}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = Campaign.from_yaml(write(tmp_path_factory.mktemp("variable")))
    assert campaign.run(n_workers=0).n_failed == 0
    return campaign


def test_each_visit_has_the_flux_of_its_time(done: Campaign) -> None:
    rows = truth(done)
    for i, mjd in enumerate(TIMES):
        visit, age = 500 + i, mjd - 60000.5
        sn = np.interp(age, [0, 2, 6], [0, 1e5, 2e4], left=0, right=0)
        var = np.interp(mjd, [59000, 60002, 61000], [5e4, 6e4, 5e4])
        for injection_id, njy in ((2, var), (3, 10 ** (-0.4 * (20.0 - 31.4)))):
            assert rows[visit, injection_id]["mag"] == pytest.approx(31.4 - 2.5 * np.log10(njy), abs=1e-3)
        # Outside of its curve a source without a magnitude of its own is no source of the image.
        assert ((visit, 1) in rows) == (sn > 0)
        if sn > 0:
            assert rows[visit, 1]["inst_flux"] == pytest.approx(sn / 10 ** (-0.4 * (27 - 31.4)), rel=1e-3)
    assert [rows[501, k]["object_id"] for k in (1, 2, 3)] == [1, 20, 30]


def test_sources_have_their_objects(done: Campaign) -> None:
    sources = pq.read_table(Layout(done.config.output).campaign_sources).to_pylist()
    assert [(row["injection_id"], row["object_id"], row["group_id"]) for row in sources] == [
        (1, 1, -1),
        (2, 20, -1),
        (3, 30, -1),
    ]


def test_the_curves_lie_beside_the_partition(done: Campaign) -> None:
    catalog = Layout(done.config.output).catalog
    rows = read_partitions(catalog, [(t, p) for t, p in _keys(catalog)])
    table = read_beside(catalog, _keys(catalog), "light_curves.parquet")
    assert set(table["light_curve_key"].to_pylist()) == set(np.asarray(rows["light_curve_key"][:2]).tolist())
    assert rows["light_curve_key"][2] == -1
    np.testing.assert_allclose(rows["mjd_from"].value, [60000.5 - 1e-6, np.nan, np.nan], rtol=0, atol=1e-9)
    np.testing.assert_allclose(rows["mjd_to"].value, [60006.5 + 1e-6, np.nan, np.nan], rtol=0, atol=1e-9)


def _keys(catalog: Path) -> list[tuple[int, int]]:
    from skygraft.catalog import list_partitions

    return list(list_partitions(catalog))


def test_a_changed_curve_makes_its_images_again_and_no_others(tmp_path: Path) -> None:
    campaign = Campaign.from_yaml(write(tmp_path))
    assert campaign.run(n_workers=0).n_done == 4
    changed = CURVES | {"flux": [0.0, 1e5, 3e4, 5e4, 6e4, 5e4]}
    again = Campaign.from_yaml(write(tmp_path, changed)).run(n_workers=0, redo=True)
    assert (again.n_done, again.n_skipped) == (3, 1)  # the supernova is on three of the four images
    assert truth(campaign)[503, 1]["inst_flux"] == pytest.approx(
        np.interp(3.5, [2, 6], [1e5, 3e4]) / 10 ** (-0.4 * (27 - 31.4)), rel=1e-3
    )


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"does not have those of 1 sources: 'sm' \(injection_id 1\)"):
        Campaign.from_yaml(write(tmp_path, fakes=FAKES | {"light_curve": ["sm", "var", ""]})).plan()
    with pytest.raises(CatalogError, match="2 rows of the catalogue have a light curve, and the campaign has no table"):
        Campaign.from_yaml(write(tmp_path, light_curves=None)).plan()
    without = {name: column for name, column in FAKES.items() if name != "light_curve"}
    with pytest.raises(CatalogError, match="no column light_curve"):
        Campaign.from_yaml(write(tmp_path, fakes=without)).plan()


def test_unknown_curves_can_be_flagged(tmp_path: Path) -> None:
    fakes = FAKES | {"light_curve": ["sm", "var", ""]}
    campaign = Campaign.from_yaml(write(tmp_path, fakes=fakes, on_bad="flag"))
    campaign.run(n_workers=0)
    assert truth(campaign)[501, 1]["flags"] == int(Flag.NO_LIGHT_CURVE)


def test_verification_draws_them_again(done: Campaign) -> None:
    found = verify_campaign(done, processes=1)
    assert (found.n_images, found.n_failures, found.failures) == (4, 0, ())


def test_templates_have_the_rows_magnitudes(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["survey"]["role"] = "template"
    path.write_text(yaml.safe_dump(content))
    campaign = Campaign.from_yaml(path)
    campaign.run(n_workers=0)
    rows = truth(campaign)
    assert [rows[501, k]["flags"] for k in (1, 2, 3)] == [int(Flag.NOT_VISIBLE), 0, 0]
    assert [rows[501, k]["mag"] for k in (2, 3)] == [21.0, 20.0]
