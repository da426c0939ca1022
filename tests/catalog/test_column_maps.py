"""Column maps, and the columns that every dialect may have."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from skygraft.catalog import normalize_catalog, partition_catalog, read_catalog, read_partitions
from skygraft.catalog.column_maps import parse_map
from skygraft.catalog.io import iter_catalog
from skygraft.config.campaign import parse_config
from skygraft.errors import CatalogError, ConfigError, DialectError
from skygraft.skymap import get_skymap

N = 6
SURVEY = QTable(
    {
        "OBJID": np.arange(N) + 2**53 + 1,
        "RAJ2000": (np.full(N, 150.1) * u.deg).to(u.rad),
        "DEJ2000": np.linspace(2.0, 2.01, N) * u.deg,
        "rmag": np.linspace(20, 21, N) * u.mag,
        "Rhalf": np.full(N, 0.01) * u.arcmin,
        "kind": ["Star", "Sersic"] * (N // 2),
        "index": np.full(N, 1.0),
        "expnum": np.full(N, 1002),
    }
)
COLUMNS = {
    "injection_id": "OBJID", "ra": "RAJ2000", "dec": "DEJ2000", "mag_r": "rmag", "half_light_radius": "Rhalf",
    "source_type": "kind", "n": "index", "visit": "expnum",
}  # fmt: skip


def test_units_of_mapped_columns_hold():
    table = normalize_catalog(SURVEY, columns=COLUMNS)
    assert table["injection_id"].tolist() == SURVEY["OBJID"].tolist()
    np.testing.assert_allclose(table["ra"].to_value("deg"), 150.1, rtol=1e-14)
    np.testing.assert_allclose(table["half_light_radius"].to_value("arcsec"), 0.6, rtol=1e-14)
    assert table["visit"].tolist() == [1002] * N
    assert SURVEY.colnames[0] == "OBJID"  # the table that was given is left alone


@pytest.mark.parametrize("name", ["cat.fits", "cat.ecsv", "cat.parquet", "cat.vot"])
def test_in_every_format(tmp_path, name):
    path = tmp_path / name
    SURVEY.write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else {".vot": "votable"}.get(path.suffix))
    table = read_catalog(path, columns=COLUMNS)
    chunks = list(iter_catalog(path, columns=COLUMNS, chunk_rows=4))
    assert [len(chunk) for chunk in chunks] == [4, 2]
    for found in (table["ra"].to_value("deg"), np.concatenate([c["ra"].to_value("deg") for c in chunks])):
        np.testing.assert_allclose(found, 150.1, rtol=1e-14)
    skymap = get_skymap({"kind": "healpix", "nside": 2, "patch_nside": 4, "pixel_scale": 1.0})
    for i, catalog in enumerate((path, SURVEY)):
        partition_catalog(catalog, skymap, tmp_path / f"cut-{i}", columns=COLUMNS)
        parts = read_partitions(tmp_path / f"cut-{i}", [skymap.locate(150.1, 2.0)])
        assert parts["injection_id"].tolist() == SURVEY["OBJID"].tolist()


def test_pandas_and_polars_frames():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    plain = {name: np.asarray(getattr(SURVEY[name], "value", SURVEY[name])) for name in SURVEY.colnames}
    plain |= {"RAJ2000": np.full(N, 150.1), "Rhalf": np.full(N, 0.6), "curve": np.array(["sn-1", ""] * (N // 2))}
    plain |= {"mjd_from": np.where(np.arange(N) < 2, np.nan, 60000.0), "object_id": np.arange(N) + BIG}
    for frame in (pandas.DataFrame(plain), polars.DataFrame(plain), polars.DataFrame(plain).to_arrow()):
        table = normalize_catalog(frame, columns={**COLUMNS, "light_curve": "curve"})
        assert table["injection_id"].tolist() == SURVEY["OBJID"].tolist()
        assert table["object_id"].tolist() == plain["object_id"].tolist()
        assert table["light_curve"].tolist() == ["sn-1", ""] * (N // 2)
        assert np.isnan(table["mjd_from"].value).tolist() == [True] * 2 + [False] * (N - 2)


BIG = 2**53 + 1


def test_one_value_for_all_rows():
    stars = {name: column for name, column in COLUMNS.items() if name != "source_type"}
    table = normalize_catalog(
        SURVEY, columns={**stars, "source_type": "=Star", "epoch_mjd": "=60000.5", "group_id": "=7"}
    )
    assert set(table["source_type"].tolist()) == {"Star"}
    assert set(table["epoch_mjd"].value.tolist()) == {60000.5}
    assert set(table["group_id"].tolist()) == {7}
    with pytest.raises(CatalogError, match="gives 'now' for 'epoch_mjd', which is a number"):
        normalize_catalog(SURVEY, columns={**COLUMNS, "epoch_mjd": "=now"})


def test_one_column_may_be_two():
    table = normalize_catalog(SURVEY, columns={**COLUMNS, "mag_g": "rmag", "object_id": "OBJID"})
    assert table["mag_g"].value.tolist() == table["mag_r"].value.tolist()
    assert table["object_id"].tolist() == table["injection_id"].tolist()


def test_names_may_be_exchanged():
    swapped = {
        "injection_id": [1, 2],
        "ra": [2.0, 2.1],
        "dec": [150.0, 150.1],
        "source_type": ["Star"] * 2,
        "mag_r": [20.0] * 2,
    }
    table = normalize_catalog(swapped, columns={"ra": "dec", "dec": "ra"})
    assert table["ra"].value.tolist() == [150.0, 150.1]
    assert table["dec"].value.tolist() == [2.0, 2.1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"raa": "RAJ2000"}, "'raa', which is not a column of the native schema.*Did you mean 'ra'"),
        ({"half_ligth_radius": "Rhalf"}, "Did you mean 'half_light_radius'"),
        ({"ra": "RAJ200"}, r"takes 'ra' from 'RAJ200', which the table does not have.*Did you mean 'RAJ2000'"),
        ({"ra": "rmag", "mag_r": "RMAG"}, "'RMAG', which the table does not have.*Did you mean 'rmag'"),
        ({"ra": ""}, "the name of a column is needed"),
    ],
)
def test_bad_maps(tmp_path, columns, message):
    with pytest.raises(CatalogError, match=message):
        normalize_catalog(SURVEY, columns=columns)
    SURVEY.write(tmp_path / "cat.parquet")
    with pytest.raises(CatalogError, match=message):
        list(iter_catalog(tmp_path / "cat.parquet", columns=columns))


def test_both_mapped_and_present():
    table = SURVEY.copy()
    table["ra"] = np.full(N, 10.0)
    with pytest.raises(CatalogError, match="takes 'ra' from 'RAJ2000', and the table has a column 'ra' too"):
        normalize_catalog(table, columns=COLUMNS)


def test_units_that_do_not_convert():
    with pytest.raises(CatalogError, match="column 'ra' is in mag, which cannot be converted to deg"):
        normalize_catalog(SURVEY, columns={**COLUMNS, "ra": "rmag", "mag_r": "index", "n": "expnum", "visit": "OBJID"})


def test_a_column_that_cannot_be_read_is_refused_by_its_new_name():
    table = {"ra": [1.0], "dec": [1.0], "source_type": ["Star"], "r": np.array([[1.0, 2.0]])}
    with pytest.raises(CatalogError, match="mag_r"):
        normalize_catalog(table, columns={"mag_r": "r"})


def test_without_the_map_the_dialect_is_unknown():
    with pytest.raises(DialectError, match="match no dialect"):
        normalize_catalog(SURVEY)


def test_pairs_of_a_command():
    assert parse_map(["ra=RAJ2000", "source_type==Star", "mag_r = r mag"]) == {
        "ra": "RAJ2000", "source_type": "=Star", "mag_r": "r mag",
    }  # fmt: skip
    for pairs, message in (
        (["ra"], "not of the form"),
        (["ra="], "not of the form"),
        (["ra=a", "ra=b"], "mapped twice"),
    ):
        with pytest.raises(CatalogError, match=message):
            parse_map(pairs)


def test_in_a_configuration(tmp_path):
    content = {
        "name": "a", "survey": {"images": "*.fits"}, "output": "out",
        "catalog": {"path": "cat.parquet", "columns": {"ra": "RAJ2000"}, "select": "mag_r < 20"},
    }  # fmt: skip
    config = parse_config(content, base_dir=tmp_path)
    assert config.catalog.columns == {"ra": "RAJ2000"}
    assert parse_config(config.resolved(), base_dir=tmp_path) == config
    for given, message in (
        ({"columns": {"raa": "RAJ2000"}}, "catalog.columns.*not a column of the native schema"),
        ({"select": "mag_r <"}, "catalog.select.*it ends, and a value is needed"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(content | {"catalog": {"path": "cat.parquet", **given}}, base_dir=tmp_path)


PLACE = {"ra": [150.0] * 2, "dec": [2.0] * 2}
OF_DIALECTS = {
    "native": {"injection_id": [1, 2], "source_type": ["Star"] * 2, **PLACE, "mag_r": [20.0] * 2},
    "lsst": {"injection_id": [1, 2], "source_type": ["Star"] * 2, **PLACE, "mag": [20.0] * 2},
    "insertfakes": {"fakeId": [1, 2], "sourceType": ["star"] * 2, "ra": [1, 1.1], "dec": [0.1, 0], "r_mag": [20, 21]},
    "synpipe": {"ID": [1, 2], "RA": [150.0] * 2, "DEC": [2.0] * 2, "mag": [20.0] * 2},
    "obiwan": {
        "id": [1, 2], **PLACE, "flux_r": [10.0] * 2, "sersic": [0.0] * 2, "shape_r": [0.0] * 2, "shape_e1": [0.0] * 2,
        "shape_e2": [0.0] * 2,
    },
    "skycatalogs": {"id": [1, 2], **PLACE, "object_type": ["star"] * 2, "magnorm": [20.0] * 2},
    "romanisim": {
        "id": [1, 2], **PLACE, "type": ["PSF"] * 2, "n": [-1.0] * 2, "ba": [1.0] * 2, "half_light_radius": [0.0] * 2,
        "pa": [0.0] * 2, "F158": [1e-8] * 2,
    },
    "catsim": {
        "id": [1, 2], **PLACE, "r_ab": [20.0] * 2, "fluxnorm_bulge": [0.0] * 2, "fluxnorm_disk": [1.0] * 2,
        **{f"{a}_{c}": [0.5] * 2 for a in "ab" for c in "bd"}, "pa_bulge": [0.0] * 2, "pa_disk": [0.0] * 2,
    },
}  # fmt: skip
BANDS = {"skycatalogs": "magnorm", "romanisim": "F158"}


@pytest.mark.parametrize("name", OF_DIALECTS)
def test_every_dialect_has_visits_windows_light_curves_and_motion(name):
    more = {
        "visit": [5, -1],
        "mjd_from": [60000.0, np.nan],
        "light_curve": ["sn", ""],
        "object_id": [2**60 + 1, -1],
        "group_id": [3, 3],
        "inject_into": ["science", ""],
        "epoch_mjd": [60000.0, 60000.0],
        "time_delay": [1.0, np.nan],
        "rate_dec": Table({"x": [1.0, np.nan] * u.deg / u.d})["x"],
    }
    table = normalize_catalog({**OF_DIALECTS[name], **more}, band=BANDS.get(name, "r"))
    for column in ("visit", "object_id", "group_id", "light_curve", "inject_into"):
        assert table[column].tolist() == more[column], column
    assert table["time_delay"].value.tolist() == [1.0, 0.0]
    assert table["rate_dec"].to_value("arcsec / h").tolist() == [150.0, 0.0]
    assert table["mjd_from"].value[0] == 60000.0 and np.isnan(table["mjd_from"].value[1])
    without = normalize_catalog(OF_DIALECTS[name], band=BANDS.get(name, "r"))
    for column in without.colnames:
        np.testing.assert_array_equal(np.asarray(table[column]), np.asarray(without[column]))


def test_what_a_dialect_lenses_itself_is_not_lensed_twice():
    table = normalize_catalog({**OF_DIALECTS["skycatalogs"], "magnification": [2.0, 2.0]}, band="magnorm")
    assert "magnification" not in table.colnames
