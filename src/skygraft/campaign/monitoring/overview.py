"""What a run of a campaign begins with: how many images there are, and how many of each patch are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Overview", "PatchCount", "make_overview"]


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
    where = np.stack([np.asarray(tract, dtype=np.int64), np.asarray(patch, dtype=np.int64)], axis=1)
    is_done = np.asarray(done, dtype=bool)
    is_failed = np.asarray(failed, dtype=bool) & ~is_done
    cost = np.asarray(cost_seconds, dtype=np.float64)
    keys, index, n_images = np.unique(where, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)

    def total(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(index, weights=values, minlength=len(keys))

    # Directions are averaged as vectors: a patch may lie across right ascension zero.
    lon, lat = np.radians(np.asarray(ra, dtype=np.float64)), np.radians(np.asarray(dec, dtype=np.float64))
    x, y, z = total(np.cos(lat) * np.cos(lon)), total(np.cos(lat) * np.sin(lon)), total(np.sin(lat))
    columns = zip(
        keys.tolist(),
        (np.degrees(np.arctan2(y, x)) % 360.0).tolist(),
        np.degrees(np.arctan2(z, np.hypot(x, y))).tolist(),
        n_images.tolist(),
        total(is_done).astype(int).tolist(),
        total(is_failed).astype(int).tolist(),
        total(cost).tolist(),
        strict=True,
    )
    return Overview(
        name=name,
        output=output,
        n_images=len(where),
        n_done=int(is_done.sum()),
        n_failed=int(is_failed.sum()),
        n_unusable=n_unusable,
        n_sources_planned=int(np.asarray(n_sources).sum()),
        cost_seconds_left=float(cost[~is_done & ~is_failed].sum()),
        patches=tuple(PatchCount(t, p, *rest) for (t, p), *rest in columns),
    )
