"""Catalogues that cannot be used, or not wholly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from skygraft import inject, read_catalog
from skygraft.catalog import Flag
from skygraft.errors import CatalogError, ConfigError, CorruptFileError
from skygraft.testing import make_exposure

SERSIC = {
    "source_type": np.array(["Star"] * 8 + ["Sersic"]),
    "half_light_radius": np.full(9, 0.5) * u.arcsec,
    "q": np.full(9, 0.5),
    "pa": np.full(9, 5.0) * u.deg,
}


def changed(values: Any, row: int, value: float) -> np.ndarray:
    out = np.array(values, dtype=float)
    out[row] = value
    return out


# Column(s), the row in the message, and words of it.
BAD_ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown type": (
        {"source_type": np.array(["Star"] * 8 + ["Sersik"])},
        ("row 8 (injection_id 8)", "source_type 'Sersik'", "did you mean 'Sersic'?", "on_bad='flag'"),
    ),
    "sersic n too large": (
        {**SERSIC, "n": np.full(9, 12.0)},
        ("row 8", "n = 12 is not in [0.3, 6.2]", "on_bad='flag'"),
    ),
    "sersic n too small": ({**SERSIC, "n": np.full(9, 0.1)}, ("row 8", "n = 0.1 is not in [0.3, 6.2]")),
    "sersic without n": (SERSIC, ("row 8", "n = nan")),
    "ra 370": ({"ra": changed(np.full(9, 150.1), 4, 370.0) * u.deg}, ("row 4", "ra = 370", "[0, 360] deg", "Correct")),
    "dec 95": ({"dec": changed(np.full(9, 2.2), 4, 95.0) * u.deg}, ("row 4", "dec = 95", "[-90, 90] deg")),
    "ra nan": ({"ra": changed(np.full(9, 150.1), 4, np.nan) * u.deg}, ("row 4", "ra = nan")),
    "infinite magnitude": ({"mag_r": changed(np.full(9, 20.0), 3, -np.inf) * u.mag}, ("row 3", "mag_r = -inf")),
    "id twice": ({"injection_id": np.array([*range(8), 3])}, ("injection_id", "3 (rows 3 and 8)", "its own id")),
    "id not whole": ({"injection_id": np.arange(9) + 0.5}, ("row 0", "injection_id", "0.5", "Correct it")),
    "id negative": ({"injection_id": np.arange(9) - 4}, ("row 0", "injection_id", "0 or more")),
    "text for a magnitude": ({"mag_r": np.array(["19"] * 5 + ["n/a"] + ["19"] * 3)}, ("row 5", "mag_r", "'n/a'")),
    "flux for a magnitude": ({"mag_r": np.full(9, 20.0) * u.Jy}, ("mag_r", "Jy", "mag")),
    "ra in metres": ({"ra": np.full(9, 150.1) * u.m}, ("key ra", "in m", "deg")),
    "no magnitudes": ({"mag_r": None}, ("match no dialect", "mag_<band>", "The columns are: dec, injection_id")),
    "another band": ({"mag_r": None, "mag_i": np.full(9, 20.0) * u.mag}, ("no band 'r'", "it has i", "band")),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_with_its_value_by_command_line_and_api(night: Any, name: str) -> None:
    columns, words = BAD_ROWS[name]
    path = night.write_catalog("bad.ecsv", **columns)
    night.refused("bad.ecsv", *words, catalog=path)
    with pytest.raises(CatalogError) as caught:
        read_catalog(path, band="r")
    assert caught.value.path == str(path)


@pytest.mark.parametrize("name", ["unknown type", "ra 370", "id twice", "sersic n too large"])
def test_a_campaign_refuses_a_bad_row_before_any_image(night: Any, expect: Any, name: str) -> None:
    columns, words = BAD_ROWS[name]
    night.write_image("ccd_1.fits")
    path = night.write_catalog("bad.ecsv", **columns)
    config = night.write_campaign(catalog={"path": path.name})
    expect.failed(night.run("run", config, "--workers", "0"), "bad.ecsv", *words)
    assert night.outputs() == []
    assert not (night.folder / "out" / "plan.parquet").exists()
    with pytest.raises(CatalogError):
        night.campaign(catalog={"path": path.name}).run(n_workers=0)


def test_rows_that_cannot_be_drawn_are_kept_flagged_on_request(night: Any) -> None:
    columns, _ = BAD_ROWS["unknown type"]
    path = night.write_catalog("bad.ecsv", **columns)
    result = night.inject("--on-bad", "flag", catalog=path)
    assert result.exit_code == 0, result.output
    assert "8 drawn of 9" in result.stdout and "1 x TYPE_UNKNOWN" in result.stdout
    night.write_image("ccd_1.fits")
    summary = night.campaign(catalog={"path": path.name, "on_bad": "flag"}).run(n_workers=0)
    assert (summary.n_done, summary.n_drawn, summary.ok) == (1, 8, True)


def test_missing_magnitudes_are_flagged_and_the_rest_is_drawn(night: Any) -> None:
    mag = changed(changed(np.linspace(18, 20, 9), 2, np.nan), 5, np.nan)
    path = night.write_catalog("gaps.ecsv", mag_r=mag * u.mag)
    truth = night.folder / "truth.ecsv"
    result = night.inject("--truth", truth, catalog=path)
    assert result.exit_code == 0, result.output
    assert "7 drawn of 9" in result.stdout and "2 x MAG_BAD" in result.stdout
    flags = np.asarray(Table.read(truth)["flags"])
    assert np.flatnonzero(flags & int(Flag.MAG_BAD)).tolist() == [2, 5]
    night.write_image("ccd_1.fits")
    assert night.campaign(catalog={"path": path.name}).run(n_workers=0).n_drawn == 7
    injection = inject(make_exposure((120, 120), center=(150.1, 2.2)), night.sources(mag_r=mag * u.mag))
    assert injection.summary["n_drawn"] == 7 and injection.summary["flags"]["MAG_BAD"] == 2


@pytest.mark.parametrize("mag", [-5000.0, -500.0, -60.0])
def test_a_flux_that_no_pixel_holds_is_flagged_not_infinite(mag: float) -> None:
    exposure = make_exposure((120, 120), center=(150.1, 2.2))
    night_sources = Table({"injection_id": [1, 2], "ra": [150.1, 150.101], "dec": [2.2, 2.2], "mag_r": [mag, 20.0]})
    night_sources["source_type"] = "Star"
    injection = inject(exposure, night_sources)
    assert injection.summary["flags"] == {"MAG_BAD": 1}
    assert np.isfinite(injection.exposure.image).all()
    assert np.isfinite(injection.exposure.variance).all()


@pytest.mark.parametrize(
    ("columns", "flag"),
    [({"mag_r": np.full(9, np.nan) * u.mag}, "9 x MAG_BAD"), ({"dec": np.full(9, -40.0) * u.deg}, "9 x NO_OVERLAP")],
    ids=["no magnitude", "elsewhere"],
)
def test_nothing_to_draw_writes_nothing(night: Any, columns: dict[str, Any], flag: str) -> None:
    path = night.write_catalog("none.ecsv", **columns)
    night.refused("none.ecsv", "none of the 9 sources", "image.fits", flag, "same field", catalog=path)


def test_a_catalogue_that_touches_no_image_of_a_campaign(night: Any, expect: Any) -> None:
    night.write_image("ccd_1.fits")
    path = night.write_catalog("far.ecsv", dec=np.full(9, -40.0) * u.deg)
    config = night.write_campaign(catalog={"path": path.name})
    words = ("far.ecsv", "none of the 9 sources", "-40.0000", "2.2000", "same field")
    expect.failed(night.run("run", config, "--workers", "0"), *words)
    assert night.outputs() == []


def test_no_magnitudes_for_the_band_of_a_campaigns_images(night: Any) -> None:
    night.write_image("ccd_1.fits")
    night.write_image("ccd_2.fits", detector=2, FILTER="i")
    config = night.write_campaign()
    plan = night.run("plan", config)
    assert plan.exit_code == 1
    assert "1 images are in band i, for which the catalogue has no magnitudes (it has r)" in " ".join(
        plan.stdout.split()
    )
    result = night.run("run", config, "--workers", "0")
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "no magnitudes in band 'i'; it has r. Add a column mag_i" in said
    assert night.outputs() == ["ccd_1.fits"]


def empty(path: Path) -> None:
    Table({"injection_id": [1], "ra": [1.0], "dec": [1.0], "source_type": ["Star"], "mag_r": [1.0]})[:0].write(path)


def truncated_table(path: Path) -> None:
    Table({"a": np.arange(4000)}).write(path)
    path.write_bytes(path.read_bytes()[:-4000])


def image_only(path: Path) -> None:
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(path)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("empty.ecsv", empty, ("no rows", "at least one source")),
        ("empty.fits", empty, ("no rows", "at least one source")),
        ("zero.ecsv", Path.touch, ("empty (0 bytes)", "again")),
        ("zero.parquet", Path.touch, ("empty (0 bytes)", "again")),
        ("half.fits", truncated_table, ("truncated", "again")),
        ("not.parquet", lambda p: p.write_bytes(b"hello"), ("not a readable Parquet file", "again")),
        ("not.ecsv", lambda p: p.write_bytes(b"hello\n1 2\n"), ("not a readable ecsv table", "ending")),
        ("binary.csv", lambda p: p.write_bytes(b"\xff\xfe\x00,\n,,"), ("not a readable csv table", "ending")),
        ("image.fits.gz", lambda p: None, ("there is no such file", "path")),
        ("folder.fits", Path.mkdir, ("no Parquet file", "Give a file")),
        ("only.fits", image_only, ("holds no table", "binary table")),
        ("fakes.dat", lambda p: p.write_text("x"), ("ending is none of", ".ecsv", "Rename")),
    ],
)
def test_catalogue_files_that_cannot_be_read(night: Any, name: str, make: Any, words: tuple[str, ...]) -> None:
    path = night.folder / name
    make(path)
    night.refused(name, *words, catalog=path)
    with pytest.raises((CatalogError, CorruptFileError)):
        read_catalog(path)


@pytest.mark.parametrize("ending", ["fits", "ecsv", "csv"])
def test_masked_magnitudes_are_missing_ones(night: Any, ending: str) -> None:
    table = Table(night.sources())
    table["mag_r"] = MaskedColumn(np.linspace(18, 20, 9), mask=[0, 1] + [0] * 7, unit="mag")
    path = night.folder / f"masked.{ending}"
    table.write(path)
    result = night.inject(catalog=path)
    assert result.exit_code == 0, result.output
    assert "8 drawn of 9" in result.stdout and "1 x MAG_BAD" in result.stdout


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("injection_id", ("row 1", "injection_id is missing", "Give every source an id")),
        ("source_type", ("row 1", "source_type ''", "is not one of Star")),
        ("ra", ("row 1", "ra = nan")),
    ],
)
def test_masked_cells_that_are_needed(night: Any, column: str, words: tuple[str, ...]) -> None:
    table = Table(night.sources())
    table[column] = MaskedColumn(table[column], mask=[0, 1] + [0] * 7)
    table.write(night.folder / "masked.ecsv")
    night.refused("masked.ecsv", *words, catalog=night.folder / "masked.ecsv")


def test_byte_strings_of_fits_tables_are_strings(night: Any) -> None:
    night.sources(source_type=np.array([b"Star"] * 9)).write(night.folder / "bytes.fits")
    result = night.inject(catalog=night.folder / "bytes.fits")
    assert result.exit_code == 0, result.output
    assert "9 drawn of 9" in result.stdout


def test_an_unknown_dialect_names_the_nearest(night: Any) -> None:
    night.refused("'nativ'", "Did you mean 'native'?", more=["--dialect", "nativ"])


def test_an_unknown_option_of_inject_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'sed'.*Did you mean 'seed'\?"):
        inject(make_exposure((120, 120)), Table(), sed=1)
