"""What a run of a campaign begins with: how many images there are, and how many of each patch are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Overview", "PatchCount", "make_overview"]

_BLOCK = 1 << 16
"""Images at a time, of which there may be millions."""


@dataclass(frozen=True, slots=True)
class PatchCount:
    """How far one patch was when a run began.

    Parameters
    ----------
    tract, patch : int
        Home patch of the images; -1 for those in no patch of the sky map.
    ra, dec : float
        Mean of the images' centres, ICRS degrees.
    n_images, n_done, n_failed : int
        Images planned, done, and failed before and not to be tried again.
    cost_seconds : float
        Estimated processor time of all its images.
    """

    tract: int
    patch: int
    ra: float
    dec: float
    n_images: int
    n_done: int = 0
    n_failed: int = 0
    cost_seconds: float = 0.0


@dataclass(frozen=True)
class Overview:
    """What a run begins with.

    Parameters
    ----------
    name, output : str
        The campaign and its output folder.
    n_images : int
        Images of the plan.
    n_done : int
        Those that are done already.
    n_failed : int
        Those that failed before and are not tried again in this run; those that are count as left.
    n_unusable : int
        Images of the survey that could not be planned; not among `n_images`.
    n_sources_planned : int
        Sources to draw in all images of the plan.
    cost_seconds_left : float
        Estimated processor time of the images that are left.
    patches : tuple of PatchCount
        The same by patch.
    """

    name: str
    output: str
    n_images: int
    n_done: int = 0
    n_failed: int = 0
    n_unusable: int = 0
    n_sources_planned: int = 0
    cost_seconds_left: float = 0.0
    patches: tuple[PatchCount, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The overview as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The overview of which `to_dict` made this."""
        patches = tuple(PatchCount(**patch) for patch in content["patches"])
        return cls(**{**content, "patches": patches})


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
    """The overview of a plan.

    Parameters
    ----------
    name, output : str
        The campaign and its output folder.
    tract, patch, ra, dec, n_sources, cost_seconds : array_like, shape (n_images,)
        Columns of the plan.
    done, failed : array_like of bool, shape (n_images,)
        Images that are done, and that failed and are not to be tried again; an image that is both counts as done.
    n_unusable : int
        As in `Overview`.
    """
    tracts, patches = np.asarray(tract), np.asarray(patch)
    keys, index = _by_patch(tracts, patches)
    lon, lat, cost = np.asarray(ra), np.asarray(dec), np.asarray(cost_seconds)
    is_done = np.asarray(done, dtype=bool)
    is_failed = np.asarray(failed, dtype=bool) & ~is_done
    sums = np.zeros((len(keys), 7))
    for start in range(0, len(index), _BLOCK):
        some = slice(start, start + _BLOCK)
        # Directions are averaged as vectors: a patch may lie across right ascension zero.
        a, d = np.radians(lon[some], dtype=np.float64), np.radians(lat[some], dtype=np.float64)
        columns = (np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d), None, is_done[some], is_failed[some])
        for k, weights in enumerate((*columns, cost[some])):
            sums[:, k] += np.bincount(index[some], weights=weights, minlength=len(keys))
    x, y, z, *counts, costs = sums.T
    rows = zip(
        keys.tolist(),
        (np.degrees(np.arctan2(y, x)) % 360.0).tolist(),
        np.degrees(np.arctan2(z, np.hypot(x, y))).tolist(),
        *(count.astype(int).tolist() for count in counts),
        costs.tolist(),
        strict=True,
    )
    return Overview(
        name=name,
        output=output,
        n_images=len(index),
        n_done=int(is_done.sum()),
        n_failed=int(is_failed.sum()),
        n_unusable=n_unusable,
        n_sources_planned=int(np.asarray(n_sources).sum()),
        cost_seconds_left=float(cost[~is_done & ~is_failed].sum(dtype=np.float64)),
        patches=tuple(PatchCount(t, p, *rest) for (t, p), *rest in rows),
    )


def _by_patch(tracts: npt.NDArray[Any], patches: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """The patches (tract, patch), sorted, and which of them each image is of."""
    # By runs: in a plan, images of one patch stand together.
    if not len(tracts):
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int32)
    starts = np.flatnonzero(np.r_[True, (tracts[1:] != tracts[:-1]) | (patches[1:] != patches[:-1])])
    runs = np.stack([tracts[starts], patches[starts]], axis=1)
    keys, which = np.unique(runs, axis=0, return_inverse=True)
    return keys, np.repeat(which.reshape(-1).astype(np.int32), np.diff(starts, append=len(tracts)))
