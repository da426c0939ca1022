"""The command check-consistency: on files, and on two campaigns as a sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from kits.coadd_survey import fakes, write_survey
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.cli import app
from skygraft.errors import ConfigError
from skygraft.qa.consistency import ConsistencySettings
from skygraft.qa.consistency.campaigns import compare_campaigns, overlap
from skygraft.qa.consistency.figure import consistency_figure

PSF = "moffat:0.9 arcsec"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coadd-survey")
    write_survey(folder)
    return folder


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["check-consistency", *(str(one) for one in arguments)])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


def given(survey: Path, *more: object) -> list[object]:
    return [
        survey / "coadd.fits", "--visits", survey / "visits/*.fits", "--catalog", survey / "fakes.parquet",
        "--psf", PSF, "--visit-psf", PSF, *more,
    ]  # fmt: skip


def test_files_agree_and_only_what_is_asked_for_is_written(survey: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(survey.rglob("*")) if path.is_file()}
    text = run(*given(survey, "-o", tmp_path / "table.parquet", "--plot", tmp_path / "worst.png"))
    assert re.search(r"16 sources on 1 coadd: 1[56] agree, 0 differ", text), text
    assert "measured in 12 pix" in text and "4 visits compared" in text and "zeropoint off by" in text
    table = pq.read_table(tmp_path / "table.parquet")
    assert table.num_rows == 16 and np.abs(table.column("difference").to_numpy()).max() < 2e-3
    assert table.schema.field("difference").metadata == {b"unit": b"mag"}
    assert (tmp_path / "worst.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.parquet", "worst.png"]
    assert {path: path.read_bytes() for path in sorted(survey.rglob("*")) if path.is_file()} == before


def test_a_fault_is_named_and_the_exit_code_is_one(survey: Path) -> None:
    text = run(*given(survey, "--zeropoint", "27.02", "--json"), code=1)
    found = json.loads(text)
    assert not found["ok"] and set(found["reasons"]) == {"ZEROPOINT"}
    assert found["pixels"]["zeropoint"] == pytest.approx(0.02, abs=2e-3)
    assert len(found["visits"]) == 4 and found["radius_pixels"] == 12.0


def test_what_is_wrong_on_the_command_line_is_said(survey: Path, tmp_path: Path) -> None:
    coadd, visits = survey / "coadd.fits", survey / "visits/*.fits"
    assert "--catalog is needed" in run(coadd, "--visits", visits, code=2)
    assert "no file matches" in run(
        coadd, "--visits", survey / "nothing*.fits", "--catalog", survey / "fakes.parquet", code=1
    )
    assert ".parquet" in run(*given(survey, "-o", tmp_path / "table.csv"), code=2)
    (tmp_path / "campaign.yaml").write_text("name: x\n")
    assert "YAML file of the campaign of visits" in run(tmp_path / "campaign.yaml", "--visits", visits, code=2)
    assert "tolerance is 0.0" in run(*given(survey, "--tolerance", "0"), code=1)


def campaign(survey: Path, folder: Path, name: str, images: str, catalog: Path) -> Campaign:
    content = {
        "name": name,
        "survey": {
            "images": images,
            "root": str(survey),
            "calibration": {"psf": {"kind": "moffat", "fwhm": "0.9 arcsec"}},
        },
        "catalog": {"path": str(catalog)},
        "output": str(folder / name),
        "margin_arcsec": 5.0,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    made = Campaign.from_yaml(path)
    assert made.run(n_workers=0).ok
    return made


@pytest.fixture(scope="module")
def campaigns(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Campaign, Campaign]:
    folder = tmp_path_factory.mktemp("coadd-campaigns")
    catalog = survey / "fakes.parquet"
    coadds = campaign(survey, folder, "coadds", "coadd.fits", catalog)
    return folder, coadds, campaign(survey, folder, "visits", "visits/*.fits", catalog)


def test_two_campaigns_are_compared_once_and_resumed(campaigns: tuple[Path, Campaign, Campaign]) -> None:
    folder, coadds, visits = campaigns
    text = run(folder / "coadds.yaml", "--visits", folder / "visits.yaml", "--workers", "0", "--plot", folder / "c.png")
    assert "1 image: 1 measured" in text and "16 sources on 1 coadd" in text and "0 differ" in text
    again = compare_campaigns(coadds, visits, processes=1)
    assert (again.sweep.n_measured, again.sweep.n_skipped) == (0, 1) and again.ok
    # Of other settings, or where a visit was made again from something else, it is compared again.
    stricter = compare_campaigns(coadds, visits, ConsistencySettings(tolerance=1e-7), processes=1)
    assert stricter.sweep.n_measured == 1 and not stricter.ok and stricter.summary.verdicts["differs"] > 0
    table = pq.read_table(coadds.layout.root / "consistency")
    assert table.num_rows == 16 and set(table.column("n_visits").to_pylist()) == {4}


def test_the_files_of_campaigns_and_of_images_say_the_same(
    survey: Path, campaigns: tuple[Path, Campaign, Campaign], tmp_path: Path
) -> None:
    _, coadds, visits = campaigns
    assert compare_campaigns(coadds, visits, processes=1).ok
    run(*given(survey, "-o", tmp_path / "table.parquet"))
    one, other = pq.read_table(coadds.layout.root / "consistency"), pq.read_table(tmp_path / "table.parquet")
    for name in ("injection_id", "difference", "size_ratio", "warping_term"):
        np.testing.assert_allclose(one.column(name).to_numpy(), other.column(name).to_numpy(), atol=1e-5, err_msg=name)


def test_campaigns_of_other_catalogues_state_both_digests(
    survey: Path, campaigns: tuple[Path, Campaign, Campaign], tmp_path: Path
) -> None:
    _, coadds, _ = campaigns
    table = fakes()
    table["injection_id"] = table["injection_id"] + 1000
    write_catalog(table, tmp_path / "others.parquet")
    others = campaign(survey, tmp_path, "others", "visits/visit-101.fits", tmp_path / "others.parquet")
    found = compare_campaigns(coadds, others, processes=1)
    assert not found.ok and found.sweep.n_failed == 1
    message = found.sweep.failed[0][2]
    assert "it holds none of the sources" in message and len(re.findall(r"digest [0-9a-f]{16}", message)) == 2
    assert "different files" in str(found)


def test_a_campaign_of_visits_alone_has_no_coadd(campaigns: tuple[Path, Campaign, Campaign]) -> None:
    _, coadds, visits = campaigns
    with pytest.raises(ConfigError, match="all have a visit"):
        compare_campaigns(visits, visits)
    with pytest.raises(ConfigError, match="sample and rows"):
        compare_campaigns(coadds, visits, sample=1, rows=[0])


def test_a_figure_of_no_rows() -> None:
    from skygraft.qa.consistency.terms import SCHEMA

    assert consistency_figure(SCHEMA.empty_table()).get_axes()


def test_outlines_overlap_where_their_great_circles_do() -> None:
    square = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    assert overlap(square, square) and overlap(square, square + 0.9) and overlap(square, 0.1 * square + 0.4)
    assert not overlap(square, square + np.array([1.1, 0.0])) and not overlap(square, square - np.array([0.0, 1.1]))
    # Across RA 0, near a pole, and either way round.
    assert overlap(square - np.array([0.5, 0.0]), (square[::-1] + np.array([359.2, 0.2])) % 360)
    assert not overlap(np.array([(0, 89), (120, 89), (240, 89)]), square)
