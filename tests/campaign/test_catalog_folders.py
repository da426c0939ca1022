"""Campaigns with catalogues as people have them: HATS collections, columns of other names, rows selected by image."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from kits.hats_kit import write_collection
from kits.tiny_campaign import DEC, RA, checksums, write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.catalog.hats_files import open_folder
from skygraft.catalog.io import read_table
from skygraft.errors import CampaignError, CatalogError
from skygraft.execution.task import sources_of
from skygraft.records.plan_file import read_plan

N = 24
COLUMNS = {"injection_id": "number", "ra": "RAJ2000", "dec": "DEJ2000", "mag_r": "rmag", "source_type": "=Star"}


def survey_rows():
    """Stars on the images, half of them bright, under the names of another survey."""
    rng = np.random.default_rng(4)
    offsets = rng.uniform(-8, 8, (2, N)) / 3600
    return {
        "number": np.arange(N) * 5,
        "RAJ2000": RA + offsets[0],
        "DEJ2000": DEC + offsets[1],
        "rmag": np.where(np.arange(N) % 2 == 0, 20.0, 21.0),
        "night": np.arange(N) % 4 + 500,
    }


def write_survey(folder):
    rows = survey_rows()
    write_collection(folder, {**rows, "ra": rows["RAJ2000"], "dec": rows["DEJ2000"]}, order=6)
    for path in folder.rglob("Npix=*.parquet"):
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["ra", "dec"]), path)


def campaign(tmp_path, **catalog):
    path = tmp_path / "campaign.yaml"
    if not path.exists():
        write_tiny_campaign(tmp_path, n_images=3)
    content = yaml.safe_load(path.read_text())
    content["catalog"] = {"path": "stars", "columns": COLUMNS, **catalog}
    path.write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(path)


def drawn(tmp_path):
    """Injection ids of the truth, by visit."""
    found: dict[int, set[int]] = {}
    for path in sorted((tmp_path / "out" / "truth").rglob("*.parquet")):
        table = read_table(path)
        for visit, number in zip(table["visit"].tolist(), table["injection_id"].tolist(), strict=True):
            found.setdefault(visit, set()).add(number)
    return found


def test_a_hats_collection_under_other_names(tmp_path):
    write_survey(tmp_path / "stars")
    summary = campaign(tmp_path).run(n_workers=0)
    assert (summary.n_done, summary.ok) == (3, True)
    everything = set((np.arange(N) * 5).tolist())
    assert drawn(tmp_path) == dict.fromkeys((500, 501, 502), everything)
    # The truth as HATS: every row, at the places that it has in the tables.
    exported = campaign(tmp_path).export_hats(tmp_path / "truth")
    assert (exported.n_written, exported.hats.n_rows) == (3 * N, 3 * N)
    with open_folder(tmp_path / "truth") as folder:
        rows = folder.read()
    assert sorted(zip(rows["visit"].tolist(), rows["injection_id"].tolist(), strict=True)) == sorted(
        (visit, number) for visit in (500, 501, 502) for number in everything
    )
    sources = campaign(tmp_path).export_hats(tmp_path / "sources", "sources", select="n_drawn_r == 3")
    assert sources.n_written == N
    # Nothing changed: no image is made again.
    before = checksums(tmp_path)
    again = campaign(tmp_path).run(n_workers=0)
    assert again.ok
    assert checksums(tmp_path) == before
    # A file of the folder changed, far below it: the catalogue is read again.
    rows = survey_rows() | {"rmag": np.full(N, 19.0)}
    write_collection(tmp_path / "stars", {**rows, "ra": rows["RAJ2000"], "dec": rows["DEJ2000"]}, order=6)
    for path in (tmp_path / "stars").rglob("Npix=*.parquet"):
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["ra", "dec"]), path)
        os.utime(path)
    with pytest.raises(CampaignError, match="the catalogue's sources of the image"):
        campaign(tmp_path).run(n_workers=0)
    campaign(tmp_path).run(n_workers=0, redo=True)
    assert set(checksums(tmp_path)) == set(before) and not set(checksums(tmp_path).values()) & set(before.values())


def test_rows_are_selected_image_by_image_alike_in_planner_and_worker(tmp_path):
    write_survey(tmp_path / "stars")
    select = "mag < 20.5 and visit == night or injection_id == 115"
    run = campaign(tmp_path, select=select)
    summary = run.run(n_workers=0)
    assert summary.ok
    rows = survey_rows()
    wanted = {
        visit: {int(n) for n, mag, night in zip(rows["number"], rows["rmag"], rows["night"], strict=True)
                if (mag < 20.5 and night == visit) or n == 115}
        for visit in (500, 501, 502)
    }  # fmt: skip
    assert drawn(tmp_path) == wanted
    assert {visit: len(ids) for visit, ids in wanted.items()} == {500: 7, 501: 1, 502: 7}
    for image in read_plan(tmp_path / "out" / "plan.parquet"):
        sources, key = sources_of(image, run.config)
        assert set(sources["injection_id"].tolist()) == wanted[image.visit]
        assert (image.n_sources, image.catalog_key) == (len(sources), key)
        other = dataclasses.replace(image, mjd=60000.0)
        assert len(sources_of(other, run.config)[0]) == len(sources)


def test_an_expression_that_the_catalogue_cannot_answer_is_an_error_of_planning(tmp_path):
    write_survey(tmp_path / "stars")
    with pytest.raises(CatalogError, match=r"no column 'mag_z' \(at character 1"):
        campaign(tmp_path, select="mag_z < 20").plan(checks="none")
    with pytest.raises(CatalogError, match="a text is compared with a number"):
        campaign(tmp_path, select="band == 3").plan(checks="none")


def test_without_an_expression_or_a_map_keys_are_as_before(tmp_path):
    path = write_tiny_campaign(tmp_path, n_images=1)
    settings = Campaign.from_yaml(path).config.pixel_settings()
    assert not [key for key in settings if key in ("catalog.columns", "catalog.select")]
