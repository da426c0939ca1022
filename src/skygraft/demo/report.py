"""Print a report of the demo."""

from __future__ import annotations

import math
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from skygraft.demo.run import DemoResult
from skygraft.qa.tables import closure_table

__all__ = ["print_report"]


def print_report(result: DemoResult, console: Console) -> None:
    """Print what was generated, the measurements, where the files are, and commands to try next."""
    run, images = result.run, result.images
    bands = list(result.closure)
    visits = len({image.visit for image in images})
    rate = run.n_done / result.seconds["campaign"] if result.seconds["campaign"] > 0 else math.nan
    stars = sum(image.n_stars_used for image in images) // len(images)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(
        f"\n[bold]A survey[/] of {len(images)} calibrated images ({visits} visits x 2 detectors, "
        f"{' and '.join(bands)}), each calibrated to about {stars} of its own stars ({result.seconds['survey']:.0f} s)"
    )
    say(f"[bold]A catalogue[/] of {result.n_catalog} fake stars and galaxies, {run.n_drawn} times drawn on an image")
    say(
        f"[bold]A campaign[/]: {run.n_done} of {run.n_images} images injected, {run.n_failed} failed "
        f"({result.seconds['campaign']:.0f} s with the cluster's start-up, {rate:.1f} images/s)"
    )
    for failure in run.failures:
        say(f"  [red]{failure.image_id}: {failure.message}[/]")
    say("\n[bold]Calibration aperture[/]")
    for band, text in result.calibrations.items():
        say(f"  {band}: {text}")
    title = "Closure: recovered - injected magnitude of isolated stars, on the difference images"
    console.print(closure_table(result.closure, title))
    console.print(_scale_table(result))
    say(
        f"\n[bold]Look at[/] {_near(result.pictures[-1])}, {_near(result.pictures[0].parent)}/, "
        f"and the outputs in {_near(Path(run.output))}/"
    )
    image = _near(images[0].path)
    config = _near(result.output / "campaign.yaml")
    say("\n[bold]Try[/]")
    for command in (
        f"skygraft inspect {image}",
        f"skygraft status {config}",
        f"skygraft verify {config}",
        f"skygraft recover {config}",
        f"skygraft report {config}",
        f"skygraft catalog show {_near(result.output / 'fakes.parquet')}",
        f"skygraft inject {image} {_near(result.output / 'fakes.parquet')} -o one.fits --truth one.ecsv",
    ):
        say(f"  [cyan]{command}[/]")


def _near(path: Path) -> str:
    """Return the path relative to the current folder, if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _scale_table(result: DemoResult) -> Table:
    table = Table(title="Against the survey's own stars, on the injected images (mmag; independent photometry)",
                  title_justify="left")  # fmt: skip
    for name in ("band", "survey stars", "injected stars", "difference"):
        table.add_column(name, justify="left" if name == "band" else "right")
    for band, scale in result.survey_scale.items():
        table.add_row(
            band,
            f"{1e3 * scale.survey:+.1f} ({scale.n_survey})",
            f"{1e3 * scale.injected:+.1f} ({scale.n_injected})",
            f"{1e3 * scale.difference:+.1f} ± {1e3 * scale.error:.1f}",
        )
    return table
