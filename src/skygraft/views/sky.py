"""A map of a campaign on the sky: outlines of its images, and the density of its fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from skygraft.records.plan_file import campaign_plan
from skygraft.records.status import DONE, record_states
from skygraft.skymap.geometry import tan_project
from skygraft.views.figures import Theme, styled, theme_of
from skygraft.views.places import truth_dataset
from skygraft.wcs.base import to_lonlat, to_vectors
from skygraft.wording import number

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["SkyAxes", "sky_axes", "sky_map_figure"]

type FloatArray = NDArray[np.float64]

_FLAT = 50.0  # degrees: radius of a field up to which it is drawn in a tangent plane
_CELLS = 90  # HEALPix cells across the map
_DOTS = 3000
_OUTLINES = 20_000
_DONE, _WAITING = "#d1495b", "#9aa3ad"


class SkyAxes:
    """Axes on which positions on the sky are drawn: a tangent plane, or the whole sky in Hammer's projection.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
    center : (float, float)
        Tangent point, or the middle of the whole sky, ICRS degrees.
    radius : float
        How far positions are from it, degrees.
    """

    def __init__(self, axis: Axes, center: tuple[float, float], radius: float) -> None:
        self.axis, self.center, self.is_flat = axis, center, radius <= _FLAT
        self._unit = 60.0 if radius < 0.5 else 1.0

    def project(self, ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Convert ICRS degrees to the axes' coordinates, East to the left.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees.

        Returns
        -------
        x, y : ndarray
            NaN where the projection has no place for a position.
        """
        if self.is_flat:
            xi, eta = tan_project(ra, dec, *self.center)
            return -xi * self._unit, eta * self._unit
        lon = np.radians((np.asarray(ra, dtype=float) - self.center[0] + 180.0) % 360.0 - 180.0)
        lat = np.radians(np.asarray(dec, dtype=float))
        # Hammer (1892): an equal-area projection.
        norm = np.sqrt(1.0 + np.cos(lat) * np.cos(lon / 2))
        x = 2.0 * np.cos(lat) * np.sin(lon / 2) / norm
        return -np.degrees(x * np.sqrt(2)), np.degrees(np.sin(lat) * np.sqrt(2) / norm)

    def outlines(self, polygons: ArrayLike) -> FloatArray:
        """Project outlines, without those that the edge of a whole-sky map cuts in two.

        Parameters
        ----------
        polygons : array_like, shape (N, M, 2)
            Vertices (ra, dec), ICRS degrees.

        Returns
        -------
        ndarray, shape (N', M, 2)
        """
        points = np.asarray(polygons, dtype=float)
        flat = np.stack(self.project(points[..., 0], points[..., 1]), axis=-1)
        whole = np.isfinite(flat).all(axis=(1, 2))
        if not self.is_flat:
            whole &= np.ptp(flat[..., 0], axis=1) < 90.0
        return np.asarray(flat[whole])

    def draw_cells(self, cells: ArrayLike, values: ArrayLike, nside: int, **style: Any) -> PolyCollection:
        """Draw HEALPix cells in the colours of values.

        Parameters
        ----------
        cells : array_like of int, shape (N,)
            Nested indices, ICRS.
        values : array_like, shape (N,)
        nside : int
            Resolution of the cells.
        **style
            For the `matplotlib.collections.PolyCollection`, such as ``cmap``.

        Returns
        -------
        matplotlib.collections.PolyCollection
            For a colour bar.
        """
        from astropy_healpix import HEALPix

        lon, lat = HEALPix(nside, order="nested").boundaries_lonlat(np.asarray(cells), step=1)
        corners = np.stack([lon.to_value("deg"), lat.to_value("deg")], axis=-1)
        flat = np.stack(self.project(corners[..., 0], corners[..., 1]), axis=-1)
        keep = np.isfinite(flat).all(axis=(1, 2))
        if not self.is_flat:
            keep &= np.ptp(flat[..., 0], axis=1) < 90.0
        # Edges in the colours of the faces, or seams would show between neighbours.
        style = {"edgecolors": "face", "linewidths": 0.3, **style}
        drawn = PolyCollection(list(flat[keep]), **style)
        drawn.set_array(np.asarray(values, dtype=float)[keep])
        self.axis.add_collection(drawn)
        return drawn


def sky_axes(figure: Figure, theme: str, ra: ArrayLike, dec: ArrayLike, place: Any = 111) -> SkyAxes:
    """Add axes to a figure that hold positions on the sky, with right ascension and declination at the edges.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    theme : {"light", "dark"}
    ra, dec : array_like
        ICRS degrees: what is to be inside.
    place : optional
        As for `matplotlib.figure.Figure.add_subplot`.

    Returns
    -------
    SkyAxes
    """
    colours = theme_of(theme)
    vectors = to_vectors(np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)).reshape(-1, 3)
    middle = vectors.mean(axis=0)
    if np.linalg.norm(middle) < 1e-6:
        middle = np.array([1.0, 0.0, 0.0])
    lon, lat = to_lonlat(middle)
    apart = np.linalg.norm(vectors - middle / np.linalg.norm(middle), axis=1).max()
    radius = float(np.degrees(2 * np.arcsin(np.clip(apart / 2, 0, 1))))
    axis = figure.add_subplot(place)
    sky = SkyAxes(axis, (float(lon), float(lat) if radius <= _FLAT else 0.0), radius)
    x, y = sky.project(ra, dec)
    axis.set_aspect("equal")
    if sky.is_flat:
        pad = 0.05 * max(np.ptp(x), np.ptp(y), 1e-6)
        axis.set_xlim(x.min() - pad, x.max() + pad)
        axis.set_ylim(y.min() - pad, y.max() + pad)
        _flat_labels(axis, sky, colours)
    else:
        _whole_sky(axis, sky, colours)
    return sky


def _flat_labels(axis: Axes, sky: SkyAxes, colours: Theme) -> None:
    """Offsets in a tangent plane, in the largest unit that fits."""
    unit = "arcmin" if sky._unit == 60.0 else "deg"
    axis.tick_params(colors=colours.muted, labelcolor=colours.text)
    # East, which is positive, is to the left.
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{-value + 0.0:g}".replace("-", "\u2212")))
    axis.set_xlabel(f"east of RA {sky.center[0]:.4f}° ({unit})")
    axis.set_ylabel(f"north of Dec {sky.center[1]:+.4f}° ({unit})")
    axis.spines[["top", "right"]].set_visible(False)


def _whole_sky(axis: Axes, sky: SkyAxes, colours: Theme) -> None:
    axis.set_axis_off()
    lat, lon = np.linspace(-90, 90, 121), np.linspace(-179.999, 179.999, 241)
    lines = [np.column_stack(sky.project(np.full(lat.size, sky.center[0] + d), lat)) for d in range(-150, 180, 30)]
    lines += [np.column_stack(sky.project(sky.center[0] + lon, np.full(lon.size, d))) for d in range(-60, 90, 30)]
    lines += [np.column_stack(sky.project(np.full(lat.size, sky.center[0] + d), lat)) for d in (-179.999, 179.999)]
    axis.add_collection(LineCollection(lines, colors=colours.muted, linewidths=0.5, alpha=0.6))
    for step in range(-120, 180, 60):
        right_ascension = (sky.center[0] + step) % 360
        x, y = sky.project([right_ascension], [0.0])
        axis.text(x[0], y[0] + 1.5, f"{right_ascension:.0f}°", fontsize=8, color=colours.muted, ha="center")
    for d in (-60, -30, 30, 60):
        x, y = sky.project([sky.center[0] + 179.9], [d])
        axis.text(x[0] - 2, y[0], f"{d:+d}°", fontsize=8, color=colours.muted, ha="right", va="center")
    axis.set_xlim(-175, 172)
    axis.set_ylim(-86, 86)


def sky_map_figure(campaign: Campaign, *, title: str = "", theme: str = "light", fakes: bool = True) -> Figure:
    """Draw where a campaign's images lie, done or not, and how dense its fakes are on them.

    Up to 3000 fakes are dots, more are counted in HEALPix cells; positions are those of the truth tables, each source
    of a cell counted once for each image that shows it. Fields up to 100 degrees wide are drawn in a tangent plane,
    wider ones in Hammer's projection.

    Parameters
    ----------
    campaign : Campaign
    title : str
        Above the map; by default the campaign's name and numbers.
    theme : {"light", "dark"}
        Colours of the figure.
    fakes : bool
        Whether to draw the fakes, which reads two columns of all truth tables.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    CampaignError
        If there is no plan, or truth tables are to be drawn and are not there.
    """
    plan = campaign_plan(campaign.layout.plan)
    done = record_states(plan, campaign.layout)[0].state == DONE
    centers = plan.table(["ra", "dec"])
    ra, dec = (np.asarray(centers[name].to_numpy(), dtype=float) for name in ("ra", "dec"))
    polygons = list(_outlines(plan, _OUTLINES))
    edge = np.concatenate([np.column_stack([ra, dec]), *polygons])
    colours = theme_of(theme)
    with styled(colours):
        figure = Figure(figsize=(9.2, 7.4), layout="constrained")
        sky = sky_axes(figure, theme, edge[:, 0], edge[:, 1])
        shape = np.ptp(sky.axis.get_xlim()) / np.ptp(sky.axis.get_ylim())
        figure.set_size_inches(9.2, float(np.clip(8.0 / shape + 0.6, 3.5, 11.0)))
        n_fakes = _draw_fakes(figure, sky, campaign, colours) if fakes else 0
        for which, color, width, label in (
            (~done, _WAITING, 0.7, "not done"),
            (done, _DONE, 1.1, "done"),
        ):
            some = [polygon for polygon, wanted in zip(polygons, which, strict=False) if wanted]
            if not some:
                continue
            outlines = [outline for polygon in some for outline in sky.outlines(polygon[None])]
            many = 0.25 + 0.75 / (1 + len(some) / 300)
            sky.axis.add_collection(
                PolyCollection(outlines, facecolors="none", edgecolors=color, linewidths=width, alpha=many, zorder=3)
            )
            sky.axis.plot([], [], color=color, lw=2, label=f"{number(int(which.sum()), 'image')} {label}")
        if n_fakes and n_fakes <= _DOTS:
            sky.axis.plot([], [], ".", color=_dot(colours), label=f"{number(n_fakes, 'fake')} on images")
        legend = sky.axis.legend(loc="upper left", fontsize=9, framealpha=0.85)
        legend.set_zorder(5)
        name = campaign.config.name
        sky.axis.set_title(title or f"{name}: {number(int(done.sum()), 'image')} of {len(plan):,} done", loc="left")
    return figure


def _dot(colours: Theme) -> str:
    return "#1f6f9f" if colours.name == "light" else "#7fd4ff"


def _outlines(plan: Any, most: int) -> Iterator[FloatArray]:
    """The outlines of the first images: of a million, more would not be seen."""
    left = most
    for batch in plan.batches(["polygon"]):
        column = batch.column(0)
        for polygon in column.slice(0, left):
            yield np.asarray(polygon.as_py(), dtype=float).reshape(-1, 2)
        left -= len(column)
        if left <= 0:
            return


def _draw_fakes(figure: Figure, sky: SkyAxes, campaign: Campaign, colours: Theme) -> int:
    """Draw dots or the density of the fakes, and return the number of their rows."""
    from astropy import units as u
    from astropy_healpix import HEALPix

    dataset = truth_dataset(campaign)
    count = int(dataset.count_rows())
    if not count:
        return 0
    if count <= _DOTS:
        table = dataset.to_table(columns=["ra", "dec"])
        x, y = sky.project(table["ra"].to_numpy(), table["dec"].to_numpy())
        sky.axis.plot(x, y, ".", ms=3.5, color=_dot(colours), alpha=0.75, mew=0, zorder=2)
        return count
    low, high = sky.axis.get_xlim()
    width = (high - low) / (sky._unit if sky.is_flat else 1.0)
    order = int(np.clip(np.ceil(np.log2(58.6 * _CELLS / width)), 2, 16))
    grid = HEALPix(2**order, order="nested")
    cells, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for batch in dataset.to_batches(columns=["ra", "dec"], batch_size=1_000_000):
        if not batch.num_rows:
            continue
        ra, dec = (batch.column(k).to_numpy(zero_copy_only=False) for k in range(2))
        found, n = np.unique(grid.lonlat_to_healpix(ra * u.deg, dec * u.deg), return_counts=True)
        cells, where = np.unique(np.concatenate([cells, found]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, n]), minlength=len(cells)).astype(np.int64)
    area = grid.pixel_area.to_value(u.arcmin**2)
    # The top of the scale is not one cell in which many images overlap.
    density = counts / area
    top = float(np.percentile(density, 99.5))
    drawn = sky.draw_cells(cells, density, grid.nside, cmap=colours.colormap, clim=(0, max(top, 1e-12)), zorder=1)
    bar = figure.colorbar(drawn, ax=sky.axis, shrink=0.8, pad=0.02, extend="max" if density.max() > top else "neither")
    bar.set_label("fakes per arcmin² (each image's counted)")
    bar.ax.tick_params(colors=colours.muted, labelcolor=colours.text)
    bar.outline.set_visible(False)
    return count
