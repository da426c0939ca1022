"""Plans written by hand, instead of by the planner; and the planner's selection, of single positions and rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog.io import to_arrow
from skygraft.planning.selection import Outlines, RowDigests, SourcePositions
from skygraft.records.plan_file import _SCHEMA, ROW_GROUP, PlannedImage, PlanWriter


def write_plan(path: Path, images: Iterable[PlannedImage], metadata: Mapping[str, Any]) -> None:
    """Write a plan of some images."""
    with PlanWriter(path) as writer:
        writer.metadata.update(metadata)
        for some in itertools.batched(images, ROW_GROUP):
            add_images(writer, some)


def add_images(writer: PlanWriter, images: Iterable[PlannedImage]) -> None:
    """Add images to the end of a plan."""
    writer.write_table(pa.Table.from_pylist([asdict(image) for image in images], schema=_SCHEMA))


def near_polygon(ra: ArrayLike, dec: ArrayLike, polygon: ArrayLike, margin_arcsec: float = 0.0) -> NDArray[np.bool_]:
    """The positions that an image of that outline gets, all in degrees, as a mask."""
    sources = SourcePositions.at(np.asarray(ra, dtype=float), np.asarray(dec, dtype=float))
    result = np.zeros(len(sources), dtype=np.bool_)
    result[sources.select(Outlines.of([polygon]), margin_arcsec)[1]] = True
    return result


def row_digests(table: QTable | pa.Table, band: str | None) -> NDArray[np.uint64]:
    """The fingerprint of each row of a canonical catalogue."""
    return RowDigests(table if isinstance(table, pa.Table) else to_arrow(table)).of(band)


def make_images(n: int) -> list[PlannedImage]:
    """Images that differ in everything, with and without what an image may lack."""
    return [
        PlannedImage(
            image_id=f"cam-{i}-ü", stem=f"cam-{i}", path=f"raw/{i}.fits", hdu=str(i % 3), format="fits",
            instrument=None if i % 5 == 0 else "cam", visit=None if i % 7 == 0 else i // 4,
            detector=None if i % 3 else "7", band="gri"[i % 3], mjd=None if i % 4 == 0 else 60000.0 + i / 7,
            exposure_time=30.0, nx=2048, ny=4176 + i, ra=i * 360 / n, dec=-1 / 3,
            polygon=tuple((i / 3 + k, k - 0.5) for k in range(3 + i % 3)),
            pixel_scale=0.168, n_bytes=10**10 + i, options='{"hdu": 1}', tract=i // 20, patch=i // 5 % 4,
            reads=tuple((i // 20, k) for k in range(i % 4)), n_sources=i, cost_seconds=1.5 * i, output=f"raw/{i}.fits",
            catalog_key=f"{i:064x}",
        )
        for i in range(n)
    ]  # fmt: skip
