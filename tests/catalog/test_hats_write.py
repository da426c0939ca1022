"""Tables written as HATS collections: whole, with all of their margins, and the same however they come."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy_healpix import lonlat_to_healpix
from scipy.spatial import cKDTree

from kits.hats_kit import sky_rows
from skygraft.catalog import read_catalog
from skygraft.catalog.hats_files import open_folder
from skygraft.catalog.hats_write import HatsWriter
from skygraft.errors import CatalogError, OutputExistsError


def arrow(rows):
    return pa.table({key: pa.array(values.tolist()) for key, values in rows.items()})


def crowded(n, seed=3):
    """A third of the sources near a corner of eight HEALPix pixels, at a pole, and at RA 0; the others all over."""
    rows, rng = sky_rows(n, seed), np.random.default_rng(seed)
    for i, (ra, dec) in enumerate([(45.0, 41.8103), (10.0, 89.99), (0.0, 0.0), (135.0, -41.8103)]):
        part = slice(i * n // 8, (i + 1) * n // 8)
        size = n // 8
        rows["dec"][part] = np.minimum(dec + rng.normal(0, 0.02, size), 90.0)
        rows["ra"][part] = (ra + rng.normal(0, 0.02, size) / max(np.cos(np.radians(dec)), 1e-3)) % 360.0
    return rows


def write(out, rows, pieces=1, **options):
    table = arrow(rows)
    with HatsWriter(out, **options) as writer:
        for part in np.array_split(np.arange(table.num_rows), pieces):
            writer.write(table.slice(int(part[0]), len(part)))
    return writer.summary


def pixels_of(folder):
    """Order and number of each partition, and its rows, from the names of files alone."""
    out = {}
    for path in folder.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"):
        order, pixel = int(path.parts[-3].split("=")[1]), int(path.stem.split("=")[1])
        assert path.parts[-2] == f"Dir={pixel // 10000 * 10000}"
        out[order, pixel] = pq.ParquetFile(path).read()
    return out


def test_every_row_is_in_the_partition_of_its_pixel_once(tmp_path):
    rows = crowded(3000)
    summary = write(tmp_path / "cat", rows, pieces=5, max_rows=200)
    parts = pixels_of(summary.catalogue)
    assert summary.n_rows == 3000 and summary.n_partitions == len(parts) > 20
    for (order, pixel), table in parts.items():
        place = np.array(table["ra"]) * u.deg, np.array(table["dec"]) * u.deg
        assert set(lonlat_to_healpix(*place, 2**order, order="nested").tolist()) == {pixel}
        index = lonlat_to_healpix(*place, 2**29, order="nested")
        assert table["_healpix_29"].to_pylist() == index.tolist() == sorted(index.tolist())
        assert table.num_rows <= 200 or order == 10
        # No parent would have been small enough.
        if order:
            parent = [
                t.num_rows for (k, p), t in parts.items() if k >= order and p >> 2 * (k - order + 1) == pixel >> 2
            ]
            assert sum(parent) > 200
    ids = np.concatenate([table["injection_id"].to_numpy() for table in parts.values()])
    assert sorted(ids.tolist()) == rows["injection_id"].tolist()
    assert read_catalog(tmp_path / "cat")["object_id"].max() == rows["object_id"].max()


@pytest.mark.parametrize("margin", [2.0, 30.0, 600.0])
def test_margins_have_all_that_is_near_by_brute_force(tmp_path, margin):
    rows = crowded(3000)
    summary = write(tmp_path / "cat", rows, max_rows=150, margin_arcsec=margin)
    main = pixels_of(summary.catalogue)
    margins = pixels_of(next(path for path in (tmp_path / "cat").iterdir() if path.name.endswith("arcs")))
    home = {i: part for part, table in main.items() for i in table["injection_id"].to_pylist()}
    ra, dec = np.radians(rows["ra"]), np.radians(rows["dec"])
    vectors = np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    pairs = cKDTree(vectors).query_pairs(2 * np.sin(np.radians(margin / 3600) / 2))
    wanted = set()
    for a, b in pairs:
        one, other = (int(rows["injection_id"][i]) for i in (a, b))
        if home[one] != home[other]:
            wanted |= {(one, home[other]), (other, home[one])}
    have = {(i, part) for part, table in margins.items() for i in table["injection_id"].to_pylist()}
    assert len(wanted) > 20 * (margin > 2)
    assert wanted <= have
    assert all(home[i] != part for i, part in have)
    assert len(have) == summary.n_margin == sum(table.num_rows for table in margins.values())


def test_equal_rows_give_equal_files_however_they_come(tmp_path):
    rows = crowded(2000)
    rows["ra"][:400], rows["dec"][:400] = rows["ra"][0], rows["dec"][0]  # ties in the order of the sky
    for name, pieces in (("a/cat", 1), ("b/cat", 13)):
        write(tmp_path / name, rows, pieces=pieces, max_rows=300)
    first, second = (
        {
            p.relative_to(tmp_path / name).as_posix(): p.read_bytes()
            for p in (tmp_path / name).rglob("*.*")
            if p.is_file()
        }
        for name in ("a", "b")
    )
    assert first.keys() == second.keys()
    assert [key for key in first if first[key] != second[key] and not key.endswith("properties")] == []


def test_columns_of_any_type_and_units_are_kept(tmp_path):
    n = 50
    table = arrow(sky_rows(n)).append_column(
        pa.field("size", pa.float32(), metadata={"unit": "arcsec"}), pa.array(np.arange(n, dtype=np.float32))
    )
    table = table.append_column("word", pa.array(["a", None] * (n // 2)).dictionary_encode())
    table = table.append_column("list", pa.array([[i, i + 1] for i in range(n)]))
    with HatsWriter(tmp_path / "cat") as writer:
        writer.write(table)
    with open_folder(tmp_path / "cat") as folder:
        found = next(folder.arrow_chunks(1000)).sort_by("injection_id")
    assert found.schema.field("size").metadata == {b"unit": b"arcsec"}
    assert found.column("word").to_pylist() == ["a", None] * (n // 2)
    assert found.column("list").to_pylist() == table.column("list").to_pylist()


def test_nothing_is_replaced_that_is_not_a_hats_catalogue(tmp_path):
    rows = sky_rows(20)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="there already"):
            write(tmp_path / "mine", rows, overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    write(tmp_path / "cat", rows)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        write(tmp_path / "cat", rows)
    write(tmp_path / "cat", sky_rows(30), overwrite=True)
    assert len(read_catalog(tmp_path / "cat")) == 30


def test_what_fails_leaves_nothing_behind(tmp_path):
    write(tmp_path / "cat", sky_rows(20))
    with pytest.raises(RuntimeError), HatsWriter(tmp_path / "cat", overwrite=True) as writer:
        writer.write(arrow(sky_rows(30)))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["cat"]
    assert len(read_catalog(tmp_path / "cat")) == 20


def test_bad_tables(tmp_path):
    rows = sky_rows(20)
    lost = rows | {"ra": np.where(np.arange(20) == 7, np.nan, rows["ra"])}
    with pytest.raises(CatalogError, match=r"row 7.*1 rows are not on the sky; ra = nan"):
        write(tmp_path / "cat", lost)
    with pytest.raises(CatalogError, match="no column 'ra'"):
        write(tmp_path / "cat", {"RA": rows["ra"], "dec": rows["dec"]})
    with pytest.raises(CatalogError, match="'Npix', a name that HATS uses itself"):
        write(tmp_path / "cat", rows | {"Npix": rows["ra"]})
    with pytest.raises(CatalogError, match="no rows to write"), HatsWriter(tmp_path / "cat"):
        pass
    with pytest.raises(CatalogError, match="the margin is 4000 arcsec"):
        HatsWriter(tmp_path / "cat", margin_arcsec=4000)
    assert list(tmp_path.iterdir()) == []
