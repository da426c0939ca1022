"""Files of every format, round trips, broken files, stamps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from skygraft.catalog import normalize_catalog, read_catalog, write_catalog
from skygraft.catalog.io import arrow_array, from_arrow, iter_catalog, to_arrow
from skygraft.errors import CatalogError, CorruptFileError


def catalogue(n=20, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.where(np.arange(n) % 3 == 0, "Sersic", "Star")
    galaxy = kind == "Sersic"
    return normalize_catalog(
        QTable(
            {
                "injection_id": rng.permutation(n) + 2**60,
                "ra": rng.uniform(0, 360, n) * u.deg,
                "dec": rng.uniform(-90, 90, n) * u.deg,
                "source_type": kind,
                "mag_g": np.where(np.arange(n) == 4, np.nan, rng.uniform(18, 26, n)) * u.mag,
                "mag_r": rng.uniform(18, 26, n) * u.mag,
                "n": np.where(galaxy, 1.5, np.nan),
                "half_light_radius": np.where(galaxy, 0.7, np.nan) * u.arcsec,
                "q": np.where(galaxy, 0.5, np.nan),
                "pa": np.where(galaxy, 40.0, np.nan) * u.deg,
                "pm_dec": rng.normal(0, 5, n) * u.mas / u.yr,
                "epoch_mjd": np.full(n, 60000.0) * u.day,
                "visit": np.full(n, -1),
                "mag_per_pixel": np.zeros(n, dtype=bool),
                "host": np.array([f"host {i}" for i in range(n)]),
            }
        )
    )


def assert_same(a, b):
    assert a.colnames == b.colnames
    for name in a.colnames:
        assert a[name].unit == b[name].unit, name
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@pytest.mark.parametrize("ending", ["ecsv", "fits", "parquet", "vot"])
def test_round_trips(tmp_path, ending):
    table, path = catalogue(), tmp_path / f"fakes.{ending}"
    write_catalog(table, path)
    assert_same(read_catalog(path), table)
    with pytest.raises(CatalogError, match="there already"):
        write_catalog(table, path)
    write_catalog(table, path, overwrite=True)


def test_astropys_own_parquet_keeps_its_units(tmp_path):
    table = catalogue()
    table["ra"] = table["ra"].to(u.rad)
    Table(table).write(tmp_path / "fakes.parquet", format="parquet")
    back = read_catalog(tmp_path / "fakes.parquet")
    np.testing.assert_allclose(back["ra"].to_value("deg"), catalogue()["ra"].value, rtol=1e-14)


def test_csv_and_gzipped_csv_without_units(tmp_path):
    text = "injection_id,ra,dec,source_type,mag,n,half_light_radius,q,beta\n1,10,-5,Star,20.5,,,,\n"
    text += "2,11,-5,Sersic,21,2,0.5,0.5,30\n"
    (tmp_path / "fakes.csv").write_text(text)
    t = read_catalog(tmp_path / "fakes.csv", band="r")
    assert t["ra"].to_value("deg").tolist() == [10.0, 11.0]
    assert t["pa"].value[1] == 60.0
    assert np.isnan(t["n"][0])
    import gzip

    (tmp_path / "fakes.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert_same(read_catalog(tmp_path / "fakes.csv.gz", band="r"), t)


def test_fits_byte_strings_and_padding(tmp_path):
    columns = [
        fits.Column("ra", "D", unit="deg", array=[1.0, 2.0]),
        fits.Column("dec", "D", unit="deg", array=[1.0, 2.0]),
        fits.Column("source_type", "12A", array=[b"Star", b"Star   "]),
        fits.Column("mag_r", "E", unit="mag", array=[20.0, 21.0]),
        fits.Column("vector", "3D", array=np.zeros((2, 3))),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "fakes.fits")
    t = read_catalog(tmp_path / "fakes.fits")
    assert t["source_type"].tolist() == ["Star", "Star"]
    assert t["mag_r"].dtype == np.float64
    assert "vector" not in t.colnames
    fits.BinTableHDU.from_columns([*columns[:3], fits.Column("mag_r", "2E", array=np.zeros((2, 2)))]).writeto(
        tmp_path / "bad.fits"
    )
    with pytest.raises(CatalogError, match=r"'mag_r' holds arrays of shape \(2,\)"):
        read_catalog(tmp_path / "bad.fits")


def test_fits_with_two_tables(tmp_path):
    def hdu(name, ra):
        t = Table({"ra": [ra], "dec": [1.0], "source_type": ["Star"], "mag_r": [20.0]})
        return fits.BinTableHDU(t, name=name)

    path = tmp_path / "fakes.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu("A", 1.0), hdu("B", 2.0)]).writeto(path)
    with pytest.raises(CatalogError, match=r"holds 2 tables: 1 \(A\), 2 \(B\).*hdu="):
        read_catalog(path)
    assert read_catalog(path, hdu="B")["ra"].value.tolist() == [2.0]
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(CatalogError, match="holds no table"):
        read_catalog(tmp_path / "image.fits")


@pytest.mark.parametrize("ending", ["ecsv", "csv", "fits", "parquet", "vot"])
def test_broken_files_say_so(tmp_path, ending):
    path = tmp_path / f"fakes.{ending}"
    with pytest.raises(CatalogError, match="no such file"):
        read_catalog(path)
    path.touch()
    with pytest.raises(CorruptFileError, match="empty"):
        read_catalog(path)
    path.write_bytes(bytes(range(200)) * 3)
    with pytest.raises((CorruptFileError, CatalogError)) as caught:
        read_catalog(path)
    assert str(path) in str(caught.value)
    if ending in ("fits", "parquet"):
        write_catalog(catalogue(), path, overwrite=True)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptFileError):
            read_catalog(path)


def test_unknown_ending(tmp_path):
    (tmp_path / "fakes.dat").write_text("ra dec\n")
    with pytest.raises(CatalogError, match=r"ending is none of \.ecsv"):
        read_catalog(tmp_path / "fakes.dat")


def test_no_rows(tmp_path):
    to_write = to_arrow(catalogue()).slice(0, 0)
    pq.write_table(to_write, tmp_path / "fakes.parquet")
    for read in (read_catalog, lambda p: list(iter_catalog(p))):
        with pytest.raises(CatalogError, match="no rows"):
            read(tmp_path / "fakes.parquet")


def test_arrow_nulls_lists_and_dictionaries():
    arrow = pa.table(
        {
            "i": pa.array([1, None, 3]),
            "f": pa.array([1.0, None, np.nan]),
            "s": pa.array(["a", None, "c"]),
            "d": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": pa.array([True, None, False]),
            "even": pa.array([[1, 2], [3, 4], [5, 6]]),
            "ragged": pa.array([[1], [3, 4], []]),
            "when": pa.array([1, 2, 3], pa.timestamp("s")),
        }
    )
    t = from_arrow(arrow)
    assert t["i"].mask.tolist() == [False, True, False] and t["i"].dtype.kind == "i"
    assert np.isnan(t["f"]).tolist() == [False, True, True]
    assert t["s"].mask.tolist() == [False, True, False]
    assert t["d"].tolist() == ["x", "y", "x"]
    assert t["b"].mask.tolist() == [False, True, False]
    assert t["even"].shape == (3, 2)
    assert "ragged" not in t.colnames and "when" not in t.colnames
    back = to_arrow(t["i", "s", "b"])
    assert back.column("i").null_count == back.column("s").null_count == back.column("b").null_count == 1
    assert back.column("i").type == pa.int64()


def test_stamps_are_found_beside_the_catalogue(tmp_path):
    (tmp_path / "stamps").mkdir()
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "stamps" / "a.fits")
    table = Table(
        {
            "ra": [1.0, 2.0, 3.0],
            "dec": [1.0, 2.0, 3.0],
            "source_type": ["Stamp", "Star", "Stamp"],
            "mag": [20.0, 20.0, 20.0],
            "stamp": ["stamps/a.fits", "", "s3://bucket/b.fits"],
        }
    )
    path = tmp_path / "fakes.ecsv"
    table.write(path)
    t = read_catalog(path, band="r")
    assert t["stamp"].tolist() == [str(tmp_path / "stamps" / "a.fits"), "", "s3://bucket/b.fits"]
    (tmp_path / "stamps" / "a.fits").unlink()
    with pytest.raises(CatalogError, match=r"stamp 'stamps/a\.fits' is not at") as caught:
        read_catalog(path, band="r")
    assert caught.value.row == 0


def test_streaming_gives_the_same_rows(tmp_path):
    table = catalogue(1000)
    for ending in ("parquet", "ecsv"):
        path = tmp_path / f"fakes.{ending}"
        write_catalog(table, path)
        chunks = list(iter_catalog(path, chunk_rows=130))
        assert [len(c) for c in chunks] == [130] * 7 + [90]
        assert np.concatenate([c["injection_id"] for c in chunks]).tolist() == table["injection_id"].tolist()


def test_streaming_numbers_rows_and_missing_ids_over_the_whole_file(tmp_path):
    table = catalogue(300)
    table.remove_column("injection_id")
    path = tmp_path / "fakes.parquet"
    pq.write_table(to_arrow(table), path)
    ids = np.concatenate([c["injection_id"] for c in iter_catalog(path, chunk_rows=70)])
    assert ids.tolist() == list(range(300))
    table["dec"][250] = 95 * u.deg
    pq.write_table(to_arrow(table), path)
    with pytest.raises(CatalogError, match=r"row 250 \(injection_id 250\): dec = 95"):
        list(iter_catalog(path, chunk_rows=70))


def test_parquet_does_not_import_pandas(tmp_path):
    # It takes seconds, in every worker.
    write_catalog(catalogue(), tmp_path / "fakes.parquet")
    code = """
import sys
from skygraft.catalog import list_partitions, partition_catalog, read_partitions
from skygraft.skymap import get_skymap
partition_catalog(sys.argv[1], get_skymap("hsc_rings_v1"), sys.argv[2])
read_partitions(sys.argv[2], list_partitions(sys.argv[2]))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "fakes.parquet"), str(tmp_path / "out")], check=True)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(11),
        np.arange(11, dtype=np.float32)[::2],
        np.arange(11) % 3 == 0,
        np.array(["", "a", "häuser", "星", "end"]),
        np.array([], dtype=np.str_),
        np.array([], dtype=bool),
    ],
)
def test_arrow_arrays_are_those_of_pyarrow(array):
    mask = np.arange(array.size) % 4 == 1
    for given in (None, mask, np.zeros(array.size, dtype=bool)):
        ours = arrow_array(array, given)
        ours.validate(full=True)
        assert ours.equals(pa.array(array.tolist(), type=ours.type, mask=given))
    assert arrow_array(array).type == (pa.string() if array.dtype.kind == "U" else pa.array(array).type)


def test_sliced_arrow_columns_are_read_from_their_offset():
    arrow = to_arrow(catalogue(100)).append_column("odd", pa.array([i % 3 == 0 for i in range(100)]))
    arrow = arrow.append_column("half", pa.array(np.arange(100, dtype=np.float16)))
    part = from_arrow(arrow.slice(13, 70))
    assert part["odd"].tolist() == [i % 3 == 0 for i in range(13, 83)]
    assert part["half"].tolist() == list(range(13, 83))
    np.testing.assert_array_equal(part["ra"].value, catalogue(100)["ra"].value[13:83])
    part["ra"][0] = 5 * u.deg  # not a read-only view of the file
    none = from_arrow(arrow.slice(3, 0))
    assert len(none) == 0 and none["odd"].dtype == np.bool_
