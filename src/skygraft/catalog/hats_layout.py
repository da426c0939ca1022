"""How HATS cuts the sky: which HEALPix pixels are partitions, which rows are near others, and files of metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.hats_properties import VERSION
from skygraft.errors import CatalogError

__all__ = [
    "DEEPEST",
    "margin_order",
    "near_partitions",
    "partition_pixels",
    "properties_made",
    "skymap_order",
    "write_properties",
    "write_skymap",
]

DEEPEST = 29
"""The order of the spatial index."""
_SKYMAP = 8
_NOTE_DATE = "2025-08-22"
_ROOMIER = 2.0
"""Factor by which pixels are wider than the margin that is found with them."""


def margin_order(margin_arcsec: float) -> int:
    """Return the finest order whose pixels are so wide that what is within the margin is in a pixel or its neighbours.

    Parameters
    ----------
    margin_arcsec : float
        Width of the margin; 0 for none.

    Raises
    ------
    CatalogError
        If it is negative, or wider than a degree.
    """
    if not 0.0 <= margin_arcsec <= 3600.0:
        raise CatalogError(
            f"the margin is {margin_arcsec:g} arcsec; it must be from 0 to 3600", key="margin", fix="Choose another"
        )
    if margin_arcsec == 0.0:
        return DEEPEST
    side = np.degrees(np.sqrt(np.pi / 3.0)) * 3600.0  # of a pixel of order 0
    return int(np.clip(np.floor(np.log2(side / (_ROOMIER * margin_arcsec))), 0, DEEPEST))


def partition_pixels(
    pixels: NDArray[np.int64], counts: NDArray[np.int64], finest: int, max_rows: int
) -> list[tuple[int, int]]:
    """Return the pixels (order, number) of partitions: each as large as `max_rows` allows, in the order of the sky.

    Parameters
    ----------
    pixels, counts : ndarray of int, shape (N,)
        Pixels of the finest order with rows, ascending, and the number of those.
    finest : int
        That order.
    max_rows : int
        Rows in a partition, where the finest order does not make it larger.
    """
    sums = np.concatenate([[0], np.cumsum(counts)])
    out: list[tuple[int, int]] = []
    waiting = [(0, pixel) for pixel in range(11, -1, -1)]
    while waiting:
        order, pixel = waiting.pop()
        shift = 2 * (finest - order)
        first, last = np.searchsorted(pixels, [pixel << shift, (pixel + 1) << shift])
        n = int(sums[last] - sums[first])
        if n == 0:
            continue
        if n <= max_rows or order == finest:
            out.append((order, pixel))
        else:
            waiting += [(order + 1, 4 * pixel + child) for child in (3, 2, 1, 0)]
    return out


def near_partitions(
    index: NDArray[np.int64], own: int, bounds: Sequence[tuple[int, int]], order: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a partition that lie near others, once for each of those.

    Parameters
    ----------
    index : ndarray of int, shape (N,)
        HEALPix indices of the partition's rows, nested, order 29, ascending.
    own : int
        Which partition it is.
    bounds : sequence of (int, int), length P
        First index of every partition, and the first after it, ascending.
    order : int
        From `margin_order`.

    Returns
    -------
    rows, partitions : ndarray of int, shape (M,)
        What is within the margin is among them; so is what is a little further.
    """
    from astropy_healpix import neighbours

    shift = 2 * (DEEPEST - order)
    cells, sizes = np.unique(index >> shift, return_counts=True)
    near = np.asarray(neighbours(cells, 2**order, order="nested"), dtype=np.int64)
    lows, highs = (np.array(ends) for ends in zip(*bounds, strict=True))
    start = near << shift
    target = np.searchsorted(lows, start, side="right") - 1
    target = np.where((near >= 0) & (target >= 0) & (start < highs[target]), target, own)
    cell = np.broadcast_to(np.arange(len(cells)), near.shape)
    pairs = np.unique(np.column_stack([target[target != own], cell[target != own]]), axis=0)
    # The rows of a cell are together, since indices ascend.
    starts, counts = (np.cumsum(sizes) - sizes)[pairs[:, 1]], sizes[pairs[:, 1]]
    rows = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return rows, np.repeat(pairs[:, 0], counts)


def skymap_order(finest: int) -> int:
    """Return the order of the map of counts."""
    return min(_SKYMAP, finest)


def properties_made() -> dict[str, str]:
    """Return the properties that say what wrote a catalogue, when, and by which version of the format."""
    return {
        "hats_builder": f"skygraft v{version('skygraft')}",
        "hats_creation_date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MUTC"),
        "hats_release_date": _NOTE_DATE,
        "hats_version": f"v{VERSION[0]}.{VERSION[1]}",
    }


def write_properties(path: Path, properties: Mapping[str, str], title: str) -> None:
    """Write a file of Java properties.

    Parameters
    ----------
    path : Path
        The file.
    properties : mapping of str to str
        Its content, in order.
    title : str
        A comment in its first line.
    """
    lines = [f"#{title}", *(f"{key}={_escaped(value)}" for key, value in properties.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")


def write_skymap(path: Path, pixels: NDArray[np.int64], counts: NDArray[np.int64], finest: int) -> None:
    """Write how many rows each pixel of a coarse order has, as an explicit HEALPix map."""
    from astropy.io import fits

    order = skymap_order(finest)
    found, inverse = np.unique(pixels >> 2 * (finest - order), return_inverse=True)
    sums = np.bincount(inverse.reshape(-1), weights=counts).astype(np.int64)
    table = fits.BinTableHDU.from_columns(
        [fits.Column("PIXEL", "1K", array=found), fits.Column("VALUE", "1K", array=sums)]
    )
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="C", NSIDE=2**order, ORDER=order, INDXSCHM="EXPLICIT",
        OBS_NPIX=len(found), OBJECT="PARTIAL",
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
