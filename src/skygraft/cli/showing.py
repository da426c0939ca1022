"""What the command ``show`` writes: one function for each view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skygraft.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skygraft.campaign import Campaign
    from skygraft.records.plan_file import PlannedImage
    from skygraft.views.scenes import Scene

__all__ = ["WRITERS", "Request", "View"]

_MOC_FORMATS = {".fits": "fits", ".json": "json", ".txt": "ascii"}


class View(StrEnum):
    """What to show."""

    triplet = "triplet"
    blink = "blink"
    grid = "grid"
    colour = "colour"
    sky = "sky"
    regions = "regions"
    moc = "moc"


@dataclass
class Request:
    """What was asked for on the command line."""

    view: View
    target: Path
    output: Path
    given: dict[str, Any]
    campaign: Campaign | None = None
    image: PlannedImage | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value of an option; None where it was not given."""
        return self.given[name]

    @property
    def of(self) -> Campaign:
        """The campaign, which this view needs."""
        if self.campaign is None:
            raise ConfigError(
                f"the view {self.view} is of a campaign, and no campaign wrote this image",
                path=self.target,
                key="view",
                fix="Give the campaign's YAML file, or --view triplet or blink with --before ORIGINAL",
            )
        return self.campaign

    @property
    def image_id(self) -> str | None:
        """The image that was named, by its file or by its id."""
        return self.image.image_id if self.image is not None else self.get("image")


def _place(text: str) -> tuple[float, float]:
    """A place in degrees, from decimal or sexagesimal text."""
    words = text.replace(",", " ").split()
    try:
        if len(words) == 2 and all(word.lstrip("+-").replace(".", "", 1).isdigit() for word in words):
            ra, dec = float(words[0]), float(words[1])
        else:
            from astropy.coordinates import SkyCoord

            place = SkyCoord(text.replace(",", " "), unit=("hourangle", "deg"))
            ra, dec = float(place.ra.deg), float(place.dec.deg)
    except ValueError:
        ra = dec = float("nan")
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        raise ConfigError(
            f"{text!r} is not a place", key="at", fix="Give 'RA DEC' in degrees, or sexagesimal: '10:00:24 +02:12:00'"
        )
    return ra % 360, dec


def _arcsec(text: str | None) -> float | None:
    if text is None:
        return None
    from astropy import units as u

    try:
        value = (
            float(text) if text.strip().replace(".", "", 1).isdigit() else float(u.Quantity(text).to_value(u.arcsec))
        )
    except (TypeError, ValueError, u.UnitConversionError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{text!r} is no size", key="size", fix="Give, for example, 20 (arcsec) or '1.5 arcmin'")
    return value


def _scene(request: Request) -> Scene:
    from skygraft.views.scenes import find_scene

    if request.campaign is None:
        return _scene_of_files(request)
    if request.get("before") is not None or request.get("truth") is not None:
        raise ConfigError("--before and --truth are of an image", key="before", fix="Leave them out")
    scene = find_scene(
        request.campaign,
        image_id=request.image_id,
        at=None if request.get("at") is None else _place(request.get("at")),
        injection_id=request.get("id"),
        size=_arcsec(request.get("size")),
        whole=bool(request.get("whole")),
    )
    request.notes["title"] = scene.title
    return scene


def _scene_of_files(request: Request) -> Scene:
    """A scene of an image that `skygraft inject` wrote."""
    import numpy as np

    from skygraft.catalog.io import read_table
    from skygraft.formats import read_exposure
    from skygraft.views.scenes import scene_of

    if request.get("before") is None:
        raise ConfigError(
            "no campaign wrote this image, so that the one before injection is not known",
            path=request.target,
            key="before",
            fix="Give it with --before, or the campaign's YAML file instead of the image",
        )
    if request.image_id is not None:
        raise ConfigError("--image is of a campaign", key="image", fix="Leave it out")
    first, second = read_exposure(request.get("before")), read_exposure(request.target)
    table: Any = read_table(request.get("truth")) if request.get("truth") is not None else None
    xy: tuple[float, float] | None = None
    if request.get("id") is not None and request.get("at") is not None:
        raise ConfigError("a place and a source are both given", key="at", fix="Give one of them")
    if request.get("id") is not None:
        if table is None:
            raise ConfigError("--id needs the truth table", key="id", fix="Give it with --truth")
        rows = np.flatnonzero(np.asarray(table["injection_id"]).astype(str) == request.get("id"))
        if not rows.size:
            raise ConfigError(
                f"the truth table has no source {request.get('id')}",
                path=request.get("truth"),
                key="id",
                fix="Give another",
            )
        x, y = (float(np.asarray(table[name])[rows[0]]) for name in ("x", "y"))
        xy = (x, y)
    elif request.get("at") is not None:
        at = first.wcs.world_to_pixel_values(*_place(request.get("at")))
        xy = (float(at[0]), float(at[1]))
    title = request.target.name
    return scene_of(
        first, second, table, xy=xy, size=_arcsec(request.get("size")), whole=bool(request.get("whole")), title=title
    )


def _write_triplet(request: Request) -> None:
    from skygraft.views.triplets import triplet_figure

    scene = _scene(request)
    figure = triplet_figure(
        scene.before, scene.after, scene.truth, cutout=scene.cutout, title=scene.title, theme=_theme(request)
    )
    _save(request, figure)


def _write_blink(request: Request) -> None:
    from skygraft.disk import atomic_path
    from skygraft.views.blink import blink_bytes

    content = blink_bytes(_scene(request), "gif" if request.output.suffix.lower() == ".gif" else "png")
    with atomic_path(request.output, make_folder=False) as temporary:
        temporary.write_bytes(content)


def _write_grid(request: Request) -> None:
    from skygraft.views.cutouts import choose_fakes, cutout_grid, found_and_missed_figure, has_recovery

    campaign, n, seed = request.of, request.get("number") or 24, request.get("seed") or 0
    order: Any = str(request.get("order") or "random")
    panels: Any = str(request.get("panels") or "after")
    drawn: dict[str, Any] = {"size": _arcsec(request.get("size")), "panels": panels, "theme": _theme(request)}
    drawn["columns"] = {"after": 6, "pair": 4, "triplet": 2}[panels]
    chosen: dict[str, Any] = {"order": order, "image_id": request.image_id, "seed": seed}
    name = campaign.config.name + (f", {request.image_id}" if request.image_id else "")
    if request.get("found") is None and has_recovery(campaign):
        _save(request, found_and_missed_figure(campaign, n, title=name, **chosen, **drawn))
        return
    rows = choose_fakes(campaign, n, found=request.get("found"), **chosen)
    what = {None: "fakes", True: "found fakes", False: "missed fakes"}[request.get("found")]
    if not rows.num_rows:
        raise ConfigError(
            f"there are no {what} to show",
            path=campaign.layout.root,
            key="found",
            fix="Leave --found or --missed out, or show another image",
        )
    how = {"random": "a random sample", "bright": "the brightest", "faint": "the faintest"}[order]
    request.notes["n"] = rows.num_rows
    _save(request, cutout_grid(campaign, rows, title=f"{name}: {what}, {how}", **drawn))


def _write_colour(request: Request) -> None:
    from skygraft.views.colour import best_place, colour_figure
    from skygraft.views.places import rows_of_source

    campaign = request.of
    if request.get("at") is not None and request.get("id") is not None:
        raise ConfigError("a place and a source are both given", key="at", fix="Give one of them")
    size = _arcsec(request.get("size"))
    options: dict[str, Any] = {} if size is None else {"size": size}
    if request.get("at") is not None:
        place = _place(request.get("at"))
    elif request.get("id") is not None:
        row = rows_of_source(campaign, request.get("id")).to_pylist()[0]
        place = (row["ra"], row["dec"])
    else:
        place = best_place(campaign, **options)
    bands = None if request.get("bands") is None else [band.strip() for band in request.get("bands").split(",")]
    _save(request, colour_figure(campaign, *place, bands=bands, theme=_theme(request), **options))


def _write_sky(request: Request) -> None:
    from skygraft.views.sky import sky_map_figure

    _save(request, sky_map_figure(request.of, theme=_theme(request)))


def _write_regions(request: Request) -> None:
    from skygraft.disk import atomic_path
    from skygraft.views.places import image_by_id
    from skygraft.views.regions import region_text

    image = request.image
    if request.get("image") is not None:
        image = image_by_id(request.of, request.get("image"))
    text = region_text(request.of, image, frame=request.get("frame") or "icrs")
    with atomic_path(request.output, make_folder=False) as temporary:
        temporary.write_text(text, encoding="utf-8")
    request.notes["n"] = sum(" # color=" in line for line in text.splitlines())


def _write_moc(request: Request) -> None:
    from skygraft.disk import atomic_path
    from skygraft.views.moc import footprint_moc

    found = footprint_moc(request.of, request.get("moc_order"))
    format: Any = _MOC_FORMATS[request.output.suffix.lower()]
    with atomic_path(request.output, make_folder=False) as temporary:
        temporary.write_bytes(found.to_bytes(format))
    request.notes |= {"order": found.order, "square_degrees": found.area}


WRITERS: dict[View, Callable[[Request], None]] = {
    View.triplet: _write_triplet,
    View.blink: _write_blink,
    View.grid: _write_grid,
    View.colour: _write_colour,
    View.sky: _write_sky,
    View.regions: _write_regions,
    View.moc: _write_moc,
}


def _theme(request: Request) -> str:
    return str(request.get("theme") or "light")


def _save(request: Request, figure: Figure) -> None:
    from skygraft.views.figures import save_figure

    save_figure(figure, request.output, dpi=request.get("dpi") or 130)
