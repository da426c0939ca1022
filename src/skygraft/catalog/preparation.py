"""What happens to a catalogue's rows before they are partitioned, and what is stored beside the partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.orders import StoredIntegers
from skygraft.catalog.schema import values

__all__ = ["Preparation", "prepared"]


class Preparation(Protocol):
    """What happens to a catalogue's rows before they are partitioned, and what is stored beside them.

    Objects are picklable, and small: each job that writes partitions gets one. `skygraft.timedomain.preparation` makes
    one of light curves and ephemerides.
    """

    @property
    def digest(self) -> str:
        """SHA-256 of all that it depends on."""
        ...

    def rows(self, chunk: QTable) -> QTable:
        """The rows to store in place of a chunk of the catalogue; their columns do not depend on the chunk.

        Several rows may come from one, with its injection id, if their windows of time are disjoint; they stand
        together, in order of time.
        """
        ...

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """Rows of objects that the catalogue lacks, with the columns of `like`.

        `ids` are the injection and object ids that it has.
        """
        ...

    def beside(self, partition: pa.Table) -> dict[str, pa.Table]:
        """Tables to store beside a partition, by file name (``*.parquet``); pure in the rows of the partition."""
        ...


def prepared(chunks: Iterable[QTable], prepare: Preparation | None, ids: StoredIntegers) -> Iterator[QTable]:
    """Apply a preparation to a catalogue.

    Parameters
    ----------
    chunks : iterable of QTable
        The catalogue.
    prepare : Preparation or None
        None leaves them as they are.
    ids : StoredIntegers
        Gets the injection ids of the catalogue, chunk by chunk, and of the objects that are added to it. The rows that
        a preparation makes of one row share its id, so that uniqueness is that of the catalogue's own rows.

    Yields
    ------
    QTable
        The rows to store.
    """
    if prepare is None:
        for chunk in chunks:
            ids.append(values(chunk, "injection_id"))
            yield chunk
        return
    objects: list[NDArray[np.int64]] = []
    for chunk in chunks:
        ids.append(values(chunk, "injection_id"))
        if "object_id" in chunk.colnames:
            objects.append(values(chunk, "object_id"))
        stored = prepare.rows(chunk)
        if len(stored):
            yield stored
    if len(ids):
        for rest in prepare.rest(np.concatenate([ids.read(), *objects]), stored[:0]):
            ids.append(np.unique(values(rest, "injection_id")))
            yield rest
