"""The command ``aperture``: whether images' zeropoints belong to the radius that their records state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import (
    Json,
    Plot,
    check_plot,
    command,
    echo,
    emit_json,
    growing_bar,
    open_campaign,
    out_console,
    print_table,
)
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
from skygraft.cli.placing import Cluster, Sample, Scheduler, Workers, placed, role, workers_of
from skygraft.errors import ApertureConflictError, ConfigError
from skygraft.place_names import shown_place

if TYPE_CHECKING:
    from skygraft.exposure import Exposure
    from skygraft.qa.aperture_check import ApertureCheck

__all__ = ["aperture"]

_CAMPAIGNS = (".yaml", ".yml")
_COLOURS = {"fits": "green", "does not fit": "red", "cannot tell": "yellow"}
_SHOWN = 20
_KINDS = {
    "reference": "stars of known magnitude",
    "pipeline": "the pipeline's fluxes, measured again",
    "column": "the catalogue's columns",
    "correction": "aperture correction, with stars",
    "model": "aperture correction, with the PSF model",
}


@command
def aperture(
    path: Annotated[
        Path, typer.Argument(help="An image, or a campaign's YAML file (.yaml).", show_default=False, metavar="PATH")
    ],
    aperture: Annotated[
        str | None,
        typer.Option(
            help="What to judge, instead of what the image records: '12 pix', '2 arcsec', psf_model or total.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Catalogue of stars of known AB magnitude in the band of the image.", show_default=False),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of --reference, if they are not found by name: ra=NAME, dec=NAME, mag=NAME, mag_error=NAME; "
            "may be repeated. 'MAG_APER[0]' is the first of a column of vectors.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=1, help="Offset of the reference magnitudes that is put down to other causes, mag."),
    ] = 0.01,
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="The pipeline's source catalogue of an image; by default the one beside it.", show_default=False
        ),
    ] = None,
    stars: Annotated[int, typer.Option(min=5, help="Largest number of stars of an image, the brightest.")] = 200,
    plot: Plot = None,
    format: FormatName = "auto",
    psf: Psf = None,
    zeropoint: Zeropoint = None,
    hdu: Hdu = None,
    ccds: Ccds = None,
    option: Option = None,
    allow_pickle: AllowPickle = False,
    sample: Sample = None,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    redo: Annotated[bool, typer.Option("--redo", help="Measure again what was measured before.")] = False,
    json: Json = False,
) -> None:
    """Judge whether the zeropoint of an image belongs to the calibration radius that is stated.

    The flux of bright, isolated stars is measured against the radius, and compared with what tells: stars of known
    magnitude (--reference), fluxes that the pipeline calibrated with (its source catalogue), or its aperture
    corrections. Without any of these the verdict is 'cannot tell': the shape of a curve of growth says nothing of a
    zeropoint. The exit code is 1 if an image does not fit, or cannot be measured.

    Of a campaign, --sample, --workers, --cluster, --scheduler and --redo say which images are measured, and where; the
    folder apertures of its output gets a table with a row for each image.

    Example:  skygraft aperture skygraft-demo/survey/calexp-1002-0.fits --plot growth.png
    Example:  skygraft aperture campaign.yaml --reference gaia_r.parquet --columns mag=r_synthetic
    Example:  skygraft aperture campaign.yaml --sample 100 --workers 8
    """
    if plot is not None:
        check_plot(plot)
    named = _column_map(columns)
    if named and reference is None:
        raise ConfigError("--columns is of --reference", key="columns", fix="Give --reference, or leave it out")
    if path.suffix.lower() in _CAMPAIGNS:
        _refuse(
            "an image", catalog=catalog, psf=psf, zeropoint=zeropoint, hdu=hdu, ccds=ccds, option=option,
            allow_pickle=allow_pickle or None, format=None if format == "auto" else format,
        )  # fmt: skip
        settings = (aperture, reference, named, tolerance, stars)
        _campaign(path, settings, plot, sample, (cluster, scheduler, workers), redo=redo, json=json)
        return
    _refuse("a campaign", sample=sample, workers=workers, cluster=cluster, scheduler=scheduler, redo=redo or None)
    options = format_options(option, ccds, allow_pickle)
    exposure, stated = _exposure(path, aperture, (format, psf, zeropoint, hdu), options)
    _image(exposure, stated, catalog, reference, named, tolerance, stars, plot, json=json)


def _refuse(of: str, **given: Any) -> None:
    """Raise for options that are of an image (or of a campaign) only."""
    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is of {of} only", key=option, fix="Leave it out")


def _column_map(columns: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in ",".join(columns or ()).split(","):
        if not text.strip():
            continue
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise ConfigError(f"--columns {text}: WHAT=NAME is needed", key="columns", fix="Such as mag=phot_r_mean")
        found[name.strip()] = value.strip()
    return found


def _exposure(
    path: Path, aperture: str | None, given: tuple[str, str | None, float | None, str | None], options: dict[str, Any]
) -> tuple[Exposure, Any]:
    """Read an image, and what to judge; the radius given may contradict the one recorded: that is the question."""
    from skygraft.photometry import CalibrationAperture, parse_radius
    from skygraft.qa.aperture_campaign import stated_reference
    from skygraft.wcs import pixel_scale

    format, psf, zeropoint, hdu = given
    if aperture is None:
        return read_image(path, format, None, psf, zeropoint, hdu, options), None
    parse_radius(aperture)
    try:
        exposure = read_image(path, format, None, psf, zeropoint, hdu, options)
    except ApertureConflictError:
        exposure = read_image(path, format, aperture, psf, zeropoint, hdu, options)
    scale = float(pixel_scale(exposure.wcs, *exposure.box.center)[0])
    stated = stated_reference(aperture, scale)
    if isinstance(stated, CalibrationAperture):
        stated = CalibrationAperture(stated.radius_pixels, stated.radius_arcsec, "--aperture", stated.unit)
    return exposure, stated


def _image(
    exposure: Exposure,
    stated: Any,
    catalog: Path | None,
    reference: Path | None,
    columns: dict[str, str],
    tolerance: float,
    stars: int,
    plot: Path | None,
    *,
    json: bool,
) -> None:
    from skygraft.qa.aperture_check import check_aperture
    from skygraft.qa.aperture_standards import read_reference

    known = None if reference is None else read_reference(reference, exposure.data_id.band, columns)
    check = check_aperture(
        exposure,
        stated=stated,
        catalog=True if catalog is None else catalog,
        reference=known,
        tolerances={"reference": tolerance},
        largest=stars,
    )
    if plot is not None:
        from skygraft.qa.aperture_plot import aperture_figure
        from skygraft.views import save_figure

        save_figure(aperture_figure(check), plot)
    if json:
        emit_json(check.to_dict())
    else:
        _show(check)
    if check.verdict == "does not fit":
        raise typer.Exit(1)


def _show(check: ApertureCheck) -> None:
    from rich.markup import escape

    from skygraft.printable import printable

    console = out_console()
    console.print(f"[bold]{escape(printable(check.image_id))}[/]: [{_COLOURS[check.verdict]}]{check.verdict}[/]")
    stated = check.stated
    what = "nothing" if stated["kind"] is None else stated["kind"]
    if stated["radius_pixels"] is not None:
        what = f"{stated['radius_pixels']:.5g} pix" + _arcsec(stated["radius_pixels"], check)
    echo(f"  stated     {what}{f' ({stated["origin"]})' if stated['origin'] else ''}")
    for one in check.evidence:
        echo(f"  {_KINDS[one.kind]} ({one.origin}, {one.fit.n}): {one.fit.verdict}")
        if math.isfinite(one.fit.radius):
            low, high = (f"{r:.1f}" if math.isfinite(r) else "..." for r in (one.fit.radius_low, one.fit.radius_high))
            error = f" ± {one.fit.radius_error:.2f}" if math.isfinite(one.fit.radius_error) else ""
            sky = _arcsec(one.fit.radius, check)
            echo(f"    would fit  {one.fit.radius:.2f}{error} pix{sky}; {low} to {high} allowed")
        echo(f"    {one.fit.reason}")
    left_out = ", ".join(f"{n} {name}" for name, n in check.left_out.items() if n)
    echo(f"  stars      {check.n_stars} bright and isolated{f' (left out: {left_out})' if left_out else ''}")
    echo(f"  {check.verdict}: {check.reason}")
    for note in check.notes:
        echo(f"  note       {note}")


def _arcsec(pixels: float, check: ApertureCheck) -> str:
    return f" = {pixels * check.pixel_scale:.2f} arcsec" if math.isfinite(check.pixel_scale) else ""


def _campaign(
    path: Path,
    given: tuple[str | None, Path | None, dict[str, str], float, int],
    plot: Path | None,
    sample: int | None,
    where: tuple[str | None, str | None, int | None],
    *,
    redo: bool,
    json: bool,
) -> None:
    from dataclasses import asdict

    from skygraft.campaign.finished import sample_rows
    from skygraft.campaign.sweep import product_dataset, sweep
    from skygraft.qa.aperture_campaign import PRODUCT, settings_of, summarize_apertures

    stated, reference, columns, tolerance, stars = given
    settings = settings_of(stated=stated, reference=reference, columns=columns, tolerance=tolerance, largest=stars)
    campaign = placed(open_campaign(path), *where)
    with role(campaign) as is_driver:
        if not is_driver:
            return
        with growing_bar("measuring") as moved:
            chosen = None if sample is None else sample_rows(campaign, sample)[0]
            done = sweep(
                campaign, PRODUCT, settings, rows=chosen, **workers_of(campaign, *where), redo=redo, progress=moved
            )
    rows = product_dataset(campaign, PRODUCT.name).to_table().to_pylist() if done.n_images > done.n_failed else []
    rows.sort(key=lambda row: str(row["image_id"]))
    summaries = summarize_apertures(rows)
    if plot is not None and rows:
        from skygraft.qa.aperture_plot import campaign_figure
        from skygraft.views import save_figure

        save_figure(campaign_figure(rows), plot)
    if json:
        emit_json({"groups": [asdict(s) for s in summaries], "images": rows, "sweep": done.to_dict()})
    else:
        _show_campaign(summaries, rows, done)
    if done.failed or not all(summary.ok for summary in summaries):
        raise typer.Exit(1)


def _show_campaign(summaries: list[Any], rows: list[dict[str, Any]], done: Any) -> None:
    if summaries:
        _show_summaries(summaries)
    for verdict in ("does not fit", "cannot tell"):
        own = [row for row in rows if row["verdict"] == verdict]
        for row in own[:_SHOWN]:
            echo(f"{verdict}: {row['image_id']}: {row['reason']}")
        if len(own) > _SHOWN:
            echo(f"... and {len(own) - _SHOWN:,} more that {verdict}, all of them with --json")
    echo(str(done))
    echo(f"table in {shown_place(done.output)}")


def _show_summaries(summaries: list[Any]) -> None:
    from rich.table import Table

    table = Table(title="does the zeropoint belong to the stated radius?", title_justify="left")
    for name in (
        "instrument",
        "band",
        "images",
        "stated",
        "radius that fits (pix)",
        "fit",
        "do not fit",
        "cannot tell",
    ):
        table.add_column(name, justify="left" if name in ("instrument", "band", "stated") else "right")
    for one in summaries:
        radius = f"{one.radius:.2f} ± {one.radius_error:.2f}" if math.isfinite(one.radius) else "-"
        wrong = f"[red]{one.n_wrong}[/]" if one.n_wrong else "0"
        numbers = (str(one.n_images), one.stated, radius, str(one.n_fit), wrong, str(one.n_unknown))
        table.add_row(one.instrument, one.band, *numbers)
    print_table(out_console(), table)
