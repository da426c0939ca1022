"""The command ``verify``: measure what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skygraft.cli.common import Config, Json, command, emit_json, open_campaign, out_console, progress_bar

__all__ = ["verify"]

_PICTURES = (".png", ".pdf", ".svg", ".jpg")


@command
def verify(
    config: Config,
    aperture: Annotated[
        str | None,
        typer.Option(
            help="Measure in this radius, where images are not calibrated to an aperture.", show_default=False
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw residual against magnitude.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Measure the injected stars on what a campaign wrote, against what was asked for.

    Isolated stars are measured inside the calibration aperture on the difference of each image and its original. The
    exit code is 1 if the median of a band is off by more than a millimagnitude and four standard errors.

    Example:  skygraft verify skygraft-demo/campaign.yaml --plot closure.png
    """
    import numpy as np

    from skygraft.qa.closure import summarize_closure
    from skygraft.qa.verify import finished_images, verify_campaign

    campaign = open_campaign(config)
    if plot is not None:
        _check_plot(plot)
    with progress_bar("measuring", len(finished_images(campaign))) as advance:
        table = verify_campaign(campaign, aperture=aperture, progress=lambda _: advance(1))
    bands = np.asarray(table["band"]).astype(str) if len(table) else np.zeros(0, dtype=str)
    names = sorted({str(image["band"]) for image in table.meta["images"]})
    summaries = {band: summarize_closure(table[bands == band]) for band in names}
    if plot is not None:
        from skygraft.qa.plots import closure_figure, save_figure

        save_figure(closure_figure(table), plot)
    if json:
        emit_json({"bands": {b: s.to_dict() for b, s in summaries.items()}, "images": table.meta["images"]})
    else:
        from skygraft.qa.tables import closure_table

        title = "recovered - injected magnitude, in the calibration aperture"
        out_console().print(closure_table(summaries, title))
    if not all(summary.ok for summary in summaries.values()):
        raise typer.Exit(1)


def _check_plot(path: Path) -> None:
    """Refuse, before anything is measured, a picture that cannot be drawn."""
    from skygraft.errors import OutputError

    if path.suffix not in _PICTURES:
        raise OutputError(f"a plot is one of {', '.join(_PICTURES)}", path=path, fix="Change its ending")
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a directory" if path.is_dir() else f"there is no directory {str(path.parent)!r}"
        raise OutputError(f"the plot cannot be written: {what}", path=path, fix="Name a file in one that is there")
