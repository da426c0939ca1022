"""Detections that a pipeline made, from its own catalogue: LSST's tables, Source Extractor's, the Legacy Surveys', any.

What a catalogue is is recognised by its columns. Its detections come out in common terms: positions in ICRS degrees,
fluxes with the unit that they are in, shapes on the image or on the sky; what it does not have is NaN.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError
from skygraft.recovery.catalogs_files import Columns, RawCatalog, SkyBox, open_raw
from skygraft.recovery.catalogs_kinds import ColumnMap, Kind, Tractor, Wanted
from skygraft.recovery.catalogs_lsst import Afw, Lsst
from skygraft.recovery.catalogs_sextractor import SourceExtractor
from skygraft.recovery.catalogs_terms import DetectedFlux, Detections, ImageContext
from skygraft.recovery.catalogs_unique import without_duplicates

__all__ = ["DetectedFlux", "Detections", "ImageContext", "read_detections", "recognise"]

KINDS: dict[str, Kind] = {one.name: one for one in (Lsst(), Afw(), SourceExtractor(), Tractor())}
"""Kinds of catalogues that are recognised by their columns."""


@dataclass(frozen=True)
class _Frame:
    """The frame of a catalogue's positions."""

    name: str
    origin: str
    equinox: float | None = field(default=None)


def recognise(raw: RawCatalog, kind: str = "auto") -> Kind:
    """Find out what made a catalogue, by its columns.

    Parameters
    ----------
    raw : RawCatalog
    kind : str
        Its name, to skip the search; ``auto`` looks at all.

    Returns
    -------
    Kind

    Raises
    ------
    CatalogError
        If none fits, or several: with the columns that each looks for, and those of the catalogue with the nearest
        names.
    """
    names = frozenset(raw.names)
    if kind != "auto":
        chosen = KINDS[kind]
        if missing := chosen.missing(names):
            raise CatalogError(
                f"this is no catalogue of kind {kind}: {_lacking(missing, raw.names)}",
                path=raw.path,
                fix="Name another kind, or give the names of the columns with columns:",
            )
        return chosen
    fitting = [one for one in KINDS.values() if not one.missing(names)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CatalogError(
            f"the columns fit several kinds of catalogues: {', '.join(one.name for one in fitting)}",
            path=raw.path,
            fix="Say which with kind: in recovery: catalogs:",
        )
    looked = "; ".join(f"{one.name}: {_lacking(one.missing(names), raw.names)}" for one in KINDS.values())
    shown = ", ".join(raw.names[:20]) + (f" and {len(raw.names) - 20} more" if len(raw.names) > 20 else "")
    raise CatalogError(
        f"the columns are those of no catalogue that is known ({looked}); there are {shown or 'none'}",
        path=raw.path,
        fix="Give the names of the columns with columns: {ra: ..., dec: ..., mag: ...}",
    )


def _lacking(missing: tuple[tuple[str, ...], ...], names: tuple[str, ...]) -> str:
    """Say which columns were looked for, and which ones have the nearest names."""
    parts = []
    for choices in missing:
        near = _nearest(choices[0], names)
        parts.append(" or ".join(choices[:3]) + (f" (the nearest is {near[0]})" if near else ""))
    return "no " + ", no ".join(parts)


def _nearest(name: str, names: tuple[str, ...]) -> list[str]:
    lower = {other.lower(): other for other in names}
    return [lower[one] for one in difflib.get_close_matches(name.lower(), list(lower), 3, 0.6)]


def read_detections(
    path: str | Path, settings: RecoveryCatalogs, context: ImageContext, *, box: SkyBox | None = None
) -> Detections:
    """Read the detections of one image from a catalogue.

    Parameters
    ----------
    path : path-like
        The catalogue; it may hold those of other images, too.
    settings : RecoveryCatalogs
        What the user says about it.
    context : ImageContext
        The image: band, visit, calibration, transformations between pixels and sky.
    box : SkyBox, optional
        The part of the sky that is needed: rows outside of it may be left out.

    Returns
    -------
    Detections

    Raises
    ------
    CatalogError
        If the catalogue is none that is known, a column is missing or not understood, positions cannot be what their
        unit says, or it holds other visits, detectors or bands.
    CorruptFileError
        If it is truncated or damaged.
    """
    raw = open_raw(path, settings.hdu)
    kind = _column_map(raw, settings) if settings.columns is not None else recognise(raw, settings.kind)
    wanted = kind.wanted(raw, settings, context)
    frame = _frame(raw, settings, wanted)
    # In another frame or unit the rows that are needed are found only once all are converted.
    narrow = None
    if box is not None and wanted.ra and frame.name == "icrs" and wanted.angle is None and not settings.units:
        narrow = (wanted.ra, wanted.dec, 1.0)
    columns = Columns(raw.read(wanted.names, narrow, box), raw.path, settings.units)
    ra, dec = _positions(columns, wanted, frame, context, raw)
    keep, counts = _kept(columns, ra, dec, raw, wanted, context)
    columns, ra, dec = columns.take(keep), ra[keep], dec[keep]
    found = kind.convert(columns, raw, settings, context, np.stack(context.pixels(ra, dec))).at(ra, dec)
    unique = without_duplicates(found, settings.duplicate_arcsec)
    return found.take(unique).counted(counts | {"duplicates": int((~unique).sum())})


def _column_map(raw: RawCatalog, settings: RecoveryCatalogs) -> Kind:
    assert settings.columns is not None
    given = settings.columns.model_dump(exclude_none=True)
    for term, name in given.items():
        if name not in raw.names:
            near = _nearest(name, raw.names)
            raise CatalogError(
                f"there is no column {name!r}, which columns: names for {term}; there are {', '.join(raw.names[:30])}",
                path=raw.path,
                key=f"columns.{term}",
                fix=f"Did you mean {near[0]!r}?" if near else "Name one of these",
            )
    return ColumnMap()


def _frame(raw: RawCatalog, settings: RecoveryCatalogs, wanted: Wanted) -> _Frame:
    """Find the frame of the positions: what the columns' names, the header and the settings say must agree."""
    found: list[_Frame] = []
    if wanted.frame:
        found.append(_Frame(wanted.frame, f"column {wanted.ra}"))
    for key in ("RADESYS", "RADECSYS", "FRAME", "SYSTEM", "COOSYS"):
        value = raw.header.get(key)
        if isinstance(value, str) and value.strip() and not wanted.frame:
            name = value.strip().lower()
            if name not in ("icrs", "fk5", "fk4", "fk4-no-e", "galactic"):
                raise CatalogError(
                    f"positions are in the frame {value.strip()!r}; known are ICRS, FK5, FK4 and galactic",
                    path=raw.path,
                    key=key,
                    fix="Convert them to ICRS",
                )
            found.append(_Frame(name, f"card {key}"))
            break
    equinox = raw.header.get("EQUINOX")
    number = float(equinox) if isinstance(equinox, (int, float)) and np.isfinite(equinox) and equinox else None
    if number is not None and not found and settings.frame is None:
        # FITS, paper II, section 3.1: FK4 before 1984.
        found.append(_Frame("fk4" if number < 1984.0 else "fk5", "card EQUINOX"))
    if settings.frame is not None:
        if found and found[0].name != settings.frame:
            raise CatalogError(
                f"positions are in {found[0].name} by {found[0].origin}, and frame: says {settings.frame}",
                path=raw.path,
                key="frame",
                fix="Leave frame: out, or correct the file",
            )
        found.insert(0, _Frame(settings.frame, "frame:"))
    chosen = found[0] if found else _Frame("icrs", "default")
    return _Frame(chosen.name, chosen.origin, number if chosen.name in ("fk5", "fk4", "fk4-no-e") else None)


def _positions(
    columns: Columns, wanted: Wanted, frame: _Frame, context: ImageContext, raw: RawCatalog
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not wanted.ra:
        x, y = columns.floats(wanted.x), columns.floats(wanted.y)
        return context.to_sky(x - wanted.first_pixel, y - wanted.first_pixel)
    pair = []
    for name in (wanted.ra, wanted.dec):
        given = columns.unit(name)
        if given is not None and not given.is_equivalent(u.deg):
            raise CatalogError(
                f"column {name!r} is in {given}, which is no angle",
                path=raw.path,
                key=name,
                fix="Correct the unit; degrees and radians are understood",
            )
        if given is None and wanted.angle is not None:
            pair.append(np.degrees(columns.floats(name)))
        else:
            pair.append(columns.floats(name, "deg"))
    ra, dec = pair
    good = np.isfinite(ra) & np.isfinite(dec)
    for name, values, low, high in ((wanted.ra, ra, -180.0, 360.0), (wanted.dec, dec, -90.0, 90.0)):
        bad = good & ((values < low - 1e-9) | (values > high + 1e-9))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise CatalogError(
                f"{name} = {values[row]:.6g} degrees, which no position has",
                path=raw.path,
                row=row,
                key=name,
                fix=f"Say its unit: units: {{{name}: ...}}, or convert the column to degrees",
            )
    _refuse_radians(columns, wanted, ra, dec, good, context, raw)
    return _to_icrs(ra, dec, frame)


def _refuse_radians(
    columns: Columns,
    wanted: Wanted,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    good: NDArray[np.bool_],
    context: ImageContext,
    raw: RawCatalog,
) -> None:
    """Raise if numbers without a unit lie on the image only as radians, or as hours."""
    if not good.any() or columns.unit(wanted.ra) is not None or wanted.angle is not None:
        return
    if context.near(ra, dec).any():
        return
    other = {"rad": (np.degrees(ra), np.degrees(dec)), "hourangle": (ra * 15.0, dec)}
    for unit, (one, two) in other.items():
        fits_sky = good & (np.abs(one) <= 360.0) & (np.abs(two) <= 90.0)
        if fits_sky.any() and context.near(np.where(fits_sky, one, np.nan), np.where(fits_sky, two, np.nan)).any():
            names = (wanted.ra, wanted.dec) if unit == "rad" else (wanted.ra,)
            said = ", ".join(f"{name}: {unit}" for name in names)
            raise CatalogError(
                f"no row is on the image with {wanted.ra} and {wanted.dec} in degrees, but some are with "
                f"{' and '.join(names)} in {'radians' if unit == 'rad' else 'hours'}",
                path=raw.path,
                key=wanted.ra,
                fix=f"Say so: units: {{{said}}}",
            )


def _to_icrs(
    ra: NDArray[np.float64], dec: NDArray[np.float64], frame: _Frame
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if frame.name == "icrs":
        return np.mod(ra, 360.0), dec
    from astropy.coordinates import FK4, FK5, FK4NoETerms, Galactic, SkyCoord

    if frame.name == "fk5":
        native: Any = FK5(equinox=f"J{frame.equinox or 2000.0}")
    elif frame.name == "galactic":
        native = Galactic()
    else:
        native = (FK4NoETerms if frame.name == "fk4-no-e" else FK4)(equinox=f"B{frame.equinox or 1950.0}")
    good = np.isfinite(ra) & np.isfinite(dec)
    out = np.full((2, len(ra)), np.nan)
    sky = SkyCoord(ra[good] * u.deg, dec[good] * u.deg, frame=native).icrs
    out[:, good] = sky.ra.deg, sky.dec.deg
    return out[0], out[1]


def _kept(
    columns: Columns,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    raw: RawCatalog,
    wanted: Wanted,
    context: ImageContext,
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Find the rows that are detections of the image, and count the others by reason."""
    counts = {"rows": len(columns)}
    keep = np.ones(len(columns), dtype=bool)
    for name, value in wanted.of_image.items():
        texts = columns.texts(name)
        same = texts == str(value)
        if len(texts) and not (same & keep).any():
            there = ", ".join(sorted(set(texts[keep].tolist()))[:5])
            raise CatalogError(
                f"no row has {name} {value!r}, that of the image {context.image_id}; there are {there}",
                path=raw.path,
                key=name,
                fix="Give the catalogue of this image; names in braces in the path stand for its visit and band",
            )
        counts[f"of another {name}"] = int((keep & ~same).sum())
        keep &= same
    for reason, drop in wanted.dropped.items():
        counts[reason] = int((keep & drop(columns)).sum())
        keep &= ~drop(columns)
    on_sky = np.isfinite(ra) & np.isfinite(dec)
    counts["without position"] = int((keep & ~on_sky).sum())
    keep &= on_sky
    near = context.near(ra, dec)
    if keep.any() and not (keep & near).any():
        raise CatalogError(
            f"none of its {int(keep.sum())} detections lies on the image {context.image_id}; the nearest is "
            f"{context.distance(ra[keep], dec[keep]):.4g} deg from its centre",
            path=raw.path,
            fix="Check that it is the catalogue of this image, and the frame and unit of its positions",
        )
    counts["off the image"] = int((keep & ~near).sum())
    return keep & near, counts
