"""Draw the picture of the demo: images before and after injection above the closure of its bands."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skygraft.exposure import Exposure
from skygraft.qa.plots import bands_of_closure, draw_closure
from skygraft.views.triplets import Cutout, draw_triplet

__all__ = ["composite_figure"]


def composite_figure(
    before: Exposure,
    after: Exposure,
    truth: Table,
    closure: Table,
    *,
    cutout: Cutout | None = None,
    faintest: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the images of `triplet_figure` above the panels of `closure_figure`.

    Parameters
    ----------
    before, after, truth, cutout, faintest
        As in `triplet_figure`.
    closure : Table
        As in `closure_figure`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    bands = bands_of_closure(closure)
    figure = Figure(figsize=(15, 9.9), facecolor="white")
    top = figure.add_gridspec(1, 3, left=0.01, right=0.99, bottom=0.42, top=0.91, wspace=0.02)
    low = figure.add_gridspec(1, len(bands), left=0.06, right=0.985, bottom=0.07, top=0.355, wspace=0.06)
    draw_triplet([figure.add_subplot(top[0, i]) for i in range(3)], before, after, truth, cutout, faintest)
    first: Axes | None = None
    for i, band in enumerate(bands):
        axis = figure.add_subplot(low[0, i], sharey=first)
        draw_closure(axis, closure[np.asarray(closure["band"]).astype(str) == band], band)
        if first is None:
            first = axis
            axis.set_ylabel("recovered − injected (mag)")
        else:
            axis.tick_params(labelleft=False)
    if title:
        figure.text(0.012, 0.972, title, fontsize=15, weight="bold", va="center")
    return figure
