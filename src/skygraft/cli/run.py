"""The command ``run``: inject into the images of a campaign that are not done yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import (
    ButlerCollections,
    ButlerRepo,
    ButlerRun,
    ButlerType,
    ButlerWhere,
    Config,
    Json,
    butler_settings,
    command,
    echo,
    emit_json,
    err_console,
    open_campaign,
)
from skygraft.cli.placing import Cluster, Scheduler, Workers, placed, role

if TYPE_CHECKING:
    from skygraft.campaign import RunSummary

__all__ = ["run"]


@command
def run(
    config: Config,
    workers: Workers = None,
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    redo: Annotated[bool, typer.Option("--redo", help="Redo images whose inputs or settings have changed.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only retry failed images, including those in quarantine.")
    ] = False,
    pair: Annotated[
        str | None,
        typer.Option(
            help="Run two campaigns, whose catalogues differ by a small change up and down: magnification=±0.02, "
            "mag=±0.1, or half_light_radius=*1.01, and of any other column of numbers. See docs/paired_runs.md.",
            show_default=False,
        ),
    ] = None,
    butler: ButlerRepo = None,
    collections: ButlerCollections = None,
    dataset_type: ButlerType = None,
    where: ButlerWhere = None,
    output_run: ButlerRun = None,
    json: Json = False,
) -> None:
    """Inject into all images of a campaign that are not done yet; run it again to resume.

    Images that failed before are retried, except those in quarantine, which killed their workers. After Ctrl-C, SIGTERM
    or a hang-up of the terminal, running tasks are finished first. The exit code is 1 if any image is not done at the
    end, and 130, 143 or 129 after such a signal.

    Example:  skygraft run skygraft-demo/campaign.yaml --workers 2
    Example:  skygraft run campaign.yaml --cluster slurm --workers 200
    Example:  skygraft run campaign.yaml --pair magnification=±0.02
    Example:  skygraft run campaign.yaml --butler /repo/main --collections u/me/run --output-run u/me/injected
    """
    from skygraft.campaign import RichReporter

    given = butler_settings(
        repo=butler, collections=collections, dataset_type=dataset_type, where=where, output_run=output_run
    )
    campaign = placed(open_campaign(config, given), cluster, scheduler, workers)
    with role(campaign) as is_driver:
        if not is_driver:
            return
        settings: dict[str, Any] = {"n_workers": workers, "redo": redo, "retry_failed": retry_failed}
        if pair is None:
            summaries: tuple[RunSummary, ...] = (campaign.run(**settings, reporter=RichReporter(err_console())),)
        else:
            from skygraft.campaign.paired import PairedCampaign

            summaries = PairedCampaign.of(campaign, pair).run(**settings, reporter=RichReporter(err_console()))
    if json:
        emit_json(summaries[0].to_dict() if pair is None else [summary.to_dict() for summary in summaries])
    else:
        for summary in summaries:
            echo(str(summary))
            echo(f"outputs in {summary.output}")
    if interrupted := summaries[-1].interrupted:
        raise typer.Exit(128 + interrupted)
    if not all(summary.ok for summary in summaries):
        raise typer.Exit(1)
