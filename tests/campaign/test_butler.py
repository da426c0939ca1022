"""A campaign on a Butler repository: indexed from it, run, and registered in it, whatever comes between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable
from lsst.daf.butler import Butler, CollectionType, DatasetProvenance, DatasetRef, FileDataset
from lsst.daf.butler.direct_butler import DirectButler
from typer.testing import CliRunner

from kits.butler_kit import CAMERA, DEC, FITS_EXPOSURE, RA, add_calexp, define_regions, image_type, make_repository
from skygraft.campaign import Campaign
from skygraft.campaign.run import CampaignRun
from skygraft.catalog import write_catalog
from skygraft.cli import app
from skygraft.dataset import Dataset
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, ConfigError, OutputError, OutputExistsError
from skygraft.execution.registering import register
from skygraft.execution.task import run_task
from skygraft.formats import read_exposure
from skygraft.records.files import Layout
from skygraft.survey.butler_output import DatasetFile, open_run

RUN = "u/someone/injected"
TYPES = ("injected_calexp", "injected_calexp_catalog", "injected_calexp_record")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another, ``made``, of a repository and a catalogue, to be copied to ``here``."""
    folder = tmp_path_factory.mktemp("butler") / "made"
    folder.mkdir()
    make_repository(folder, {1: "r", 2: "i"})
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-5, 5, (2, 12)) / 3600
    stars = QTable(
        {
            "injection_id": np.arange(12), "ra": RA + offsets[0], "dec": DEC + offsets[1],
            "source_type": np.full(12, "Star"), "mag_r": np.full(12, 20.0), "mag_i": np.full(12, 20.5),
        }
    )  # fmt: skip
    write_catalog(stars, folder / "fakes.parquet")
    return folder.parent


@pytest.fixture(scope="module")
def ran(made: Path) -> Path:
    """The same with what a run in ``here`` left, in ``ran``: a repository knows outputs by their absolute paths."""
    run(put(made, "made"))
    (made / "here").rename(made / "ran")
    return made


def put(made: Path, which: str) -> Path:
    shutil.rmtree(made / "here", ignore_errors=True)
    return Path(shutil.copytree(made / which, made / "here"))


@pytest.fixture
def folder(made: Path) -> Path:
    return put(made, "made")


@pytest.fixture
def done(ran: Path) -> Path:
    """The folder after a run."""
    return put(ran, "ran")


def campaign(folder: Path, output: str = "out", seed: int = 1, root: str = ".", **butler: Any) -> Campaign:
    asked = {"repo": "repo", "collections": "made/calexps", "dataset_type": "calexp", "output_run": RUN}
    content = {
        "name": "with-butler",
        "survey": {"root": root, "butler": asked | butler, "calibration": {"gain": 1.0}},
        "catalog": {"path": "fakes.parquet"},
        "injection": {"seed": seed},
        "output": output,
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(path)


def run(folder: Path, *, redo: bool = False, **settings: Any) -> Any:
    summary = campaign(folder, **settings).run(n_workers=0, redo=redo)
    assert summary.ok, str(summary)
    return summary


def registered(
    folder: Path, name: str = TYPES[0], run: str = RUN, repo: str = "repo"
) -> dict[tuple[int, int], DatasetRef]:
    with Butler.from_config(str(folder / repo)) as butler:
        refs = butler.query_datasets(name, collections=run, explain=False, limit=None)
    return {(int(ref.dataId["visit"]), int(ref.dataId["detector"])): ref for ref in refs}


def test_outputs_are_datasets(folder: Path) -> None:
    planned = campaign(folder).plan()
    assert planned.n_unusable == 0
    summary = run(folder)
    assert summary.n_done == 4
    assert any(f"4 images are registered in {RUN} as injected_calexp (12 datasets added)" in s for s in summary.tables)
    sources = registered(folder, "calexp", "made/calexps")
    layout = Layout(folder / "out")
    with Butler.from_config(str(folder / "repo")) as butler:
        assert butler.collections.get_info(RUN).type == CollectionType.RUN
        assert butler.get_dataset_type(TYPES[0]).storageClass_name == "ExposureF"
        assert butler.get_dataset_type(TYPES[0]).dimensions == butler.get_dataset_type("calexp").dimensions
        images = registered(folder)
        assert images.keys() == sources.keys() == {(visit, ccd) for visit in (1, 2) for ccd in (0, 1)}
        for key, ref in images.items():
            path = Path(butler.getURI(ref).ospath)
            assert path.is_relative_to(layout.images)  # where it lies: nothing is copied
            exposure = read_exposure(path)
            assert {"INJECTED", "INJECTED_CORE"} <= exposure.mask_planes.keys()
            # What Butler's own provenance would have written.
            provenance = DatasetProvenance()
            provenance.add_input(sources[key])
            said = provenance.to_flat_dict(ref, prefix="LSST BUTLER", sep=" ", simple_types=True)
            header = fits.getheader(path)
            assert {name: header[name] for name in header if name.startswith("LSST BUTLER")} == said
            (info,) = butler.get_dataset(ref.id, datastore_records=True)._datastore_records.values()
            assert info[0].formatter == FITS_EXPOSURE
            assert info[0].file_size == path.stat().st_size
        truth = butler.get("injected_calexp_catalog", collections=RUN, instrument=CAMERA, visit=1, detector=0)
        assert set(truth["source_type"]) == {"Star"}
        assert str(truth["ra"].unit) == "deg"
        added = (
            read_exposure(butler.getURI(images[1, 0]).ospath).image
            - read_exposure(butler.getURI(sources[1, 0]).ospath).image
        )
        assert float(np.sum(truth["flux_deposited"])) == pytest.approx(float(added.sum()), rel=0.05)
        records = [json.loads(path.read_text()) for path in layout.records.rglob("*.json")]
        assert {one["dataset"]["dataset"]["id"] for one in records} == {str(ref.id) for ref in images.values()}
        record = butler.get("injected_calexp_record", collections=RUN, instrument=CAMERA, visit=1, detector=0)
        assert record["calibration"]["radius_pixels"] == 12.0
        assert record["dataset"]["provenance"]["inputs"][0]["id"] == str(sources[1, 0].id)
    survey = json.loads(layout.provenance.read_text())["entity"]["sg:survey"]
    assert {name: survey[f"sg:{name}"] for name in ("butler", "dataset-type", "output-run")} == {
        "butler": str(folder / "repo"), "dataset-type": "calexp", "output-run": RUN,
    }  # fmt: skip
    # Once more, there is nothing to do.
    before = {name: registered(folder, name) for name in TYPES}
    summary = run(folder)
    assert any("(nothing to add)" in line for line in summary.tables)
    assert {name: registered(folder, name) for name in TYPES} == before


def test_in_a_repository_of_ones_own(folder: Path) -> None:
    """The images' repository is only read; the other one gets the records of dimensions that the outputs need."""
    Butler.makeRepo(str(folder / "mine"))
    with Butler.from_config(str(folder / "repo"), writeable=True) as butler:
        define_regions(butler, 2)
    before = {path: path.stat().st_mtime_ns for path in (folder / "repo").rglob("*") if path.is_file()}
    asked = {"output_repo": "mine", "where": f"instrument = '{CAMERA}' AND visit = 2"}
    run(folder, **asked)
    assert registered(folder, repo="mine").keys() == {(2, 0), (2, 1)}
    with Butler.from_config(str(folder / "mine")) as butler:
        records = butler.query_dimension_records("visit", explain=False)
        assert [(record.id, record.physical_filter) for record in records] == [(2, "demo-i")]
        truth = butler.get("injected_calexp_catalog", collections=RUN, instrument=CAMERA, visit=2, detector=1)
        assert len(truth) > 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "repo").rglob("*") if path.is_file()} == before
    assert any("(nothing to add)" in line for line in run(folder, **asked).tables)
    with pytest.raises(OutputError, match="the repository of the images has no 'visit_detector_region' records"):
        run(folder, output="out2", output_run="u/more", output_repo="mine")


def test_more_images_than_before(folder: Path) -> None:
    """A query that finds more puts outputs elsewhere; those that are done stay where they are, and are found there."""
    (folder / "field").mkdir()
    asked = {"repo": str(folder / "repo"), "root": "field"}
    run(folder, where=f"instrument = '{CAMERA}' AND visit = 1 AND detector = 0", **asked)
    (first,) = registered(folder).values()
    with Butler.from_config(str(folder / "repo")) as butler:
        before = butler.getURI(first)
        summary = run(folder, **asked)
        assert any("4 images are registered" in line and "9 datasets added)" in line for line in summary.tables)
        after = registered(folder)
        assert after[1, 0] == first
        assert butler.getURI(first) == before
        assert all(butler.getURI(ref).exists() for ref in after.values())
    # Were they lost from the repository, they would be found again.
    with Butler.from_config(str(folder / "repo"), writeable=True) as butler:
        butler.removeRuns([RUN])
    run(folder, **asked)
    with Butler.from_config(str(folder / "repo")) as butler:
        assert butler.getURI(registered(folder)[1, 0]) == before


def test_another_dataset_of_the_same_image(done: Path) -> None:
    """A collection in front that has an image too: what was made from the other dataset is not up to date."""
    with Butler.from_config(str(done / "repo"), writeable=True) as butler:
        butler.collections.register("made/later")
        add_calexp(butler, butler.get_dataset_type("calexp"), "made/later", done / "raw", 1, 0)
    (later,) = registered(done, "calexp", "made/later").values()
    asked = {"collections": "made/later, made/calexps"}
    with pytest.raises(CampaignError, match=f"{CAMERA}-1-0.*the input is dataset {later.id} now"):
        campaign(done, **asked).run(n_workers=0)
    summary = run(done, redo=True, **asked)
    assert summary.n_done == 1
    with Butler.from_config(str(done / "repo")) as butler:
        record = butler.get("injected_calexp_record", registered(done)[1, 0].dataId, collections=RUN)
    assert record["input_dataset"] == str(later.id)
    assert run(done, **asked).n_done == 0


def test_the_same_whoever_makes_them(done: Path) -> None:
    """Two campaigns of one configuration write the same bytes, ids included."""
    shutil.copytree(done / "out", done / "first")
    with Butler.from_config(str(done / "repo"), writeable=True) as butler:
        butler.removeRuns([RUN])
    shutil.rmtree(done / "out")
    run(done, transfer="hardlink")
    made = sorted((done / "out" / "images").rglob("*.fits"))
    for path in made:
        assert path.read_bytes() == (done / "first" / path.relative_to(done / "out")).read_bytes()
    # In the repository's own folder this time.
    with Butler.from_config(str(done / "repo")) as butler:
        found = sorted(Path(butler.getURI(ref).ospath) for ref in registered(done).values())
    assert all(path.is_relative_to(done / "repo") for path in found)
    assert [path.samefile(other) for path, other in zip(found, made, strict=True)] == [True] * 4


def test_cut_off_while_registering(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two batches, and after the run was begun: the next run adds what is missing, and nothing twice."""
    monkeypatch.setattr("skygraft.execution.registering._BATCH", 1)
    ingest, calls = DirectButler.ingest, []

    def dies(self: Any, *datasets: FileDataset, **options: Any) -> None:
        calls.append(datasets)
        if len(calls) == 4:
            raise KeyboardInterrupt
        ingest(self, *datasets, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DirectButler, "ingest", dies)
        with pytest.raises(KeyboardInterrupt):
            campaign(folder).run(n_workers=0)
    # The fourth call was the second half of the second image, which the database took back.
    assert [len(registered(folder, name)) for name in TYPES] == [1, 1, 1]
    summary = run(folder)
    assert any("(9 datasets added)" in line for line in summary.tables)
    assert [len(registered(folder, name)) for name in TYPES] == [4, 4, 4]


def test_asked_to_stop(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = campaign(done)
    with Butler.from_config(str(done / "repo"), writeable=True) as butler:
        butler.removeRuns([RUN])
    monkeypatch.setattr("skygraft.execution.registering._BATCH", 3)
    answers = iter([False, True])
    plan = one._current_plan(print)
    found = register(one.config, plan, range(4), lambda: next(answers))
    assert found is not None
    assert (found.n_images, found.n_added, found.complete) == (3, 9, False)
    assert "run the campaign again" in str(found)


def test_made_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made again replaces what it was made from before, in the repository too."""
    before = registered(done)
    layout, seen = Layout(done / "out"), []

    def work(rows: Any) -> Any:
        seen.append(len(registered(done)))
        return run_task(
            rows,
            str(layout.root),
            FileIdentity.of(layout.plan).size_and_time,
            FileIdentity.of(layout.config).size_and_time,
        )

    monkeypatch.setattr(CampaignRun, "work", lambda self: work)
    summary = campaign(done, seed=2).run(n_workers=0, redo=True)
    # What is made again is not in the repository while its file is replaced.
    assert seen == [0, 0, 0, 0]
    assert any("(12 datasets added)" in line for line in summary.tables)
    after = registered(done)
    assert after.keys() == before.keys()
    assert not {ref.id for ref in after.values()} & {ref.id for ref in before.values()}
    made = sorted((done / "out" / "images").rglob("*.fits"))
    assert len(made) == 4
    with Butler.from_config(str(done / "repo")) as butler:
        found = sorted(Path(butler.getURI(ref).ospath) for ref in after.values())
    assert found == made


def test_not_registered_without_a_run(folder: Path) -> None:
    run(folder, output_run=None)
    with Butler.from_config(str(folder / "repo")) as butler:
        assert set(butler.collections.query("*")) == {"made/calexps"}
    assert not list((folder / "out").rglob("*.parq"))
    # A header without the cards of the output: the input's are copied as everything else.
    path = next((folder / "out" / "images").rglob("*.fits"))
    assert fits.getheader(path)["LSST BUTLER DATASETTYPE"] == "calexp"


def test_run_with_others_datasets(folder: Path) -> None:
    with Butler.from_config(str(folder / "repo"), writeable=True) as butler:
        butler.collections.register(RUN)
        add_calexp(butler, image_type(butler, "injected_calexp", "ExposureF"), RUN, folder / "raw", 1, 0)
    for act in (lambda c: c.plan(), lambda c: c.run(n_workers=0)):
        with pytest.raises(OutputExistsError, match="has datasets 'injected_calexp' that this campaign"):
            act(campaign(folder))
    assert not (folder / "out" / "images").exists()
    # Nor those of a campaign of the same name in another folder.
    run(folder, output_run="u/other", output_type="faked")
    assert len(registered(folder, "faked_catalog", "u/other")) == 4
    with pytest.raises(OutputExistsError, match="u/other"):
        campaign(folder, output="out2", output_run="u/other", output_type="faked").run(n_workers=0)


def test_collection_of_another_kind(folder: Path) -> None:
    with Butler.from_config(str(folder / "repo"), writeable=True) as butler:
        butler.collections.register(RUN, CollectionType.TAGGED)
    with pytest.raises(OutputError, match="is a TAGGED collection"):
        campaign(folder).plan()


def test_type_defined_in_another_way(folder: Path) -> None:
    with Butler.from_config(str(folder / "repo"), writeable=True) as butler:
        image_type(butler, "injected_calexp", "VisitImage")
    with pytest.raises(OutputError, match=r"of the storage class VisitImage.*ExposureF"):
        campaign(folder).plan()


def test_repository_that_cannot_be_written(folder: Path) -> None:
    one = campaign(folder)
    one.plan()
    database = folder / "repo" / "gen3.sqlite3"
    database.write_bytes(database.read_bytes()[:4096] + b"\0" * 4096)
    with pytest.raises((OutputError, ConfigError), match="repo"):
        one.run(n_workers=0)


def test_record_of_a_dimension_is_missing(folder: Path) -> None:
    (source,) = [ref for key, ref in registered(folder, "calexp", "made/calexps").items() if key == (1, 0)]
    with Butler.from_config(str(folder / "repo")) as butler:
        path = butler.getURI(source).ospath
    simple = json.loads(source.to_json())
    simple["dataId"]["dataId"]["visit"] = 99
    origin = Dataset.from_simple(simple)
    one = origin.derive(type="injected_calexp", run=RUN, tag="x", key="y")
    with open_run(str(folder / "repo"), RUN, [one], "x") as output:
        output.begin()
        with pytest.raises(OutputError, match=r"no record of a dimension of .*visit=99.*define-visits"):
            output.add([DatasetFile(path, one)], "direct")
        assert list(output.present()) == []


@pytest.mark.dask
def test_by_the_command_line(folder: Path) -> None:
    """From the index to the status, on a cluster of this machine: the repository is named by options alone."""
    runner = CliRunner(env={"COLUMNS": "200"})

    def skygraft(*words: str | Path, code: int = 0) -> Any:
        result = runner.invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output + str(result.exception)
        return json.loads(result.stdout) if "--json" in words else result.output

    path = folder / "campaign.yaml"
    survey = {"images": "*.fits", "calibration": {"gain": 1.0}}
    content = {"name": "x", "survey": survey, "catalog": {"path": "fakes.parquet"}, "output": "out"}
    path.write_text(yaml.safe_dump(content))
    where = f"instrument = '{CAMERA}' AND visit = 2"
    asked = ["--butler", folder / "repo", "--collections", "made/calexps", "--dataset-type", "calexp", "--where", where]
    listed = skygraft("index", *asked, "--json")
    assert [row["image_id"] for row in listed["images"]] == [f"{CAMERA}-2-0", f"{CAMERA}-2-1"]
    planned = skygraft("plan", path, *asked, "--output-run", RUN, "--processes", "1", "--json")
    assert (planned["n_images"], planned["n_unusable"]) == (2, 0)
    made = skygraft("run", path, *asked, "--output-run", RUN, "--workers", "1", "--json")
    assert (made["n_done"], made["ok"]) == (2, True)
    assert registered(folder).keys() == {(2, 0), (2, 1)}
    status = skygraft("status", folder / "out" / "campaign.yaml", "--json")
    assert (status["n_done"], status["n_images"]) == (2, 2)
    assert "2 images" in skygraft("verify", folder / "out" / "campaign.yaml", "--checksums")
    assert "no collection" in skygraft("plan", path, *asked[:2], "--collections", "x", *asked[4:], code=1)
    assert "--butler lists images itself" in skygraft("index", "*.fits", *asked, code=2)
