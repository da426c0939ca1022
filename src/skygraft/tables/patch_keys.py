"""Patches as keys: of many at once as one integer each, and one fingerprint of what is known of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Key", "fingerprint", "packed", "unpacked"]

type Key = tuple[int, int]
"""Tract and patch."""


def packed(tract: NDArray[np.int64], patch: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tracts and patches as one number each; neither needs more than 32 bits."""
    return tract.astype(np.int64) << 32 | patch.astype(np.int64) & 0xFFFFFFFF


def unpacked(numbers: NDArray[np.int64]) -> list[Key]:
    """The tracts and patches of such numbers."""
    patch = numbers & 0xFFFFFFFF
    return list(zip((numbers >> 32).tolist(), np.where(patch >> 31, patch - (1 << 32), patch).tolist(), strict=True))


def fingerprint(digests: Mapping[Key, str]) -> str:
    """SHA-256 of the fingerprints of patches, hexadecimal or empty for none, whatever order they came in."""
    sha = hashlib.sha256()
    for (tract, patch), digest in sorted(digests.items()):
        sha.update(f"{tract} {patch} ".encode() + bytes.fromhex(digest))
    return sha.hexdigest()
