"""Pairs of campaigns: the grammar of perturbations, what they do to a catalogue, and that noise cancels."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.campaign.paired import PairedCampaign
from skygraft.campaign.perturbation import Perturbation
from skygraft.catalog import read_catalog, write_catalog
from skygraft.cli import app
from skygraft.errors import CampaignError, CatalogError, ConfigError
from skygraft.noise import poisson_field

SIZES = st.floats(1e-6, 0.999, allow_nan=False)
PLACES = st.none() | st.tuples(st.floats(0, 360), st.floats(-90, 90))


@given(SIZES, PLACES)
def test_text_of_a_magnification_reads_back(size: float, centre: tuple[float, float] | None) -> None:
    one = Perturbation("magnification", "magnify", size, centre)
    assert Perturbation.parse(str(one)) == one


@given(st.sampled_from(["mag", "mag_r", "half_light_radius", "q", "my_column"]), st.floats(1e-9, 1e9))
def test_text_of_a_column_reads_back(name: str, size: float) -> None:
    added = Perturbation(name, "add", size)
    assert Perturbation.parse(str(added)) == added
    times = Perturbation(name, "multiply", 1.0 + size)
    assert Perturbation.parse(str(times)) == times


def test_signs_that_keyboards_have() -> None:
    assert Perturbation.parse("mag = +-0.1") == Perturbation.parse("mag=±.1") == Perturbation("mag", "add", 0.1)
    assert Perturbation.parse("q=×1.01") == Perturbation.parse("q=*1.01")
    assert Perturbation.parse("magnification=±2e-2").step == pytest.approx(0.04)
    assert Perturbation.parse("q=*1.01").step == pytest.approx(2 * math.log(1.01))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("magnification", "no ="),
        ("=±0.1", "no name"),
        ("mag=0.1", "neither ±"),
        ("mag=±", "neither ±"),
        ("mag=±0", "above 0"),
        ("mag=±1e999", "finite"),
        ("mag=±0.1@1,2", "only a magnification"),
        ("mag=*0.9", "above 1"),
        ("magnification=*1.02", "1 more or less"),
        ("magnification=±1", "no light"),
        ("magnification=±0.1@400,2", "not on the sky"),
        ("magnification=±0.1@here", "no position"),
        ("mag=±0.1; rm", "neither ±"),
    ],
)
def test_anything_else_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match="is no perturbation") as caught:
        Perturbation.parse(text)
    assert why in str(caught.value) + (caught.value.fix or "")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def galaxies() -> QTable:
    return QTable(
        {
            "injection_id": [0, 1],
            "ra": [150.0, 150.1] * u.deg,
            "dec": [2.0, 2.1] * u.deg,
            "source_type": ["Sersic", "Star"],
            "mag_r": [20.0, 21.0] * u.mag,
            "mag_i": [19.0, np.nan] * u.mag,
            "half_light_radius": [0.5, np.nan] * u.arcsec,
            "n": [1.0, np.nan],
            "q": [1.0, np.nan],
            "tag": ["a", "b"],
        }
    )


def test_magnification_changes_flux_and_area_alike() -> None:
    table = galaxies()
    out = Perturbation.parse("magnification=±0.02").apply(table, 1)
    assert np.allclose(10 ** (-0.4 * (out["mag_r"] - table["mag_r"]).value), 1.02, rtol=1e-12)
    assert (out["half_light_radius"][0].value / 0.5) ** 2 == pytest.approx(1.02)
    assert np.isnan(out["half_light_radius"][1]) and np.isnan(out["mag_i"][1])
    assert np.array_equal(out["ra"], table["ra"]) and table["mag_r"][0].value == 20.0
    # About a centre that is the first source, the second moves away from it.
    moved = Perturbation.parse("magnification=±0.02@150,2").apply(table, -1)
    assert moved["ra"][0].value == pytest.approx(150.0, abs=1e-12)
    assert (moved["dec"][1].value - 2.0) / 0.1 == pytest.approx(math.sqrt(0.98), rel=1e-4)


def test_columns_change_in_their_units() -> None:
    table = galaxies()
    assert Perturbation.parse("mag=±0.1").apply(table, -1)["mag_r"].value.tolist() == [19.9, 20.9]
    only = Perturbation.parse("mag_i=±0.1").apply(table, 1)
    assert only["mag_i"].value[0] == 19.1 and only["mag_r"].value[0] == 20.0
    larger = Perturbation.parse("half_light_radius=*1.25").apply(table, 1)
    assert larger["half_light_radius"][0] == 0.625 * u.arcsec
    assert Perturbation.parse("half_light_radius=*1.25").apply(table, -1)["half_light_radius"][0] == 0.4 * u.arcsec


@pytest.mark.parametrize(("text", "said"), [("mga_r=±0.1", "mag_r"), ("tag=±1", "real numbers"),
                                            ("injection_id=±1", "real numbers")])  # fmt: skip
def test_columns_that_cannot_change(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Perturbation.parse(text).apply(galaxies(), 1)


def test_a_source_lost_on_one_side_is_refused() -> None:
    with pytest.raises(CatalogError, match=r"q=\*1.01 takes 1 sources .* injection_id 0"):
        Perturbation.parse("q=*1.01").apply(galaxies(), 1)


def images(campaign: Campaign) -> list[np.ndarray]:
    return [fits.getdata(path).astype(float) for path in sorted(campaign.layout.images.rglob("image-???.fits"))]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PairedCampaign]:
    path = write_tiny_campaign(tmp_path_factory.mktemp("pair"), 4, injection={"seed": 3, "gain": 2.0})
    campaign = Campaign.from_yaml(path)
    paired = PairedCampaign.of(campaign, "magnification=±0.02")
    assert [summary.ok for summary in paired.run(n_workers=0)] == [True, True]
    return path, paired


def test_noise_is_common(pair: tuple[Path, PairedCampaign], tmp_path: Path) -> None:
    path, paired = pair
    assert paired.plus.config.injection == paired.minus.config.injection
    originals = [fits.getdata(p).astype(float) for p in sorted((path.parent / "raw").glob("*.fits"))]
    # The same pair without noise is what is expected of the difference.
    content = yaml.safe_load(path.read_text()) | {"output": str(tmp_path / "quiet")}
    content["injection"]["noise"] = False
    quiet_path = path.with_name("quiet.yaml")
    quiet_path.write_text(yaml.safe_dump(content))
    quiet = PairedCampaign.of(Campaign.from_yaml(quiet_path), "magnification=±0.02")
    quiet.run(n_workers=0)
    content["injection"] |= {"noise": True, "seed": 4}
    content["output"] = str(tmp_path / "other")
    quiet_path.write_text(yaml.safe_dump(content))
    other = PairedCampaign.of(Campaign.from_yaml(quiet_path), "magnification=±0.02")
    other.run(n_workers=0)
    common = independent = expected = 0.0
    rows = zip(*map(images, (paired.plus, paired.minus, other.minus, quiet.plus, quiet.minus)), originals, strict=True)
    for plus, minus, elsewhere, quiet_plus, quiet_minus, original in rows:
        touched = quiet_plus - original > 2.0
        response = (quiet_plus - quiet_minus)[touched]
        common += float(((plus - minus)[touched] - response).var())
        independent += float(((plus - elsewhere)[touched] - response).var())
        expected += float(((quiet_plus + quiet_minus - 2 * original)[touched] / 2.0).mean())
    # Photon noise of two independent draws: the sum of the two variances.
    assert independent == pytest.approx(expected, rel=0.2)
    print(f"variance with common draws is {independent / common:.1f} times smaller")
    assert common < independent / 20


def test_each_side_is_a_campaign(pair: tuple[Path, PairedCampaign]) -> None:
    path, paired = pair
    root = path.parent / "out"
    assert json.loads((root / "pair.json").read_text())["step"] == pytest.approx(0.04)
    again = PairedCampaign.open(root)
    assert again.perturbation == paired.perturbation
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.fits")}
    resumed = PairedCampaign.of(Campaign.from_yaml(path), "magnification=±0.02").run(n_workers=0)
    assert [(s.n_done, s.n_skipped) for s in resumed] == [(0, 4), (0, 4)]
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*.fits")}
    for side in (again.plus, again.minus):
        assert side.status().n_done == 4
        assert side.check_checksums(processes=1).ok
    ids = [read_catalog(root / f"pair-{side}.parquet")["injection_id"].tolist() for side in ("plus", "minus")]
    assert ids[0] == ids[1]
    with pytest.raises(CampaignError, match=r"has a pair with magnification=±0\.02, not mag=±0\.1"):
        PairedCampaign.of(Campaign.from_yaml(path), "mag=±0.1")
    # The campaign itself can still be run beside them.
    assert Campaign.from_yaml(path).run(n_workers=0).ok


def test_command(tmp_path: Path) -> None:
    path = write_tiny_campaign(tmp_path, 1)
    run = CliRunner().invoke(app, ["run", str(path), "--pair", "mag=+-0.1", "--workers", "0", "--json"])
    assert run.exit_code == 0, run.output
    assert [Path(s["output"]).name for s in json.loads(run.stdout)] == ["pair-plus", "pair-minus"]
    refused = CliRunner().invoke(app, ["run", str(path), "--pair", "mag=0.1", "--workers", "0"])
    assert refused.exit_code == 1 and "neither ± and a number" in refused.output


def test_no_pair(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="there is no pair of campaigns"):
        PairedCampaign.open(tmp_path)


def test_changed_catalogue(tmp_path: Path) -> None:
    """Another catalogue is another pair: both are written again, and images are made again only if asked."""
    path = write_tiny_campaign(tmp_path, 1)
    campaign = Campaign.from_yaml(path)
    assert all(s.ok for s in PairedCampaign.of(campaign, "mag=±0.1").run(n_workers=0))
    stars = read_catalog(tmp_path / "fakes.parquet")
    write_catalog(stars[:6], tmp_path / "fakes.parquet", overwrite=True)
    paired = PairedCampaign.of(campaign, "mag=±0.1")
    assert len(read_catalog(tmp_path / "out/pair-minus.parquet")) == 6
    with pytest.raises(CampaignError):
        paired.run(n_workers=0)
    assert [s.n_done for s in paired.run(n_workers=0, redo=True)] == [1, 1]
    # What was lost is written again.
    (tmp_path / "out/pair-plus.parquet").unlink()
    PairedCampaign.of(campaign, "mag=±0.1")
    assert len(read_catalog(tmp_path / "out/pair-plus.parquet")) == 6
    (tmp_path / "out/pair.json").write_text("{")
    with pytest.raises(CampaignError, match="record of the pair cannot be read"):
        PairedCampaign.of(campaign, "mag=±0.1")


def test_bad_catalogue_leaves_no_pair(tmp_path: Path) -> None:
    path = write_tiny_campaign(tmp_path, 1)
    with pytest.raises(ConfigError, match="no column 'q'"):
        PairedCampaign.of(Campaign.from_yaml(path), "q=*1.01")
    assert not list((tmp_path / "out").glob("pair*"))


@pytest.mark.parametrize(("mean", "least"), [(0.2, 30), (0.5, 2), (2, 5), (10, 10), (20, 10), (33, 200), (1000, 2000)])
def test_draws_of_nearly_equal_means_are_common(mean: float, least: float) -> None:
    """Variance of the difference for ±2 per cent, of independent draws over that of common ones.

    A quantile function, the best there is, has 50 for small means. Above 32 the draws are one, rounded; below, the part
    that comes from a table by mean is common only in part.
    """
    ones = np.ones((400, 400))
    plus, minus, other = (
        poisson_field(mean * factor * ones, seed=seed, image_id="a")
        for factor, seed in ((1.02, 1), (0.98, 1), (0.98, 2))
    )
    assert (plus - other).var() == pytest.approx(2 * mean, rel=0.05)
    assert (plus - other).var() > least * (plus - minus).var()
    assert (plus - minus).mean() == pytest.approx(0.04 * mean, rel=0.2)
