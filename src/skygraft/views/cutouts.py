"""Square cut-outs of images, and grids of those of fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from skygraft.campaign.pairs import read_injected
from skygraft.campaign.products import ProductLayout
from skygraft.campaign.sweep import product_dataset
from skygraft.catalog import Flag
from skygraft.errors import CampaignError, ConfigError
from skygraft.exposure import Exposure
from skygraft.planning.reading import read_image
from skygraft.records.image_states import ImageRows
from skygraft.records.plan_file import campaign_plan
from skygraft.views.figures import (
    FOUND_COLOR,
    GALAXY_COLOR,
    MISSED_COLOR,
    STAR_COLOR,
    asinh_stretch,
    sky_level,
    styled,
    theme_of,
)
from skygraft.views.places import truth_dataset
from skygraft.wcs import pixel_scale

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["choose_fakes", "cut_square", "cutout_grid", "found_and_missed_figure", "has_recovery", "recovery_dataset"]

RECOVERY = "recovery"
"""Name of the product whose tables say what was found."""
CELL = 1.55
"""Side of a cut-out in a grid, inches."""
_LABEL, _GAP, _HEADING, _TITLE = 0.37, 0.14, 0.32, 0.42
_WHITE = 40.0
_LEAST_PIXELS = 25
_NEEDED = ("image_id", "x", "y")
_LABELS = ("injection_id", "mag", "band", "source_type", "found", "reason")
_LARGEST_HASH = 2**64

type Order = Literal["random", "bright", "faint"]
type Panels = Literal["after", "pair", "triplet"]


def cut_square(pixels: NDArray[Any], x: float, y: float, size: int) -> NDArray[Any]:
    """Cut a square of an array around a position, padded with NaN where it leaves the array.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
    x, y : float
        Position in pixels of the array, centres at integers.
    size : int
        Side of the square, pixels; odd, so that one pixel is in the middle.

    Returns
    -------
    ndarray of float, shape (size, size)
        The position is within half a pixel of the middle.
    """
    half = size // 2
    left, top = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
    found = np.full((size, size), np.nan, dtype=np.result_type(pixels.dtype, np.float32))
    ny, nx = pixels.shape
    x0, x1, y0, y1 = max(left, 0), min(left + size, nx), max(top, 0), min(top + size, ny)
    if x0 < x1 and y0 < y1:
        found[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return found


def has_recovery(campaign: Campaign) -> bool:
    """Whether a campaign has recovery tables.

    Parameters
    ----------
    campaign : Campaign

    Returns
    -------
    bool
    """
    return bool(ProductLayout(campaign.layout.root, RECOVERY).tables())


def recovery_dataset(campaign: Campaign) -> ds.Dataset:
    """Open the recovery tables of a campaign.

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
    if not has_recovery(campaign):
        raise CampaignError(
            "there are no recovery tables, which say what was found",
            path=campaign.layout.root / RECOVERY,
            fix=f"Run: skygraft recover {campaign.layout.config}",
        )
    return product_dataset(campaign, RECOVERY)


def choose_fakes(
    campaign: Campaign,
    n: int = 24,
    *,
    found: bool | None = None,
    order: Order = "random",
    image_id: str | None = None,
    where: pc.Expression | None = None,
    seed: int = 0,
) -> pa.Table:
    """Choose fakes to look at: always the same ones for the same seed.

    Parameters
    ----------
    campaign : Campaign
    n : int
        How many, at most.
    found : bool, optional
        Those that were found, or were missed though they were drawn on good pixels, from the recovery tables; by
        default all that were drawn with their centre on the image, from the truth tables.
    order : {"random", "bright", "faint"}
        A random sample, or the brightest or faintest.
    image_id : str, optional
        Of this image only.
    where : pyarrow.compute.Expression, optional
        A further condition on the columns of that table.
    seed : int
        Of the random sample.

    Returns
    -------
    pyarrow.Table
        With columns ``injection_id``, ``image_id``, ``x``, ``y``, ``mag``, ``band``, ``source_type`` and, if `found`
        is given, ``found`` and ``reason``; sorted by magnitude. It may have no row.

    Raises
    ------
    CampaignError
        If the tables are not there.
    ConfigError
        If there is no such order.
    """
    if order not in ("random", "bright", "faint"):
        raise ConfigError(f"the order is {order!r}", key="order", fix="Give 'random', 'bright' or 'faint'")
    columns = ["injection_id", "image_id", "x", "y", "mag", "band", "source_type"]
    if found is None:
        dataset = truth_dataset(campaign)
        off = pc.bit_wise_and(pc.field("flags"), int(Flag.CENTER_OFF_IMAGE)) != 0
        condition = (pc.field("stamp_size") > 0) & ~off
    else:
        dataset = recovery_dataset(campaign)
        columns += ["found", "reason"]
        condition = pc.field("usable") & (pc.field("found") == found)
    if image_id is not None:
        condition &= pc.field("image_id") == image_id
    if where is not None:
        condition &= where
    best = dataset.schema.empty_table().select(columns).append_column("rank", pa.array([], pa.float64()))
    for batch in dataset.to_batches(columns=columns, filter=condition, batch_size=100_000):
        if batch.num_rows:
            some = pa.Table.from_batches([batch])
            some = some.append_column("rank", pa.array(_ranks(some, order, seed)))
            both = pa.concat_tables([best, some])
            best = both.take(pc.select_k_unstable(both, n, [("rank", "ascending"), *_TIES]))
    return best.sort_by([("mag", "ascending"), *_TIES]).drop_columns(["rank"])


_TIES = [("injection_id", "ascending"), ("image_id", "ascending")]


def _ranks(rows: pa.Table, order: Order, seed: int) -> NDArray[np.float64]:
    """What the first n are chosen by; random ones depend on seed, source and image only, not on the tables' order."""
    if order != "random":
        mags = np.asarray(rows["mag"].to_numpy(), dtype=float)
        return np.where(np.isfinite(mags), mags if order == "bright" else -mags, np.inf)
    import xxhash

    names = zip(rows["injection_id"].to_pylist(), rows["image_id"].to_pylist(), strict=True)
    return np.array([xxhash.xxh64_intdigest(f"{seed} {one} {image}".encode()) / _LARGEST_HASH for one, image in names])


def cutout_grid(
    campaign: Campaign,
    rows: Any,
    *,
    size: float | None = None,
    columns: int = 6,
    panels: Panels = "after",
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw cut-outs of fakes in a grid, each on the asinh scale of its own image's noise.

    Each image is read once, before and after injection, as far as the panels need it.

    Parameters
    ----------
    campaign : Campaign
    rows : pyarrow.Table, Table, DataFrame, mapping of columns or list of mappings
        Fakes, such as rows of recovery or truth tables: ``image_id``, ``x`` and ``y`` (parent pixels) are needed;
        ``mag``, ``band``, ``source_type``, ``found`` and ``reason`` are shown where they are there.
    size : float, optional
        Side of a cut-out, arcsec; by default 10, and 25 pixels at least.
    columns : int
        Cut-outs (or pairs, or triplets) in a line.
    panels : {"after", "pair", "triplet"}
        Of each fake the injected image; or the original beside it; or their difference too.
    title : str
        Above the grid.
    theme : {"light", "dark"}
        Colours around the images.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ConfigError
        If a column is missing, there is no row, or an option is not one of those above.
    CampaignError
        If an image is not in the campaign.
    """
    return _grid(campaign, [("", rows)], size, columns, panels, title, theme)


def found_and_missed_figure(
    campaign: Campaign,
    n: int = 24,
    *,
    order: Order = "random",
    size: float | None = None,
    columns: int = 6,
    panels: Panels = "after",
    image_id: str | None = None,
    title: str = "",
    seed: int = 0,
    theme: str = "light",
) -> Figure:
    """Draw cut-outs of fakes that were found, and below them of fakes that were missed.

    Parameters
    ----------
    campaign : Campaign
    n : int
        How many of each, at most.
    order, image_id, seed
        As for `choose_fakes`.
    size, columns, panels, title, theme
        As for `cutout_grid`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    CampaignError
        If there are no recovery tables.
    ConfigError
        If there is no fake to show, or an option is not one of those that are allowed.
    """
    chosen = [choose_fakes(campaign, n, found=found, order=order, image_id=image_id, seed=seed) for found in _BOTH]
    sections = [(name, rows) for name, rows in zip(("found", "missed"), chosen, strict=True) if rows.num_rows]
    return _grid(campaign, sections, size, columns, panels, title, theme)


_BOTH = (True, False)


def _grid(
    campaign: Campaign,
    sections: Sequence[tuple[str, Any]],
    size: float | None,
    columns: int,
    panels: Panels,
    title: str,
    theme: str,
) -> Figure:
    """Draw sections of fakes, each below its heading."""
    if panels not in _PANELS:
        raise ConfigError(f"panels is {panels!r}", key="panels", fix=f"Give one of {', '.join(_PANELS)}")
    if size is not None and not size > 0:
        raise ConfigError(f"the size is {size} arcsec; it must be positive", key="size", fix="Give arcseconds")
    groups = [(heading, _columns(rows)) for heading, rows in sections]
    counts = [len(fakes["image_id"]) for _, fakes in groups]
    if not sum(counts):
        raise ConfigError("there is no fake to show", key="rows", fix="Give at least one row")
    across = _PANELS[panels]
    columns = max(1, min(columns, max(counts)))
    step, line = across * CELL + _GAP, CELL + _LABEL
    heads = [_HEADING if heading else 0.0 for heading, _ in groups]
    top = _TITLE if title else 0.08
    width = columns * step + 0.1
    height = top + sum(heads) + sum(-(-count // columns) * line for count in counts)
    with styled(theme_of(theme)):
        figure = Figure(figsize=(width, height))
        if title:
            figure.text(0.12 / width, 1 - 0.22 / height, title, fontsize=13, weight="bold", va="center")
        for (heading, fakes), above in zip(groups, heads, strict=True):
            if heading:
                text = f"{heading} ({len(fakes['image_id'])} shown)"
                figure.text(0.12 / width, 1 - (top + 0.15) / height, text, fontsize=11.5, weight="bold", va="center")
            top += above
            for k, cutout in enumerate(_read(campaign, fakes, size, panels)):
                row, column = divmod(k, columns)
                left, low = 0.12 + column * step, height - top - row * line - CELL
                for j, pixels in enumerate(cutout.panels):
                    side = CELL - 0.04
                    box = ((left + j * CELL) / width, low / height, side / width, side / height)
                    _draw(figure.add_axes(box), pixels, cutout, fakes, k, ring=across == 1 or j > 0)
                _label(figure, left / width, (low - 0.03) / height, fakes, k, across, theme)
            top += -(-len(fakes["image_id"]) // columns) * line
    return figure


_PANELS = {"after": 1, "pair": 2, "triplet": 3}


class _Cutout:
    """Panels of one fake, stretched, and how large a ring is on them."""

    def __init__(self, panels: Sequence[NDArray[Any]], radius: float, at: tuple[float, float]) -> None:
        self.panels, self.radius, self.at = panels, radius, at


def _read(campaign: Campaign, fakes: Mapping[str, Any], size: float | None, panels: Panels) -> list[_Cutout]:
    plan = campaign_plan(campaign.layout.plan)
    names = list(dict.fromkeys(fakes["image_id"].tolist()))
    found = dict(zip(names, ImageRows(plan).find(names).tolist(), strict=True))
    for name, row in found.items():
        if row < 0:
            raise CampaignError(f"the campaign has no image {name!r}", path=plan.path, key="image_id")
    cutouts: dict[int, _Cutout] = {}
    for image in plan.images(np.sort(list(found.values()))):
        after = read_injected(campaign.config, image)
        before = read_image(image, campaign.config) if panels != "after" else None
        for k in np.flatnonzero(fakes["image_id"] == image.image_id).tolist():
            cutouts[k] = _cut(before, after, float(fakes["x"][k]), float(fakes["y"][k]), size, panels)
    return [cutouts[k] for k in range(len(fakes["image_id"]))]


def _cut(before: Exposure | None, after: Exposure, x: float, y: float, size: float | None, panels: Panels) -> _Cutout:
    scale = float(pixel_scale(after.wcs, x, y)[0])
    side = max(round((size or 10.0) / scale), 3 if size else _LEAST_PIXELS) | 1
    column, row = x - after.xy0[0], y - after.xy0[1]
    first = after if before is None else before
    level, sigma = sky_level(first.image)
    squares = [cut_square(e.image, column, row, side) for e in (before, after) if e is not None]
    local = squares[0][np.isfinite(squares[0])]
    if local.size:
        # The sky around it, which a gradient or a halo may raise: of the fainter pixels, which a source leaves free.
        level = min(float(np.percentile(local, 15.9)) + sigma, level + 10 * sigma)
    shown = [square - level for square in squares]
    if panels == "triplet":
        shown.append(squares[1] - squares[0])
    stretched = [np.where(np.isfinite(s), asinh_stretch(s, sigma, white=_WHITE), np.nan) for s in shown]
    aperture = after.photo_calib.aperture if after.photo_calib is not None else None
    radius = aperture.radius_pixels if aperture is not None else 0.2 * side
    middle = side // 2
    at = (middle + column - np.floor(column + 0.5), middle + row - np.floor(row + 0.5))
    return _Cutout(stretched, min(radius, 0.42 * side), at)


def _draw(axis: Axes, pixels: NDArray[Any], cutout: _Cutout, fakes: Mapping[str, Any], k: int, *, ring: bool) -> None:
    axis.set_facecolor("#3a4048")  # off the image
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if ring:
        axis.add_patch(Circle(cutout.at, cutout.radius, fill=False, ec=_ring_color(fakes, k), lw=1.0))


def _ring_color(fakes: Mapping[str, Any], k: int) -> str:
    if "found" in fakes:
        return FOUND_COLOR if fakes["found"][k] else MISSED_COLOR
    if "source_type" in fakes:
        return STAR_COLOR if str(fakes["source_type"][k]) == "Star" else GALAXY_COLOR
    return STAR_COLOR


def _label(figure: Figure, x: float, y: float, fakes: Mapping[str, Any], k: int, across: int, theme: str) -> None:
    colours = theme_of(theme)
    band = str(fakes["band"][k] or "") if "band" in fakes else ""
    mag = f"{band} {float(fakes['mag'][k]):.2f}".strip() if "mag" in fakes else ""
    kind = str(fakes["source_type"][k]) if "source_type" in fakes else ""
    name = f"id {fakes['injection_id'][k]}" if "injection_id" in fakes else ""
    reason = str(fakes["reason"][k] or "") if "reason" in fakes else ""
    figure.text(x, y, _short(f"{mag}  {kind}", 22 * across), fontsize=8.5, va="top")
    second = ", ".join(word for word in (reason, name) if word)
    figure.text(x, y - 0.165 / figure.get_figheight(), _short(second, 25 * across), fontsize=7.5, va="top",
                color=colours.muted)  # fmt: skip


def _short(text: str, most: int) -> str:
    text = " ".join(text.split(" ")).strip()
    return text if len(text) <= most else text[: most - 1] + "…"


def _columns(rows: Any) -> dict[str, NDArray[Any]]:
    """The columns of a table of any kind that a grid shows, as arrays."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        rows = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.schema.names}
    elif isinstance(rows, Sequence):
        names = list(dict.fromkeys(name for row in rows for name in row))
        rows = {name: np.array([row.get(name) for row in rows], dtype=object) for name in names}
        rows = rows or {name: np.zeros(0) for name in _NEEDED}
    there = list(rows.keys()) if hasattr(rows, "keys") else list(rows.columns)
    missing = [name for name in _NEEDED if name not in there]
    if missing:
        raise ConfigError(
            f"the rows have no column {', '.join(missing)}; they have {', '.join(map(str, there)) or 'none'}",
            key="rows",
            fix="Give rows of the recovery or truth tables",
        )
    taken = {name: np.asarray(rows[name]) for name in (*_NEEDED, *_LABELS) if name in there}
    taken["image_id"] = taken["image_id"].astype(str)
    return taken
