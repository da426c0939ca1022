"""The command ``demo``: try skygraft on a simulated survey."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skygraft.cli.common import command, err_console, out_console

__all__ = ["register"]


@command
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create.")] = Path("skygraft-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0 works without Dask.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """Simulate a small survey, inject sources into it, and verify the result.

    The survey has two bands with three dithered visits of two detectors: images with a varying PSF, calibrated to their
    own stars inside a 12 pixel aperture. It takes about a minute, needs no network, and keeps all files.

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
