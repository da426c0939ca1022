"""Where a command works: options and functions of all commands that work on a campaign's images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["Cluster", "Sample", "Scheduler", "Workers", "placed", "role", "workers_of"]

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Largest number of processes of this machine (by default one per core), or of workers of a cluster. 0 "
        "works in this process, without Dask.",
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Where to work: local, slurm, pbs, lsf, sge, htcondor, kubernetes, mpi, slurm-runner, the address of a "
        "Dask scheduler, or a profile (a .yaml file); by default that of the configuration.",
        show_default=False,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a running Dask scheduler, such as tcp://host:8786.", show_default=False),
]
Sample = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of images to measure, from all instruments and bands; always the same. By default all that are "
        "done.",
        show_default=False,
    ),
]


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


def workers_of(campaign: Campaign, cluster: str | None, scheduler: str | None, workers: int | None) -> dict[str, Any]:
    """Return the arguments of `skygraft.campaign.sweep.sweep` that say where it works.

    Parameters
    ----------
    campaign : Campaign
        The campaign, `placed`. Where nothing is given, its own cluster is used; one that is local needs no Dask.
    cluster, scheduler, workers
        What the command line gives.
    """
    elsewhere = cluster is not None or scheduler is not None or campaign.config.cluster.kind != "local"
    return {"cluster": elsewhere, "n_workers": workers, "processes": workers or None}
