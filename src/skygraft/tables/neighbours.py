"""The images of a home patch, and its neighbours: images of other patches that overlap them in the same visit.

A source on two of them has two rows of truth, of which one is to count: each patch has to know the other's images. They
are found from the plan alone, in memory that grows with the number of images by some tens of bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skygraft.records.plan_file import Plan
from skygraft.tables.arrow import numbers
from skygraft.tables.patch_keys import packed
from skygraft.wcs.base import to_vectors

__all__ = ["Neighbours", "PatchImages", "PlacedImage", "find_neighbours"]

_BOW = 0.002
"""How far an edge may bow out between its corners, as a fraction of the image's diagonal: some 10 pixels of 5000."""
_PAIRS_AT_ONCE = 100_000


class PlacedImage(NamedTuple):
    """An image of the plan as consolidation needs it; fields as in `skygraft.records.plan_file.PlannedImage`."""

    tract: int
    patch: int
    image_id: str
    stem: str
    band: str | None
    instrument: str | None
    detector: str | None
    visit: int | None
    mjd: float | None


@dataclass(frozen=True)
class PatchImages:
    """The images of one home patch.

    Parameters
    ----------
    tract, patch : int
        The patch; -1 for images that lie on no tract of the sky map.
    images : tuple of PlacedImage
        Its images, in the order of the plan.
    neighbours : tuple of PlacedImage
        Images of other home patches that overlap one of these in the same visit, by image id.
    """

    tract: int
    patch: int
    images: tuple[PlacedImage, ...]
    neighbours: tuple[PlacedImage, ...] = ()


class Neighbours:
    """Finds the images that overlap images of a home patch, in one visit, and are at home elsewhere.

    Parameters
    ----------
    rows : ndarray of int, shape (N, 2)
        Pairs of rows of the plan: an image, and one that overlaps it; sorted.
    images : dict of int to PlacedImage
        The second of each pair, by row.
    """

    def __init__(self, rows: NDArray[np.int64], images: dict[int, PlacedImage]) -> None:
        self._rows, self._images = rows, images

    def of(self, start: int, stop: int) -> tuple[PlacedImage, ...]:
        """The images that overlap one of rows `start` to `stop` of the plan, by image id."""
        first, last = np.searchsorted(self._rows[:, 0], [start, stop])
        found = np.unique(self._rows[first:last, 1]).tolist()
        return tuple(sorted((self._images[row] for row in found), key=lambda image: image.image_id))


def find_neighbours(plan: Plan) -> Neighbours:
    """Find the images of a plan that overlap images of other home patches in the same visit."""
    table = plan.table(["instrument", "visit", "tract", "patch", "ra", "dec", "nx", "ny", "pixel_scale"])
    home = packed(numbers(table.column("tract")), numbers(table.column("patch")))
    visit = _visits(table)
    centre = to_vectors(numbers(table.column("ra")), numbers(table.column("dec")))
    diagonal = np.radians(
        np.hypot(numbers(table.column("nx")), numbers(table.column("ny"))) * numbers(table.column("pixel_scale")) / 3600
    )
    del table
    pairs = np.concatenate([np.empty((0, 2), np.int64), *_near(visit, home, centre, diagonal)])
    if len(pairs):
        rows = np.unique(pairs)
        corners = _corners(plan, rows)
        some = (pairs[i : i + _PAIRS_AT_ONCE] for i in range(0, len(pairs), _PAIRS_AT_ONCE))
        keep = [_overlap(corners[np.searchsorted(rows, part)], diagonal[part]) for part in some]
        pairs = pairs[np.concatenate(keep)]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    wanted = np.unique(pairs[:, 1])
    images = {
        row: PlacedImage(*(getattr(image, name) for name in PlacedImage._fields))
        for row, image in zip(wanted.tolist(), plan.images(wanted), strict=True)
    }
    return Neighbours(pairs, images)


def _visits(table: pa.Table) -> NDArray[np.int64]:
    """A number for each visit of each instrument; -1 for images without a visit."""
    known = np.asarray(numbers(pc.is_valid(table.column("visit")))).astype(np.bool_)
    names = table.column("instrument").combine_chunks().dictionary_encode(null_encoding="encode").indices
    names = numbers(pc.cast(names, pa.int64()))
    visits = numbers(pc.fill_null(table.column("visit"), 0))
    found = np.full(len(known), -1, dtype=np.int64)
    if known.any():
        both = np.stack([names[known], visits[known]], axis=1)
        found[known] = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    return found


def _near(
    visit: NDArray[np.int64], home: NDArray[np.int64], centre: NDArray[np.float64], diagonal: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of images of one visit and different home patches whose circumscribed circles meet."""
    order = np.argsort(visit, kind="stable")
    order = order[np.searchsorted(visit[order], 0) :]
    starts = np.flatnonzero(np.r_[True, np.diff(visit[order]) != 0]) if order.size else np.empty(0, np.int64)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=False):
        rows = order[start:stop]
        if stop - start < 2 or np.all(home[rows] == home[rows[0]]):
            continue
        apart = np.linalg.norm(centre[rows][:, None] - centre[rows][None], axis=-1)
        reach = 0.5 * (1 + _BOW) * (diagonal[rows][:, None] + diagonal[rows][None])
        i, j = np.nonzero(np.triu((apart <= reach) & (home[rows][:, None] != home[rows][None]), 1))
        yield np.stack([rows[i], rows[j]], axis=1)


def _corners(plan: Plan, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Unit vectors of the four corners of N images, shape (N, 4, 3); NaN for outlines that are no quadrangle."""
    found = np.full((len(rows), 4, 3), np.nan)
    start = 0
    for batch in plan.batches(["polygon"]):
        stop = start + batch.num_rows
        mine = np.arange(*np.searchsorted(rows, (start, stop)))
        polygons = batch.column("polygon")
        offsets = numbers(polygons.offsets).astype(np.int64)
        points = numbers(polygons.values.flatten()).reshape(-1, 2)
        first, count = offsets[:-1][rows[mine] - start], np.diff(offsets)[rows[mine] - start]
        known = (count > 0) & (count % 4 == 0)  # as many points on each edge, from a corner on
        places = first[known][:, None] + count[known][:, None] // 4 * np.arange(4)
        found[mine[known]] = to_vectors(*np.moveaxis(points[places], -1, 0))
        start = stop
    return found


def _overlap(corners: NDArray[np.float64], diagonal: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the pairs of quadrangles that meet: no great circle along an edge of one has all of the other beyond it.

    Edges are moved out by the bow that distortion may give them, so images that touch count as meeting, and so do
    images whose corners are not known.

    Parameters
    ----------
    corners : ndarray, shape (N, 2, 4, 3)
        Of the images of each pair.
    diagonal : ndarray, shape (N, 2)
        Theirs, radians.
    """
    one, two = corners[:, 0], corners[:, 1]
    apart = np.zeros(len(corners), dtype=np.bool_)
    margin = _BOW * diagonal.max(axis=1)
    for a, b in ((one, two), (two, one)):
        normal = np.cross(a, np.roll(a, -1, axis=1))
        with np.errstate(invalid="ignore"):
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            inside = np.einsum("pek,pk->pe", normal, a.mean(axis=1))  # the sign tells in which sense the corners run
            beyond = np.einsum("pek,pck->pec", normal, b) * np.sign(inside)[:, :, None]
            apart |= (beyond < -margin[:, None, None]).all(axis=2).any(axis=1)
    return ~apart
