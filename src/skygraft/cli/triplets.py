"""The command ``triplets``: cut-outs of science image, template and difference for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skygraft.cli.common import Config, Json, command, echo, emit_json, finite, growing_bar, open_campaign
from skygraft.cli.image_options import Option, format_options, psf_of
from skygraft.errors import ConfigError

__all__ = ["triplets"]

_FILES = "Image files as templates"


@command
def triplets(
    config: Config,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write: .h5, .hdf5 or .nc (HDF5), or .zarr.", show_default=False),
    ],
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Images of the same sky and band: a campaign that has been run, or image files or a pattern of them; "
            "may be repeated. [default: each image as it was before injection]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the cut-outs, pixels; odd.")] = 63,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="Table of places of bogus ones: ra and dec (degrees), and optionally image_id, visit or band.",
            show_default=False,
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Bogus ones of each image at random places. [default: as many as real ones; none with --detections]",
            show_default=False,
        ),
    ] = None,
    per_image: Annotated[
        int | None, typer.Option(min=1, help="Most real ones of an image. [default: all]", show_default=False)
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Least signal-to-noise ratio of real ones in the difference, of either sign.",
            show_default=False,
        ),
    ] = None,
    away: Annotated[
        float, typer.Option(callback=finite, help="Least distance of bogus ones from fakes, arcsec.")
    ] = 5.0,
    coverage: Annotated[
        float,
        typer.Option(callback=finite, help="Least part of the pixels that science image and template must have."),
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Of what is chosen at random.")] = 0,
    format: Annotated[str, typer.Option("--format", help="Their format.", rich_help_panel=_FILES)] = "auto",
    aperture: Annotated[
        str | None,
        typer.Option(
            help="What they are calibrated to, if they do not record it: '12 pix', '2 arcsec', psf_model, or total.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    psf: Annotated[
        str | None,
        typer.Option(
            help="Their PSF, instead of their own: a PSFEx file, 'moffat:0.9 arcsec' or 'gaussian:3.5 pix' (FWHM).",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    zeropoint: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="AB magnitude of one image unit, instead of their own.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    option: Option = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write triplets of science image, template and difference for training: real ones at fakes, bogus elsewhere.

    Science images are the campaign's outputs. Templates are brought onto their pixels and flux scale, and each image
    is convolved with the PSF of the other before they are subtracted. Without --template the difference is the image
    less itself before injection, which holds the fakes alone. The exit code is 1 if an image could not be used.

    Example:  skygraft triplets skygraft-demo/campaign.yaml -o triplets.h5
    Example:  skygraft triplets science.yaml --template templates.yaml -o triplets.zarr
    Example:  skygraft triplets science.yaml --template "coadds/*.fits" --detections dia.parquet -o triplets.h5
    """
    from skygraft.views.training import training_triplets
    from skygraft.views.triplet_files import check_output

    check_output(output, overwrite=overwrite)
    campaign = open_campaign(config)
    with growing_bar("images") as moved:
        counts = training_triplets(
            campaign, output, template=_templates(template, format, aperture, psf, zeropoint, option), size=size,
            detections=detections, random=random, per_image=per_image, min_snr=min_snr, away=away, coverage=coverage,
            seed=seed, overwrite=overwrite, progress=moved,
        )  # fmt: skip
    if json:
        emit_json(counts.to_dict())
    else:
        echo(str(counts))
    if not counts.ok:
        raise typer.Exit(1)


def _templates(
    names: list[str] | None,
    format: str,
    aperture: str | None,
    psf: str | None,
    zeropoint: float | None,
    option: list[str] | None,
) -> Any:
    """Open the templates; None for each image before injection."""
    from skygraft.views.template_images import templates_of

    options = format_options(option, None, False)
    if not names:
        if options or format != "auto" or any(given is not None for given in (aperture, psf, zeropoint)):
            raise ConfigError(
                "options of image files are given without a template", key="template", fix="Give --template"
            )
        return None
    return templates_of(
        names, format=format, options=options, aperture=aperture, psf=psf_of(psf), photo_calib=zeropoint
    )
