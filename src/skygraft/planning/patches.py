"""Select the sources of images: the part of planning that runs in many processes.

The partitions that an image may need are found by the circles that enclose each partition's sources; its sources are
then selected by the same compiled loop that the workers use. Sources that move little during the survey widen the
circle of their partition; those that move further are compared with the images one by one.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array, numpy_array, one_array
from skygraft.catalog.motion import check_motion
from skygraft.catalog.partition_read import (
    OUTSIDE,
    PartitionBounds,
    partition_bounds,
    partition_values,
    read_partition,
)
from skygraft.catalog.row_choice import RowChoice, image_facts, joined
from skygraft.errors import CatalogError
from skygraft.planning.index import ImageRows
from skygraft.planning.selection import Outlines, RowDigests, SourcePositions, digest_rows

__all__ = ["Movers", "PatchPlanner", "PlannerSpec", "estimate_seconds", "find_movers", "plan_patches"]

# Seconds measured on one core: for each image, megabyte read and written, megapixel, star, and other source.
_SECONDS = {"image": 0.1, "megabyte": 0.02, "megapixel": 0.25, "Star": 0.000025, "RealGalaxy": 0.02, "other": 0.005}
_GALAXY = (0.0001, 0.004, 0.2, 0.0005)
"""Least and greatest time of a galaxy, half-light radius (arcsec) from which it grows, and seconds per arcsec."""
_CROWDED = (0.35, 0.000006)
"""Seconds of the grid that many stars of one image are drawn on, for each megapixel and each star.

Of most PSFs; planning does not know which each image has, and those known between pixels take two to three times as
long, both star by star and on their grid."""
_APART = ("Star", "RealGalaxy")
"""Source types whose times have entries of their own."""
_KNOTS = (0.0005, 0.000015)
"""Time of a RandomKnots, and of each of its knots."""
_GALSIM_SECONDS = {"Star": 0.003, "other": 0.02}
"""Seconds for each source where GalSim draws all of them."""

_SLOW = np.radians(60 / 3600)
"""Radians; sources that move less than this widen the circle of their partition."""
_GUARD = 1e-6
"""Radians added to each circle, far more than rounding errors."""
_PIECE = 256
_CACHE_BYTES = 256 << 20


def estimate_seconds(n_bytes: Any, n_pixels: Any, source_seconds: Any) -> Any:
    """Estimated time of images on one core, seconds. For the sizes of tasks only the ratios matter."""
    return (
        _SECONDS["image"]
        + _SECONDS["megabyte"] * n_bytes / 1e6
        + _SECONDS["megapixel"] * n_pixels / 1e6
        + source_seconds
    )


def _saved_seconds(n_stars: int, megapixels: float) -> float:
    """Estimated time by which many stars of one image are drawn faster together than each by itself, seconds."""
    of_area, of_star = _CROWDED
    return max(0.0, n_stars * (_SECONDS["Star"] - of_star) - of_area * megapixels)


def _draw_seconds(table: pa.Table, *, by_galsim: bool = False) -> NDArray[np.float64]:
    """Estimated time to draw each source, seconds."""
    kinds = one_array(table.column("source_type")).dictionary_encode()
    names = kinds.dictionary.to_pylist()
    kind = numpy_array(kinds.indices)
    seconds = _GALSIM_SECONDS if by_galsim else _SECONDS
    base = np.array([seconds.get(name if name in _APART else "other", seconds["other"]) for name in names])[kind]
    if by_galsim:
        return np.asarray(base, dtype=np.float64)
    low, high, start, slope = _GALAXY
    for shaped, columns in (
        (("Sersic", "Gaussian", "Moffat", "Spergel", "Kolmogorov"), ("half_light_radius",)),
        (("BulgeDisk",), ("bulge_half_light_radius", "disk_half_light_radius")),
    ):
        rows = np.array([name in shaped for name in names])[kind]
        if rows.any():
            cost = np.zeros(len(kind))
            for name in columns:
                radius = partition_values(table, name) if name in table.column_names else np.full(len(kind), np.nan)
                cost += np.clip(low + slope * (np.nan_to_num(radius) - start), low, high)
            base[rows] = cost[rows]
    knots = np.array([name == "RandomKnots" for name in names])[kind]
    if knots.any() and "n_knots" in table.column_names:
        least, each = _KNOTS
        base[knots] = least + each * np.clip(partition_values(table, "n_knots")[knots], 0.0, 1e6)
    return np.asarray(base, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Movers:
    """The sources that move away from their partition, and how far the others move.

    Parameters
    ----------
    slack : ndarray, shape (P,)
        Radians by which the circle of each partition is widened.
    sources : SourcePositions
        The N sources that move further.
    homes : ndarray of int, shape (N,)
        Index of the partition of each in `PartitionBounds`.
    """

    slack: NDArray[np.float64]
    sources: SourcePositions
    homes: NDArray[np.int64]

    def write(self, path: Path) -> None:
        """Write them to an ``.npz`` file."""
        arrays = {f"source_{f.name}": getattr(self.sources, f.name) for f in dataclasses.fields(SourcePositions)}
        np.savez(path, slack=self.slack, homes=self.homes, **arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        with np.load(path) as file:
            arrays = {f.name: file[f"source_{f.name}"] for f in dataclasses.fields(SourcePositions)}
            return cls(file["slack"], SourcePositions(**arrays), file["homes"])


def find_movers(catalog: Path, span: tuple[float, float], mapper: Any = map) -> Movers:
    """Find the sources that move far between the first and the last image.

    Parameters
    ----------
    catalog : Path
        The partitioned catalogue.
    span : (float, float)
        Times of the first and last image, MJD TAI; NaN where no image has one.
    mapper : callable
        Applies a function to partitions, as `map` does.
    """
    bounds = partition_bounds(catalog)
    gap = np.abs(np.array(span)[None, :, None] - bounds.epochs[:, None, :])
    # Without a time or an epoch their positions are unknown, and no image gets such sources.
    reach = bounds.speeds * np.max(np.nan_to_num(gap), axis=(1, 2), initial=0.0)
    slack = np.where(bounds.moving > 0, reach, 0.0) + bounds.strays
    fast = np.flatnonzero(slack > _SLOW)
    slack[fast] = _SLOW
    look = functools.partial(_far_movers, catalog, span)
    found = list(mapper(look, [bounds.keys[i] for i in fast.tolist()]))
    sources = SourcePositions.joined(found)
    return Movers(slack, sources, np.repeat(fast, [len(s) for s in found]).astype(np.int64))


def _far_movers(catalog: Path, span: tuple[float, float], key: tuple[int, int]) -> SourcePositions:
    sources = SourcePositions.of(read_partition(catalog, key))
    arc = np.zeros(len(sources))
    first, last = np.full(len(sources), span[0]), np.full(len(sources), span[1])
    seen = np.ones(len(sources), dtype=np.bool_)
    if len(sources.windows):
        bounded = ~np.isnan(sources.windows).all(axis=1)
        first = np.fmax(first, sources.windows[:, 0])
        last = np.fmin(last, sources.windows[:, 1])
        seen = ~bounded | ((first <= last) & np.isfinite(span).all())
    if len(sources.motion):
        gap = np.abs(np.stack([first, last]) - sources.motion[:, 2]).max(axis=0)
        arc += np.abs(sources.motion[:, :2]).sum(axis=1) * np.nan_to_num(gap)
    if len(sources.slack):
        arc += np.radians(sources.slack / 3600)
    return sources.rows(np.flatnonzero(seen & (arc > _SLOW)))


@dataclass(eq=False)
class _Part:
    """A partition in memory, as the planner needs it."""

    ids: NDArray[np.int64]
    sources: SourcePositions
    costs: NDArray[np.float64]
    digests: RowDigests
    chosen_by: dict[str, NDArray[Any]]
    lanes: dict[str | None, NDArray[np.uint64]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, catalog: Path, key: tuple[int, int], choice: RowChoice, *, by_galsim: bool) -> _Part:
        table = read_partition(catalog, key)
        costs = _draw_seconds(table, by_galsim=by_galsim)
        ids, sources = partition_values(table, "injection_id"), SourcePositions.of(table)
        return cls(ids, sources, costs, RowDigests(table), choice.columns_of(table))

    @property
    def n_bytes(self) -> int:
        return 200 * len(self.ids) + 2000 + sum(column.nbytes for column in self.chosen_by.values())

    def lanes_of(self, band: str | None) -> NDArray[np.uint64]:
        if band not in self.lanes:
            self.lanes[band] = self.digests.of(band)
        return self.lanes[band]


class PatchPlanner:
    """Plans images for one partitioned catalogue, with a cache of the partitions read last.

    Parameters
    ----------
    catalog : Path
        The data set.
    movers : Movers
        From `find_movers`.
    margin_arcsec : float
        How far outside the outline of an image its sources may lie.
    band : str or None
        Band of images that have none.
    by_galsim : bool
        Whether GalSim draws all sources, which takes longer.
    choice : str
        Expression that selects rows, of an image too (`skygraft.catalog.row_choice`).
    """

    def __init__(
        self,
        catalog: Path,
        movers: Movers,
        margin_arcsec: float,
        band: str | None,
        *,
        by_galsim: bool = False,
        choice: str = "",
    ) -> None:
        from scipy.spatial import cKDTree

        self._choice = RowChoice(choice, of_image=True)
        self._by_galsim = by_galsim
        self._catalog, self._margin, self._band, self._movers = catalog, margin_arcsec, band, movers
        self._bounds: PartitionBounds = partition_bounds(catalog)
        self._reach = self._bounds.radii + movers.slack + _GUARD
        self._outside = self._bounds.index.get(OUTSIDE, -1)
        near = self._reach.copy()
        if self._outside >= 0:
            near[self._outside] = 0.0
        self._widest = float(near.max(initial=0.0))
        self._tree = cKDTree(self._bounds.centers)
        self._lost = (self._bounds.moving > 0) & ~np.isfinite(self._bounds.epochs).all(axis=1)
        self._parts: OrderedDict[int, _Part] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def plan(self, rows: ImageRows) -> tuple[pa.Table, list[str]]:
        """Plan some images: a table with the fields of `PlannedImage`, and a list of problems."""
        table = rows.read()
        homes = np.column_stack(
            [numpy_array(one_array(table.column("tract"))), numpy_array(one_array(table.column("patch")))]
        )
        fresh = np.any(np.diff(homes, axis=0) != 0, axis=1)
        # Images in no patch may lie anywhere, so each is planned by itself.
        fresh |= homes[1:, 0] < 0
        starts = np.flatnonzero(np.r_[True, fresh])
        stops = np.r_[starts[1:], len(homes)]
        parts, problems = [], []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            for first in range(start, stop, _PIECE):
                piece = table.slice(first, min(_PIECE, stop - first))
                planned, bad = self._plan_near(piece)
                parts.append(planned)
                problems += bad
        found = pa.concat_tables(parts).combine_chunks()
        for name in found.column_names:
            table = table.append_column(name, found.column(name))
        return table, problems

    def _plan_near(self, images: pa.Table) -> tuple[pa.Table, list[str]]:
        """Plan neighbouring images: the columns that come from the catalogue, and a list of problems."""
        n = images.num_rows
        outlines = _outlines(images)
        middles, reaches = _circles(outlines, self._margin)
        candidates, held = self._candidates(middles, reaches)
        admitted = np.zeros(n, dtype=np.bool_)
        if len(self._movers.sources):
            candidates, held, admitted = self._with_movers(outlines, candidates, held)
        parts = [self._part(i) for i in candidates.tolist()]
        ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)])
        order = np.argsort(ids, kind="stable")
        home = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])[order]
        sources = SourcePositions.joined([part.sources for part in parts]).rows(order)
        guarded = (candidates[home] == self._outside).astype(np.int64) if self._outside in candidates else None
        offsets, rows = sources.select(outlines, self._margin, guarded, admitted)
        if self._choice:
            columns = {name: column[order] for name, column in joined([part.chosen_by for part in parts]).items()}
            offsets, rows = self._choice.keep(offsets, rows, columns, image_facts(images, self._band))
        from skygraft.planning.selection_loops import gather

        costs = np.concatenate([np.empty(0), *(part.costs for part in parts)])[order]
        reads, seconds = gather(offsets, rows, home, len(parts), costs)
        counts = np.diff(offsets)
        if not self._by_galsim:
            area = numpy_array(one_array(images.column("nx"))) * numpy_array(one_array(images.column("ny"))) / 1e6
            # At most all of its sources are stars.
            for i in np.flatnonzero(counts * _SECONDS["Star"] > _CROWDED[0] * area).tolist():
                n_stars = int(np.count_nonzero(costs[rows[offsets[i] : offsets[i + 1]]] == _SECONDS["Star"]))
                seconds[i] -= _saved_seconds(n_stars, float(area[i]))
        problems = []
        keys: list[str] = []
        bands = [band or self._band for band in images.column("band").to_pylist()]
        lanes: dict[str | None, NDArray[np.uint64]] = {}
        unsure = held & self._unsure(candidates, outlines.times)
        for i in range(n):
            if unsure[i].any():
                # The image will fail with the same error when it is run; the others are not affected.
                mine = np.flatnonzero(held[i][home])
                time = float(outlines.times[i])
                moving = np.intersect1d(mine, sources.moving(time))
                try:
                    if moving.size:
                        check_motion(ids[order][moving], sources.motion[moving, 2], time)
                except CatalogError as error:
                    problems.append(f"{images.column('image_id')[i].as_py()}: {error}")
                    reads[i], counts[i], seconds[i] = held[i], 0, 0.0
                    keys.append(digest_rows(np.empty((0, 2), dtype=np.uint64)))
                    continue
            if bands[i] not in lanes:
                lanes[bands[i]] = np.concatenate(
                    [np.empty((0, 2), np.uint64), *(part.lanes_of(bands[i]) for part in parts)]
                )[order]
            keys.append(digest_rows(lanes[bands[i]][rows[offsets[i] : offsets[i + 1]]]))
        n_pixels = numpy_array(one_array(images.column("nx"))) * numpy_array(one_array(images.column("ny")))
        cost = estimate_seconds(numpy_array(one_array(images.column("n_bytes"))), n_pixels, seconds)
        return (
            pa.table(
                {
                    "reads": self._reads(reads, candidates),
                    "n_sources": arrow_array(counts),
                    "cost_seconds": arrow_array(np.round(cost, 3)),
                    "catalog_key": pa.array(keys, type=pa.string()),
                }
            ),
            problems,
        )

    def _candidates(
        self, middles: NDArray[np.float64], reaches: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Partitions whose circles touch those of M images: their P indices, and which image each touches, (M, P)."""
        middle = middles.sum(axis=0)
        length = np.linalg.norm(middle)
        middle = middle / length if length > 1e-9 else middles[0]
        reach = float((_angle(middles, middle) + reaches).max())
        near = min(reach + self._widest, np.pi)
        found = np.array(sorted(self._tree.query_ball_point(middle, 2 * np.sin(near / 2) + 1e-9)), dtype=np.int64)
        found = found[found != self._outside]
        gaps = _angle(middles[:, None, :], self._bounds.centers[found][None])
        held = gaps <= reaches[:, None] + self._reach[found][None]
        some = held.any(axis=0)
        return found[some], held[:, some]

    def _with_movers(
        self, outlines: Outlines, candidates: NDArray[np.int64], held: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """The candidates with the partitions of far movers added, and the images that a mover in no tract is on."""
        offsets, rows = self._movers.sources.select(outlines, self._margin)
        images = np.repeat(np.arange(len(outlines)), np.diff(offsets))
        homes = self._movers.homes[rows]
        every = np.union1d(candidates, homes)
        grown = np.zeros((len(outlines), len(every)), dtype=np.bool_)
        grown[:, np.searchsorted(every, candidates)] = held
        grown[images, np.searchsorted(every, homes)] = True
        admitted = np.zeros(len(outlines), dtype=np.bool_)
        admitted[images[homes == self._outside]] = True
        return every, grown, admitted

    def _unsure(self, candidates: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which partitions hold sources whose position at the time of an image is unknown, shape (M, P)."""
        moving = self._bounds.moving[candidates] > 0
        return (np.isnan(times)[:, None] & moving[None]) | self._lost[candidates][None]

    def _part(self, i: int) -> _Part:
        with self._lock:
            part = self._parts.pop(i, None)
            if part is None:
                part = _Part.read(self._catalog, self._bounds.keys[i], self._choice, by_galsim=self._by_galsim)
                self._n_bytes += part.n_bytes
            self._parts[i] = part
            while self._n_bytes > _CACHE_BYTES and len(self._parts) > 1:
                self._n_bytes -= self._parts.popitem(last=False)[1].n_bytes
            return part

    def _reads(self, reads: NDArray[np.bool_], candidates: NDArray[np.int64]) -> Any:
        _, columns = np.nonzero(reads)
        pairs = np.array([self._bounds.keys[i] for i in candidates[columns].tolist()], dtype=np.int64).reshape(-1, 2)
        offsets = np.concatenate([[0], np.cumsum(reads.sum(axis=1))]).astype(np.int32)
        flat = pa.FixedSizeListArray.from_arrays(arrow_array(np.ascontiguousarray(pairs).reshape(-1)), 2)
        return pa.ListArray.from_arrays(arrow_array(offsets), flat)


def _outlines(images: pa.Table) -> Outlines:
    from skygraft.planning.selection_loops import unit_vectors

    polygons = one_array(images.column("polygon"))
    sizes = numpy_array(polygons.value_lengths())
    points = numpy_array(polygons.flatten().flatten()).reshape(-1, 2)
    return Outlines(
        unit_vectors(np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        numpy_array(one_array(images.column("mjd")).fill_null(np.nan)),
        numpy_array(one_array(images.column("visit")).fill_null(-1)),
    )


def _circles(outlines: Outlines, margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (unit vectors, shape (M, 3)) and radii (radians) of circles around the outlines and their margins."""
    starts = outlines.bounds[:-1]
    middles = np.add.reduceat(outlines.corners, starts)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    gaps = _angle(outlines.corners, np.repeat(middles, np.diff(outlines.bounds), axis=0))
    return middles, np.maximum.reduceat(gaps, starts) + np.radians(margin / 3600) + _GUARD


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2 * np.arcsin(np.minimum(np.linalg.norm(a - b, axis=-1) / 2, 1)))


@dataclass(frozen=True)
class PlannerSpec:
    """The settings of a `PatchPlanner`, small and hashable; `movers` is the file that `Movers.write` wrote."""

    catalog: Path
    movers: Path
    margin_arcsec: float
    band: str | None
    by_galsim: bool = False
    choice: str = ""


def plan_patches(spec: PlannerSpec, rows: ImageRows) -> tuple[pa.Table, list[str]]:
    """Plan some images as `PatchPlanner.plan` does, with one planner in each process."""
    return _planner(spec, spec.movers.stat().st_mtime_ns).plan(rows)


@functools.lru_cache(maxsize=1)
def _planner(spec: PlannerSpec, mtime_ns: int) -> PatchPlanner:
    del mtime_ns
    movers = Movers.read(spec.movers)
    margin, band = spec.margin_arcsec, spec.band
    return PatchPlanner(spec.catalog, movers, margin, band, by_galsim=spec.by_galsim, choice=spec.choice)
