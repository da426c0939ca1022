"""`skygraft catalog generate` and `skygraft catalog show`, as they are used."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from kits.generation_kit import STARS, circle, outline, write_outlines, write_survey
from skygraft.catalog import read_catalog
from skygraft.cli import app
from skygraft.generation import catalog_figure, generate_catalog, generate_table, summarise_catalog


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["catalog", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def said(*words):
    done = run(*words)
    assert done.exit_code == 1
    return " ".join(re.sub(r"\x1b\[\d*m", "", done.stderr).split())


def test_from_a_few_options(tmp_path):
    write_survey(tmp_path, [25.0], size=64)
    done = run("generate", "--footprint", "campaign.yaml", "--n", "400", "--mag", "18:26", "--star-fraction", "0.25")
    assert done.exit_code == 0, done.stderr
    assert "400" in done.stdout and "sources per square arcminute" in done.stdout
    table = read_catalog("fakes.parquet")
    assert len(table) == 400 and table.meta is not None
    assert np.mean(np.asarray(table["source_type"]) == "Star") == pytest.approx(0.25, abs=0.09)
    mag = table["mag_r"].value
    assert 18 <= mag.min() < 18.2 and 25.8 < mag.max() <= 26
    assert "the file exists" in said("generate", "--footprint", "campaign.yaml", "--n", "4", "--mag", "18:26")
    words = ("--footprint", "campaign.yaml", "--density", "500", "--below-depth", "-2:1", "--processes", "1", "--json")
    done = run("generate", *words, "--overwrite")
    summary = json.loads(done.stdout)
    assert summary["n"] == round(500 * (64 * 0.2 / 60) ** 2)
    assert "depths of 1 images in r" in summary["notes"][0]


def test_from_a_file_with_options(tmp_path):
    (tmp_path / "population.yaml").write_text(
        yaml.safe_dump({"area": circle(10, 0, 0.1), "bands": ["r"], "n": 50, "sources": STARS})
    )
    done = run("generate", "population.yaml", "-o", "a.parquet", "-n", "70", "--seed", "3", "--band", "g,r")
    assert done.exit_code == 0, done.stderr
    table = read_catalog("a.parquet")
    wanted = generate_table({"area": circle(10, 0, 0.1), "bands": ["g", "r"], "n": 70, "seed": 3, "sources": STARS})
    np.testing.assert_array_equal(table["ra"], wanted["ra"])
    np.testing.assert_array_equal(table["mag_g"], wanted["mag_g"])
    done = run(
        "generate", "population.yaml", "-o", "b.parquet", "--positions", "hexagonal", "--separation", "20 arcsec"
    )
    assert "hexagonal grid whose neighbours are" in done.stdout
    write_outlines(tmp_path / "index.parquet", [outline(10.05, 0.0, 0.1)])
    done = run("generate", "population.yaml", "-o", "c.parquet", "--footprint", "index.parquet")
    assert read_catalog("c.parquet")["ra"].value.min() > 9.999


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "5"], "neither a population.yaml nor --footprint"),
        (["--footprint", "index.parquet", "--n", "5"], "one of --mag and --below-depth is needed"),
        (["--footprint", "index.parquet", "--n", "5", "--mag", "18-26"], "two numbers are needed, such as 18:26"),
        (["--footprint", "index.parquet", "--n", "5", "--mag", "26:18"], "must be in order"),
        (["--footprint", "index.parquet", "--mag", "18:26"], "give n, the number of sources, or density"),
        (["--footprint", "index.parquet", "--n", "5", "--density", "5", "--mag", "1:2"], "--n and --density"),
        (["--footprint", "index.parquet", "--n", "5", "--mag", "18:26", "--band", "z"], "no image is of band z"),
        (["--footprint", "index.parquet", "--n", "5", "--mag", "18:26", "--seed", "-1"], "greater than or equal to 0"),
        (["--footprint", "absent.yaml", "--n", "5", "--mag", "18:26"], "no such file"),
        (["--footprint", "index.parquet", "--n", "5", "--mag", "18:26", "-o", "f.ecsv"], "written as Parquet"),
        (["population.yaml", "--mag", "18:26"], "--mag and a file are both given"),
        (["absent.yaml"], "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path, words, message):
    write_outlines(tmp_path / "index.parquet", [outline(10.0, 0.0, 0.1)])
    assert message in said("generate", *words)
    assert not list(tmp_path.glob("f*"))


def test_show_any_catalogue(tmp_path):
    sources = [
        {"type": "Star", "fraction": 0.5, "mag": {"kind": "uniform", "low": 18, "high": 24}},
        {"type": "Sersic", "mag": {"kind": "uniform", "low": 20, "high": 25}},
    ]
    spec = {"area": circle(0.0, 30.0, 0.2), "bands": ["r", "i"], "n": 4000, "sources": sources, "first_id": 7}
    generate_catalog(spec, tmp_path / "f.parquet")
    done = run("show", "f.parquet", "-o", "f.png")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    table = read_catalog("f.parquet")
    summary = summarise_catalog("f.parquet")
    kinds = np.asarray(table["source_type"])
    assert summary.types == {name: int(np.sum(kinds == name)) for name in ("Sersic", "Star")}
    assert summary.ids == (7, 4006)
    assert summary.ra[0] > 359.7 and summary.ra[1] < 0.3  # about 0, not all around
    assert summary.area == pytest.approx(np.pi * 0.2**2, rel=0.25)
    assert summary.bands["r"].median == pytest.approx(np.median(table["mag_r"].value), abs=0.01)
    assert summary.columns["half_light_radius"].n == int(np.sum(kinds == "Sersic"))
    figure = catalog_figure(summary)
    (offsets,) = [part.get_offsets() for part in figure.axes[2].collections]
    assert len(offsets) == int(np.sum(kinds == "Sersic"))
    table.write("f.ecsv")
    other = json.loads(run("show", "f.ecsv", "--json").stdout)
    assert other["n"] == 4000 and other["types"] == summary.types and other["n_flagged"] == 0
    assert "no such file" in said("show", "absent.parquet")
    assert "a plot is one of" in said("show", "f.parquet", "-o", "f.doc")


def test_help_says_what_there_is():
    assert {"generate", "show"} <= set(re.findall(r"\w+", run("--help").stdout))
    assert "population.yaml" in run("generate", "--help").stdout
