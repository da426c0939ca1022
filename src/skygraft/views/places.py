"""Which images of a campaign show a place, an image id or an injected source."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, ConfigError
from skygraft.records.files import Layout
from skygraft.records.image_states import ImageRows
from skygraft.records.packs import file_exists
from skygraft.records.plan_file import Plan, PlannedImage, campaign_plan
from skygraft.records.status import DONE, record_states
from skygraft.skymap.geometry import check_positions, tan_project

__all__ = [
    "as_campaign",
    "done_images",
    "done_rows",
    "image_by_id",
    "image_of_file",
    "images_at",
    "is_done",
    "outline_distance",
    "rows_of_source",
    "separation",
    "truth_dataset",
]

_NEAREST = 50
"""Images, nearest by their centres, of which the distance to the outline is computed."""


def as_campaign(campaign: Campaign | str | os.PathLike[str]) -> Campaign:
    """Return a campaign, which may be given by its YAML file or its output folder.

    Parameters
    ----------
    campaign : Campaign or path-like

    Returns
    -------
    Campaign
    """
    if isinstance(campaign, Campaign):
        return campaign
    path = Path(campaign)
    return Campaign.from_yaml(Layout(path).config if path.is_dir() else path)


def image_of_file(path: str | os.PathLike[str]) -> tuple[Campaign, PlannedImage] | None:
    """Find the campaign that wrote an image file, by the folders above it.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    (Campaign, PlannedImage) or None
        None where no campaign wrote it.
    """
    file = Path(path).resolve()
    for folder in file.parents:
        layout = Layout(folder)
        if layout.plan.is_file() and layout.config.is_file() and file.is_relative_to(layout.images.resolve()):
            campaign, wanted = as_campaign(folder), file.relative_to(layout.images.resolve()).as_posix()
            plan = campaign_plan(layout.plan)
            outputs = plan.table(["output"]).column(0)
            row = pc.index(outputs, wanted).as_py()
            return None if row < 0 else (campaign, next(plan.images([row])))
    return None


def is_done(layout: Layout, image: PlannedImage) -> bool:
    """Whether an image has a record."""
    return file_exists(layout.record(image.tract, image.patch, image.stem))


def done_rows(campaign: Campaign) -> tuple[Plan, NDArray[np.int64]]:
    """Return the plan of a campaign, and its rows of the images that are done.

    Parameters
    ----------
    campaign : Campaign

    Returns
    -------
    plan : Plan
    rows : ndarray of int64
        At least one.

    Raises
    ------
    CampaignError
        If there is no plan, or no image is done.
    """
    plan = campaign_plan(campaign.layout.plan)
    rows = record_states(plan, campaign.layout)[0].rows(DONE)
    if not len(rows):
        raise CampaignError(
            "no image of the campaign is done", path=campaign.layout.root, fix="Run it first: skygraft run"
        )
    return plan, rows


def done_images(campaign: Campaign) -> Iterator[PlannedImage]:
    """Iterate over the images of a campaign that are done, in the order of the plan.

    Parameters
    ----------
    campaign : Campaign

    Yields
    ------
    PlannedImage

    Raises
    ------
    CampaignError
        As `done_rows`.
    """
    plan, rows = done_rows(campaign)
    return plan.images(rows)


def image_by_id(campaign: Campaign, image_id: str) -> PlannedImage:
    """Return an image of a campaign by its id.

    Parameters
    ----------
    campaign : Campaign
    image_id : str
        As in the plan, the truth tables and the records.

    Returns
    -------
    PlannedImage

    Raises
    ------
    CampaignError
        If the campaign has no such image, or it is not done.
    """
    plan = campaign_plan(campaign.layout.plan)
    row = int(ImageRows(plan).find([image_id])[0])
    image = next(plan.images([row])) if row >= 0 else None
    if image is None or image.image_id != image_id:
        ids = [name for batch in plan.batches(["image_id"]) for name in batch.column(0).to_pylist()]
        near = difflib.get_close_matches(image_id, ids[:100_000], 1)
        raise CampaignError(
            f"the campaign has no image {image_id!r}",
            path=plan.path,
            key="image_id",
            fix=f"Did you mean {near[0]!r}?" if near else f"Give one such as {ids[0]!r}",
        )
    if not is_done(campaign.layout, image):
        raise CampaignError(
            f"the image {image_id} is not done", path=campaign.layout.root, fix="Run the campaign: skygraft run"
        )
    return image


@dataclass(frozen=True)
class _Near:
    distance: float  # arcsec from its outline
    image_id: str


def images_at(campaign: Campaign, ra: float, dec: float) -> list[PlannedImage]:
    """Find the images that are done and show a place.

    Parameters
    ----------
    campaign : Campaign
    ra, dec : float
        ICRS degrees.

    Returns
    -------
    list of PlannedImage
        At least one; the one whose centre is nearest to the place first.

    Raises
    ------
    CampaignError
        If none does; the message names the nearest image and how far away it is.
    SkyMapError
        If the place is not on the sphere.
    """
    check_positions(ra, dec)
    plan = campaign_plan(campaign.layout.plan)
    inside: list[int] = []
    nearest: list[tuple[float, int]] = []
    start = 0
    for batch in plan.batches(["ra", "dec", "nx", "ny", "pixel_scale"]):
        at_ra, at_dec, nx, ny, scale = (np.asarray(batch.column(k).to_numpy(zero_copy_only=False)) for k in range(5))
        away = separation(ra, dec, at_ra, at_dec)
        # A centre is at most half a diagonal away; some more for distorted images.
        reach = 0.55 * np.hypot(nx, ny) * scale
        inside += (start + np.flatnonzero(away <= reach)).tolist()
        few = np.argsort(away)[:_NEAREST]
        nearest = sorted([*nearest, *zip(away[few].tolist(), (start + few).tolist(), strict=True)])[:_NEAREST]
        start += batch.num_rows
    found: list[PlannedImage] = []
    waiting: list[PlannedImage] = []
    for image in plan.images(inside):
        if outline_distance(image.polygon, ra, dec) > 0:
            continue
        (found if is_done(campaign.layout, image) else waiting).append(image)
    if found:
        return sorted(found, key=lambda i: (float(separation(ra, dec, i.ra, i.dec)), i.image_id))
    place = f"({ra:.5f}, {dec:+.5f})"
    if waiting:
        raise CampaignError(
            f"the images at {place} are not done: {', '.join(i.image_id for i in waiting[:3])}",
            path=campaign.layout.root,
            fix="Run the campaign: skygraft run",
        )
    rows = sorted(row for _, row in nearest)
    distances = [_Near(outline_distance(i.polygon, ra, dec), i.image_id) for i in plan.images(rows)]
    near = min(distances, key=lambda n: (n.distance, n.image_id), default=None)
    how = "the plan has no image"
    if near is not None:
        how = f"the nearest is {near.image_id}, whose edge is {_angle(near.distance)} away"
    raise CampaignError(
        f"no image shows the place {place}; {how}", path=plan.path, fix="Give another place, in degrees"
    )


def _angle(arcsec: float) -> str:
    for unit, size in (("deg", 3600.0), ("arcmin", 60.0)):
        if arcsec >= size:
            return f"{arcsec / size:.2f} {unit}"
    return f"{arcsec:.1f} arcsec"


def separation(ra: float, dec: float, ra2: Any, dec2: Any) -> NDArray[np.float64]:
    """Great-circle distance by the haversine formula.

    Parameters
    ----------
    ra, dec : float
        ICRS degrees.
    ra2, dec2 : array_like
        ICRS degrees.

    Returns
    -------
    ndarray of float64
        Arcseconds.
    """
    lat, lat2 = np.radians(dec), np.radians(np.asarray(dec2, dtype=float))
    half = np.radians(np.asarray(ra2, dtype=float) - ra) / 2
    h = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin(half) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))) * 3600)


def outline_distance(polygon: Any, ra: float, dec: float) -> float:
    """Distance of a place from an outline; zero inside and on its edge.

    Parameters
    ----------
    polygon : array_like, shape (M, 2)
        Vertices (ra, dec), ICRS degrees.
    ra, dec : float
        ICRS degrees.

    Returns
    -------
    float
        Arcseconds; measured in the tangent plane of the place within 60 degrees of it, further away to the vertices.
    """
    points = np.asarray(polygon, dtype=float)
    away = separation(ra, dec, points[:, 0], points[:, 1])
    if away.max() > 60 * 3600:
        return float(away.min())
    x, y = tan_project(points[:, 0], points[:, 1], ra, dec)
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > 0) != (y2 > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x - y * (x2 - x) / (y2 - y)
    if np.count_nonzero(crosses & (at > 0)) % 2:
        return 0.0
    dx, dy = x2 - x, y2 - y
    length = np.maximum(dx**2 + dy**2, 1e-300)
    t = np.clip(-(x * dx + y * dy) / length, 0, 1)
    gap = np.hypot(x + t * dx, y + t * dy).min()
    return float(np.degrees(np.arctan(np.radians(gap))) * 3600) if gap > 1e-9 else 0.0


def truth_dataset(campaign: Campaign) -> ds.Dataset:
    """Open the truth tables of a campaign.

    Parameters
    ----------
    campaign : Campaign

    Returns
    -------
    pyarrow.dataset.Dataset

    Raises
    ------
    CampaignError
        If they are not there.
    """
    folder = campaign.layout.truth
    if not folder.is_dir() or next(folder.rglob("*.parquet"), None) is None:
        raise CampaignError(
            "there are no truth tables: they are written at the end of a run", path=folder, fix="Run: skygraft run"
        )
    return ds.dataset(folder, format="parquet", partitioning="hive")


def rows_of_source(campaign: Campaign, injection_id: int | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Find the truth rows of a source, those first that were drawn and whose centre is on the image.

    Parameters
    ----------
    campaign : Campaign
    injection_id : int or str
        As in the catalogue.
    columns : sequence of str, optional
        Columns of truth; all by default. ``image_id``, ``stamp_size`` and ``flags`` must be among them.

    Returns
    -------
    pyarrow.Table
        At least one row.

    Raises
    ------
    CampaignError
        If no image has it; the message says which ids there are.
    """
    from skygraft.catalog import Flag

    dataset = truth_dataset(campaign)
    kind = dataset.schema.field("injection_id").type
    try:
        wanted = pa.scalar(injection_id).cast(kind)
    except pa.ArrowInvalid:
        raise ConfigError(
            f"injection id {injection_id!r} is not a whole number; those of this campaign are",
            key="injection_id",
            fix="Give an injection_id of the truth tables",
        ) from None
    rows = dataset.to_table(columns=list(columns) if columns else None, filter=pc.field("injection_id") == wanted)
    if not rows.num_rows:
        ids = pc.min_max(dataset.head(100_000, columns=["injection_id"]).column(0)).as_py()
        raise CampaignError(
            f"no image of the campaign has the source {injection_id}; its tables have sources such as {ids['min']} and "
            f"{ids['max']}",
            path=campaign.layout.truth,
            key="injection_id",
            fix="Give an injection_id of the truth tables; sources that fall on no image are in sources.parquet",
        )
    off = pc.not_equal(pc.bit_wise_and(rows["flags"], int(Flag.CENTER_OFF_IMAGE)), 0)
    drawn = pc.greater(rows["stamp_size"], 0)
    rank = pc.if_else(drawn, pc.if_else(off, 1, 0), 2)
    return rows.take(
        pc.sort_indices(
            pa.table({"rank": rank, "image": rows["image_id"]}),
            sort_keys=[("rank", "ascending"), ("image", "ascending")],
        )
    )
