"""Measuring the images of a campaign: once each, whatever stops it, and with tables that depend on nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kits import sweep_products
from skygraft.campaign import Campaign, read_plan
from skygraft.campaign.sweep import Product, product_dataset, sweep

type MakeCampaign = Callable[..., Campaign]

ADDED = Product("added", 1, sweep_products.measure_added)
IMAGES = Product("counted", 1, sweep_products.measure_image)


@pytest.fixture
def done(make_campaign: MakeCampaign) -> Campaign:
    campaign = make_campaign()
    assert campaign.run(n_workers=0).ok
    return campaign


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def tables(campaign: Campaign, name: str = "added") -> dict[str, str]:
    """SHA-256 of the tables of a product."""
    folder = campaign.layout.root / name
    found = sorted(folder.glob("tract=*/**/*.parquet"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def images_of(campaign: Campaign, name: str = "added") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(campaign.layout.root / name / "images.parquet").to_pylist()
    return rows


def test_every_image_is_measured_once(done: Campaign, log: Path) -> None:
    calls: list[tuple[int, int]] = []
    settings = {"half": 6, "log": str(log)}
    summary = sweep(done, ADDED, settings, processes=1, progress=lambda *numbers: calls.append(numbers))
    assert summary.ok and (summary.n_images, summary.n_measured, summary.n_skipped) == (4, 4, 0)
    assert calls == [(i, 4) for i in range(5)]
    assert len(list(log.iterdir())) == 4
    found = product_dataset(done, "added").to_table()
    assert found.num_rows == summary.n_rows == sum(row["n_rows"] for row in images_of(done))
    # What a star adds to the image within 6 pixels is nearly its flux.
    flags, kind = found["flags"].to_numpy(), np.array(found["source_type"].to_pylist())
    alone = (kind == "Star") & (flags == 0)
    ratio = found["added"].to_numpy()[alone] / found["inst_flux"].to_numpy()[alone]
    assert alone.sum() > 50 and 0.9 < np.median(ratio) < 1.2
    again = sweep(done, ADDED, settings, processes=1)
    assert (again.n_measured, again.n_skipped, again.n_rows) == (0, 4, summary.n_rows)
    assert len(list(log.iterdir())) == 4


def test_columns_of_the_truth_tables_are_added(done: Campaign) -> None:
    sweep(done, ADDED, {"half": 2}, processes=1)
    found = product_dataset(done, "added").to_table()
    truth = pq.read_table(done.layout.root / "truth")
    names = ["image_id", "injection_id", "visit", "detector", "mjd", "source_tract", "source_patch", "is_patch_inner",
             "is_tract_inner", "is_primary"]  # fmt: skip

    def rows(table: pa.Table) -> list[tuple[Any, ...]]:
        return sorted(zip(*(table[name].to_pylist() for name in names), strict=True))

    assert rows(found) == rows(truth)
    at = found.column_names.index("flags")
    assert found.column_names[at + 1 : at + 4] == ["visit", "detector", "mjd"]
    assert found.schema.field("ra").metadata[b"unit"] == b"deg"
    assert found.schema.field("added").metadata[b"unit"] == b"adu"
    assert {"tract", "patch"} <= set(found.column_names)


def test_tables_depend_on_neither_processes_nor_order(done: Campaign, tmp_path: Path) -> None:
    sweep(done, ADDED, {"half": 2}, processes=1)
    first = tables(done)
    assert len(first) == 3
    sweep(done, ADDED, {"half": 2}, processes=2, redo=True)
    assert tables(done) == first
    for table in (done.layout.root / "added").glob("tract=*/**/*.parquet"):
        table.unlink()
    for row in (3, 1, 0, 2):  # in pieces
        sweep(done, ADDED, {"half": 2}, rows=[row], redo=True, n_workers=0)
    assert tables(done) == first


@pytest.mark.dask
def test_on_a_cluster(done: Campaign) -> None:
    sweep(done, ADDED, {"half": 2}, processes=1)
    first = tables(done)
    summary = sweep(done, ADDED, {"half": 2}, cluster=True, n_workers=2, redo=True)
    assert summary.ok and summary.n_measured == 4
    assert tables(done) == first


def test_an_image_that_fails_is_a_row(done: Campaign) -> None:
    bad = read_plan(done.layout.plan)[1].image_id
    summary = sweep(done, ADDED, {"half": 2, "fail": [bad]}, processes=1)
    assert not summary.ok and (summary.n_measured, summary.n_failed) == (3, 1)
    ((image_id, error, message),) = summary.failed
    assert (image_id, error) == (bad, "ZeroDivisionError") and f"asked for by {bad}" in message
    assert "sweep_products.py" in message  # where a bug is
    rows = {row["image_id"]: row for row in images_of(done)}
    assert (rows[bad]["error"], rows[bad]["n_rows"]) == ("ZeroDivisionError", 0) and message == rows[bad]["message"]
    assert bad in str(summary) and json.loads(json.dumps(summary.to_dict()))["n_failed"] == 1
    found = product_dataset(done, "added").to_table()
    assert bad not in found["image_id"].to_pylist() and found.num_rows == summary.n_rows
    # It is tried again, and still fails: the others are left alone.
    again = sweep(done, ADDED, {"half": 2, "fail": [bad]}, processes=1)
    assert (again.n_measured, again.n_skipped, again.n_failed) == (0, 3, 1)
