"""``skygraft aperture`` on images and on a campaign: a small survey whose zeropoints are of 12 pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from skygraft.campaign import Campaign, read_plan
from skygraft.campaign.pairs import read_pair
from skygraft.campaign.sweep import product_dataset, sweep
from skygraft.catalog import write_catalog
from skygraft.cli import app
from skygraft.demo import SurveySpec
from skygraft.demo.fakes import make_fakes, write_campaign
from skygraft.demo.sky import make_sky
from skygraft.demo.survey import make_survey
from skygraft.errors import CatalogError, ConfigError
from skygraft.qa.aperture_campaign import (
    APERTURES_SCHEMA,
    PRODUCT,
    measure_apertures,
    settings_of,
    stated_reference,
    summarize_apertures,
)
from skygraft.qa.aperture_plot import campaign_figure

SPEC = SurveySpec(seed=5, bands=("r",), visits_per_band=1, detector_size=512, patch_size=512, star_density=30)
IMAGES = ("calexp-1002-0.fits", "calexp-1002-1.fits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey, its true stars, and a campaign that was run."""
    root = tmp_path_factory.mktemp("apertures")
    made = make_survey(root / "survey", SPEC)
    assert tuple(image.path.name for image in made) == IMAGES
    write_catalog(make_fakes(SPEC), root / "fakes.parquet")
    write_campaign(root / "campaign.yaml", SPEC, survey="survey", catalog="fakes.parquet", output="injected")
    assert Campaign.from_yaml(root / "campaign.yaml").run(n_workers=0).ok
    sky = make_sky(SPEC)
    star = sky.is_star
    Table({"ra": sky.ra[star], "dec": sky.dec[star], "mag_r": sky.mags["r"][star]}).write(root / "stars.ecsv")
    return root


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["aperture", *map(str, words)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_of_the_survey(folder: Path, image: str, tmp_path: Path) -> None:
    path = folder / "survey" / image
    for words in ((), ("--reference", folder / "stars.ecsv")):
        code, text = command(path, *words, "--plot", tmp_path / "growth.png", "--json")
        found = json.loads(text)
        assert code == 0 and found["verdict"] == "fits"
        kinds = ["reference", "pipeline"] if words else ["pipeline"]
        assert [e["kind"] for e in found["evidence"]] == kinds
        assert abs(found["evidence"][-1]["radius"] / 12 - 1) < 0.05
        # Few stars stand alone on such small images: their magnitudes can tell on neither or both.
        assert found["evidence"][0]["verdict"] in ("fits", "cannot tell")
        assert (tmp_path / "growth.png").stat().st_size > 20_000
    code, text = command(path)
    assert code == 0 and "12 pix = 2.40" in text and "fits" in text


def test_a_radius_that_contradicts_the_record_is_judged(folder: Path) -> None:
    path = folder / "survey" / IMAGES[0]
    code, text = command(path, "--aperture", "6 pix")
    assert code == 1 and "does not fit" in text and "(--aperture)" in text
    code, text = command(path, "--aperture", "2.4 arcsec", "--json")
    assert code == 0 and json.loads(text)["stated"]["radius_pixels"] == pytest.approx(12.0, rel=0.01)
    assert command(path, "--aperture", "total")[0] == 1


def test_a_record_that_was_changed_is_flagged(folder: Path, tmp_path: Path) -> None:
    for name in (IMAGES[0], IMAGES[0].replace("calexp", "SRC")):
        shutil.copy(folder / "survey" / name, tmp_path / name)
    path = tmp_path / IMAGES[0].replace("calexp", "SRC")
    card = b"slot_CalibFlux:base_CircularApertureFlux_12_0'"
    assert path.read_bytes().count(card) == 1
    path.write_bytes(path.read_bytes().replace(card, b"slot_CalibFlux:base_CircularApertureFlux_6_0' "))
    for words in ((), ("--reference", folder / "stars.ecsv")):
        code, text = command(tmp_path / IMAGES[0], *words)
        assert code == 1 and "stated 6 pix" in text and "does not fit" in text
    path.unlink()
    code, text = command(tmp_path / IMAGES[0], "--aperture", "6 pix", "--reference", folder / "stars.ecsv")
    assert code == 1
    code, text = command(tmp_path / IMAGES[0], "--aperture", "6 pix")
    assert code == 0 and "cannot tell" in text and "--reference" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("{image}", "--plot", "growth.txt"), "a plot is one of"),
        (("{image}", "--columns", "mag=g"), "--columns is of --reference"),
        (("{image}", "--reference", "{stars}", "--columns", "mag"), "WHAT=NAME is needed"),
        (("{image}", "--reference", "{stars}", "--columns", "mag=g"), "near"),
        (("{image}", "--reference", "nowhere.ecsv"), "no such file"),
        (("{image}", "--workers", "2"), "--workers is of a campaign only"),
        (("{image}", "--aperture", "twelve"), "twelve"),
        (("{campaign}", "--catalog", "{stars}"), "--catalog is of an image only"),
        (("{campaign}", "--zeropoint", "27"), "--zeropoint is of an image only"),
        (("{campaign}", "--reference", "nowhere.ecsv"), "cannot be read"),
        (("{stars}",), "stars.ecsv"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder: Path, words: tuple[str, ...], text: str) -> None:
    places = {
        "image": folder / "survey" / IMAGES[0],
        "stars": folder / "stars.ecsv",
        "campaign": folder / "campaign.yaml",
    }
    code, output = command(*(word.format(**places) for word in words))
    assert code == 1 and text in output, output


def test_a_campaign(folder: Path, tmp_path: Path) -> None:
    config = folder / "campaign.yaml"
    code, text = command(config, "--workers", 1, "--json", "--plot", tmp_path / "radii.png")
    found = json.loads(text)
    assert code == 0
    [group] = found["groups"]
    assert (group["band"], group["n_images"], group["n_fit"], group["stated"]) == ("r", 2, 2, "12 pix = 2.40 arcsec")
    assert abs(group["radius"] / 12 - 1) < 0.05
    assert found["sweep"]["n_measured"] == 2 and (tmp_path / "radii.png").stat().st_size > 10_000
    # The table is there, and nothing is measured twice.
    table = product_dataset(Campaign.from_yaml(config), "apertures").to_table()
    assert sorted(table["image_id"].to_pylist()) == [row["image_id"] for row in found["images"]]
    assert table.schema.field("fitted_radius_pixels").metadata == {b"unit": b"pix"}
    code, text = command(config, "--workers", 1)
    assert code == 0 and "0 measured, 2 measured before" in text
    # Another radius, and stars of known magnitude: both images do not fit, and are named.
    code, text = command(config, "--workers", 1, "--aperture", "6 pix", "--reference", folder / "stars.ecsv")
    assert code == 1 and text.count("does not fit: ") == 2


def test_fakes_grow_as_the_psf_model_does(folder: Path) -> None:
    campaign = Campaign.from_yaml(folder / "campaign.yaml")
    image = next(i for i in read_plan(campaign.layout.plan) if i.detector in (0, "0"))
    pair = read_pair(campaign.config, image)
    [row] = measure_apertures(pair, settings_of()).to_pylist()
    assert set(row) == set(APERTURES_SCHEMA.names)
    radii, fakes, model, stars = (np.array(row[name]) for name in ("radii", "fakes", "model", "stars"))
    there = (radii > 4) & (radii < 16)
    assert row["n_fakes"] >= 3
    np.testing.assert_allclose(fakes[there], model[there], atol=0.02)
    assert abs(fakes[radii == 12.0][0]) < 0.01
    # And so do real stars.
    np.testing.assert_allclose(stars[there], model[there], atol=0.02)
    assert (row["instrument"], row["visit"], row["detector"], row["band"]) == ("DemoCam", 1002, "0", "r")


def test_the_table_does_not_depend_on_how_it_is_made(folder: Path) -> None:
    campaign = Campaign.from_yaml(folder / "campaign.yaml")
    settings = settings_of(largest=30)

    def made() -> list[dict[str, object]]:
        sweep(campaign, PRODUCT, settings, processes=1, redo=True)
        files = sorted((campaign.layout.root / "apertures").glob("tract=*/patch=*/part-0.parquet"))
        return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]

    assert json.dumps(made()) == json.dumps(made())


def test_settings() -> None:
    assert settings_of()["reference"] is None
    with pytest.raises(ConfigError):
        settings_of(stated="twelve")
    with pytest.raises(CatalogError, match="cannot be read"):
        settings_of(reference="nowhere.fits")
    assert str(stated_reference("psf_model", 0.2)) == "psf_model" and str(stated_reference("total", 0.2)) == "total"
    assert stated_reference("2 arcsec", 0.2).radius_pixels == pytest.approx(10.0)


def test_the_summary_is_by_instrument_and_band() -> None:
    def row(i: int, band: str, verdict: str, radius: float | None, stated: float | None = 12.0) -> dict[str, object]:
        kind = None if stated is None else "aperture"
        return {
            "image_id": f"i{i}", "instrument": "Cam", "band": band, "verdict": verdict, "kind": kind,
            "radius_pixels": stated, "radius_arcsec": None, "fitted_radius_pixels": radius, "fitted_radius_error": 0.1,
        }  # fmt: skip

    rows = [row(1, "g", "fits", 12.1), row(2, "g", "fits", 11.9), row(3, "g", "cannot tell", 30.0),
            row(4, "r", "does not fit", 6.0), row(5, "i", "cannot tell", None, None)]  # fmt: skip
    g, i, r = summarize_apertures(rows)
    assert (g.n_images, g.n_fit, g.n_wrong, g.n_unknown, g.ok) == (3, 2, 0, 1, True)
    assert g.radius == pytest.approx(12.0) and g.radius_error == pytest.approx(0.1, rel=0.01)
    assert not r.ok and r.outliers == ("i4",) and r.radius == 6.0
    assert i.ok and i.stated == "nothing" and np.isnan(i.radius)
    assert len(campaign_figure(rows).axes) == 3
