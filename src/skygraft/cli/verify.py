"""The command ``verify``: check outputs against originals, sources and records, or compare checksums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import (
    Config,
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
from skygraft.cli.placing import Scheduler, Workers, placed, role
from skygraft.errors import ConfigError
from skygraft.place_names import shown_place

if TYPE_CHECKING:
    from skygraft.campaign import Campaign
    from skygraft.qa.verify import Verification

__all__ = ["verify"]

_SHOWN = 20


@command
def verify(
    config: Config,
    aperture: Annotated[
        str | None,
        typer.Option(
            help="Radius to measure closure in, if images are not calibrated to an aperture.", show_default=False
        ),
    ] = None,
    plot: Plot = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Number of images to check, from all instruments and bands; always the same.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Check every image that is done.")] = False,
    checksums: Annotated[
        bool,
        typer.Option(
            "--checksums",
            help="Instead, compare nothing but the checksums of all outputs (images, truth, records, tables).",
        ),
    ] = False,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="With --checksums: discard damaged outputs, so that the next run redoes them."),
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Begin again, instead of continuing a verification that was interrupted.")
    ] = False,
    workers: Workers = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Work on this cluster (as for run) instead of on this machine.", show_default=False),
    ] = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Check a campaign's outputs: the light of the fakes, all other pixels, masks, records, truth, tables, checksums.

    Each image is compared with its original and with its sources, drawn again. The verdict on each check is printed; of
    closure, the magnitudes of isolated stars in the calibration aperture, that of each band, too. A check of which the
    images hold too few stars to see a mistake says so. The exit code is 1 if a check fails, or closure has too few
    stars; with --checksums, if an output has changed.

    The folder verification of the campaign's output gets a table with a row for each image and check. After Ctrl-C, the
    same command continues; after the end, it checks again.

    Example:  skygraft verify skygraft-demo/campaign.yaml --plot closure.png
    Example:  skygraft verify campaign.yaml --all --cluster slurm --workers 50
    Example:  skygraft verify campaign.yaml --checksums
    """
    campaign = open_campaign(config)
    if checksums:
        if plot is not None or aperture is not None:
            raise ConfigError("--checksums measures nothing", key="checksums", fix="Leave --plot and --aperture out")
        _read_all(campaign, cluster, scheduler, workers, discard=discard, json=json)
        return
    if discard:
        raise ConfigError("--discard is of --checksums only", key="discard", fix="Add --checksums, or leave it out")
    if plot is not None:
        check_plot(plot)
    number = None if everything else sample
    _check(campaign, aperture, plot, number, cluster, scheduler, workers, redo=redo, json=json)


def _check(
    campaign: Campaign,
    aperture: str | None,
    plot: Path | None,
    sample: int | None,
    cluster: str | None,
    scheduler: str | None,
    workers: int | None,
    *,
    redo: bool,
    json: bool,
) -> None:
    from skygraft.qa.verify import verify_campaign

    elsewhere = cluster is not None or scheduler is not None
    placed_campaign = placed(campaign, cluster, scheduler, workers)
    with role(placed_campaign) as is_driver:
        if not is_driver:
            return
        with growing_bar("checking") as moved:
            found = verify_campaign(
                placed_campaign,
                aperture=aperture,
                sample=sample,
                cluster=elsewhere,
                n_workers=workers,
                processes=workers or None,
                redo=redo,
                progress=moved,
            )
    if plot is not None:
        from skygraft.qa.plots import closure_figure
        from skygraft.views.figures import save_figure

        save_figure(closure_figure(found.stars), plot)
    if json:
        emit_json(found.to_dict())
    else:
        _show(found)
    if not found.ok:
        raise typer.Exit(1)


def _show(found: Verification) -> None:
    from skygraft.qa.tables import checks_table, closure_table

    if found.bands:
        out_console().print(closure_table(found.bands, "recovered - injected magnitude, in the calibration aperture"))
    print_table(out_console(), checks_table(found.checks, "checks, and the number of images"))
    if found.is_sample:
        of = f"of the {found.n_done:,} images that are done"
        echo(f"checked a sample of {found.n_images:,} {of} (--all checks every one)")
    else:
        what = "the one image that is" if found.n_images == 1 else f"all {found.n_images:,} images that are"
        echo(f"checked {what} done")
    if found.is_sample and any(one.verdict == "too few stars" for one in found.checks):
        echo("more stars: --all, or a larger --sample")
    for row in found.failures[:_SHOWN]:
        where = f"{row['image_id']}: " if row["image_id"] else ""
        echo(f"fails: {row['check']}: {where}{row['note']}")
    if found.n_failures > _SHOWN:
        echo(f"... and {found.n_failures - _SHOWN:,} more")
    echo(f"table in {shown_place(found.output)}")


def _read_all(
    campaign: Campaign,
    cluster: str | None,
    scheduler: str | None,
    workers: int | None,
    *,
    discard: bool,
    json: bool,
) -> None:
    from skygraft.campaign.checksums import discard as discard_damaged

    placed_campaign = placed(campaign, cluster, scheduler, workers)
    with growing_bar("reading") as moved:
        report = placed_campaign.check_checksums(
            cluster=cluster is not None or scheduler is not None,
            n_workers=workers,
            processes=workers or None,
            progress=moved,
        )
    n = discard_damaged(report) if discard else 0
    if json:
        emit_json(report.to_dict() | {"n_discarded": n})
    else:
        echo(str(report))
        if discard and not report.ok:
            echo(f"the records of {n} images were removed: skygraft run makes them, and damaged tables, again")
        elif not report.ok:
            echo("--discard has what is damaged made again by the next skygraft run")
    if not report.ok:
        raise typer.Exit(1)
