"""The command ``plan``: a dry run of a campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    emit_json,
    err_console,
    open_campaign,
    out_console,
)
from skygraft.errors import ConfigError

if TYPE_CHECKING:
    from skygraft.planning.check import Checks
    from skygraft.planning.summary import PlanSummary

__all__ = ["plan"]

_COLOURS = {"problem": "bold red", "attention": "bold yellow"}
_WORDS: dict[str, Checks] = {"auto": "auto", "all": "all", "none": "none"}


def _checks(text: str) -> Checks:
    if text in _WORDS:
        return _WORDS[text]
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"--check is {text!r}; it must be all, none, auto, or a number of images", key="check")
    return int(text)


@command
def plan(
    config: Config,
    check: Annotated[
        str,
        typer.Option(
            help="Number of images whose calibration is checked: all, none, a number, or auto (all up to a few "
            "thousand, otherwise a sample of all instruments and bands).",
            metavar="all|none|N|auto",
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of workers assumed for the wall time. [default: those of the campaign's cluster]",
            min=1,
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Number of processes for planning. [default: one per core]", min=1, show_default=False),
    ] = None,
    butler: ButlerRepo = None,
    collections: ButlerCollections = None,
    dataset_type: ButlerType = None,
    where: ButlerWhere = None,
    output_run: ButlerRun = None,
    json: Json = False,
) -> None:
    """Plan a campaign: which images get which sources, what it costs, and what will fail. No image is written.

    The report is also written next to the plan: plan_summary.csv, plan_checks.parquet (the calibration of each checked
    image) and plan_findings.parquet (images and patches with problems or remarks).

    The exit code is 1 if an image cannot be used or something will fail.

    Example:  skygraft plan skygraft-demo/campaign.yaml --workers 200
    """
    checks = _checks(check)
    given = butler_settings(
        repo=butler, collections=collections, dataset_type=dataset_type, where=where, output_run=output_run
    )
    campaign = open_campaign(config, given)
    with err_console().status("planning"):
        summary = campaign.plan(checks=checks, n_workers=workers, processes=processes)
    if json:
        emit_json(summary.to_dict())
    else:
        _show(summary)
    if summary.n_unusable or summary.problems:
        raise typer.Exit(1)


def _show(summary: PlanSummary) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = out_console()
    n = len(summary.problems)
    verdict = f"[bold red]{n} problem{'s' * (n > 1)}, at the end[/]" if n else "[green]nothing stands in its way[/]"
    console.print(f"[bold]plan of {escape(summary.name)}[/]: {verdict}")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in summary.rows():
        colour = _COLOURS.get(label, "cyan")
        table.add_row(f"[{colour}]  {escape(label)}[/]", escape(text))
    console.print(table, soft_wrap=False)
