"""The command ``recover``: detect and measure on a campaign's images, and see which injected sources are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import Config, Json, command, echo, emit_json, finite, growing_bar, open_campaign
from skygraft.cli.placing import Cluster, Sample, Scheduler, Workers, placed, role, workers_of

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["recover"]


@command
def recover(
    config: Config,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Detection threshold in standard deviations of the sky in a pixel (Source Extractor's DETECT_THRESH); "
            "by default that of the configuration, or 1.5.",
            show_default=False,
        ),
    ] = None,
    min_area: Annotated[
        int | None,
        typer.Option(
            help="Connected pixels above the threshold that make a detection; by default that of the configuration, or "
            "5.",
            show_default=False,
        ),
    ] = None,
    match_radius: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Largest distance between an injected source and its detection, arcsec; by default that of the "
            "configuration, or three quarters of the expected FWHM.",
            show_default=False,
        ),
    ] = None,
    sample: Sample = None,
    redo: Annotated[bool, typer.Option("--redo", help="Measure again what was measured before.")] = False,
    check_catalogs: Annotated[
        bool,
        typer.Option(
            "--check-catalogs",
            help="Only look at the catalogues that the configuration names (recovery: catalogs:), of a few images: "
            "what they are taken for, and which rows are left out.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Detect and measure sources before and after injection, and find out which of the injected ones are recovered.

    The result is a table with one row per injected source and image, in the folder recovery of the campaign's output.
    What was measured before with the same settings is not measured again; after Ctrl-C, run it again to continue. The
    section recovery of the configuration has more settings. The exit code is 1 if an image could not be measured.

    Example:  skygraft recover skygraft-demo/campaign.yaml
    Example:  skygraft recover campaign.yaml --threshold 1.2 --sample 50
    Example:  skygraft recover campaign.yaml --check-catalogs
    Example:  skygraft recover campaign.yaml --cluster slurm --workers 100
    """
    from skygraft.recovery.recover import recover as recover_campaign

    campaign = placed(open_campaign(config), cluster, scheduler, workers)
    if check_catalogs:
        _look(campaign, sample, json)
        return
    with role(campaign) as is_driver:
        if not is_driver:
            return
        with growing_bar("measuring") as moved:
            summary = recover_campaign(
                campaign,
                {"threshold": threshold, "min_area": min_area, "match_radius": match_radius},
                sample=sample,
                **workers_of(campaign, cluster, scheduler, workers),
                redo=redo,
                progress=moved,
            )
    if json:
        emit_json(summary.to_dict())
    else:
        echo(str(summary))
        if summary.n:
            echo(f"next: skygraft report {config}")
    if not summary.ok:
        raise typer.Exit(1)


def _look(campaign: Campaign, sample: int | None, json: bool) -> None:
    """Print what the catalogues of a few images are; the exit code is 1 if one cannot be read."""
    from skygraft.recovery.catalogs_check import look_at_catalogs

    looks = look_at_catalogs(campaign, **({} if sample is None else {"sample": sample}))
    if json:
        emit_json([look.to_dict() for look in looks])
    else:
        for look in looks:
            echo(str(look))
    if any(look.error for look in looks):
        raise typer.Exit(1)
