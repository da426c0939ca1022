"""Transients in host galaxies: at a given place, or where the host's light is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.checks import validate
from skygraft.catalog.columns import ColumnReader
from skygraft.catalog.schema import COLUMNS, is_mag_column, strings, values
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError, shown
from skygraft.generation.by_id import uniforms
from skygraft.generation.light import DRAWN_FROM, Ellipses, light_ellipses, on_ellipse
from skygraft.generation.sphere import along_great_circles

__all__ = ["given_values", "in_hosts", "listed", "transients_table"]

type Array = NDArray[np.float64]

_WHICH_HOST, _WHICH_PART, _WHERE = 11, 12, 13
"""Random streams."""
_LISTED = 10


def in_hosts(
    transients: Any,
    hosts: Any,
    *,
    separation: float | str | Sequence[float] | None = None,
    radii: float | str | Sequence[float] | None = None,
    pa: float | str | Sequence[float] | None = None,
    weights: str | Sequence[float] | None = None,
    within: float = np.inf,
    seed: int = 0,
) -> QTable:
    """Place transients in their host galaxies.

    A transient lies at a `separation` from its host's centre, or on the ellipse of `radii` half-light radii, or, if
    neither is given, at a place drawn from the host's light: the radius by inverting the profile's curve of growth, the
    angle uniformly, then stretched along the host's ellipse. What is drawn depends on the seed, the transient's id and
    its host only.

    Parameters
    ----------
    transients : table-like
        Canonical columns without positions; ``injection_id`` is needed. ``source_type`` is Star by default. A column
        ``host_id`` names hosts by their ``injection_id``; for -1, or without the column, a host is drawn by `weights`.
    hosts : table-like
        Canonical galaxies (Sersic, BulgeDisk, Gaussian, Moffat), or what
        `skygraft.generation.detected.hosts_from_detections` makes of a table of detections.
    separation : float, array or str, optional
        Arc from the host's centre, arcsec: a number, one for each transient, or the name of a column of theirs.
    radii : float, array or str, optional
        Elliptical radius in half-light radii of the host; of a BulgeDisk, those of its bulge or its disk, one of which
        is drawn by their light.
    pa : float, array or str, optional
        Position angle on the sky from the host's centre, degrees from North through East, for `separation` or `radii`.
        By default it is drawn: uniformly for `separation`, around the ellipse as the light is for `radii`.
    weights : str or array, optional
        Of the hosts that are drawn: ``"uniform"``, ``"mag_<band>"`` (by their flux), another column of `hosts`, such as
        a mass or a rate, or one number for each host.
    within : float
        Places are drawn within this many half-light radii.
    seed : int

    Returns
    -------
    QTable
        Canonical table in the order of `transients`, with ``ra``, ``dec`` and ``host_id``.

    Raises
    ------
    CatalogError
        If a host does not exist, or has no size or shape although the place needs it; rows are named.
    """
    table = transients_table(transients)
    galaxies, order = _hosts_table(hosts)
    if separation is not None and radii is not None:
        raise CatalogError("separation and radii both say how far from the host a transient is", fix="Give one of them")
    if pa is not None and separation is None and radii is None:
        raise CatalogError(
            "pa is given without separation or radii: an angle drawn from the light is not chosen", key="pa"
        )
    if not within > 0:
        raise CatalogError(f"within is {within}; it must be positive", key="within")
    ids = values(table, "injection_id")
    by_weight = weights if weights is None or isinstance(weights, str) else _of_hosts(weights, len(order))[order]
    row = _rows_of_hosts(table, galaxies, by_weight, seed, separation is None)
    ra, dec = values(galaxies, "ra")[row], values(galaxies, "dec")[row]
    pick, share = uniforms(ids, seed, _WHICH_PART)
    turn, _ = uniforms(ids, seed, _WHERE)
    direction = None if pa is None else given_values(table, pa, "pa", "deg")
    if separation is not None:
        arc = given_values(table, separation, "separation", "arcsec", low=0.0)
        moved = along_great_circles(ra, dec, arc, 360.0 * turn if direction is None else direction)
    else:
        shape = light_ellipses(galaxies[row], pick)
        _check_shapes(shape, table, galaxies, row)
        size = (
            shape.radii(share, within)
            if radii is None
            else shape.radius * given_values(table, radii, "radii", "", low=0.0)
        )
        angle = 2.0 * np.pi * turn
        if direction is not None:
            apart = np.radians(direction - shape.pa)
            angle = np.arctan2(np.sin(apart) / np.sqrt(shape.q), np.cos(apart) * np.sqrt(shape.q))
        east, north = _lensed(*on_ellipse(size, angle, shape.q, shape.pa), galaxies[row])
        moved = along_great_circles(ra, dec, np.hypot(east, north), np.degrees(np.arctan2(east, north)))
    out = QTable(table, copy=False)
    out["ra"], out["dec"] = moved.ra * u.deg, moved.dec * u.deg
    out["host_id"] = values(galaxies, "injection_id")[row]
    return validate(out)


def transients_table(transients: Any) -> Table:
    """Return a table of sources that have no positions yet, with injection ids and source types."""
    table = as_table(transients)
    if len(table) == 0:
        raise CatalogError("there are no transients: the table has no rows", fix="Give at least one")
    if "injection_id" not in table.colnames:
        raise CatalogError(
            "the transients have no column 'injection_id'", key="injection_id", fix="Number them, all differently"
        )
    out = Table(table, copy=False)
    if "source_type" not in table.colnames:
        out["source_type"] = np.full(len(table), "Star")
    for name in table.colnames:
        spec = COLUMNS.get(name)
        if spec is not None or is_mag_column(name):
            plain, unit = values(table, name), "mag" if spec is None else spec.unit
            out[name] = plain if not unit else plain * u.Unit(unit)
    return out


def _hosts_table(hosts: Any) -> tuple[Table, NDArray[np.intp]]:
    """Return the hosts sorted by id, and their rows in the table given."""
    table = as_table(hosts)
    missing = [name for name in ("injection_id", "ra", "dec", "source_type") if name not in table.colnames]
    if missing or len(table) == 0:
        raise CatalogError(
            f"the table of hosts has no {' and no '.join(missing) or 'rows'}",
            key=missing[0] if missing else None,
            fix="Give a catalogue of galaxies, or convert a table of detections with hosts_from_detections",
        )
    ids = values(table, "injection_id")
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(np.diff(ids[order]) == 0)
    if twice.size:
        raise CatalogError(
            f"{twice.size} hosts have the same number as another: {listed(ids[order][twice])}",
            key="injection_id",
            fix="Give every host its own",
        )
    return table[order], order


def listed(numbers: NDArray[Any]) -> str:
    """Return some numbers as text, at most ten of them."""
    text = ", ".join(shown(one) for one in numbers[:_LISTED].tolist())
    return text + (", ..." if len(numbers) > _LISTED else "")


def given_values(table: Table, given: Any, name: str, unit: str, *, low: float = -np.inf) -> Array:
    """Return one number for each row of a table.

    Parameters
    ----------
    table : Table
    given : float, array, Quantity or str
        One number for all, one for each row, or the name of a column.
    name : str
        What it is, for messages.
    unit : str
        Of the result; ``""`` for none.
    low : float
        Smallest value allowed.

    Returns
    -------
    ndarray, shape (N,)

    Raises
    ------
    CatalogError
        If there is no such column, or a value is not finite or too small; names the rows.
    """
    if isinstance(given, str):
        if given not in table.colnames:
            raise CatalogError(
                f"{name} is {given!r}, and there is no such column; there are {', '.join(table.colnames)}",
                key=name,
                fix="Give a number, or the name of a column",
            )
        array = ColumnReader(table[given], given).floats(unit)
    else:
        plain = given.to_value(unit) if isinstance(given, u.Quantity) else np.asarray(given, dtype=np.float64)
        if np.shape(plain) not in ((), (len(table),)):
            raise CatalogError(f"{name} has the shape {np.shape(plain)}; {len(table)} values are needed", key=name)
        array = np.broadcast_to(plain, (len(table),)).astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= low)))
    if bad.size:
        least = f", {shown(low)} or more" if np.isfinite(low) else ""
        raise CatalogError(
            f"{bad.size} values of {name} are not finite{least}: {listed(array[bad])}",
            row=f"injection_id {listed(values(table, 'injection_id')[bad])}",
            key=name,
        )
    return array


def _rows_of_hosts(table: Table, galaxies: Table, weights: Any, seed: int, shaped: bool) -> NDArray[np.intp]:
    """Return the row of each transient's host in the table of galaxies, which is sorted by id."""
    ids, wanted, known = values(table, "injection_id"), values(table, "host_id"), values(galaxies, "injection_id")
    free = wanted == -1
    row = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    lost = np.flatnonzero(~free & (known[row] != wanted))
    if lost.size:
        raise CatalogError(
            f"{lost.size} transients name hosts that do not exist: host_id {listed(wanted[lost])}; the hosts are "
            f"numbered from {known[0]} to {known[-1]}",
            row=f"injection_id {listed(ids[lost])}",
            key="host_id",
            fix="Correct host_id, or give the catalogue that these hosts are in",
        )
    if not free.any():
        return row
    if weights is None:
        raise CatalogError(
            f"{np.count_nonzero(free)} transients have no host_id",
            row=f"injection_id {listed(ids[free])}",
            key="host_id",
            fix='Give each its host, or draw hosts with weights="uniform", "mag_<band>" or a column',
        )
    weight = _weights(galaxies, weights)
    if shaped:
        # Hosts whose light is not known cannot have a transient drawn from it.
        low, high = (light_ellipses(galaxies, np.full(len(galaxies), one)).usable for one in (0.0, 1.0))
        share = values(galaxies, "bulge_fraction")
        weight = np.where((low | (share == 0)) & (high | (share == 1)), weight, 0.0)
    total = np.cumsum(weight)
    if not total[-1] > 0:
        raise CatalogError(
            "no host can be drawn: "
            + ("none has a size, an axis ratio, a position angle and a weight" if shaped else "all weights are 0"),
            key="weights",
            fix=f"Give galaxies of type {', '.join(DRAWN_FROM)} with all parameters, or separation in arcsec"
            if shaped
            else "Choose other weights",
        )
    draw, _ = uniforms(ids[free], seed, _WHICH_HOST)
    # To the right of equal sums, which are hosts without weight.
    row[free] = np.searchsorted(total, draw * total[-1], side="right").clip(max=np.flatnonzero(weight)[-1])
    return row


def _weights(galaxies: Table, weights: Any) -> Array:
    if isinstance(weights, str) and weights == "uniform":
        return np.ones(len(galaxies))
    if isinstance(weights, str) and is_mag_column(weights) and weights in galaxies.colnames:
        mag = values(galaxies, weights)
        if not np.isfinite(mag).any():
            raise CatalogError(f"no host has a magnitude {weights}", key="weights", fix="Choose another band")
        return np.asarray(np.nan_to_num(10.0 ** (-0.4 * (mag - np.nanmin(mag)))))
    if isinstance(weights, str) and weights not in galaxies.colnames:
        raise CatalogError(
            f"weights is {weights!r}, and the hosts have no such column; they have {', '.join(galaxies.colnames)}",
            key="weights",
            fix="Give 'uniform', or one of these",
        )
    array = ColumnReader(galaxies[weights], weights).floats() if isinstance(weights, str) else weights
    if np.isinf(array).any() or (array < 0).any():
        raise CatalogError("some weights are negative or infinite", key="weights", fix="Give 0 or more for each host")
    return np.asarray(np.nan_to_num(array), dtype=np.float64)


def _of_hosts(weights: Any, n: int) -> Array:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,):
        raise CatalogError(
            f"there are {n} hosts, and weights of shape {array.shape}", key="weights", fix="Give one for each host"
        )
    return array


def _check_shapes(shape: Ellipses, table: Table, galaxies: Table, row: NDArray[np.intp]) -> None:
    bad = np.flatnonzero(~shape.usable)
    if not bad.size:
        return
    host = values(galaxies, "injection_id")[row[bad]]
    kinds = sorted(set(strings(galaxies[row[bad]], "source_type").tolist()))
    first = bad[0]
    raise CatalogError(
        f"the hosts of {bad.size} transients have no size or no shape: host_id {listed(host)}, of type "
        f"{', '.join(kinds)}; that of the first has half_light_radius = {shown(shape.radius[first])} arcsec, q = "
        f"{shown(shape.q[first])}, pa = {shown(shape.pa[first])}",
        row=f"injection_id {listed(values(table, 'injection_id')[bad])}",
        key="host_id",
        fix=f"Choose hosts of type {', '.join(DRAWN_FROM)} with all parameters, or give separation in arcsec",
    )


def _lensed(east: Array, north: Array, galaxies: Table) -> tuple[Array, Array]:
    """Return offsets as the host's shear and magnification move them."""
    g, angle = values(galaxies, "shear"), np.radians(values(galaxies, "shear_pa"))
    size = np.sqrt(values(galaxies, "magnification"))
    if not g.any() and (size == 1).all():
        return east, north
    # Along the direction in which the shear stretches, and across it.
    along = (east * np.sin(angle) + north * np.cos(angle)) * size * np.sqrt((1 + g) / (1 - g))
    across = (east * np.cos(angle) - north * np.sin(angle)) * size * np.sqrt((1 - g) / (1 + g))
    return along * np.sin(angle) + across * np.cos(angle), along * np.cos(angle) - across * np.sin(angle)
