"""Commands on campaigns: plan, run, status, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import command, emit_json, err_console, out_console, progress_bar, show_rows

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["register"]

Config = Annotated[Path, typer.Argument(help="The campaign's YAML file.", show_default=False)]
_PICTURES = (".png", ".pdf", ".svg", ".jpg")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _open(path: Path) -> Campaign:
    from skygraft.campaign import Campaign

    return Campaign.from_yaml(path)


@command
def plan(config: Config, json: Json = False) -> None:
    """Work out what a campaign would do and what it would cost; no image is made.

    The exit code is 1 if an image cannot be used or something will go wrong.

    Example:  skygraft plan skygraft-demo/campaign.yaml
    """
    campaign = _open(config)
    with err_console().status("planning"):
        summary = campaign.plan()
    if json:
        emit_json(summary.to_dict())
    else:
        show_rows(summary.rows(), f"plan of {summary.name}")
    if summary.n_unusable or summary.problems:
        raise typer.Exit(1)


@command
def run(
    config: Config,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes on this machine; 0 does without Dask. One per core by default.", show_default=False
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a running Dask scheduler, such as tcp://host:8786.", show_default=False),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Make images again whose inputs or settings changed.")] = False,
    json: Json = False,
) -> None:
    """Make every image of a campaign that is not done yet; run it again to resume.

    Images that failed before are tried again. The exit code is 1 if any image is not done at the end.

    Example:  skygraft run skygraft-demo/campaign.yaml --workers 2
    """
    from skygraft.campaign import Campaign, RichReporter
    from skygraft.errors import ConfigError

    campaign = _open(config)
    if scheduler is not None:
        from skygraft.campaign.config import ClusterConfig

        if workers is not None:
            raise ConfigError("--workers is of a cluster on this machine; --scheduler names one that has its workers")
        if "://" not in scheduler:
            raise ConfigError(
                f"{scheduler!r} is not the address of a Dask scheduler", fix="Give it like tcp://host:8786"
            )
        cluster = ClusterConfig(kind="scheduler", address=scheduler)
        campaign = Campaign(campaign.config.model_copy(update={"cluster": cluster}))
    summary = campaign.run(n_workers=workers, redo=redo, reporter=RichReporter(err_console()))
    if json:
        emit_json(summary.to_dict())
    else:
        typer.echo(str(summary))
        typer.echo(f"outputs in {summary.output}")
    if not summary.ok:
        raise typer.Exit(130 if summary.interrupted else 1)


@command
def status(config: Config, json: Json = False) -> None:
    """Show how far a campaign is, and what failed.

    The exit code is 1 if an image failed or cannot be used.

    Example:  skygraft status skygraft-demo/campaign.yaml
    """
    found = _open(config).status()
    if json:
        emit_json(found.to_dict())
    else:
        typer.echo(str(found))
        for failure in found.failures[:20]:
            typer.echo(f"  {failure.image_id}: {failure.error}: {failure.message}")
        if len(found.failures) > 20:
            typer.echo(f"  ... and {len(found.failures) - 20} more, in {Path(found.output) / 'failures.parquet'}")
    if found.n_failed or found.n_unusable:
        raise typer.Exit(1)


@command
def verify(
    config: Config,
    aperture: Annotated[
        str | None,
        typer.Option(
            help="Measure in this radius, where images are not calibrated to an aperture.", show_default=False
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw residual against magnitude.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Measure the injected stars on what a campaign wrote, against what was asked for.

    Isolated stars are measured inside the calibration aperture on the difference of each image and its original. The
    exit code is 1 if the median of a band is off by more than a millimagnitude and four standard errors.

    Example:  skygraft verify skygraft-demo/campaign.yaml --plot closure.png
    """
    import numpy as np

    from skygraft.qa.closure import summarize_closure
    from skygraft.qa.verify import finished_images, verify_campaign

    campaign = _open(config)
    if plot is not None:
        _check_plot(plot)
    with progress_bar("measuring", len(finished_images(campaign))) as advance:
        table = verify_campaign(campaign, aperture=aperture, progress=lambda _: advance(1))
    bands = np.asarray(table["band"]).astype(str) if len(table) else np.zeros(0, dtype=str)
    names = sorted({str(image["band"]) for image in table.meta["images"]})
    summaries = {band: summarize_closure(table[bands == band]) for band in names}
    if plot is not None:
        from skygraft.qa.plots import closure_figure, save_figure

        save_figure(closure_figure(table), plot)
    if json:
        emit_json({"bands": {b: s.to_dict() for b, s in summaries.items()}, "images": table.meta["images"]})
    else:
        from skygraft.qa.tables import closure_table

        title = "recovered - injected magnitude, in the calibration aperture"
        out_console().print(closure_table(summaries, title))
    if not all(summary.ok for summary in summaries.values()):
        raise typer.Exit(1)


def _check_plot(path: Path) -> None:
    """Refuse, before anything is measured, a picture that cannot be drawn."""
    from skygraft.errors import OutputError

    if path.suffix not in _PICTURES:
        raise OutputError(f"a plot is one of {', '.join(_PICTURES)}", path=path, fix="Change its ending")
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a directory" if path.is_dir() else f"there is no directory {str(path.parent)!r}"
        raise OutputError(f"the plot cannot be written: {what}", path=path, fix="Name a file in one that is there")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (plan, run, status, verify):
        app.command(rich_help_panel="Campaigns")(function)
