"""The command ``run``: inject into the images of a campaign that are not done yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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

if TYPE_CHECKING:
    from skygraft.campaign import Campaign, RunSummary

__all__ = ["placed", "role", "run"]


@command
def run(
    config: Config,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Largest number of worker processes; on this machine one per core by default. 0 works without Dask.",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Where to run: local, slurm, pbs, lsf, sge, htcondor, kubernetes, mpi, slurm-runner, the address of a "
            "Dask scheduler, or a profile (a .yaml file); by default that of the configuration.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a running Dask scheduler, such as tcp://host:8786.", show_default=False),
    ] = None,
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


def placed(
    campaign: Campaign, cluster: str | None, scheduler: str | None = None, workers: int | None = None
) -> Campaign:
    """Return the campaign with the cluster or scheduler given on the command line."""
    from skygraft.campaign import Campaign
    from skygraft.config.cluster import named_cluster
    from skygraft.errors import ConfigError

    if scheduler is not None:
        if cluster is not None:
            raise ConfigError("--cluster and --scheduler both say where to run", fix="Give one of them")
        if workers is not None:
            raise ConfigError("--workers applies to a new cluster; the one given with --scheduler has its own workers")
        if "://" not in scheduler:
            raise ConfigError(
                f"{scheduler!r} is not the address of a Dask scheduler", fix="Give it like tcp://host:8786"
            )
    name = cluster or scheduler
    if name is None:
        return campaign
    chosen = named_cluster(name, task_seconds=campaign.config.task_seconds)
    return Campaign(campaign.config.model_copy(update={"cluster": chosen}))


@contextlib.contextmanager
def role(campaign: Campaign) -> Iterator[bool]:
    """Yield whether this process drives the campaign; other processes of an MPI launch have then finished serving."""
    from skygraft.config.cluster_kinds import LaunchConfig

    cluster = campaign.config.cluster
    if not isinstance(cluster, LaunchConfig):
        yield True
        return
    from skygraft.clusters.mpi_roles import take_role

    # Logs do not go to the output folder, which is not locked yet.
    with take_role(cluster, campaign.config.output.parent) as is_driver:
        yield is_driver
