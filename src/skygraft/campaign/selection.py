"""Which catalogue rows an image gets, and a fingerprint of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog import positions_at, values

__all__ = ["digest_rows", "near_polygon", "row_digests", "select"]

_ARCSEC = 180 * 3600 / np.pi


def near_polygon(ra: ArrayLike, dec: ArrayLike, polygon: ArrayLike, margin_arcsec: float = 0.0) -> NDArray[np.bool_]:
    """Which positions lie inside a sky polygon, or within a margin of its edge.

    Worked out in the tangent plane at the polygon's middle, where great circles are straight: exact inside; the
    margin is stretched by the plane's scale, below 1e-3 of it up to 2 degrees from the middle.

    Parameters
    ----------
    ra, dec : array_like, shape (N,)
        ICRS degrees.
    polygon : array_like, shape (M, 2)
        Vertices in order, ICRS degrees; smaller than a hemisphere.
    margin_arcsec : float
        Width of the margin.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    points = _unit_vectors(ra, dec)
    vertices = _unit_vectors(*np.asarray(polygon, dtype=float).T)
    middle = vertices.sum(axis=0)
    middle /= np.linalg.norm(middle)
    reach = np.arccos(np.clip((vertices @ middle).min(), -1, 1)) + margin_arcsec / _ARCSEC
    near = points @ middle >= np.cos(min(reach * 1.0001 + 1e-9, np.pi / 2 - 1e-6))
    result = np.zeros(len(points), dtype=bool)
    if near.any():
        east, north = _axes(middle)
        x, y = _project(points[near], middle, east, north)
        edges_x, edges_y = _project(vertices, middle, east, north)
        result[near] = _inside_or_close(x, y, edges_x, edges_y, margin_arcsec)
    return result


def select(
    table: QTable,
    polygon: ArrayLike,
    margin_arcsec: float,
    *,
    mjd: float | None = None,
    visit: int | None = None,
) -> NDArray[np.intp]:
    """Rows of a canonical catalogue that an image gets.

    Those that stand, at the image's time, within its outline or the margin around it, and are not meant for another
    visit. It does not depend on how the catalogue was cut into patches.

    Parameters
    ----------
    table : QTable
        Canonical columns.
    polygon : array_like, shape (M, 2)
        The image's outline, ICRS degrees.
    margin_arcsec : float
        Width of the margin.
    mjd : float, optional
        Middle of the exposure, TAI days.
    visit : int, optional
        The image's visit; an image of none gets the rows for all visits only.

    Returns
    -------
    ndarray of int
        Row numbers, ascending.

    Raises
    ------
    CatalogError
        If a source moves and the image has no time.
    """
    ra, dec = positions_at(table, mjd)
    keep = near_polygon(ra, dec, polygon, margin_arcsec)
    if "visit" in table.colnames:
        wanted = values(table, "visit")
        keep &= (wanted == -1) if visit is None else (wanted == -1) | (wanted == visit)
    return np.flatnonzero(keep)


def _unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    lon, lat = np.radians(np.asarray(ra, dtype=float)), np.radians(np.asarray(dec, dtype=float))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _axes(middle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # At a pole any direction serves as East.
    east = np.array([-middle[1], middle[0], 0.0])
    length = np.linalg.norm(east)
    east = east / length if length > 1e-12 else np.array([1.0, 0.0, 0.0])
    return east, np.cross(middle, east)


def _project(
    vectors: NDArray[np.float64],
    middle: NDArray[np.float64],
    east: NDArray[np.float64],
    north: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    depth = vectors @ middle
    return vectors @ east / depth * _ARCSEC, vectors @ north / depth * _ARCSEC


def _inside_or_close(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    vx: NDArray[np.float64],
    vy: NDArray[np.float64],
    margin: float,
) -> NDArray[np.bool_]:
    inside = np.zeros(len(x), dtype=bool)
    squared = np.full(len(x), np.inf)
    for i in range(len(vx)):
        ax, ay = vx[i - 1], vy[i - 1]
        dx, dy = vx[i] - ax, vy[i] - ay
        # Even-odd rule: an edge counts where a ray towards +x crosses it.
        crosses = (ay > y) != (vy[i] > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < ax + (y - ay) * dx / dy)
        length = dx * dx + dy * dy
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1) if length > 0 else np.zeros(len(x))
        squared = np.minimum(squared, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
    close: NDArray[np.bool_] = inside | (squared <= margin * margin)
    return close


def row_digests(table: QTable, band: str | None) -> list[bytes]:
    """A 16-byte fingerprint of each row: what it says of the source in one band.

    Other bands' magnitudes are left out, so that a change of them leaves the images of this band alone.
    """
    names = [n for n in sorted(table.colnames) if not n.startswith("mag_") or n == f"mag_{band}"]
    columns: list[list[bytes]] = []
    for name in names:
        column = table[name]
        values = np.ma.filled(np.ma.asarray(getattr(column, "value", column)))
        if values.dtype.kind in "USO":
            columns.append([f"{name}={value}\0".encode() for value in values.tolist()])
        else:
            width = values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=int))
            raw = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
            tag = f"{name}={values.dtype.str[1:]}".encode()
            columns.append([tag + raw[i : i + width] for i in range(0, len(raw), width)])
    return [hashlib.blake2b(b"".join(cells), digest_size=16).digest() for cells in zip(*columns, strict=True)]


def digest_rows(digests: Sequence[bytes]) -> str:
    """The fingerprint of several rows, in the order given (that of ``injection_id``)."""
    return hashlib.sha256(b"".join(digests)).hexdigest()
