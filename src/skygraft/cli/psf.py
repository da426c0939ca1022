"""The sub-app ``skygraft psf``: what concerns an image's point-spread function."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import Json, command, emit_json, fail, out_console, print_table, show_rows
from skygraft.cli.image_options import (
    AllowPickle,
    Ccds,
    FormatName,
    Hdu,
    Option,
    Psf,
    Zeropoint,
    format_options,
    read_image,
)

if TYPE_CHECKING:
    from skygraft.qa.wing_fit import WingFit

__all__ = ["app", "wings"]

app = typer.Typer(no_args_is_help=True, help="Measure the point-spread functions of images.")


class Model(StrEnum):
    """Kind of wings."""

    auto = "auto"
    power_law = "power_law"
    moffat = "moffat"
    profile = "profile"


class Stars(StrEnum):
    """Stars that wings are fitted to."""

    auto = "auto"
    saturated = "saturated"
    bright = "bright"


@app.callback()
def _psf() -> None:
    """Measure the point-spread functions of images."""


@app.command()
@command
def wings(
    image: Annotated[Path, typer.Argument(help="The image file.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Table of the profile, .ecsv or .parquet; plot (.png) and YAML (.yaml) get the same name. By default "
            "IMAGE-wings.ecsv in this folder.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Model, typer.Option(help="Kind of wings in the YAML; auto: the formula that fits, or else the profile.")
    ] = Model.auto,
    stars: Annotated[
        Stars, typer.Option(help="Stars to fit: saturated, the brightest others, or these where there are few.")
    ] = Stars.auto,
    join: Annotated[
        str | None,
        typer.Option(help="Radius at which the wings join the kernel, '15 pix' or '3 arcsec'.", show_default=False),
    ] = None,
    blend: Annotated[
        str | None, typer.Option(help="Width of the zone in which the kernel goes over into them.", show_default=False)
    ] = None,
    outer: Annotated[str | None, typer.Option(help="Largest radius to measure.", show_default=False)] = None,
    min_stars: Annotated[int, typer.Option(min=1, help="Number of stars that are needed.")] = 3,
    flatten: Annotated[bool, typer.Option("--flatten", help="Subtract a plane fitted to the sky first.")] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Write the plot.")] = True,
    format: FormatName = "auto",
    psf: Psf = None,
    zeropoint: Zeropoint = None,
    hdu: Hdu = None,
    ccds: Ccds = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Json = False,
) -> None:
    """Fit the extended wings of an image's PSF to its own saturated or brightest stars.

    Writes the measured profile, a plot, and the section wings for a campaign file, which skygraft inject --wings takes
    as well.

    Example:  skygraft psf wings calexp-1002-0.fits -o wings.ecsv
    """
    from skygraft.disk import atomic_path
    from skygraft.formats.base import refuse_overwrite
    from skygraft.qa.wing_fit import fit_wings
    from skygraft.qa.wing_table import wings_yaml, write_profile

    table = output or Path(f"{image.name.split('.')[0]}-wings.ecsv")
    if table.suffix not in (".ecsv", ".parquet"):
        raise fail(f"{table}: a profile is .ecsv or .parquet", code=2)
    picture, text = table.with_suffix(".png"), table.with_suffix(".yaml")
    outputs = [table, *([picture] if plot else []), text]
    for path in outputs:
        refuse_overwrite(path, [image], overwrite=overwrite)
        if not path.parent.is_dir():
            raise fail(f"{path}: there is no folder {str(path.parent)!r}", code=2)
    exposure = read_image(image, format, None, psf, zeropoint, hdu, format_options(option, ccds, allow_pickle))
    fit = fit_wings(
        exposure,
        model=model.value,
        stars=stars.value,
        join=join,
        blend=blend,
        outer=outer,
        least_stars=min_stars,
        flatten=flatten,
    )
    write_profile(fit, table, image=str(image))
    if plot:
        from skygraft.qa.wing_plot import wing_figure

        with atomic_path(picture) as temporary:
            wing_figure(fit, image.name).savefig(temporary, format="png", dpi=110)
    with atomic_path(text) as temporary:
        temporary.write_text(wings_yaml(fit, image.name), encoding="utf-8")
    if json:
        emit_json({**fit.to_dict(), "outputs": [str(path) for path in outputs]})
    else:
        _show(fit, image, outputs)


def _show(fit: WingFit, image: Path, outputs: list[Path]) -> None:
    from rich.table import Table

    from skygraft.qa.wing_table import wings_yaml

    scale, saturated = fit.pixel_scale, sum(star.saturated for star in fit.stars)
    numbers = ", ".join(
        f"{name} {value:.4g} ± {fit.parameter_errors[name]:.2g}" + (" pixels" if name == "core" else "")
        for name, value in fit.parameters.items()
    )
    kind = "power law" if "alpha" in fit.parameters else "Moffat"
    show_rows(
        [
            ("stars", f"{len(fit.stars)}, {saturated} of them saturated"),
            ("formula", f"{kind}: {numbers}; reduced chi squared of the stack {fit.chi2:.2g}"),
            (
                "join",
                f"{fit.join:.4g} pixels = {fit.join * scale:.3g} arcsec, after a blend of {fit.blend:.4g} pixels",
            ),
            (
                "measured",
                f"{fit.radii[0]:.4g} to {fit.radii[-1]:.4g} pixels, {fit.radii[0] * scale:.3g} to "
                f"{fit.radii[-1] * scale:.3g} arcsec",
            ),
            *[("note", note) for note in fit.notes],
            *[("written", str(path)) for path in outputs],
        ],
        f"Wings of {image.name}",
    )
    shown = Table(box=None, header_style="cyan")
    for name in ("radius (arcsec)", "surface brightness", "error", "fit", "stars"):
        shown.add_column(name, justify="right")
    model = fit.model(fit.radii)
    for k in range(len(fit.radii)):
        shown.add_row(
            f"{fit.radii[k] * scale:.2f}",
            f"{fit.profile[k]:.4g}",
            f"{fit.errors[k]:.2g}",
            f"{model[k]:.4g}",
            str(int(fit.n_stars[k])),
        )
    print_table(out_console(), shown)
    from skygraft.cli.common import echo

    echo(wings_yaml(fit, image.name).rstrip())
