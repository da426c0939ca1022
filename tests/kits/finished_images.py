"""What finished images of a campaign leave behind: truth tables that `inject` made, and records, without the pixels.

The images are of the sky map of `consolidation_kit`: 120 pixels of 3.6 arcsec wide, centred on their home patch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import QTable

from kits.plan_kit import add_images
from skygraft.catalog import partition_catalog, write_catalog
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.execution.task import _on_image
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.injection import inject
from skygraft.photometry import CalibrationAperture
from skygraft.psf import MoffatPSF
from skygraft.records.plan_file import Plan, PlannedImage, PlanWriter
from skygraft.skymap import get_skymap
from skygraft.tables.truth_parts import write_truth_part
from skygraft.testing import make_exposure
from skygraft.wcs import footprint

APERTURE = {"kind": "aperture", "radius_pixels": 12.0, "radius_arcsec": 2.4, "origin": "CALAPRAD in image-1.fits"}
SOFTWARE = {"python": "3.12.1", "skygraft": "0.1", "numpy": "2.3"}

PIXEL_SCALE = 3.6
CENTERS = {(0, 1): 9.95, (0, 0): 10.05, (1, 1): 10.14, (1, 0): 10.24, (-1, -1): 50.0}
"""Right ascension of the middle of each patch; all are at declination 0."""
_INJECTED: dict[Any, tuple[QTable, dict[str, Any]]] = {}
PSF = MoffatPSF(fwhm=3.0, beta=3.0, shape=(11, 11))


def planned(image_id: str, home: tuple[int, int], reads: Sequence[tuple[int, int]] = (), **fields: Any) -> PlannedImage:
    """An image of a plan, by default a coadd of its home patch with border; `fields` replace what is so for most."""
    ra, dec, size = fields.pop("ra", CENTERS[home]), fields.pop("dec", 0.0), fields.pop("size", 120)
    sky = make_exposure((size, size), center=(ra, dec), pixel_scale=PIXEL_SCALE, psf=PSF)
    image = PlannedImage(
        image_id=image_id,
        stem=image_id,
        path=f"{image_id}.fits",
        hdu="",
        format="fits",
        instrument="testcam",
        visit=None,
        detector=None,
        band="r",
        mjd=None,
        exposure_time=None,
        nx=size,
        ny=size,
        ra=ra,
        dec=dec,
        polygon=tuple((float(a), float(b)) for a, b in footprint(sky.wcs, sky.box, 1)),
        pixel_scale=PIXEL_SCALE,
        n_bytes=1,
        options="{}",
        tract=home[0],
        patch=home[1],
        reads=tuple(reads) or (home,),
        n_sources=0,
        cost_seconds=1.0,
        output=f"{image_id}.fits",
        catalog_key="",
    )
    return dataclasses.replace(image, **fields)


class Outputs:
    """The output folder of a campaign whose images were finished by hand.

    Parameters
    ----------
    folder : Path
        Where everything goes.
    catalog : QTable
        The catalogue, canonical.
    skymap : str or mapping
        The sky map.
    images : iterable of PlannedImage
        The plan.
    """

    def __init__(self, folder: Path, catalog: QTable, skymap: Any, images: Iterable[PlannedImage]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.skymap = skymap
        write_catalog(catalog, folder / "fakes.parquet")
        settings = {
            "name": "by-hand",
            "survey": {"images": "*.fits"},
            "catalog": {"path": "fakes.parquet"},
            "skymap": skymap,
            "output": "out",
        }
        (folder / "campaign.yaml").write_text(yaml.safe_dump(settings))
        self.config: CampaignConfig = load_config(folder / "campaign.yaml")
        self.root = self.config.output
        self.root.mkdir(exist_ok=True)
        (self.root / "campaign.yaml").write_text(self.config.to_yaml())
        partition_catalog(folder / "fakes.parquet", get_skymap(skymap), self.root / "catalog")
        self.set_plan(images)

    def set_plan(self, images: Iterable[PlannedImage], **metadata: Any) -> None:
        self.images = {image.image_id: image for image in images}
        with PlanWriter(self.root / "plan.parquet") as writer:
            writer.metadata |= {"plan_key": "x", "unusable": []} | metadata
            add_images(writer, sorted(self.images.values(), key=lambda i: (i.tract, i.patch, i.image_id)))

    @property
    def plan(self) -> Plan:
        return Plan(self.root / "plan.parquet")

    def record_path(self, image_id: str) -> Path:
        image = self.images[image_id]
        return self.root / "records" / f"tract={image.tract}" / f"patch={image.patch}" / f"{image.stem}.json"

    def part_path(self, image_id: str) -> Path:
        return self.record_path(image_id).with_suffix(".truth.arrow")

    def exposure(self, image_id: str) -> Exposure:
        """The image, blank."""
        image = self.images[image_id]
        return make_exposure(
            (image.ny, image.nx),
            center=(image.ra, image.dec),
            pixel_scale=image.pixel_scale,
            psf=PSF,
            reference=CalibrationAperture(5.0, 5.0 * image.pixel_scale, APERTURE["origin"]),
            data_id=DataId(image.instrument, image.visit, image.detector, band=image.band),
            visit_info=VisitInfo(image.mjd, image.exposure_time),
        )

    def _injected(self, image_id: str, catalog: QTable, options: dict[str, Any]) -> tuple[QTable, dict[str, Any]]:
        """What `inject` says, worked out once in each process: many tests begin with the same images."""
        image = self.images[image_id]
        columns = [(name, np.asarray(catalog[name]).tobytes()) for name in catalog.colnames]
        key = image, hashlib.sha256(repr(columns).encode()).digest(), repr(options)
        if key not in _INJECTED:
            injection = inject(self.exposure(image_id), catalog, image_id=image_id, band=image.band, **options)
            _INJECTED[key] = _on_image(injection.truth), injection.summary
        return _INJECTED[key]

    def finish(
        self,
        image_id: str,
        catalog: QTable,
        *,
        calibration: Mapping[str, Any] | None = None,
        software: Mapping[str, str] = SOFTWARE,
        host: str = "node-1",
        code: int = 1,
        key: str = "",
        age: float = 60.0,
        **options: Any,
    ) -> QTable:
        """Inject a catalogue into an image and leave its truth and its record, dated `age` seconds back; the truth.

        `options` are those of `inject`.
        """
        truth, summary = self._injected(image_id, catalog, {"noise": False} | options)
        part, record = self.part_path(image_id), self.record_path(image_id)
        part.parent.mkdir(parents=True, exist_ok=True)
        write_truth_part(part, truth)
        content = {
            "version": 1,
            "image": image_id,
            "key": key or hashlib.sha256(image_id.encode()).hexdigest(),
            "inputs": {f"{image_id}.fits": [1, 2]},
            "catalog": "",
            "settings": {"injection.seed": 0},
            "code": code,
            "outputs": {
                f"images/{image_id}.fits": {"n_bytes": 1000, "sha256": "0" * 64},
                part.relative_to(self.root).as_posix(): {
                    "n_bytes": part.stat().st_size,
                    "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
                },
            },
            "band": self.images[image_id].band,
            "n_sources": len(truth),
            "n_drawn": summary["n_drawn"],
            "calibration": dict(calibration or summary["calibration"]),
            "software": dict(software),
            "host": host,
        }
        temporary = record.with_name(f".{record.name}.tmp")
        temporary.write_text(json.dumps(content, sort_keys=True))
        then = time.time() - age
        os.utime(temporary, (then, then))
        temporary.replace(record)
        return truth
