"""Tables of positions: those to put sources around, and real sources to stay away from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.dialects import Source
from skygraft.catalog.io import read_table
from skygraft.errors import CatalogError
from skygraft.generation.avoid import AvoidedSources, radius_of_magnitude
from skygraft.generation.spec import AroundSpec, AvoidTable

__all__ = ["avoided_sources", "centres_of"]

type Floats = NDArray[np.float64]


def centres_of(spec: AroundSpec) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Read the positions to put sources around.

    Parameters
    ----------
    spec : AroundSpec

    Returns
    -------
    ra, dec : ndarray, shape (M,)
        ICRS degrees.
    numbers : ndarray of int64, shape (M,)
        Their ids, or rows.

    Raises
    ------
    CatalogError
        If columns are missing (names all), or a position is not on the sphere.
    """
    source, ra, dec = _positions_of(spec.path, spec.ra, spec.dec, () if spec.id is None else (spec.id,))
    numbers = np.arange(len(ra), dtype=np.int64) if spec.id is None else source.ids(spec.id)
    if not len(ra):
        raise CatalogError("the table has no rows", path=spec.path, key="positions.around", fix="Give positions")
    bad = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90))
    if bad.any():
        raise CatalogError(
            f"{np.count_nonzero(bad)} positions are not on the sphere",
            path=spec.path,
            row=int(np.argmax(bad)),
            key=spec.ra,
            fix="Give degrees, or a unit in the file",
        )
    return ra, dec, numbers


def _positions_of(path: Path, ra: str, dec: str, others: Sequence[str]) -> tuple[Source, Floats, Floats]:
    """Positions of a table, degrees; all columns that are missing are named."""
    source = Source(read_table(path), str(path))
    source.require((ra, dec, *others), "Name its columns: {ra: ..., dec: ...}")
    return source, source.numbers(ra, "deg"), source.numbers(dec, "deg")


def avoided_sources(spec: AvoidTable) -> AvoidedSources:
    """Read real sources to stay away from.

    Parameters
    ----------
    spec : AvoidTable

    Returns
    -------
    AvoidedSources

    Raises
    ------
    CatalogError
        If columns are missing; names all.
    """
    others = [name for name in (spec.radius_column, spec.mag) if name is not None]
    source, ra, dec = _positions_of(spec.path, spec.ra, spec.dec, others)
    if spec.radius_by_mag is not None:
        assert spec.mag is not None
        radius = radius_of_magnitude(source.numbers(spec.mag, None), spec.radius_by_mag)
    elif spec.radius_column is not None:
        radius = source.numbers(spec.radius_column, "arcsec")
    else:
        assert spec.radius is not None
        radius = np.full(len(ra), spec.radius)
    return AvoidedSources(ra, dec, radius)
