"""The report of a campaign: what it says at each stage, its numbers, and that names cannot break it."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xarray as xr
import yaml

from report.page_reader import Page
from report.recovery_tables import write_recovery
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, OutputError
from skygraft.report import make_report

EVIL = "<img src=x onerror=alert(1)>\"'&amp;\u202e"


@pytest.fixture(scope="module")
def plain(finished_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a campaign without recovery."""
    campaign = Campaign.from_yaml(finished_yaml)
    return Page(make_report(campaign, tmp_path_factory.mktemp("plain")))


def test_without_recovery_it_says_what_to_run(plain: Page) -> None:
    for section, command in (("completeness", "recover"), ("apertures", "aperture"), ("closure", "verify")):
        assert f"skygraft {command} " in plain.sections[section], section
    assert "4" in plain.sections["summary"] and "images done" in plain.sections["summary"]
    assert "12" in plain.sections["apertures"] and "CALAPRAD" in plain.sections["apertures"]
    assert "None: 4 images of 4" in plain.sections["failures"]
    assert "SHA-256" in plain.sections["provenance"] and "42" in plain.sections["provenance"]
    assert "radius 12 pix = 2.4 arcsec" in plain.sections["methods"]
    assert "@software{skygraft," in plain.sections["methods"]


def test_it_is_one_file_that_asks_for_no_other(plain: Page) -> None:
    for tag, attrs in plain.tags:
        for name in ("src", "href", "data", "srcset"):
            value = attrs.get(name)
            if value is None:
                continue
            # What it shows is in it; files beside it are links that one may follow.
            assert value.startswith(("data:", "#")) or (tag == "a" and not value.startswith(("http", "//", "/"))), value
    assert "@import" not in plain.text and not re.search(r"url\((?!#)", plain.text)


def test_it_can_be_read_without_seeing_it(plain: Page) -> None:
    assert plain.of("html")[0]["lang"] == "en"
    assert [attrs["content"] for attrs in plain.of("meta") if attrs.get("name") == "viewport"]
    levels = [int(tag[1]) for tag, _ in plain.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(attrs.get("alt") for attrs in plain.of("img"))
    figures = [attrs for attrs in plain.of("div") if attrs.get("role") == "img"]
    assert len(figures) == len(plain.of("svg")) >= 1
    assert all(len(str(attrs.get("aria-label"))) > 30 for attrs in figures)
    assert len(plain.of("caption")) == len(plain.of("table")) >= 2
    ids = [attrs["id"] for _, attrs in plain.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [str(attrs["href"])[1:] for attrs in plain.of("a") if str(attrs["href"]).startswith("#")]
    assert links and set(links) <= set(ids)


def test_numbers_are_those_of_the_recovery_table(reported: Campaign) -> None:
    """Counts by pyarrow, and completeness and bias by NumPy."""
    folder, page = reported.layout.root / "recovery", reported.layout.root / "report" / "report.html"
    numbers = page.parent / "numbers"
    found = json.loads((numbers / "report.json").read_text())
    table = ds.dataset(sorted(folder.glob("tract=*/patch=*/*.parquet"))).to_table().to_pandas()
    usable = table[table.usable]
    rows = {row["source_type"]: row for row in found["recovery"]["by_band_and_type"]}
    for kind, some in table.groupby("source_type"):
        assert rows[kind]["rows"] == len(some)
        assert rows[kind]["usable"] == some.usable.sum()
        assert rows[kind]["found"] == (some.found & some.usable).sum()
    reasons = pq.read_table(numbers / "reasons.parquet").to_pandas()
    expected = table[~table.found].groupby(["reason", "source_type"]).size()
    assert {(r.reason, r.source_type): r.n for r in reasons.itertuples()} == expected.to_dict()
    with xr.open_dataset(numbers / "completeness_mag.nc", engine="h5netcdf") as bins:
        edges = np.append(bins["mag_lower"], bins["mag_upper"][-1])
        for kind, some in usable.groupby("source_type"):
            one = bins.sel(source_type=kind).squeeze()
            n, _ = np.histogram(some.mag, edges)
            k, _ = np.histogram(some.mag[some.found], edges)
            assert np.array_equal(one["n"], n) and np.array_equal(one["n_found"], k)
    part = 100 * usable.found.mean()
    assert f"{part:.1f} %" in Page(page).sections["summary"]
    for suffix in ("png", "pdf"):
        names = {path.stem for path in (page.parent / "figures").glob(f"*.{suffix}")}
        assert {"sky", "completeness-mag-r", "completeness-depth", "bias-mag-r", "pulls-mag", "reasons"} <= names


@pytest.mark.usefixtures("no_figure_files")
@pytest.mark.parametrize("found", [True, False])
def test_all_found_or_none(copied: Callable[..., Campaign], found: bool) -> None:
    campaign = copied()
    write_recovery(campaign, found=found)
    page = Page(make_report(campaign))
    what = "Every one of the" if found else "None of the"
    assert what in page.sections["completeness"]
    assert "inject fainter ones" in page.sections["completeness"] or not found
    assert "m50 of" not in page.sections["summary"]
    if not found:
        assert "nothing was measured" in page.sections["measured"]
        assert "reason" in page.sections["missed"]


def test_a_campaign_that_is_not_finished(copied: Callable[..., Campaign]) -> None:
    campaign = copied()
    records = sorted(campaign.layout.records.rglob("*.json"))
    records[0].unlink()
    page = Page(make_report(campaign))
    assert "not finished: 3 of 4 images" in page.sections["summary"]
    assert "skygraft run" in page.sections["summary"]


def test_before_anything_was_made(finished_yaml: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(finished_yaml.read_text())
    path = tmp_path / "campaign.yaml"
    path.write_text(yaml.safe_dump(content | {"output": str(tmp_path / "new")}))
    campaign = Campaign.from_yaml(path)
    with pytest.raises(CampaignError, match="skygraft plan"):
        make_report(campaign)
    campaign.plan(checks="none", processes=1)
    page = Page(make_report(campaign))
    assert "0 of 4 images are done" in page.sections["summary"]
    assert "not written yet" in page.sections["sky"]
    assert "no calibration was used" in page.sections["apertures"]


def test_damaged_tables_are_said(copied: Callable[..., Campaign]) -> None:
    campaign = copied()
    folder = write_recovery(campaign)
    next(folder.glob("tract=*/patch=*/*.parquet")).write_bytes(b"PAR1 this is none")
    campaign.layout.provenance.write_text("{")
    page = Page(make_report(campaign))
    assert "recovery tables cannot be read" in page.sections["completeness"]
    assert "skygraft recover" in page.sections["completeness"]
    assert "provenance.json is not there" in page.sections["provenance"]


@pytest.mark.usefixtures("no_figure_files")
def test_too_few_fakes_and_images_that_recovery_failed_on_are_said(copied: Callable[..., Campaign]) -> None:
    import pyarrow as pa

    campaign = copied()
    folder = write_recovery(campaign, m50=21.0)
    for path in sorted(folder.glob("tract=*/patch=*/*.parquet")):
        pq.write_table(pq.read_table(path, partitioning=None).slice(0, 4), path)
    rows = [
        {"image_id": "a", "error": "", "message": ""},
        {"image_id": "b<b>", "error": "PsfError", "message": "no PSF"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "_images.parquet")
    (folder / "_settings.json").unlink()
    text = Page(make_report(campaign)).sections["completeness"]
    assert re.search(r"a fit takes \d+", text), text
    assert "failed on 1 of 2 images" in text and "b<b>" in text and "no PSF" in text
    assert "not complete" in text


@pytest.mark.usefixtures("no_figure_files")
def test_names_are_text(copied: Callable[..., Campaign]) -> None:
    """Paths, bands and reasons come from outside: they are shown, and do nothing."""
    import pyarrow as pa

    campaign = copied(EVIL)
    folder = write_recovery(campaign, m50=21.0)
    for path in sorted(folder.glob("tract=*/patch=*/*.parquet")):
        table = pq.read_table(path, partitioning=None)
        for name in ("band", "reason"):
            text = [f"{value}{EVIL}$\\frac" if value else "" for value in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(text))
        pq.write_table(table, path)
    page = Page(make_report(campaign))
    assert len(page.of("script")) == 1 and not [one for one in page.of("img") if one.get("src") == "x"]
    assert "\u202e" not in page.text
    assert "<img src=x onerror=alert(1)>" in page.sections["provenance"]  # as text
    assert any("alert(1)" in text for name, text in page.sections.items() if name == "missed")
    for path in (campaign.layout.root / "report").rglob("*"):
        assert re.fullmatch(r"[\w.-]+", path.name), path


def test_a_folder_that_cannot_be_written(copied: Callable[..., Campaign], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        make_report(copied(), tmp_path / "taken")


def test_citation_is_that_of_the_repository() -> None:
    from skygraft.report.references import AUTHORS, TITLE

    root = Path(__file__).resolve().parents[2]
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert cited["title"] == TITLE
    assert [author["name"] for author in cited["authors"]] == [AUTHORS]
    assert cited["version"] == tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.usefixtures("no_figure_files")
def test_a_curve_that_does_not_fit_is_said(copied: Callable[..., Campaign]) -> None:
    """Of fakes that are lost in crowds at all magnitudes no curve gives the m50; the points do."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    campaign = copied()
    folder = write_recovery(campaign, m50=21.0)
    path = next(folder.glob("tract=*/patch=*/*.parquet"))
    rng = np.random.default_rng(3)
    one = pq.read_table(path, partitioning=None)
    table = one.take(rng.integers(0, one.num_rows, 6000))
    mag = rng.uniform(16, 24, 6000)
    # A long slope with a dip and a step at 22.
    seen = rng.random(6000) < np.where(mag < 22, 0.95 - 0.05 * (mag - 16) - 0.2 * ((mag > 18) & (mag < 19)), 0.02)
    values = {"mag": mag, "found": seen, "usable": np.ones(6000, dtype=bool), "injection_id": np.arange(6000)}
    for name, array in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(array))
    star = pa.array(["Star"] * 6000)
    table = table.set_column(table.schema.get_field_index("source_type"), "source_type", star)
    for part in folder.glob("tract=*/patch=*/*.parquet"):
        part.unlink()
    pq.write_table(table, path)
    assert ds.dataset(path).count_rows() == 6000
    page = make_report(campaign)
    (tile,) = [
        one
        for one in json.loads((page.parent / "numbers/report.json").read_text())["headlines"]
        if "m50" in one["name"]
    ]
    assert tile["detail"] == "from the points: no curve fits them"
    assert float(tile["value"]) == pytest.approx(22.0, abs=0.3)
    text = Page(page).sections
    assert "does not fit" in text["completeness"] and "Completeness is 50 %" not in text["methods"]
