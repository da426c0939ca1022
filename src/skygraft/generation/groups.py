"""Groups of sources that belong together, placed on the sky as one: turned, scaled, and numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.checks import validate
from skygraft.catalog.columns import ColumnReader
from skygraft.catalog.schema import COLUMNS, bands_of, is_mag_column, strings, unit_of, values
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError
from skygraft.generation.hosts import given_values, listed
from skygraft.generation.sphere import Moved, along_great_circles, from_tangent_plane

__all__ = ["LARGEST_ID", "binaries", "check_ids", "place_groups"]

type Array = NDArray[np.float64]

LARGEST_ID = 2**63 - 1

_TURNED = ("pa", "bulge_pa", "disk_pa", "shear_pa", "trail_pa", "stamp_rotation")
_VECTORS = (
    ("pm_ra_cosdec", "pm_dec"),
    ("rate_ra_cosdec", "rate_dec"),
    ("bend_from_east", "bend_from_north"),
    ("bend_to_east", "bend_to_north"),
)
_SCALED = ("half_light_radius", "bulge_half_light_radius", "disk_half_light_radius", "trunc", "trail_length")
_OFFSETS = ("offset_east", "offset_north", "separation", "separation_pa")
_PLACES = ("ra", "dec", "rotation", "scale", "mag_offset", "group_id")
"""Columns of places that mean something of their own; all others are passed on to the members."""
_OF_PLACE = "*"
"""In a text column of the members: that of the place."""


def check_ids(first: int, step: int, numbers: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    """Return the first id of each of some groups: `first` plus its number times `step`.

    Parameters
    ----------
    first : int
        0 or more.
    step : int
        Ids that a group takes.
    numbers : ndarray of int, shape (N,)
        Numbers of the groups, 0 or more.
    what : str
        What the groups are, for messages.

    Returns
    -------
    ndarray of int64, shape (N,)

    Raises
    ------
    CatalogError
        If ids would be larger than 2**63 - 1, or negative.
    """
    if isinstance(first, bool) or not isinstance(first, (int, np.integer)) or first < 0:
        raise CatalogError(f"first_id is {first!r}; it must be a whole number, 0 or more", key="first_id")
    if len(numbers) == 0:
        return np.empty(0, dtype=np.int64)
    if int(numbers.min()) < 0:
        raise CatalogError(f"a number of {what} is {numbers.min()}; it must be 0 or more", key="group_id")
    last = int(first) + (int(numbers.max()) + 1) * int(step) - 1
    if last > LARGEST_ID:
        raise CatalogError(
            f"the injection ids of {what} would reach {last}, and the largest that fits 64 bits is {LARGEST_ID}",
            key="injection_id",
            fix=f"Lower first_id, or the largest number of {what} ({numbers.max()}), which counts {step} ids each",
        )
    return int(first) + numbers.astype(np.int64) * int(step)


def place_groups(members: Any, places: Any, *, first_id: int = 0) -> QTable:
    """Place a group of sources at each of some places.

    The whole group is turned and scaled around its place: positions, position angles (``pa``, ``shear_pa``,
    ``trail_pa``, ``stamp_rotation``, ...), motions, and sizes. Near a pole, where North differs between the place and a
    member, angles are carried along the great circle between them.

    Parameters
    ----------
    members : table-like
        The group: canonical columns, and for each member its offset from the place, ``offset_east`` and
        ``offset_north`` in the tangent plane, or ``separation`` and ``separation_pa`` along a great circle (arcsec;
        degrees from North through East). Without any it is at the place. ``object_id``, and ``injection_id`` with
        ``host_id``, number members within the group: those with the same ``object_id`` are one object. ``*`` in a text
        column, such as ``light_curve``, stands for that of the place.
    places : table-like
        One row for each group: ``ra``, ``dec``; optional ``rotation`` (degrees by which the group is turned from North
        towards East), ``scale`` (factor of offsets and sizes), ``mag_offset`` (added to the magnitudes in all bands),
        ``group_id`` (the number of the row by default). Other canonical columns (``mjd_from``, ``light_curve_mjd``,
        ``visit``, ``mag_<band>`` ...) apply to all its members, and the members must not have them, but for text
        columns with ``*``, and magnitudes: a member's ``mag_offset`` is added to those of the place.
    first_id : int
        The members of group g get the ids ``first_id + g * n_members`` and following.

    Returns
    -------
    QTable
        Canonical table: the members of the first place, of the second, ...; the order of the places does not change
        what they get if they have a ``group_id``. ``object_id`` is the injection id of the object's first member.

    Raises
    ------
    CatalogError
        If a column is missing or given twice, something cannot be turned or scaled, or ids overflow.
    """
    group, where = _members_table(members), _places_table(places)
    n, m = len(where), len(group)
    number = values(where, "group_id") if "group_id" in where.colnames else np.arange(n, dtype=np.int64)
    twice = np.unique(number, return_counts=True)
    if (twice[1] > 1).any():
        raise CatalogError(
            f"several places have the same group_id: {listed(twice[0][twice[1] > 1])}",
            key="group_id",
            fix="Number the groups differently, or leave the column out",
        )
    first = check_ids(first_id, m, number, "groups")
    rotation, scale = _numbers(where, "rotation", "deg", 0.0), _numbers(where, "scale", "", 1.0)
    _check_turning(group, rotation, scale)
    if not (scale > 0).all():
        raise CatalogError(
            "some scales are not positive", key="scale", row=int(np.argmin(scale > 0)), fix="Give factors above 0"
        )
    moved = _positions(group, where, rotation, scale)
    of_place, of_group = np.repeat(np.arange(n), m), np.tile(np.arange(m), n)
    out = QTable()
    out["injection_id"] = first[of_place] + of_group
    out["ra"], out["dec"] = moved.ra * u.deg, moved.dec * u.deg
    turn = moved.turn + rotation[of_place]
    for name in group.colnames:
        if name not in (*_OFFSETS, "ra", "dec", "injection_id", "mag_offset", "group_id", "object_id", "host_id"):
            out[name] = group[name][of_group]
    _turn(out, turn)
    for name in _SCALED:
        if name in out.colnames:
            out[name] = values(out, name) * scale[of_place] * u.arcsec
    _numbering(out, group, first[of_place], of_group)
    out["group_id"] = number[of_place]
    _pass_on(out, group, where, of_place, of_group)
    return validate(out)


def _members_table(members: Any) -> Table:
    table = as_table(members)
    if len(table) == 0 or "source_type" not in table.colnames:
        raise CatalogError(
            "the group has no " + ("members" if len(table) == 0 else "column 'source_type'"),
            key="source_type",
            fix="Give a row with a source_type for each member",
        )
    if "offset_east" in table.colnames and "separation" in table.colnames:
        raise CatalogError("the members have both offset_east and separation", key="separation", fix="Keep one of them")
    given = [name for name in ("ra", "dec") if name in table.colnames]
    if given and not any(name in table.colnames for name in _OFFSETS):
        raise CatalogError(
            "the members have ra and dec, and no offsets from the group's place",
            key=given[0],
            fix="Give offset_east and offset_north, or separation and separation_pa, in arcsec and degrees",
        )
    return _canonical_columns(table)


def _places_table(places: Any) -> Table:
    table = as_table(places)
    missing = [name for name in ("ra", "dec") if name not in table.colnames]
    if missing or len(table) == 0:
        raise CatalogError(
            f"the places have no {' and no '.join(missing) or 'rows'}; their columns are {', '.join(table.colnames)}",
            key=missing[0] if missing else "ra",
            fix="Give a row with ra and dec, in degrees, for each group",
        )
    table = _canonical_columns(table)
    for name, low, high in (("ra", 0.0, 360.0), ("dec", -90.0, 90.0)):
        bad = np.flatnonzero(~((values(table, name) >= low) & (values(table, name) <= high)))
        if bad.size:
            raise CatalogError(
                f"{name} of {bad.size} places is not within {low:g} to {high:g} degrees: "
                f"{listed(values(table, name)[bad])}",
                row=listed(bad),
                key=name,
                fix="Correct these rows of the table of places",
            )
    return table


def _canonical_columns(table: Table) -> Table:
    """Return the table with canonical columns in their units."""
    out = Table()
    for name in table.colnames:
        if name in COLUMNS or is_mag_column(name):
            unit = unit_of(name)
            out[name] = values(table, name) * u.Unit(unit) if unit else values(table, name)
        else:
            out[name] = table[name]
    return out


def _numbers(table: Table, name: str, unit: str, default: float) -> Array:
    if name not in table.colnames:
        return np.full(len(table), default)
    array = ColumnReader(table[name], name).floats(unit)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise CatalogError(
            f"{bad.size} values of {name} are not finite", row=listed(bad), key=name, fix="Give a number in each row"
        )
    return array


def _positions(group: Table, where: Table, rotation: Array, scale: Array) -> Moved:
    """Return the positions of all members, and how their position angles turn on the way from the place."""
    ra, dec = (values(where, name)[:, None] for name in ("ra", "dec"))
    if "separation" in group.colnames:
        arc = _numbers(group, "separation", "arcsec", 0.0) * scale[:, None]
        angle = _numbers(group, "separation_pa", "deg", 0.0) + rotation[:, None]
        moved = along_great_circles(ra, dec, arc, angle)
    else:
        east, north = (_numbers(group, name, "arcsec", 0.0) * scale[:, None] for name in _OFFSETS[:2])
        sine, cosine = np.sin(np.radians(rotation))[:, None], np.cos(np.radians(rotation))[:, None]
        # From North towards East.
        moved = from_tangent_plane(ra, dec, east * cosine + north * sine, north * cosine - east * sine)
    return Moved(moved.ra.ravel(), moved.dec.ravel(), moved.turn.ravel())


def _check_turning(group: Table, rotation: Array, scale: Array) -> None:
    kind = strings(group, "source_type")
    fixed = np.zeros(len(group), dtype=np.bool_)
    for name in ("trail_length_pix", "trail_angle_pix"):
        fixed |= (kind == "Trail") & (np.nan_to_num(values(group, name)) != 0)
    fixed |= (kind == "Stamp") & (strings(group, "stamp_alignment") == "pixel")
    if fixed.any() and (rotation % 360.0 != 0).any():
        raise CatalogError(
            f"{np.count_nonzero(fixed)} members follow the pixels of the image, and cannot be turned on the sky",
            row=listed(np.flatnonzero(fixed)),
            key="rotation",
            fix="Give stamps stamp_alignment 'wcs' and trails trail_length and trail_pa, or leave rotation out",
        )
    drawn = np.isin(kind, ("Stamp", "RealGalaxy")) | (
        (kind == "Trail") & np.isfinite(values(group, "trail_length_pix"))
    )
    if drawn.any() and (scale != 1).any():
        raise CatalogError(
            f"{np.count_nonzero(drawn)} members have sizes that no column gives, and cannot be scaled: "
            + ", ".join(np.unique(kind[drawn]).tolist()),
            row=listed(np.flatnonzero(drawn)),
            key="scale",
            fix="Leave scale out",
        )


def _turn(out: QTable, turn: Array) -> None:
    """Turn position angles and directions of motion, from North towards East."""
    kind = strings(out, "source_type")
    for name in _TURNED:
        if name in out.colnames or (name == "stamp_rotation" and (kind == "Stamp").any()):
            angle = values(out, name) + np.where(np.abs(turn) < 1e-12, 0.0, turn)
            out[name] = np.where(np.abs(angle) >= 360.0, angle % 360.0, angle) * u.deg
    sine, cosine = np.sin(np.radians(turn)), np.cos(np.radians(turn))
    for names in _VECTORS:
        if any(name in out.colnames for name in names):
            east, north = (np.nan_to_num(values(out, name)) for name in names)
            for name, new in zip(names, (east * cosine + north * sine, north * cosine - east * sine), strict=True):
                out[name] = new * u.Unit(COLUMNS[name].unit)


def _numbering(out: QTable, group: Table, first: NDArray[np.int64], of_group: NDArray[np.intp]) -> None:
    """Number objects and hosts as the members are."""
    given = values(group, "object_id")
    if (given != -1).any():
        _, start, back = np.unique(given, return_index=True, return_inverse=True)
        out["object_id"] = np.where(given[of_group] == -1, -1, first + start[back][of_group])
    host = values(group, "host_id")
    if (host != -1).any():
        ids = values(group, "injection_id")
        same = host[:, None] == np.where(ids == -1, -2, ids)
        known = same.any(axis=1) & (host != -1)
        out["host_id"] = np.where(known[of_group], first + same.argmax(axis=1)[of_group], host[of_group])


def _pass_on(out: QTable, group: Table, where: Table, of_place: NDArray[np.intp], of_group: NDArray[np.intp]) -> None:
    """Give the members what their place has, and add offsets of magnitudes."""
    own_offset = "mag_offset" in group.colnames
    for name in where.colnames:
        if name in _PLACES:
            continue
        if name not in COLUMNS and not is_mag_column(name):
            raise CatalogError(
                f"the places have a column {name!r}, which is none of a catalogue, nor one of {', '.join(_PLACES)}",
                key=name,
                fix="Correct its name, or take it out",
            )
        if name in _TURNED or name in _SCALED or name in ("injection_id", "object_id", "source_type"):
            raise CatalogError(f"the places have a column {name!r}, which is the members' to have", key=name)
        column = where[name][of_place]
        if name in group.colnames:
            text = name in COLUMNS and COLUMNS[name].kind == "str"
            if not text or not (starred := strings(group, name) == _OF_PLACE).any():
                raise CatalogError(
                    f"both the members and the places have {name}",
                    key=name,
                    fix="Keep one of them"
                    + (f"; {_OF_PLACE!r} for a member stands for that of the place" if text else "")
                    + (
                        "; mag_offset of members is added to the magnitudes of the place" if is_mag_column(name) else ""
                    ),
                )
            column = np.where(starred[of_group], strings(where, name)[of_place], strings(group, name)[of_group])
        elif is_mag_column(name) and not own_offset:
            raise CatalogError(
                f"the places have {name}, and the members no mag_offset to it",
                key="mag_offset",
                fix="Give each member mag_offset (0 for the magnitude of the place)",
            )
        elif is_mag_column(name):
            column = (values(where, name)[of_place] + _numbers(group, "mag_offset", "mag", 0.0)[of_group]) * u.mag
        out[name] = column
    for name in (one for one in group.colnames if COLUMNS.get(one) and COLUMNS[one].kind == "str"):
        left = strings(out, name) == _OF_PLACE
        if left.any():
            raise CatalogError(
                f"members have {_OF_PLACE!r} as {name}, and the places have no such column", key=name,
                fix=f"Give each place its {name}",
            )  # fmt: skip
    if "mag_offset" in where.colnames:
        for band in bands_of(out):
            out[f"mag_{band}"] = (
                values(out, f"mag_{band}") + _numbers(where, "mag_offset", "mag", 0.0)[of_place]
            ) * u.mag
    elif own_offset and not any(is_mag_column(name) for name in where.colnames):
        raise CatalogError("members have mag_offset, and the places no magnitudes", key="mag_offset")


def _also(name: str, text: bool) -> str:
    if is_mag_column(name):
        return "; or give the members mag_offset, which is added to the magnitudes of the place"
    return f"; {_OF_PLACE!r} for a member stands for that of the place" if text else ""


def binaries(
    primaries: Any,
    *,
    separation: Any,
    pa: Any,
    mag_difference: Any,
    first_id: int,
) -> QTable:
    """Give each of some sources a companion.

    Parameters
    ----------
    primaries : table-like
        Canonical table.
    separation, pa : float, array or str
        Arc to the companion, arcsec, and its position angle, degrees from North through East: a number, one for each
        primary, or the name of a column.
    mag_difference : float, array, str or mapping of str to these
        Companion minus primary, mag; or by band.
    first_id : int
        The companion of the primary with the k-th smallest id gets the id ``first_id + k``.

    Returns
    -------
    QTable
        Primaries, then companions, which are alike but for position and magnitudes; ``group_id`` is the id of the
        primary.

    Raises
    ------
    CatalogError
        If a value is missing, or ids are taken or overflow.
    """
    table = _canonical_columns(as_table(primaries))
    ids = values(table, "injection_id")
    rank = np.empty(len(table), dtype=np.int64)
    rank[np.argsort(ids, kind="stable")] = np.arange(len(table))
    new = check_ids(first_id, 1, rank, "companions")
    both = QTable(table)
    both["group_id"] = ids
    second = both.copy()
    second["injection_id"] = new
    moved = along_great_circles(
        values(table, "ra"),
        values(table, "dec"),
        given_values(table, separation, "separation", "arcsec", low=0.0),
        given_values(table, pa, "pa", "deg"),
    )
    second["ra"], second["dec"] = moved.ra * u.deg, moved.dec * u.deg
    bands = bands_of(table)
    by_band = mag_difference if isinstance(mag_difference, dict) else dict.fromkeys(bands, mag_difference)
    missing = sorted(set(bands) ^ set(by_band))
    if missing:
        raise CatalogError(f"mag_difference and the primaries differ in bands: {', '.join(missing)}", key="bands")
    for band, difference in by_band.items():
        fainter = given_values(table, difference, "mag_difference", "mag")
        second[f"mag_{band}"] = (values(table, f"mag_{band}") + fainter) * u.mag
    from astropy.table import vstack

    return validate(vstack([both, second], metadata_conflicts="silent"))
