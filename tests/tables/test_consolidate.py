"""Consolidated tables against hand-worked surveys and plain Python: which row counts, what became of each source."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest

from kits.consolidation_kit import (
    EVERYWHERE,
    ON_COADD,
    SKYMAP,
    SOURCES,
    make_catalog,
    make_coadds,
    rows_of,
    run,
    sources,
    survey,
    truth,
)
from kits.finished_images import Outputs, planned
from kits.plan_kit import near_polygon
from skygraft.catalog import Flag, normalize_catalog
from skygraft.catalog.io import read_table, to_arrow
from skygraft.tables.neighbours import find_neighbours
from skygraft.tables.truth_parts import write_truth_part


@pytest.fixture
def coadds(tmp_path: Path) -> Outputs:
    """A coadd of every patch in two bands, all of them done."""
    return make_coadds(tmp_path)


def test_each_row_says_whose_it_is(coadds: Outputs) -> None:
    run(coadds)
    rows = truth(coadds)
    assert len(rows) == 2 * sum(len(ids) for ids in ON_COADD.values())
    for row in rows:
        owner = SOURCES[row["injection_id"]][1]
        assert (row["source_tract"], row["source_patch"]) == owner
        assert row["is_tract_inner"] == (owner[0] == row["home"][0])
        # Sources 4 and 5 lie in the inner region of a patch of each of the two tracts.
        inner = {4: {(0, 0), (1, 1)}, 5: {(0, 0), (1, 1)}}.get(row["injection_id"], {owner})
        assert row["is_patch_inner"] == (row["home"] in inner), row
        assert row["is_primary"] == (row["home"] == owner)


def test_parts_from_before_there_were_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sources are objects of their own, and in no group."""

    def write_old(path: Path, table: Any) -> None:
        write_truth_part(path, to_arrow(table).drop_columns(["object_id", "group_id"]))

    monkeypatch.setattr("kits.finished_images.write_truth_part", write_old)
    outputs = make_coadds(tmp_path)
    run(outputs)
    rows = truth(outputs)
    assert rows
    assert all(row["object_id"] == row["injection_id"] and row["group_id"] == -1 for row in rows)


def test_a_source_has_one_primary_row_in_each_band(coadds: Outputs) -> None:
    run(coadds)
    count: dict[tuple[int, str], int] = defaultdict(int)
    for row in truth(coadds):
        count[row["injection_id"], row["band"]] += row["is_primary"]
    assert count == {(i, band): 1 for i in range(8) for band in "gr"}


def test_two_coadds_of_one_patch_have_one_primary_row(tmp_path: Path) -> None:
    images = [planned(name, (0, 0), EVERYWHERE) for name in ("deep-b", "deep-a", "deep-c")]
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, images)
    outputs.finish("deep-a", rows_of([2, 3], mag_r=[np.nan, 20.0] * u.mag))
    outputs.finish("deep-b", rows_of([2, 3]))
    outputs.finish("deep-c", rows_of([2, 3]))
    run(outputs)
    primary = {(row["image_id"], row["injection_id"]) for row in truth(outputs) if row["is_primary"]}
    # The first by name on which it was drawn.
    assert primary == {("deep-b", 2), ("deep-a", 3)}


def test_what_was_not_drawn_or_lies_off_the_image_is_not_primary(tmp_path: Path) -> None:
    # The image ends 4 pixels short of source 2, whose light reaches it.
    image = planned("a", (0, 0), EVERYWHERE, ra=10.068, dec=0.0)
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, [image])
    outputs.finish("a", rows_of([2, 3, 4], mag_r=[19.0, np.nan, 19.0] * u.mag))
    run(outputs)
    rows = truth(outputs)
    assert [row["injection_id"] for row in rows] == [2, 3, 4]
    assert [row["is_primary"] for row in rows] == [False, False, True]
    assert rows[0]["stamp_size"] > 0


def test_primary_rows_of_visits(tmp_path: Path) -> None:
    """Of a visit, the row of the detector that holds the source's centre counts, wherever the patches' borders are."""
    # Detector 0 ends 4 pixels beyond source 1, on detector 1, which goes on 1 pixel from there.
    images = [
        planned("v1-d0", (0, 0), EVERYWHERE, visit=1, detector="0", mjd=60000.5, ra=10.059),
        planned("v1-d1", (0, 1), EVERYWHERE, visit=1, detector="1", mjd=60000.5, ra=9.938),
        planned("v2-d0", (0, 0), EVERYWHERE, visit=2, detector="0", mjd=60001.5),
    ]
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, images)
    for image in images:
        outputs.finish(image.image_id, rows_of(range(8)))
    run(outputs)
    rows = {(row["image_id"], row["injection_id"]): row for row in truth(outputs)}
    # Source 1 spills onto detector 0.
    assert set(rows) == {
        ("v1-d0", 1), ("v1-d0", 2), ("v1-d0", 3), ("v1-d0", 4), ("v1-d0", 5),
        ("v1-d1", 0), ("v1-d1", 1),
        ("v2-d0", 1), ("v2-d0", 2), ("v2-d0", 3), ("v2-d0", 4), ("v2-d0", 5),
    }  # fmt: skip
    assert {key for key, row in rows.items() if not row["is_primary"]} == {("v1-d0", 1)}
    assert rows["v1-d0", 1]["flags"] & Flag.CENTER_OFF_IMAGE
    row = rows["v1-d1", 1]
    assert (row["visit"], row["detector"], row["mjd"]) == (1, "1", 60000.5)
    # Its home is patch 0 of tract 0, whose inner region source 5 is not in: that is said, but does not matter here.
    row = rows["v1-d0", 5]
    assert (row["is_patch_inner"], row["is_tract_inner"], row["is_primary"]) == (True, False, True)


def test_images_off_the_map(tmp_path: Path) -> None:
    outputs = Outputs(
        tmp_path,
        make_catalog(),
        SKYMAP,
        [planned("far", (-1, -1), [(-1, -1)]), planned("v", (-1, -1), [(-1, -1)], visit=3)],
    )
    outputs.finish("far", rows_of([8]))
    outputs.finish("v", rows_of([8]))
    run(outputs)
    coadd, visit = truth(outputs)
    assert (coadd["source_tract"], coadd["is_patch_inner"], coadd["is_tract_inner"], coadd["is_primary"]) == (
        -1, False, False, False,
    )  # fmt: skip
    assert visit["is_primary"]
    assert sources(outputs)[8]["n_images"] == 2
    assert not sources(outputs)[8]["is_patch_inner"]


def test_a_moving_source_belongs_to_where_it_is_seen(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, [planned("a", (0, 0), EVERYWHERE, mjd=60000.0)])
    # The catalogue's position is 9.95, in patch 1; a day later it is at 10.06.
    rate = (10.06 - 9.95) * 3600 / 24 * u.arcsec / u.h
    outputs.finish("a", rows_of([0], rate_ra_cosdec=rate, rate_dec=0 * u.arcsec / u.h, epoch_mjd=59999.0 * u.d))
    run(outputs)
    (row,) = truth(outputs)
    assert row["ra"] == pytest.approx(10.06, abs=1e-6)
    assert (row["source_tract"], row["source_patch"], row["is_primary"]) == (0, 0, True)
    # It is a row of the catalogue patch that it is stored in.
    found = sources(outputs)[0]
    assert (found["patch"], found["n_images"], found["n_primary"]) == (1, 1, 1)


def test_the_sources_against_plain_python(tmp_path: Path) -> None:
    outputs, everything = survey(tmp_path)
    found = run(outputs)
    table = sources(outputs)
    assert found.bands == ("g", "r", "z")
    assert len(table) == found.n_sources == 400
    by_source: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in everything:
        by_source[row["injection_id"], row["image"].band].append(row)
    primary: dict[tuple[int, str], int] = defaultdict(int)
    for row in truth(outputs):
        primary[row["injection_id"], row["band"]] += row["is_primary"]
    for name, row in table.items():
        total = dict.fromkeys(("n_images", "n_drawn", "n_primary", "flags"), 0)
        for band in "grz":
            rows = by_source[name, band]
            drawn = [r for r in rows if r["stamp_size"] > 0]
            flags = 0
            for r in rows:
                flags |= r["flags"]
            expected = {"n_images": len(rows), "n_drawn": len(drawn), "n_primary": primary[name, band], "flags": flags}
            assert {key: row[f"{key}_{band}"] for key in expected} == expected
            for key, value in expected.items():
                total[key] = total[key] | value if key == "flags" else total[key] + value
            means = {
                "flux_fraction": [r["flux_deposited"] / r["inst_flux"] for r in drawn],
                "aperture_fraction": [r["aperture_fraction"] for r in drawn],
                "psf_fwhm": [r["psf_fwhm"] for r in drawn],
            }
            for key, values in means.items():
                finite = [v for v in values if not math.isnan(v)]
                mean = math.fsum(finite) / len(finite) if finite else math.nan
                assert row[f"{key}_{band}"] == pytest.approx(mean, rel=1e-13, nan_ok=True)
            times = [r["image"].mjd for r in drawn if r["image"].mjd is not None] or [math.nan]
            assert row[f"first_mjd_{band}"] == pytest.approx(min(times), abs=0, nan_ok=True)
            assert row[f"last_mjd_{band}"] == pytest.approx(max(times), abs=0, nan_ok=True)
        assert {key: row[key] for key in total} == total
    on_images = sum(any(row[f"n_drawn_{band}"] for band in "grz") for row in table.values())
    assert found.n_on_images == on_images
    assert (found.n_rows, found.n_drawn) == (len(everything), sum(r["stamp_size"] > 0 for r in everything))


def test_the_one_file_is_the_patches_in_order(tmp_path: Path) -> None:
    outputs, _ = survey(tmp_path)
    run(outputs)
    whole = pq.read_table(outputs.root / "sources.parquet")
    order = list(zip(*(whole[name].to_pylist() for name in ("tract", "patch", "injection_id")), strict=True))
    assert order == sorted(order)
    assert whole.schema.field("ra").metadata[b"unit"] == b"deg"
    assert whole.schema.field("psf_fwhm_g").metadata[b"unit"] == b"arcsec"
    assert whole.schema.field("last_mjd").metadata[b"unit"] == b"d"
    # As a data set, with the tracts and patches from the folders' names, it is the same.
    parts = pq.read_table(outputs.root / "sources")
    assert set(parts.column_names) == set(whole.column_names)
    assert parts.num_rows == whole.num_rows
    assert pq.read_table(outputs.root / "truth").num_rows > 0


def test_every_reader_opens_the_tables(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    outputs, everything = survey(tmp_path)
    run(outputs)
    frame = pd.read_parquet(outputs.root / "truth")
    assert len(frame) == len(everything)
    assert frame["is_primary"].dtype == bool
    table = read_table(outputs.root / "sources.parquet")
    assert str(table["ra"].unit) == "deg"


def test_the_documentation_names_every_column(coadds: Outputs) -> None:
    run(coadds)
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text()
    for path in (coadds.root / "truth/tract=0/patch=0/part-0.parquet", coadds.root / "sources.parquet"):
        names = pq.read_schema(path).names
        catalog = {*make_catalog().colnames, "catalog_flags"}
        wanted = {re.sub("_[gr]$", "_<band>", name) for name in names if name not in catalog}
        six = {f"{name}_<band>" for name in ("n_drawn", "n_primary", "first_mjd", "last_mjd")}
        assert {name for name in wanted - six if f"`{name}`" not in text} == set()


def primaries(outputs: Outputs) -> dict[tuple[Any, ...], list[str]]:
    """Images with the primary row of each source, band, visit and instrument."""
    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for row in truth(outputs):
        if row["is_primary"]:
            instrument = outputs.images[row["image_id"]].instrument if row["visit"] is not None else None
            found[row["injection_id"], row["band"], row["visit"], instrument].append(row["image_id"])
    return found


def test_no_source_counts_twice_whatever_overlaps(tmp_path: Path) -> None:
    """Random visits and coadds of three bands, most of which overlap others of other home patches."""
    outputs, everything = survey(tmp_path)
    run(outputs)
    found = primaries(outputs)
    assert {len(images) for images in found.values()} == {1}
    # Of a visit it is the first image by id that has the centre: worked out from all rows.
    expected: dict[tuple[Any, ...], str] = {}
    several = set()
    for row in sorted(everything, key=lambda row: row["image_id"]):
        image = row["image"]
        if image.visit is None or row["stamp_size"] == 0 or row["flags"] & Flag.CENTER_OFF_IMAGE:
            continue
        key = row["injection_id"], row["band"], image.visit, image.instrument
        if key in expected:
            several.add((image.tract, image.patch) != (outputs.images[expected[key]].tract, image.patch))
        expected.setdefault(key, row["image_id"])
    assert {key: images[0] for key, images in found.items() if key[2] is not None} == expected
    assert several == {True, False}


def test_a_visit_whose_images_have_different_homes(tmp_path: Path) -> None:
    images = [
        planned("v1-b", (0, 0), EVERYWHERE, visit=1),
        planned("v1-a", (0, 1), EVERYWHERE, visit=1),
        planned("v2-a", (0, 1), EVERYWHERE, visit=2),
        planned("v1-z", (0, 1), EVERYWHERE, visit=1, instrument="other"),
    ]
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, images)
    both = [1, 2]  # on the images of either patch
    outputs.finish("v1-b", rows_of(both))
    run(outputs)
    assert primaries(outputs) == {(i, "r", 1, "testcam"): ["v1-b"] for i in both}
    # The first by name comes later, from another patch; the row of the patch that nothing happened to gives way.
    outputs.finish("v1-a", rows_of(both), age=1.0)
    run(outputs)
    assert primaries(outputs) == {(i, "r", 1, "testcam"): ["v1-a"] for i in both}
    # Other visits, and the same number of another instrument, are others.
    outputs.finish("v2-a", rows_of(both))
    outputs.finish("v1-z", rows_of(both))
    run(outputs)
    found = primaries(outputs)
    assert len(found) == 6
    assert sources(outputs)[1]["n_primary_r"] == 3
    # It gives way only to what is there and whole.
    outputs.finish("v1-a", rows_of([1]), age=0.5)
    outputs.part_path("v1-a").write_bytes(b"?")
    damaged = run(outputs)
    assert len(damaged.problems) == 1
    assert primaries(outputs)[1, "r", 1, "testcam"] == ["v1-b"]
    assert {row["image_id"] for row in truth(outputs) if row["home"] == (0, 0)} == {"v1-b"}


def test_detectors_that_share_an_edge_do_not_share_a_source(tmp_path: Path) -> None:
    """A source on the very edge of two detectors, of different home patches, and one in the gap between two others."""
    half = math.degrees(math.atan(math.radians(60 * 0.001)))
    images = [
        planned("d0", (0, 1), EVERYWHERE, visit=1, ra=10.0 - half),
        planned("d1", (0, 0), EVERYWHERE, visit=1, ra=10.0 + half),
        planned("d2", (0, 1), EVERYWHERE, visit=2, ra=9.998 - half),
        planned("d3", (0, 0), EVERYWHERE, visit=2, ra=10.002 + half),
    ]
    table = make_catalog()[:1]
    table["ra"] = 10.0
    outputs = Outputs(tmp_path, table, SKYMAP, images)
    for image in images:
        outputs.finish(image.image_id, normalize_catalog(table))
    run(outputs)
    rows = {row["image_id"]: row for row in truth(outputs)}
    assert len(rows) == 4
    assert all(row["stamp_size"] > 0 for row in rows.values())
    assert sorted(name for name, row in rows.items() if row["is_primary"]) == ["d0"]
    assert [bool(rows[name]["flags"] & Flag.CENTER_OFF_IMAGE) for name in ("d2", "d3")] == [True, True]


def test_which_images_overlap(tmp_path: Path) -> None:
    """Against points: images overlap if a point lies on both; of those that do not, few are taken for such."""
    outputs, _ = survey(tmp_path)
    images = list(outputs.plan.images())
    found = find_neighbours(outputs.plan)
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(9.8, 10.4, 4000), rng.uniform(-0.12, 0.12, 4000)
    holds = [near_polygon(ra, dec, image.polygon) for image in images]
    n_pairs = n_more = 0
    for i, image in enumerate(images):
        neighbours = {one.image_id for one in found.of(i, i + 1)}
        for j, other in enumerate(images):
            mine = image.visit is not None and (image.visit, image.instrument) == (other.visit, other.instrument)
            apart = (image.tract, image.patch) != (other.tract, other.patch)
            overlap = mine and apart and (holds[i] & holds[j]).any()
            n_pairs += overlap
            n_more += (other.image_id in neighbours) and not overlap
            assert not overlap or other.image_id in neighbours
    assert n_pairs > 10
    assert n_more <= 0.1 * n_pairs
