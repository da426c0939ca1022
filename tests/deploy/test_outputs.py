"""docs/outputs.md against what a campaign leaves: every file and column that is there is on the page, and back."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable
from typer.testing import CliRunner

from kits.plain_images import MJD, write_plain_image
from skygraft.catalog import write_catalog
from skygraft.catalog.flags import FLAG_DOCS
from skygraft.catalog.truth_columns import describe_columns
from skygraft.cli import app
from skygraft.photometry.reference import PSF_MODEL, TOTAL, CalibrationAperture, describe_reference
from skygraft.tables.truth import TABLE_COLUMNS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "outputs.md"
RA, DEC, SIZE = 150.1, 2.2, 300
NEEDS_JOBS = {"logs/"}
"""Documented, and left only by jobs of a batch system (tests/clusters/test_slurm.py reads them)."""
NEEDS_MANY_IMAGES = {"records/tract=/patch=/part-0.parquet"}
"""Documented, and left only by large campaigns (tests/records/test_packing.py makes them)."""
NEEDS_ITS_COMMAND = {"recovery/", "verification/", "consistency/", "apertures/", "report/"}
"""Written by other commands than `skygraft run`: tests/report runs them on one campaign, tests/cli that of coadds."""

UNITS = {"pixel": "pix", "AB mag": "mag", "image units": ""}
"""As people and as astropy say it; fluxes are in the unit of each image."""


def skygraft(*arguments: str, code: int) -> str:
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == code, run.output
    return run.stdout


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A campaign by the command line: two bands, images that overlap, one that fails, one that is no image."""
    folder = tmp_path_factory.mktemp("outputs")
    for visit, band in ((500, "r"), (501, "i")):
        for ccd, shift in enumerate((0.0, 0.01)):
            write_plain_image(
                folder / f"raw/{visit}-{ccd}.fits", RA + shift, DEC, SIZE, seed=visit + ccd,
                EXPNUM=visit, CCDNUM=ccd, FILTER=band, **{"MJD-AVG": MJD + visit - 500},
            )  # fmt: skip
    # Nothing says what its magnitudes are the magnitudes of.
    write_plain_image(folder / "raw/no-aperture.fits", RA, DEC, SIZE, EXPNUM=502, CALAPRAD=None)
    (folder / "raw/no-image.fits").write_text("this is no FITS file")
    # A grid of stars so wide that each stands alone, some of them on one image, two or none; one without a magnitude.
    east, north = (axis.ravel() for axis in np.meshgrid(np.arange(-2, 4), np.arange(-1, 2)))
    n = len(east)
    mags = np.linspace(18, 20, n)
    catalog = {
        "injection_id": np.arange(n),
        "ra": RA + east * 18 / 3600 / np.cos(np.radians(DEC)),
        "dec": DEC + north * 18 / 3600,
        "source_type": np.full(n, "Star"),
        "mag_r": np.where(np.arange(n) == 7, np.nan, mags),
        "mag_i": mags - 0.5,
        "mag_z": mags - 0.7,
    }
    write_catalog(QTable(catalog), folder / "fakes.parquet")
    content = {
        "name": "outputs",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    # Problems that are known before anything runs.
    skygraft("plan", str(folder / "campaign.yaml"), code=1)
    # Some image is not done at the end.
    skygraft("run", str(folder / "campaign.yaml"), "--workers", "0", code=1)
    return SimpleNamespace(folder=folder, out=folder / "out")


def section(heading: str) -> str:
    """The part of the page under a heading."""
    found = re.search(rf"^##+ [^\n]*{re.escape(heading)}[^\n]*\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.M | re.S)
    assert found, heading
    return found[1]


def rows_of(text: str) -> Iterator[list[str]]:
    """The rows of the tables in a text, without their heads."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def names_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def columns_of(text: str) -> dict[str, str]:
    """Columns that a text's tables document, with the unit of each."""
    found: dict[str, str] = {}
    for cells in rows_of(text):
        names, units = names_of(cells[0]), [UNITS.get(unit, unit) for unit in cells[1].split(", ")]
        found |= dict(zip(names, units if len(units) == len(names) else units * len(names), strict=False))
    return found


def schema_of(path: Path) -> dict[str, str]:
    """Columns of a table with the unit of each; those of one band under one name."""
    schema = pq.read_schema(path)
    return {
        re.sub(r"_[riz]$", "_<band>", name): (field.metadata or {}).get(b"unit", b"").decode()
        for name, field in ((name, schema.field(name)) for name in schema.names)
    }


def pattern(name: str) -> str:
    """What the documented name of a file matches."""
    text = re.sub(r"<\w+>", "[^/]+", re.escape(name).replace("\\<", "<").replace("\\>", ">"))
    text = re.sub(r"(tract|patch)\\?=", r"\1=-?\\d+", text)
    return text + (".*" if name.endswith("/") else "")


def test_every_file_is_on_the_page_and_every_file_of_the_page_is_there(campaign: SimpleNamespace) -> None:
    text = PAGE.read_text()
    first_table = text[: text.index("\n## ")]
    documented = [name for cells in rows_of(first_table) for name in names_of(cells[0])]
    files = [path.relative_to(campaign.out).as_posix() for path in campaign.out.rglob("*") if path.is_file()]
    assert len(documented) > 15
    unknown = [file for file in files if not any(re.fullmatch(pattern(name), file) for name in documented)]
    assert unknown == []
    missing = [name for name in documented if not any(re.fullmatch(pattern(name), file) for file in files)]
    assert set(missing) == NEEDS_JOBS | NEEDS_MANY_IMAGES | NEEDS_ITS_COMMAND


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("`truth`", "truth/tract=9813/patch=41/part-0.parquet"),
        ("`sources`", "sources.parquet"),
        ("`sources`", "sources/tract=9813/patch=41/part-0.parquet"),
        ("`failures`", "failures.parquet"),
    ],
)
def test_columns_of_tables(campaign: SimpleNamespace, heading: str, table: str) -> None:
    found, documented = schema_of(campaign.out / table), columns_of(section(heading))
    if "=" in table:
        # The folders' names.
        del documented["tract"], documented["patch"]
    if "sources" in table:
        # The catalogue's own columns; units as there.
        own = schema_of(campaign.out / "catalog/tract=9813/patch=41/part-0.parquet")
        assert own["ra"] == "deg" and own["mag_<band>"] == "mag"
        own["catalog_flags"] = own.pop("flags")
        assert {name: found.pop(name) for name in own} == own
    assert found == documented


def test_columns_of_the_truth_mean_what_their_definition_says() -> None:
    documented = [(cells[0], cells[2]) for cells in rows_of(section("`truth`"))]
    assert documented[1:] == describe_columns(TABLE_COLUMNS)  # the first are the folders' names


def test_columns_of_the_plans_tables(campaign: SimpleNamespace) -> None:
    plan, rest = section("The plan").split("`plan_summary.csv`")
    assert schema_of(campaign.out / "plan.parquet") == columns_of(plan)
    summary, rest = rest.split("`plan_checks.parquet`")
    with (campaign.out / "plan_summary.csv").open(newline="") as handle:
        assert next(csv.reader(handle)) == names_of(summary)[1:]
    checks, findings = rest.split("`plan_findings.parquet`")
    assert schema_of(campaign.out / "plan_checks.parquet") == columns_of(checks)
    assert list(schema_of(campaign.out / "plan_findings.parquet")) == names_of(findings)
    # Its kinds of reference are those that there are.
    kinds = next(cells[2] for cells in rows_of(checks) if cells[0] == "`kind`")
    references = (CalibrationAperture(12.0), PSF_MODEL, TOTAL)
    assert set(names_of(kinds)) == {describe_reference(reference)["kind"] for reference in references}


def test_keys_of_records(campaign: SimpleNamespace) -> None:
    documented = {name: cells[1] for cells in rows_of(section("Records")) for name in names_of(cells[0])}
    paths = sorted(campaign.out.glob("records/*/*/*.json"))
    assert len(paths) == 4
    for path in paths:
        record = json.loads(path.read_text())
        assert set(record) == set(documented)
        assert set(record["calibration"]) == set(names_of(documented["calibration"]))
        assert set(record["closure"]) == set(names_of(documented["closure"]))
        for name, output in record["outputs"].items():
            assert list(output) == names_of(documented["outputs"])
            assert (campaign.out / name).stat().st_size == output["n_bytes"]
        assert abs(record["closure"]["median_mag"]) < 0.05


def test_events_of_the_ledger(campaign: SimpleNamespace) -> None:
    rows = list(rows_of(section("Ledger")))
    documented = {name for cells in rows for name in names_of(cells[0])}
    events = [json.loads(line) for line in (campaign.out / "ledger.jsonl").read_text().splitlines()]
    assert {"run_started", "image", "run_ended"} <= {event["event"] for event in events} <= documented
    assert all({"time", "event"} <= set(event) for event in events)
    statuses = {event["status"] for event in events if event["event"] == "image"}
    (of_images,) = (cells[1] for cells in rows if cells[0] == "`image`")
    assert {"done", "failed"} <= statuses <= set(names_of(of_images))


def test_the_flags_are_those_of_the_registry() -> None:
    documented = [(int(bit), names_of(name)[0], meaning) for bit, name, meaning in rows_of(section("Flags"))]
    assert documented == [(flag.value.bit_length() - 1, flag.name, words) for flag, words in FLAG_DOCS.items()]


def test_the_mask_planes_of_outputs_are_on_the_page(campaign: SimpleNamespace) -> None:
    headers = [fits.getheader(path, "MASK") for path in campaign.out.glob("images/raw/*.mask.fits")]
    assert len(headers) == 4
    planes = {key.removeprefix("MP_") for header in headers for key in header if key.startswith("MP_")}
    assert planes >= {"INJECTED", "INJECTED_CORE"}
    text = PAGE.read_text()
    assert {plane for plane in planes if f"`{plane}`" not in text} == set()


def test_failures_hold_what_could_not_be_made_and_why(campaign: SimpleNamespace) -> None:
    rows = {row["path"]: row for row in pq.read_table(campaign.out / "failures.parquet").to_pylist()}
    assert set(rows) == {"raw/no-aperture.fits", "raw/no-image.fits"}
    assert "aperture" in rows["raw/no-aperture.fits"]["message"]
    assert rows["raw/no-aperture.fits"]["tries"] >= 1 and rows["raw/no-aperture.fits"]["patch"] == 41
    assert "no format recognises" in rows["raw/no-image.fits"]["message"]
    assert rows["raw/no-image.fits"]["tract"] is rows["raw/no-image.fits"]["patch"] is None


def test_rows_are_those_that_the_page_promises(campaign: SimpleNamespace) -> None:
    truth = pq.read_table(campaign.out / "truth").to_pandas()
    keys = list(zip(truth["image_id"], truth["injection_id"], strict=True))
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    # Also one that could not be drawn, with why; not those whose light does not reach the image.
    bad = truth[(truth["injection_id"] == 7) & (truth["band"] == "r")]
    assert len(bad) > 0 and (bad["stamp_size"] == 0).all() and (bad["flags"] & 1 == 1).all()
    assert not bad["is_primary"].any()
    assert len(truth) < 4 * 18
    # All sources, also those that landed on no image.
    sources = pq.read_table(campaign.out / "sources.parquet").to_pandas()
    assert sorted(sources["injection_id"]) == list(range(18))
    assert (sources["n_images"] == 0).any()
    order = list(zip(sources["tract"], sources["patch"], sources["injection_id"], strict=True))
    assert order == sorted(order)
    # Bands of the catalogue and of the images.
    assert {"n_images_r", "n_images_i", "n_images_z"} <= set(sources.columns)
    for _, source in sources.iterrows():
        rows = truth[truth["injection_id"] == source["injection_id"]]
        drawn = rows[rows["stamp_size"] > 0]
        counts = (len(rows), len(drawn), int(rows["is_primary"].sum()))
        assert (source["n_images"], source["n_drawn"], source["n_primary"]) == counts
        if len(drawn):
            assert (source["first_mjd"], source["last_mjd"]) == (drawn["mjd"].min(), drawn["mjd"].max())
    # Beyond the aperture there is light, too; "about", for some of it is beyond what is drawn.
    alone = truth[(truth["flags"] == 0) & (truth["stamp_size"] > 0)]
    assert len(alone) > 10
    assert (alone["flux_deposited"] > alone["inst_flux"]).all()
    np.testing.assert_allclose(alone["flux_deposited"] / alone["inst_flux"], 1 / alone["aperture_fraction"], rtol=5e-3)


def everything(out: Path) -> dict[str, bytes]:
    tables = [*out.glob("truth/*/*/*"), *out.glob("sources/*/*/*"), out / "sources.parquet", *out.glob("images/*/*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in tables}


def test_the_resolved_configuration_resumes_and_what_consolidation_remembers_may_go(campaign: SimpleNamespace) -> None:
    before = everything(campaign.out)
    assert len(before) > 10
    shutil.rmtree(campaign.out / ".consolidated")
    said = skygraft("run", str(campaign.out / "campaign.yaml"), "--workers", "0", code=1)
    assert "0 images made" in said and "4 done before" in said
    assert everything(campaign.out) == before
    assert (campaign.out / ".consolidated").is_dir()


def test_the_provenance_begins_with_the_calibrations_and_says_what_is_missing(campaign: SimpleNamespace) -> None:
    text = section("`provenance.json`")
    content = json.loads((campaign.out / "provenance.json").read_text())
    assert list(content["entity"])[:2] == ["sg:calibrations", "sg:calibration-0"]
    calibrations, reference = content["entity"]["sg:calibrations"], content["entity"]["sg:calibration-0"]
    assert calibrations["sg:mixed_calibrations"] is False
    assert "12 pix" in calibrations["prov:label"]
    for name, value in (("radius_pixels", 12), ("diameter_pixels", 24), ("radius_arcsec", 2.4), ("n_images", 4)):
        assert float(reference[f"sg:{name}"]["$"]) == pytest.approx(value, rel=1e-6)
    assert sorted(reference["sg:bands"]) == ["i", "r"] and "CALAPRAD" in reference["sg:origin"]
    # Numbers in file names are folded.
    assert "500" not in reference["sg:origin"]
    run = content["activity"]["sg:run"]
    assert run["sg:complete"] is False
    every = {key for part in content.values() for entry in part.values() if isinstance(entry, dict) for key in entry}
    every |= {key for part in content.values() for key in part}
    # Of a run that was interrupted, which this one was not.
    for name in set(re.findall(r"`(sg:\w+(?:-\d)?)`", text)) - {"sg:interrupted", "sg:signal", "sg:stopped"}:
        assert name in every, name
    assert "sg:run-1" in content["activity"]


@pytest.mark.parametrize("k", range(3))
def test_the_snippets_of_the_page_run(campaign: SimpleNamespace, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", section("Reading them"), re.M | re.S)
    assert len(snippets) == 3
    for module in re.findall(r"^import (\w+)", snippets[k], re.M):
        pytest.importorskip(module)
    monkeypatch.chdir(campaign.folder)
    names: dict[str, object] = {}
    exec(compile(snippets[k], "outputs.md", "exec"), names)
    for name in {"truth", "sources"} & set(names):
        assert len(names[name]) > 0  # type: ignore[arg-type]
