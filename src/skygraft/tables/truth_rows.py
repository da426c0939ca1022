"""The rows of the truth table of a patch: what its images say, where the sources lie, and which row of each counts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog import Flag
from skygraft.catalog.io import arrow_array
from skygraft.catalog.truth_columns import TRUTH_COLUMNS, TruthColumn
from skygraft.skymap import SkyMap
from skygraft.skymap.healpix import HealpixSkyMap
from skygraft.tables.arrow import numbers, with_units

__all__ = ["PART_SCHEMA", "REPEATED", "TABLE_COLUMNS", "TRUTH_SCHEMA", "ImageOfRows", "Primaries", "annotate"]

_OWNER = "the patch of the sky map that owns (`ra`, `dec`); -1 where none does"

_ADDED = (
    TruthColumn("visit", "int", "of the image; empty for a coadd", repeated=True),
    TruthColumn("detector", "text", "of the image; empty for a coadd", repeated=True),
    TruthColumn("mjd", "float", "middle of the exposure, TAI; NaN where unknown", "d", repeated=True),
    TruthColumn("source_tract", "int", _OWNER, repeated=True),
    TruthColumn("source_patch", "int", _OWNER, repeated=True),
    TruthColumn("is_patch_inner", "bool", "(`ra`, `dec`) is in the inner region of the home patch"),
    TruthColumn("is_tract_inner", "bool", "the sky map gives (`ra`, `dec`) to the home patch's tract"),
    TruthColumn("is_primary", "bool", "the one row that counts (below)"),
)

TABLE_COLUMNS = (*TRUTH_COLUMNS, *_ADDED)
"""The columns of every truth table; docs/outputs.md explains them."""

_KINDS = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}
PART_SCHEMA = pa.schema([(column.name, _KINDS[column.kind]) for column in TRUTH_COLUMNS])
TRUTH_SCHEMA = with_units(
    {column.name: _KINDS[column.kind] for column in TABLE_COLUMNS},
    {column.name: column.unit for column in TABLE_COLUMNS},
)
REPEATED = tuple(column.name for column in TABLE_COLUMNS if column.repeated)


class ImageOfRows(Protocol):
    """What the rows of an image say of it."""

    @property
    def here(self) -> bool:
        """Whether it is an image of the patch itself."""

    @property
    def instrument(self) -> str | None:
        """Its instrument."""

    @property
    def visit(self) -> int | None:
        """Its visit; None for a coadd."""

    @property
    def detector(self) -> str | None:
        """Its detector."""

    @property
    def mjd(self) -> float | None:
        """The middle of its exposure, MJD."""


type Batches = Sequence[pa.RecordBatch]


def _joined(parts: Sequence[Batches]) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """The rows of all parts, sorted by injection id within each; the part of each row, and where each begins."""
    counts = [sum(batch.num_rows for batch in part) for part in parts]
    image, starts = np.repeat(np.arange(len(parts)), counts), np.cumsum([0, *counts])
    rows = pa.Table.from_batches([batch for part in parts for batch in part], schema=PART_SCHEMA).combine_chunks()
    ids = numbers(rows["injection_id"])
    falls = image[1:][(ids[1:] <= ids[:-1]) & (image[1:] == image[:-1])]
    if falls.size:
        # Sorted by image, which they are, and stably by source.
        rows = rows.take(arrow_array(np.lexsort((ids, image))))
    return rows, image, starts


def annotate(
    parts: Sequence[tuple[ImageOfRows, Batches]], skymap: SkyMap, tract: int, patch: int, primaries: Primaries
) -> pa.Table:
    """Add to the truth of images what the images are, and where on the sky map their sources lie."""
    rows, image, starts = _joined([part for _, part in parts])
    ra, dec, ids = numbers(rows["ra"]), numbers(rows["dec"]), numbers(rows["injection_id"])
    source_tract, source_patch = _locate(skymap, ra, dec)
    patch_inner = _in_patch(skymap, tract, patch, ra, dec, source_tract, source_patch)
    tract_inner = (source_tract == tract) & (tract >= 0)
    no_visit = np.array([done.visit is None for done, _ in parts])[image]
    on_image = (numbers(rows["flags"]) & int(Flag.CENTER_OFF_IMAGE)) == 0
    wanted = on_image & (numbers(rows["stamp_size"]) > 0) & (~no_visit | (patch_inner & tract_inner))
    filled = np.flatnonzero(np.diff(starts))
    group = np.zeros(len(parts), dtype=np.int64)
    bands = rows["band"].take(arrow_array(starts[filled])).to_pylist()
    for place, band in zip(filled.tolist(), bands, strict=True):
        done = parts[place][0]
        # Two instruments may number their visits alike; a coadd has neither.
        group[place] = primaries.group(band, (done.visit, done.instrument) if done.visit is not None else None)
    primary = primaries.take(group[image], ids, image, wanted)
    visits = np.array([done.visit or 0 for done, _ in parts], dtype=np.int64)
    detectors = np.array([done.detector or "" for done, _ in parts], dtype=np.str_)
    no_detector = np.array([done.detector is None for done, _ in parts])
    mjds = np.array([np.nan if done.mjd is None else done.mjd for done, _ in parts], dtype=np.float64)
    added = {
        "visit": arrow_array(visits[image], no_visit),
        "detector": arrow_array(detectors, no_detector).take(arrow_array(image)),
        "mjd": arrow_array(mjds[image]),
        "source_tract": arrow_array(source_tract),
        "source_patch": arrow_array(source_patch),
        "is_patch_inner": arrow_array(patch_inner),
        "is_tract_inner": arrow_array(tract_inner),
        "is_primary": arrow_array(primary),
    }
    table = pa.Table.from_arrays([*rows.columns, *(added[column.name] for column in _ADDED)], schema=TRUTH_SCHEMA)
    here = np.array([done.here for done, _ in parts])
    return table if here.all() else table.filter(arrow_array(here[image]))


def _locate(
    skymap: SkyMap, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tract and patch of positions; -1 also if a position is not finite."""
    known = np.isfinite(ra) & np.isfinite(dec)
    tract, patch = np.full((2, ra.size), -1, dtype=np.int64)
    if known.any():
        tract[known], patch[known] = skymap.locate(ra[known], dec[known])
    return tract, patch


def _in_patch(
    skymap: SkyMap,
    tract: int,
    patch: int,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    source_tract: NDArray[np.int64],
    source_patch: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """True for positions in the inner region of a patch, whichever tract they belong to."""
    if tract < 0:
        return np.zeros(ra.size, dtype=np.bool_)
    inner: NDArray[np.bool_] = (source_tract == tract) & (source_patch == patch)
    # Pixels of HEALPix do not overlap (their boxes do): a source of another tract is in no patch of this one.
    others = np.flatnonzero(source_tract != tract)
    if others.size and not isinstance(skymap, HealpixSkyMap):
        geometry, box = _geometry(skymap, tract, patch)
        x, y = geometry.project(ra[others], dec[others])
        with np.errstate(invalid="ignore"):
            inner[others] = (x >= box.x_min) & (x < box.x_max) & (y >= box.y_min) & (y < box.y_max)
    return inner


@functools.lru_cache(maxsize=256)
def _geometry(skymap: SkyMap, tract: int, patch: int) -> Any:
    geometry = skymap.tract(tract)
    return geometry, geometry.patch(patch).inner_box


class Primaries:
    """Chooses one primary row for each source, among the images of one band and visit, or the coadds of one band.

    The images are those of the patch and their neighbours, in the order of image ids, so that all patches agree.
    """

    def __init__(self) -> None:
        self._groups: dict[Any, int] = {}
        self._taken = np.empty((2, 0), dtype=np.int64)

    def group(self, *key: Any) -> int:
        """The number of a group of images."""
        return self._groups.setdefault(key, len(self._groups))

    def take(
        self,
        group: NDArray[np.int64],
        ids: NDArray[np.int64],
        image: NDArray[np.int64],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """True for those of the wanted rows whose image is the first of its group that has a wanted row of the source.

        Parameters
        ----------
        group, ids, image : ndarray of int, shape (N,)
            Group and source of each row, and its image's place, which ascends.
        wanted : ndarray of bool, shape (N,)
            Rows that may be primary.
        """
        rows = np.flatnonzero(wanted)
        keys = np.concatenate([self._taken, np.stack([group[rows], ids[rows]])], axis=1)
        place = np.concatenate([np.full(self._taken.shape[1], -1), image[rows]])
        order = np.lexsort((place, keys[1], keys[0]))
        keys = keys[:, order]
        new = np.r_[True, np.any(keys[:, 1:] != keys[:, :-1], axis=0)][: order.size]
        first = place[order][new][np.cumsum(new) - 1]
        is_first = np.zeros(order.size, dtype=np.bool_)
        is_first[order] = place[order] == first
        found = np.zeros(ids.size, dtype=np.bool_)
        found[rows] = is_first[self._taken.shape[1] :]
        self._taken = keys[:, new]
        return found
