"""The command ``status``: how far it is."""

from __future__ import annotations

from pathlib import Path

import typer

from skygraft.cli.common import Config, Json, command, emit_json, open_campaign

__all__ = ["status"]


@command
def status(config: Config, json: Json = False) -> None:
    """Show how far a campaign is, and what failed.

    The exit code is 1 if an image failed or cannot be used.

    Example:  skygraft status skygraft-demo/campaign.yaml
    """
    found = open_campaign(config).status()
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
