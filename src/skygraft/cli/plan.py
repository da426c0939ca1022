"""The command ``plan``: what a campaign would do."""

from __future__ import annotations

import typer

from skygraft.cli.common import Config, Json, command, emit_json, err_console, open_campaign, show_rows

__all__ = ["plan"]


@command
def plan(config: Config, json: Json = False) -> None:
    """Work out what a campaign would do and what it would cost; no image is made.

    The exit code is 1 if an image cannot be used or something will go wrong.

    Example:  skygraft plan skygraft-demo/campaign.yaml
    """
    campaign = open_campaign(config)
    with err_console().status("planning"):
        summary = campaign.plan()
    if json:
        emit_json(summary.to_dict())
    else:
        show_rows(summary.rows(), f"plan of {summary.name}")
    if summary.n_unusable or summary.problems:
        raise typer.Exit(1)
