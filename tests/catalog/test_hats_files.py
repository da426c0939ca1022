"""Folders as catalogues: HATS catalogues and collections, and plain folders of Parquet files."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kits.hats_kit import sky_rows, write_collection, write_hats
from skygraft.catalog import list_partitions, partition_catalog, read_catalog, read_partitions
from skygraft.catalog.hats_files import folder_identity
from skygraft.catalog.hats_properties import parse_properties
from skygraft.catalog.io import iter_catalog
from skygraft.errors import CatalogError, CorruptFileError, SkygraftWarning
from skygraft.skymap import get_skymap

N = 400


def same(table, rows):
    """Whether a catalogue has these rows, each once, in any order."""
    order, given = np.argsort(np.asarray(table["injection_id"])), np.argsort(rows["injection_id"])
    for name, column in rows.items():
        found = table[name]
        np.testing.assert_array_equal(np.asarray(getattr(found, "value", found))[order], column[given], err_msg=name)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("files", [True, False], ids=["files", "folders"])
@pytest.mark.parametrize("chunk_rows", [37, 100_000])
def test_hats_is_read_row_for_row(tmp_path, order, files, chunk_rows):
    rows = sky_rows(N)
    write_hats(tmp_path, rows, order=order, files=files)
    table = read_catalog(tmp_path)
    same(table, rows)
    assert not {"_healpix_29", "Norder", "Dir", "Npix"} & set(table.colnames)
    chunks = list(iter_catalog(tmp_path, chunk_rows=chunk_rows))
    assert max(map(len, chunks)) <= chunk_rows
    assert len(chunks) <= 2 * N / chunk_rows + 1  # small partitions are put together
    assert np.concatenate([c["injection_id"] for c in chunks]).tolist() == table["injection_id"].tolist()


def test_rows_are_in_the_order_of_the_sky_not_of_names(tmp_path):
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    rows = sky_rows(N)
    write_hats(tmp_path, rows, order=1)
    table = read_catalog(tmp_path)
    index = lonlat_to_healpix(table["ra"], table["dec"], 2**29, order="nested")
    assert table["ra"].unit == u.deg
    assert np.all(np.diff(index) >= 0)


def test_of_a_collection_the_main_catalogue_is_read_and_margins_are_not(tmp_path):
    rows = sky_rows(N)
    write_collection(tmp_path / "pair", rows)
    same(read_catalog(tmp_path / "pair"), rows)
    same(read_catalog(tmp_path / "pair" / "main"), rows)


def test_the_properties_of_older_catalogues_are_read(tmp_path):
    rows = sky_rows(30)
    about = {"hats_version": None, "dataproduct_type": "source", "hats_col_healpix": None}
    write_hats(tmp_path, rows, name="properties", properties=about)
    same(read_catalog(tmp_path), rows)


def test_a_list_of_partitions_may_be_absent(tmp_path):
    rows = sky_rows(30)
    write_hats(tmp_path / "counted", rows, info=False)
    same(read_catalog(tmp_path / "counted"), rows)
    write_hats(tmp_path / "neither", rows, info=False, nrows=False)
    with pytest.warns(SkygraftWarning, match="missing partition would not be noticed; 12 partitions are read"):
        same(read_catalog(tmp_path / "neither"), rows)


def test_a_missing_partition_is_noticed(tmp_path):
    rows = sky_rows(N)
    written = write_hats(tmp_path / "listed", rows, nrows=False)
    written[3].unlink()
    with pytest.raises(CorruptFileError, match=r"Norder=0, Npix=3 is listed in partition_info\.csv, and not there"):
        read_catalog(tmp_path / "listed")
    written = write_hats(tmp_path / "counted", rows, info=False)
    written[3].unlink()
    with pytest.raises(CorruptFileError, match="the properties say 400 rows, and the partitions have"):
        list(iter_catalog(tmp_path / "counted", chunk_rows=50))
    written = write_hats(tmp_path / "stray", rows)
    shutil.copy(written[0], written[0].with_name("Npix=11.parquet"))
    (tmp_path / "stray/partition_info.csv").write_text("Norder,Npix\n" + "".join(f"0,{i}\n" for i in range(11)))
    with pytest.raises(CorruptFileError, match="Npix=11 is there, and not listed"):
        read_catalog(tmp_path / "stray")


def test_a_damaged_partition_is_named(tmp_path):
    written = write_hats(tmp_path, sky_rows(N))
    content = written[5].read_bytes()
    written[5].write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=r"Npix=5\.parquet: not a readable Parquet file"):
        read_catalog(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hats_version": "v2.0"}, r"this catalogue is HATS v2\.0; this version of skygraft reads HATS up to 1\.0"),
        ({"hats_version": "next"}, "hats_version is 'next', which is not a version number"),
        ({"dataproduct_type": "margin"}, "of the kind 'margin': the rows near the borders"),
        ({"dataproduct_type": "index"}, "of the kind 'index'"),
        ({"dataproduct_type": "hologram"}, "of the kind 'hologram'; object and source can be read"),
        ({"hats_nrows": "many"}, "hats_nrows is 'many'; a number is needed"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, given, message):
    write_hats(tmp_path, sky_rows(20), properties=given)
    with pytest.raises(CatalogError, match=message) as caught:
        read_catalog(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_later_minor_version_is_read_with_a_warning(tmp_path):
    rows = sky_rows(20)
    write_hats(tmp_path, rows, properties={"hats_version": "v1.4"})
    with pytest.warns(SkygraftWarning, match=r"HATS v1\.4, and skygraft knows 1\.0"):
        same(read_catalog(tmp_path), rows)


def test_margins_without_their_main_catalogue_are_refused(tmp_path):
    write_collection(tmp_path / "pair", sky_rows(N))
    with pytest.raises(CatalogError, match="of the kind 'margin'"):
        read_catalog(tmp_path / "pair" / "margin_10arcs")
    (tmp_path / "pair" / "main" / "hats.properties").unlink()
    with pytest.raises(CatalogError, match="'main' has no properties"):
        read_catalog(tmp_path / "pair")
    shutil.rmtree(tmp_path / "pair" / "main")
    with pytest.raises(CatalogError, match=r"'main' is not there \(there are margin_10arcs\)"):
        read_catalog(tmp_path / "pair")
    (tmp_path / "pair" / "collection.properties").write_text("obs_collection=pair\n")
    with pytest.raises(CatalogError, match="does not name its main catalogue"):
        read_catalog(tmp_path / "pair")
    (tmp_path / "pair" / "collection.properties").write_text("hats_primary_table_url=s3://bucket/main\n")
    with pytest.raises(CatalogError, match="elsewhere: s3://bucket/main"):
        read_catalog(tmp_path / "pair")


def test_several_catalogues_without_a_collection_are_not_mixed(tmp_path):
    write_collection(tmp_path / "pair", sky_rows(N))
    (tmp_path / "pair" / "collection.properties").unlink()
    with pytest.raises(CatalogError, match=r"main \(object\), margin_10arcs \(margin\)"):
        read_catalog(tmp_path / "pair")


def test_partitions_without_properties_are_refused(tmp_path):
    write_hats(tmp_path / "cat", sky_rows(N))
    with pytest.raises(CatalogError, match="without the properties") as caught:
        read_catalog(tmp_path / "cat" / "dataset")
    assert str(tmp_path / "cat") in str(caught.value.fix)
    (tmp_path / "cat" / "hats.properties").unlink()
    with pytest.raises(CatalogError, match=r"without the properties.*Fetch its hats\.properties"):
        read_catalog(tmp_path / "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "there are no properties"), (b"\xff\xfe\x00", "properties cannot be read"), ("x" * 2_000_000, "too many")],
)
def test_damaged_properties(tmp_path, content, message):
    write_hats(tmp_path, sky_rows(20))
    path = tmp_path / "hats.properties"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorruptFileError, match=message):
        read_catalog(tmp_path)


@pytest.mark.parametrize("content", ["Norder,Pixel\n0,1\n", "Norder,Npix\nzero,1\n", b"\xff\xff"])
def test_a_damaged_list_of_partitions(tmp_path, content):
    write_hats(tmp_path, sky_rows(20))
    (tmp_path / "partition_info.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorruptFileError, match="the list of partitions cannot be read"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("name", ["Norder=0/Dir=0/Npix=12.parquet", "Norder=30/Dir=0/Npix=1.parquet"])
def test_pixels_that_do_not_exist(tmp_path, name):
    written = write_hats(tmp_path, sky_rows(20))
    stray = tmp_path / "dataset" / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(written[0], stray)
    with pytest.raises(CorruptFileError, match="not the name of a HEALPix pixel"):
        read_catalog(tmp_path)


def test_hipscat_is_refused_by_name(tmp_path):
    (tmp_path / "catalog_info.json").write_text(json.dumps({"catalog_name": "old"}))
    with pytest.raises(CatalogError, match="HiPSCat, which came before HATS"):
        read_catalog(tmp_path)


def test_java_properties():
    text = (
        "# a comment\n! another\nplain=1\n spaced : two words \nlong=a\\\n   b\nwhy\\:not=c\\u00e9\\\\d\nempty=\nbare\n"
    )
    assert parse_properties(text) == {
        "plain": "1", "spaced": "two words", "long": "ab", "why:not": "cé\\d", "empty": "", "bare": "",
    }  # fmt: skip


def write_plain(folder, rows, pieces):
    """A folder of Parquet files of consecutive rows."""
    n = len(rows["ra"])
    for i, part in enumerate(np.array_split(np.arange(n), pieces)):
        path = folder / f"batch={i}/part-{i}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({key: pa.array(v[part].tolist()) for key, v in rows.items()}), path)


def test_a_plain_folder_of_parquet_files(tmp_path):
    rows = sky_rows(N)
    write_plain(tmp_path / "plain", rows, 12)
    (tmp_path / "plain" / "_SUCCESS").touch()
    (tmp_path / "plain" / "notes.txt").write_text("not a table")
    shutil.copy(tmp_path / "plain/batch=0/part-0.parquet", tmp_path / "plain/.hidden.parquet")
    table = read_catalog(tmp_path / "plain")
    assert table["injection_id"].tolist() == rows["injection_id"].tolist()  # batch=2 before batch=10
    same(table, rows)


def test_files_of_different_schemas(tmp_path):
    rows = sky_rows(20)
    write_plain(tmp_path, rows, 2)
    path = tmp_path / "batch=1/part-1.parquet"
    table = pq.read_table(path, partitioning=None)
    whole = table.set_column(0, "injection_id", table.column("injection_id").cast(pa.int32()))
    pq.write_table(whole, path)
    same(read_catalog(tmp_path), rows)
    pq.write_table(table.append_column("extra", pa.array(range(table.num_rows))), path)
    with pytest.raises(CatalogError, match=r"part-1\.parquet.*the columns extra are in this file or in part-0"):
        read_catalog(tmp_path)
    pq.write_table(table.set_column(1, "ra", pa.array([True] * table.num_rows)), path)
    with pytest.raises(CatalogError, match="ra is of type bool, not double"):
        read_catalog(tmp_path)
    pq.write_table(table.set_column(4, "mag_r", pa.array(["faint"] * table.num_rows)), path)
    with pytest.raises(CatalogError, match="not of the type that it has in part-0"):
        read_catalog(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CatalogError, match="no Parquet file"):
        read_catalog(tmp_path)


def test_stamps_lie_beside_the_files_of_a_folder(tmp_path):
    rows = sky_rows(4)
    rows["source_type"] = np.full(4, "Stamp")
    rows["stamp"] = np.full(4, "one.fits")
    write_hats(tmp_path, rows)
    (tmp_path / "one.fits").touch()
    assert set(read_catalog(tmp_path)["stamp"].tolist()) == {str(tmp_path / "one.fits")}


def test_partitioned_by_patch_it_is_the_same_as_of_one_file(tmp_path):
    rows = sky_rows(N)
    write_collection(tmp_path / "pair", rows, order=1)
    skymap = get_skymap({"kind": "healpix", "nside": 2, "patch_nside": 4, "pixel_scale": 1.0})
    first = partition_catalog(tmp_path / "pair", skymap, tmp_path / "cut", chunk_rows=90)
    assert (first.n_rows, first.reused) == (N, False)
    pq.write_table(pa.table({key: pa.array(v.tolist()) for key, v in rows.items()}), tmp_path / "one.parquet")
    partition_catalog(tmp_path / "one.parquet", skymap, tmp_path / "of-one")
    for key in list_partitions(tmp_path / "of-one"):
        a, b = (read_partitions(tmp_path / name, [key]) for name in ("cut", "of-one"))
        assert a.colnames == b.colnames
        same(a, {name: np.asarray(getattr(b[name], "value", b[name])) for name in b.colnames})
    assert partition_catalog(tmp_path / "pair", skymap, tmp_path / "cut").reused


def test_the_identity_of_a_folder_changes_with_its_files(tmp_path):
    written = write_collection(tmp_path / "pair", sky_rows(N))
    shutil.copytree(tmp_path / "pair", tmp_path / "copy")
    before = folder_identity(tmp_path / "pair")
    assert folder_identity(tmp_path / "copy") == before  # wherever it lies
    (tmp_path / "pair/margin_10arcs/notes.txt").write_text("of no consequence")
    assert folder_identity(tmp_path / "pair") == before
    os.utime(written[2], ns=(1, 1))
    assert folder_identity(tmp_path / "pair") != before
