"""Commands that place sources by others: hosts and groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from kits.plain_images import plain_header
from skygraft import read_catalog
from skygraft.cli.catalog import app

RUN = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Table({"injection_id": np.arange(20), "mag_r": np.full(20, 22.0), "far": np.linspace(0.1, 2.0, 20)}).write("sn.csv")
    columns = {"injection_id": [7, 8], "ra": [10.0, 20.0], "dec": [0.0, 5.0], "source_type": ["Sersic"] * 2}
    columns |= {
        "n": [1.0, 4.0],
        "half_light_radius": [1.0, 0.5],
        "q": [0.5, 0.9],
        "pa": [0.0, 40.0],
        "mag_r": [20.0, 21.0],
    }
    Table(columns).write("galaxies.csv")
    return tmp_path


def test_transients_get_hosts(here: Path) -> None:
    done = RUN.invoke(app, ["hosts", "sn.csv", "galaxies.csv", "-o", "out.ecsv", "--weights", "mag_r", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert "20 transients in 2 hosts: out.ecsv" in done.output
    table = read_catalog("out.ecsv")
    assert set(table["host_id"]) == {7, 8} and (table["source_type"] == "Star").all()
    arguments = ["hosts", "sn.csv", "galaxies.csv", "-o", "out.ecsv", "--weights", "uniform", "--separation", "far"]
    again = RUN.invoke(app, [*arguments, "--pa", "0"])
    assert again.exit_code == 1 and "is there already" in again.output
    assert RUN.invoke(app, [*arguments, "--pa", "0", "--overwrite"]).exit_code == 0
    table = read_catalog("out.ecsv")
    centre = np.where(table["host_id"] == 7, 0.0, 5.0)
    assert (table["dec"].value - centre) * 3600 == pytest.approx(np.linspace(0.1, 2.0, 20), abs=1e-8)


def test_real_galaxies_are_hosts_by_their_image(here: Path) -> None:
    header = plain_header(10.0, 0.0, 64)
    fits.PrimaryHDU(np.zeros((64, 64), np.float32), header).writeto("image.fits")
    Table({"NUMBER": [4], "ALPHA_J2000": [10.0], "DELTA_J2000": [0.0], "FLUX_RADIUS": [5.0], "ELONGATION": [2.0],
           "THETA_IMAGE": [90.0]}).write("sex.csv")  # fmt: skip
    arguments = ["hosts", "sn.csv", "sex.csv", "-o", "out.parquet", "--weights", "uniform", "--radii", "1", "--pa", "0"]
    wrong = RUN.invoke(app, [*arguments, "--seeing", "0.7"])
    assert wrong.exit_code == 1 and "--detections" in wrong.output
    wrong = RUN.invoke(app, [*arguments, "--detections"])
    assert wrong.exit_code == 1 and "no WCS" in wrong.output and "Here: --image" in wrong.output
    Table(
        {"NUMBER": [4], "ALPHA_J2000": [10.0], "DELTA_J2000": [0.0], "SIZE": [1.5], "BA": [0.5], "PHI": [90.0]}
    ).write("own.csv")
    own = ["hosts", "sn.csv", "own.csv", "-o", "own.ecsv", "--weights", "uniform", "--radii", "1", "--pa", "0"]
    named = ["--detections", "--columns", "half_light_radius=SIZE", "--columns", "q=BA"]
    wrong = RUN.invoke(app, [*own, *named])
    assert wrong.exit_code == 1 and "Here: --circular, --columns" in wrong.output
    wrong = RUN.invoke(app, [*own, *named, "--columns", "phi=PHI"])
    assert wrong.exit_code == 1 and "theta_image" in wrong.output
    assert RUN.invoke(app, [*own, *named, "--columns", "pa=PHI"]).exit_code == 0
    done = RUN.invoke(app, [*arguments, "--detections", "--image", "image.fits"])
    assert done.exit_code == 0, done.output
    # 5 pixels of 0.2 arcsec, along the major axis, which is up: North.
    assert read_catalog("out.parquet")["dec"].value * 3600 == pytest.approx(np.full(20, np.sqrt(2.0)), rel=1e-3)


def test_groups_are_placed(here: Path) -> None:
    Table({"source_type": ["Star"] * 2, "offset_east": [0.0, 1.0], "mag_r": [20.0, 21.0]}).write("pair.csv")
    Table({"ra": [10.0, 20.0, 30.0], "dec": [0.0] * 3, "rotation": [0.0, 90.0, 0.0]}).write("places.csv")
    done = RUN.invoke(app, ["groups", "pair.csv", "places.csv", "-o", "out.fits", "--first-id", "50"])
    assert done.exit_code == 0, done.output
    assert "6 sources in 3 groups: out.fits" in done.output
    table = read_catalog("out.fits")
    assert list(table["injection_id"]) == [50, 51, 52, 53, 54, 55] and list(table["group_id"]) == [0, 0, 1, 1, 2, 2]
    # East turned by 90 degrees towards East from North: South.
    assert table["dec"][3].value * 3600 == pytest.approx(-1.0)


def test_errors_name_the_files(here: Path) -> None:
    Table({"injection_id": [1], "mag_r": [22.0], "host_id": [99]}).write("lost.csv")
    wrong = RUN.invoke(app, ["hosts", "lost.csv", "galaxies.csv", "-o", "out.ecsv"])
    assert wrong.exit_code == 1 and "lost.csv, with hosts of galaxies.csv" in wrong.output, wrong.output
    Table({"source_type": ["Star"], "mag_r": [22.0]}).write("members.csv")
    Table({"RA": [10.0], "dec": [0.0]}).write("places.csv")
    wrong = RUN.invoke(app, ["groups", "members.csv", "places.csv", "-o", "out.ecsv"])
    assert wrong.exit_code == 1 and "members.csv at places.csv" in wrong.output
    assert "have no ra; their columns are RA, dec" in wrong.output
