"""The Campaign page: a Bokeh document on the scheduler, made of what its `Boards` know.

It changes only what has changed: of the sky map the patches that images were finished in since the last look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
)
from bokeh.models.annotations import ColorBar, Legend, LegendItem, Title
from bokeh.models.widgets.markups import Div
from bokeh.plotting import figure
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from tornado.ioloop import IOLoop

from skygraft.monitoring import html as pieces
from skygraft.monitoring.feed import Board, Boards

__all__ = ["CampaignPage", "add_page"]

_PERIOD_MS = 1000
_SINGLE_PATCH_DEG = 0.2
_NEIGHBOURS_OF = 400
_RATE_BINS = 80
_TIME_UNITS = ((3 * 86400, 86400, "d"), (3 * 3600, 3600, "h"), (180, 60, "min"), (0, 1, "s"))


def _palette() -> list[str]:
    """From the colour of nothing done to that of all done, growing darker evenly."""
    stops = np.array([[227, 231, 236], [158, 202, 225], [66, 146, 198], [8, 69, 138]], dtype=float)
    at = np.linspace(0, len(stops) - 1, 101)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, k]) for k in range(3)]
    return ["#" + "".join(f"{round(float(value)):02x}" for value in colour) for colour in zip(*channels, strict=True)]


def add_page(scheduler: Any, boards: Boards, *, prefix: str) -> None:
    """Add the page ``/campaign`` to a scheduler's dashboard, and its tab to all pages.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        With a dashboard.
    boards : Boards
        What it shows.
    prefix : str
        Of the dashboard's addresses.
    """
    variables = template_variables(scheduler)

    def make(server: Any, extra: dict[str, Any], document: Any) -> None:
        del server
        arguments = document.session_context.request.arguments if document.session_context else {}
        run = next(iter(arguments.get("run", [])), b"").decode("ascii", "replace")
        page = CampaignPage(boards, run)
        document.title = "Dask: Campaign"
        document.theme = BOKEH_THEME
        document.template = env.get_template("simple.html")
        document.template_variables.update(extra)
        document.add_root(page.root)

        # A coroutine runs in the scheduler's loop, between two messages of the driver; a function would run in a
        # thread beside them.
        async def update() -> None:
            page.update()

        document.add_periodic_callback(update, _PERIOD_MS)

    application = BokehApplication({"/campaign": make}, scheduler, prefix=prefix, template_variables=variables)
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    # The list is the one that every page of the dashboard makes its tabs from.
    if "campaign" not in variables["pages"]:
        variables["pages"].insert(1, "campaign")


class CampaignPage:
    """What one browser sees.

    Parameters
    ----------
    boards : Boards
        What the scheduler knows.
    run : str
        The run to show; empty shows the newest one, also when that begins later.

    Attributes
    ----------
    root : bokeh.models.LayoutDOM
        The whole page.
    """

    def __init__(self, boards: Boards, run: str = "") -> None:
        self._boards, self._run = boards, run
        self._board: Board | None = None
        self._where: _Sky | None = None
        self._version = self._layout_version = 0
        self._bands: tuple[str, ...] | None = None
        self._divs = {name: _div(name) for name in _DIVS}
        self._patches = ColumnDataSource(name="patches")
        self._failed = ColumnDataSource(name="failed")
        self._rates = ColumnDataSource(name="rate-data", data={"left": [], "right": [], "rate": []})
        self._closure = ColumnDataSource(name="closure-data", data={"left": [], "right": []})
        self._rate_figure = _rate_figure(self._rates)
        self._sky = column(sizing_mode="stretch_both", min_width=280)
        self._closure_slot = column(sizing_mode="stretch_width")
        right = column(self._rate_figure, self._closure_slot, self._divs["closure"], sizing_mode="stretch_width")
        self.root = column(
            self._divs["header"],
            row(self._sky, right, sizing_mode="stretch_width", stylesheets=[pieces.STACKED]),
            self._divs["failures"],
            self._divs["stages"],
            row(
                self._divs["slowest"],
                self._divs["hosts"],
                sizing_mode="stretch_width",
                spacing=14,
                stylesheets=[pieces.STACKED],
            ),
            sizing_mode="stretch_width",
            stylesheets=[pieces.NARROW],
            margin=(10, 18, 18, 18),
            spacing=14,
        )
        self.update()

    def update(self) -> None:
        """Show what has changed since the last time."""
        board = self._boards.get(self._run)
        if board is None:
            self._say("header", '<div class="title">No campaign has run on this scheduler yet.</div>')
            return
        # Ages grow also when nothing is heard.
        others = [each for each in self._boards.all() if each is not board]
        self._say("header", pieces.header(board, self._boards.now(), others, self._boards.workers()))
        if board is not self._board or board.layout_version != self._layout_version:
            self._board, self._layout_version, self._version = board, board.layout_version, board.version
            self._show_sky(board)
        elif board.version == self._version:
            return
        self._change_patches(board)
        self._version = board.version
        shot = board.snapshot
        self._show_rates(shot["history"])
        self._show_closure(shot["closure"])
        self._say("closure", pieces.closure_table(shot, self._band_colours()))
        self._say("failures", pieces.failure_table(shot))
        self._say("hosts", pieces.host_table(shot))
        self._say("stages", pieces.stage_bar(shot))
        self._say("slowest", pieces.slowest_table(shot))

    def _say(self, name: str, text: str) -> None:
        # A text that is selected stays selected as long as it does not change.
        if self._divs[name].text != text:
            self._divs[name].text = text

    # -- the sky

    def _show_sky(self, board: Board) -> None:
        sky = self._where = _Sky(board)
        self._patches = ColumnDataSource(name="patches", data=sky.data(board))
        self._failed = ColumnDataSource(name="failed", data=sky.failed(board))
        self._sky.children = [_sky_figure(sky, self._patches, self._failed)]

    def _change_patches(self, board: Board) -> None:
        changed = np.flatnonzero(board.patch_version > self._version)
        if changed.size == 0 or len(self._patches.data["n_done"]) != board.n_patches:
            return
        columns = _count_columns(board, changed)
        self._patches.patch(
            {name: list(zip(changed.tolist(), values, strict=True)) for name, values in columns.items()}
        )
        if self._where is not None and (changed_failed := self._where.failed(board)) != self._failed.data:
            self._failed.data = changed_failed

    # -- the small figures

    def _show_rates(self, history: dict[str, list[float]]) -> None:
        seconds, done = np.array(history["seconds"]), np.array(history["done"], dtype=float)
        end = max(2.0, float(seconds[-1]))
        _, unit, name = next(each for each in _TIME_UNITS if end >= each[0])
        edges = np.linspace(0.0, end, min(_RATE_BINS, int(end)) + 1)
        rate = np.maximum(np.diff(np.interp(edges, seconds, done)) / np.diff(edges), 0.0)
        self._rates.data = {
            "left": (edges[:-1] / unit).tolist(),
            "right": (edges[1:] / unit).tolist(),
            "rate": rate.tolist(),
        }
        self._rate_figure.xaxis.axis_label = f"time since the run began ({name})"

    def _band_colours(self) -> dict[str, str]:
        colours = pieces.BAND_COLOURS
        return {band: colours[i % len(colours)] for i, band in enumerate(self._bands or ())}

    def _show_closure(self, closure: dict[str, Any]) -> None:
        half, n_bins = closure["half_width_mmag"], closure["n_bins"]
        edges = np.linspace(-half, half, n_bins + 1)
        data: dict[str, Any] = {"left": edges[:-1].tolist(), "right": edges[1:].tolist()}
        bottom: npt.NDArray[np.int64] = np.zeros(n_bins, dtype=np.int64)
        for i, content in enumerate(closure["bands"].values()):
            top = bottom + np.array(content["counts"])
            data[f"bottom{i}"], data[f"top{i}"] = bottom.tolist(), top.tolist()
            bottom = top
        bands = tuple(closure["bands"])
        if bands == self._bands:
            self._closure.data = data
            return
        self._bands = bands
        self._closure = ColumnDataSource(name="closure-data", data=data)
        colours = list(self._band_colours().values())
        self._closure_slot.children = [_closure_figure(self._closure, colours)] if bands else []


_DIVS = ("header", "closure", "failures", "hosts", "stages", "slowest")


def _div(name: str) -> Any:
    return Div(
        name=name, text="", stylesheets=[pieces.CSS], css_classes=[f"campaign-{name}"], sizing_mode="stretch_width"
    )


class _Sky:
    """Where the patches lie on the map.

    Right ascension is unrolled about the middle of the survey, so that one across zero stays in one piece.
    """

    def __init__(self, board: Board) -> None:
        ra, self.dec = np.array(board.columns["ra"], dtype=float), np.array(board.columns["dec"], dtype=float)
        angle = np.radians(ra)
        middle = np.degrees(np.arctan2(np.sin(angle).sum(), np.cos(angle).sum())) % 360.0
        self.ra = middle + (ra - middle + 180.0) % 360.0 - 180.0
        self.size = _spacing(self.ra, self.dec)

    @property
    def aspect(self) -> float:
        """Degrees of declination that are as long as one of right ascension, in the middle of the map."""
        if self.dec.size == 0:
            return 1.0
        return float(max(0.2, np.cos(np.radians((self.dec.min() + self.dec.max()) / 2))))

    def data(self, board: Board) -> dict[str, list[Any]]:
        width = self.size / np.maximum(np.cos(np.radians(self.dec)), 0.02)
        return {
            "ra": self.ra.tolist(),
            "dec": self.dec.tolist(),
            "true_ra": board.columns["ra"],
            "width": width.tolist(),
            "height": [self.size] * len(self.ra),
            "tract": board.columns["tract"],
            "patch": board.columns["patch"],
            "n_images": board.columns["n_images"],
            **_count_columns(board, np.arange(board.n_patches)),
        }

    def failed(self, board: Board) -> dict[str, list[float]]:
        index = np.flatnonzero(board.n_failed > 0)
        return {"ra": self.ra[index].tolist(), "dec": self.dec[index].tolist()}


def _count_columns(board: Board, index: npt.NDArray[np.int64]) -> dict[str, list[Any]]:
    n_images = np.array(board.columns["n_images"])[index]
    return {
        "fraction": (board.n_done[index] / np.maximum(n_images, 1)).tolist(),
        "n_done": board.n_done[index].tolist(),
        "n_failed": board.n_failed[index].tolist(),
    }


def _spacing(ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> float:
    """The usual distance between neighbouring patches, degrees."""
    if len(ra) < 2:
        return _SINGLE_PATCH_DEG
    some = np.linspace(0, len(ra) - 1, min(_NEIGHBOURS_OF, len(ra))).astype(int)
    nearest = []
    for i in some:
        apart = np.hypot((ra - ra[i]) * np.cos(np.radians(dec[i])), dec - dec[i])
        apart[i] = np.inf
        nearest.append(apart.min())
    return float(max(np.median(nearest), 1e-3))


def _title(text: str) -> Any:
    return Title(text=text, text_font_size="13px", text_color="#1f2933", text_font_style="bold")


def _plain(plot: Any) -> Any:
    """Axes and grid that do not shout."""
    plot.outline_line_color = "#cbd2d9"
    plot.grid.grid_line_color = "#eceff2"
    plot.axis.axis_line_color = "#9aa5b1"
    plot.axis.major_tick_line_color = "#9aa5b1"
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_color = "#3e4c59"
    plot.toolbar.logo = None
    return plot


def _sky_figure(sky: _Sky, patches: Any, failed: Any) -> Any:
    plot = figure(
        name="sky",
        title=_title("Share of images done, by patch"),
        output_backend="webgl",
        sizing_mode="stretch_both",
        min_height=470,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll=None,
        toolbar_location="above",
        x_range=DataRange1d(flipped=True, range_padding=0.04),
        y_range=DataRange1d(range_padding=0.04),
        match_aspect=True,
        aspect_scale=sky.aspect,
        x_axis_label="right ascension (deg)",
        y_axis_label="declination (deg)",
    )
    mapper = LinearColorMapper(palette=_palette(), low=0.0, high=1.0)
    drawn = plot.rect(
        x="ra",
        y="dec",
        width="width",
        height="height",
        source=patches,
        fill_color={"field": "fraction", "transform": mapper},
        line_color="#ffffff",
        line_width=0.5,
    )
    # Of any kind of glyph, to the legend's eyes.
    marked: Any = plot.scatter(
        x="ra",
        y="dec",
        source=failed,
        marker="x",
        size=7,
        line_color=pieces.FAILED,
        line_width=2,
    )
    # Outside the map: it must not hide patches.
    legend = Legend(
        label_text_font_size="11px",
        border_line_color=None,
        background_fill_color=None,
        margin=0,
    )
    legend.items = [LegendItem(label="patch with failed images", renderers=[marked])]
    plot.add_layout(legend, "below")
    # Few enough for a phone.
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4)
    # Beyond 0 and 360 degrees the map goes on, the numbers begin anew.
    plot.xaxis.formatter = CustomJSTickFormatter(
        code="const ra = ((tick % 360) + 360) % 360; return String(Math.round(ra * 1e4) / 1e4)"
    )
    plot.add_tools(
        HoverTool(
            renderers=[drawn],
            tooltips=[
                ("tract, patch", "@tract, @patch"),
                ("images done", "@n_done of @n_images"),
                ("failed", "@n_failed"),
                ("ra, dec", "@true_ra{0.000}, @dec{0.000} deg"),
            ],
        )
    )
    bar = ColorBar(
        color_mapper=mapper,
        width=10,
        padding=4,
        formatter=NumeralTickFormatter(format="0 %"),
        background_fill_color=None,
    )
    plot.add_layout(bar, "right")
    return _plain(plot)


def _rate_figure(source: Any) -> Any:
    plot = figure(
        name="rate",
        title=_title("Images finished per second"),
        height=220,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        y_range=DataRange1d(start=0, range_padding=0.08),
        x_range=DataRange1d(range_padding=0.0),
        x_axis_label="time since the run began (s)",
        y_axis_label="images / s",
    )
    plot.quad(left="left", right="right", bottom=0, top="rate", source=source, color=pieces.DONE, line_color=None)
    return _plain(plot)


def _closure_figure(source: Any, colours: list[str]) -> Any:
    plot = figure(
        name="closure-histogram",
        title=_title("Closure: measured minus asked for"),
        height=220,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        y_range=DataRange1d(start=0, range_padding=0.08),
        x_range=DataRange1d(range_padding=0.0),
        x_axis_label="median residual of an image's stars (mmag)",
        y_axis_label="images",
    )
    for i, colour in enumerate(colours):
        plot.quad(
            left="left",
            right="right",
            bottom=f"bottom{i}",
            top=f"top{i}",
            source=source,
            fill_color=colour,
            line_color="#ffffff",
            line_width=0.5,
        )
    return _plain(plot)
