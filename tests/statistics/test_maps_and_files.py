"""Maps against sums by astropy-healpix's own pixels; datasets on disk are what they were."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix

from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, ConfigError, CorruptFileError, OutputError
from skygraft.statistics import completeness, fit_completeness, load_dataset, save_dataset, sky_map
from skygraft.statistics.maps import pixel_of


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    out = fakes(3000)
    ra = rng.uniform(359.0, 361.0, 3000) % 360.0
    return out | {"ra": ra, "dec": rng.uniform(-31.0, -29.0, 3000), "depth": rng.normal(24.0, 0.2, 3000)}


def test_maps_are_those_of_loops_over_pixels(columns: dict[str, Any]) -> None:
    grid = HEALPix(64, order="nested", frame="icrs")
    pixels = grid.skycoord_to_healpix(SkyCoord(columns["ra"], columns["dec"], unit="deg"))
    good = columns["usable"]
    depth, done = sky_map(columns, "depth", nside=64), sky_map(columns, statistic="completeness", nside=64)
    off = sky_map(columns, ("mag_cal", "mag"), "bias", nside=64, by="band")
    np.testing.assert_array_equal(depth["pixel"], np.unique(pixels[good]))
    for i, pixel in enumerate(depth["pixel"].values):
        inside = good & (pixels == pixel)
        assert int(depth["n"][i]) == inside.sum()
        assert float(depth["median"][i]) == np.median(columns["depth"][inside])
        assert float(done["completeness"][i]) == pytest.approx(columns["found"][inside].mean(), rel=1e-12)
        one = inside & columns["found"] & (columns["band"] == "r")
        got = off.sel(band="r").isel(pixel=i)
        assert int(got["n"]) == one.sum()
        if one.any():
            assert float(got["median"]) == np.median((columns["mag_cal"] - columns["mag"])[one])
    center = grid.healpix_to_skycoord(depth["pixel"].values)
    np.testing.assert_allclose(depth["ra_center"], center.ra.deg)
    assert depth["pixel"].attrs["order"] == "nested"


def test_positions_that_are_none_are_in_no_pixel(columns: dict[str, Any]) -> None:
    assert pixel_of([np.nan, 0.0, 0.0], [0.0, 91.0, np.nan], 8).tolist() == [-1, -1, -1]
    lost = columns | {"ra": np.where(np.arange(3000) < 100, np.nan, columns["ra"])}
    got = sky_map(lost, "depth", nside=64)
    assert int(got["n"].sum()) == (columns["usable"][100:]).sum()
    assert got.attrs["n_outside"] == columns["usable"][:100].sum()


def test_errors_of_maps(columns: dict[str, Any]) -> None:
    clustered = sky_map(columns, statistic="completeness", nside=32, bootstrap=100)
    assert np.isfinite(clustered["error_source"][clustered["n"] > 100]).all()
    for arguments in (
        {"nside": 100},
        {"nside": 0},
        {"statistic": "mean"},
        {"values": ("a", "b")},
        {"values": "mag", "statistic": "bias"},
    ):
        with pytest.raises(ConfigError):
            sky_map(columns, **arguments)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="nearest names are dept: depth"):
        sky_map(columns, "dept")
    with pytest.raises(CatalogError, match="ra, dec"):
        sky_map(fakes(10), "mag")


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_datasets_come_back_as_they_were(columns: dict[str, Any], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new/one{ending}"
    fit = fit_completeness(columns, bootstrap=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dataset in (
            sky_map(columns, "depth", nside=64, by="band"),
            completeness(columns, {"mag": "auto", "band": "auto"}),
            completeness(columns | {"flag": columns["mag"] > 20}, "flag"),
            fit.to_dataset(),
            fit_completeness(fakes(5)).to_dataset(),
            xr.Dataset({"a": ("x", [1.0, np.nan])}, attrs={"yes": True, "none": None, "n": np.int64(3)}),
        ):
            assert save_dataset(dataset, path) == path
            again = load_dataset(path)
            xr.testing.assert_equal(again, dataset)
            for name, value in dataset.attrs.items():
                np.testing.assert_equal(again.attrs[name], "" if value is None else value, err_msg=name)
            for name in dataset.variables:
                assert again[name].attrs == dataset[name].attrs
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_files_that_are_none(columns: dict[str, Any], tmp_path: Path) -> None:
    dataset = completeness(columns)
    with pytest.raises(ConfigError, match=r"ending is \.fits"):
        save_dataset(dataset, tmp_path / "a.fits")
    with pytest.raises(CorruptFileError, match="no such dataset"):
        load_dataset(tmp_path / "a.nc")
    for name in ("a.nc", "b.zarr"):
        path = save_dataset(dataset, tmp_path / name)
        if path.is_dir():
            (path / ".zgroup").write_text("{")
            (path / ".zmetadata").write_text("{")
        else:
            path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(CorruptFileError, match="cannot be read"):
            load_dataset(path)
    (tmp_path / "file").write_text("")
    for name in ("a.nc", "a.zarr"):
        with pytest.raises(OutputError):
            save_dataset(dataset, tmp_path / "file" / name)
