"""The footprint of a campaign as a multi-order coverage map (MOC 2.0, IVOA Recommendation of 2022)."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError
from skygraft.skymap.geometry import tan_project
from skygraft.views.places import done_rows, separation

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["Moc", "footprint_moc", "outline_cells"]

type IntArray = NDArray[np.int64]
type MocFormat = Literal["fits", "json", "ascii"]

_LEAST, _MOST, _DEEPEST = 12, 18, 29
"""Orders: cells of 52 arcsec, of 0.8 arcsec, and the smallest that there are."""
_ACROSS = 20
"""Cells across the shorter side of the smallest image, at least."""
_SIDE = 58.6323 * 3600
"""Side of a cell of order 0, arcsec."""
_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Moc:
    """A part of the sky as HEALPix cells (nested, ICRS).

    Parameters
    ----------
    order : int
        Order of the smallest cells: 12 x 4^order of them cover the sky.
    ranges : ndarray of int64, shape (N, 2)
        First cell, and one past the last, of each run of cells of that order; ascending, apart from each other.
    """

    order: int
    ranges: IntArray

    @property
    def area(self) -> float:
        """Area, square degrees."""
        n = int((self.ranges[:, 1] - self.ranges[:, 0]).sum())
        return float(n * np.degrees(1.0) ** 2 * np.pi / (3 * 4**self.order))

    def contains(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Whether positions lie in it.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees.

        Returns
        -------
        ndarray of bool
        """
        from astropy_healpix import HEALPix

        grid = HEALPix(2**self.order, order="nested")
        cells = np.atleast_1d(grid.lonlat_to_healpix(np.asarray(ra) * u.deg, np.asarray(dec) * u.deg))
        which = np.searchsorted(self.ranges[:, 0], cells, side="right") - 1
        found = (which >= 0) & (cells < self.ranges[np.maximum(which, 0), 1]) if len(self.ranges) else cells < 0
        return np.asarray(found)

    def cells(self) -> dict[int, IntArray]:
        """The fewest cells of all orders that make it up: nested indices, ascending, by order."""
        found: dict[int, IntArray] = {}
        left = self.ranges
        for order in range(self.order + 1):
            shift = 2 * (self.order - order)
            start, stop = -(-left[:, 0] >> shift), left[:, 1] >> shift
            whole = stop > start
            if whole.any():
                found[order] = _expand(start[whole], stop[whole])
            below = np.where(whole, start << shift, left[:, 1])
            above = np.where(whole, stop << shift, left[:, 1])
            left = np.concatenate([np.column_stack([left[:, 0], below]), np.column_stack([above, left[:, 1]])])
            left = left[left[:, 1] > left[:, 0]]
        return found

    def to_bytes(self, format: MocFormat = "fits") -> bytes:
        """Write it as a file.

        Parameters
        ----------
        format : {"fits", "json", "ascii"}
            FITS with NUNIQ ordering, which all versions of the standard know; JSON as Aladin writes it; or the
            standard's text.

        Returns
        -------
        bytes
        """
        cells = self.cells()
        if format == "json":
            content = {str(order): some.tolist() for order, some in cells.items()} or {str(self.order): []}
            return (json.dumps(content) + "\n").encode()
        if format == "ascii":
            return (self._text(cells) + "\n").encode()
        from astropy.io import fits

        uniq = np.concatenate([np.zeros(0, np.int64), *(4 * 4**order + some for order, some in cells.items())])
        table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "1K", array=np.sort(uniq).astype(np.int64))])
        for key, value, comment in (
            ("PIXTYPE", "HEALPIX", "HEALPix magic code"),
            ("ORDERING", "NUNIQ", "coding of the cells"),
            ("COORDSYS", "C", "ICRS"),
            ("MOCVERS", "2.0", "version of the MOC standard"),
            ("MOCDIM", "SPACE", "physical dimension"),
            ("MOCORD_S", self.order, "order of the smallest cells"),
            ("MOCORDER", self.order, "the same, as in MOC 1.1"),
            ("MOCTYPE", "IMAGE", "source of the coverage"),
            ("MOCTOOL", "skygraft", "what made it"),
        ):
            table.header[key] = value, comment
        buffer = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
        return buffer.getvalue()

    def _text(self, cells: dict[int, IntArray]) -> str:
        words = []
        for order, some in cells.items():
            runs = _runs(some).tolist()
            words.append(f"{order}/" + " ".join(str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in runs))
        # The order of the smallest cells is said even where there are none.
        return " ".join(words if self.order in cells else [*words, f"{self.order}/"])


def footprint_moc(campaign: Campaign, order: int | None = None) -> Moc:
    """Compute the coverage of the images of a campaign that are done, from their outlines.

    A cell belongs to it if its centre is inside an image: the area is then that of the images, without bias, and
    edges are off by up to half a cell.

    Parameters
    ----------
    campaign : Campaign
    order : int, optional
        Order of the smallest cells, 0 to 29. By default 12 (52 arcsec), or as many more as put 20 cells across the
        shorter side of the smallest image.

    Returns
    -------
    Moc

    Raises
    ------
    CampaignError
        If there is no plan, or no image is done.
    ConfigError
        If the order is not one that there is.
    """
    plan, rows = done_rows(campaign)
    if order is None:
        sizes = plan.table(["nx", "ny", "pixel_scale"])
        nx, ny, scale = (sizes[name].to_numpy()[rows] for name in ("nx", "ny", "pixel_scale"))
        cell = float((np.minimum(nx, ny) * scale).min()) / _ACROSS
        order = int(np.clip(np.ceil(np.log2(_SIDE / cell)), _LEAST, _MOST))
    if not 0 <= order <= _DEEPEST:
        raise ConfigError(f"the order is {order}", key="order", fix=f"Give 0 to {_DEEPEST}")
    ranges = np.zeros((0, 2), dtype=np.int64)
    some: list[IntArray] = []
    for image in plan.images(rows):
        some.append(outline_cells(image.polygon, order))
        if len(some) >= _AT_ONCE:
            ranges, some = _union(ranges, some), []
    return Moc(order, _union(ranges, some))


def outline_cells(polygon: Any, order: int) -> IntArray:
    """Find the HEALPix cells whose centres are inside an outline.

    Parameters
    ----------
    polygon : array_like, shape (M, 2)
        Vertices (ra, dec), ICRS degrees; edges are great circles.
    order : int
        Order of the cells.

    Returns
    -------
    ndarray of int64
        Nested indices, ascending.
    """
    from astropy_healpix import HEALPix

    from skygraft.wcs.base import to_lonlat, to_vectors

    points = np.asarray(polygon, dtype=float)
    ra, dec = to_lonlat(to_vectors(points[:, 0], points[:, 1]).mean(axis=0))
    radius = float(separation(float(ra), float(dec), points[:, 0], points[:, 1]).max()) / 3600
    grid = HEALPix(2**order, order="nested")
    near = np.sort(grid.cone_search_lonlat(ra * u.deg, dec * u.deg, radius * 1.001 * u.deg))
    lon, lat = grid.healpix_to_lonlat(near)
    x, y = tan_project(lon.to_value(u.deg), lat.to_value(u.deg), ra, dec)
    px, py = tan_project(points[:, 0], points[:, 1], ra, dec)
    inside = np.zeros(len(near), dtype=bool)
    for x1, y1, x2, y2 in zip(px, py, np.roll(px, -1), np.roll(py, -1), strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    found: IntArray = near[inside].astype(np.int64)
    return found


def _union(ranges: IntArray, some: list[IntArray]) -> IntArray:
    """Add cells to sorted ranges that are apart from each other."""
    cells = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *some]))
    both = np.concatenate([ranges, _runs(cells)])
    both = both[np.argsort(both[:, 0], kind="stable")]
    if not len(both):
        return both
    reach = np.maximum.accumulate(both[:, 1])
    begins = np.concatenate([[True], both[1:, 0] > reach[:-1]])
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:] - 1, [len(both) - 1]])
    found: IntArray = np.column_stack([both[first, 0], reach[last]])
    return found


def _runs(cells: IntArray) -> IntArray:
    """Runs of ascending numbers: first, and one past the last."""
    if not len(cells):
        return np.zeros((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(np.diff(cells) != 1)
    first = np.concatenate([cells[:1], cells[breaks + 1]])
    found: IntArray = np.column_stack([first, np.concatenate([cells[breaks], cells[-1:]]) + 1])
    return found


def _expand(start: IntArray, stop: IntArray) -> IntArray:
    """All numbers of some ranges, ascending."""
    order = np.argsort(start)
    return np.concatenate([np.arange(a, b) for a, b in zip(start[order], stop[order], strict=True)])
