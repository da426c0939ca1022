"""What a picture shows: an image before and after injection, its truth, and the part of it that is looked at."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_injected, read_truth, record_of
from skygraft.errors import CampaignError, ConfigError
from skygraft.exposure import Exposure
from skygraft.planning.reading import read_image
from skygraft.records.plan_file import PlannedImage
from skygraft.views.places import as_campaign, done_images, image_by_id, images_at, rows_of_source
from skygraft.views.triplets import Cutout, best_cutout
from skygraft.wcs import pixel_scale

__all__ = ["Scene", "find_scene", "scene_of", "square_around"]

_SIDE = 560
"""Side of the part with most sources, pixels."""
_ARCSEC = 30.0
"""Side of the part around a place, arcsec."""


@dataclass(frozen=True)
class Scene:
    """An image before and after injection, and the part of it that is looked at.

    Parameters
    ----------
    before, after : Exposure
        The image without and with the sources.
    truth : QTable or None
        Its truth table.
    cutout : (int, int, int, int)
        First column and row (parent pixels), width and height of the part.
    title : str
        What it shows, in words.
    """

    before: Exposure
    after: Exposure
    truth: QTable | None
    cutout: Cutout
    title: str

    @property
    def part(self) -> tuple[slice, slice]:
        """The part as slices of rows and columns of the arrays."""
        (x0, y0), (left, low, width, height) = self.before.xy0, self.cutout
        return slice(low - y0, low - y0 + height), slice(left - x0, left - x0 + width)


def find_scene(
    campaign: Campaign | str | os.PathLike[str],
    *,
    image_id: str | None = None,
    at: tuple[float, float] | None = None,
    injection_id: int | str | None = None,
    size: float | None = None,
    whole: bool = False,
) -> Scene:
    """Read the image of a campaign that shows a place, a source, or most sources.

    Parameters
    ----------
    campaign : Campaign or path-like
        The campaign, its YAML file or its output folder.
    image_id : str, optional
        The image; by default the first that is done, or of those that show the place the one whose centre is nearest.
    at : (float, float), optional
        A place, ICRS degrees.
    injection_id : int or str, optional
        A source: the place is where it is on the image.
    size : float, optional
        Side of the part to look at, arcsec; by default 30 around a place, or the 560 pixels with most sources.
    whole : bool
        Look at the whole image.

    Returns
    -------
    Scene

    Raises
    ------
    CampaignError
        If no image is done, none shows the place or the source, or the campaign has no such image.
    ConfigError
        If a place and a source are both given.
    SkygraftError
        If an image cannot be read.
    """
    campaign = as_campaign(campaign)
    if at is not None and injection_id is not None:
        raise ConfigError("a place and a source are both given", key="at", fix="Give one of them")
    image = image_by_id(campaign, image_id) if image_id is not None else None
    title = ""
    xy: tuple[float, float] | None = None
    if injection_id is not None:
        rows = rows_of_source(campaign, injection_id).to_pylist()
        if image is not None:
            rows = [row for row in rows if row["image_id"] == image.image_id]
            if not rows:
                raise CampaignError(
                    f"the image {image.image_id} does not show the source {injection_id}",
                    path=campaign.layout.truth,
                    key="injection_id",
                    fix="Leave the image out, or give another",
                )
        row = rows[0]
        image = image or image_by_id(campaign, row["image_id"])
        xy = (row["x"], row["y"])
        title = f"{row['source_type']} {injection_id}, {row['band'] or 'mag'} {row['mag']:.2f}"
    elif at is not None:
        image = _image_at(campaign, image, at)
        title = f"({at[0]:.5f}, {at[1]:+.5f})"
    if image is None:
        image = next(iter(done_images(campaign)))
    before, after = read_image(image, campaign.config), read_injected(campaign.config, image)
    truth = read_truth(campaign.layout, image, record_of(campaign.layout, image))
    if at is not None:
        x, y = before.wcs.world_to_pixel_values(*at)
        xy = (float(x), float(y))
    band = f", band {image.band}" if image.band and injection_id is None else ""
    name = f"{campaign.config.name}: {image.image_id}{band}"
    return scene_of(before, after, truth, xy=xy, size=size, whole=whole, title=f"{name}, {title}" if title else name)


def _image_at(campaign: Campaign, image: PlannedImage | None, at: tuple[float, float]) -> PlannedImage:
    there = images_at(campaign, *at)
    if image is None:
        return there[0]
    if image.image_id not in {i.image_id for i in there}:
        raise CampaignError(
            f"the image {image.image_id} does not show the place ({at[0]:.5f}, {at[1]:+.5f})",
            path=campaign.layout.root,
            key="at",
            fix=f"It is on {', '.join(i.image_id for i in there[:3])}",
        )
    return image


def scene_of(
    before: Exposure,
    after: Exposure,
    truth: QTable | None = None,
    *,
    xy: tuple[float, float] | None = None,
    size: float | None = None,
    whole: bool = False,
    title: str = "",
) -> Scene:
    """Choose the part of an image to look at.

    Parameters
    ----------
    before, after : Exposure
        The image without and with the sources.
    truth : QTable, optional
        Its truth table.
    xy : (float, float), optional
        A place, parent pixels.
    size : float, optional
        Side of the part, arcsec; by default 30 around a place, or the 560 pixels with most sources.
    whole : bool
        Look at the whole image.
    title : str
        What it shows.

    Returns
    -------
    Scene

    Raises
    ------
    ConfigError
        If the two images are not of one shape, the place is not on the image, or the size is not positive.
    """
    if before.shape != after.shape or before.xy0 != after.xy0:
        raise ConfigError(
            f"the images before and after injection differ in size: {before.shape} from {before.xy0}, {after.shape} "
            f"from {after.xy0}",
            path=after.path,
            key="before",
            fix="Give the image that was injected into",
        )
    if size is not None and not (np.isfinite(size) and size > 0):
        raise ConfigError(f"the size is {size} arcsec; it must be positive", key="size", fix="Give arcseconds")
    (ny, nx), (x0, y0) = before.shape, before.xy0
    if whole:
        cutout = (x0, y0, nx, ny)
    elif xy is None and truth is not None and len(truth):
        middle = x0 + nx / 2, y0 + ny / 2
        side = _SIDE if size is None else round(size / float(pixel_scale(before.wcs, *middle)[0]))
        cutout = best_cutout(before, truth, max(side, 3))
    else:
        place = xy or (x0 + (nx - 1) / 2, y0 + (ny - 1) / 2)
        cutout = square_around(before, place, _ARCSEC if size is None else size)
    return Scene(before, after, truth, cutout, title)


def square_around(exposure: Exposure, xy: tuple[float, float], size: float) -> Cutout:
    """Return a square around a position, trimmed to the image.

    Parameters
    ----------
    exposure : Exposure
    xy : (float, float)
        The middle, parent pixels.
    size : float
        Side, arcsec.

    Returns
    -------
    (int, int, int, int)
        First column and row (parent pixels), width and height: odd, with the position's pixel in the middle, where
        the edge of the image is not in the way.

    Raises
    ------
    ConfigError
        If the position is not on the image.
    """
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    x, y = xy
    if not (-0.5 <= x - x0 <= nx - 0.5 and -0.5 <= y - y0 <= ny - 0.5):
        raise ConfigError(
            f"the position ({x:.1f}, {y:.1f}) is not on the image, x {x0} to {x0 + nx - 1} and y {y0} to {y0 + ny - 1}",
            path=exposure.path,
            key="at",
            fix="Give a position on the image",
        )
    half = max(round(size / float(pixel_scale(exposure.wcs, x, y)[0])), 3) // 2
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    left, low = max(column - half, x0), max(row - half, y0)
    right, top = min(column + half + 1, x0 + nx), min(row + half + 1, y0 + ny)
    return left, low, right - left, top - low
