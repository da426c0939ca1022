"""``skygraft demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skygraft.cli.common import command, err_console, out_console

__all__ = ["register"]


@command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")] = Path("skygraft-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Everything follows from it.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 does without Dask.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """Make a small survey, inject into it, and measure that it worked.

    Two bands, three dithered visits each of two detectors: calibrated images with a varying PSF, calibrated to their
    own stars inside a 12 pixel aperture. Takes about a minute, needs no network, and leaves everything to look at.

    Example:  skygraft demo --output my-demo --workers 2
    """
    from skygraft.demo import print_report, run_demo

    console = err_console()
    result = run_demo(output, seed=seed, workers=workers, overwrite=overwrite, console=console)
    print_report(result, out_console())
    if not result.ok:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Start here")(demo)
