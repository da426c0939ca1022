"""Register the commands on campaigns."""

from __future__ import annotations

import typer

from skygraft.cli.aperture import aperture
from skygraft.cli.consistency import check_consistency
from skygraft.cli.plan import plan
from skygraft.cli.recover import recover
from skygraft.cli.report import report
from skygraft.cli.run import run
from skygraft.cli.show import show
from skygraft.cli.status import status
from skygraft.cli.triplets import triplets
from skygraft.cli.verify import verify

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (plan, run, status, verify, recover, report, show, triplets, aperture, check_consistency):
        app.command(rich_help_panel="Campaigns")(function)
