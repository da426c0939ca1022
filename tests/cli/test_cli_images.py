"""Commands on single images: what `inspect` knows, CCD tables, options of formats, and what is piped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from kits.plain_images import write_plain_image
from skygraft.cli import app

RA, DEC, SIZE = 150.1, 2.2, 60
PSF = ["--psf", "gaussian:3 pix"]


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "80"})


def run(runner: CliRunner, *args: Any, code: int = 0) -> str:
    """What a command prints; of a failure, its message."""
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else " ".join(result.stderr.split())


def legacy(root: Path, table: Path) -> Path:
    """An image of the Legacy Surveys whose CCD table lies elsewhere."""
    folder = root / "images" / "cp"
    folder.mkdir(parents=True)
    path = write_plain_image(folder / "x_1_ooi_r_v1.fits", RA, DEC, SIZE, MAGZERO=20.34, EXTNAME="CCD1", PLVER="V4.8")
    weight = path.with_name("x_1_oow_r_v1.fits")
    fits.PrimaryHDU(np.full((SIZE, SIZE), 0.04, np.float32), fits.Header({"EXTNAME": "CCD1"})).writeto(weight)
    dq = fits.PrimaryHDU(np.zeros((SIZE, SIZE), np.int32), fits.Header({"EXTNAME": "CCD1", "PLVER": "V4.8"}))
    dq.writeto(path.with_name("x_1_ood_r_v1.fits"))
    row = {
        "image_filename": "cp/x_1_ooi_r_v1.fits",
        "camera": "90prime",
        "expnum": 5,
        "ccdname": "CCD1",
        "filter": "r",
        "exptime": 113.0,
        "zpt": 25.48,
    }
    Table([row]).write(table)
    return path


def sources(path: Path) -> Path:
    """A catalogue of one star."""
    table = Table({"injection_id": [1], "ra": [RA], "dec": [DEC], "source_type": ["Star"], "mag_r": [18.0]})
    table.write(path)
    return path


def test_inspect_tells_why_there_is_no_zeropoint_no_psf_and_no_gain(runner: CliRunner, tmp_path: Path) -> None:
    image = write_plain_image(tmp_path / "a.fits", RA, DEC, SIZE, MAGZERO=-99.0, NCOMBINE=5)
    text = run(runner, "inspect", image)
    assert "unusable: MAGZERO = -99.0 in HDU 0" in text and "--zeropoint" in text
    assert "no PSF model beside the image (a.psf)" in text and "--psf" in text
    assert "NCOMBINE = 5" in text
    content = json.loads(run(runner, "inspect", image, "--json"))
    assert "MAGZERO" in content["no_photo_calib"] and "a.psf" in content["no_psf"]
    assert content["photo_calib"] is None and "NCOMBINE" in content["gain"]["origin"]
    content = json.loads(run(runner, "inspect", image, *PSF, "--zeropoint", 27, "--json"))
    assert content["no_photo_calib"] is None and content["no_psf"] is None


def test_inspect_shows_a_gain_that_the_variance_contradicts(runner: CliRunner, tmp_path: Path) -> None:
    image = write_plain_image(tmp_path / "a.fits", RA, DEC, SIZE)
    with fits.open(image, mode="update") as hdus:
        hdus[0].data[20:30, 20:30] += 2000
        variance = 25 + np.maximum(hdus[0].data, 0) / 7
        fits.PrimaryHDU(variance.astype(np.float32)).writeto(tmp_path / "a.var.fits")
    gain = json.loads(run(runner, "inspect", image, "--json"))["gain"]
    assert gain["electrons_per_unit"] is None
    assert "two gains disagree: 2 " in gain["origin"]
    given = json.loads(run(runner, "inspect", image, "--option", "variance=false", "--json"))["gain"]
    assert given["electrons_per_unit"] == 2


def test_ccd_tables_on_the_command_line(runner: CliRunner, tmp_path: Path) -> None:
    table = tmp_path / "survey-ccds.fits"
    image = legacy(tmp_path / "survey", tmp_path / "tables.fits")
    said = run(runner, "inspect", image, code=1)
    assert "survey-ccds" in said and "--ccds" in said
    assert run(runner, "index", image, code=1) == ""
    (tmp_path / "tables.fits").rename(table)
    content = json.loads(run(runner, "inspect", image, "--ccds", table, "--json"))
    assert content["format"] == "legacy_survey"
    assert content["photo_calib"]["zeropoint"] == pytest.approx(25.48)
    assert "calib" in content["no_psf"]
    output = tmp_path / "out" / image.name
    output.parent.mkdir()
    catalog = sources(tmp_path / "fakes.ecsv")
    summary = json.loads(
        run(runner, "inject", image, catalog, "-o", output, "--ccds", table, *PSF, "--no-noise", "--json")
    )
    assert summary["n_drawn"] == 1
    added = float((fits.getdata(output).astype(float) - fits.getdata(image)).sum())
    # 18 mag of zeropoint 25.48: with the header's 20.34 it would be 113 times less.
    assert added == pytest.approx(10 ** (0.4 * (25.48 - 18)), rel=0.01)
    found = json.loads(run(runner, "index", image, "--ccds", table, "--json"))["images"]
    assert [row["image_id"] for row in found] == ["90prime-5-CCD1"]
    alone = json.loads(run(runner, "index", "--ccds", table, "--option", f"root={tmp_path / 'survey'}", "--json"))
    assert [row["image_id"] for row in alone["images"]] == ["90prime-5-CCD1"]


def test_a_legacy_image_read_as_another_is_inspected_with_caution(runner: CliRunner, tmp_path: Path) -> None:
    image = legacy(tmp_path / "survey", tmp_path / "t.fits")
    said = run(runner, "inspect", image, "--format", "fits", code=1)
    assert "20.34" in said and "--ccds" in said and "--option zeropoint_key=" in said
    text = run(runner, "inspect", image, "--format", "fits", "--option", "zeropoint=25.48")
    assert "caution" in text and "the survey's tables" in text and "25.4800" in text


def test_options_of_a_format_are_checked(runner: CliRunner, tmp_path: Path) -> None:
    distorted = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "A_2_0": 2e-4, "B_ORDER": 2}
    image = write_plain_image(tmp_path / "a.fits", RA, DEC, SIZE, BUNIT="MJy/sr", MAGZERO=None, **distorted)
    assert "--option pixel_area=" in run(runner, "inspect", image)
    assert "AB mag for 1 MJy/sr" in run(runner, "inspect", image, "--option", "pixel_area=2.25e-14 sr")
    assert "Did you mean 'pixel_area'" in run(runner, "inspect", image, "--option", "pixel_ara=wcs", code=1)
    assert "NAME=VALUE" in run(runner, "inspect", image, "--option", "wcs", code=2)
    assert "--psf" in run(runner, "inspect", image, "--option", "psf=a.psf", code=2)
    assert "no YAML" in run(runner, "inspect", image, "--option", "weight=[", code=2)
    assert "'ccds' is not an option of format 'fits'" in run(runner, "inspect", image, "--ccds", "t.fits", code=1)


def test_psf_by_settings(runner: CliRunner, tmp_path: Path) -> None:
    image = write_plain_image(tmp_path / "a.fits", RA, DEC, SIZE)
    y, x = np.mgrid[-15:16, -15:16] / 2
    fits.PrimaryHDU(np.exp(-(x**2 + y**2) / 4)).writeto(tmp_path / "psf.fits")
    settings = f"{{path: {tmp_path}/psf.fits, oversampling: 2, pixel_integrated: true}}"
    assert "PSF image psf.fits" in run(runner, "inspect", image, "--psf", settings)
    said = run(runner, "inspect", image, "--psf", str(tmp_path / "psf.fits"), code=1)
    assert "oversampling: 1" in said
    assert "--psf {kind: [}: no YAML" in run(runner, "inspect", image, "--psf", "{kind: [}", code=2)
    catalog = sources(tmp_path / "star.ecsv")
    run(runner, "inject", image, catalog, "-o", tmp_path / "out.fits", "--psf", settings)
    assert (tmp_path / "out.fits").is_file()


def test_an_index_of_every_image_of_a_file(runner: CliRunner, tmp_path: Path) -> None:
    image = write_plain_image(tmp_path / "a.fits", RA, DEC, SIZE)
    second = fits.ImageHDU(fits.getdata(image), fits.getheader(image), name="SECOND")
    second.header["CCDNUM"] = 2
    with fits.open(image, mode="append") as hdus:
        hdus.append(second)
    found = json.loads(run(runner, "index", image, "--option", "hdu=all", "--json"))["images"]
    assert [row["image_id"] for row in found] == ["testcam-77-1", "testcam-77-2"]


def test_an_index_that_is_piped_is_whole(runner: CliRunner, tmp_path: Path) -> None:
    folder = tmp_path / "a_folder_with_a_long_name" / "and_another_one_below_it" / "and_one_more"
    image = write_plain_image(folder / "image_with_a_long_name_too.fits", RA, DEC, SIZE)
    broken = tmp_path / "b.fits"
    broken.write_bytes(b"SIMPLE  =")
    result = runner.invoke(app, ["index", str(image), str(broken)])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert sum(str(image) in line for line in lines) == 1 and "…" not in result.stdout
    assert all(line == line.rstrip() for line in lines)
