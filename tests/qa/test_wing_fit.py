"""`skygraft psf wings`: wings of known shape are found again, and what cannot be fitted is refused by name."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from kits.plain_images import plain_header
from kits.winged import catalog_at, exposure
from skygraft.cli import app
from skygraft.config.campaign import parse_config
from skygraft.errors import ConfigError, PsfError
from skygraft.exposure import Exposure, make_planes
from skygraft.injection import InjectionOptions, inject
from skygraft.psf import MoffatPSF
from skygraft.qa.wing_fit import fit_wings
from skygraft.qa.wing_table import profile_table, wings_yaml

SKY, SATURATION = 200.0, 2e4
JOIN = {"join": "16 pix", "blend": "6 pix"}
POWER = {"model": "power_law", "alpha": 2.6, "outer": "200 pix", **JOIN}
MOFFAT = {"model": "moffat", "beta": 1.9, "core": "12 pix", "outer": "200 pix", **JOIN}


def field(wings, *, n=9, shape=(440, 450), faint=60, slope=0.0, flagged=True, mags=(8.5, 10.5)) -> Exposure:
    """A noisy image with bright stars that are cut off at the saturation level, and faint ones."""
    rng = np.random.default_rng(5)
    ny, nx = shape
    empty = exposure(shape=shape, variance=SKY / 2, psf=MoffatPSF(fwhm=4.5, beta=3.0, shape=(41, 41)))
    grid = np.stack(np.meshgrid([0.18, 0.5, 0.82], [0.18, 0.5, 0.82]), -1).reshape(-1, 2)[:n]
    x, y = (grid * (nx, ny) + rng.uniform(-20, 20, (len(grid), 2))).T
    x = np.concatenate([x, rng.uniform(0, nx, faint)])
    y = np.concatenate([y, rng.uniform(0, ny, faint)])
    mag = np.concatenate([rng.uniform(*mags, len(grid)), rng.uniform(19, 24, faint)])
    image = inject(empty, catalog_at(empty, x, y, mag), wings=wings, seed=3).exposure.image.astype(float)
    image += SKY + slope * np.arange(nx) + rng.normal(0, np.sqrt(SKY / 2), shape)
    full = image > SATURATION
    planes = make_planes(
        np.minimum(image, SATURATION).astype(np.float32),
        np.full(shape, SKY / 2, np.float32),
        mask_planes={"BAD": 0, "SAT": 1},
    )
    if flagged:
        planes["mask"].values[full] |= 2
    return empty.replace(planes=planes)


@functools.cache
def of_power_law() -> Exposure:
    return field(POWER)


@pytest.mark.parametrize("wings", [POWER, MOFFAT], ids=["power law", "Moffat"])
def test_known_wings_are_found_within_their_errors(wings):
    fit = fit_wings(of_power_law() if wings is POWER else field(wings), **JOIN)
    assert len(fit.stars) >= 7
    assert all(star.saturated for star in fit.stars)
    true = InjectionOptions(wings=wings).wings.on(fit.pixel_scale)
    there = (fit.radii > 17) & (fit.radii < 190)
    model, error = true.profile(fit.radii[there]), fit.errors[there]
    seen = model / error > 5
    scale = np.average(fit.profile[there][seen] / model[seen], weights=(model / error)[seen] ** 2)
    pull = (fit.profile[there] - scale * model) / np.hypot(error, 0.02 * model)
    assert scale == pytest.approx(1.0, abs=0.08)
    assert np.sqrt(np.mean(pull**2)) < 2.0
    # Where the wings stand out, to a few per cent; as the settings say it, too.
    np.testing.assert_allclose(fit.profile[there][seen] / scale, model[seen], rtol=0.25)
    if wings is POWER:
        off = fit.parameters["alpha"] - 2.6
        assert abs(off) < max(4 * fit.parameter_errors["alpha"], 0.08)
        assert fit.settings.model == "power_law"
    used = fit.settings.on(fit.pixel_scale)
    r = np.linspace(20, 60, 30)
    np.testing.assert_allclose(used.profile(r) / used.profile(17.0), true.profile(r) / true.profile(17.0), rtol=0.1)


def test_the_table_and_the_yaml_are_what_a_campaign_takes(tmp_path: Path):
    fit = fit_wings(of_power_law(), model="profile", **JOIN)
    table = profile_table(fit)
    table.write(tmp_path / "wings.ecsv")
    base = {"name": "a", "survey": {"images": "*.fits"}, "catalog": {"path": "c.parquet"}, "output": "out"}
    config = parse_config(base | yaml.safe_load(wings_yaml(fit)), base_dir=tmp_path)
    assert config.injection.wings is not None
    assert config.injection.wings.model == "profile"
    section = {"model": "profile", "file": "wings.ecsv", "join": "3.2 arcsec", "blend": "1.0 arcsec"}
    from_file = parse_config(base | {"injection": {"wings": section}}, base_dir=tmp_path)
    radii = from_file.injection.options().wings.radii
    np.testing.assert_allclose(radii, np.asarray(table["radius"]), rtol=1e-6)


def test_stars_that_are_not_saturated_do_as_well():
    fit = fit_wings(field(POWER, flagged=False, mags=(11.3, 12.3), n=9), stars="bright", **JOIN)
    assert not any(star.saturated for star in fit.stars)
    assert any("no mask plane" in note for note in fit.notes)
    assert fit.parameters["alpha"] == pytest.approx(2.6, abs=0.5)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"n": 0}, {}, "no saturated or bright star"),
        ({"n": 2}, {}, "only 2 saturated or bright stars"),
        ({"flagged": False}, {"stars": "saturated"}, "no saturated star.*no mask plane flags"),
        ({"slope": 1.0}, {}, "gradient"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, options, words):
    with pytest.raises(PsfError, match=words):
        fit_wings(field(POWER, shape=(300, 310), **change), **JOIN, **options)


def test_a_gradient_can_be_subtracted():
    fit = fit_wings(field(POWER, slope=1.0), flatten=True, **JOIN)
    assert fit.parameters["alpha"] == pytest.approx(2.6, abs=0.2)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"join": "25 pix"}, PsfError, "outside of the PSF's kernel"),
        ({"join": "8 pix", "blend": "5 pix"}, PsfError, "inside the PSF's core"),
        ({"join": "wide"}, ConfigError, "no length"),
        ({"outer": "20 pix", **JOIN}, PsfError, "too little beyond the join"),
    ],
)
def test_radii_that_make_no_sense_are_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        fit_wings(of_power_law(), **options)


def test_an_image_without_light_is_refused():
    with pytest.raises(PsfError, match="no light"):
        fit_wings(exposure())


def test_the_command_writes_what_inject_takes(tmp_path: Path):
    image = of_power_law()
    header = plain_header(150.0, 2.0, 450)
    header["CRPIX2"] = 220.5
    fits.writeto(tmp_path / "image.fits", image.image, header)
    psf, runner = ["--psf", "moffat:0.9 arcsec"], CliRunner()
    asked = ["psf", "wings", str(tmp_path / "image.fits"), "-o", str(tmp_path / "wings.parquet"), "--stars", "bright"]
    done = runner.invoke(app, [*asked, *psf])
    assert done.exit_code == 0, done.output
    assert "alpha" in done.output
    assert (tmp_path / "wings.png").read_bytes()[:4] == b"\x89PNG"
    assert {"radius", "surface_brightness", "error"} <= set(Table.read(tmp_path / "wings.parquet").colnames)
    again = runner.invoke(app, [*asked, *psf])
    assert again.exit_code == 1
    assert "exists" in again.output
    ra, dec = 150.0, 2.0
    Table({"ra": [ra], "dec": [dec], "source_type": ["Star"], "mag_r": [16.0]}).write(tmp_path / "one.ecsv")
    to = ["inject", str(tmp_path / "image.fits"), str(tmp_path / "one.ecsv"), "-o", str(tmp_path / "out.fits")]
    done = runner.invoke(app, [*to, *psf, "--wings", str(tmp_path / "wings.yaml"), "--seed", "1"])
    assert done.exit_code == 0, done.output
    assert "the calibrated flux is kept" in done.output
    done = runner.invoke(app, [*to, *psf, "--overwrite", "--wings", "{model: power_law, alpha: 1.5, join: 14 pix}"])
    assert done.exit_code == 1
    assert "infinite" in done.output
