"""An index on disk: what is written is read, and what cannot be used is named."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kits.plain_images import write_plain_image
from skygraft.errors import CampaignError, ConfigError, CorruptFileError, FormatError
from skygraft.processes import process_mapper
from skygraft.survey import INDEX_SCHEMA, IndexFile, index_images, index_survey, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        write_plain_image(tmp_path / f"{i}.fits", 10.0 + i, -3.0, 30, seed=i, EXPNUM=7, CCDNUM=i)
    (tmp_path / "bad.fits").write_bytes(b"")
    return tmp_path


def test_round_trip(folder: Path) -> None:
    found = index_survey({"images": "*.fits"}, folder)
    assert len(found) == 5
    write_index(found, folder / "images.parquet")
    file = IndexFile(folder / "images.parquet")
    assert len(file) == 5
    assert file.failures == found.failures
    assert file.failures[0]["path"] == "bad.fits"
    assert file.read() == found
    assert [t.num_rows for t in file.batches(["ra"], batch_rows=2)] == [2, 2, 1]
    plain, again = index_images({"images": "*.fits"}, folder), index_images({"index": "images.parquet"}, folder)
    for name in plain.colnames:
        assert list(plain[name]) == list(again[name]) or np.ma.is_masked(plain[name])
    assert again.meta["failures"]["path"].tolist() == ["bad.fits"]


def table(n: int = 3, **changes: Any) -> pa.Table:
    columns = {
        "image_id": [f"i{k}" for k in range(n)],
        "path": [f"{k}.fits" for k in range(n)],
        "format": ["fits"] * n,
        "nx": [10] * n,
        "ny": [10] * n,
        "ra": [1.0] * n,
        "dec": [1.0] * n,
        "polygon": [[[1.0, 1.0], [1.1, 1.0], [1.1, 1.1]]] * n,
        "pixel_scale": [0.2] * n,
        "n_bytes": [100] * n,
    }
    return pa.table({name: column for name, column in (columns | changes).items() if column is not None})


def test_what_may_be_absent_and_types_that_say_the_same(tmp_path: Path) -> None:
    loose = table(
        nx=pa.array([10] * 3, pa.int16()), ra=pa.array([1] * 3), format=pa.array(["fits"] * 3).dictionary_encode(),
        polygon=pa.array([[(1.0, 1.0), (1.1, 1.0), (1.1, 1.1)]] * 3, pa.list_(pa.list_(pa.float32(), 2))),
        band=pa.nulls(3), more=["x"] * 3,
    )  # fmt: skip
    pq.write_table(loose, tmp_path / "a.parquet")
    (batch,) = IndexFile(tmp_path / "a.parquet").batches()
    assert batch.schema.equals(INDEX_SCHEMA)
    assert batch.column("band").null_count == batch.column("options").null_count == 3
    assert batch.column("nx").to_pylist() == [10] * 3


TRIANGLE = [[1.0, 1.0], [1.1, 1.0], [1.1, 1.1]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"polygon": None}, "no column polygon"),
        ({"path": None, "ny": None}, "no column path, ny"),
        ({"nx": ["10"] * 3}, "'nx' is not of the type int64"),
        ({"image_id": [1, 2, 3]}, "'image_id' is not of the type string"),
        ({"polygon": ["x"] * 3}, "'polygon' is not of the type"),
        ({"nx": [10.5] * 3}, "'nx' is not of the type int64"),
        ({"image_id": ["a", "b", "a"]}, "occur more than once: a"),
        ({"image_id": ["a", None, "c"]}, "image_id is None; a value"),
        ({"path": ["a", "b", ""]}, "path is ; a name"),
        ({"ra": [1.0, 400.0, 1.0]}, "ra is 400.0; a number within 0..360"),
        ({"dec": [1.0, float("nan"), 1.0]}, "dec is nan"),
        ({"ny": [10, 10, 0]}, "ny is 0"),
        ({"n_bytes": [1, -1, 1]}, "n_bytes is -1"),
        ({"format": ["fits", "fots", "fits"]}, "format is fots"),
        ({"options": ["{}", "[1]", None]}, "JSON object"),
        ({"polygon": [TRIANGLE, TRIANGLE[:2], TRIANGLE]}, "three or more"),
        ({"polygon": [TRIANGLE, [*TRIANGLE, [1.0]], TRIANGLE]}, "three or more"),
        ({"polygon": [TRIANGLE, [*TRIANGLE, [1.0, 95.0]], TRIANGLE]}, "three or more"),
    ],
)
def test_bad_tables(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    pq.write_table(table(**changes), tmp_path / "a.parquet")
    with pytest.raises(FormatError) as caught:
        IndexFile(tmp_path / "a.parquet").read()
    assert words in str(caught.value)
    assert "a.parquet" in str(caught.value)
    assert caught.value.fix


def test_bad_rows_are_counted_over_all_parts(tmp_path: Path) -> None:
    pq.write_table(table(100, ra=[1.0] * 70 + [-1.0] * 30), tmp_path / "a.parquet", row_group_size=20)
    with pytest.raises(FormatError, match=r"-1\.0") as caught:
        list(IndexFile(tmp_path / "a.parquet").batches(["ra"], batch_rows=15))
    assert caught.value.row == 70


def test_no_file_and_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skygraft index"):
        IndexFile(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        IndexFile(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="path of a Parquet file"):
        index_images({"index": ["a", "b"]}, tmp_path)


def test_processes_keep_the_order_and_tell_errors() -> None:
    with process_mapper(2) as mapper:
        assert list(mapper(math.isqrt, iter(range(25)), chunksize=3)) == [math.isqrt(n) for n in range(25)]
        with pytest.raises(ValueError, match="nonnegative"):
            list(mapper(math.isqrt, range(20, -20, -1)))
        # More than the few that are done in this process.
        with pytest.raises(CampaignError, match="use fewer processes"):
            list(mapper(os._exit, [1, 1, 1]))
