"""The command ``run``: make what is not made yet."""

from __future__ import annotations

from typing import Annotated

import typer

from skygraft.cli.common import Config, Json, command, emit_json, err_console, open_campaign

__all__ = ["run"]


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
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make only what failed before, images in quarantine too.")
    ] = False,
    json: Json = False,
) -> None:
    """Make every image of a campaign that is not done yet; run it again to resume.

    Images that failed before are tried again, but for those in quarantine: they kill the workers that take them. After
    Ctrl-C or SIGTERM tasks that run are let finish. The exit code is 1 if any image is not done at the end, and 130 or
    143 after such a signal.

    Example:  skygraft run skygraft-demo/campaign.yaml --workers 2
    """
    from skygraft.campaign import Campaign, RichReporter
    from skygraft.errors import ConfigError

    campaign = open_campaign(config)
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
    summary = campaign.run(
        n_workers=workers, redo=redo, retry_failed=retry_failed, reporter=RichReporter(err_console())
    )
    if json:
        emit_json(summary.to_dict())
    else:
        typer.echo(str(summary))
        typer.echo(f"outputs in {summary.output}")
    if not summary.ok:
        raise typer.Exit(128 + summary.interrupted if summary.interrupted else 1)
