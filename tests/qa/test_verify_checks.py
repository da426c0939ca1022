"""Checks of one image: no false alarm, whatever the image; what is said where nothing can be; laws of the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from scipy import signal, stats

from kits.verification_kit import make_campaign, make_catalog, memory_pair, pair_of, settings_of, write_image
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.exposure import COADD_NOISE, DIFFERENCE, Exposure
from skygraft.noise import CoaddNoise
from skygraft.noise.coadd import CellGrid
from skygraft.psf import DifferenceImage, GaussianPSF, MoffatPSF
from skygraft.psf.matched import MatchingKernel
from skygraft.qa.pixel_sums import IMAGE_SUMS, image_sums, total
from skygraft.qa.redraw import stored_step
from skygraft.qa.source_shapes import robust_mean
from skygraft.qa.verdicts import CHECKS, SCHEMA, judge
from skygraft.qa.verify_checks import check_pair
from skygraft.testing import make_exposure

KINDS = ("plain", "no noise", "no variance", "coadd", "gain map", "damaged", "zero", "template", "faint", "lsst")


def catalog(rng: np.random.Generator, exposure: Exposure, n: int, bright: float) -> QTable:
    """Stars and galaxies of all kinds, also off the image."""
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    x, y = x0 + rng.uniform(-20, nx + 20, n), y0 + rng.uniform(-20, ny + 20, n)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    star = rng.random(n) < 0.5
    return QTable(
        {
            "injection_id": rng.permutation(n) + 1,
            "ra": ra,
            "dec": dec,
            "source_type": np.where(star, "Star", "Sersic"),
            "mag_r": rng.uniform(bright, bright + 6, n),
            "n": np.where(star, np.nan, rng.uniform(0.5, 4, n)),
            "half_light_radius": np.where(star, np.nan, rng.uniform(0.2, 2, n)),
            "q": np.where(star, np.nan, rng.uniform(0.2, 1, n)),
            "pa": np.where(star, np.nan, rng.uniform(0, 180, n)),
        }
    )


def scene(kind: str, seed: int) -> tuple[Exposure, QTable, dict[str, Any]]:
    """An image of a kind, sources for it, and settings of injection."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    fwhm, shape = rng.uniform(1.6, 6), (int(rng.integers(100, 220)), int(rng.integers(100, 220)))
    gain = float(10 ** rng.uniform(-1.5, 2))
    exposure = make_exposure(
        shape,
        psf=MoffatPSF(fwhm=fwhm, beta=3.0) if rng.random() < 0.5 else GaussianPSF(sigma=fwhm / 2.355),
        gain=gain,
        sky=float(rng.choice([0, 100, 1e4])),
        noise=True,
        xy0=(int(rng.integers(0, 5000)), int(rng.integers(0, 5000))),
        rotation=float(rng.uniform(0, 360)),
        mirrored=bool(rng.random() < 0.3),
        seed=seed,
    )
    options: dict[str, Any] = {"seed": seed, "noise": kind != "no noise"}
    planes = exposure.planes.copy(deep=True)
    sources = catalog(rng, exposure, int(rng.choice([3, 20, 40])), 24.0 if kind == "faint" else 16.0)
    if kind == "no variance":
        exposure = exposure.replace(planes=planes.drop_vars("variance"))
    elif kind == "coadd":
        taps = rng.uniform(0, 1, (3, 3))
        noise = signal.convolve2d(rng.normal(size=(shape[0] + 2, shape[1] + 2)), taps + taps[::-1, ::-1], mode="valid")
        exposure = exposure.replace(
            extra={COADD_NOISE: CoaddNoise((noise.astype(np.float32),), CellGrid((0, 0), (100, 80)))}
        )
    elif kind == "gain map":
        gains = np.full(shape, gain, np.float32)
        gains[:, shape[1] // 2 :] *= 1.2
        exposure = exposure.replace(gain=gains)
    elif kind == "damaged":
        planes["image"].values[20:30, 40:60] = np.nan
        planes["variance"].values[50:60], planes["variance"].values[70:72] = np.inf, np.nan
        exposure = exposure.replace(planes=planes)
    elif kind == "zero":
        planes["image"].values[:] = 0
        exposure = exposure.replace(planes=planes)
    elif kind == "template":
        y, x = np.mgrid[-8:9, -8:9]
        kernel = np.exp(-(x**2 + y**2) / 4.5)
        matching = MatchingKernel([kernel / kernel.sum()], (8, 8), [lambda x, y: np.ones(np.shape(x))])
        exposure = exposure.replace(
            psf=GaussianPSF(sigma=2.2), extra={DIFFERENCE: DifferenceImage(matching, GaussianPSF(sigma=1.7), "made")}
        )
        sources["inject_into"] = rng.choice(["science", "template", "both"], len(sources))
    elif kind == "lsst":
        planes["image"].values[30:80, 30:80] += rng.uniform(0, 3000, (50, 50)).astype(np.float32)
        planes["variance"].values[:] = 100 + np.maximum(planes["image"].values, 0) / 2
        exposure = exposure.replace(planes=planes)
        options["conventions"] = "lsst_source_injection"
    return exposure, sources, options


@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm(kind: str) -> None:
    for seed in range(6):
        exposure, sources, options = scene(kind, seed)
        pair, settings = memory_pair(exposure, sources, **options)
        table = check_pair(pair, settings)
        assert table.schema == SCHEMA and set(table["check"].to_pylist()) <= set(CHECKS)
        wrong = [row for row in table.drop_columns(["stars"]).to_pylist() if row["verdict"] == "fails"]
        assert not wrong, (seed, wrong)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [True, False])
def test_no_false_alarm_on_files(tmp_path: Path, seed: int, noise: bool) -> None:
    campaign = make_campaign(tmp_path, catalog=make_catalog(seed, faintest=19), variance=noise, seed=seed, noise=noise)
    table = check_pair(pair_of(campaign), settings_of(campaign))
    assert "fails" not in table["verdict"].to_pylist(), table.drop_columns(["stars"]).to_pylist()


@pytest.mark.parametrize("kind", ["rice", "integers"])
def test_no_false_alarm_on_pixels_with_steps(tmp_path: Path, kind: str) -> None:
    """Quantised and integer pixels: what they cannot hold is not a fault, and a fault is seen all the same."""
    write_image(tmp_path / "plain.fits", 1, variance=False)
    pixels, header = fits.getdata(tmp_path / "plain.fits", header=True)
    (tmp_path / "plain.fits").unlink()
    path = tmp_path / "raw/one.fits"
    path.parent.mkdir()
    if kind == "rice":
        fits.CompImageHDU(pixels, header, compression_type="RICE_1", quantize_level=4).writeto(path)
    else:
        fits.PrimaryHDU(np.rint(pixels).astype(np.int32), header).writeto(path)
    write_catalog(make_catalog(), tmp_path / "fakes.parquet")
    (tmp_path / "campaign.yaml").write_text(
        "{name: steps, survey: {images: raw/*.fits, calibration: {psf: {kind: gaussian, fwhm: 0.8 arcsec}}}, "
        "catalog: {path: fakes.parquet}, output: out, margin_arcsec: 5.0}"
    )
    campaign = Campaign.from_yaml(tmp_path / "campaign.yaml")
    assert campaign.run(n_workers=0).ok
    pair = pair_of(campaign)
    assert pair.after.path is not None
    step = stored_step(pair.after.path)
    assert step == 1.0 if kind == "integers" else 0.5 < step < 4
    rows = {row["check"]: row for row in check_pair(pair, settings_of(campaign)).to_pylist()}
    assert not [row for row in rows.values() if row["verdict"] == "fails"]
    assert rows["flux"]["verdict"] == "passes"
    planes = pair.after.planes.copy(deep=True)
    planes["image"].values[:] += 0.005 * (planes["image"].values - pair.before.image)
    wrong = check_pair(type(pair)(**{**vars(pair), "after": pair.after.replace(planes=planes)}), settings_of(campaign))
    assert "flux" in [row["check"] for row in wrong.to_pylist() if row["verdict"] == "fails"]


def test_nothing_to_measure_is_said() -> None:
    exposure = make_exposure((100, 100), noise=True)
    sources = catalog(np.random.default_rng(1), exposure, 4, 20.0)
    sources["ra"] += 1.0
    rows = {row["check"]: row for row in check_pair(*memory_pair(exposure, sources)).to_pylist()}
    assert {row["verdict"] for row in rows.values()} == {"passes", "too few stars", "not applicable"}
    assert rows["flux"]["note"] == "no light of a source reaches the image"
    assert rows["closure"]["note"].startswith("no isolated star")
    assert rows["mask"]["note"] == "no source was drawn"


def test_sources_that_cannot_be_drawn_again_are_a_failure() -> None:
    exposure, sources, options = scene("plain", 1)
    pair, settings = memory_pair(exposure, sources, **options)
    without = type(pair)(**{**vars(pair), "before": pair.before.replace(psf=None)})
    rows = {row["check"]: row for row in check_pair(without, settings).to_pylist()}
    assert rows["residual"]["verdict"] == "fails" and "cannot be drawn again" in rows["residual"]["note"]
    assert rows["truth"]["verdict"] == "passes"


def test_other_settings_are_named() -> None:
    exposure, sources, options = scene("plain", 2)
    pair, settings = memory_pair(exposure, sources, **options)
    record = {**pair.record, "settings": {"injection.seed": 1}}
    rows = check_pair(
        type(pair)(**{**vars(pair), "record": record}), {**settings, "settings": {"injection.seed": 2}}
    ).to_pylist()
    version = next(row for row in rows if row["check"] == "version")
    assert version["verdict"] == "not applicable" and "other settings: injection.seed" in version["note"]


def test_sums_are_those_of_numpy() -> None:
    rng = np.random.default_rng(4)
    shape = (70, 130)
    before = rng.normal(100, 5, shape).astype(np.float32)
    stars, others = np.zeros((2, *shape), np.float32)
    stars[10:40, 20:60], others[30:60, 50:120] = rng.uniform(1, 50, (30, 40)), rng.uniform(1, 50, (30, 70))
    after = (before + rng.normal(stars + others, np.sqrt(stars + others))).astype(np.float32)
    after[0, 0] += 1
    lit = np.zeros((0, 0), np.float32)
    sums = image_sums(before, after, stars, others, lit, np.array([[0.5]], np.float32), 0.0, 0.0, 64)
    assert sums.shape == (2, 3, len(IMAGE_SUMS))
    light, difference = (stars + others).astype(float), after.astype(float) - before
    touched = light > 0
    found = total(sums, IMAGE_SUMS)
    assert (found["changed"], found["touched"], found["noisy"]) == (1, touched.sum(), touched.sum())
    expected = {
        "flux": difference[touched].sum(),
        "light": light.sum(),
        "variance": 0.5 * light.sum(),
        "squares": ((difference - light)[touched] ** 2).sum(),
        "stars_others": (stars * others / (0.5 * np.where(touched, light, 1))).sum(),
        "others_flux": (others * difference / (0.5 * np.where(touched, light, 1))).sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    assert sums[1, 0, IMAGE_SUMS.index("light")] == pytest.approx(light[64:, :64].sum())


def test_the_median_s_error_is_that_of_simulations() -> None:
    rng = np.random.default_rng(5)
    sigma = rng.uniform(0.5, 5, 60)
    draws = [robust_mean(rng.normal(3.0, sigma), sigma) for _ in range(600)]
    values, errors = np.array(draws).T
    assert values.mean() == pytest.approx(3.0, abs=0.05)
    assert 0.75 < values.std() / errors.mean() < 1.1


def test_verdicts_on_a_measured_deviation() -> None:
    assert judge(0.0, 0.01, 0.03, 0.1)[0] == "passes"
    assert judge(0.0, 0.02, 0.03, 0.1)[0] == "too few stars"
    assert judge(0.1, 0.01, 0.03, 0.1)[0] == "fails"
    # Noise alone does not fail one image of a million.
    verdict, limit = judge(0.0, 0.02, 0.0, 0.2)
    assert verdict == "passes" and 2e6 * stats.norm.sf(limit / 0.02) < 0.1
