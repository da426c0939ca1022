"""The command ``status``: how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skygraft.cli.common import Config, Json, command, echo, emit_json, finite, open_campaign

__all__ = ["status"]


@command
def status(
    config: Config,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it live until it is finished, or until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=86400, callback=finite, help="Seconds between two looks, with --watch.")
    ] = 2.0,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="First make the ledger anew from the records of what is done.")
    ] = False,
    json: Json = False,
) -> None:
    """Show how far a campaign is, and what failed.

    With --watch it is followed by its ledger: on any machine that sees the output folder, also when the driver is
    dead. With --json that prints one line of JSON at each interval. The exit code is 1 if an image failed, cannot be
    used, or was made and is damaged now, and if another file of the campaign is.

    Example:  skygraft status skygraft-demo/campaign.yaml --watch
    """
    campaign = open_campaign(config)
    if rescan:
        found = campaign.rescan()
    if watch:
        from skygraft.monitoring.watch import watch as follow

        images = follow(campaign.config, interval=interval, as_json=json, resume=f"skygraft run {config}")["images"]
        if images["failed"] or images["unusable"]:
            raise typer.Exit(1)
        return
    if not rescan:
        found = campaign.status()
    if json:
        emit_json(found.to_dict())
    else:
        echo(str(found))
        for failure in found.failures[:20]:
            echo(f"  {failure.image_id}: {failure.error}: {failure.message}")
        if found.n_failed > 20:
            echo(f"  ... and {found.n_failed - 20} more, in {Path(found.output) / 'failures.parquet'}")
    if found.n_failed or found.n_unusable or found.n_damaged or found.files:
        raise typer.Exit(1)
