"""The commands ``catalog validate`` and ``catalog convert``, and what lies under them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import QTable
from typer.testing import CliRunner

from kits.hats_kit import sky_rows, write_collection
from skygraft.catalog import read_catalog, write_catalog
from skygraft.catalog.conversion import convert_catalog
from skygraft.catalog.inspection import inspect_catalog
from skygraft.cli import app
from skygraft.errors import CatalogError, OutputExistsError

N = 60


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["catalog", *map(str, arguments)])
    assert result.exit_code == code, result.output + (repr(result.exception) if result.exception else "")
    return result.output


def catalogue(**changes):
    rng = np.random.default_rng(2)
    columns = {
        "injection_id": np.arange(N),
        "ra": rng.uniform(150, 151, N) * u.deg,
        "dec": rng.uniform(2, 3, N) * u.deg,
        "source_type": np.where(np.arange(N) % 3 == 0, "Sersic", "Star"),
        "mag_r": np.linspace(18, 24, N) * u.mag,
        "mag_g": np.where(np.arange(N) < 5, np.nan, 21.0) * u.mag,
        "n": np.where(np.arange(N) % 3 == 0, 1.0, np.nan),
        "half_light_radius": np.where(np.arange(N) % 3 == 0, 0.5, np.nan) * u.arcsec,
        "visit": np.where(np.arange(N) < 10, 7, -1),
        "note": ["text"] * N,
    }
    return QTable(columns | changes)


def test_a_good_catalogue(tmp_path):
    write_catalog(catalogue(), tmp_path / "cat.parquet")
    report = inspect_catalog(tmp_path / "cat.parquet", chunk_rows=13)
    assert (report.format, report.dialect, report.n_rows, report.problems, report.notes) == (
        "parquet",
        "native",
        N,
        [],
        [],
    )
    assert report.source_types == {"Star": 40, "Sersic": 20}
    assert (report.bands["r"].n, report.bands["r"].brightest, report.bands["r"].faintest) == (N, 18.0, 24.0)
    assert report.bands["g"].n == N - 5
    assert report.contents == {"of one visit only": 10}
    assert report.unused == ["note"]
    assert report.units["half_light_radius"] == "arcsec"
    text = run("validate", tmp_path / "cat.parquet")
    assert "nothing is wrong with it" in text and "Star: 40" in text and "r: 60 sources, 18.00 to 24.00 mag" in text
    assert json.loads(run("validate", tmp_path / "cat.parquet", "--json"))["n_rows"] == N


@pytest.mark.parametrize("chunk_rows", [11, 1000])
def test_all_kinds_of_problems_with_counts_and_first_rows(tmp_path, chunk_rows):
    row = np.arange(N)
    bad = catalogue(
        source_type=np.where(row % 20 == 1, "Stra", np.where(row % 3 == 0, "Sersic", "Star")),
        half_light_radius=np.where(row % 3 == 0, np.where(row % 6 == 0, -1.0, 0.5), np.nan) * u.arcsec,
        mag_r=np.where(row == 50, np.inf, 20.0) * u.mag,
        injection_id=np.where(row == 59, 3, row),
        pm_dec=np.where(row == 8, 5.0, 0.0) * u.mas / u.yr,
    )
    pq.write_table(_arrow(bad), tmp_path / "bad.parquet")
    report = inspect_catalog(tmp_path / "bad.parquet", chunk_rows=chunk_rows)
    found = {problem.text.split()[0]: problem for problem in report.problems}
    assert (found["source_type"].n, found["source_type"].rows) == (3, (1, 21, 41))
    assert (found["half_light_radius"].n, found["half_light_radius"].rows[:3]) == (10, (0, 6, 12))
    assert (found["mag_r"].n, found["mag_r"].rows) == (1, (50,))
    assert (found["a"].n, found["a"].rows) == (1, (8,))  # a moving source needs epoch_mjd
    assert "injection ids occur twice: 3 (rows 3 and 59)" in found["row"].text
    assert all(found[name].keepable for name in ("source_type", "half_light_radius", "mag_r", "a"))
    assert len(report.problems) == 5
    text = run("validate", tmp_path / "bad.parquet", code=1)
    assert "5 problems" in text and "10 rows, such as half_light_radius = -1" in text
    assert "Rows 1 (injection_id 1), 21 (injection_id 21)" in text


def _arrow(table):
    from skygraft.catalog.io import to_arrow

    return to_arrow(table)


def test_degrees_taken_for_radians_and_radians_for_degrees(tmp_path):
    old = QTable({"fakeId": np.arange(N), "sourceType": ["star"] * N, "r_mag": np.full(N, 20.0)})
    old["ra"], old["dec"] = np.full(N, 150.1), np.full(N, 2.2)
    old.write(tmp_path / "degrees.fits")
    report = inspect_catalog(tmp_path / "degrees.fits")
    assert report.dialect == "insertfakes"
    assert any("taken as radians" in problem.text and problem.n == N for problem in report.problems)
    assert not any(problem.keepable for problem in report.problems)
    turned = catalogue(ra=np.full(N, 2.62) * u.deg, dec=np.full(N, 0.04) * u.deg)
    write_catalog(turned, tmp_path / "radians.ecsv")
    report = inspect_catalog(tmp_path / "radians.ecsv")
    assert report.problems == []
    assert any("as if they were radians" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half_light_radius": np.full(N, 0.5) * u.s}, "is in s, which cannot be converted to arcsec"),
        ({"injection_id": np.full(N, 2**63, dtype=np.uint64)}, "beyond the largest whole number that fits"),
        ({"visit": np.full(N, 1.5)}, "is not a whole number"),
        ({"stamp": ["gone.fits"] * N}, "the stamp 'gone.fits' is not at"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, changes, message):
    catalogue(**changes).write(tmp_path / "cat.fits")
    report = inspect_catalog(tmp_path / "cat.fits")
    assert len(report.problems) == 1 and message in report.problems[0].text
    assert message in run("validate", tmp_path / "cat.fits", code=1).replace("\n", " ")


def test_dialects_that_cannot_be_told_apart_and_notes(tmp_path):
    both = catalogue(galaxy_id=np.arange(N), size_bulge_true=np.ones(N), size_disk_true=np.ones(N))
    write_catalog(both, tmp_path / "both.parquet")
    report = inspect_catalog(tmp_path / "both.parquet")
    assert "match 2 dialects" in report.problems[0].text and report.dialect == ""
    assert inspect_catalog(tmp_path / "both.parquet", dialect="native").problems == []
    odd = catalogue(
        mag_i=np.full(N, 5e4), mag_z=np.full(N, np.nan), halflight_radius=np.ones(N), source_type=["Star"] * N
    )
    odd.remove_column("half_light_radius")
    write_catalog(odd, tmp_path / "odd.parquet")
    notes = " ".join(inspect_catalog(tmp_path / "odd.parquet").notes)
    assert "are these AB magnitudes?" in notes and "nothing is drawn in z" in notes
    assert "Did you mean 'half_light_radius'" in notes
    assert "there is no such file" in run("validate", tmp_path / "none.parquet", code=1)


@pytest.mark.parametrize("name", ["out.parquet", "out.fits", "out.ecsv", "out.vot", "hats"])
@pytest.mark.parametrize("source", ["cat.fits", "hats-in"])
def test_between_all_formats(tmp_path, source, name):
    if source == "hats-in":
        write_collection(tmp_path / source, sky_rows(N), order=1)
        before = read_catalog(tmp_path / source)
    else:
        catalogue().write(tmp_path / source)
        before = read_catalog(tmp_path / source)
    hats = ["--hats"] if name == "hats" else []
    run("convert", tmp_path / source, tmp_path / name, *hats)
    after = read_catalog(tmp_path / name)
    a, b = before.copy(), after.copy()
    for table in (a, b):
        table.sort("injection_id")
    assert a.colnames == b.colnames
    for column in a.colnames:
        np.testing.assert_array_equal(np.asarray(a[column]), np.asarray(b[column]), err_msg=column)
    assert "already" in run("convert", tmp_path / source, tmp_path / name, *hats, code=1).replace("\n", " ")
    run("convert", tmp_path / source, tmp_path / name, "--overwrite", *hats)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rows_are_selected_and_columns_mapped(tmp_path):
    survey = QTable(
        {"ID": np.arange(N) * 3, "RA": np.full(N, 10.0), "DE": np.full(N, 1.0), "r": np.linspace(18, 24, N)}
    )
    survey.write(tmp_path / "survey.fits")
    columns = ["injection_id=ID", "ra=RA", "dec=DE", "mag_r=r", "source_type==Star"]
    options = [part for pair in columns for part in ("--columns", pair)]
    text = run("convert", tmp_path / "survey.fits", tmp_path / "out.parquet", *options, "--select", "mag_r < 20.01")
    table = read_catalog(tmp_path / "out.parquet")
    assert table["injection_id"].tolist() == (np.flatnonzero(np.linspace(18, 24, N) < 20.01) * 3).tolist()
    assert f"{len(table)} of {N} rows, native columns" in text
    assert "dialect" in run("validate", tmp_path / "survey.fits", *options)
    out = tmp_path / "none.parquet"
    for select, message in (("mag_r < 0", "none of 60 rows is selected"), ("mag_q < 0", "no column 'mag_q'")):
        text = run("convert", tmp_path / "survey.fits", out, *options, "--select", select, code=1)
        assert message in text.replace("\n", " ")
        assert not out.exists()
    with pytest.raises(CatalogError, match="twice"):
        doubled = QTable({**dict(survey.items()), "ID": np.arange(N) // 2})
        doubled.write(tmp_path / "doubled.fits")
        convert_catalog(tmp_path / "doubled.fits", out, columns={**dict(p.split("=", 1) for p in columns)})


def test_large_files_are_streamed(tmp_path):
    n = 5000
    pq.write_table(
        pa.table({key: pa.array(v.tolist()) for key, v in sky_rows(n).items()}),
        tmp_path / "in.parquet",
        row_group_size=500,
    )
    seen = []
    for name, hats in (("out.parquet", False), ("hats", True)):
        seen.clear()
        done = convert_catalog(
            tmp_path / "in.parquet",
            tmp_path / name,
            hats=hats,
            chunk_rows=600,
            progress=seen.append,
            select="mag_r < 20",
        )
        assert max(seen) <= 600 and sum(seen) == done.n_read == n
        assert 0 < done.n_written == len(read_catalog(tmp_path / name)) < n


def test_a_campaign_s_truth_is_copied_as_it_is(tmp_path):
    for patch in range(12):
        rows = {
            "injection_id": [1, 2], "image_id": [f"v{patch}"] * 2, "ra": [10.0 + patch, 11.0], "dec": [1.0, 2.0],
            "source_type": ["Star"] * 2, "mag": [20.0, 21.0], "inst_flux": [1.0, 2.0], "is_primary": [True, patch == 3],
        }  # fmt: skip
        path = tmp_path / f"truth/tract=0/patch={patch}/part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(rows), path)
    done = convert_catalog(tmp_path / "truth", tmp_path / "hats", hats=True, select="is_primary", max_rows=4)
    assert (done.as_is, done.n_read, done.n_written, done.hats.n_rows) == (True, 24, 13, 13)
    about = (done.hats.catalogue / "hats.properties").read_text()
    assert "dataproduct_type=source" in about
    convert_catalog(tmp_path / "hats", tmp_path / "back.ecsv")
    back = QTable.read(tmp_path / "back.ecsv")
    assert sorted(back["patch"].tolist()) == sorted([*range(12), 3])
    assert set(back["tract"].tolist()) == {0}
    with pytest.raises(OutputExistsError):
        convert_catalog(tmp_path / "truth", tmp_path / "back.ecsv")
    with pytest.raises(CatalogError, match="CSV files lose the units"):
        convert_catalog(tmp_path / "truth", tmp_path / "back.csv")


def test_any_table_as_it_is_by_its_own_positions(tmp_path):
    pq.write_table(pa.table({"RAJ2000": [1.0, 2.0], "DEJ2000": [3.0, 4.0], "z": [0.1, 0.2]}), tmp_path / "t.parquet")
    pairs = ["--columns", "ra=RAJ2000", "--columns", "dec=DEJ2000"]
    run("convert", tmp_path / "t.parquet", tmp_path / "hats", "--hats", "--as-is", *pairs)
    assert "hats_col_ra=RAJ2000" in (tmp_path / "hats/hats/hats.properties").read_text()


def test_windows_that_end_before_they_begin_are_found(tmp_path):
    begin = np.full(N, 60000.0)
    end = np.where(np.arange(N) < 3, 59999.0, 60010.0)
    QTable(catalogue(mjd_from=begin, mjd_to=end)).write(tmp_path / "cat.ecsv")
    text = run("validate", tmp_path / "cat.ecsv", code=1)
    assert "3 rows" in text and "mjd_to = 59999 is not after mjd_from = 60000: no image is at such a time" in " ".join(
        text.split()
    )


def test_tables_in_no_dialect_are_told_how_to_name_columns(tmp_path):
    table = QTable({"id": [1], "RAJ2000": [10.0], "DEJ2000": [0.0], "rmag": [20.0]})
    table.write(tmp_path / "own.ecsv")
    text = " ".join(run("validate", tmp_path / "own.ecsv", code=1).split())
    assert "columns={'ra': 'RAJ2000'" in text and "Here: --columns" in text
    names = ["injection_id=id", "ra=RAJ2000", "dec=DEJ2000", "mag_r=rmag", "source_type==Star"]
    options = [part for name in names for part in ("--columns", name)]
    assert "mag_r" in run("show", tmp_path / "own.ecsv", *options)


def test_half_a_motion_is_refused_and_none_is_not(tmp_path):
    rate = np.where(np.arange(N) < 2, np.nan, 1.0)
    moving = np.where(np.arange(N) < 1, np.nan, 1.0)  # the first does not move, of the second half is missing
    table = catalogue(rate_ra_cosdec=rate, rate_dec=moving, epoch_mjd=np.full(N, 60000.0))
    table.write(tmp_path / "cat.ecsv")
    text = " ".join(run("validate", tmp_path / "cat.ecsv", code=1).split())
    assert "1 row, such as rate_ra_cosdec = nan and rate_dec = 1: give both, or neither" in text
    kept = read_catalog(tmp_path / "cat.ecsv", on_bad="flag")
    assert np.flatnonzero(kept["flags"]).tolist() == [1] and kept["rate_dec"][0] == 0
