"""The command ``report``: one HTML page on a campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skygraft.cli.common import Config, Json, command, echo, emit_json, open_campaign

__all__ = ["report"]


@command
def report(
    config: Config,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write to. [default: report, in the campaign's output]", show_default=False
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write a page on a campaign: completeness, biases, apertures, closure, failures, provenance, methods.

    The page is one HTML file that needs no other and no network. Beside it are its figures (PNG, PDF) and its numbers
    (NetCDF, Parquet, JSON). What was not measured yet is said in it, with the command that measures it.

    Example:  skygraft report skygraft-demo/campaign.yaml
    Example:  skygraft report campaign.yaml --output my-report --open
    """
    from skygraft.report import make_report

    page = make_report(open_campaign(config), output)
    if json:
        emit_json({"page": str(page), "figures": str(page.parent / "figures"), "numbers": str(page.parent / "numbers")})
    else:
        echo(str(page))
    if show:
        typer.launch(page.absolute().as_uri())
