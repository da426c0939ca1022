"""The command line: every command, its errors and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable, vstack
from typer.testing import CliRunner

from kits.plain_images import SCALE, write_plain_image
from skygraft import read_exposure
from skygraft.cli import app

SIZE, RA, DEC = 220, 150.1, 2.2


def write_image(path: Path, *, detector: int = 1, **cards) -> Path:
    return write_plain_image(path, RA, DEC, SIZE, seed=detector, CCDNUM=detector, **cards)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def image(tmp_path) -> Path:
    return write_image(tmp_path / "image.fits")


@pytest.fixture
def catalog(tmp_path) -> Path:
    step = np.array([-12.0, 0.0, 12.0]) / 3600
    ra, dec = (axis.ravel() for axis in np.meshgrid(RA + step, DEC + step))
    path = tmp_path / "fakes.ecsv"
    QTable(
        {
            "injection_id": np.arange(9),
            "ra": ra * u.deg,
            "dec": dec * u.deg,
            "source_type": np.full(9, "Star"),
            "mag_r": np.linspace(18, 20, 9) * u.mag,
        }
    ).write(path)
    return path


@pytest.fixture
def campaign(tmp_path, catalog) -> Path:
    for detector in (1, 2):
        write_image(tmp_path / f"ccd_{detector}.fits", detector=detector)
    path = tmp_path / "campaign.yaml"
    content = {
        "name": "test",
        "survey": {
            "images": "ccd_*.fits",
            "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0}},
        },
        "catalog": {"path": "fakes.ecsv"},
        "skymap": {
            "kind": "explicit",
            "tracts": [{"ra": RA, "dec": DEC, "pixel_scale": SCALE, "size": 1000, "patches": [2, 2]}],
        },
        "injection": {"seed": 3},
        "output": "out",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def failed(result, *words: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    for word in words:
        assert word in said, said


def done(result) -> str:
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


PSF = ["--psf", "moffat:0.8 arcsec"]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from skygraft.cli import app; from typer.testing import CliRunner;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "heavy = {'numpy', 'astropy', 'dask', 'galsim', 'numba', 'matplotlib', 'xarray'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["demo", "inspect", "inject", "index", "plan", "run", "status", "verify"])
def test_every_command_shows_an_example(runner, name) -> None:
    text = done(runner.invoke(app, [name, "--help"]))
    assert "Example" in text and f"skygraft {name}" in text


def test_version(runner) -> None:
    import skygraft

    assert done(runner.invoke(app, ["--version"])).strip() == f"skygraft {skygraft.__version__}"


def test_unknown_command_is_a_usage_error(runner) -> None:
    assert runner.invoke(app, ["injekt"]).exit_code == 2


def test_inspect_tells_the_aperture_and_its_origin(runner, image) -> None:
    text = done(runner.invoke(app, ["inspect", str(image), *PSF]))
    assert "12 pix = 2.40 arcsec" in text and "CALAPRAD" in text
    assert "testcam-77-1" in text and "220 x 220" in text and "27.0000" in text
    content = json.loads(done(runner.invoke(app, ["inspect", str(image), *PSF, "--json"])))
    assert content["wcs"]["pixel_scale"] == pytest.approx(SCALE, rel=1e-5)
    assert content["psf"]["fwhm_arcsec"] == pytest.approx(0.8, rel=0.01)
    assert content["gain"]["electrons_per_unit"] == 2.0
    # A Moffat of beta 2.5 holds 1 - (1 + (r/a)^2)^(1 - beta) of its light inside r.
    beta = 2.5
    a = 0.8 / 2 / np.sqrt(2 ** (1 / beta) - 1)
    inside = 1 - (1 + (2.4 / a) ** 2) ** (1 - beta)
    fraction = content["psf"]["fraction_in_aperture"]
    assert fraction == pytest.approx(inside, abs=1e-3)
    # The kernel is not infinite, so that one of unit sum lacks less.
    assert 0 < content["psf"]["psf_sum_offset_mag"] < -2.5 * np.log10(inside)


def test_inspect_says_how_to_set_an_unknown_aperture(runner, tmp_path) -> None:
    image = write_image(tmp_path / "bare.fits", CALAPRAD=None)
    text = done(runner.invoke(app, ["inspect", str(image)]))
    assert "unknown" in text and "--aperture '12 pix'" in text and "give --psf" in text
    text = done(runner.invoke(app, ["inspect", str(image), "--aperture", "2 arcsec"]))
    assert "2 arcsec = 10 pix" in text
    text = done(runner.invoke(app, ["inspect", str(image), "--aperture", "psf_model"]))
    assert "psf_model" in text


def test_inspect_names_both_sides_of_a_conflict(runner, image) -> None:
    failed(runner.invoke(app, ["inspect", str(image), "--aperture", "35 pix"]), "35 pix", "12 pix", "CALAPRAD")


def test_inspect_an_uncalibrated_image(runner, tmp_path) -> None:
    image = write_image(tmp_path / "bare.fits", MAGZERO=None)
    assert "--zeropoint" in done(runner.invoke(app, ["inspect", str(image)]))
    assert "25.5000" in done(runner.invoke(app, ["inspect", str(image), "--zeropoint", "25.5"]))


@pytest.mark.parametrize("command", ["inspect", "plan", "run", "status", "verify"])
def test_missing_file_is_one_clear_message(runner, tmp_path, command) -> None:
    failed(runner.invoke(app, [command, str(tmp_path / "nowhere.fits")]), "error:", "nowhere.fits")


def test_debug_shows_the_traceback(runner, tmp_path) -> None:
    result = runner.invoke(app, ["--debug", "inspect", str(tmp_path / "nowhere.fits")])
    assert result.exit_code == 1 and result.exception is not None
    assert "nowhere.fits" in str(result.exception)


def test_inject_puts_the_magnitude_into_the_aperture(runner, image, catalog, tmp_path) -> None:
    photutils = pytest.importorskip("photutils.aperture")
    out, truth = tmp_path / "out.fits", tmp_path / "truth.ecsv"
    arguments = ["inject", str(image), str(catalog), "-o", str(out), *PSF, "--no-noise", "--truth", str(truth)]
    text = done(runner.invoke(app, arguments))
    assert "9 drawn of 9" in text and "12 pix = 2.40 arcsec" in text and str(out) in text
    rows = QTable.read(truth)
    added = fits.getdata(out).astype(float) - fits.getdata(image)
    circles = photutils.CircularAperture(np.stack([rows["x"], rows["y"]], axis=1), 12.0)
    flux = photutils.aperture_photometry(added, circles, method="exact")["aperture_sum"]
    # Neighbours are 60 pixels away and each has about 1e-3 of its light in the other's aperture.
    np.testing.assert_allclose(27.0 - 2.5 * np.log10(flux), rows["mag"], atol=0.01)


def test_inject_other_flux_modes(runner, image, catalog, tmp_path) -> None:
    sums = {}
    for mode, more in (("calibrated", []), ("psf_sum", []), ("total", []), ("aperture", ["--aperture", "6 pix"])):
        out = tmp_path / f"{mode}.fits"
        arguments = ["inject", str(image), str(catalog), "-o", str(out), *PSF, "--no-noise", "--flux-mode", mode, *more]
        summary = json.loads(done(runner.invoke(app, [*arguments, "--json"])))
        assert summary["flux_mode"] == mode and summary["n_drawn"] == 9 and summary["outputs"][0] == str(out)
        sums[mode] = float((fits.getdata(out).astype(float) - fits.getdata(image)).sum())
    assert sums["aperture"] > sums["calibrated"] > sums["psf_sum"] > sums["total"]


def test_inject_draws_as_asked(runner, image, catalog, tmp_path) -> None:
    fakes, planes = QTable.read(catalog), {}
    galaxies = QTable(fakes[:1], copy=True)
    galaxies["source_type"], galaxies["injection_id"], galaxies["n"] = np.array(["Sersic"]), 100, 4.0
    galaxies["half_light_radius"], galaxies["q"], galaxies["pa"] = 0.4 * u.arcsec, 0.7, 20 * u.deg
    vstack([fakes, galaxies]).write(catalog, overwrite=True)
    for name, more in (
        ("plain", []),
        ("grid", ["--stars", "grid", "--galaxies", "precise"]),
        ("narrow", ["--flux-tolerance", "0.05"]),
        ("faint", ["--mask-threshold", "0.01"]),
    ):
        out = tmp_path / f"{name}.fits"
        done(runner.invoke(app, ["inject", str(image), str(catalog), "-o", str(out), *PSF, "--no-noise", *more]))
        with fits.open(out) as hdus:
            planes[name] = hdus[0].data.astype(float) - fits.getdata(image)
        with fits.open(tmp_path / f"{name}.mask.fits") as hdus:
            planes[f"{name} mask"] = next(hdu.data for hdu in hdus if hdu.data is not None)
    assert np.any(planes["grid"] != planes["plain"])
    np.testing.assert_allclose(planes["grid"], planes["plain"], atol=2e-4 * planes["plain"].max())
    assert np.count_nonzero(planes["narrow"]) < np.count_nonzero(planes["plain"])
    assert np.count_nonzero(planes["faint mask"]) > np.count_nonzero(planes["plain mask"])
    result = runner.invoke(app, ["inject", str(image), str(catalog), "-o", "x.fits", "--flux-tolerance", "0.7"])
    assert result.exit_code != 0 and "flux_tolerance" in result.output and "0.5" in result.output


def test_inject_seed_and_truth_formats(runner, image, catalog, tmp_path) -> None:
    def inject(name: str, *more: str) -> np.ndarray:
        out = tmp_path / f"{name}.fits"
        done(runner.invoke(app, ["inject", str(image), str(catalog), "-o", str(out), *PSF, *more]))
        return fits.getdata(out)

    one = inject("one", "--seed", "4", "--truth", str(tmp_path / "t.parquet"))
    np.testing.assert_array_equal(one, inject("same", "--seed", "4", "--truth", str(tmp_path / "t.fits")))
    assert (one != inject("other", "--seed", "5")).any()
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "t.parquet")["injection_id"].to_pylist() == list(range(9))
    assert len(QTable.read(tmp_path / "t.fits")) == 9


def test_inject_refuses(runner, image, catalog, tmp_path) -> None:
    out = tmp_path / "out.fits"
    start = ["inject", str(image), str(catalog), "-o"]
    failed(runner.invoke(app, [*start, str(out)]), "PSF", "--psf")
    failed(runner.invoke(app, [*start, str(image), *PSF]), "is the input itself")
    failed(runner.invoke(app, [*start, str(image), *PSF, "--overwrite"]), "image.fits")
    failed(runner.invoke(app, [*start, str(out), *PSF, "--truth", "t.txt"]), ".parquet", code=2)
    failed(runner.invoke(app, [*start, str(out), *PSF, "--flux-mode", "aperture"]), "aperture")
    failed(runner.invoke(app, [*start, str(out), *PSF, "--band", "z"]), "z")
    failed(runner.invoke(app, [*start, str(tmp_path / "no" / "out.fits"), *PSF]), "no")
    failed(runner.invoke(app, [*start, str(out), "--psf", "moffat:soft"]), "fwhm")
    assert runner.invoke(app, [*start, str(out), "--flux-mode", "peak"]).exit_code == 2
    assert not out.exists()
    bare = write_image(tmp_path / "bare.fits", CALAPRAD=None)
    failed(runner.invoke(app, ["inject", str(bare), str(catalog), "-o", str(out), *PSF]), "--aperture")
    done(runner.invoke(app, ["inject", str(bare), str(catalog), "-o", str(out), *PSF, "--aperture", "2 arcsec"]))
    failed(runner.invoke(app, [*start, str(out), *PSF]), "exists already", "--overwrite")
    done(runner.invoke(app, [*start, str(out), *PSF, "--overwrite"]))


def test_index(runner, tmp_path) -> None:
    for detector in (1, 2):
        write_image(tmp_path / f"ccd_{detector}.fits", detector=detector)
    pattern = str(tmp_path / "ccd_*.fits")
    out = tmp_path / "index.parquet"
    text = done(runner.invoke(app, ["index", pattern, "-o", str(out)]))
    assert "testcam-77-1" in text and "2 images" in text
    import pyarrow.parquet as pq

    assert pq.read_table(out)["image_id"].to_pylist() == ["testcam-77-1", "testcam-77-2"]
    content = json.loads(done(runner.invoke(app, ["index", pattern, "--json"])))
    assert [row["detector"] for row in content["images"]] == ["1", "2"]
    assert content["images"][0]["ra"] == pytest.approx(RA, abs=1e-4)
    assert content["failures"] == []


def test_index_tells_what_cannot_be_used(runner, tmp_path) -> None:
    write_image(tmp_path / "ccd_1.fits")
    (tmp_path / "ccd_2.fits").write_bytes(b"SIMPLE  = nonsense")
    result = runner.invoke(app, ["index", str(tmp_path / "ccd_*.fits")])
    assert result.exit_code == 1
    assert "testcam-77-1" in result.stdout and "ccd_2.fits" in result.stdout and "1 cannot be used" in result.stdout
    failed(runner.invoke(app, ["index"]), "--ccds", code=2)


def test_campaign_from_plan_to_verification(runner, campaign, tmp_path) -> None:
    text = done(runner.invoke(app, ["plan", str(campaign)]))
    assert "plan of test" in text and "CALAPRAD" in text
    plan = json.loads(done(runner.invoke(app, ["plan", str(campaign), "--json"])))
    assert plan["n_images"] == 2 and plan["n_catalog"] == 9
    before = json.loads(done(runner.invoke(app, ["status", str(campaign), "--json"])))
    assert (before["n_done"], before["n_remaining"]) == (0, 2)
    failed(runner.invoke(app, ["verify", str(campaign)]), "no image of the campaign is done")

    summary = json.loads(done(runner.invoke(app, ["run", str(campaign), "--workers", "0", "--json"])))
    assert summary["n_done"] == 2 and summary["ok"]
    assert "2 of 2 images done" in done(runner.invoke(app, ["status", str(campaign)]))
    again = json.loads(done(runner.invoke(app, ["run", str(campaign), "--workers", "0", "--json"])))
    assert (again["n_done"], again["n_skipped"]) == (0, 2)

    plot = tmp_path / "closure.png"
    assert "closes" in done(runner.invoke(app, ["verify", str(campaign), "--plot", str(plot)]))
    assert plot.stat().st_size > 10_000
    checked = json.loads(done(runner.invoke(app, ["verify", str(campaign), "--json"])))
    assert checked["bands"]["r"]["n"] > 10 and checked["bands"]["r"]["ok"]
    assert checked["ok"] and checked["checks"]["closure"]["verdict"] == "passes"


def test_verify_fails_when_the_outputs_are_not_what_was_asked_for(runner, campaign, tmp_path) -> None:
    content = yaml.safe_load(campaign.read_text())
    # Without noise: that of 18 stars hides 10 mmag.
    content["injection"] |= {"flux_mode": "psf_sum", "noise": False}
    campaign.write_text(yaml.safe_dump(content))
    done(runner.invoke(app, ["run", str(campaign), "--workers", "0"]))
    result = runner.invoke(app, ["verify", str(campaign)])
    assert result.exit_code == 1 and "does not close" in result.stdout


def test_changed_settings_need_redo(runner, campaign) -> None:
    done(runner.invoke(app, ["run", str(campaign), "--workers", "0"]))
    content = yaml.safe_load(campaign.read_text())
    content["injection"]["seed"] = 4
    campaign.write_text(yaml.safe_dump(content))
    failed(runner.invoke(app, ["run", str(campaign), "--workers", "0"]), "seed", "--redo")
    assert runner.invoke(app, ["plan", str(campaign)]).exit_code == 1
    done(runner.invoke(app, ["run", str(campaign), "--workers", "0", "--redo"]))


def test_one_bad_image_is_told_and_costs_no_other(runner, campaign, tmp_path) -> None:
    write_image(tmp_path / "ccd_2.fits", detector=2, MAGZERO=None)
    result = runner.invoke(app, ["run", str(campaign), "--workers", "0"])
    assert result.exit_code == 1
    assert "1 images made" in result.stdout and "testcam-77-2" in result.stdout
    result = runner.invoke(app, ["status", str(campaign)])
    assert result.exit_code == 1 and "1 failed" in result.stdout and "UncalibratedImageError" in result.stdout


def test_bad_configuration(runner, campaign) -> None:
    content = yaml.safe_load(campaign.read_text())
    content["injektion"] = content.pop("injection")
    campaign.write_text(yaml.safe_dump(content))
    failed(runner.invoke(app, ["plan", str(campaign)]), "injektion", "injection")


def test_scheduler_must_be_an_address(runner, campaign) -> None:
    failed(runner.invoke(app, ["run", str(campaign), "--scheduler", "myhost"]), "tcp://host:8786")
    both = ["run", str(campaign), "--scheduler", "tcp://h:1", "--workers", "2"]
    failed(runner.invoke(app, both), "--workers")


def test_demo_leaves_other_folders_alone(runner, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    failed(runner.invoke(app, ["demo", "-o", str(tmp_path), "--overwrite"]), "not a demo", "--output")
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(("option", "marked"), [([], True), (["--no-mark-injected"], False)])
def test_inject_marks_the_fakes_or_not(runner, image, catalog, tmp_path, option, marked) -> None:
    out = tmp_path / "out.fits"
    done(runner.invoke(app, ["inject", str(image), str(catalog), "-o", str(out), *PSF, *option]))
    planes = read_exposure(out, psf={"kind": "moffat", "fwhm": "0.8 arcsec"}).mask_planes
    assert ("INJECTED" in planes) is marked


def test_inspect_names_the_inputs_of_a_coadd(runner, data_dir) -> None:
    path = str(data_dir / "afw_reference/coadd_10_coaddpsf.fits")
    # As its table of inputs has them: visits 1000 to 1002, two detectors each.
    names = ["1000-40", "1000-41", "1001-42", "1001-43", "1002-44", "1002-45"]
    assert f"6 of 6 at (12155.5, 8155.5): {', '.join(names)}" in done(runner.invoke(app, ["inspect", path]))
    content = json.loads(done(runner.invoke(app, ["inspect", path, "--json"])))
    assert content["psf"]["inputs_here"] == names


def test_inspect_names_the_inputs_of_a_cell(runner, data_dir) -> None:
    pytest.importorskip("lsst.images")
    path = str(data_dir / "rubin/dp1_cell_coadd.fits")
    text = done(runner.invoke(app, ["inspect", path]))
    assert "2 of 2 at (41.5, 53.5): 2025052000177-96, 2025052000178-96" in text
    assert "3 of 4 cells" in text and "kernels of 5 x 5 pixels are too small" in text
    assert "gain           unknown: the gain is not recorded" in text


def test_inspect_reads_a_pickled_psf_when_it_may(runner, data_dir) -> None:
    pytest.importorskip("piff")
    path = str(data_dir / "afw/meas_extensions_piff/exp.fits")
    assert "--allow-pickle" in done(runner.invoke(app, ["inspect", path]))
    text = done(runner.invoke(app, ["inspect", path, "--allow-pickle"]))
    assert "6 kernels times Chebyshev polynomials of degree 2" in text
