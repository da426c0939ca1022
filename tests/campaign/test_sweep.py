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
from skygraft.errors import CampaignError, ConfigError

type MakeCampaign = Callable[..., Campaign]

ADDED = Product("added", 1, sweep_products.measure_added)
IMAGES = Product("counted", 1, sweep_products.measure_image)


@pytest.fixture
def done(finished: Campaign) -> Campaign:
    return finished


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
    rows: list[dict[str, Any]] = pq.read_table(campaign.layout.root / name / "_images.parquet").to_pylist()
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


@pytest.mark.usefixtures("forked_processes")
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


def measured(log: Path) -> list[str]:
    """Stems of the images that were measured, once for each time."""
    return sorted(path.name.rsplit(".", 2)[0] for path in log.iterdir())


def part_of(campaign: Campaign, row: int, name: str = "added") -> Path:
    image = read_plan(campaign.layout.plan)[row]
    path = campaign.layout.root / name / "_parts" / f"tract={image.tract}" / f"patch={image.patch}"
    return path / f"{image.stem}.arrow"


def table_of(campaign: Campaign, row: int, name: str = "added") -> Path:
    image = read_plan(campaign.layout.plan)[row]
    return campaign.layout.root / name / f"tract={image.tract}" / f"patch={image.patch}" / "part-0.parquet"


def test_interrupted_it_goes_on_where_it_was(done: Campaign, log: Path, tmp_path: Path) -> None:
    (there := tmp_path / "there").touch()
    images = read_plan(done.layout.plan)
    settings = {"half": 2, "log": str(log), "stop": images[2].image_id, "there": str(there)}
    product = Product("added", 1, sweep_products.measure_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(done, product, settings, n_workers=0)
    assert measured(log) == sorted(image.stem for image in images[:2])
    with pytest.raises(CampaignError, match="not complete"):
        product_dataset(done, "added")
    there.unlink()
    summary = sweep(done, product, settings, n_workers=0)
    assert (summary.n_measured, summary.n_skipped) == (2, 2)
    assert measured(log) == sorted(image.stem for image in images)
    first = tables(done)
    # Not at the end of the measurements, but while tables are written: as if it had not been there.
    table_of(done, 3).unlink()
    (done.layout.root / "added" / "_settings.json").unlink()
    assert sweep(done, product, settings, n_workers=0).n_measured == 0
    assert tables(done) == first and len(measured(log)) == 4


def test_other_settings_or_versions_are_measured_again(done: Campaign, log: Path) -> None:
    settings = {"half": 2, "log": str(log)}
    sweep(done, ADDED, settings, n_workers=0)
    before = tables(done)
    two = product_dataset(done, "added").to_table()["added"].to_numpy()
    assert sweep(done, ADDED, settings | {"half": 3}, n_workers=0).n_measured == 4
    three = product_dataset(done, "added").to_table()["added"].to_numpy()
    assert len(two) == len(three) and (two != three).mean() > 0.5
    assert json.loads((done.layout.root / "added" / "_settings.json").read_text())["settings"]["half"] == 3
    assert sweep(done, Product("added", 2, sweep_products.measure_added), settings, n_workers=0).n_measured == 4
    # Of a sample with new settings, the tables have the sample only.
    summary = sweep(done, ADDED, settings, rows=[2], n_workers=0)
    assert (summary.n_images, summary.n_measured, summary.n_in_tables) == (1, 1, 1)
    assert len(tables(done)) == 1 and len(images_of(done)) == 1
    summary = sweep(done, ADDED, settings, n_workers=0)
    assert (summary.n_measured, summary.n_skipped) == (3, 1)
    assert tables(done) == before


def test_lost_and_damaged_measurements_are_made_again(done: Campaign, log: Path) -> None:
    settings = {"half": 2, "log": str(log)}
    sweep(done, ADDED, settings, n_workers=0)
    first = tables(done)
    # As long as the table has what was measured, its source is not missed.
    part_of(done, 0).unlink()
    assert sweep(done, ADDED, settings, n_workers=0).n_measured == 0
    # A table that has to be made again needs it.
    table_of(done, 0).unlink()
    summary = sweep(done, ADDED, settings, n_workers=0)
    assert (summary.n_measured, summary.n_skipped) == (1, 3) and tables(done) == first
    # Two flipped bytes, at several places of the file; and a file that is cut.
    for at in (0.1, 0.5, 0.8, None):
        path = part_of(done, 2)
        content = bytearray(path.read_bytes())
        if at is None:
            content = content[: len(content) // 2]
        else:
            content[int(at * len(content))] ^= 1
            content[int(at * len(content)) + 1] ^= 1
        path.write_bytes(content)
        table_of(done, 2).unlink()
        n = len(measured(log))
        assert sweep(done, ADDED, settings, n_workers=0).ok
        # The first part of a file repeats the schema at its end, and is not read.
        assert len(measured(log)) - n in ((1,) if at in (0.5, None) else (0, 1)), at
        assert tables(done) == first, at
    # A damaged table is made again from the measurements.
    path = table_of(done, 1)
    path.write_bytes(path.read_bytes()[:-8])
    assert sweep(done, ADDED, settings, n_workers=0).n_measured == 0 and tables(done) == first


def test_images_that_are_made_anew_are_measured_anew(
    make_campaign: MakeCampaign, finished: Campaign, log: Path
) -> None:
    settings = {"half": 2, "log": str(log)}
    sweep(finished, ADDED, settings, n_workers=0)
    first = tables(finished)
    other = make_campaign(injection={"seed": 43})
    # Its outputs are of other settings until it has run.
    summary = sweep(other, ADDED, settings, redo=True, n_workers=0)
    assert summary.n_failed == 4 and "injection.seed: 42 -> 43" in summary.failed[0][2]
    assert summary.n_in_tables == 0 and not tables(other)
    assert sweep(finished, ADDED, settings, n_workers=0).ok and tables(finished) == first
    assert other.run(n_workers=0, redo=True).ok
    summary = sweep(other, ADDED, settings, n_workers=0)
    assert (summary.n_measured, summary.n_renewed) == (4, 4) and len(summary.renewed) == 4
    assert "rebuilt since" in str(summary)
    assert tables(other) != first


def test_an_original_that_was_changed_is_not_compared(done: Campaign) -> None:
    raw = done.config.survey.root / read_plan(done.layout.plan)[0].path
    content = raw.read_bytes()
    raw.write_bytes(content + bytes(2880))
    summary = sweep(done, ADDED, {"half": 2}, n_workers=0)
    assert (summary.n_measured, summary.n_failed) == (3, 1)
    assert "was changed" in summary.failed[0][2] and "skygraft run --redo" in summary.failed[0][2]


def test_outputs_that_are_missing_are_named(done: Campaign) -> None:
    image = read_plan(done.layout.plan)[1]
    (done.layout.images / image.output).unlink()
    summary = sweep(done, ADDED, {"half": 2}, n_workers=0)
    assert summary.n_failed == 1 and summary.failed[0][0] == image.image_id
    assert str(done.layout.images / image.output) in summary.failed[0][2]


def test_images_that_are_not_done_are_named(done: Campaign) -> None:
    images = read_plan(done.layout.plan)
    done.layout.record(images[3].tract, images[3].patch, images[3].stem).unlink()
    summary = sweep(done, ADDED, {"half": 2}, n_workers=0)
    assert summary.ok and (summary.n_images, summary.n_not_done) == (3, 1)
    assert summary.not_done == (images[3].image_id,) and images[3].image_id in str(summary)
    for image in images:
        done.layout.record(image.tract, image.patch, image.stem).unlink(missing_ok=True)
    with pytest.raises(CampaignError, match="no image of the campaign is done"):
        sweep(done, ADDED, {"half": 2}, n_workers=0)


def test_without_truth_tables_their_columns_are_empty_until_they_are_there(done: Campaign, log: Path) -> None:
    settings = {"half": 2, "log": str(log)}
    sweep(done, ADDED, settings, n_workers=0)
    whole = tables(done)
    table = done.layout.truth_table(*((i := read_plan(done.layout.plan)[0]).tract, i.patch))
    content = table.read_bytes()
    table.unlink()
    summary = sweep(done, ADDED, settings, n_workers=0)
    here = sum((image.tract, image.patch) == (i.tract, i.patch) for image in read_plan(done.layout.plan))
    assert summary.n_without_truth == here > 0 and "nothing is measured twice" in str(summary)
    found = pq.read_table(table_of(done, 0), partitioning=None)
    assert found["is_primary"].null_count == found.num_rows > 0
    assert found["visit"].to_pylist() == [i.visit] * found.num_rows
    table.write_bytes(content)
    summary = sweep(done, ADDED, settings, n_workers=0)
    assert summary.n_without_truth == 0 and tables(done) == whole and len(measured(log)) == 4


def test_a_product_without_sources(done: Campaign) -> None:
    summary = sweep(done, IMAGES, {}, n_workers=0)
    found = product_dataset(done, "counted").to_table()
    assert summary.n_rows == found.num_rows == 4
    assert sorted(found.column_names) == ["image_id", "n", "patch", "tract"]
    images = read_plan(done.layout.plan)
    assert sorted(zip(found["image_id"].to_pylist(), found["tract"].to_pylist(), strict=True)) == sorted(
        (image.image_id, image.tract) for image in images
    )


@pytest.mark.parametrize("product", [Product("bad", 1, sweep_products.measure_nothing)])
def test_what_is_no_table_is_an_error_of_each_image(done: Campaign, product: Product) -> None:
    summary = sweep(done, product, {}, n_workers=0)
    assert summary.n_failed == 4 and "a pyarrow.Table is needed" in summary.failed[0][2]
    assert product_dataset(done, "bad").to_table().num_rows == 0


def test_what_is_refused(done: Campaign, make_campaign: MakeCampaign) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        sweep(done, ADDED, {"half": Path("x")}, n_workers=0)
    with pytest.raises(ConfigError, match="row 4 is not in the plan of 4 images"):
        sweep(done, ADDED, {"half": 2}, rows=[0, 4], n_workers=0)
    for name in ("truth", "Added", "../x", ""):
        with pytest.raises(ConfigError, match="folder of a product"):
            Product(name, 1, sweep_products.measure_added)
    with pytest.raises(CampaignError, match="there is none"):
        product_dataset(done, "recovery")
    other = make_campaign(name="another")
    with pytest.raises(CampaignError, match="a campaign whose name is 'test', not 'another'"):
        sweep(other, ADDED, {"half": 2}, n_workers=0)
    # A configuration that cannot be read leaves the plan to say whose the folder is.
    done.layout.config.write_text("name: [")
    assert sweep(make_campaign(), ADDED, {"half": 2}, rows=[0], n_workers=0).ok
    with pytest.raises(ConfigError, match="YAML"):
        sweep(make_campaign(margin_arcsec=6.0), ADDED, {"half": 2}, n_workers=0)
    empty = make_campaign(output="../nothing-here")
    with pytest.raises(CampaignError, match="no plan"):
        sweep(empty, ADDED, {"half": 2}, n_workers=0)


def test_a_broken_table_of_images_is_no_obstacle(done: Campaign, log: Path) -> None:
    settings = {"half": 2, "log": str(log)}
    sweep(done, ADDED, settings, n_workers=0)
    (done.layout.root / "added" / "_images.parquet").write_bytes(b"PAR1 and no more")
    summary = sweep(done, ADDED, settings, n_workers=0)
    assert (summary.n_measured, summary.n_skipped) == (0, 4) and len(images_of(done)) == 4


@pytest.mark.dask
@pytest.mark.slow
@pytest.mark.usefixtures("forked_processes")
@pytest.mark.parametrize("where", [{"processes": 2}, {"cluster": True, "n_workers": 1}], ids=["processes", "cluster"])
def test_an_image_that_kills_its_process_is_a_row(done: Campaign, where: dict[str, Any]) -> None:
    image = read_plan(done.layout.plan)[1]
    product = Product("added", 1, sweep_products.measure_or_die)
    summary = sweep(done, product, {"half": 2, "fatal": image.image_id}, **where)
    # One that was measured in a task that the fatal one ended is found done when the task's images are tried alone.
    assert (summary.n_measured + summary.n_skipped, summary.n_failed) == (3, 1)
    assert summary.failed[0][:2] == (image.image_id, "LostWorker") and "died" in summary.failed[0][2]
    assert {row["image_id"]: row["error"] for row in images_of(done)}[image.image_id] == "LostWorker"
    assert image.image_id not in product_dataset(done, "added").to_table()["image_id"].to_pylist()
