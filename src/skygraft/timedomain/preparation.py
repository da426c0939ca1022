"""What happens to a campaign's catalogue before it is partitioned: ephemerides, then light curves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.timedomain.ephemerides import Ephemerides, ephemerides_of_file
from skygraft.timedomain.light_curve_rows import LightCurveRows

__all__ = ["EphemerisPart", "Part", "Preparation", "preparation"]


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
class EphemerisPart:
    """Rows with an ephemeris are replaced by its pieces; see `skygraft.timedomain.ephemerides`.

    Parameters
    ----------
    path : Path
        Table of ephemerides.
    """

    path: Path

    @property
    def ephemerides(self) -> Ephemerides:
        """The ephemerides, read once in each process."""
        return ephemerides_of_file(self.path)

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        if not self.path.is_file():
            raise CatalogError("there is no such file", path=self.path, key="ephemerides", fix="Check the path")
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows(self, chunk: QTable) -> QTable:
        """The rows of a chunk, those with an ephemeris replaced by its pieces."""
        return self.ephemerides.rows(chunk)

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """The pieces of objects that the catalogue lacks."""
        return self.ephemerides.rest(ids, like)

    def beside(self, partition: pa.Table) -> dict[str, pa.Table]:
        """Nothing: the pieces hold all that is needed."""
        del partition
        return {}


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

    @property
    def has_light_curves(self) -> bool:
        """Whether there is a table of light curves, or one of ephemerides with magnitudes."""
        return any(isinstance(part, LightCurveRows) for part in self.parts)

    @property
    def light_curve_bands(self) -> tuple[str, ...] | None:
        """Bands in which light curves have values; None where there are no light curves."""
        return next((part.curves.bands for part in self.parts if isinstance(part, LightCurveRows)), None)

    def uncovered(self, times: NDArray[np.float64], most: int) -> dict[str, Any]:
        """Find the moving objects without a position at the time of some image.

        Parameters
        ----------
        times : ndarray, shape (T,)
            Times of the images, MJD TAI; NaN where there is none.
        most : int
            Longest list of notes.

        Returns
        -------
        dict
            Their number ``n``, and ``notes`` about the first of them (JSON types).
        """
        for part in self.parts:
            if isinstance(part, EphemerisPart):
                names, missed = part.ephemerides.uncovered(times)
                total = int(np.isfinite(times).sum())
                notes = [
                    f"{name}: no position at the time of {n} of {total} images"
                    for name, n in zip(names[:most].tolist(), missed[:most].tolist(), strict=True)
                ]
                return {"n": len(names), "notes": notes}
        return {"n": 0, "notes": []}

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


def preparation(
    ephemerides: Path | None = None,
    light_curves: Path | None = None,
    *,
    folder: Path = Path(),
    on_bad: Literal["raise", "flag"] = "raise",
) -> Preparation | None:
    """Make the preparation of a campaign's catalogue.

    Parameters
    ----------
    ephemerides : Path, optional
        Table of ephemerides.
    light_curves : Path, optional
        Table of light curves.
    folder : Path
        For temporary files that all processes see.
    on_bad : {"raise", "flag"}
        Whether rows whose light curve is not in the table are an error, or are flagged.

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
    own: Path | None = None
    if ephemerides is not None:
        moving = EphemerisPart(ephemerides)
        parts.append(moving)
        own = ephemerides if moving.ephemerides.has_magnitudes else None
    if light_curves is not None or own is not None:
        parts.append(LightCurveRows(light_curves, folder, on_bad, own))
    return Preparation(tuple(parts)) if parts else None
