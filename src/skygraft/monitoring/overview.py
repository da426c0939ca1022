"""The state that a run of a campaign begins with, by patch of the sky map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Overview", "PatchTable", "make_overview"]

_BLOCK = 1 << 20
"""Images averaged at a time: their directions in double precision would take 800 MB for ten million."""

type Counts = npt.NDArray[np.int32]
type Degrees = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatchTable:
    """The patches of a campaign and how many of their images are done; one row for each patch.

    Home patches of images, -1 for those in no patch of the sky map; means of the images' centres, ICRS degrees; and the
    numbers of images that are planned, done, and failed at their last attempt.
    """

    tract: Counts
    patch: Counts
    ra: Degrees
    dec: Degrees
    n_images: Counts
    n_done: Counts
    n_failed: Counts

    def __len__(self) -> int:
        return len(self.tract)

    @classmethod
    def of(cls, **columns: npt.ArrayLike) -> Self:
        """Return the table of some columns; counts that are not given are zero."""
        zeros = np.zeros(len(np.asarray(columns["tract"])), dtype=np.int32)
        given: dict[str, Any] = {"n_done": zeros, "n_failed": zeros, **columns}
        for name, values in given.items():
            given[name] = np.array(values, np.float64 if name in ("ra", "dec") else np.int32)
        return cls(**given)

    def copy(self) -> Self:
        """Return a table whose counts can be changed without changing this one's."""
        return replace(self, n_done=self.n_done.copy(), n_failed=self.n_failed.copy())

    def east(self) -> tuple[Degrees, float]:
        """Return right ascensions counted from the middle of the survey, -180 to 180 deg, and that of the middle."""
        angle = np.radians(self.ra)
        middle = float(np.degrees(np.arctan2(np.sin(angle).sum(), np.cos(angle).sum()))) % 360.0
        return (self.ra - middle + 180.0) % 360.0 - 180.0, middle

    def to_dict(self) -> dict[str, Any]:
        """Return the columns by name."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class Overview:
    """The state that a run begins with."""

    name: str
    output: str  # folder
    patches: PatchTable  # images that failed before count as failed, if this run does not try them again
    image_cost: Degrees  # mean estimated processor time of an image of each patch, seconds
    cost_seconds_left: float = 0.0  # estimated processor time of the images that are left
    n_unusable: int = 0  # images of the survey that could not be planned; they are in no patch
    n_sources_planned: int = 0  # sources to draw in all images of the plan

    @property
    def n_images(self) -> int:
        """Images of the plan."""
        return int(self.patches.n_images.sum(dtype=np.int64))

    @property
    def n_done(self) -> int:
        """Images that are done already."""
        return int(self.patches.n_done.sum(dtype=np.int64))

    @property
    def n_failed(self) -> int:
        """Images that failed before and are not tried again in this run."""
        return int(self.patches.n_failed.sum(dtype=np.int64))


def make_overview(
    name: str,
    output: str,
    *,
    tract: npt.ArrayLike,
    patch: npt.ArrayLike,
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    n_sources: npt.ArrayLike,
    cost_seconds: npt.ArrayLike,
    done: npt.ArrayLike,
    failed: npt.ArrayLike,
    n_unusable: int = 0,
) -> Overview:
    """Return the overview of a plan.

    Parameters
    ----------
    name, output : str
        The campaign and its output folder.
    tract, patch, ra, dec, n_sources, cost_seconds : array_like, shape (n_images,)
        Columns of the plan; degrees and seconds.
    done, failed : array_like of bool, shape (n_images,)
        Images that are done, and that failed and are not tried again; an image that is both counts as done.
    n_unusable : int
        As in `Overview`.
    """
    homes, index = _by_patch(np.asarray(tract), np.asarray(patch))
    lon, lat, cost = np.asarray(ra), np.asarray(dec), np.asarray(cost_seconds)
    is_done = np.asarray(done, dtype=bool)
    is_failed = np.asarray(failed, dtype=bool) & ~is_done
    sums = np.zeros((7, len(homes)))
    for start in range(0, len(index), _BLOCK):
        some = slice(start, start + _BLOCK)
        # Directions are averaged as vectors: a patch may lie across right ascension zero.
        a, d = np.radians(lon[some], dtype=np.float64), np.radians(lat[some], dtype=np.float64)
        direction = (np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d))
        columns = (*direction, None, is_done[some], is_failed[some], cost[some])
        sums += [np.bincount(index[some], weights=weights, minlength=len(homes)) for weights in columns]
    x, y, z, n_images, n_done, n_failed, costs = sums
    return Overview(
        name=name,
        output=output,
        patches=PatchTable.of(
            tract=homes[:, 0],
            patch=homes[:, 1],
            ra=np.degrees(np.arctan2(y, x)) % 360.0,
            dec=np.degrees(np.arctan2(z, np.hypot(x, y))),
            n_images=n_images,
            n_done=n_done,
            n_failed=n_failed,
        ),
        image_cost=costs / np.maximum(n_images, 1.0),
        cost_seconds_left=float(cost[~is_done & ~is_failed].sum(dtype=np.float64)),
        n_unusable=n_unusable,
        n_sources_planned=int(np.asarray(n_sources).sum(dtype=np.int64)),
    )


def _by_patch(tracts: npt.NDArray[Any], patches: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Counts]:
    """Return the distinct (tract, patch), sorted, and for each image the index of its own."""
    if not len(tracts):
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int32)
    # By runs, because images of one patch stand together in a plan: some thousand runs sort faster than all images.
    starts = np.flatnonzero(np.r_[True, (tracts[1:] != tracts[:-1]) | (patches[1:] != patches[:-1])])
    runs = np.stack([tracts[starts], patches[starts]], axis=1)
    homes, which = np.unique(runs, axis=0, return_inverse=True)
    return homes, np.repeat(which.reshape(-1).astype(np.int32), np.diff(starts, append=len(tracts)))
