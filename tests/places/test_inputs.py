"""Images and tables in stores, as surveys have them: companions, CCD tables, indexes, light curves, commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from typer.testing import CliRunner

from kits.coadd_tiles import write_psfex
from kits.http_kit import FileServer
from kits.plain_images import write_plain_image
from kits.tiny_campaign import DEC, RA, write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.catalog import read_catalog
from skygraft.cli import app
from skygraft.config.campaign import parse_config
from skygraft.config.inputs import CalibrationConfig
from skygraft.errors import ConfigError
from skygraft.formats import read_exposure
from skygraft.place_names import url_of as url_for
from skygraft.places import bring, is_file, stubs
from skygraft.survey import index_images


def url_of(path: Path) -> str:
    return path.resolve().as_uri()


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    return write_tiny_campaign(tmp_path / "survey", 3).parent


def test_weights_beside_an_image_are_found_there(tmp_path: Path, web: FileServer) -> None:
    image = write_plain_image(web.folder / "a.fits", RA, DEC, 64)
    weight = np.full((64, 64), 4.0, "f4")
    fits.writeto(web.folder / "a.weight.fits", weight, fits.getheader(image))
    for url in (f"{web.url}/a.fits", url_of(image)):
        exposure = read_exposure(url)
        assert exposure.variance is not None and np.allclose(exposure.variance, 0.25)


def test_an_index_of_patterns_and_of_lists(survey: Path) -> None:
    folder = url_of(survey / "raw")
    found = index_images({"images": f"{folder}/*.fits"})
    here = index_images({"images": "raw/*.fits"}, survey)
    assert [*found["image_id"]] == [*here["image_id"]] and [*found["ra"]] == [*here["ra"]]
    assert [*found["path"]] == [f"{folder}/image-{i:03}.fits" for i in range(3)]
    some = index_images({"images": [f"{folder}/image-002.fits", f"{folder}/none.fits"]})
    assert len(some) == 1 and "there is no such file" in some.meta["failures"]["reason"][0]
    relative = index_images({"images": "raw/image-00[01].fits"}, url_of(survey))
    assert [*relative["path"]] == ["raw/image-000.fits", "raw/image-001.fits"]


def test_a_list_of_urls_of_a_web_server_is_a_campaign(survey: Path, web: FileServer, tmp_path: Path) -> None:
    shutil.copytree(survey / "raw", web.folder / "raw")
    shutil.copy(survey / "fakes.parquet", web.folder)
    content = yaml.safe_load((survey / "campaign.yaml").read_text())
    content["survey"]["images"] = [f"{web.url}/raw/image-00{i}.fits" for i in range(2)]
    content["catalog"]["path"] = f"{web.url}/fakes.parquet"
    config = parse_config(content, base_dir=tmp_path)
    assert config.resolved()["survey"]["root"] == f"{web.url}/raw"
    assert config.resolved()["survey"]["images"] == ["image-000.fits", "image-001.fits"]
    assert parse_config(config.resolved()) == config
    assert "storage" not in config.resolved() and "work" not in config.resolved()
    assert Campaign(config).run(n_workers=0).n_done == 2
    assert sorted(p.name for p in (tmp_path / "out/images").glob("*[0-9].fits")) == ["image-000.fits", "image-001.fits"]


def test_an_index_of_several_places(survey: Path, web: FileServer, tmp_path: Path) -> None:
    """The table names URLs, and workers need nothing else."""
    shutil.copy(survey / "raw/image-000.fits", web.folder)
    images = [f"{web.url}/image-000.fits", url_of(survey / "raw/image-001.fits")]
    table = tmp_path / "index.parquet"
    result = CliRunner().invoke(app, ["index", *images, "-o", str(table)])
    assert result.exit_code == 0, result.output
    content = yaml.safe_load((survey / "campaign.yaml").read_text())
    content["survey"] = {"index": url_of(table), "calibration": content["survey"]["calibration"]}
    content |= {"catalog": {"path": url_of(survey / "fakes.parquet")}, "output": str(tmp_path / "two")}
    campaign = Campaign(parse_config(content))
    summary = campaign.run(n_workers=0)
    assert summary.n_done == 2, summary.failures
    from skygraft.records.plan_file import read_plan

    assert sorted(image.path for image in read_plan(campaign.layout.plan)) == sorted(images)
    stubs._seen.clear()
    assert campaign.run(n_workers=0).n_skipped == 2


def test_commands_take_urls(survey: Path, tmp_path: Path) -> None:
    image, fakes = url_of(survey / "raw/image-000.fits"), url_of(survey / "fakes.parquet")
    shown = CliRunner().invoke(app, ["inspect", image, "--psf", "moffat:0.8 arcsec"])
    assert shown.exit_code == 0 and shown.output.startswith(image), shown.output + shown.stderr
    output = tmp_path / "injected.fits"
    done = CliRunner().invoke(app, ["inject", image, fakes, "-o", str(output), "--psf", "moffat:0.8 arcsec"])
    assert done.exit_code == 0 and output.exists(), done.output
    for command in ("show", "validate"):
        listed = CliRunner().invoke(app, ["catalog", command, fakes, "--json"])
        assert listed.exit_code == 0 and url_for(json.loads(listed.output)["path"]) in (None, fakes), listed.output
    missing = CliRunner().invoke(app, ["catalog", "show", f"{fakes}.none"])
    assert missing.exit_code == 1 and f"{fakes}.none: there is no such file" in missing.output + missing.stderr
    refused = CliRunner().invoke(app, ["inject", image, fakes, "-o", "s3://bucket/x.fits"])
    assert refused.exit_code == 1 and "writes files of this machine" in refused.output + refused.stderr


def test_a_catalogue_at_a_url(survey: Path) -> None:
    here, there = read_catalog(survey / "fakes.parquet"), read_catalog(url_of(survey / "fakes.parquet"))
    assert (here == there).all()


@pytest.mark.parametrize(
    ("survey_section", "words"),
    [
        ({"images": ["s3://a/x.fits", "s3://b/y.fits"]}, "several stores or buckets"),
        ({"images": ["s3://a/x.fits", "y.fits"]}, "has URLs and 'y.fits'"),
        ({"images": "s3://a/x/*.fits", "root": "s3://a/y"}, "is not in the root"),
    ],
)
def test_images_that_cannot_be_one_survey(survey_section: dict[str, object], words: str) -> None:
    content = {"name": "x", "survey": survey_section, "catalog": {"path": "c.parquet"}, "output": "out"}
    with pytest.raises(ConfigError, match=words):
        parse_config(content)


def test_outputs_that_cannot_be_written() -> None:
    content = {"name": "x", "survey": {"images": "s3://a/x.fits"}, "catalog": {"path": "c"}}
    with pytest.raises(ConfigError, match="work belongs to an output that is a URL"):
        parse_config(content | {"output": "out", "work": "w"})
    with pytest.raises(ConfigError, match="outputs would be mistaken"):
        parse_config(content | {"output": "s3://a"})
    config = parse_config(content | {"output": "https://host/out"})
    with pytest.raises(OSError, match="cannot be written by HTTP"):
        Campaign(config).run(n_workers=0)


def test_the_work_folder_can_be_chosen(tmp_path: Path) -> None:
    content = {"name": "x", "survey": {"images": "s3://a/x.fits"}, "catalog": {"path": "c"}, "output": "s3://b/o"}
    config = parse_config(content | {"work": "here"}, base_dir=tmp_path)
    assert config.output.is_relative_to(tmp_path / "here")
    assert config.resolved()["output"] == "s3://b/o" and config.resolved()["work"] == str(tmp_path / "here")
    assert parse_config(config.resolved()).output == config.output


def test_a_psf_at_a_url(survey: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_psfex(tmp_path / "models/image-000.psf")
    folder, image = url_of(tmp_path / "models"), survey / "raw/image-000.fits"
    here = read_exposure(image, psf=tmp_path / "models/image-000.psf")
    there = read_exposure(url_of(image), psf=f"{folder}/image-000.psf")
    assert here.psf is not None and there.psf is not None
    assert np.array_equal(here.psf.kernels(10.0, 10.0), there.psf.kernels(10.0, 10.0))
    of_image = CalibrationConfig(psf=f"{folder}/{{stem}}.psf").psf_of(bring(url_of(image)))
    assert isinstance(of_image, Path) and is_file(of_image) and url_for(of_image) == f"{folder}/image-000.psf"


def test_settings_of_a_psf_at_a_url_and_commands(survey: Path, tmp_path: Path) -> None:
    write_psfex(tmp_path / "star.psf")
    url, image = url_of(tmp_path / "star.psf"), survey / "raw/image-000.fits"
    here = read_exposure(image, psf=tmp_path / "star.psf")
    there = read_exposure(image, psf={"path": url})
    assert here.psf is not None and there.psf is not None
    assert np.array_equal(here.psf.kernels(10.0, 10.0), there.psf.kernels(10.0, 10.0))
    for given in (url, f"{{path: '{url}'}}"):
        shown = CliRunner().invoke(app, ["inspect", str(image), "--psf", given])
        assert shown.exit_code == 0 and "PSFEx" in shown.output, shown.output + shown.stderr
        output = ["-o", str(tmp_path / "out.fits"), "--overwrite"]
        done = CliRunner().invoke(app, ["inject", str(image), str(survey / "fakes.parquet"), "--psf", given, *output])
        assert done.exit_code == 0, done.output + done.stderr


def test_visits_at_urls(survey: Path) -> None:
    from skygraft.cli.consistency import _files

    folder = url_of(survey / "raw")
    found = _files([f"{folder}/image-*.fits", f"{folder}/image-001.fits"], survey / "raw/image-000.fits")
    assert [path.name for path in found if is_file(path)] == ["image-001.fits", "image-002.fits"]
    with pytest.raises(ConfigError, match="no file matches"):
        _files([f"{folder}/none-*.fits"], survey / "raw/image-000.fits")
