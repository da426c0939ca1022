"""A campaign with extended wings: its plan, its outputs verified, its closure and its keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from kits.tiny_campaign import write_tiny_campaign
from kits.winged import POWER, catalog_at, exposure
from skygraft.campaign import Campaign
from skygraft.config.campaign import load_config, parse_config
from skygraft.errors import ConfigError
from skygraft.injection import InjectionOptions, inject
from skygraft.planning.wings import brightest_magnitude
from skygraft.qa.closure import measure_closure
from skygraft.qa.verify import verify_campaign

WINGS = {"model": "power_law", "alpha": 2.6, "join": "10 pix", "outer": "4.5 arcsec"}
BASE = {
    "name": "wide",
    "survey": {"images": "*.fits"},
    "catalog": {"path": "fakes.parquet"},
    "output": "out",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wings")
    write_tiny_campaign(folder, 1, injection={"wings": WINGS})
    return folder


def changed(folder: Path, **wings) -> Campaign:
    content = yaml.safe_load((folder / "campaign.yaml").read_text())
    content["injection"] = {"wings": wings}
    return Campaign(parse_config(content, base_dir=folder))


def test_outputs_hold_what_is_drawn_again(folder: Path):
    campaign = Campaign(load_config(folder / "campaign.yaml"))
    assert campaign.run(n_workers=0).ok
    checks = {check.check: check.verdict for check in verify_campaign(campaign, processes=1).checks}
    assert {"truth", "residual", "untouched", "mask", "version"} <= {k for k, v in checks.items() if v == "passes"}
    assert "fails" not in checks.values()
    [record] = [
        json.loads(path.read_text()) for path in (folder / "out").rglob("*.json") if "image_id" in path.read_text()
    ]
    assert record["injection"]["wings"]["flux"] == "calibrated"


def test_a_margin_that_is_narrower_than_the_wings_is_told_by_the_plan(folder: Path):
    narrow = changed(folder, **WINGS | {"outer": "30 arcsec"}).plan()
    assert any("margin_arcsec" in str(problem) and "30 arcsec" in str(problem) for problem in narrow.problems)
    endless = changed(folder, model="power_law", alpha=2.6, join="10 pix").plan()
    brightest = brightest_magnitude(folder / "out" / "catalog", "r")
    assert any(f"magnitude {brightest:.2f}" in str(problem) for problem in endless.problems)
    wrong = changed(folder, **WINGS | {"join": "40 pix", "outer": "30 arcsec"}).plan()
    assert any("outside of the PSF's kernel" in str(problem) for problem in wrong.problems)
    fine = changed(folder, **WINGS).plan()
    assert not any("wings" in str(problem) for problem in fine.problems)


def test_stars_with_wings_close_in_their_aperture():
    exp = exposure(shape=(401, 411))
    x, y = np.meshgrid(np.arange(60, 360, 95.0) + 0.3, np.arange(60, 360, 95.0) + 0.4)
    catalog = catalog_at(exp, x.ravel(), y.ravel(), np.linspace(17.0, 17.5, x.size))
    options = InjectionOptions(wings=POWER | {"outer": "150 pix"}, noise=False)
    after = inject(exp, catalog, options=options)
    found = measure_closure(exp, after.exposure, after.truth, options=options, noise=False)
    assert len(found) == x.size
    # The neighbours' wings, 1e-3 of a star in its aperture, are taken off.
    assert np.abs(np.asarray(found["residual"])).max() < 1e-4
    alone = inject(exp, catalog[5:6], options=options)
    one = measure_closure(exp, alone.exposure, alone.truth, options=options, noise=False)
    assert abs(float(one["residual"][0])) < 1e-5


def test_only_campaigns_with_wings_have_them_in_their_keys(tmp_path: Path):
    plain = parse_config(BASE, base_dir=tmp_path)
    assert not any("wings" in key for key in plain.pixel_settings())
    winged = parse_config(BASE | {"injection": {"wings": WINGS}}, base_dir=tmp_path)
    assert winged.pixel_settings()["injection.wings.alpha"] == 2.6
    steeper = parse_config(BASE | {"injection": {"wings": WINGS | {"alpha": 2.7}}}, base_dir=tmp_path)
    assert steeper.pixel_settings() != winged.pixel_settings()


def test_a_profile_counts_by_its_numbers_and_not_by_its_path(tmp_path: Path):
    (tmp_path / "a.csv").write_text("radius,surface_brightness\n1,3\n2,1\n4,0.2\n9,0.01\n")
    (tmp_path / "b.csv").write_text((tmp_path / "a.csv").read_text())
    section = {"model": "profile", "join": "2 arcsec", "blend": "0.8 arcsec", "unit": "arcsec"}
    one, other = (
        parse_config(BASE | {"injection": {"wings": section | {"file": name}}}, base_dir=tmp_path)
        for name in ("a.csv", "b.csv")
    )
    assert one.pixel_settings() == other.pixel_settings()
    # What is written as the resolved configuration needs the file no more.
    (tmp_path / "a.csv").unlink()
    again = parse_config(yaml.safe_load(one.to_yaml()), base_dir=tmp_path)
    assert again == one
    assert again.injection.options().wings.values == (3.0, 1.0, 0.2, 0.01)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"model": "power_law", "alpha": 2, "join": "12 pix"}, "infinite"),
        ({"model": "power_law", "alpha": 3}, "is missing"),
        ({"model": "power_law", "alpha": 3, "join": "12 pix", "outr": "9 pix"}, "did you mean 'outer'"),
        ({"model": "gauss", "join": "12 pix"}, "moffat"),
        ({"model": "profile", "join": "12 pix", "file": "none.ecsv"}, "no such file"),
        ("wide", "must be a mapping"),
    ],
)
def test_the_section_is_checked(tmp_path: Path, section, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(BASE | {"injection": {"wings": section}}, base_dir=tmp_path)
