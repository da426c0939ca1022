"""What finished images of a campaign leave behind (records and truth tables), written by hand instead of by tasks."""

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
import pyarrow as pa
import yaml
from astropy.table import QTable

from plan_kit import add_images
from skygraft.campaign.config import CampaignConfig, load_config
from skygraft.campaign.planned import Plan, PlannedImage, PlanWriter
from skygraft.catalog import partition_catalog, write_catalog
from skygraft.skymap import get_skymap

APERTURE = {"kind": "aperture", "radius_pixels": 12.0, "radius_arcsec": 2.4, "origin": "CALAPRAD in image-1.fits"}
SOFTWARE = {"python": "3.12.1", "skygraft": "0.1", "numpy": "2.3"}

TRUTH_KINDS: dict[str, Any] = {
    "injection_id": (pa.int64(), 0),
    "image_id": (pa.string(), ""),
    "ra": (pa.float64(), 0.0),
    "dec": (pa.float64(), 0.0),
    "x": (pa.float64(), 1.0),
    "y": (pa.float64(), 2.0),
    "source_type": (pa.string(), "Star"),
    "band": (pa.string(), "r"),
    "mag": (pa.float64(), 20.0),
    "inst_flux": (pa.float64(), 100.0),
    "flux_deposited": (pa.float64(), 100.0),
    "aperture_fraction": (pa.float64(), 0.95),
    "kernel_scale": (pa.float64(), 1.05),
    "psf_fwhm": (pa.float64(), 0.8),
    "stamp_size": (pa.int64(), 31),
    "flags": (pa.int64(), 0),
}
_UNITS = {"ra": "deg", "dec": "deg", "psf_fwhm": "arcsec"}


def planned(image_id: str, home: tuple[int, int], reads: Sequence[tuple[int, int]] = (), **fields: Any) -> PlannedImage:
    """An image of a plan; `fields` replace what is the same for most."""
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
        nx=100,
        ny=100,
        ra=0.0,
        dec=0.0,
        polygon=((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)),
        pixel_scale=0.2,
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

    def finish(
        self,
        image_id: str,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        *,
        calibration: Mapping[str, Any] = APERTURE,
        software: Mapping[str, str] = SOFTWARE,
        host: str = "node-1",
        code: int = 1,
        key: str = "",
        age: float = 60.0,
    ) -> None:
        """Write the truth table and the record of an image, as a task does, dated `age` seconds back."""
        if not isinstance(rows, Mapping):
            names = [name for name in TRUTH_KINDS if any(name in row for row in rows)]
            rows = {name: [row.get(name, TRUTH_KINDS[name][1]) for row in rows] for name in names}
        size = len(next(iter(rows.values()))) if rows else 0
        fixed = {"image_id": image_id, "band": self.images[image_id].band}
        arrays, fields = [], []
        for name, (kind, default) in TRUTH_KINDS.items():
            values = rows.get(name, [fixed.get(name, default)] * size)
            arrays.append(pa.array(values, type=kind))
            fields.append(pa.field(name, kind, metadata={"unit": _UNITS[name]} if name in _UNITS else None))
        part, record = self.part_path(image_id), self.record_path(image_id)
        part.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        stamps = rows.get("stamp_size", [31] * size)
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
            "n_sources": size,
            "n_drawn": int(np.count_nonzero(np.asarray(stamps) > 0)),
            "calibration": dict(calibration),
            "software": dict(software),
            "host": host,
        }
        temporary = record.with_name(f".{record.name}.tmp")
        temporary.write_text(json.dumps(content, sort_keys=True))
        then = time.time() - age
        os.utime(temporary, (then, then))
        temporary.replace(record)
