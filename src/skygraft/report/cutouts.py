"""Cut-outs of fakes that were found and missed: before, after and difference, as small pictures in the page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import SkygraftError
from skygraft.report.blocks import Block, Cutout, Cutouts, Note
from skygraft.report.recovered import KIND_NAMES, Recovered

if TYPE_CHECKING:
    from skygraft.campaign import Campaign, PlannedImage

__all__ = ["cutout_blocks"]

_EACH = 12
_IMAGES = 3
"""Most images that are read: a large one takes a second."""
_CANDIDATES = 60
_SIDE_ARCSEC = 10.0
_SIDES = (31, 81)
"""Smallest and largest side of a picture, pixels."""
_SCALE, _GAP = 3, 6
_WHITE = 40.0
_CAPTION = f"Before, after, and their difference; {_SIDE_ARCSEC:g} arcsec wide where pixels allow, asinh scale."
_FOUND, _MISSED = (109, 179, 248), (240, 162, 92)
_ONE_KIND = {"Star": "star", "Sersic": "Sérsic galaxy", "BulgeDisk": "bulge + disk galaxy", "Trail": "trail"}


def cutout_blocks(campaign: Campaign, found: Recovered) -> list[Block]:
    """Cut-outs of the faintest fakes that were found and of the brightest that were missed, on a few images.

    Images that cannot be read have notes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from skygraft.views.cutouts import choose_fakes

    blocks: list[Block] = []
    try:
        some = [choose_fakes(campaign, _CANDIDATES, found=is_found) for is_found in (True, False)]
        names = Counter(name for table in some for name in table["image_id"].to_pylist())
        chosen = sorted(names, key=lambda name: (-names[name], name))[:_IMAGES]
        here = pc.field("image_id").isin(chosen)
        tables = [
            choose_fakes(campaign, _EACH, found=True, order="faint", where=here),
            choose_fakes(campaign, _EACH, found=False, order="bright", where=here),
        ]
    except (SkygraftError, OSError, pa.ArrowException) as error:
        return [Note("missing", f"No cut-outs: {error}.")]
    rows = [table.to_pylist() for table in tables]
    squares, problems = _read(campaign, [row for part in rows for row in part])
    places = ", ".join(chosen)
    titles = (f"The faintest that were found, on {places}", f"The brightest that were missed, on {places}")
    for title, part in zip(titles, rows, strict=True):
        items = [_cutout(row, squares[_key(row)]) for row in part if _key(row) in squares]
        if items:
            blocks.append(Cutouts(title, tuple(items), _CAPTION))
    blocks += [Note("warning", f"No cut-outs of {name}: {why}") for name, why in problems.items()]
    return blocks


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return str(row["image_id"]), int(row["injection_id"])


def _read(
    campaign: Campaign, rows: list[dict[str, Any]]
) -> tuple[dict[tuple[str, int], NDArray[np.uint8]], dict[str, str]]:
    """The picture of each fake, and images that cannot be read."""
    from skygraft.records.plan_file import campaign_plan

    wanted = {str(row["image_id"]) for row in rows}
    plan = campaign_plan(campaign.layout.plan)
    ids = plan.table(["image_id"])["image_id"].to_pylist()
    pictures: dict[tuple[str, int], NDArray[np.uint8]] = {}
    problems: dict[str, str] = {}
    for image in plan.images([i for i, name in enumerate(ids) if name in wanted]):
        try:
            mine = [row for row in rows if row["image_id"] == image.image_id]
            pictures |= _pictures(campaign, image, mine)
        except (SkygraftError, OSError) as error:
            problems[image.image_id] = str(error)
    return pictures, problems


def _pictures(
    campaign: Campaign, image: PlannedImage, rows: list[dict[str, Any]]
) -> dict[tuple[str, int], NDArray[np.uint8]]:
    from skygraft.formats import read_exposure
    from skygraft.planning.reading import read_image
    from skygraft.views.cutouts import cut_square
    from skygraft.views.figures import asinh_stretch, sky_level
    from skygraft.wcs import pixel_scale

    before = read_image(image, campaign.config)
    after = read_exposure(campaign.layout.images / image.output, format=image.format, **image.format_options())
    level, sigma = sky_level(before.image)
    found = {}
    for row in rows:
        scale = float(np.ravel(pixel_scale(before.wcs, row["x"], row["y"]))[0])
        side = int(np.clip(round(_SIDE_ARCSEC / scale), *_SIDES)) | 1
        place = row["x"] - before.xy0[0], row["y"] - before.xy0[1]
        first, second = (cut_square(one.image, *place, side) for one in (before, after))
        # The sky here, unless a bright source fills the picture.
        local = first[np.isfinite(first)]
        here = min(float(np.median(local)), level + 10 * sigma) if local.size else level
        shown = (first - here, second - here, second - first)
        found[_key(row)] = _join(
            [_grey(asinh_stretch(one, sigma, white=_WHITE), np.isfinite(one)) for one in shown],
            _FOUND if row["found"] else _MISSED,
        )
    return found


def _grey(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grey pixels, north not necessarily up, first row at the bottom; pixels off the image have a tint."""
    grey = np.repeat(np.rint(255 * values)[..., None], 3, axis=2)
    grey[~good] = (70, 60, 60)
    return np.asarray(grey[::-1].repeat(_SCALE, 0).repeat(_SCALE, 1), dtype=np.uint8)


def _join(panels: list[NDArray[np.uint8]], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Panels side by side, with ticks that point to the middle of each."""
    side = panels[0].shape[0]
    middle, inner, outer = side // 2, max(5 * _SCALE, side // 8), max(9 * _SCALE, side // 5)
    width = len(panels) * side + (len(panels) - 1) * _GAP
    joined = np.zeros((side, width, 4), dtype=np.uint8)
    for i, panel in enumerate(panels):
        marked = panel.copy()
        marked[middle - 1 : middle + 1, middle + inner : middle + outer] = colour
        marked[middle + inner : middle + outer, middle - 1 : middle + 1] = colour
        start = i * (side + _GAP)
        joined[:, start : start + side, :3] = marked
        joined[:, start : start + side, 3] = 255
    return joined


def _cutout(row: dict[str, Any], picture: NDArray[np.uint8]) -> Cutout:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", metadata=cast("Any", {"Software": None}))
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    kind = str(row["source_type"] or "")
    band = f" in {row['band']}" if row["band"] else ""
    what = _ONE_KIND.get(kind, KIND_NAMES.get(kind, kind) or "fake")
    fate = "found" if row["found"] else f"missed: {row['reason'] or 'unknown reason'}"
    alt = (
        f"Before, after and difference around {what} {row['injection_id']} of magnitude {row['mag']:.2f}{band}, {fate}."
    )
    caption = f"{what}, {row['mag']:.2f}{band}" + ("" if row["found"] else f" · {row['reason'] or 'unknown reason'}")
    return Cutout(uri, alt, caption, picture.shape[1], picture.shape[0])
