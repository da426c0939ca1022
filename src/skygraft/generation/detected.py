"""Real galaxies of a table of detections as hosts: their ellipses on the sky, whatever the table calls them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.catalog.columns import ColumnReader
from skygraft.catalog.io import read_table
from skygraft.catalog.schema import COLUMNS
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError
from skygraft.wcs.local import local_jacobian

__all__ = ["TERMS", "hosts_from_detections"]

type Array = NDArray[np.float64]

TERMS: dict[str, str] = {
    "id": "",
    "ra": "deg",
    "dec": "deg",
    "x": "",
    "y": "",
    "half_light_radius": "arcsec",
    "a": "arcsec",
    "b": "arcsec",
    "q": "",
    "elongation": "",
    "ellipticity": "",
    "e1": "",
    "e2": "",
    "pa": "deg",
    "theta_world": "deg",
    "theta_image": "deg",
    "xx": "",
    "yy": "",
    "xy": "",
    "n": "",
}
"""What a table of detections may say of a galaxy, with the units that are assumed where a column has none."""

_KINDS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "source-extractor": {
        "id": (("NUMBER", ""),),
        "ra": (("ALPHAWIN_J2000", "deg"), ("ALPHA_J2000", "deg"), ("ALPHAWIN_SKY", "deg"), ("ALPHA_SKY", "deg")),
        "dec": (("DELTAWIN_J2000", "deg"), ("DELTA_J2000", "deg"), ("DELTAWIN_SKY", "deg"), ("DELTA_SKY", "deg")),
        "x": (("XWIN_IMAGE", ""), ("X_IMAGE", "")),
        "y": (("YWIN_IMAGE", ""), ("Y_IMAGE", "")),
        "half_light_radius": (("FLUX_RADIUS", "pix"),),
        "a": (("A_WORLD", "deg"), ("A_IMAGE", "pix")),
        "b": (("B_WORLD", "deg"), ("B_IMAGE", "pix")),
        "elongation": (("ELONGATION", ""),),
        "ellipticity": (("ELLIPTICITY", ""),),
        "pa": (("THETA_J2000", "deg"), ("THETA_SKY", "deg")),
        "theta_world": (("THETA_WORLD", "deg"),),
        "theta_image": (("THETA_IMAGE", "deg"),),
    },
    "lsst": {
        "id": (("sourceId", ""), ("objectId", ""), ("id", "")),
        "ra": (("coord_ra", "rad"), ("ra", "deg")),
        "dec": (("coord_dec", "rad"), ("dec", "deg")),
        "xx": (("slot_Shape_xx", "pix2"), ("base_SdssShape_xx", "pix2"), ("ixx", "pix2")),
        "yy": (("slot_Shape_yy", "pix2"), ("base_SdssShape_yy", "pix2"), ("iyy", "pix2")),
        "xy": (("slot_Shape_xy", "pix2"), ("base_SdssShape_xy", "pix2"), ("ixy", "pix2")),
    },
    "tractor": {
        "id": (("objid", ""),),
        "ra": (("ra", "deg"),),
        "dec": (("dec", "deg"),),
        "half_light_radius": (("shape_r", "arcsec"),),
        "e1": (("shape_e1", ""),),
        "e2": (("shape_e2", ""),),
        "n": (("sersic", ""),),
    },
}
"""Columns of the usual tables: for each term, the first that is there."""
_TELLTALE = {
    "source-extractor": ({"ALPHA_J2000"}, {"ALPHAWIN_J2000"}, {"ALPHA_SKY"}, {"ALPHAWIN_SKY"}),
    "lsst": ({"coord_ra", "coord_dec"}, {"ra", "dec", "ixx"}),
    "tractor": ({"shape_r", "shape_e1", "shape_e2", "ra", "dec"},),
}
_HALF_LIGHT = np.sqrt(2.0 * np.log(2.0))
"""Half-light radius of a Gaussian, in standard deviations."""
_FLATTEST = 0.1
"""Smallest axis ratio that seeing, taken out, leaves."""


def hosts_from_detections(
    detections: Any,
    *,
    columns: Mapping[str, str] | None = None,
    wcs: BaseLowLevelWCS | None = None,
    n: float = 1.0,
    seeing: float = 0.0,
    circular: bool = False,
    hdu: int | str | None = None,
) -> QTable:
    """Return the galaxies of a table of detections as a catalogue of Sérsic hosts, for `in_hosts`.

    Tables of Source Extractor, of the LSST pipelines and of Tractor are recognised by their columns. The size is the
    half-light radius where there is one (FLUX_RADIUS, which Source Extractor gives in pixels, shape_r), else that of a
    Gaussian of the second moments (A and B, ixx ...).

    With `wcs`, what was measured on pixels comes first: THETA_IMAGE (from +x towards +y), A_IMAGE and B_IMAGE. Without,
    position angles are those of THETA_J2000 or THETA_SKY (from North through East) or THETA_WORLD (from East towards
    North). Source Extractor 2.25 has these wrong, by up to 12 degrees, and A_WORLD and B_WORLD by 30 %, on images whose
    rows run in other directions than to the North, East, South or West: it forgets a factor of 2 in the moments.

    Parameters
    ----------
    detections : table-like or path-like
        One row for each galaxy.
    columns : mapping of str to str, optional
        Names of columns for the terms of `TERMS`; these come before those that are recognised. Columns in pixels say so
        by their unit.
    wcs : WCS, optional
        Of the image on which they were detected, 0-based; needed if sizes or angles are those on pixels.
    n : float
        Sérsic index of hosts that have none.
    seeing : float
        FWHM in arcsec that is taken out of the sizes, in quadrature. Those not larger are left without a size.
    circular : bool
        Take all as round, for tables that have no position angles.
    hdu : int or str, optional
        Of a FITS file with several tables.

    Returns
    -------
    QTable
        ``injection_id`` (the number of the detection), ``ra``, ``dec``, ``source_type``, ``n``, ``half_light_radius``
        (circularised), ``q``, ``pa``; and all other columns of numbers, for weights. Galaxies without a size or an
        ellipse have NaN, and are never drawn.

    Raises
    ------
    CatalogError
        If there are no positions, or sizes in pixels and no `wcs`; the columns that were looked for are named.
    """
    path = None
    if isinstance(detections, (str, os.PathLike)):
        path = str(Path(detections))
        detections = read_table(path, hdu=hdu)
    table = as_table(detections)
    if not 0.0 <= seeing < np.inf or not n > 0:
        raise CatalogError(
            f"seeing is {seeing} arcsec and n is {n}; they must be 0 or more, and positive", key="seeing"
        )
    found = _Found(table, _columns_of(table, columns, path, wcs is not None), wcs, path, circular)
    ra, dec = found.floats("ra"), found.floats("dec")
    if ra is None or dec is None:
        raise found.error("ra", "positions: ra and dec")
    out = QTable()
    ids = found.integers("id")
    out["injection_id"] = np.arange(len(table)) if ids is None else ids
    # Right ascensions are those of detections, some of which are given in -180 to 180.
    out["ra"], out["dec"] = (ra % 360.0) * u.deg, dec * u.deg
    out["source_type"] = np.full(len(table), "Sersic")
    index = found.floats("n")
    # Tractor has 0 for profiles that are not Sérsic's: point sources, and fixed ones.
    out["n"] = np.full(len(table), float(n)) if index is None else np.where(index > 0, index, n)
    major, minor, angle = found.ellipse(ra, dec)
    half = seeing / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        long, short = major**2 - half**2, np.maximum(minor**2 - half**2, (_FLATTEST * major) ** 2 if seeing else 0.0)
        good = (long > 0) & (short > 0) & np.isfinite(angle)
        long, short = np.sqrt(np.where(good, long, np.nan)), np.sqrt(np.where(good, short, np.nan))
        short = np.minimum(short, long)
        out["half_light_radius"] = np.sqrt(long * short) * u.arcsec
        out["q"], out["pa"] = short / long, np.where(good, angle % 180.0, np.nan) * u.deg
    for name in table.colnames:
        column = table[name]
        if name not in out.colnames and name not in COLUMNS and column.ndim == 1 and column.dtype.kind in "iuf":
            out[name] = column
    return out


def _columns_of(
    table: Table, given: Mapping[str, str] | None, path: str | None, pixels: bool
) -> dict[str, tuple[str, str]]:
    """Return the column of each term, and the unit that is assumed for it."""
    names = set(table.colnames)
    unknown = sorted(set(given or {}) - set(TERMS))
    lost = sorted(set((given or {}).values()) - names)
    if unknown or lost:
        raise CatalogError(
            f"columns names {', '.join(unknown)}, which may be {', '.join(TERMS)}"
            if unknown
            else f"columns names {', '.join(lost)}; the table has {', '.join(table.colnames)}",
            path=path,
            key="columns",
        )
    out: dict[str, tuple[str, str]] = {}
    for kind, sets in _TELLTALE.items():
        if any(one <= names for one in sets):
            for term, choices in _KINDS[kind].items():
                there = [choice for choice in choices if choice[0] in names]
                if there:
                    measured = [choice for choice in there if choice[1] == "pix"]
                    out[term] = (measured if pixels and measured else there)[0]
            break
    return out | {term: (name, TERMS[term]) for term, name in (given or {}).items()}


class _Found:
    """The columns that were found, and what they say."""

    def __init__(
        self,
        table: Table,
        columns: dict[str, tuple[str, str]],
        wcs: BaseLowLevelWCS | None,
        path: str | None,
        circular: bool,
    ) -> None:
        self._table = table
        self._columns = columns
        self._wcs = wcs
        self._path = path
        self._circular = circular
        self._jacobians: NDArray[np.float64] | None = None

    def error(self, key: str, what: str) -> CatalogError:
        """Return the error that something is not there."""
        return CatalogError(
            f"the table has no {what}; its columns are {', '.join(self._table.colnames)}",
            path=self._path,
            key=key,
            fix=f"Name the columns: columns={{...}} with {', '.join(TERMS)}",
        )

    def _reader(self, term: str) -> ColumnReader | None:
        if term not in self._columns:
            return None
        name = self._columns[term][0]
        column = self._table[name]
        if getattr(column, "ndim", 1) == 2:  # FLUX_RADIUS for several fractions: the first, one half by default
            column = column[:, 0]
        return ColumnReader(column, name, self._path or "")

    def integers(self, term: str) -> NDArray[np.int64] | None:
        """Return a column of numbers; None if it is not there."""
        reader = self._reader(term)
        return None if reader is None else reader.integers(-1)

    def unit(self, term: str) -> u.UnitBase:
        """Return the unit of a column, which may be assumed."""
        reader = self._reader(term)
        given = None if reader is None else reader.unit
        return u.Unit(self._columns[term][1]) if given in (None, u.dimensionless_unscaled) else given

    def floats(self, term: str) -> Array | None:
        """Return a column in the unit of `TERMS`; None if it is not there."""
        reader = self._reader(term)
        if reader is None:
            return None
        array = reader.floats()
        unit = self.unit(term)
        if unit.physical_type == "angle" and TERMS[term]:
            return np.asarray((array * unit).to_value(TERMS[term]))
        return array

    def _in_pixels(self, term: str) -> bool:
        return self.unit(term) in (u.pix, u.pix**2)

    def _jacobian(self, ra: Array, dec: Array, key: str) -> NDArray[np.float64]:
        """Return the local Jacobians, arcsec per pixel, shape (N, 2, 2)."""
        if self._jacobians is None:
            if self._wcs is None:
                raise CatalogError(
                    f"the column {self._columns[key][0]} is measured in pixels, and there is no WCS to convert it",
                    path=self._path,
                    key="wcs",
                    fix="Give wcs=, that of the image in which they were detected, such as exposure.wcs",
                )
            x, y = (np.asarray(one, dtype=np.float64) for one in self._wcs.world_to_pixel_values(ra, dec))
            good = np.isfinite(x) & np.isfinite(y)
            self._jacobians = np.full((len(x), 2, 2), np.nan)
            if good.any():
                self._jacobians[good] = local_jacobian(self._wcs, x[good], y[good])
        return self._jacobians

    def _sizes(self, term: str, ra: Array, dec: Array) -> Array | None:
        array = self.floats(term)
        if array is None or not self._in_pixels(term):
            return array
        return np.asarray(array * np.sqrt(np.abs(np.linalg.det(self._jacobian(ra, dec, term)))))

    def ellipse(self, ra: Array, dec: Array) -> tuple[Array, Array, Array]:
        """Return half-light semi-axes in arcsec and position angle in degrees, seeing included."""
        if "xx" in self._columns and "a" not in self._columns:
            return self._moments(ra, dec)
        radius = self._sizes("half_light_radius", ra, dec)
        with np.errstate(invalid="ignore", divide="ignore"):
            if "e1" in self._columns and "e2" in self._columns:
                # Legacy Surveys: |e| = (a - b) / (a + b), at the angle 2 pa; shape_r is that of the major axis.
                e1, e2 = self.floats("e1"), self.floats("e2")
                assert e1 is not None and e2 is not None
                size = np.hypot(e1, e2)
                q = (1.0 - size) / (1.0 + size)
                if radius is None:
                    raise self.error("half_light_radius", "sizes: half_light_radius")
                return radius, radius * q, 0.5 * np.degrees(np.arctan2(e2, e1))
            q = self._ratio(ra, dec)
            if radius is None:
                a, b = self._sizes("a", ra, dec), self._sizes("b", ra, dec)
                if a is None or b is None:
                    raise self.error("half_light_radius", "sizes: half_light_radius, a and b, or xx, yy and xy")
                radius = _HALF_LIGHT * np.sqrt(a * b)
            root = np.sqrt(q)
            return radius / root, radius * root, self._angle(ra, dec)

    def _ratio(self, ra: Array, dec: Array) -> Array:
        if self._circular:
            return np.ones(len(ra))
        q, elongation, ellipticity = (self.floats(term) for term in ("q", "elongation", "ellipticity"))
        if q is not None:
            return q
        if elongation is not None:
            return np.asarray(1.0 / elongation)
        if ellipticity is not None:
            return np.asarray(1.0 - ellipticity)
        a, b = self.floats("a"), self.floats("b")
        if a is None or b is None:
            raise self.error("q", "axis ratios: q, elongation, ellipticity, or a and b")
        return np.asarray(b / a)

    def _angle(self, ra: Array, dec: Array) -> Array:
        if self._circular:
            return np.zeros(len(ra))
        pa, world, image = (self.floats(term) for term in ("pa", "theta_world", "theta_image"))
        if image is None or self._wcs is None:
            if pa is not None:
                return pa
            if world is not None:
                return 90.0 - world
        if image is None:
            raise self.error(
                "pa", "position angles: pa, theta_world or theta_image; with circular=True none are needed"
            )
        direction = np.stack([np.cos(np.radians(image)), np.sin(np.radians(image))], axis=-1)
        east, north = np.einsum("nij,nj->in", self._jacobian(ra, dec, "theta_image"), direction)
        return np.asarray(np.degrees(np.arctan2(east, north)))

    def _moments(self, ra: Array, dec: Array) -> tuple[Array, Array, Array]:
        xx, yy, xy = (self.floats(term) for term in ("xx", "yy", "xy"))
        if xx is None or yy is None or xy is None:
            raise self.error("xx", "second moments: xx, yy and xy")
        moments = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
        jacobian = self._jacobian(ra, dec, "xx")
        sky = np.einsum("nij,njk,nlk->nil", jacobian, moments, jacobian)
        e, n, en = sky[:, 0, 0], sky[:, 1, 1], sky[:, 0, 1]
        with np.errstate(invalid="ignore"):
            middle, root = (e + n) / 2.0, np.hypot((n - e) / 2.0, en)
            major, minor = _HALF_LIGHT * np.sqrt(middle + root), _HALF_LIGHT * np.sqrt(middle - root)
        return major, minor, 0.5 * np.degrees(np.arctan2(2.0 * en, n - e))
