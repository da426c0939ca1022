"""What fluxes of stars should be: a reference catalogue's magnitudes, a pipeline's fluxes, aperture corrections."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.io import as_table, read_table
from skygraft.errors import CatalogError, SkygraftError
from skygraft.photometry.radius import parse_field_radius

__all__ = ["PipelineFluxes", "Reference", "read_pipeline_fluxes", "read_psf_correction", "read_reference"]

type Floats = NDArray[np.float64]

_NAMES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_icrs", "alpha_j2000", "coord_ra", "ramean"),
    "dec": ("dec", "dej2000", "decj2000", "de_icrs", "delta_j2000", "coord_dec", "decmean"),
    "mag": ("mag", "mag_{band}", "{band}_mag", "{band}mag", "{band}meanpsfmag", "{band}_psf_mag", "mag_psf_{band}"),
    "mag_error": ("mag_error", "mag_{band}_error", "{band}_mag_error", "e_{band}mag", "magerr", "{band}_err"),
}
_SLOT = "slot_CalibFlux"
_INDEXED = re.compile(r"\[(\d+)\]$")
_ENDINGS = ("_instFlux", "_flux")
_USED = ("calib_photometry_used", "calib_photometryUsed", "calib_photometry_reserved")
_STARS = ("calib_psf_used", "calib_psfUsed", "calib_psf_candidate", "calib_psfCandidate")
_CENTRES = ("slot_Centroid", "base_SdssCentroid", "base_NaiveCentroid", "base_GaussianCentroid")


@dataclass(frozen=True)
class Reference:
    """Stars of known magnitude.

    Parameters
    ----------
    ra, dec : ndarray, shape (N,)
        ICRS degrees.
    mag, mag_error : ndarray, shape (N,)
        AB magnitudes in the band of the image; errors are zero where none are given.
    origin : str
        File and column.
    """

    ra: Floats
    dec: Floats
    mag: Floats
    mag_error: Floats
    origin: str


@dataclass(frozen=True)
class PipelineFluxes:
    """Fluxes that a pipeline measured on the image and calibrated it with.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Parent pixels.
    flux : ndarray, shape (N,)
        Image units.
    selected : bool
        Whether the catalogue itself says that these are stars that it calibrated with.
    origin : str
    same_as : float
        Radius in the name of the column that equals the calibration flux in every row; NaN where there is none.
    by_radius : mapping of float to ndarray
        Fluxes of columns with a radius in their names, pixels.
    """

    x: Floats
    y: Floats
    flux: Floats
    selected: bool
    origin: str
    same_as: float = float("nan")
    by_radius: Mapping[float, Floats] = dataclasses.field(default_factory=dict)


def read_reference(
    source: Any, band: str | None = None, columns: Mapping[str, str] | None = None, *, path: str = ""
) -> Reference:
    """Read stars of known magnitude.

    Parameters
    ----------
    source : path-like or table-like
        A file of any of the formats of catalogues, or a table in memory.
    band : str, optional
        Of the image: ``mag_<band>``, ``<band>_mag`` and the like are looked for, after ``mag``.
    columns : mapping of str to str, optional
        Names of columns for ``ra``, ``dec``, ``mag`` and ``mag_error``, where they have others; one value of a column
        of vectors is ``MAG_APER[0]``.
    path : str
        Name of a table in memory, for messages.

    Returns
    -------
    Reference
        Rows with finite position and magnitude.

    Raises
    ------
    CatalogError
        If a column is missing (says what was looked for), or no row can be used.
    CorruptFileError
        If the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        table = read_table(source)
    else:
        table = as_table(source)
    where = path or None
    named = dict(columns or {})
    if unknown := sorted(set(named) - set(_NAMES)):
        raise CatalogError(
            f"{unknown[0]!r} is not something that a reference catalogue has; {', '.join(_NAMES)} are",
            path=where,
            key="columns",
        )
    found = {key: _column_of(table, key, named.get(key), band, where) for key in _NAMES}
    ra, dec = (_angles(table[str(found[key])], key, where) for key in ("ra", "dec"))
    mag = _magnitudes(_values_of(table, str(found["mag"])), str(found["mag"]), where)
    error = np.zeros(len(mag)) if found["mag_error"] is None else _plain(_values_of(table, found["mag_error"]))
    for name, values in (("mag", mag), ("mag_error", error)):
        if values.ndim != 1:
            raise CatalogError(
                f"the column {found[name]!r} has {values.shape[1]} values in each row",
                path=where,
                key="columns",
                fix=f"Say which, counted from 0: --columns {name}={found[name]}[0]",
            )
    good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(mag) & (mag < 90)
    if not good.any():
        raise CatalogError(
            f"none of {len(table)} rows has a position and a magnitude in {found['mag']!r}", path=where, key="mag"
        )
    error = np.where(np.isfinite(error), np.clip(error, 0, None), 0.0)
    name = Path(path).name if path else "the reference table"
    return Reference(ra[good], dec[good], mag[good], error[good], f"{found['mag']} of {name}")


def _column_of(table: Table, key: str, given: str | None, band: str | None, path: str | None) -> str | None:
    names = list(table.colnames)
    if given is not None:
        if _INDEXED.sub("", given) in names:
            return given
        raise _missing(f"the column {given!r} for {key}", given, names, path)
    wanted = [n.format(band=(band or "").lower()) for n in _NAMES[key] if band or "{band}" not in n]
    lower = {n.lower(): n for n in reversed(names)}
    for name in wanted:
        if name in lower:
            return str(lower[name])
    if key == "mag_error":
        return None
    raise _missing(f"a column for {key} (looked for {', '.join(wanted)})", key, names, path)


def _values_of(table: Table, name: str) -> Any:
    """A column, or one of several in a column of vectors: ``MAG_APER[0]``."""
    found = _INDEXED.search(name)
    if found is None:
        return table[name]
    column = table[_INDEXED.sub("", name)]
    index = int(found[1])
    if column.ndim != 2 or index >= column.shape[1]:
        raise CatalogError(
            f"{name!r} is asked for, and the column has shape {column.shape[1:]} in each row", key="columns"
        )
    return column[:, index]


def _missing(what: str, near: str, names: list[str], path: str | None) -> CatalogError:
    close = difflib.get_close_matches(near, names, 3, 0.3)
    return CatalogError(
        f"the reference catalogue lacks {what}; it has {', '.join(names[:30])}{', ...' if len(names) > 30 else ''}",
        path=path,
        key="columns",
        fix="Name it: --columns mag=NAME, columns={'mag': ...}" + (f" (near: {', '.join(close)})" if close else ""),
    )


def _plain(column: Any) -> Floats:
    values = getattr(column, "value", column)
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    return np.asarray(values, dtype=np.float64)


def _angles(column: Any, key: str, path: str | None) -> Floats:
    unit = getattr(column, "unit", None)
    values = _plain(column)
    if unit is None:
        return values
    try:
        return np.asarray((values * u.Unit(unit)).to_value(u.deg), dtype=np.float64)
    except (u.UnitConversionError, ValueError, TypeError):
        raise CatalogError(f"the column for {key} is in {unit}; an angle is needed", path=path, key=key) from None


def _magnitudes(column: Any, name: str, path: str | None) -> Floats:
    unit = getattr(column, "unit", None)
    if unit is not None and str(unit) not in ("mag", "mag(AB)", "ABmag", ""):
        raise CatalogError(
            f"the column {name!r} is in {unit}; AB magnitudes are needed", path=path, key="mag",
            fix="Convert it to AB magnitudes in the band of the image",
        )  # fmt: skip
    return _plain(column)


def read_pipeline_fluxes(path: str | os.PathLike[str], world_to_pixel: Any = None) -> PipelineFluxes | str:
    """Read the calibration fluxes of a pipeline's source catalogue.

    Parameters
    ----------
    path : path-like
        FITS (as afw writes it, with ALIAS cards) or Parquet.
    world_to_pixel : callable, optional
        ICRS degrees to parent pixels, for catalogues without centroids in pixels.

    Returns
    -------
    PipelineFluxes or str
        Or why it has none.

    Raises
    ------
    CorruptFileError, CatalogError
        If the file cannot be read.
    """
    path = Path(path)
    is_fits = path.name.lower().removesuffix(".gz").removesuffix(".fz").endswith((".fits", ".fit"))
    table = read_table(path, hdu=1) if is_fits else read_table(path)
    aliases, bits = _schema(path) if is_fits else ({}, {})
    if not len(table):
        return f"{path.name} has no rows"
    found = _calibration_column(table, aliases)
    if isinstance(found, str):
        return f"{path.name} {found}"
    name, stem, note = found
    flux = _plain(table[name])
    x, y = _centres(table, world_to_pixel)
    if x is None or y is None:
        return f"{path.name} has no centroids"
    by_radius = _by_radius(table)
    same = [r for r, values in by_radius.items() if np.array_equal(values, flux, equal_nan=True)]
    good = np.isfinite(flux) & (flux > 0) & np.isfinite(x) & np.isfinite(y)
    selected = False
    for flag in (*_USED, *_STARS):
        if (used := _flags(table, flag, bits)) is not None and used.any():
            good &= used
            selected = True
            break
    # An alias is a pointer: its column is equal to itself.
    own_column = _column_radius(name) is None
    return PipelineFluxes(
        x[good],
        y[good],
        flux[good],
        selected,
        f"{stem}{note} in {path.name}",
        same[0] if own_column and len(same) == 1 else float("nan"),
        {r: values[good] for r, values in by_radius.items()},
    )


def _schema(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Aliases of columns, and names of the bits of the column ``flags``, from cards that afw writes."""
    from skygraft.fitsfile.open import open_fits

    aliases: dict[str, str] = {}
    bits: dict[str, int] = {}
    with open_fits(path) as hdus:
        for card in hdus[1].header.cards:
            text = str(card.value)
            if card.keyword == "ALIAS" and ":" in text:
                name, target = text.split(":", 1)
                aliases[name] = target
            elif card.keyword.startswith("TFLAG") and card.keyword[5:].isdigit():
                bits[text] = int(card.keyword[5:]) - 1
    return aliases, bits


def _calibration_column(table: Table, aliases: Mapping[str, str]) -> tuple[str, str, str] | str:
    """The column of the calibration flux, what it is called, and a note; or why there is none."""
    names = set(table.colnames)
    target = aliases.get(_SLOT)
    for stem in (target, _SLOT, "calib"):
        for ending in _ENDINGS if stem != "calib" else ("_instFlux",):
            if stem and stem + ending in names:
                return stem + ending, f"{_SLOT} -> {stem}" if stem == target else stem + ending, ""
    radii = {r: n for n in table.colnames if (r := _column_radius(n)) is not None}
    if len(radii) == 1:
        [name] = radii.values()
        note = f", the only aperture flux (there is no {target}, which {_SLOT} names)" if target else ""
        return name, name, note
    return f"has no column of the calibration flux{f' ({target})' if target else ''}"


def _column_radius(name: str) -> float | None:
    """Radius in pixels in the name of a column of aperture fluxes in image units."""
    if not name.endswith(_ENDINGS) or name.startswith("slot_") or "Tophat" in name:
        return None
    return parse_field_radius(name)


def _by_radius(table: Table) -> dict[float, Floats]:
    found: dict[float, Floats] = {}
    for name in table.colnames:
        if (radius := _column_radius(name)) is not None and radius not in found:
            found[radius] = _plain(table[name])
    return dict(sorted(found.items()))


def _centres(table: Table, world_to_pixel: Any) -> tuple[Floats | None, Floats | None]:
    names = set(table.colnames)
    for stem in _CENTRES:
        if f"{stem}_x" in names and f"{stem}_y" in names:
            return _plain(table[f"{stem}_x"]), _plain(table[f"{stem}_y"])
    if {"x", "y"} <= names:
        return _plain(table["x"]), _plain(table["y"])
    if world_to_pixel is not None and {"coord_ra", "coord_dec"} <= names:
        # afw's angles are radians, also where no unit is written.
        ra, dec = (
            _angles(table[n], n, None) if table[n].unit is not None else np.degrees(_plain(table[n]))
            for n in ("coord_ra", "coord_dec")
        )
        x, y = world_to_pixel(ra, dec)
        return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return None, None


def _flags(table: Table, name: str, bits: Mapping[str, int]) -> NDArray[np.bool_] | None:
    if name in table.colnames:
        return np.asarray(np.ma.filled(np.ma.asarray(table[name]), False), dtype=bool)
    if name in bits and "flags" in table.colnames and table["flags"].ndim == 2:
        return np.asarray(table["flags"][:, bits[name]], dtype=bool)
    return None


def read_psf_correction(path: str | os.PathLike[str], x: Floats, y: Floats) -> tuple[Floats, Floats] | str:
    """Evaluate the aperture correction of PSF fluxes that an afw file records.

    The LSST pipelines measure it as the median ratio of the calibration flux (``slot_CalibFlux``) to the flux of a fit
    of the unit-sum PSF, for stars.

    Parameters
    ----------
    path : path-like
        The image.
    x, y : ndarray, shape (N,)
        Parent pixels.

    Returns
    -------
    correction, scatter : ndarray, shape (N,)
        Its value and the scatter that the file records (zero where it does not).
    str
        Instead, why there is none.
    """
    from skygraft.formats import afw_objects
    from skygraft.formats.afw_file import open_afw

    try:
        with open_afw(Path(path)) as opened:
            component = opened.side_component("AP_CORR_MAP")
            if component is None:
                return "the file records no aperture corrections"
            archive, key = component
            rows = [row for part in afw_objects.expect_object(archive, key, "ApCorrMap").catalogs for row in part]
            fields = {str(row["name"]): row["field"] for row in rows if "field" in row}
            for name, error in (
                ("base_PsfFlux_instFlux", "base_PsfFlux_instFluxErr"),
                ("base_PsfFlux_flux", "base_PsfFlux_fluxSigma"),
                ("base_PsfFlux_flux", "base_PsfFlux_fluxErr"),
            ):
                if name in fields:
                    value = afw_objects.build_field(archive, int(fields[name])).evaluate(x, y)
                    scatter = np.zeros(len(x))
                    if error in fields:
                        scatter = afw_objects.build_field(archive, int(fields[error])).evaluate(x, y)
                    return np.asarray(value, dtype=np.float64), np.asarray(scatter, dtype=np.float64)
            return "the aperture corrections have none of PSF fluxes"
    except SkygraftError as error:
        return f"the aperture corrections cannot be read ({error.message})"
