"""A real Butler repository for tests: SQLite, with calexps that the stack might have written, and room for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.demo.calexp import ChebyshevCalib, PsfexModel, write_calexp

pytest.importorskip("lsst.daf.butler")

from lsst.daf.butler import Butler, DatasetRef, DatasetType, FileDataset, FormatterV2
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

CAMERA, RA, DEC, SCALE, SIZE = "democam", 150.1, 2.2, 0.2, 90
FITS_EXPOSURE = "lsst.obs.base.formatters.fitsExposure.FitsExposureFormatter"


class StackFormatter(FormatterV2):
    """Stands for the stack's own, which a repository that the stack wrote names."""

    default_extension = ".fits"

    @classmethod
    def name(cls) -> str:
        return FITS_EXPOSURE


def small_calexp(path: Path, *, visit: int, detector: int, band: str = "r", **cards: Any) -> Path:
    """A calexp of 90 x 90 pixels without sources, calibrated to 1 nJy a count; `cards` go into its primary header."""
    rng = np.random.default_rng(10 * visit + detector)
    half = (SIZE - 1) / 2
    header = fits.Header(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS",
            "CRPIX1": half + 1, "CRPIX2": half + 1, "CRVAL1": RA + detector * 10 / 3600, "CRVAL2": DEC,
            "CD1_1": -SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE / 3600,
        }
    )  # fmt: skip
    y, x = np.mgrid[-12:13, -12:13]
    components = np.zeros((6, 25, 25), np.float32)
    components[0] = np.exp(-(x**2 + y**2) / (2 * 1.7**2)) / (2 * np.pi * 1.7**2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_calexp(
        path,
        image=rng.normal(0, 20, (SIZE, SIZE)).astype(np.float32),
        variance=np.full((SIZE, SIZE), 400, np.float32),
        mask=np.zeros((SIZE, SIZE), np.int32),
        wcs_header=header,
        psf=PsfexModel(components, 1.0, (half, half), (half, half), (half, half)),
        calib=ChebyshevCalib(np.array([[1.0]]), 0.0),
        band=band,
        physical_filter=f"demo-{band}",
        visit_cards={
            "EXPTIME": 30.0, "DATE-AVG": "2025-01-01T00:00:00", "TIMESYS": "TAI", "INSTRUMENT": CAMERA, "IDNUM": visit,
            "CALAPRAD": 12.0, **cards,
        },
    )  # fmt: skip
    return path


def define_camera(butler: Butler, visits: dict[int, str], n_detectors: int = 2) -> None:
    """Insert the records of dimensions that images of these visits (by number: their band) have."""
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": CAMERA, "visit_max": 10**6, "exposure_max": 10**6, "detector_max": 9})
    insert("day_obs", {"instrument": CAMERA, "id": 20250101})
    insert("detector", *({"instrument": CAMERA, "id": i, "full_name": f"S{i:02}"} for i in range(n_detectors)))
    for band in sorted(set(visits.values())):
        insert("physical_filter", {"instrument": CAMERA, "name": f"demo-{band}", "band": band})
    for visit, band in visits.items():
        content = {"instrument": CAMERA, "id": visit, "name": str(visit), "day_obs": 20250101}
        insert("visit", {**content, "physical_filter": f"demo-{band}"})


def define_regions(butler: Butler, visit: int, n_detectors: int = 2) -> None:
    """Insert where the detectors of a visit lie, as visits of real cameras have it."""
    corners = [(RA - 1, DEC - 1), (RA + 1, DEC - 1), (RA + 1, DEC + 1), (RA - 1, DEC + 1)]
    region = ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])
    content = {"instrument": CAMERA, "visit": visit, "region": region}
    butler.registry.insertDimensionData(
        "visit_detector_region", *({**content, "detector": i} for i in range(n_detectors))
    )


def image_type(butler: Butler, name: str, storage_class: str) -> DatasetType:
    """A dataset type of images of detectors, registered."""
    kind = DatasetType(name, ("instrument", "visit", "detector"), storage_class, universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    return kind


def add_calexp(butler: Butler, kind: DatasetType, run: str, folder: Path, visit: int, detector: int) -> DatasetRef:
    """Make a calexp and ingest it, as the stack would have put it there."""
    data_id = butler.registry.expandDataId(instrument=CAMERA, visit=visit, detector=detector)
    ref = DatasetRef(kind, data_id, run=run)
    band = str(data_id["band"])
    path = small_calexp(
        folder / f"{visit}-{detector}.fits", visit=visit, detector=detector, band=band,
        **{"LSST BUTLER ID": str(ref.id), "LSST BUTLER RUN": run, "LSST BUTLER DATASETTYPE": kind.name,
           "LSST BUTLER INPUT 0 ID": "11111111-1111-1111-1111-111111111111"},
    )  # fmt: skip
    butler.ingest(FileDataset(str(path), ref, formatter=StackFormatter), transfer="copy")
    path.unlink()
    return ref


def make_repository(folder: Path, visits: dict[int, str], *, run: str = "made/calexps", n_detectors: int = 2) -> Path:
    """A repository of calexps, of every detector of some visits; returns its folder."""
    repo = folder / "repo"
    Butler.makeRepo(str(repo))
    with Butler.from_config(str(repo), writeable=True) as butler:
        define_camera(butler, visits, n_detectors)
        butler.collections.register(run)
        kind = image_type(butler, "calexp", "ExposureF")
        for visit in visits:
            for detector in range(n_detectors):
                add_calexp(butler, kind, run, folder / "raw", visit, detector)
    return repo
