"""The partitioned data set: complete, deterministic, idempotent, and never half there."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable

from skygraft.catalog import (
    list_partitions,
    normalize_catalog,
    partition_catalog,
    read_partitions,
    write_catalog,
)
from skygraft.catalog.partition_read import damaged_partitions, partition_bounds
from skygraft.errors import CatalogError, CorruptFileError, OutputExistsError


class Squares:
    """Tracts of 30 degrees in ra, patches of 60 in dec; nothing beyond ra 300."""

    def __init__(self, width=30.0):
        self.width = width

    def locate(self, ra, dec):
        tract = np.floor(np.asarray(ra) / self.width).astype(int)
        patch = np.floor((np.asarray(dec) + 90.0) / 60.0).astype(int).clip(0, 2)
        outside = np.asarray(ra) >= 300.0
        return np.where(outside, -1, tract), np.where(outside, -1, patch)

    def to_dict(self):
        return {"kind": "squares", "width": self.width}


def catalogue(n=700, seed=1):
    rng = np.random.default_rng(seed)
    table = QTable(
        {
            "injection_id": rng.permutation(n) * 3 + 5,
            "ra": rng.uniform(0, 360, n) * u.deg,
            "dec": rng.uniform(-90, 90, n) * u.deg,
            "source_type": np.where(rng.random(n) < 0.5, "Star", "Sersic"),
            "mag_r": np.where(rng.random(n) < 0.1, np.nan, 21.0) * u.mag,
            "n": np.full(n, 1.0),
            "half_light_radius": np.full(n, 0.5) * u.arcsec,
            "host": MaskedColumn(rng.integers(0, 9, n), mask=rng.random(n) < 0.3),
        }
    )
    return normalize_catalog(table)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def test_every_row_is_in_its_patch_once(tmp_path):
    table, skymap = catalogue(), Squares()
    summary = partition_catalog(table, skymap, tmp_path)
    tract, patch = skymap.locate(table["ra"].value, table["dec"].value)
    counts = list_partitions(tmp_path)
    want = {}
    for key in zip(tract.tolist(), patch.tolist(), strict=True):
        want[key] = want.get(key, 0) + 1
    assert counts == want
    assert (summary.n_rows, summary.n_outside) == (700, (tract == -1).sum())
    assert summary.n_partitions == len(want) - 1
    assert not summary.reused
    for key in [(3, 1), (7, 0)]:
        part = read_partitions(tmp_path, [key])
        ids = np.sort(table["injection_id"][(tract == key[0]) & (patch == key[1])])
        assert part["injection_id"].tolist() == ids.tolist()
    everything = read_partitions(tmp_path, counts)
    ordered = table[np.argsort(table["injection_id"])]
    assert everything.colnames == ordered.colnames
    for name in ordered.colnames:
        assert everything[name].unit == ordered[name].unit
        a, b = (t[name].filled(-1) if name == "host" else np.asarray(t[name]) for t in (everything, ordered))
        np.testing.assert_array_equal(a, b)
    assert (everything["host"].mask == ordered["host"].mask).all()


def test_one_schema_in_every_file(tmp_path):
    partition_catalog(catalogue(), Squares(), tmp_path)
    schemas = [pq.read_schema(p) for p in tmp_path.rglob("*.parquet")]
    assert len(schemas) == 31
    assert all(s.equals(schemas[0], check_metadata=True) for s in schemas)
    assert schemas[0].field("ra").metadata[b"unit"] == b"deg"


def test_bytes_do_not_depend_on_order_or_chunks(tmp_path):
    table = catalogue()
    write_catalog(table, tmp_path / "a.parquet")
    write_catalog(table[::-1], tmp_path / "b.parquet")
    partition_catalog(table, Squares(), tmp_path / "whole")
    partition_catalog(tmp_path / "a.parquet", Squares(), tmp_path / "chunks", chunk_rows=37)
    partition_catalog(tmp_path / "b.parquet", Squares(), tmp_path / "reversed", chunk_rows=211)
    want = files(tmp_path / "whole")
    assert files(tmp_path / "chunks") == want
    assert files(tmp_path / "reversed") == want
    assert not list(tmp_path.rglob(".spool*"))


def test_again_is_a_no_op_and_another_input_is_refused(tmp_path):
    table, out = catalogue(), tmp_path / "out"
    first = partition_catalog(table, Squares(), out)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    again = partition_catalog(table, Squares(), out)
    assert again.reused and again.digest == first.digest and again.n_rows == first.n_rows
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == times
    other = table.copy()
    other["mag_r"][0] = 17 * u.mag
    for changed, skymap in ((other, Squares()), (table, Squares(60.0))):
        with pytest.raises(OutputExistsError, match="overwrite=True"):
            partition_catalog(changed, skymap, out)
    partition_catalog(table, Squares(60.0), out, overwrite=True)
    assert max(t for t, _ in list_partitions(out)) == 4
    on_disk = {p.parent.parent.name for p in out.rglob("*.parquet")}
    assert on_disk == {f"tract={t}" for t, _ in list_partitions(out)}


def test_a_failed_run_is_not_readable_and_is_redone(tmp_path):
    class Failing(Squares):
        calls = 0

        def locate(self, ra, dec):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("lost")
            return super().locate(ra, dec)

    out = tmp_path / "out"
    path = tmp_path / "a.parquet"
    write_catalog(catalogue(), path)
    with pytest.raises(RuntimeError, match="lost"):
        partition_catalog(path, Failing(), out, chunk_rows=100)
    for read in (list_partitions, lambda d: read_partitions(d, [(1, 1)])):
        with pytest.raises(CatalogError, match="no finished partitioned catalogue"):
            read(out)
    assert not list(out.glob(".spool*"))
    assert partition_catalog(path, Squares(), out).n_rows == 700


def test_damage_is_seen_and_repaired(tmp_path):
    table = catalogue()
    partition_catalog(table, Squares(), tmp_path)
    good = files(tmp_path)
    key = next(k for k in list_partitions(tmp_path) if k[0] >= 0)
    part = tmp_path / f"tract={key[0]}" / f"patch={key[1]}" / "part-0.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CorruptFileError, match="not a readable partition"):
        read_partitions(tmp_path, [key])
    part.unlink()
    with pytest.raises(CorruptFileError, match="a partition is missing"):
        read_partitions(tmp_path, [key])
    whole = (tmp_path / "_partitions.arrow").read_bytes()
    (tmp_path / "_partitions.arrow").write_bytes(whole[:-1] + b"?")
    with pytest.raises(CorruptFileError, match="table of partitions is not what was written"):
        list_partitions(tmp_path)
    assert list(damaged_partitions(tmp_path)) == [tmp_path / "_partitions.arrow"]
    assert not partition_catalog(table, Squares(), tmp_path).reused
    assert files(tmp_path) == good
    for text in ("{", "[" * 50_000):
        (tmp_path / "_partition.json").write_text(text)
        with pytest.raises(CorruptFileError, match="not readable"):
            list_partitions(tmp_path)


def test_ids_are_unique_over_all_chunks(tmp_path):
    table = catalogue()
    table["injection_id"][600] = table["injection_id"][2]
    table["injection_id"][601] = 1
    path = tmp_path / "a.parquet"
    write_catalog(table, path)
    with pytest.raises(CatalogError, match=r"occur twice: \d+ \(rows 2 and 600\)"):
        partition_catalog(path, Squares(), tmp_path / "out", chunk_rows=100)
    with pytest.raises(CatalogError, match="occur twice"):
        partition_catalog(table, Squares(), tmp_path / "out")


def test_empty_patches_and_columns(tmp_path):
    partition_catalog(catalogue(), Squares(), tmp_path)
    none = read_partitions(tmp_path, [(999, 0)])
    assert len(none) == 0
    assert none["ra"].unit == u.deg
    assert none.colnames == read_partitions(tmp_path, [(3, 1)]).colnames
    some = read_partitions(tmp_path, [(3, 1), (3, 1), (4, 1)], columns=["ra", "mag_r"])
    assert some.colnames == ["injection_id", "ra", "mag_r"]
    assert (np.diff(some["injection_id"]) > 0).all()
    with pytest.raises(CatalogError, match="no column 'colour'"):
        read_partitions(tmp_path, [(3, 1)], columns=["colour"])


def test_the_marker_says_what_was_done(tmp_path):
    partition_catalog(catalogue(), Squares(), tmp_path)
    marker = json.loads((tmp_path / "_partition.json").read_text())
    assert marker["settings"]["skymap"] == {"kind": "squares", "width": 30.0}
    assert sum(list_partitions(tmp_path).values()) == marker["n_rows"] == 700
    table = (tmp_path / "_partitions.arrow").read_bytes()
    assert marker["partitions"] == {"bytes": len(table), "sha256": hashlib.sha256(table).hexdigest()}
    assert sum(pa.ipc.open_file(table).read_all().column("rows").to_pylist()) == 700


def test_dialects_are_streamed(tmp_path):
    table = catalogue()
    raw = QTable({name: table[name] for name in ("ra", "dec", "source_type", "n", "half_light_radius")})
    raw["mag"] = table["mag_r"]
    from skygraft.catalog.io import to_arrow

    pq.write_table(to_arrow(raw), tmp_path / "a.parquet")
    partition_catalog(tmp_path / "a.parquet", Squares(), tmp_path / "out", band="i", chunk_rows=90)
    out = read_partitions(tmp_path / "out", list_partitions(tmp_path / "out"))
    assert out["injection_id"].tolist() == list(range(700))
    np.testing.assert_array_equal(out["mag_i"].value, table["mag_r"].value)


def test_with_the_real_sky_map(tmp_path):
    from skygraft.skymap import get_skymap

    rng = np.random.default_rng(0)
    n = 300
    table = normalize_catalog(
        QTable(
            {
                "ra": rng.uniform(149.5, 150.7, n) * u.deg,
                "dec": rng.uniform(1.6, 2.8, n) * u.deg,
                "source_type": np.full(n, "Star"),
                "mag_r": np.full(n, 20.0) * u.mag,
            }
        )
    )
    table["ra"][0], table["dec"][0] = 150.1163 * u.deg, 2.2058 * u.deg
    partition_catalog(table, get_skymap("hsc_rings_v1"), tmp_path)
    # COSMOS is tract 9813, patch 41 of HSC's map.
    assert 0 in read_partitions(tmp_path, [(9813, 41)])["injection_id"]
    assert sum(list_partitions(tmp_path).values()) == n


def moving(folder):
    bounds = partition_bounds(folder)
    return {key: n for key, n in zip(bounds.keys, bounds.moving.tolist(), strict=True) if n}


def test_movers_are_counted_where_they_are_stored(tmp_path):
    table, skymap = catalogue(), Squares()
    rate = np.zeros(len(table))
    rate[[3, 50, 400]] = 1.0
    table["rate_dec"] = rate * u.arcsec / u.hour
    table["epoch_mjd"] = np.full(len(table), 60000.0) * u.day
    write_catalog(table, tmp_path / "a.parquet")
    partition_catalog(tmp_path / "a.parquet", skymap, tmp_path / "out", chunk_rows=60)
    tract, patch = skymap.locate(table["ra"].value, table["dec"].value)
    want = {}
    for i in (3, 50, 400):
        want[tract[i], patch[i]] = want.get((tract[i], patch[i]), 0) + 1
    assert moving(tmp_path / "out") == want
    partition_catalog(catalogue(), skymap, tmp_path / "still")
    assert moving(tmp_path / "still") == {}


def test_a_data_set_of_an_earlier_version_is_still_read(tmp_path):
    """Its marker holds the table of partitions itself."""
    table, skymap = catalogue(), Squares()
    partition_catalog(table, skymap, tmp_path)
    want, whole = files(tmp_path), partition_bounds(tmp_path)
    marker = json.loads((tmp_path / "_partition.json").read_text())
    del marker["checksum"], marker["n_partitions"]
    marker["partitions"] = {
        "tract": [tract for tract, _ in whole.keys],
        "patch": [patch for _, patch in whole.keys],
        "rows": whole.rows.tolist(),
        "moving": whole.moving.tolist(),
        "center": whole.centers.tolist(),
        "radius": whole.radii.tolist(),
        "speed": whole.speeds.tolist(),
        "epochs": [[None, None] for _ in whole.keys],
        "bytes": list(whole.sizes),
        "sha256": list(whole.sha256),
    }
    text = json.dumps(marker, sort_keys=True, separators=(",", ":"))
    marker["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "_partition.json").write_text(json.dumps(marker))
    (tmp_path / "_partitions.arrow").unlink()
    bounds = partition_bounds(tmp_path)
    assert (bounds.keys, bounds.sha256) == (whole.keys, whole.sha256)
    np.testing.assert_array_equal(bounds.epochs, whole.epochs)
    summary = partition_catalog(table, skymap, tmp_path)
    assert summary.reused and summary.n_partitions == 30
    assert files(tmp_path) == want
