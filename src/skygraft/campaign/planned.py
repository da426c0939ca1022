"""One image of a plan, and the Parquet file that holds all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.campaign.files import atomic_path
from skygraft.errors import CampaignError

__all__ = ["PlannedImage", "read_plan", "read_plan_metadata", "write_plan"]

_PAIRS = pa.list_(pa.list_(pa.int64(), 2))
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("stem", pa.string()),
        ("path", pa.string()),
        ("hdu", pa.string()),
        ("format", pa.string()),
        ("instrument", pa.string()),
        ("visit", pa.int64()),
        ("detector", pa.string()),
        ("band", pa.string()),
        ("mjd", pa.float64()),
        ("exposure_time", pa.float64()),
        ("nx", pa.int64()),
        ("ny", pa.int64()),
        ("ra", pa.float64()),
        ("dec", pa.float64()),
        ("polygon", pa.list_(pa.list_(pa.float64(), 2))),
        ("pixel_scale", pa.float64()),
        ("n_bytes", pa.int64()),
        ("options", pa.string()),
        ("tract", pa.int64()),
        ("patch", pa.int64()),
        ("reads", _PAIRS),
        ("n_sources", pa.int64()),
        ("cost_seconds", pa.float64()),
        ("output", pa.string()),
        ("catalog_key", pa.string()),
    ]
)
_METADATA = b"skygraft"


@dataclass(frozen=True)
class PlannedImage:
    """Everything that a task needs to know of one image.

    Parameters
    ----------
    image_id : str
        Names the image in records, truth tables and random streams; unique in the campaign.
    stem : str
        `image_id` made fit for file names; unique too.
    path : str
        The image file, relative to the survey's root where it lies beneath it.
    hdu : str
        The HDU that holds the image; empty where its format has no such choice.
    format, instrument, detector, band : str or None
        As the index says.
    visit : int or None
        As the index says.
    mjd : float or None
        Middle of the exposure, MJD TAI, days.
    exposure_time : float or None
        Seconds.
    nx, ny : int
        Columns and rows.
    ra, dec : float
        Centre, ICRS degrees.
    polygon : tuple of (float, float)
        Outline, ICRS degrees.
    pixel_scale : float
        Arcsec per pixel at the centre.
    n_bytes : int
        Size of the input.
    options : str
        Reading options of the format, JSON.
    tract, patch : int
        Home patch: the one whose inner region holds the centre; -1 where the sky map has none there.
    reads : tuple of (int, int)
        Tract and patch of every catalogue partition that may hold sources of this image.
    n_sources : int
        Catalogue rows within the outline and its margin.
    cost_seconds : float
        Estimated time.
    output : str
        The image file to write, relative to the campaign's ``images`` folder.
    catalog_key : str
        Fingerprint of those rows.
    """

    image_id: str
    stem: str
    path: str
    hdu: str
    format: str
    instrument: str | None
    visit: int | None
    detector: str | None
    band: str | None
    mjd: float | None
    exposure_time: float | None
    nx: int
    ny: int
    ra: float
    dec: float
    polygon: tuple[tuple[float, float], ...]
    pixel_scale: float
    n_bytes: int
    options: str
    tract: int
    patch: int
    reads: tuple[tuple[int, int], ...]
    n_sources: int
    cost_seconds: float
    output: str
    catalog_key: str

    def source(self, root: Path) -> Path:
        """The image file, where the survey's root is `root`."""
        return root / self.path

    def format_options(self) -> dict[str, Any]:
        """Reading options of the format."""
        options: dict[str, Any] = json.loads(self.options)
        return options


def write_plan(path: Path, images: Iterable[PlannedImage], metadata: Mapping[str, Any]) -> None:
    """Write a plan atomically; equal plans give equal files.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = [dataclasses.asdict(image) for image in images]
    schema = _SCHEMA.with_metadata({_METADATA: json.dumps(dict(metadata), sort_keys=True).encode()})
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _open(path: Path) -> pa.Table:
    if not path.exists():
        raise CampaignError("the campaign has no plan yet", path=path, fix="Run `skygraft plan` first")
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CampaignError(f"the plan cannot be read ({error})", path=path, fix="Delete it and plan again") from error


def read_plan(path: Path) -> list[PlannedImage]:
    """The images of a plan, in its order.

    Raises
    ------
    CampaignError
        If there is no plan, or it cannot be read.
    """
    images = []
    for row in _open(path).to_pylist():
        row["polygon"] = tuple((float(ra), float(dec)) for ra, dec in row["polygon"])
        row["reads"] = tuple((int(tract), int(patch)) for tract, patch in row["reads"])
        images.append(PlannedImage(**row))
    return images


def read_plan_metadata(path: Path) -> dict[str, Any]:
    """What the plan was made of: the fingerprint of its settings, and its summary.

    Raises
    ------
    CampaignError
        If there is no plan, or it cannot be read.
    """
    metadata = _open(path).schema.metadata or {}
    content: dict[str, Any] = json.loads(metadata.get(_METADATA, b"{}"))
    return content
