"""What the catalogue and the truth say of the fakes of an image, as plain arrays."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.io import arrow_array, to_arrow
from skygraft.catalog.schema import strings, values
from skygraft.catalog.truth_columns import TRUTH_COLUMNS
from skygraft.errors import ConfigError
from skygraft.recovery.table import recovery_columns
from skygraft.render.lensing import lensed_ellipse

__all__ = ["catalogue_values", "extra_columns", "rows_of", "truth_values"]

type Floats = NDArray[np.float64]


def truth_values(truth: Table) -> dict[str, NDArray[Any]]:
    """Give the columns of the truth as plain arrays, in the units of `TRUTH_COLUMNS`."""
    found = {}
    for column in TRUTH_COLUMNS:
        content = truth[column.name]
        if column.kind == "text":
            found[column.name] = np.asarray(content).astype(str)
        elif column.kind == "int":
            found[column.name] = np.asarray(content, dtype=np.int64)
        else:
            unit = getattr(content, "unit", None)
            plain = content.to_value(column.unit) if column.quantity and unit is not None else content
            found[column.name] = np.asarray(np.ma.filled(plain, np.nan), dtype=np.float64)
    return found


def rows_of(sources: Table, injection_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the rows of the catalogue that hold some injection ids; -1 for those that it has not."""
    ids = np.asarray(sources["injection_id"], dtype=np.int64)
    if not ids.size:
        return np.full(len(injection_id), -1, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], injection_id), ids.size - 1)
    return np.where(ids[order][at] == injection_id, order[at], -1)


def catalogue_values(sources: Table, rows: NDArray[np.int64], mag: Floats) -> dict[str, Floats]:
    """Give sizes, shapes and weights of the fakes, as the recovery table has them.

    Parameters
    ----------
    sources : Table
        The catalogue, canonical.
    rows : ndarray of int, shape (N,)
        The row of each fake; -1 for none.
    mag : ndarray, shape (N,)
        Its magnitude in the image's band.

    Returns
    -------
    dict of str to ndarray, shape (N,)
        half_light_radius, axis_ratio, position_angle, sersic_n, weight, surface_brightness.

    Notes
    -----
    A bulge and disk have the radius that holds half of the light of both, and axis ratio and angle of the brighter one.
    Shapes are those after lensing.
    """
    known = rows >= 0
    table = sources[np.where(known, rows, 0)] if len(sources) else sources[:0]
    if not len(table):
        known = np.zeros(0, dtype=np.bool_)
    kind = strings(table, "source_type")
    ellipse, bulge_disk = np.isin(kind, _ELLIPSES), kind == "BulgeDisk"
    trail = kind == "Trail"
    radius, ratio, angle = (np.where(ellipse, values(table, name), np.nan) for name in ("half_light_radius", "q", "pa"))
    if bulge_disk.any():
        share = values(table, "bulge_fraction")
        both = [[values(table, f"{part}_{name}") for part in ("bulge", "disk")] for name in _SHAPE]
        pick = np.where(share > 0.5, 0, 1)
        for target, pair in ((ratio, both[1]), (angle, both[2])):
            target[bulge_disk] = np.choose(pick, pair)[bulge_disk]
        radius[bulge_disk] = _half_light(share, both[0], both[3])[bulge_disk]
    angle[trail] = np.where(np.isfinite(values(table, "trail_length_pix")), np.nan, values(table, "trail_pa"))[trail]
    if {"shear", "magnification"} & set(table.colnames):
        sized = np.isfinite(radius) & np.isfinite(ratio) & np.isfinite(angle)
        lens = (values(table, name)[sized] for name in ("shear", "shear_pa", "magnification"))
        radius[sized], ratio[sized], angle[sized] = lensed_ellipse(radius[sized], ratio[sized], angle[sized], *lens)
    with np.errstate(invalid="ignore", divide="ignore"):
        brightness = mag + 2.5 * np.log10(2.0 * math.pi * radius**2) if len(table) else np.full(len(rows), np.nan)
    found = {
        "half_light_radius": radius,
        "axis_ratio": ratio,
        "position_angle": np.where(angle % 180.0 >= 180.0, 0.0, angle % 180.0),
        "sersic_n": np.where(kind == "Sersic", values(table, "n"), np.nan),
        "weight": _weights(table),
    }
    if not len(table):
        found = {name: np.full(len(rows), 1.0 if name == "weight" else np.nan) for name in found}
        return found | {"surface_brightness": brightness}
    blank = {name: np.where(known, column, 1.0 if name == "weight" else np.nan) for name, column in found.items()}
    return blank | {"surface_brightness": np.where(known, brightness, np.nan)}


_ELLIPSES = ("Sersic", "Gaussian", "Moffat", "Spergel", "Kolmogorov", "RandomKnots")
_SHAPE = ("half_light_radius", "q", "pa", "n")


def _weights(table: Table) -> Floats:
    if "weight" not in table.colnames:
        return np.ones(len(table))
    found = np.asarray(values(table, "weight"), dtype=np.float64)
    return np.where(np.isfinite(found), found, 1.0)


def _half_light(share: Floats, radii: Sequence[Floats], indices: Sequence[Floats]) -> Floats:
    """Radius that holds half of the light of a bulge and a disk, both taken as round, by bisection."""
    from scipy.special import gammainc, gammaincinv

    low, high = np.minimum(*radii), np.maximum(*radii)
    shapes = [gammaincinv(2.0 * n, 0.5) for n in indices]
    for _ in range(50):
        middle = 0.5 * (low + high)
        bulge, disk = (
            gammainc(2.0 * n, b * (middle / r) ** (1.0 / n)) for n, b, r in zip(indices, shapes, radii, strict=True)
        )
        below = share * bulge + (1.0 - share) * disk < 0.5
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))


def extra_columns(pair: ImagePair, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Give more columns of the catalogue, null for fakes that are not in it.

    Parameters
    ----------
    pair : ImagePair
        With the catalogue.
    names : sequence of str
        Of the columns.
    rows : ndarray of int, shape (N,)
        As `rows_of` finds them.

    Returns
    -------
    dict of str to pyarrow.Array

    Raises
    ------
    ConfigError
        If the catalogue has no such column, or the recovery table has one of that name.
    """
    found = {}
    taken = {column.name for column in recovery_columns()}
    for name in names:
        if name not in pair.sources.colnames:
            near = difflib.get_close_matches(name, pair.sources.colnames, 3)
            raise ConfigError(
                f"the catalogue has no column {name!r}; it has {', '.join(pair.sources.colnames)}",
                key="recovery.columns",
                fix=f"Did you mean {' or '.join(map(repr, near))}?" if near else "Name columns of the catalogue",
            )
        if name in taken:
            raise ConfigError(
                f"{name!r} is a column of every recovery table, and not the catalogue's of that name",
                key="recovery.columns",
                fix="Leave it out, or rename it in the catalogue",
            )
        array = to_arrow(pair.sources[[name]])[name].combine_chunks()
        found[name] = array.take(arrow_array(rows, rows < 0))
    return found
