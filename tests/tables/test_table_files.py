"""Tables as files: small and large ones hold the same, many are named together, and pieces add up to the same bits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skygraft.disk import NamedTogether
from skygraft.errors import OutputError
from skygraft.records.file_checksums import problem_of, read_checksum
from skygraft.tables import arrow
from skygraft.tables.arrow import TableWriter, note_of, read_groups
from skygraft.tables.sources import _Tally
from skygraft.tables.truth_parts import parse_alike, parse_truth_part, write_truth_part

_BANDS = ("g", "r")


def _truth(rng: np.random.Generator, n: int) -> pa.Table:
    """Rows of truth of sources 0 to 9, with numbers whose sums depend on their order."""
    return pa.table(
        {
            "injection_id": np.sort(rng.integers(-2, 12, n)),
            "band": pa.array(rng.choice(_BANDS, n).tolist(), pa.string()),
            "mjd": np.where(rng.random(n) < 0.2, np.nan, rng.normal(60000, 1, n)),
            "inst_flux": rng.lognormal(0, 5, n),
            "flux_deposited": rng.lognormal(0, 5, n),
            "aperture_fraction": np.where(rng.random(n) < 0.2, np.nan, rng.random(n)),
            "psf_fwhm": rng.lognormal(0, 9, n),
            "stamp_size": rng.integers(0, 3, n),
            "flags": 1 << rng.integers(0, 9, n),
            "is_primary": pa.array((rng.random(n) < 0.5).tolist(), pa.bool_()),
        }
    )


def _columns(tally: _Tally) -> list[bytes]:
    return [np.ascontiguousarray(column).tobytes() for column in tally.columns()]


def test_several_tables_at_a_time_are_tallied_to_the_bits_of_one_at_a_time() -> None:
    rng = np.random.default_rng(7)
    tables = [_truth(rng, n) for n in (40, 0, 1, 300, 25, 80)]
    one, several = (_Tally(np.arange(10), _BANDS, None) for _ in range(2))
    for table in tables:
        one.add([table])
    several.add(tables[:4])
    several.add(tables[4:])
    assert _columns(one) == _columns(several)
    # The order of the sums matters for these numbers: all rows as one table have other last bits.
    together = _Tally(np.arange(10), _BANDS, None)
    together.add([pa.concat_tables(tables)])
    assert _columns(one) != _columns(together)
    ids = [source for table in tables for source in table["injection_id"].to_pylist()]
    assert one.counts["n_images"].sum(axis=1).tolist() == [ids.count(source) for source in range(10)]


@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_small_table_is_the_same_table_as_one_that_is_written_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    table = _truth(np.random.default_rng(3), n)
    paths = tmp_path / "new/folder/small.parquet", tmp_path / "large.parquet"
    for path, most in zip(paths, (arrow._SMALL_ROWS, -1), strict=True):
        monkeypatch.setattr(arrow, "_SMALL_ROWS", most)
        checksum = path.with_suffix(".sha256")
        with TableWriter(path, checksum, table.schema, repeated=("band",)) as writer:
            for start in range(0, n, 20):
                writer.write(table.slice(start, 20))
            writer.note["fingerprint"] = "ab"
        assert note_of(path, checksum) == writer.written
        known = read_checksum(checksum)
        assert known is not None and known.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert problem_of(path, known, read=True) == ""
        assert repr(pq.read_table(path).to_pydict()) == repr(table.to_pydict())  # as text: NaN is equal to itself
        assert pq.read_schema(path).equals(table.schema, check_metadata=True)
    small, large = (pq.read_metadata(path) for path in paths)
    assert small.num_row_groups == large.num_row_groups == min(n, 1)
    if n:
        assert [m.row_group(0).column(0).compression for m in (small, large)] == ["SNAPPY", "ZSTD"]


def test_files_are_read_alike_at_once_and_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, path = _truth(np.random.default_rng(3), 90), tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=40)
    for most in (arrow._SMALL_BYTES, 0):
        monkeypatch.setattr(arrow, "_SMALL_BYTES", most)
        groups = list(read_groups(path, ("flags", "band"), fix=""))
        assert [group.num_rows for group in groups] == [40, 40, 10]
        assert pa.concat_tables(groups).equals(table.select(["flags", "band"]))


def test_files_get_their_names_together_when_all_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "folder" / f"{i}.txt" for i in range(5)]
    events: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path / "folder" else "file")
        sync(descriptor)

    def renamed(*names: Any) -> None:
        events.append("name")
        rename(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with NamedTogether() as together:
        for path in [*paths, paths[0]]:  # the last takes the place of the first
            with together.path(path, lambda temporary: events.append("before")) as temporary:
                temporary.write_text(f"{path.name} {len(events)}")
        with together.path(tmp_path / "dropped") as temporary:
            temporary.touch()
        together.drop(tmp_path / "dropped")
        assert not any(path.exists() for path in paths) and events == []
        together.commit()
        assert [path.read_text() for path in paths] == [f"{path.name} 0" for path in paths]
    assert events == ["file"] * 5 + ["before", "name"] * 5 + ["folder"]
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", *(path.name for path in paths)}


@pytest.mark.parametrize("at", ["write", "fsync", "before"])
def test_of_files_that_cannot_be_written_the_former_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("former")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write() -> None:
        with NamedTogether() as together:
            for path in paths:
                with together.path(path, full if at == "before" else None) as temporary:
                    temporary.write_text("new")
                    if at == "write" and path.name == "b":
                        full()
            together.commit()

    if at == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write()
    assert caught.value.path == str(paths[at == "write"])
    assert [path.read_text() for path in paths] == ["former"] * 2
    assert sorted(tmp_path.iterdir()) == paths


def test_truth_parts_are_parsed_alike_at_once_and_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    tables = [_truth(rng, n) for n in (4, 0, 30, 1)]
    schema = tables[0].schema

    def content(table: pa.Table) -> bytes:
        write_truth_part(tmp_path / "part.truth.arrow", table)
        return (tmp_path / "part.truth.arrow").read_bytes()

    contents = [content(table) for table in tables]
    found = parse_alike(contents, schema)
    assert found is not None and len(found) == len(tables)
    for batches, table, whole in zip(found, tables, contents, strict=True):
        at_once = pa.Table.from_batches(batches, schema)
        alone = parse_truth_part(whole, hashlib.sha256(whole).hexdigest(), "").select(schema.names)
        assert repr(at_once.to_pydict()) == repr(table.to_pydict()) == repr(alone.to_pydict())
    # Whatever is not just so is left to whoever reads them one by one.
    other = content(tables[0].drop_columns(["flags"]))
    several = content(pa.concat_tables([tables[0], tables[2]]))
    broken = contents[0][:200] + b"?" * 40 + contents[0][240:]
    for odd in (other, several, broken, contents[0][:-30], contents[0][:12], b""):
        assert parse_alike([contents[0], odd, contents[2]], schema) is None
        assert parse_alike([odd, contents[2]], schema) is None
    assert parse_alike([other, other], schema) is None
    assert parse_alike([], schema) == []
