"""Fingerprints of a survey's patches in 40 bytes each: as dicts they would take a driver ten times that."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

__all__ = ["Digests", "Key", "pack", "packed", "unpacked"]

type Key = tuple[int, int]
"""Tract and patch."""

_SIZE = hashlib.sha256().digest_size


def packed(tract: NDArray[np.int64], patch: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tract and patch as one number; neither needs more than 32 bits."""
    return tract.astype(np.int64) << 32 | patch.astype(np.int64) & 0xFFFFFFFF


def pack(key: Key) -> int:
    """The same of one patch."""
    return key[0] << 32 | key[1] & 0xFFFFFFFF


def unpacked(number: int) -> Key:
    """Tract and patch of such a number."""
    patch = number & 0xFFFFFFFF
    return number >> 32, patch - (1 << 32) if patch >> 31 else patch


class Digests:
    """A SHA-256, or none, of each of many patches; they are added in any order, then looked up."""

    def __init__(self) -> None:
        self._tracts, self._patches, self._values = array("q"), array("q"), bytearray()
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._tracts)

    def add(self, key: Key, digest: str) -> None:
        """Take in a patch that was not there, with its fingerprint in hexadecimal digits, empty for none."""
        value = bytes.fromhex(digest) or bytes(_SIZE)
        if len(value) != _SIZE:
            raise ValueError(f"a SHA-256 has {_SIZE} bytes, not {len(value)}")
        self._tracts.append(key[0])
        self._patches.append(key[1])
        self._values += value
        self._sorted = None

    def find(self, keys: NDArray[np.int64]) -> list[str]:
        """Fingerprints of some patches, given as `packed` numbers; empty for those that have none or are not there."""
        found, order = self._index()
        if not len(found):
            return [""] * len(keys)
        place = np.minimum(np.searchsorted(found, keys), len(found) - 1)
        known = found[place] == keys
        return [self._digest(i).hex() if yes else "" for i, yes in zip(order[place].tolist(), known, strict=True)]

    def keys(self, *, only_with_digest: bool = False) -> set[int]:
        """The patches, as `packed` numbers."""
        found, order = self._index()
        pairs = zip(found.tolist(), order.tolist(), strict=True)
        return {key for key, i in pairs if not only_with_digest or self._digest(i)}

    def fingerprint(self) -> str:
        """One SHA-256 of all of them, whatever order they came in."""
        sha = hashlib.sha256()
        for i in np.lexsort([np.array(self._patches), np.array(self._tracts)]).tolist():
            sha.update(f"{self._tracts[i]} {self._patches[i]} ".encode() + self._digest(i))
        return sha.hexdigest()

    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._sorted is None:
            keys = packed(np.array(self._tracts, dtype=np.int64), np.array(self._patches, dtype=np.int64))
            order = np.argsort(keys, kind="stable")
            self._sorted = keys[order], order
        return self._sorted

    def _digest(self, i: int) -> bytes:
        value = bytes(self._values[_SIZE * i : _SIZE * (i + 1)])
        return value if any(value) else b""
