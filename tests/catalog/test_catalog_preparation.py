"""Preparations: rows that take the place of others before partitioning, and tables beside the partitions."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import QTable, vstack

from skygraft.catalog import normalize_catalog, partition_catalog, read_partitions, write_catalog
from skygraft.catalog.partition_read import (
    PartitionCache,
    damaged_partitions,
    list_partitions,
    partition_bounds,
    read_beside,
)
from skygraft.errors import CatalogError, CorruptFileError, OutputExistsError


class Halves:
    """Two tracts of one patch, to the West and East of ra 180."""

    def locate(self, ra, dec):
        tract = (np.asarray(ra) >= 180).astype(int)
        return tract, np.zeros_like(tract)

    def to_dict(self):
        return {"kind": "halves"}


class Splits:
    """Three rows for every id that can be divided by 3, each an hour after the other; one more object at the end."""

    def __init__(self, name="odd.parquet", text="a"):
        self.name, self.text = name, text

    @property
    def digest(self):
        return hashlib.sha256(self.text.encode()).hexdigest()

    def rows(self, chunk):
        times = np.where(chunk["injection_id"] % 3 == 0, 3, 1)
        out = chunk[np.repeat(np.arange(len(chunk)), times)]
        step = np.concatenate([np.arange(k) for k in times])
        out["mjd_from"] = (60000 + step / 24) * u.d
        out["mjd_to"] = (60000 + (step + 1) / 24) * u.d
        return out

    def rest(self, ids, like):
        self.seen = np.sort(ids)
        row = vstack([like, QTable({"injection_id": [10**6], "ra": [190.0] * u.deg, "dec": [0.0] * u.deg})])
        row["source_type"], row["flags"] = "Star", 0
        row["mag_r"] = 20 * u.mag
        row["mjd_from"], row["mjd_to"] = 60000 * u.d, 60001 * u.d
        yield row

    def beside(self, partition):
        ids = np.asarray(partition["injection_id"])
        odd = ids[ids % 2 == 1]
        return {self.name: pa.table({"id": odd})} if odd.size else {}


def catalogue(n=60):
    rng = np.random.default_rng(3)
    return normalize_catalog(
        {
            "injection_id": rng.permutation(n) + 1,
            "ra": rng.uniform(0, 360, n),
            "dec": rng.uniform(-60, 60, n),
            "source_type": ["Star"] * n,
            "mag_r": np.full(n, 21.0),
        }
    )


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def test_rows_are_replaced_and_objects_added(tmp_path):
    table, prepare = catalogue(), Splits()
    summary = partition_catalog(table, Halves(), tmp_path, prepare=prepare)
    assert summary.n_rows == 60 + 2 * 20 + 1
    assert prepare.seen.tolist() == list(range(1, 61))
    stored = read_partitions(tmp_path, list_partitions(tmp_path))
    ids, first = np.asarray(stored["injection_id"]), stored["mjd_from"].to_value("d")
    want = [(i, k) for i in range(1, 61) for k in range(3 if i % 3 == 0 else 1)] + [(10**6, 0)]
    assert [(i, round((t - 60000) * 24)) for i, t in zip(ids.tolist(), first.tolist(), strict=True)] == want


def test_bytes_do_not_depend_on_order_or_chunks(tmp_path):
    table = catalogue()
    write_catalog(table[::-1], tmp_path / "b.parquet")
    partition_catalog(table, Halves(), tmp_path / "whole", prepare=Splits())
    partition_catalog(tmp_path / "b.parquet", Halves(), tmp_path / "chunks", chunk_rows=7, prepare=Splits())
    assert contents(tmp_path / "whole") == contents(tmp_path / "chunks")
    assert len(contents(tmp_path / "whole")) == 4


def test_without_a_preparation_nothing_changes(tmp_path):
    partition_catalog(catalogue(), Halves(), tmp_path)
    assert partition_bounds(tmp_path).beside == ()
    assert '"beside"' not in (tmp_path / "_partition.json").read_text()
    assert read_beside(tmp_path, [(0, 0)], "odd.parquet") is None


def test_tables_beside_are_read_and_checked(tmp_path):
    partition_catalog(catalogue(), Halves(), tmp_path, prepare=Splits())
    odd = read_beside(tmp_path, [(1, 0), (0, 0), (1, 0), (9, 9)], "odd.parquet")["id"].to_pylist()
    assert sorted(set(odd)) == list(range(1, 61, 2))
    cache = PartitionCache(tmp_path)
    for _ in range(2):
        assert cache.beside([(0, 0), (1, 0)], "odd.parquet")["id"].to_pylist() == odd
    assert cache.beside([(0, 0)], "other.parquet") is None
    assert cache.n_bytes > 0
    path = tmp_path / "tract=0" / "patch=0" / "odd.parquet"
    assert damaged_partitions(tmp_path, read=True) == {}
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert list(damaged_partitions(tmp_path)) == [path]
    with pytest.raises(CorruptFileError, match="checksum"):
        read_beside(tmp_path, [(0, 0)], "odd.parquet")
    assert not partition_catalog(catalogue(), Halves(), tmp_path, prepare=Splits()).reused
    assert pq.read_table(path)["id"].to_pylist()
    path.unlink()
    assert damaged_partitions(tmp_path) == {path: "it is gone"}


def test_another_preparation_is_another_data_set_and_leaves_nothing_behind(tmp_path):
    table = catalogue()
    partition_catalog(table, Halves(), tmp_path, prepare=Splits())
    assert partition_catalog(table, Halves(), tmp_path, prepare=Splits()).reused
    for other in (Splits(text="b"), None):
        with pytest.raises(OutputExistsError):
            partition_catalog(table, Halves(), tmp_path, prepare=other)
    partition_catalog(table, Halves(), tmp_path, prepare=Splits("new.parquet", "b"), overwrite=True)
    assert {p.name for p in tmp_path.rglob("*.parquet")} == {"part-0.parquet", "new.parquet"}
    partition_catalog(table, Halves(), tmp_path, overwrite=True)
    assert {p.name for p in tmp_path.rglob("*.parquet")} == {"part-0.parquet"}


def test_ids_of_the_catalogue_stay_unique(tmp_path):
    table = vstack([catalogue(), catalogue()[:1]])
    write_catalog(table, tmp_path / "twice.parquet")
    with pytest.raises(CatalogError, match="occur twice"):
        partition_catalog(tmp_path / "twice.parquet", Halves(), tmp_path / "out", chunk_rows=30, prepare=Splits())
