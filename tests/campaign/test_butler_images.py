"""Rubin's own images in a Butler repository, put there and got from it by its own formatters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import QTable
from lsst.daf.butler import DatasetRef, DatasetType, FileDataset

from kits.butler_kit import Butler, StackFormatter
from skygraft.campaign import Campaign
from skygraft.catalog import write_catalog
from skygraft.formats import read_exposure
from skygraft.survey import index_images

pytestmark = pytest.mark.data
serialization = pytest.importorskip("lsst.images.serialization")

VISIT = {"instrument": "LSSTComCam", "visit": 2024110800246}
PATCH = {"skymap": "lsst_cells_v1", "tract": 9813, "patch": 43, "band": "r"}
RUN = "u/someone/injected"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A repository of a visit image, as FITS and as JSON (two detectors), and of a cell coadd; stars for both."""
    folder = tmp_path_factory.mktemp("rubin")
    rubin = data_dir / "rubin"
    Butler.makeRepo(str(folder / "repo"))
    with Butler.from_config(str(folder / "repo"), writeable=True, run="drp") as butler:
        insert = butler.registry.insertDimensionData
        insert("instrument", {"name": "LSSTComCam", "visit_max": 2**62, "exposure_max": 2**62, "detector_max": 9})
        insert("physical_filter", {"instrument": "LSSTComCam", "name": "r_03", "band": "r"})
        insert("detector", *({"instrument": "LSSTComCam", "id": i, "full_name": f"R22_S0{i}"} for i in (0, 1)))
        insert("day_obs", {"instrument": "LSSTComCam", "id": 20241108})
        content = {"instrument": "LSSTComCam", "id": VISIT["visit"], "name": "MC_O_20241108_000246"}
        insert("visit", {**content, "physical_filter": "r_03", "day_obs": 20241108})
        size = {"tract_max": 18938, "patch_nx_max": 10, "patch_ny_max": 10}
        insert("skymap", {"name": PATCH["skymap"], "hash": b"0" * 20, **size})
        insert("tract", {"skymap": PATCH["skymap"], "id": 9813})
        insert("patch", {"skymap": PATCH["skymap"], "tract": 9813, "id": 43, "cell_x": 3, "cell_y": 4})
        types = {
            "visit_image": DatasetType("visit_image", [*VISIT, "detector"], "VisitImage", universe=butler.dimensions),
            "deep_coadd": DatasetType("deep_coadd", list(PATCH), "CellCoadd", universe=butler.dimensions),
            "deepCoadd": DatasetType("deepCoadd", list(PATCH), "ExposureF", universe=butler.dimensions),
        }
        for kind in types.values():
            butler.registry.registerDatasetType(kind)
        image = serialization.read_archive(str(rubin / "dp1_visit_image.fits"))
        butler.put(image, types["visit_image"], {**VISIT, "detector": 0})
        data_id = butler.registry.expandDataId({**VISIT, "detector": 1})
        ref = DatasetRef(types["visit_image"], data_id, run="drp")
        butler.ingest(FileDataset(str(rubin / "visit_image-1.0.0-dp1.json"), ref), transfer="copy")
        coadd = serialization.read_archive(str(rubin / "dp1_cell_coadd.fits"))
        butler.put(coadd, types["deep_coadd"], PATCH)
        (afw,) = (data_dir / "afw_reference").glob("coadd_10_*.fits")
        ref = DatasetRef(types["deepCoadd"], butler.registry.expandDataId(PATCH), run="drp")
        butler.ingest(FileDataset(str(afw), ref, formatter=StackFormatter), transfer="copy")
    return folder


def run(folder: Path, dataset_type: str, place: Path) -> Any:
    """A campaign of three stars on the middle of the first image."""
    with Butler.from_config(str(folder / "repo")) as butler:
        refs = sorted(butler.query_datasets(dataset_type, collections="drp"))
        exposure = read_exposure(butler.getURI(refs[0]).ospath, aperture="12 pix")
    x, y = exposure.box.center
    ra, dec = exposure.wcs.pixel_to_world_values(x + np.array([-2.0, 0.3, 2.0]), y + np.array([0.0, 1.2, -2.0]))
    rows = {"injection_id": np.arange(3), "ra": ra, "dec": dec, "source_type": np.full(3, "Star")}
    place.mkdir(exist_ok=True)
    write_catalog(QTable(rows | {"mag_r": np.full(3, 20.0)}), place / "fakes.parquet")
    repository = {"repo": str(folder / "repo"), "collections": "drp", "dataset_type": dataset_type}
    content = {
        "name": dataset_type,
        "survey": {"butler": repository | {"output_run": RUN}, "calibration": {"aperture": "12 pix"}},
        "catalog": {"path": "fakes.parquet"},
        "injection": {"noise": False},
        "skymap": "lsst_cells_v1",
        "output": "out",
    }
    (place / "campaign.yaml").write_text(yaml.safe_dump(content))
    campaign = Campaign.from_yaml(place / "campaign.yaml")
    summary = campaign.run(n_workers=0)
    assert summary.ok, str(summary)
    return refs


@pytest.mark.parametrize("dataset_type", ["visit_image", "deep_coadd"])
def test_in_and_out(folder: Path, tmp_path: Path, dataset_type: str) -> None:
    sources = run(folder, dataset_type, tmp_path)
    endings = set()
    with Butler.from_config(str(folder / "repo")) as butler:
        for source in sources:
            ref = butler.find_dataset(f"injected_{dataset_type}", source.dataId, collections=RUN)
            before, after = butler.get(source), butler.get(ref)
            assert type(after) is type(before)
            # The file itself says which dataset it is, and of which it was made.
            assert after.butler_dataset.id == ref.id
            assert after.butler_dataset.run == RUN
            assert [one.id for one in after.butler_provenance.inputs] == [source.id]
            path = Path(butler.getURI(ref).ospath)
            endings.add(path.suffix)
            if path.suffix == ".fits":
                header = fits.getheader(path)
                assert header["LSST BUTLER ID"] == str(ref.id)
                assert header["LSST BUTLER INPUT 0 ID"] == str(source.id)
            exposure = read_exposure(path, aperture="12 pix")
            np.testing.assert_array_equal(after.image.array, exposure.image)
            assert after.mask.get("INJECTED").any()
            assert after.metadata["skygraft_injected"] is True
            truth = butler.get(f"injected_{dataset_type}_catalog", source.dataId, collections=RUN)
            assert len(truth) == 3
            added = float(np.nansum(after.image.array - before.image.array))
            # The images are smaller than the PSF's wings.
            assert 0.5 < added / float(truth["inst_flux"].sum()) < 1.1
            record = butler.get(f"injected_{dataset_type}_record", source.dataId, collections=RUN)
            assert record["calibration"]["radius_pixels"] == 12.0
            assert record["image"].endswith("-".join(str(source.dataId[k]) for k in _NAMING[dataset_type]))
    assert endings == ({".fits", ".json"} if dataset_type == "visit_image" else {".fits"})


def test_the_data_id_says_which_patch(folder: Path) -> None:
    """A coadd that the stack wrote does not say it itself."""
    spec = {"repo": str(folder / "repo"), "collections": "drp", "dataset_type": "deepCoadd"}
    (row,) = index_images({"butler": spec})
    assert (row["image_id"], row["format"], row["band"]) == ("9813-43-r", "lsst_afw", "r")
    exposure = read_exposure(row["path"], aperture="12 pix", **json.loads(row["options"]))
    assert (exposure.data_id.tract, exposure.data_id.patch) == (9813, 43)


_NAMING = {"visit_image": ("visit", "detector"), "deep_coadd": ("tract", "patch", "band")}
