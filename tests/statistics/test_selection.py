"""Selection functions: the law that fakes were found by comes back within its errors, and nothing beyond them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

import skygraft
from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, ConfigError, CorruptFileError, FormatError, SkygraftError
from skygraft.statistics import SelectionFunction, completeness, save_dataset


def law(mag: Any, size: Any, depth: Any) -> NDArray[np.float64]:
    """Larger galaxies are lost at brighter magnitudes; stars as galaxies of 0.15 arcsec."""
    size = np.where(np.isfinite(size), size, 0.15)
    center = depth - 0.5 - 0.4 * (np.log(size) + 1.0)
    return np.asarray(0.97 / (1.0 + np.exp((np.asarray(mag) - center) / 0.25)))


def depth_at(ra: Any, band: Any) -> NDArray[np.float64]:
    return np.asarray(24.0 + 0.5 * np.round(np.asarray(ra) - 149.9) + 0.3 * (np.asarray(band) == "r"))


def drawn(n: int = 30_000, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    out = {
        "injection_id": np.arange(n),
        "mag": rng.uniform(19.0, 26.0, n),
        "half_light_radius": np.where(rng.random(n) < 0.3, np.nan, rng.lognormal(-0.7, 0.5, n)),
        "band": rng.choice(["g", "r"], n),
        "ra": rng.uniform(149.0, 151.0, n),
        "dec": rng.uniform(1.0, 3.0, n),
    }
    out["depth"] = depth_at(out["ra"], out["band"])
    out["found"] = rng.random(n) < law(out["mag"], out["half_light_radius"], out["depth"])
    return out


@pytest.fixture(scope="module")
def function() -> SelectionFunction:
    return SelectionFunction.from_data(drawn(), maps=128)


def test_the_law_comes_back_within_the_errors(function: SelectionFunction) -> None:
    mag = np.linspace(21.0, 25.5, 19)[:, None, None]
    size = np.array([np.nan, 0.3, 0.45, 0.7, 1.0])[:, None]
    ra = np.array([149.2, 150.6, 150.9])
    for band in ("g", "r"):
        p, error = function.sel(mag, size, band, (ra, 2.0))
        assert p.shape == (19, 5, 3)
        true = law(mag, size, depth_at(ra, band))
        assert np.abs(p - true).max() < 0.06
        pulls = (p - true) / np.hypot(error, 1e-3)
        assert np.sqrt((pulls**2).mean()) < 1.5
        assert error.max() < 0.06
        assert (np.diff(p, axis=0) <= 1e-12).all()


def test_errors_are_those_of_new_fakes() -> None:
    """The same place and size of functions of new samples scatter as much as each says."""
    found, errors = [], []
    for seed in range(25):
        columns = drawn(1500, seed)
        made = SelectionFunction.from_data(columns, over={"mag": "auto"}, per=(), maps=None, bootstrap=60)
        p, error = made.sel([22.0, 23.5, 24.0])
        found.append(p)
        errors.append(error)
    ratio = np.mean(errors, 0) / np.std(found, 0)
    assert ((ratio > 0.7) & (ratio < 1.5)).all()


def test_without_a_position_it_is_the_mean_over_the_area(function: SelectionFunction) -> None:
    columns = drawn(200_000, 5)
    points = np.isnan(columns["half_light_radius"]) & (columns["band"] == "g")
    p, error = function.sel([23.0, 24.0, 24.5, 25.0], band="g")
    for i, mag in enumerate((23.0, 24.0, 24.5, 25.0)):
        expected = law(mag, np.nan, columns["depth"][points]).mean()
        assert p[i] == pytest.approx(expected, abs=3 * error[i] + 0.01)


def test_nothing_is_known_beyond_the_domain(function: SelectionFunction) -> None:
    known = {"mag": 22.0, "size": 0.5, "band": "r", "position": (150.0, 2.0)}
    assert np.isfinite(function.sel(**known)).all()
    for name, values in (
        ("mag", (18.0, 27.0, np.nan)),
        ("size", (1e-4, 50.0)),
        ("position", ((10.0, 2.0), (150.0, np.nan), (150.0, -50.0))),
    ):
        for value in values:
            assert np.isnan(function.sel(**(known | {name: value}))).all(), (name, value)
    domain = function.domain
    assert float(domain["mag_low"].min()) == drawn()["mag"].min()
    assert float(domain["size_high"].max()) == np.nanmax(drawn()["half_light_radius"])
    both = function.sel(22.0, [0.5, 50.0], "r", SkyCoord(150.0, 2.0, unit="deg"))
    assert np.isfinite(both[0][0]) and np.isnan(both[0][1])


def test_bands_are_given_and_broadcast(function: SelectionFunction) -> None:
    p, _ = function.sel(24.0, 0.5, ["g", "r"], (150.0, 2.0))
    assert p.tolist() == [float(function.sel(24.0, 0.5, band, (150.0, 2.0))[0]) for band in ("g", "r")]
    assert function(24.0, 0.5, "g", (150.0, 2.0))[0] == p[0]
    for arguments, match in (
        ({"band": "z"}, "no fakes with band z"),
        ({}, "which band"),
        ({"band": "r", "source_type": "Star"}, "does not depend on source_type"),
        ({"band": "r", "position": 5.0}, "neither a SkyCoord"),
    ):
        with pytest.raises(ConfigError, match=match):
            function.sel(24.0, 0.5, **arguments)


def test_one_band_need_not_be_named_and_other_columns_can() -> None:
    columns = drawn(8000)
    columns = {name: values[columns["band"] == "r"] for name, values in columns.items()}
    columns["source_type"] = np.where(np.isnan(columns["half_light_radius"]), "Star", "Sersic")
    one = SelectionFunction.from_data(columns, {"mag": "auto"}, per=("band", "source_type"), maps=None)
    star, galaxy = (one.sel(24.0, source_type=kind)[0] for kind in ("Star", "Sersic"))
    assert star > galaxy
    with pytest.raises(ConfigError, match="no map of depth"):
        one.sel(24.0, source_type="Star", position=(150.0, 2.0))
    for part in ("r, Star", "r, Sersic", "mag 19.00 to 26.00"):
        assert part in repr(one) and part in one._repr_html_()


def test_it_is_one_small_file_that_anybody_reads(function: SelectionFunction, tmp_path: Path) -> None:
    path = function.save(tmp_path / "selection.nc")
    assert path.stat().st_size < 200_000
    again = skygraft.selection(path)
    arguments = (np.linspace(20.0, 26.0, 13)[:, None], [np.nan, 0.4, 0.9], "r", (150.2, 2.5))
    for one, other in zip(function.sel(*arguments), again.sel(*arguments), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.save(tmp_path / "again.nc").exists()
    skygraft.selection(tmp_path / "again.nc")
    assert again.table.attrs["data"] == "mapping of arrays of 30,000 rows"
    assert "skygraft" in again.table.attrs["software"]
    assert repr(again) == repr(function)


def test_files_that_are_none(function: SelectionFunction, tmp_path: Path) -> None:
    path = function.save(tmp_path / "good.nc")
    good = path.read_bytes()
    other = tmp_path / "other.nc"
    save_dataset(completeness(fakes(100)), other)
    with pytest.raises(FormatError, match="no selection function; its title is 'completeness'"):
        skygraft.selection(other)
    for name, match in (("version", "version 2"), ("bootstrap", "checksum differs")):
        path.write_bytes(good)
        with h5py.File(path, "r+") as opened:
            opened.attrs[name] = 2
        with pytest.raises(FormatError, match=match):
            skygraft.selection(path)
    path.write_bytes(good)
    with h5py.File(path, "r+") as opened:
        opened["parameters"][0, 0, 1] += 0.5
    with pytest.raises(CorruptFileError, match="not as it was written"):
        skygraft.selection(path)
    path.write_bytes(good)
    with h5py.File(path, "r+") as opened:
        del opened["log_size"]
    with pytest.raises(CorruptFileError, match="has no log_size"):
        skygraft.selection(path)
    for content in (b"", b"CDF\x01 nothing", good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError):
            skygraft.selection(path)
    for name in ("none.nc", "good.h5"):
        with pytest.raises(SkygraftError):
            skygraft.selection(tmp_path / name)
    with pytest.raises(ConfigError, match=r"End the name in \.nc"):
        function.save(tmp_path / "good.zarr")


def test_sizes_without_enough_fakes_are_not_known() -> None:
    columns = drawn(6000) | {"band": np.full(6000, "r")}
    edges = [0.1, 0.3, 0.6, 20.0, 100.0]
    made = SelectionFunction.from_data(columns, {"mag": "auto", "half_light_radius": edges}, maps=None)
    assert np.isnan(made.sel(23.0, 50.0)).all()
    assert np.isfinite(made.sel(23.0, 1.0)).all()
    assert made.domain["reason"].values[0, -1] == "no fakes"
    few = {name: values[:40] for name, values in columns.items()}
    with pytest.raises(CatalogError, match=r"no curve can be fitted .* only \d+ fakes, of 20"):
        SelectionFunction.from_data(few, {"mag": "auto", "half_light_radius": edges}, maps=None)


def test_where_none_or_all_are_found_the_function_is_flat_with_an_error() -> None:
    columns = drawn(6000) | {"band": np.full(6000, "r")}
    edges = [0.05, 0.3, 0.6, 20.0]
    middle = (columns["half_light_radius"] > 0.3) & (columns["half_light_radius"] < 0.6)
    columns["found"] &= ~middle
    made = SelectionFunction.from_data(columns, {"mag": "auto", "half_light_radius": edges}, maps=None)
    center = np.exp(np.log(columns["half_light_radius"][middle]).mean())
    p, error = made.sel([19.5, 23.0, 25.5], center)
    assert (p < 0.01).all()
    assert (error > 1e-4).all()
    bright = drawn(6000)
    bright = {name: values[bright["mag"] < 21.5] for name, values in bright.items()}
    p, error = SelectionFunction.from_data(bright, {"mag": "auto"}, per=(), maps=None).sel([20.0, 21.0, 22.0])
    fraction, n = bright["found"].mean(), bright["found"].size
    assert p[:2] == pytest.approx([fraction] * 2)
    assert error[0] == pytest.approx(np.sqrt(fraction * (1 - fraction) / n), rel=0.05)
    assert np.isnan(p[2])


def test_what_cannot_be_built() -> None:
    columns = drawn(500)
    for options, match in (
        ({"over": {"mag": "auto", "half_light_radius": 3, "depth": 3}}, "over 3 columns"),
        ({"over": {"mag": "auto", "half_light_radius": [1.0, 0.5]}}, "Give numbers that increase"),
        ({"over": {"mag": [20.0]}}, "the magnitudes are"),
        ({"per": ("ra",)}, "has numbers, not kinds"),
        ({"maps": 100}, "nside is 100"),
        ({"bootstrap": 0}, "has errors"),
    ):
        with pytest.raises(ConfigError, match=match):
            SelectionFunction.from_data(columns, **options)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="nearest names are bnd: band"):
        SelectionFunction.from_data(columns, per="bnd")


def test_magnitudes_can_be_limited() -> None:
    made = SelectionFunction.from_data(drawn(4000), {"mag": (20.0, 25.0)}, per=(), maps=None)
    assert np.isnan(made.sel(25.5)[0]) and np.isfinite(made.sel(24.5)[0])


def test_the_order_of_rows_does_not_matter(function: SelectionFunction) -> None:
    columns = drawn()
    order = np.random.default_rng(1).permutation(30_000)
    made = SelectionFunction.from_data({name: values[order] for name, values in columns.items()}, maps=128)
    arguments = (np.linspace(20.0, 26.0, 13)[:, None], [np.nan, 0.4, 0.9], "r", (150.2, 2.5))
    for one, other in zip(function.sel(*arguments), made.sel(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
