"""Validate canonical tables: ranges, types, required parameters, and unique ids."""

from __future__ import annotations

import difflib
from typing import Any, Literal, NamedTuple

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.columns import refused
from skygraft.catalog.flags import Flag
from skygraft.catalog.orders import Kinds
from skygraft.catalog.schema import (
    COLUMNS,
    LEAST_INCLINED_TRUNCATION,
    LEAST_TRUNCATION,
    MOTION,
    SOURCE_TYPES,
    VARIABILITIES,
    WINDOW,
    ColumnSpec,
    is_mag_column,
    strings,
    values,
)
from skygraft.catalog.stamp_paths import band_stamp_columns
from skygraft.errors import CatalogError, shown

__all__ = ["Found", "OnBad", "check_duplicates", "find_problems", "validate"]

OnBad = Literal["raise", "flag"]
MAX_LISTED = 10
_NEVER_CUT = ("Gaussian", "Moffat", "BulgeDisk", "Spergel", "Kolmogorov", "InclinedExponential", "RandomKnots")


def _nearest(word: str) -> str:
    lowered = {name.lower(): name for name in SOURCE_TYPES}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.4)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


_NOT_RADIANS = (
    "Correct these rows; this dialect has positions in radians: convert degrees, or write the catalogue in another "
    "dialect"
)


class Found(NamedTuple):
    """Rows with one problem: whether a flag keeps them, how many, the first of them, and the words for that one."""

    keepable: bool
    n: int
    rows: tuple[int, ...]
    text: str


class _Findings:
    """Bad rows with their reasons, and the flags to set."""

    def __init__(self, source_type: NDArray[np.str_]) -> None:
        n = source_type.size
        self.kinds = Kinds(source_type)
        self.flags = np.zeros(n, dtype=np.int64)
        self.fatal = np.zeros(n, dtype=bool)
        self.reasons: dict[int, list[str]] = {}
        self.problems: list[Found] = []

    def add(self, bad: NDArray[np.bool_], flag: Flag | None, describe: Any) -> None:
        """Record the rows where `bad` is true; without a flag, they cannot be kept at all."""
        if not bad.any():
            return
        if flag is None:
            self.fatal |= bad
        else:
            self.flags[bad] |= int(flag)
        rows = np.flatnonzero(bad)
        for row in rows[: MAX_LISTED + 1]:
            self.reasons.setdefault(int(row), []).append(describe(int(row)))
        if rows.size:
            first = tuple(rows[:MAX_LISTED].tolist())
            self.problems.append(Found(flag is not None, int(rows.size), first, describe(first[0])))

    def error(self, table: Table, rows: NDArray[np.bool_], origin: str, first_row: int, positions: str) -> CatalogError:
        """Return an error that lists up to ten of `rows`."""
        ids = values(table, "injection_id")
        bad = np.flatnonzero(rows)
        listed = [r for r in bad if int(r) in self.reasons][:MAX_LISTED]
        lines = [f"row {first_row + r} (injection_id {ids[r]}): " + "; ".join(self.reasons[int(r)]) for r in listed]
        more = f"\n  ... and {bad.size - len(lines)} more" if bad.size > len(lines) else ""
        keepable = not self.fatal.any()
        return CatalogError(
            f"{bad.size} of {len(table)} rows cannot be used:\n  " + "\n  ".join(lines) + more,
            path=origin or None,
            row=int(first_row + bad[0]),
            fix=(_NOT_RADIANS if positions == "rad" and not keepable else "Correct these rows")
            + (
                ", or keep them undrawn with on_bad='flag' (in a campaign, catalog: {on_bad: flag})" if keepable else ""
            ),
        )


def check_duplicates(ids: NDArray[np.int64], *, origin: str = "", first_row: int = 0) -> None:
    """Check that injection ids are unique.

    Parameters
    ----------
    ids : ndarray of int64, shape (N,)
    origin : str
        Name of the file, for errors.
    first_row : int
        Number of the first row in the file.

    Raises
    ------
    CatalogError
        If they are not; the message names up to ten ids and two rows of each.
    """
    if np.all(ids[1:] > ids[:-1]):
        return
    sorted_ids = np.sort(ids)
    if np.any(sorted_ids[1:] == sorted_ids[:-1]):
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        shown = [
            f"{ids[order[i]]} (rows {first_row + order[i]} and {first_row + order[i + 1]})" for i in same[:MAX_LISTED]
        ]
        raise CatalogError(
            f"{same.size} injection ids occur twice: " + ", ".join(shown) + (", ..." if same.size > MAX_LISTED else ""),
            path=origin or None,
            row=int(first_row + order[same[0] + 1]),
            key="injection_id",
            fix="Give every source its own id",
        )


def validate(
    table: QTable,
    *,
    on_bad: OnBad = "raise",
    origin: str = "",
    first_row: int = 0,
    unique: bool = True,
    positions: Literal["deg", "rad"] = "deg",
) -> QTable:
    """Check a canonical table; bad rows are an error by default, or are flagged.

    A missing magnitude is not an error: the source does not exist in that band, and is flagged ``MAG_BAD`` when it is
    injected. Positions that are not on the sphere and repeated ids cannot be flagged and always raise. Right ascensions
    are never wrapped.

    Parameters
    ----------
    table : QTable
        Canonical columns; not changed.
    on_bad : {"raise", "flag"}
        "flag" keeps bad rows, with ``TYPE_UNKNOWN``, ``SERSIC_EXTREME``, ``MAG_BAD`` or ``PARAMETERS_BAD`` set.
    origin : str
        File name for error messages.
    first_row : int
        Number of the table's first row in the file.
    unique : bool
        Check that ids are unique.
    positions : {"deg", "rad"}
        Unit of the positions in the original catalogue, for error messages.

    Returns
    -------
    QTable
        The table with the column ``flags`` set. Dimensionless numbers that left their range by rounding in single
        precision are moved back into it.

    Raises
    ------
    CatalogError
        If rows are bad; the message lists up to ten (row number and injection id), their values and what is allowed.
    """
    if on_bad not in ("raise", "flag"):
        raise CatalogError(f"on_bad is {on_bad!r}; allowed are 'raise' and 'flag'", key="on_bad")
    if len(table) == 0:
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    for name in ("injection_id", "ra", "dec", "source_type"):
        if name not in table.colnames:
            raise CatalogError(f"the catalogue has no column {name!r}", path=origin or None, key=name)
    cleaned = _cleaned(table)
    found = _findings(table, cleaned, positions)
    bad = found.fatal | (found.flags != 0)
    if found.fatal.any():
        raise found.error(table, found.fatal, origin, first_row, positions)
    if on_bad == "raise" and bad.any():
        raise found.error(table, bad, origin, first_row, positions)
    if unique:
        check_duplicates(values(table, "injection_id"), origin=origin, first_row=first_row)
    out = table.copy(copy_data=False)
    for name, column in cleaned.items():
        out[name] = column
    out["flags"] = values(table, "flags") | found.flags
    return out


def find_problems(table: QTable, positions: Literal["deg", "rad"] = "deg") -> list[Found]:
    """Return what is wrong with the rows of a canonical table: each kind of problem once, in the order of the checks.

    Parameters
    ----------
    table : QTable
        Canonical columns.
    positions : {"deg", "rad"}
        Unit of the positions in the original catalogue.
    """
    return _findings(table, _cleaned(table), positions).problems


def _findings(table: QTable, cleaned: dict[str, NDArray[Any]], positions: str) -> _Findings:
    source_type = strings(table, "source_type")
    found = _Findings(source_type)
    _check_types(found, source_type)
    _check_ranges(found, table, source_type, cleaned, positions)
    _check_trails_and_stamps(found, table, source_type)
    if "variability" in table.colnames:
        _check_variability(found, table)
    if set(WINDOW) <= set(table.colnames):
        _check_windows(found, table)
    _check_truncation(found, table, source_type)
    for name in (c for c in table.colnames if is_mag_column(c)):
        mag = values(table, name)
        found.add(np.isinf(mag), Flag.MAG_BAD, lambda r, m=mag, c=name: f"{c} = {m[r]} is not finite")
    return found


def _check_types(found: _Findings, source_type: NDArray[np.str_]) -> None:
    unknown = ~found.kinds.among(SOURCE_TYPES)
    allowed = ", ".join(SOURCE_TYPES)
    found.add(
        unknown,
        Flag.TYPE_UNKNOWN,
        lambda r: f"source_type {str(source_type[r])!r} is not one of {allowed}{_nearest(str(source_type[r]))}",
    )


def _cleaned(table: QTable) -> dict[str, NDArray[Any]]:
    """Columns of dimensionless numbers with rounding in single precision undone."""
    out = {}
    for name in table.colnames:
        spec = COLUMNS.get(name)
        if spec is not None and spec.kind == "float" and spec.unit is None:
            given = values(table, name)
            clipped = spec.clip(given)
            if clipped is not given:
                out[name] = clipped
    return out


def _check_ranges(
    found: _Findings,
    table: QTable,
    source_type: NDArray[np.str_],
    cleaned: dict[str, NDArray[Any]],
    positions: str,
) -> None:
    for spec in COLUMNS.values():
        name = spec.name
        absent = name not in table.colnames
        if spec.choices and name != "source_type" and not absent:
            text = strings(table, name)
            found.add(
                ~Kinds(text).among(spec.choices),
                Flag.PARAMETERS_BAD,
                lambda r, t=text, s=spec: f"{s.name} {str(t[r])!r} is not one of {', '.join(filter(None, s.choices))}",
            )
        if spec.kind not in ("float", "int") or name == "injection_id" or (absent and not spec.required):
            continue
        if spec.types and not found.kinds.any(spec.types):
            continue
        used = found.kinds.among(spec.types or found.kinds.names)
        # A galaxy that is all disk needs no bulge parameters, and vice versa.
        if name.startswith("bulge_") and name != "bulge_fraction":
            used &= values(table, "bulge_fraction") != 0
        elif name.startswith("disk_"):
            used &= values(table, "bulge_fraction") != 1
        if not used.any():
            continue
        array = cleaned[name] if name in cleaned else values(table, name)
        flag: Flag | None = Flag.PARAMETERS_BAD
        if name in ("ra", "dec"):
            flag = None
        elif name in ("n", "bulge_n", "disk_n"):
            flag = Flag.SERSIC_EXTREME
        found.add(
            used & spec.fails(array),
            flag,
            lambda r, a=array, s=spec: f"{s.name} = {shown(a[r])}{_given(s, a[r], positions)} is not {s.allowed(a[r])}",
        )


def _given(spec: ColumnSpec, value: float, positions: str) -> str:
    """Add the original value to the message about a position that the dialect has in radians."""
    if positions != "rad" or spec.name not in ("ra", "dec"):
        return ""
    return f" deg, of {np.radians(value):.10g} taken as radians,"


def _check_truncation(found: _Findings, table: QTable, source_type: NDArray[np.str_]) -> None:
    if "trunc" not in table.colnames and "trunc" not in refused(table):
        return
    trunc = values(table, "trunc")
    found.add(
        found.kinds.among(_NEVER_CUT) & (np.nan_to_num(trunc) != 0),
        Flag.PARAMETERS_BAD,
        lambda r: f"trunc = {shown(trunc[r])}, but a {source_type[r]} is not truncated: leave it empty",
    )
    radius = values(table, "half_light_radius")
    with np.errstate(invalid="ignore"):
        inner = (source_type == "Sersic") & (trunc > 0) & (trunc < LEAST_TRUNCATION * radius)
        too_flat = (source_type == "InclinedSersic") & (trunc > 0) & (trunc <= LEAST_INCLINED_TRUNCATION * radius)
    found.add(
        inner,
        Flag.PARAMETERS_BAD,
        lambda r: (
            f"trunc = {trunc[r]:.9g} arcsec is less than sqrt(2) half-light radii ({2**0.5 * radius[r]:.9g} arcsec), "
            "at which the profile is a flat disk: half of the light cannot be so far out"
        ),
    )
    found.add(
        too_flat,
        Flag.PARAMETERS_BAD,
        lambda r: (
            f"trunc = {trunc[r]:.9g} arcsec is not more than {LEAST_INCLINED_TRUNCATION} half-light radii "
            f"({LEAST_INCLINED_TRUNCATION * radius[r]:.9g} arcsec), beyond which an InclinedSersic may end"
        ),
    )


def _check_variability(found: _Findings, table: QTable) -> None:
    kind, curve = strings(table, "variability"), strings(table, "light_curve")
    for name, needed in VARIABILITIES.items():
        lacking = [column for column in needed if np.any((kind == name) & ~np.isfinite(values(table, column)))]
        for column in lacking:
            found.add(
                (kind == name) & ~np.isfinite(values(table, column)),
                Flag.PARAMETERS_BAD,
                lambda r, k=name, c=column: f"a {k} needs {c}",
            )
    found.add(
        (kind != "") & (curve != ""),
        Flag.PARAMETERS_BAD,
        lambda r: f"it has a light curve ({str(curve[r])!r}) and a variability ({kind[r]}): leave one empty",
    )


def _check_windows(found: _Findings, table: QTable) -> None:
    begin, end = (values(table, name) for name in WINDOW)
    found.add(
        end <= begin,
        Flag.PARAMETERS_BAD,
        lambda r: f"mjd_to = {shown(end[r])} is not after mjd_from = {shown(begin[r])}: no image is at such a time",
    )


def _check_stamps(found: _Findings, table: QTable, stamps: NDArray[np.bool_]) -> None:
    pathless = strings(table, "stamp") == ""
    for name in band_stamp_columns(table).values():
        pathless &= strings(table, name) == ""
    found.add(
        stamps & pathless,
        Flag.PARAMETERS_BAD,
        lambda r: "a Stamp needs the path of its image in the column stamp, or stamp_<band>",
    )
    own = stamps & (strings(table, "stamp_flux") == "stamp")
    found.add(
        own & ~np.isfinite(values(table, "stamp_zeropoint")),
        Flag.PARAMETERS_BAD,
        lambda r: "stamp_flux: stamp needs stamp_zeropoint, the AB magnitude of one unit of the stamp's pixels",
    )
    found.add(
        own & (strings(table, "light_curve") != ""),
        Flag.PARAMETERS_BAD,
        lambda r: "a light curve gives the flux of the row: stamp_flux must be row, or empty",
    )


def _check_trails_and_stamps(found: _Findings, table: QTable, source_type: NDArray[np.str_]) -> None:
    if found.kinds.any(("Trail",)):
        rated = np.hypot(*(np.nan_to_num(values(table, name)) for name in MOTION[2:])) != 0
        lengths = np.isnan(values(table, "trail_length")) & np.isnan(values(table, "trail_length_pix"))
        found.add(
            (source_type == "Trail") & lengths & ~rated,
            Flag.PARAMETERS_BAD,
            lambda r: "a Trail needs trail_length, trail_length_pix, or a rate",
        )
    if found.kinds.any(("Stamp",)):
        _check_stamps(found, table, source_type == "Stamp")
    moving = np.zeros(len(table), dtype=bool)
    for name in MOTION:
        if name in table.colnames or name in refused(table):
            moving |= np.nan_to_num(values(table, name)) != 0
    if found.kinds.any(("RealGalaxy",)):
        found.add(
            (source_type == "RealGalaxy") & (strings(table, "real_galaxy_catalog") == ""),
            Flag.PARAMETERS_BAD,
            lambda r: "a RealGalaxy needs the path of GalSim's table in the column real_galaxy_catalog",
        )
    if moving.any():
        for ra, dec in (MOTION[:2], MOTION[2:]):
            found.add(
                np.isnan(values(table, ra)) != np.isnan(values(table, dec)),
                Flag.PARAMETERS_BAD,
                lambda r, a=ra, d=dec: (
                    f"{a} = {shown(values(table, a)[r])} and {d} = {shown(values(table, d)[r])}: give both, or neither"
                ),
            )
        found.add(
            moving & np.isnan(values(table, "epoch_mjd")),
            Flag.PARAMETERS_BAD,
            lambda r: "a moving source needs epoch_mjd, the time at which it is at (ra, dec)",
        )
