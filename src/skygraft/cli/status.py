"""The command ``status``: progress and failures of a campaign."""

from __future__ import annotations

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
        float, typer.Option(min=0.1, max=86400, callback=finite, help="Seconds between updates, with --watch.")
    ] = 2.0,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="First rebuild the ledger from the records of finished images.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the progress of a campaign, and what failed.

    With --watch, progress is followed through the ledger, on any machine that sees the output folder, even if the
    driver is dead; with --json too, one line of JSON is printed per interval. The exit code is 1 if an image failed or
    cannot be used, or if an output or another file of the campaign is damaged.

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
            echo(f"  ... and {found.n_failed - 20} more, in {found.output}/failures.parquet")
    if found.n_failed or found.n_unusable or found.n_damaged or found.files:
        raise typer.Exit(1)
