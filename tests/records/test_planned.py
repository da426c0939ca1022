"""The plan's file: written part by part, read part by part, whole or not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kits.plan_kit import add_images, make_images, write_plan
from skygraft.errors import CampaignError, OutputError
from skygraft.records import plan_file as planned_module
from skygraft.records.plan_file import Plan, PlannedImage, PlanWriter, read_plan

METADATA = {"plan_key": "abc", "unusable": [{"path": "ü.fits", "reason": "no"}], "nothing": None}


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(planned_module, "ROW_GROUP", 16)
    return 16


def write(path: Path, images: list[PlannedImage], parts: list[int]) -> Path:
    with PlanWriter(path) as writer:
        start = 0
        for size in parts:
            add_images(writer, images[start : start + size])
            start += size
        add_images(writer, images[start:])
        writer.metadata.update(METADATA)
    return path


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100])
def test_round_trip(tmp_path: Path, small_groups: int, n: int) -> None:
    images = make_images(n)
    plan = Plan(write(tmp_path / "plan.parquet", images, [3, 40]))
    assert len(plan) == n
    assert plan.metadata == METADATA
    assert list(plan.images()) == images == read_plan(plan.path)
    assert Plan(plan.path).metadata == METADATA
    assert pq.read_metadata(plan.path).num_row_groups == -(-n // small_groups)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".consolidated", "plan.parquet"]


def test_equal_plans_give_equal_files(tmp_path: Path, small_groups: int) -> None:
    images = make_images(100)
    write_plan(tmp_path / "whole", images, METADATA)
    wanted = (tmp_path / "whole").read_bytes()
    for i, parts in enumerate([[1] * 100, [16] * 6, [0, 50, 0, 50], [33, 33]]):
        assert write(tmp_path / str(i), images, parts).read_bytes() == wanted
    other = [*images[:-1], dataclasses.replace(images[-1], catalog_key="f" * 64)]
    assert write(tmp_path / "other", other, []).read_bytes() != wanted


def test_only_the_needed_parts_are_read(tmp_path: Path, small_groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(100)
    plan = Plan(write(tmp_path / "plan.parquet", images, []))
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def spy(self: Any, i: int, *args: Any, **kwargs: Any) -> Any:
        groups.append(i)
        return read(self, i, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    rows = [0, 15, 16, 50, 51, 99]
    assert list(plan.images(np.array(rows))) == [images[i] for i in rows]
    assert groups == [0, 1, 3, 6]
    groups.clear()
    # Nothing is read ahead of the one who asks.
    stream = plan.images()
    assert next(stream) == images[0]
    assert groups == [0]
    assert list(plan.images([])) == []


@pytest.mark.parametrize("rows", [[-1], [100], [3, 3], [5, 4]])
def test_rows_that_are_not_there(tmp_path: Path, rows: list[int]) -> None:
    plan = Plan(write(tmp_path / "plan.parquet", make_images(100), []))
    with pytest.raises(ValueError, match="plan of 100 images"):
        list(plan.images(rows))


def test_columns(tmp_path: Path, small_groups: int) -> None:
    images = make_images(50)
    plan = Plan(write(tmp_path / "plan.parquet", images, []))
    table = plan.table(["patch", "image_id", "reads"])
    assert table.column_names == ["patch", "image_id", "reads"]
    assert table["image_id"].to_pylist() == [image.image_id for image in images]
    assert table["reads"].to_pylist() == [[list(pair) for pair in image.reads] for image in images]
    batches = list(plan.batches(["visit", "ra"], batch_rows=20))
    assert [batch.schema.names for batch in batches] == [["visit", "ra"]] * len(batches)
    assert max(batch.num_rows for batch in batches) <= 20
    assert [v for batch in batches for v in batch["visit"].to_pylist()] == [image.visit for image in images]
    assert set(next(plan.batches()).schema.names) == {field.name for field in dataclasses.fields(PlannedImage)}
    with pytest.raises(ValueError, match="no column 'colour'"):
        plan.table(["colour"])


def test_no_plan_and_bad_plans(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    with pytest.raises(CampaignError, match="skygraft plan"):
        Plan(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(CampaignError, match="plan again"):
        Plan(path)
    write(path, make_images(3), [])
    pq.write_table(pq.read_table(path).drop_columns(["hdu"]), path)
    with pytest.raises(CampaignError, match="another version"):
        Plan(path)
    # Cut in the middle of the data: the footer says so only when it is read.
    write(path, make_images(3000), [])
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes(20_000) + content[21_000:])
    with pytest.raises(CampaignError, match="plan again"):
        list(Plan(path).images())


def test_another_plan_in_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "plan.parquet", make_images(3), [])
    plan = Plan(path)
    write(path, make_images(4), [])
    with pytest.raises(CampaignError, match="taken the place"):
        plan.table(["ra"])


def test_a_plan_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "plan.parquet", make_images(3), [])
    before = path.read_bytes()
    with pytest.raises(KeyError, match="stop"), PlanWriter(path) as writer:
        add_images(writer, make_images(4))
        raise KeyError("stop")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".consolidated", "plan.parquet"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), PlanWriter(tmp_path / "file" / "plan.parquet"):
        pass
