"""The canonical catalogue: its columns, their units and ranges, and the check that every table must pass.

One row is one object on the sky. Every dialect is converted to this schema once, at the door; nothing downstream
knows another. An optional column that is not needed is simply absent; `values` reads a column or its default.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag
from skygraft.errors import CatalogError

__all__ = [
    "COLUMNS",
    "LEAST_TRUNCATION",
    "MOFFAT_RANGE",
    "SERSIC_RANGE",
    "SOURCE_TYPES",
    "ColumnSpec",
    "OnBad",
    "bands_of",
    "check_duplicates",
    "is_mag_column",
    "strings",
    "validate",
    "values",
]

SOURCE_TYPES = ("Star", "Sersic", "BulgeDisk", "Gaussian", "Moffat", "Trail", "Stamp")
SERSIC_RANGE = (0.3, 6.2)  # what GalSim and LSST source_injection draw
MOFFAT_RANGE = (1.5, 100.0)  # below, much of the light is outside of any stamp; above, it is a Gaussian

LEAST_TRUNCATION = 2**0.5 * (1.0 - 1e-9)  # over the half-light radius: a flat disk, but for rounding

OnBad = Literal["raise", "flag"]
MAX_LISTED = 10
# Not a band: mag_per_pixel, and the errors that observed catalogues have beside their magnitudes.
_MAG = re.compile(r"mag_(?!per_pixel$|(?:\w+_)?(?:err|error|sigma)(?:_|$))(\w+)")


@dataclass(frozen=True)
class ColumnSpec:
    """One column of the canonical schema.

    Parameters
    ----------
    name : str
    kind : {"float", "int", "str", "bool"}
        Stored as float64, int64, str or bool.
    unit : str or None
        astropy unit string.
    doc : str
        Meaning.
    default : object
        What an absent column, or a missing value, means.
    low, high : float
        Allowed range, both ends allowed unless `open_low`.
    open_low : bool
        `low` itself is not allowed.
    types : tuple of str
        Source types that the range matters for; empty means all.
    required : bool
        Rows of `types` must have a finite value.
    choices : tuple of str
        Allowed values of a str column.
    """

    name: str
    kind: Literal["float", "int", "str", "bool"]
    unit: str | None
    doc: str
    default: Any
    low: float = -np.inf
    high: float = np.inf
    open_low: bool = False
    types: tuple[str, ...] = ()
    required: bool = False
    choices: tuple[str, ...] = ()

    def fails(self, array: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values are out of range (or missing, where they are required)."""
        below = array <= self.low if self.open_low else array < self.low
        bad: NDArray[np.bool_] = below | (array > self.high) | np.isinf(array)
        return bad | np.isnan(array) if self.required else bad

    @property
    def allowed(self) -> str:
        """The range, in words."""
        if np.isinf(self.high):
            return f"finite and {'>' if self.open_low else '>='} {self.low:g}" if np.isfinite(self.low) else "finite"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


_NAN = float("nan")
_SERSIC = ("Sersic",)
_BULGE = ("BulgeDisk",)
_ELLIPSES = ("Sersic", "Gaussian", "Moffat")
_NEVER_CUT = ("Gaussian", "Moffat", "BulgeDisk")


def _component(name: str, index: float) -> list[ColumnSpec]:
    return [
        ColumnSpec(
            f"{name}_half_light_radius", "float", "arcsec", f"Circularised half-light radius of the {name}.", _NAN,
            low=0.0, open_low=True, types=_BULGE, required=True,
        ),
        ColumnSpec(
            f"{name}_q", "float", None, f"Axis ratio b/a of the {name}.", 1.0,
            low=0.0, high=1.0, open_low=True, types=_BULGE,
        ),
        ColumnSpec(
            f"{name}_pa", "float", "deg", f"Position angle of the {name}, North through East.", 0.0, types=_BULGE
        ),
        ColumnSpec(
            f"{name}_n", "float", None, f"Sersic index of the {name}.", index,
            low=SERSIC_RANGE[0], high=SERSIC_RANGE[1], types=_BULGE,
        ),
    ]  # fmt: skip


_SPECS = [
    ColumnSpec("injection_id", "int", None, "Unique number of the source; sums are made in its order.", -1),
    ColumnSpec(
        "ra", "float", "deg", "Right ascension, ICRS, at `epoch_mjd`.", _NAN, low=0.0, high=360.0, required=True
    ),
    ColumnSpec("dec", "float", "deg", "Declination, ICRS, at `epoch_mjd`.", _NAN, low=-90.0, high=90.0, required=True),
    ColumnSpec("source_type", "str", None, "What to draw: " + ", ".join(SOURCE_TYPES) + ".", "", choices=SOURCE_TYPES),
    ColumnSpec(
        "n", "float", None, "Sersic index.", _NAN,
        low=SERSIC_RANGE[0], high=SERSIC_RANGE[1], types=_SERSIC, required=True,
    ),
    ColumnSpec(
        "moffat_beta", "float", None, "Exponent of a Moffat, I ~ (1 + (r / r_d)^2)^-beta.", _NAN,
        low=MOFFAT_RANGE[0], high=MOFFAT_RANGE[1], types=("Moffat",), required=True,
    ),
    ColumnSpec(
        "half_light_radius", "float", "arcsec", "Circularised half-light radius sqrt(ab), of the truncated profile.",
        _NAN, low=0.0, open_low=True, types=_ELLIPSES, required=True,
    ),
    ColumnSpec("q", "float", None, "Axis ratio b/a.", 1.0, low=0.0, high=1.0, open_low=True, types=_ELLIPSES),
    ColumnSpec("pa", "float", "deg", "Position angle of the major axis, North through East.", 0.0, types=_ELLIPSES),
    ColumnSpec(
        "bulge_fraction", "float", None, "Bulge flux over total flux.", _NAN,
        low=0.0, high=1.0, types=_BULGE, required=True,
    ),
    *_component("bulge", 4.0),
    *_component("disk", 1.0),
    ColumnSpec(
        "trunc", "float", "arcsec", "Truncation radius of a Sersic; NaN for none.", _NAN,
        low=0.0, open_low=True, types=_SERSIC,
    ),
    ColumnSpec(
        "trail_length", "float", "arcsec", "Length of the trail on the sky.", _NAN,
        low=0.0, open_low=True, types=("Trail",),
    ),
    ColumnSpec("trail_pa", "float", "deg", "Direction of the trail, North through East.", 0.0, types=("Trail",)),
    ColumnSpec(
        "trail_length_pix", "float", "pix", "Length of the trail in pixels of the image (LSST catalogues).", _NAN,
        low=0.0, open_low=True, types=("Trail",),
    ),
    ColumnSpec(
        "trail_angle_pix", "float", "deg", "Direction of the trail in the image, from +x towards +y.", 0.0,
        types=("Trail",),
    ),
    ColumnSpec(
        "mag_per_pixel", "bool", None, "The magnitude is that of one pixel of the trail's length, not the total.", False
    ),
    ColumnSpec("stamp", "str", None, "Path of the stamp's FITS image.", ""),
    ColumnSpec(
        "stamp_alignment", "str", None, "Follow the stamp's own WCS, or keep its pixel axes.", "",
        choices=("", "wcs", "pixel"),
    ),
    ColumnSpec(
        "stamp_psf", "str", None, "Convolve the stamp with the image's PSF, or with none.", "",
        choices=("", "image", "none"),
    ),
    ColumnSpec("pm_ra_cosdec", "float", "mas / yr", "Proper motion in right ascension, times cos(dec).", 0.0),
    ColumnSpec("pm_dec", "float", "mas / yr", "Proper motion in declination.", 0.0),
    ColumnSpec("rate_ra_cosdec", "float", "arcsec / h", "Rate in right ascension, times cos(dec).", 0.0),
    ColumnSpec("rate_dec", "float", "arcsec / h", "Rate in declination.", 0.0),
    ColumnSpec("epoch_mjd", "float", "d", "Time (MJD, TAI) at which the source is at (ra, dec).", _NAN),
    ColumnSpec("visit", "int", None, "The only visit to inject into; -1 for all.", -1),
    ColumnSpec(
        "draw_size", "int", "pix", "Largest side of the stamp of an extended source; 0 for as large as needed.", 0,
        low=0.0,
    ),
    ColumnSpec("flags", "int", None, "Bits, see `skygraft.catalog.flags`.", 0),
]  # fmt: skip

COLUMNS: dict[str, ColumnSpec] = {spec.name: spec for spec in _SPECS}
"""Every canonical column by name, beside ``mag_<band>`` (AB magnitudes, NaN where not in the band)."""

# A missing value of these, in a row that uses them, means the default (a round source, say), not an error.
FILLED = tuple(s.name for s in _SPECS if s.kind == "float" and s.types and not np.isnan(s.default))

MOTION = ("pm_ra_cosdec", "pm_dec", "rate_ra_cosdec", "rate_dec")


def is_mag_column(name: str) -> bool:
    """Whether `name` is ``mag_<band>``."""
    return _MAG.fullmatch(name) is not None


def bands_of(table: Table) -> list[str]:
    """Bands that the table has a ``mag_<band>`` column of, in the order of its columns."""
    return [name.removeprefix("mag_") for name in table.colnames if is_mag_column(name)]


def values(table: Table, name: str, default: Any = None) -> NDArray[Any]:
    """A column as a plain array in canonical units: float64, int64 or bool; NaN (or the default) where missing.

    Parameters
    ----------
    table : Table or QTable
    name : str
        Any canonical column, ``mag`` or ``mag_<band>``.
    default : object, optional
        Value where the column is absent; by default the schema's.

    Returns
    -------
    ndarray, shape (N,)
    """
    spec = COLUMNS.get(name)
    kind = spec.kind if spec else "float"
    if kind == "str":
        return strings(table, name)
    if default is None:
        default = spec.default if spec else _NAN
    dtype: Any = {"float": np.float64, "int": np.int64, "bool": np.bool_}[kind]
    if name not in table.colnames:
        return np.full(len(table), default, dtype=dtype)
    column = table[name]
    mask = getattr(column, "mask", None)
    unit = getattr(column, "unit", None)
    raw = np.asarray(getattr(column, "unmasked", column))
    raw = np.array(raw if kind != "float" else np.ma.getdata(raw).astype(np.float64), copy=True)
    if kind == "float" and unit is not None and unit != u.dimensionless_unscaled:
        wanted = u.Unit(spec.unit) if spec and spec.unit else (u.mag if name.startswith("mag") else None)
        if wanted is not None and unit not in (wanted, u.ABmag):
            raw = (raw * u.Unit(unit)).to_value(wanted)
    if mask is not None and np.any(mask):
        raw[np.asarray(mask, dtype=bool)] = _NAN if kind == "float" else default
    return raw.astype(dtype, copy=False)


def strings(table: Table, name: str) -> NDArray[np.str_]:
    """A column of text as a plain array of str: bytes are decoded, blanks stripped, missing values are ``""``."""
    if name not in table.colnames:
        return np.full(len(table), "", dtype="U1")
    column = table[name]
    mask = getattr(column, "mask", None)
    raw = np.asarray(column)
    if raw.dtype.kind == "S":
        raw = np.char.decode(raw, "utf-8")
    elif raw.dtype.kind != "U":
        decoded = (v.decode() if isinstance(v, bytes) else v for v in raw.tolist())
        raw = np.array(["" if v is None or v != v else str(v) for v in decoded], dtype=np.str_)  # noqa: PLR0124
    raw = np.char.strip(raw) if raw.size else raw.astype("U1")
    if mask is not None and np.any(mask):
        raw[np.asarray(mask, dtype=bool)] = ""
    return raw


def _nearest(word: str) -> str:
    lowered = {name.lower(): name for name in SOURCE_TYPES}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.4)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


class _Findings:
    """Bad rows with their reasons, and the flags that they earn."""

    def __init__(self, n: int) -> None:
        self.flags = np.zeros(n, dtype=np.int64)
        self.fatal = np.zeros(n, dtype=bool)
        self.reasons: dict[int, list[str]] = {}

    def add(self, bad: NDArray[np.bool_], flag: Flag | None, describe: Any) -> None:
        """Note the rows of `bad`; those without a flag can not be kept at all."""
        if flag is None:
            self.fatal |= bad
        else:
            self.flags[bad] |= int(flag)
        for row in np.flatnonzero(bad)[: MAX_LISTED + 1]:
            self.reasons.setdefault(int(row), []).append(describe(int(row)))

    def error(self, table: Table, rows: NDArray[np.bool_], origin: str, first_row: int) -> CatalogError:
        """One error that lists up to ten of `rows`."""
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
            fix="Correct these rows"
            + (
                ", or keep them undrawn with on_bad='flag' (in a campaign, catalog: {on_bad: flag})" if keepable else ""
            ),
        )


def check_duplicates(ids: NDArray[np.int64], *, origin: str = "", first_row: int = 0) -> None:
    """Raise where an injection id occurs twice.

    Raises
    ------
    CatalogError
        Naming up to ten of the ids and two rows of each.
    """
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if same.size:
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
    table: QTable, *, on_bad: OnBad = "raise", origin: str = "", first_row: int = 0, unique: bool = True
) -> QTable:
    """Check a canonical table; the whole file is refused by default, or its bad rows are flagged.

    A missing magnitude is no error: the source is not in that band, and is flagged ``MAG_BAD`` where it is injected.
    A position that is not on the sphere, and an id that occurs twice, can not be flagged: they always raise. Right
    ascensions are never wrapped.

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

    Returns
    -------
    QTable
        The table with the column ``flags`` set.

    Raises
    ------
    CatalogError
        Naming up to ten rows (row number and injection id), the values and what is allowed.
    """
    if on_bad not in ("raise", "flag"):
        raise CatalogError(f"on_bad is {on_bad!r}; allowed are 'raise' and 'flag'", key="on_bad")
    if len(table) == 0:
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    for name in ("injection_id", "ra", "dec", "source_type"):
        if name not in table.colnames:
            raise CatalogError(f"the catalogue has no column {name!r}", path=origin or None, key=name)
    found = _Findings(len(table))
    source_type = strings(table, "source_type")
    _check_types(found, source_type)
    _check_ranges(found, table, source_type)
    _check_trails_and_stamps(found, table, source_type)
    _check_truncation(found, table, source_type)
    for name in (c for c in table.colnames if is_mag_column(c)):
        mag = values(table, name)
        found.add(np.isinf(mag), Flag.MAG_BAD, lambda r, m=mag, c=name: f"{c} = {m[r]} is not finite")
    bad = found.fatal | (found.flags != 0)
    if found.fatal.any():
        raise found.error(table, found.fatal, origin, first_row)
    if on_bad == "raise" and bad.any():
        raise found.error(table, bad, origin, first_row)
    if unique:
        check_duplicates(values(table, "injection_id"), origin=origin, first_row=first_row)
    out = table.copy(copy_data=False)
    out["flags"] = values(table, "flags") | found.flags
    return out


def _check_types(found: _Findings, source_type: NDArray[np.str_]) -> None:
    unknown = ~np.isin(source_type, SOURCE_TYPES)
    allowed = ", ".join(SOURCE_TYPES)
    found.add(
        unknown,
        Flag.TYPE_UNKNOWN,
        lambda r: f"source_type {str(source_type[r])!r} is not one of {allowed}{_nearest(str(source_type[r]))}",
    )


def _check_ranges(found: _Findings, table: QTable, source_type: NDArray[np.str_]) -> None:
    bulge_fraction = values(table, "bulge_fraction")
    for spec in COLUMNS.values():
        name = spec.name
        absent = name not in table.colnames
        if spec.choices and name != "source_type" and not absent:
            text = strings(table, name)
            found.add(
                ~np.isin(text, spec.choices),
                Flag.PARAMETERS_BAD,
                lambda r, t=text, s=spec: f"{s.name} {str(t[r])!r} is not one of {', '.join(filter(None, s.choices))}",
            )
        if spec.kind not in ("float", "int") or name == "injection_id" or (absent and not spec.required):
            continue
        used = np.isin(source_type, spec.types) if spec.types else np.ones(len(table), dtype=bool)
        # A galaxy that is all disk needs no bulge parameters, and the other way round.
        if name.startswith("bulge_") and name != "bulge_fraction":
            used &= bulge_fraction != 0
        elif name.startswith("disk_"):
            used &= bulge_fraction != 1
        if not used.any():
            continue
        array = values(table, name).astype(np.float64)
        flag: Flag | None = Flag.PARAMETERS_BAD
        if name in ("ra", "dec"):
            flag = None
        elif name in ("n", "bulge_n", "disk_n"):
            flag = Flag.SERSIC_EXTREME
        found.add(
            used & spec.fails(array),
            flag,
            lambda r, a=array, s=spec: f"{s.name} = {a[r]:g} is not {s.allowed}{' ' + s.unit if s.unit else ''}",
        )


def _check_truncation(found: _Findings, table: QTable, source_type: NDArray[np.str_]) -> None:
    trunc = values(table, "trunc")
    found.add(
        np.isin(source_type, _NEVER_CUT) & (np.nan_to_num(trunc) != 0),
        Flag.PARAMETERS_BAD,
        lambda r: f"trunc = {trunc[r]:g}, but a {source_type[r]} is not truncated: leave it empty",
    )
    radius = values(table, "half_light_radius")
    with np.errstate(invalid="ignore"):
        inner = np.isin(source_type, _SERSIC) & (trunc > 0) & (trunc < LEAST_TRUNCATION * radius)
    found.add(
        inner,
        Flag.PARAMETERS_BAD,
        lambda r: (
            f"trunc = {trunc[r]:.9g} arcsec is less than sqrt(2) half-light radii ({2**0.5 * radius[r]:.9g} arcsec), "
            "at which the profile is a flat disk: half of the light cannot be so far out"
        ),
    )


def _check_trails_and_stamps(found: _Findings, table: QTable, source_type: NDArray[np.str_]) -> None:
    n = len(table)
    moving = np.zeros(n, dtype=bool)
    for name in MOTION:
        moving |= np.nan_to_num(values(table, name)) != 0
    rated = np.nan_to_num(np.hypot(values(table, "rate_ra_cosdec"), values(table, "rate_dec"))) != 0
    lengths = np.isnan(values(table, "trail_length")) & np.isnan(values(table, "trail_length_pix"))
    found.add(
        (source_type == "Trail") & lengths & ~rated,
        Flag.PARAMETERS_BAD,
        lambda r: "a Trail needs trail_length, trail_length_pix, or a rate",
    )
    found.add(
        (source_type == "Stamp") & (strings(table, "stamp") == ""),
        Flag.PARAMETERS_BAD,
        lambda r: "a Stamp needs the path of its image in the column stamp",
    )
    found.add(
        moving & np.isnan(values(table, "epoch_mjd")),
        Flag.PARAMETERS_BAD,
        lambda r: "a moving source needs epoch_mjd, the time at which it is at (ra, dec)",
    )
