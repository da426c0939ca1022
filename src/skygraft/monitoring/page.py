"""The Campaign page: a Bokeh document on the scheduler that shows one of the published runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.layouts import column, row
from bokeh.models import (
    AdaptiveTicker,
    BasicTicker,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
)
from bokeh.models.annotations import ColorBar, Legend, LegendItem
from bokeh.models.widgets.markups import Div
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from bokeh.themes import Theme
from distributed.dashboard.components.scheduler import env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from scipy.spatial import KDTree
from tornado.ioloop import IOLoop

from skygraft.monitoring.overview import PatchTable
from skygraft.monitoring.page_text import CSS, PIECES, header, render
from skygraft.monitoring.published import PublishedRun, PublishedRuns
from skygraft.monitoring.snapshot import Closure, Growth

__all__ = ["CampaignPage", "add_page"]

_PERIOD_MS = 1000
_SINGLE_PATCH_DEG = 0.2
# Colours that can be told apart with any kind of colour vision: Okabe & Ito (2008), Color Universal Design.
_DONE, _FAILED = "#0072b2", "#d55e00"
_BANDS = (_DONE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#999999", "#000000")
_NONE_TO_ALL = interp_palette(("#e3e7ec", "#9ecae1", "#4292c6", "#08458a"), 101)
_STACKED = """
@media (max-width: 900px) {
    :host { display: block !important; }
    :host > * { width: auto !important; height: auto !important; margin-bottom: 14px; }
}
"""
"""CSS of a row: on a narrow screen its members stand below each other."""
_NARROW = """
:host { max-width: 100%; min-width: 0; }
@media (max-width: 600px) { :host { margin: 6px 0 12px 0 !important; width: 100% !important; } }
"""
"""CSS of the whole page: on a phone it has narrow margins."""
_WHITE_LINES: dict[str, Any] = {"line_color": "#ffffff", "line_width": 0.5}
_THEME = Path(__file__).parent / "templates" / "theme.yaml"
_RATE_BINS = 80


def add_page(scheduler: Any, runs: PublishedRuns, *, prefix: str) -> None:
    """Add the page ``/campaign`` to a scheduler's dashboard, and a link to it to all pages.

    `prefix` is the first part of the dashboard's addresses.
    """
    variables = template_variables(scheduler)

    def make(server: Any, extra: dict[str, Any], document: Any) -> None:
        del server
        arguments = document.session_context.request.arguments if document.session_context else {}
        run = next(iter(arguments.get("run", [])), b"").decode("ascii", "replace")
        page = CampaignPage(runs, run)
        document.title = "Dask: Campaign"
        document.theme = Theme(filename=str(_THEME))
        document.template = env.get_template("simple.html")
        document.template_variables.update(extra)
        document.add_root(page.root)

        # A coroutine, which runs in the scheduler's event loop as the driver's messages do, and in no thread beside it.
        async def update() -> None:
            page.update()

        document.add_periodic_callback(update, _PERIOD_MS)

    application = BokehApplication({"/campaign": make}, scheduler, prefix=prefix, template_variables=variables)
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    # All pages of the dashboard share this list of links.
    if "campaign" not in variables["pages"]:
        variables["pages"].insert(1, "campaign")


class CampaignPage:
    """The content of the page in one browser: of a run, by default the newest, also one that begins later."""

    def __init__(self, runs: PublishedRuns, run: str = "") -> None:
        self._runs, self._name = runs, run
        self._run: PublishedRun | None = None
        self._version = 0
        self._divs = {
            name: Div(
                name=name, text="", stylesheets=[CSS], css_classes=[f"campaign-{name}"], sizing_mode="stretch_width"
            )
            for name in ("header", "closure", *PIECES)
        }
        self._map: _SkyMap | None = None
        self._map_place = column(sizing_mode="stretch_both", min_width=280)
        self._rates = ColumnDataSource(name="rate-data", data={"left": [], "right": [], "rate": []})
        self._closure = ColumnDataSource(name="closure-data")
        self._bands: list[str] = []
        self._closure_place = column(sizing_mode="stretch_width")
        divs, wide = self._divs, dict[str, Any](sizing_mode="stretch_width")
        right = column(_rate_figure(self._rates), self._closure_place, divs["closure"], **wide)
        above = row(self._map_place, right, stylesheets=[_STACKED], **wide)
        below = row(divs["slowest"], divs["hosts"], spacing=14, stylesheets=[_STACKED], **wide)
        pieces = (divs["header"], above, divs["failures"], divs["stages"], below)
        self.root = column(*pieces, stylesheets=[_NARROW], margin=(10, 18, 18, 18), spacing=14, **wide)
        self.update()

    def update(self) -> None:
        """Show the present state of the run."""
        run = self._runs.get(self._name)
        if run is None:
            self._show("header", render("nothing"))
            return
        # At each call, because it says how long ago the last message came.
        others = [each for each in self._runs.all() if each is not run]
        self._show("header", header(run, self._runs.now(), others, self._runs.workers()))
        if run is self._run and run.version == self._version:
            return
        if run is not self._run or self._map is None:
            self._map = _SkyMap(run.patches)
            self._map_place.children = [self._map.plot]
        else:
            self._map.update(run.patches)
        self._run, self._version = run, run.version
        shot = run.snapshot
        self._show_rates(shot["history"])
        self._show_closure(shot["closure"])
        self._show("closure", render("closure", shot, _colours(len(self._bands))))
        for piece in PIECES:
            self._show(piece, render(piece, shot))

    def _show_rates(self, history: Growth) -> None:
        end = max(2.0, history["seconds"][-1])
        edges = np.linspace(0.0, end, min(_RATE_BINS, int(end)) + 1)
        done = np.interp(edges, history["seconds"], history["done"])
        rate = np.maximum(np.diff(done) / np.diff(edges), 0.0)
        self._rates.data = {"left": edges[:-1], "right": edges[1:], "rate": rate}

    def _show_closure(self, closure: Closure) -> None:
        half, n_bins = closure["half_width_mmag"], closure["n_bins"]
        centres = (np.arange(n_bins) + 0.5) * (2 * half / n_bins) - half
        data: dict[str, Any] = {"centre": centres, "width": np.full(n_bins, 2 * half / n_bins)}
        data |= {f"band{i}": content["counts"] for i, content in enumerate(closure["bands"].values())}
        if self._bands != [*closure["bands"]]:
            self._bands = [*closure["bands"]]
            self._closure = ColumnDataSource(name="closure-data", data=data)
            self._closure_place.children = [_closure_figure(self._closure, len(self._bands))] if self._bands else []
        self._closure.data = data

    def _show(self, piece: str, text: str) -> None:
        # Text that somebody has selected stays selected as long as it is not replaced.
        if self._divs[piece].text != text:
            self._divs[piece].text = text


class _SkyMap:
    """A map of the patches, coloured by their share of images done.

    Right ascension is continuous about the middle of the survey, so that one across zero is not cut in two.
    """

    def __init__(self, patches: PatchTable) -> None:
        east, middle = patches.east()
        self._ra, self._dec, self._shown = middle + east, patches.dec, patches
        size = _spacing(patches.ra, patches.dec)
        data = patches.copy().to_dict() | {"ra": self._ra, "true_ra": patches.ra, "height": np.full(len(patches), size)}
        data["width"] = size / np.maximum(np.cos(np.radians(self._dec)), 0.02)
        data["fraction"] = patches.n_done / np.maximum(patches.n_images, 1)
        self._patches = ColumnDataSource(name="patches", data=data)
        self._failed = ColumnDataSource(name="failed", data=self._failed_places(patches))
        self.plot = self._figure()

    def update(self, patches: PatchTable) -> None:
        """Send to the browser the patches whose counts have changed, which are few of maybe 100,000."""
        before, self._shown = self._shown, patches
        changed = np.flatnonzero((patches.n_done != before.n_done) | (patches.n_failed != before.n_failed))
        if not changed.size:
            return
        counts: dict[str, npt.NDArray[Any]] = {"n_done": patches.n_done, "n_failed": patches.n_failed}
        counts["fraction"] = patches.n_done / np.maximum(patches.n_images, 1)
        rows = changed.tolist()
        self._patches.patch({name: list(zip(rows, of[changed].tolist(), strict=True)) for name, of in counts.items()})
        if np.any((patches.n_failed > 0) != (before.n_failed > 0)):
            self._failed.data = self._failed_places(patches)

    def _failed_places(self, patches: PatchTable) -> dict[str, Any]:
        has_failed = patches.n_failed > 0
        return {"ra": self._ra[has_failed], "dec": self._dec[has_failed]}

    def _figure(self) -> Any:
        # One degree of right ascension is as long as this many of declination in the middle of the map.
        middle = (self._dec.min() + self._dec.max()) / 2 if self._dec.size else 0.0
        plot = figure(
            name="sky",
            title="Share of images done, by patch",
            output_backend="webgl",
            sizing_mode="stretch_both",
            min_height=470,
            tools="pan,wheel_zoom,box_zoom,reset,save",
            active_scroll=None,
            toolbar_location="above",
            x_range=DataRange1d(flipped=True, range_padding=0.04),
            y_range=DataRange1d(range_padding=0.04),
            match_aspect=True,
            aspect_scale=float(max(0.2, np.cos(np.radians(middle)))),
            x_axis_label="right ascension (deg)",
            y_axis_label="declination (deg)",
        )
        colours = LinearColorMapper(palette=_NONE_TO_ALL, low=0.0, high=1.0)
        share: Any = {"field": "fraction", "transform": colours}
        drawn = plot.rect("ra", "dec", "width", "height", source=self._patches, fill_color=share, **_WHITE_LINES)
        failed: Any = plot.scatter(
            x="ra", y="dec", source=self._failed, marker="x", size=7, line_color=_FAILED, line_width=2
        )
        # Below the map, where it hides no patches.
        legend = Legend(label_text_font_size="11px", border_line_color=None, background_fill_color=None, margin=0)
        legend.items = [LegendItem(label="patch with failed images", renderers=[failed])]
        plot.add_layout(legend, "below")
        # Few enough ticks for the width of a phone, and right ascensions between 0 and 360 degrees.
        plot.xaxis.ticker = BasicTicker(desired_num_ticks=4)
        plot.xaxis.formatter = CustomJSTickFormatter(
            code="const ra = ((tick % 360) + 360) % 360; return String(Math.round(ra * 1e4) / 1e4)"
        )
        tips = {
            "tract, patch": "@tract, @patch",
            "images done": "@n_done of @n_images",
            "failed": "@n_failed",
            "ra, dec": "@true_ra{0.000}, @dec{0.000} deg",
        }
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=[*tips.items()]))
        percent = NumeralTickFormatter(format="0 %")
        bar = ColorBar(color_mapper=colours, width=10, padding=4, formatter=percent, background_fill_color=None)
        plot.add_layout(bar, "right")
        return plot


def _spacing(ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> float:
    """Return the median distance of a patch to its nearest neighbour, degrees."""
    if len(ra) < 2:
        return _SINGLE_PATCH_DEG
    a, d = np.radians(ra), np.radians(dec)
    directions = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    distance, _ = KDTree(directions).query(directions, k=2)
    return float(max(np.degrees(np.median(distance[:, 1])), 1e-3))


def _small_figure(**options: Any) -> Any:
    """Return a figure without tools whose y axis begins at zero."""
    y, x = DataRange1d(start=0, range_padding=0.08), DataRange1d(range_padding=0.0)
    size: dict[str, Any] = {"height": 220, "sizing_mode": "stretch_width", "tools": "", "toolbar_location": None}
    return figure(y_range=y, x_range=x, **size, **options)


def _rate_figure(source: ColumnDataSource) -> Any:
    plot = _small_figure(name="rate", title="Images finished per second", y_axis_label="images / s")
    plot.quad("left", "right", "rate", 0, source=source, color=_DONE, line_color=None)
    plot.xaxis.axis_label = "time since the run began (h:mm:ss)"
    plot.xaxis.formatter = NumeralTickFormatter(format="00:00:00")
    plot.xaxis.ticker = AdaptiveTicker(base=60, mantissas=[1, 2, 5, 10, 15, 20, 30], min_interval=1)
    return plot


def _closure_figure(source: ColumnDataSource, n_bands: int) -> Any:
    plot = _small_figure(
        name="closure-histogram",
        title="Closure: measured minus asked for",
        x_axis_label="median residual of an image's stars (mmag)",
        y_axis_label="images",
    )
    bands = [f"band{i}" for i in range(n_bands)]
    plot.vbar_stack(bands, x="centre", width="width", source=source, fill_color=_colours(n_bands), **_WHITE_LINES)
    return plot


def _colours(n_bands: int) -> list[str]:
    return [_BANDS[i % len(_BANDS)] for i in range(n_bands)]
