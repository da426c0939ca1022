"""Positions in an area: uniform, Halton, hexagonal, with a minimum separation, or around given ones.

Positions are candidates, numbered from 0, of which those in the area and not in an avoided place are taken in their
order. The first rows of a catalogue are therefore the same however many follow, and whatever is drawn at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.generation.avoid import Avoided
from skygraft.generation.cells import Area, Points, cell_corners
from skygraft.generation.region import unit_offsets
from skygraft.generation.separated import separated_vectors
from skygraft.generation.streams import Streams
from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = ["Field", "Place", "around", "halton", "hexagonal", "separated", "uniform"]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

_BLOCK = 1 << 17
_VAIN = 8
"""Number of blocks of candidates, nearly all rejected, after which the whole area counts as avoided."""
_LEAST_SHARE = 1e-5
_WIDEST = 60.0
"""Degrees: radius of areas that a hexagonal grid is made for."""
_MOST_SEPARATED = 20_000_000
"""Positions that are kept in memory, as random positions with a separation are."""


@dataclass(frozen=True, eq=False)
class Place:
    """Some positions, and numbers of what they are around (-1 for nothing)."""

    points: Points
    hosts: Ints | None = None


class Field:
    """An area without the places that are avoided.

    Parameters
    ----------
    area : Area
    avoided : sequence of Avoided
    """

    def __init__(self, area: Area, avoided: Sequence[Avoided] = ()) -> None:
        self.area, self._avoided = area, tuple(avoided)

    def free(self, points: Points, inside: Flags) -> Flags:
        """Find which of the positions that are in the area are in no avoided place."""
        good = inside.copy()
        for avoided in self._avoided:
            rows = np.flatnonzero(good)
            if rows.size:
                good[rows] = ~avoided.near(points.take(rows))
        return good

    def holds(self, points: Points) -> Flags:
        """Find which positions are in the area and in no avoided place, as booleans."""
        return self.free(points, self.area.holds(points))

    # What `separated_vectors` asks of a region.

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw unit vectors, shape (n, 3), uniformly distributed over the area."""
        pieces: list[Floats] = [np.empty((0, 3))]
        missing, vain = n, 0
        while missing > 0:
            size = max(1024, int(1.3 * missing))
            points, inside = self.area.draw(rng.random(size), rng.random(size), rng.random(size))
            pieces.append(points.vectors[self.free(points, inside)][:missing])
            missing -= len(pieces[-1])
            vain = 0 if len(pieces[-1]) else vain + 1
            if vain > _VAIN:
                raise _nothing_free(n - missing, n)
        return np.concatenate(pieces)

    def contains(self, ra: Floats, dec: Floats) -> Flags:
        """Find which positions (degrees) are inside."""
        return self.holds(Points.at(np.asarray(ra), np.asarray(dec)))

    def positions(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Convert unit vectors to degrees."""
        return to_lonlat(vectors)

    def gaps(self) -> tuple[int, Ints]:
        """Order and numbers of the cells that gaps are looked for in."""
        return self.area.order, self.area.cells

    def overlapping(self, middle: Floats, corners: list[Floats], reach: Floats, chord: float) -> Flags:
        """Find which cells may touch the area: those of which a point does; all, where they are large."""
        if not reach.size or reach.max() > 0.5 * chord:
            return np.ones(len(middle), dtype=np.bool_)
        inside = np.zeros(len(middle), dtype=np.bool_)
        for points in (middle, *corners):
            left = np.flatnonzero(~inside)
            inside[left] = self.contains(*to_lonlat(points[left]))
        return inside


def _nothing_free(found: int, wanted: int | None) -> CatalogError:
    return CatalogError(
        f"only {found} of {wanted} positions were found: almost all of the area is avoided, or outside of the images",
        key="avoid",
        fix="Avoid less, or give a larger area",
    )


def _taken(field: Field, blocks: Iterator[tuple[Points, Flags]], wanted: int | None) -> Iterator[Place]:
    """The candidates that are free; raises when hardly any are."""
    found = drawn = 0
    for points, inside in blocks:
        good = field.free(points, inside)
        drawn += len(points)
        n = int(np.count_nonzero(good))
        found += n
        if drawn > _VAIN * _BLOCK and found < _LEAST_SHARE * drawn:
            raise _nothing_free(found, wanted)
        if n:
            yield Place(points.take(good))


def _sizes(wanted: int | None) -> Iterator[tuple[int, int]]:
    """First number and size of blocks of candidates, without end: small ones first where few are wanted."""
    start, size = 0, _BLOCK if wanted is None else min(_BLOCK, max(1024, 2 * wanted))
    while True:
        yield start, size
        start, size = start + size, min(_BLOCK, 2 * size)


def uniform(field: Field, streams: Streams, wanted: int | None = None) -> Iterator[Place]:
    """Draw positions uniformly over the area, or with the density of its map, without end.

    Parameters
    ----------
    field : Field
    streams : Streams
    wanted : int, optional
        Number that is wanted, for errors.

    Yields
    ------
    Place
    """

    def blocks() -> Iterator[tuple[Points, Flags]]:
        for start, size in _sizes(wanted):
            numbers = (streams.uniform(f"position:{axis}", start, size) for axis in ("cell", "x", "y"))
            yield field.area.draw(*numbers)

    return _taken(field, blocks(), wanted)


def halton(field: Field, streams: Streams, wanted: int | None = None) -> Iterator[Place]:
    """Place sources by a Halton sequence, without end: evenly, with neither gaps nor clumps.

    The numbers in bases 2, 3 and 5 (Halton 1960, Numer. Math. 2, 84), shifted by the seed (Cranley & Patterson 1976),
    choose the cell, in the order of its nested index, and the place in it: so the sequence is even over an area of any
    shape.

    Parameters and what is yielded are those of `uniform`.
    """
    shifts = streams.uniform("position:halton", 0, 3)

    def blocks() -> Iterator[tuple[Points, Flags]]:
        for start, size in _sizes(wanted):
            index = np.arange(start, start + size, dtype=np.int64)
            numbers = [
                (_radical_inverse(index, base) + shift) % 1.0 for base, shift in zip((2, 3, 5), shifts, strict=True)
            ]
            yield field.area.draw(*numbers)

    return _taken(field, blocks(), wanted)


def _radical_inverse(index: Ints, base: int) -> Floats:
    """Mirror the digits of numbers at the point."""
    out = np.zeros(index.shape)
    scale, left = 1.0, index.copy()
    while left.any():
        scale /= base
        left, digit = np.divmod(left, base)
        out += scale * digit
    return out


def around(
    field: Field,
    streams: Streams,
    centres: tuple[Floats, Floats, Ints],
    radius: tuple[float, float],
    each: int,
    wanted: int | None = None,
) -> Iterator[Place]:
    """Place sources in rings around given positions, uniformly by area.

    Parameters
    ----------
    field, streams, wanted
        As in `uniform`. With a number that is wanted, the positions are used again and again; otherwise once.
    centres : (ndarray, ndarray, ndarray of int), shape (M,)
        ra and dec (degrees), and numbers.
    radius : (float, float)
        Inner and outer radius, arcsec.
    each : int
        Sources around each.

    Yields
    ------
    Place
        With the number of what each is around.
    """
    ra, dec, numbers = centres
    vectors = to_vectors(ra, dec)
    once = len(ra) * each
    start = found = vain = 0
    while wanted is not None or start < once:
        size = _BLOCK if wanted is not None else min(_BLOCK, once - start)
        which = (np.arange(start, start + size) // each) % len(ra)
        low, high = (np.radians(r / 3600.0) for r in radius)
        angle = 2.0 * np.pi * streams.uniform("around:angle", start, size)
        # Uniform in 1 - cos r, of which differences of squared sines of half angles do not cancel.
        ends = np.sin(low / 2.0) ** 2, np.sin(high / 2.0) ** 2
        half = ends[0] + streams.uniform("around:radius", start, size) * (ends[1] - ends[0])
        moved = unit_offsets(vectors[which], 2.0 * np.arcsin(np.sqrt(half)), angle)
        points = Points.at(*to_lonlat(moved))
        good = field.holds(points)
        n = int(np.count_nonzero(good))
        found, start = found + n, start + size
        vain = 0 if n else vain + 1
        if wanted is not None and vain > max(_VAIN, 2 * once // _BLOCK):
            raise _nothing_free(found, wanted)
        if n:
            yield Place(points.take(good), numbers[which[good]])


def separated(field: Field, streams: Streams, n: int, separation: float) -> Iterator[Place]:
    """Place sources at random, none nearer to another than the separation (see `separated_vectors`).

    Parameters
    ----------
    field, streams
        As in `uniform`.
    n : int
        Number of sources.
    separation : float
        Arcsec.

    Yields
    ------
    Place

    Raises
    ------
    CatalogError
        If they do not fit; says how many do.
    """
    if n > _MOST_SEPARATED:
        raise CatalogError(
            f"{n} sources at random with a separation are more than the {_MOST_SEPARATED} that fit in memory",
            key="positions.separation",
            fix="Use kind: hexagonal, which keeps the separation for any number",
        )
    vectors = separated_vectors(field, n, separation, streams.generator("position:separated"), "positions.separation")
    ra, dec = to_lonlat(vectors)
    for first in range(0, n, _BLOCK):
        part = slice(first, first + _BLOCK)
        yield Place(Points.at(ra[part], dec[part]))


class _Grid:
    """A hexagonal grid in the equal-area projection about the middle of an area, turned and shifted by the seed."""

    def __init__(self, field: Field, streams: Streams, separation: float) -> None:
        self._field = field
        ra, dec, radius = field.area.circle()
        if radius > _WIDEST:
            raise CatalogError(
                f"the area has a radius of {radius:.0f} degrees; a hexagonal grid is made for up to {_WIDEST:.0f}",
                key="positions.kind",
                fix="Use kind: halton or uniform, or make a catalogue for each part of the area",
            )
        self._centre = to_vectors(ra, dec)
        self._east = unit_offsets(self._centre[None], np.array([np.pi / 2]), np.array([np.pi / 2]))[0]
        self._north = np.cross(self._centre, self._east)
        # Lengths across are shorter on the sphere than in the plane, by cos(radius / 2) at most.
        self._step = np.radians(separation / 3600.0) / np.cos(np.radians(radius) / 2.0) * (1.0 + 1e-9)
        turn, *shift = streams.uniform("position:grid", 0, 3)
        self._turn = np.exp(1j * turn * np.pi / 3.0)
        self._shift = shift

    def _plane(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Coordinates along the grid's two axes, in steps, of directions."""
        scale = np.sqrt(2.0 / (1.0 + np.minimum(vectors @ self._centre, 1.0)))
        z = scale * (vectors @ self._east + 1j * (vectors @ self._north)) * self._turn / self._step
        second = z.imag / np.sqrt(0.75)
        return z.real - 0.5 * second - self._shift[0], second - self._shift[1]

    def _sky(self, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Directions (degrees) of points of the grid; those off the sphere are NaN."""
        a, b = first + self._shift[0], second + self._shift[1]
        z = ((a + 0.5 * b) + 1j * np.sqrt(0.75) * b) * self._step / self._turn
        squared = np.abs(z) ** 2
        with np.errstate(invalid="ignore"):
            scale = np.sqrt(1.0 - squared / 4.0)
        vectors = (
            (1.0 - squared / 2.0)[:, None] * self._centre
            + (scale * z.real)[:, None] * self._east
            + (scale * z.imag)[:, None] * self._north
        )
        return to_lonlat(vectors)

    def places(self) -> Iterator[Points]:
        """The points of the grid that are free, by cells."""
        area = self._field.area
        cells = area.cells
        size = 1.1 * np.sqrt(4.0 * np.pi / 12.0) / 2**area.order / self._step
        at_once = max(1, int(_BLOCK / max(4.0, (size * 1.8) ** 2)))
        for begin in range(0, len(cells), at_once):
            some = cells[begin : begin + at_once]
            yield from self._in_cells(area.order, some)

    def _in_cells(self, order: int, cells: Ints) -> Iterator[Points]:
        middle, corners = cell_corners(order, cells)
        sides = [self._plane(c) for c in (middle, *corners)]
        # The sides of cells bend a little between corners.
        low, high = [], []
        for axis in (0, 1):
            ends = np.stack([side[axis] for side in sides])
            spread = 0.1 * (ends.max(axis=0) - ends.min(axis=0)) + 1e-6
            low.append(np.ceil(ends.min(axis=0) - spread).astype(np.int64))
            high.append(np.floor(ends.max(axis=0) + spread).astype(np.int64))
        n = [np.maximum(h - a + 1, 0) for a, h in zip(low, high, strict=True)]
        total = n[0] * n[1]
        for some in _parts(total):
            owner = np.repeat(some, total[some])
            inner = np.arange(len(owner)) - np.repeat(np.cumsum(total[some]) - total[some], total[some])
            second, first = np.divmod(inner, np.maximum(n[0][owner], 1))
            ra, dec = self._sky(low[0][owner] + first, low[1][owner] + second)
            known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
            points = Points.at(ra[known], dec[known])
            mine = np.flatnonzero(points.cells_of(order) == cells[owner[known]])
            points = points.take(mine)
            good = self._field.holds(points)
            if good.any():
                yield points.take(good)


def _parts(total: Ints) -> Iterator[Ints]:
    """Rows whose totals make up some blocks."""
    ends = np.cumsum(total) // (4 * _BLOCK)
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(ends)) + 1, [len(total)]])
    for a, b in itertools.pairwise(bounds.tolist()):
        if b > a:
            yield np.arange(a, b)


def hexagonal(
    field: Field, streams: Streams, n: int | None, separation: float | None
) -> tuple[int, float, Iterator[Place]]:
    """Place sources on a hexagonal grid, whose neighbours are at the separation or more.

    Parameters
    ----------
    field, streams
        As in `uniform`.
    n : int or None
        Number of sources. The grid is then as wide as holds them; if it holds a few more, some are left out evenly.
        None for all that the separation allows.
    separation : float or None
        Smallest distance, arcsec.

    Returns
    -------
    n : int
        Number of sources.
    separation : float
        Of neighbours, arcsec; no less than asked for.
    places : iterator of Place

    Raises
    ------
    CatalogError
        If they do not fit; says how many do.
    """
    if n is None:
        assert separation is not None
        grid = _Grid(field, streams, separation)
        count = sum(map(len, grid.places()))
        if not count:
            raise CatalogError(
                f"no point of a hexagonal grid of {separation:g} arcsec is in the area",
                key="positions.separation",
                fix="Lower the separation",
            )
        return count, separation, (Place(points) for points in grid.places())
    step = np.sqrt(2.0 / np.sqrt(3.0) * field.area.area / n) * 3600.0
    while True:
        step = max(step, separation or 0.0)
        grid = _Grid(field, streams, step)
        count = sum(map(len, grid.places()))
        if count >= n:
            return n, step, _some(grid, count, n, streams)
        if separation is not None and step <= separation:
            raise CatalogError(
                f"only {count} of {n} sources fit on a hexagonal grid, which packs them closest, at {separation:g} "
                "arcsec from each other",
                key="positions.separation",
                fix=f"Lower the number to {count}, or the separation" if count else "Lower the separation",
            )
        # What is missing may be avoided places, or the borders of a small area.
        step *= min(0.99, np.sqrt(max(count, 1) / n))
        if step < 1e-6:
            raise _nothing_free(count, n)


def _some(grid: _Grid, count: int, n: int, streams: Streams) -> Iterator[Place]:
    """Take n of the grid's points, evenly in their order."""
    shift = float(streams.uniform("position:some", 0, 1)[0])
    before = 0
    for points in grid.places():
        ranks = np.arange(before, before + len(points) + 1)
        taken = (
            np.diff(np.floor(ranks * (n / count) + shift)) > 0 if n < count else np.ones(len(points), dtype=np.bool_)
        )
        before += len(points)
        if taken.any():
            yield Place(points.take(taken))
