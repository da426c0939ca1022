"""The command ``verify``: measure injected stars on the outputs, or compare checksums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skygraft.cli.common import (
    Config,
    Json,
    command,
    echo,
    emit_json,
    growing_bar,
    open_campaign,
    out_console,
    progress_bar,
)
from skygraft.errors import ConfigError

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["verify"]

_SHOWN = 20
_PICTURES = (".png", ".pdf", ".svg", ".jpg")


@command
def verify(
    config: Config,
    aperture: Annotated[
        str | None,
        typer.Option(help="Radius to measure in, if images are not calibrated to an aperture.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot of residual against magnitude.", show_default=False)
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Number of images to measure, from all instruments and bands; always the same.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Measure every image that is done.")] = False,
    checksums: Annotated[
        bool,
        typer.Option(
            "--checksums",
            help="Instead of measuring, compare the checksums of all outputs (images, truth, records, tables).",
        ),
    ] = False,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="With --checksums: discard damaged outputs, so that the next run redoes them."),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="With --checksums: read on this cluster (as for run) instead of on this machine.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of processes, or workers of the cluster. [default: one per core]", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the injected stars on a campaign's outputs, and compare with the injected magnitudes.

    Isolated stars are measured inside the calibration aperture, on the difference of each image and its original. A
    band does not close if its median deviates by more than a millimagnitude and four standard errors; it has too few
    stars if four standard errors exceed 25 millimagnitudes. The exit code is 1 unless all bands close; with
    --checksums, unless no output has changed.

    Example:  skygraft verify skygraft-demo/campaign.yaml --plot closure.png
    Example:  skygraft verify campaign.yaml --checksums --cluster slurm --workers 50
    """
    campaign = open_campaign(config)
    if checksums:
        if plot is not None or aperture is not None:
            raise ConfigError("--checksums measures nothing", key="checksums", fix="Leave --plot and --aperture out")
        _read_all(campaign, cluster, workers, discard=discard, json=json)
        return
    if discard or cluster is not None:
        name = "--discard" if discard else "--cluster"
        raise ConfigError(f"{name} is of --checksums only", key=name, fix="Add --checksums, or leave it out")
    if plot is not None:
        _check_plot(plot)
    _measure(campaign, aperture, plot, None if everything else sample, workers, json=json)


def _measure(
    campaign: Campaign, aperture: str | None, plot: Path | None, sample: int | None, workers: int | None, *, json: bool
) -> None:
    import numpy as np

    from skygraft.qa.closure import summarize_closure
    from skygraft.qa.verify import chosen_images, verify_campaign

    with progress_bar("measuring", len(chosen_images(campaign, sample)[0])) as advance:
        table = verify_campaign(
            campaign, aperture=aperture, sample=sample, processes=workers, progress=lambda _: advance(1)
        )
    bands = np.asarray(table["band"]).astype(str) if len(table) else np.zeros(0, dtype=str)
    images, problems, n_done = (table.meta[name] for name in ("images", "problems", "n_done"))
    names = sorted({str(image["band"]) for image in images})
    summaries = {band: summarize_closure(table[bands == band]) for band in names}
    if plot is not None:
        from skygraft.qa.plots import closure_figure
        from skygraft.views import save_figure

        save_figure(closure_figure(table), plot)
    is_sample = len(images) + len(problems) < n_done
    if json:
        content = {"bands": {b: s.to_dict() for b, s in summaries.items()}, "images": images}
        emit_json({**content, "problems": problems, "n_done": n_done, "sample": is_sample})
    else:
        from skygraft.qa.tables import closure_table

        title = "recovered - injected magnitude, in the calibration aperture"
        out_console().print(closure_table(summaries, title))
        n = len(images)
        every = f"a sample of {n:,} of the {n_done:,} images that are done (--all measures every one)"
        echo(f"measured on {every if is_sample else f'all {n:,} images that are done'}")
        if is_sample and any(summary.verdict == "too few stars" for summary in summaries.values()):
            echo("more stars: --all, or a larger --sample")
        for row in problems[:_SHOWN]:
            echo(f"not measured: {row['image_id']}: {row['problem']}")
        if len(problems) > _SHOWN:
            echo(f"... and {len(problems) - _SHOWN:,} more, all of them with --json")
    if problems or not all(summary.ok for summary in summaries.values()):
        raise typer.Exit(1)


def _read_all(campaign: Campaign, cluster: str | None, workers: int | None, *, discard: bool, json: bool) -> None:
    from skygraft.campaign.checksums import discard as discard_damaged
    from skygraft.cli.run import placed

    placed_campaign = placed(campaign, cluster)
    with growing_bar("reading") as moved:
        report = placed_campaign.check_checksums(
            cluster=cluster is not None, n_workers=workers, processes=workers, progress=moved
        )
    n = discard_damaged(report) if discard else 0
    if json:
        emit_json(report.to_dict() | {"n_discarded": n})
    else:
        echo(str(report))
        if discard and not report.ok:
            echo(f"the records of {n} images were removed: skygraft run makes them, and damaged tables, again")
        elif not report.ok:
            echo("--discard has what is damaged made again by the next skygraft run")
    if not report.ok:
        raise typer.Exit(1)


def _check_plot(path: Path) -> None:
    """Raise, before anything is measured, if the plot cannot be written."""
    from skygraft.errors import OutputError

    if path.suffix not in _PICTURES:
        raise OutputError(f"a plot is one of {', '.join(_PICTURES)}", path=path, fix="Change its ending")
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a directory" if path.is_dir() else f"there is no directory {str(path.parent)!r}"
        raise OutputError(f"the plot cannot be written: {what}", path=path, fix="Name a file in one that is there")
