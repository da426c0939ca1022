"""Variance planes of images of space telescopes: a total, and the part of it that is photon noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["added_variance"]


def added_variance(new: NDArray[np.float32], old: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which pixels of a variance plane changed, and by how much; zero where it did not.

    Parameters
    ----------
    new, old : ndarray, shape (ny, nx)
        Total variance after and before injection.

    Returns
    -------
    changed : ndarray of bool, shape (ny, nx)
    added : ndarray of float32, shape (ny, nx)
    """
    changed = (new != old) & ~(np.isnan(new) & np.isnan(old))
    with np.errstate(invalid="ignore"):
        return changed, np.where(changed, new - old, np.float32(0))
