"""Some bytes of a file in a store, of the version that was looked at when it was opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from skygraft.disk import FileIdentity
from skygraft.errors import PlaceError
from skygraft.place_names import STUBS_KIND, as_kind, is_copy, url_of
from skygraft.places.scratch import scratch_of
from skygraft.places.stores import Storage, Store

__all__ = ["RangedFile", "merged"]

_GAP = 1 << 16
"""Bytes between two ranges that are read too: they take less time than another request."""


@dataclass(frozen=True)
class RangedFile:
    """A file in a store that is read by ranges; it can be sent to other machines, and holds no secret.

    Parameters
    ----------
    url : str
        Its URL.
    storage : Storage
        Options of the store.
    identity : FileIdentity
        Size and time of the version that was opened.
    """

    url: str
    storage: Storage
    identity: FileIdentity

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> RangedFile | None:
        """The file that a stub stands for; None for a path under which all of the file can be read."""
        if not is_copy(path) or as_kind(path, STUBS_KIND) != Path(path):
            return None
        url = url_of(path)
        assert url is not None
        identity = FileIdentity.of(path)
        return cls(url, scratch_of(path).storage, FileIdentity(*identity.size_and_time))

    def read(self, ranges: Iterable[tuple[int, int]], write: Callable[[int, bytes], None]) -> None:
        """Read ranges of bytes, a few requests at a time.

        Parameters
        ----------
        ranges : iterable of (int, int)
            First byte, and one past the last. Those that almost touch are read by one request.
        write : callable
            ``write(start, content)`` receives them.

        Raises
        ------
        PlaceError
            If they cannot be read, the server does not give ranges, or the file was changed since it was opened.
        """
        wanted = merged(ranges)
        if not wanted:
            return
        store = Store(self.storage)
        for (start, _), content in zip(wanted, store.read_ranges(self.url, wanted), strict=True):
            write(start, content)
        # Afterwards: what was read is then of this version, whenever it was changed.
        now = store.identity(self.url)
        if now.n_bytes not in (self.identity.n_bytes, -1) or now.mtime_ns != self.identity.mtime_ns:
            raise PlaceError("it was changed since it was opened", path=self.url, fix="Open it again")


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that overlap or almost touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(one for one in ranges if one[0] < one[1]):
        if found and start <= found[-1][1] + _GAP:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
