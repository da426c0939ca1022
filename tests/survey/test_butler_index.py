"""Images of a Butler repository: what is found, and what is said of what cannot be."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from lsst.daf.butler import Butler, DataCoordinate, DatasetRef, DatasetType, FileDataset
from lsst.daf.butler.datastore import DatasetRefURIs
from lsst.resources import ResourcePath

from kits.butler_kit import CAMERA, StackFormatter, add_calexp, image_type, make_repository
from skygraft.config.campaign import load_config, parse_config
from skygraft.dataset import Dataset
from skygraft.demo.calexp import write_src
from skygraft.errors import ApertureConflictError, ConfigError, FormatError
from skygraft.formats import read_calibration
from skygraft.survey import IndexFile, index_images, index_survey, write_index
from skygraft.survey.butler import _file

RUN, LATER = "made/calexps", "made/later"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits of two detectors; one image again in a later run; one whose file is gone, of another type."""
    folder = tmp_path_factory.mktemp("repo")
    repo = make_repository(folder, {1: "r", 2: "i"})
    with Butler.from_config(str(repo), writeable=True) as butler:
        butler.collections.register(LATER)
        add_calexp(butler, butler.get_dataset_type("calexp"), LATER, folder / "raw", 1, 0)
        gone = add_calexp(butler, image_type(butler, "gone", "ExposureF"), RUN, folder / "raw", 1, 1)
        butler.pruneDatasets([gone], unstore=True, disassociate=False)
        image_type(butler, "cells", "MultipleCellCoadd")
        image_type(butler, "empty", "ExposureF")
        butler.registry.registerDatasetType(DatasetType("skyMap", ("skymap",), "SkyMap", universe=butler.dimensions))
    return repo


def index(repo: Path | str, base: Path | str = ".", **asked: Any) -> Any:
    spec = {"repo": str(repo), "collections": RUN, "dataset_type": "calexp", **asked}
    return index_images({"butler": spec}, base)


def test_what_is_found(repo: Path) -> None:
    found = index(repo)
    assert list(found["image_id"]) == [f"{CAMERA}-{visit}-{ccd}" for visit in (1, 2) for ccd in (0, 1)]
    assert list(found["band"]) == ["r", "r", "i", "i"]
    assert list(found["format"]) == ["lsst_afw"] * 4
    assert all(Path(path).is_file() for path in found["path"])
    datasets = [Dataset.from_json(text) for text in found["dataset"]]
    with Butler.from_config(str(repo)) as butler:
        for one, row in zip(datasets, found, strict=True):
            ref = butler.get_dataset(one.id)
            assert ref.run == one.run == RUN
            assert butler.getURI(ref).ospath == row["path"]
            assert (ref.dataId["visit"], str(ref.dataId["detector"])) == (row["visit"], row["detector"])


def test_the_first_collection_counts(repo: Path) -> None:
    runs = [
        [Dataset.from_json(text).run for text in index(repo, collections=collections)["dataset"]]
        for collections in ([RUN, LATER], f"{LATER}, {RUN}")
    ]
    assert runs == [[RUN] * 4, [LATER, RUN, RUN, RUN]]


def test_where(repo: Path) -> None:
    found = index(repo, where=f"instrument = '{CAMERA}' AND visit > 1 AND detector IN (1)")
    assert list(found["image_id"]) == [f"{CAMERA}-2-1"]
    assert len(index(repo, where=f"instrument = '{CAMERA}' AND visit > 7")) == 0


def test_relative_repository(repo: Path) -> None:
    assert len(index("repo", base=repo.parent)) == 4
    assert len(index(repo / "butler.yaml")) == 4


def test_the_data_id_counts_before_the_header(repo: Path, tmp_path: Path) -> None:
    """A file that calls itself another visit's is the image that the repository says it is."""
    path = Path(index(repo)["path"][0])
    assert "IDNUM   =                    1" in path.read_bytes()[: 2880 * 3].decode("latin-1")
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("calexp", collections=LATER)
        other = Path(butler.getURI(refs[0]).ospath)
    content = other.read_bytes()
    try:
        other.write_bytes(content.replace(b"IDNUM   =                    1", b"IDNUM   =                    7"))
        assert list(index(repo, collections=LATER)["image_id"]) == [f"{CAMERA}-1-0"]
    finally:
        other.write_bytes(content)


def test_file_that_is_gone(repo: Path) -> None:
    found = index(repo, dataset_type="gone", base=repo.parent)
    assert len(found) == 0
    (bad,) = found.meta["failures"]
    assert bad["path"] == f"gone instrument={CAMERA}, detector=1, visit=1"
    assert "the repository has no file of it" in bad["reason"]


@pytest.mark.parametrize(
    ("uris", "path", "said"),
    [
        (
            DatasetRefURIs(ResourcePath("https://example.org/a.fits"), {}),
            "https://example.org/a.fits",
            "not on a file system",
        ),
        (DatasetRefURIs(ResourcePath("file:///a/b.zip#unzip=c.fits"), {}), "b.zip", "in a ZIP file"),
        (DatasetRefURIs(None, {"wcs": ResourcePath("file:///a/wcs.fits")}), "/a/wcs.fits", "in pieces"),
        (DatasetRefURIs(None, {}), "visit=1", "in pieces"),
    ],
)
def test_files_out_of_reach(uris: DatasetRefURIs, path: str, said: str) -> None:
    ref = SimpleNamespace(
        datasetType=SimpleNamespace(name="calexp"), dataId=SimpleNamespace(required={"visit": 1, "detector": 2})
    )
    found, problem = _file(ref, uris)
    assert path in found
    assert said in str(problem)


def test_schema_of_the_source_catalogues(repo: Path, tmp_path: Path) -> None:
    """Images that do not say what their aperture is are read with the schema that the repository has of their run."""
    write_src(tmp_path / "src.fits", columns={"id": np.arange(0)}, radius=9.0)
    with Butler.from_config(str(repo), writeable=True) as butler:
        kind = DatasetType("src_schema", (), "SourceCatalog", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        with pytest.raises(ConfigError, match=r"no dataset 'src_schema' in made/calexps"):
            index(repo, schema_type="src_schema")
        ref = DatasetRef(kind, DataCoordinate.make_empty(butler.dimensions), run=RUN)
        butler.ingest(FileDataset(str(tmp_path / "src.fits"), ref, formatter=StackFormatter), transfer="copy")
        schema = butler.getURI(ref).ospath
    found = index(repo, schema_type="src_schema")
    for row in found:
        options = json.loads(row["options"])
        assert options["source_catalog"] == schema
        # They say it themselves here, and otherwise.
        with pytest.raises(ApertureConflictError, match="9"):
            read_calibration(row["path"], format=row["format"], **options)
    with pytest.raises(ConfigError, match="a schema is one for all"):
        index(repo, schema_type="calexp")
    with pytest.raises(ConfigError, match="take no schema"):
        index_images(
            {"butler": {"repo": str(repo), "collections": RUN, "dataset_type": "calexp", "schema_type": "src_schema"},
             "format": "fits"},
        )  # fmt: skip


def test_an_index_file_keeps_it(repo: Path, tmp_path: Path) -> None:
    spec = {"butler": {"repo": str(repo), "collections": RUN, "dataset_type": "calexp"}}
    made = index_survey(spec, tmp_path)
    write_index(made, tmp_path / "index.parquet")
    assert IndexFile(tmp_path / "index.parquet").read().table.equals(made.table)


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"repo": "/no/such/repo"}, ConfigError, "there is no Butler repository"),
        ({"repo": "/etc/hostname"}, ConfigError, "cannot be opened"),
        ({"collections": "made/calexp"}, ConfigError, r"no collection 'made/calexp'.*Did you mean 'made/calexps'\?"),
        ({"collections": ["made/*"]}, ConfigError, "is a pattern; the order"),
        ({"dataset_type": "calexps"}, ConfigError, r"no dataset type 'calexps'.*Did you mean 'calexp'\?"),
        ({"dataset_type": "calexp.psf"}, ConfigError, "component of a dataset.*Give the whole: calexp"),
        ({"dataset_type": "cells"}, FormatError, "storage class MultipleCellCoadd; .*VisitImage"),
        ({"dataset_type": "skyMap"}, FormatError, "storage class SkyMap"),
        ({"where": "visitt = 3"}, ConfigError, "where is 'visitt = 3': Unrecognized identifier 'visitt'"),
        ({"where": "visit = = 3"}, ConfigError, "Failed to parse expression"),
        ({"where": "visit = 3"}, ConfigError, "without constraining it"),
        ({"where": f"instrument = '{CAMERA}' AND visit = 'x'"}, ConfigError, "do not agree"),
        ({"collection": "x"}, ConfigError, "Did you mean 'collections'"),
        ({"collections": None}, ConfigError, "needs collections"),
        ({"collections": ", "}, ConfigError, "needs collections"),
        ({"dataset_type": 3}, ConfigError, "must be texts"),
        ({"collections": 3}, ConfigError, "collections is 3; names are needed"),
        ({"repo": "~nobody/repo"}, ConfigError, "there is no Butler repository"),
        ({"repo": "x" * 5000}, ConfigError, "there is no Butler repository|cannot be opened"),
    ],
)
def test_what_is_wrong_is_named(repo: Path, asked: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        index(**{"repo": repo, **asked})
    assert caught.value.key.startswith("survey.butler")


def test_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a mapping with repo, collections, dataset_type"):
        index_images({"butler": "repo"}, tmp_path)


def test_without_the_library(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("lsst.daf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"pip install 'skygraft\[butler\]'"):
        index(repo)


CONFIG = {"name": "x", "catalog": {"path": "c.parquet"}, "output": "out"}
BUTLER = {"repo": "repo", "collections": "a, b", "dataset_type": "visit_image"}


def test_configuration(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    config = parse_config(CONFIG | {"survey": {"butler": BUTLER}}, base_dir=tmp_path)
    assert config.survey.spec()["butler"] == {
        "repo": str(tmp_path / "repo"), "collections": ["a", "b"], "dataset_type": "visit_image", "where": "",
        "schema_type": None,
    }  # fmt: skip
    assert parse_config(config.resolved()) == config
    assert json.loads(json.dumps(config.resolved()))["survey"]["butler"]["transfer"] == "direct"
    # A name that is no folder may be that of a repository.
    named = parse_config(CONFIG | {"survey": {"butler": BUTLER | {"repo": "embargo"}}}, base_dir=tmp_path)
    assert named.survey.butler.repo == "embargo"


def test_only_what_is_registered_says_where(tmp_path: Path) -> None:
    """Records of campaigns without a repository, or that register nothing, say what they said before."""
    plain = parse_config(CONFIG | {"survey": {"images": "*.fits"}}, base_dir=tmp_path).pixel_settings()
    reads = parse_config(CONFIG | {"survey": {"butler": BUTLER}}, base_dir=tmp_path).pixel_settings()
    writes = parse_config(
        CONFIG | {"survey": {"butler": BUTLER | {"output_run": "u/x"}}}, base_dir=tmp_path
    ).pixel_settings()
    assert plain == reads
    assert {key: writes[key] for key in writes.keys() - reads.keys()} == {
        "survey.butler.output_run": "u/x", "survey.butler.output_type": "injected_visit_image",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("butler", "said"),
    [
        ({"colections": "x"}, "did you mean 'collections'"),
        ({"collections": []}, "at least 1 item"),
        ({"transfer": "move", "output_run": "x"}, "'direct', 'copy'"),
        ({"output_type": "x"}, "give output_run too"),
        ({"transfer": "copy"}, "give output_run too"),
        ({"output_repo": "mine"}, "give output_run too"),
        ({"output_type": "visit_image", "output_run": "a"}, "change either"),
    ],
)
def test_bad_configuration(tmp_path: Path, butler: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_config(CONFIG | {"survey": {"butler": BUTLER | butler}}, base_dir=tmp_path)
    assert "survey.butler" in str(caught.value)


def test_one_way_to_list_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one of images"):
        parse_config(CONFIG | {"survey": {"butler": BUTLER, "images": "*.fits"}}, base_dir=tmp_path)


def test_what_the_command_line_says_counts(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"survey": {"images": "*.fits", "calibration": {"gain": 2.0}}}))
    with pytest.raises(ConfigError, match="names none"):
        load_config(path, butler={"output_run": "u/x"})
    survey = load_config(path, butler=BUTLER | {"output_run": "u/x"}).survey
    assert survey.images is None
    assert (survey.butler.output_run, survey.butler.type_written, survey.calibration.gain) == (
        "u/x", "injected_visit_image", 2.0,
    )  # fmt: skip
    path.write_text(yaml.safe_dump(CONFIG | {"survey": {"butler": BUTLER}}))
    changed = load_config(path, butler={"where": "visit > 3"}).survey.butler
    assert (changed.where, changed.collections) == ("visit > 3", ("a", "b"))
