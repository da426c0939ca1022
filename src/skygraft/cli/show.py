"""The command ``show``: pictures, regions and coverage of a campaign or of one image."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from skygraft.cli.common import PICTURES, Json, command, echo, emit_json
from skygraft.cli.showing import WRITERS, Request, View
from skygraft.errors import ConfigError, OutputError, OutputExistsError

__all__ = ["show"]


class Panels(StrEnum):
    """Panels of each fake in a grid."""

    after = "after"
    pair = "pair"
    triplet = "triplet"


class Order(StrEnum):
    """Which fakes a grid shows."""

    random = "random"
    bright = "bright"
    faint = "faint"


class ThemeName(StrEnum):
    """Colours around the images."""

    light = "light"
    dark = "dark"


_SUFFIXES: dict[View, tuple[str, ...]] = {
    View.triplet: PICTURES,
    View.blink: (".gif", ".png"),
    View.grid: PICTURES,
    View.colour: PICTURES,
    View.sky: PICTURES,
    View.regions: (".reg",),
    View.moc: (".fits", ".json", ".txt"),
}
"""Endings of the files of each view; the first is that of the default name."""
_OF_SUFFIX = {".gif": View.blink, ".reg": View.regions, ".fits": View.moc, ".json": View.moc, ".txt": View.moc}
_PLACE, _PICTURE = {"image", "at", "id", "size"}, {"theme", "dpi"}
_OPTIONS: dict[View, set[str]] = {
    View.triplet: _PLACE | _PICTURE | {"whole", "before", "truth"},
    View.blink: _PLACE | {"whole", "before", "truth"},
    View.grid: _PICTURE | {"image", "size", "found", "number", "order", "panels", "seed"},
    View.colour: _PICTURE | {"at", "id", "size", "bands"},
    View.sky: _PICTURE,
    View.regions: {"image", "frame"},
    View.moc: {"moc_order"},
}
"""Options that each view takes."""
_SUFFIXES_OF_CAMPAIGNS = (".yaml", ".yml")


@command
def show(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="CAMPAIGN|IMAGE",
            help="The campaign's YAML file or output folder, or an injected image.",
            show_default=False,
        ),
    ],
    view: Annotated[
        View | None,
        typer.Option(
            help="triplet: before, after, difference. blink: an animation of before and after. grid: cut-outs of "
            "fakes, found and missed. colour: three bands. sky: where images and fakes lie. regions: a DS9 region "
            "file. moc: the footprint. [default: by the ending of --output, or triplet]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .png, .pdf, .svg, .gif (blink), .reg (regions), .fits, .json or .txt (moc). "
            "[default: named by what it shows, in this folder]",
            show_default=False,
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="Id of an image of the campaign.", show_default=False)] = None,
    at: Annotated[
        str | None,
        typer.Option(help="A place: 'RA DEC' in degrees (ICRS), or sexagesimal.", show_default=False),
    ] = None,
    id: Annotated[str | None, typer.Option(help="injection_id of a source.", show_default=False)] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Side of what is shown, such as 20 (arcsec) or '1.5 arcmin'.", show_default=False),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Show the whole image.")] = False,
    found: Annotated[
        bool | None,
        typer.Option("--found/--missed", help="Of a grid: only fakes that were found, or missed.", show_default=False),
    ] = None,
    number: Annotated[
        int | None, typer.Option(min=1, max=600, help="Fakes in a grid. [default: 24]", show_default=False)
    ] = None,
    order: Annotated[
        Order | None,
        typer.Option(help="Which fakes a grid shows. [default: random]", show_default=False),
    ] = None,
    panels: Annotated[
        Panels | None,
        typer.Option(help="Of each fake in a grid. [default: after]", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the random sample of a grid. [default: 0]", show_default=False)
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands of a colour picture, from red to blue: i,r,g.", show_default=False)
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Of regions: icrs or fk5. [default: icrs]", show_default=False)
    ] = None,
    moc_order: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=29,
            help="Order of the smallest cells of the footprint. [default: 12 or more]",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(help="The image before injection, where no campaign injected it.", show_default=False),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Its truth table, as skygraft inject writes it.", show_default=False)
    ] = None,
    theme: Annotated[
        ThemeName | None, typer.Option(help="Colours around the images. [default: light]", show_default=False)
    ] = None,
    dpi: Annotated[
        int | None,
        typer.Option(min=20, max=600, help="Resolution of a picture. [default: 130]", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Show what was injected: pictures before and after, fakes found and missed, colour, regions, footprint.

    Without an option, it draws a triplet of the part of the first image that has most sources. A place (--at) or a
    source (--id) chooses the image that shows it. One file is written, whose ending says what it is.

    Example:  skygraft show skygraft-demo/campaign.yaml --id 11 -o galaxy.png
    Example:  skygraft show campaign.yaml --view grid --missed --order bright -o missed.pdf
    Example:  skygraft show campaign.yaml --at "150.1 2.2" --view colour --bands i,r,g
    Example:  skygraft show campaign.yaml -o fakes.reg
    """
    given = {
        "image": image, "at": at, "id": id, "size": size, "whole": whole or None, "found": found, "number": number,
        "order": order, "panels": panels, "seed": seed, "bands": bands, "frame": frame, "moc_order": moc_order,
        "before": before, "truth": truth, "theme": theme, "dpi": dpi,
    }  # fmt: skip
    chosen = _view_of(view, output)
    _check_options(chosen, given)
    request = Request(chosen, target, output or Path(), given)
    _open(request)
    request.output = output or Path(_default_name(request))
    _check_output(request, overwrite=overwrite)
    WRITERS[chosen](request)
    if json:
        emit_json({"file": str(request.output), "view": str(chosen), **request.notes})
    else:
        echo(str(request.output))


def _view_of(view: View | None, output: Path | None) -> View:
    suffix = "" if output is None else output.suffix.lower()
    chosen = view or _OF_SUFFIX.get(suffix, View.triplet)
    if output is not None and suffix not in _SUFFIXES[chosen]:
        known = suffix in PICTURES or suffix in _OF_SUFFIX
        raise OutputError(
            f"the view {chosen} is not written as {suffix or 'a file without an ending'}; its files end in "
            f"{', '.join(_SUFFIXES[chosen])}",
            path=output,
            fix="Change the ending, or --view" if known else "Change the ending",
        )
    return chosen


def _check_options(view: View, given: dict[str, Any]) -> None:
    names = {name for name, value in given.items() if value is not None}
    if extra := sorted(names - _OPTIONS[view]):
        views = [str(other) for other, options in _OPTIONS.items() if extra[0] in options]
        option = f"--{extra[0].replace('_', '-')}"
        raise ConfigError(
            f"{option} is not an option of the view {view}, but of {', '.join(views)}",
            key=extra[0],
            fix="Leave it out, or give another --view",
        )


def _open(request: Request) -> None:
    from skygraft.views.places import as_campaign, image_by_id, image_of_file

    target = request.target
    if target.is_dir() or target.suffix.lower() in _SUFFIXES_OF_CAMPAIGNS:
        request.campaign = as_campaign(target)
    elif not target.exists():
        raise ConfigError(
            "there is no such file", path=target, fix="Give a campaign's YAML file or output folder, or an image"
        )
    elif (found := image_of_file(target)) is not None:
        if request.get("image") is not None:
            raise ConfigError("an image file and --image are both given", key="image", fix="Leave one of them out")
        request.campaign, request.image = found
        if request.get("before") is not None or request.get("truth") is not None:
            raise ConfigError(
                f"this is an image of the campaign {request.of.config.name}, which knows the image before injection",
                path=target,
                key="before",
                fix="Leave --before and --truth out",
            )
        image_by_id(request.of, request.image.image_id)  # raises if it is not done


def _default_name(request: Request) -> str:
    view, suffix = request.view, _SUFFIXES[request.view][0]
    name = request.campaign.config.name if request.campaign is not None else request.target.stem
    parts = [name, str(view)]
    if view is View.grid and request.get("found") is not None:
        parts.append("found" if request.get("found") else "missed")
    if request.image_id is not None:
        parts.append(request.image_id)
    if request.get("id") is not None and view is not View.grid:
        parts.append(request.get("id"))
    elif request.get("at") is not None:
        parts.append(request.get("at"))
    return "-".join("".join(c if c.isalnum() or c in "._+-" else "_" for c in part) for part in parts) + suffix


def _check_output(request: Request, *, overwrite: bool) -> None:
    """Raise, before anything is read, if the file cannot be written."""
    path = request.output
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {str(path.parent)!r}"
        raise OutputError(f"the file cannot be written: {what}", path=path, fix="Name a file in a folder that is there")
    inputs = [p.resolve() for p in (request.target, request.get("before"), request.get("truth")) if p is not None]
    if path.resolve() in inputs:
        raise OutputExistsError("the file is an input", path=path, fix="Give --output another name")
    if path.exists() and not overwrite:
        raise OutputExistsError("the file exists", path=path, fix="Use --overwrite, or give --output another name")
