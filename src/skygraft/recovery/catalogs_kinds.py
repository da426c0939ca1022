"""The kinds of catalogues that are recognised by their columns, and what their columns mean."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError
from skygraft.photometry.units import NJY_PER_NANOMAGGY
from skygraft.recovery.catalogs_files import Columns, RawCatalog
from skygraft.recovery.catalogs_shapes import sky_scale, tractor_shape
from skygraft.recovery.catalogs_terms import Array, DetectedFlux, Detections, ImageContext

__all__ = [
    "ColumnMap",
    "Drop",
    "Kind",
    "Tractor",
    "Wanted",
    "aperture_radius",
    "calibrated_flux",
    "detections",
    "first_of",
    "read_flux",
]

_SAME_RADIUS = 0.02
"""Relative difference below which an aperture is the calibration aperture."""

Drop = Callable[[Columns], NDArray[np.bool_]]


@dataclass(frozen=True)
class Wanted:
    """The columns that are read of a catalogue, and what those of positions mean."""

    names: tuple[str, ...]
    ra: str = ""
    dec: str = ""
    x: str = ""
    y: str = ""
    first_pixel: float = 1.0
    angle: str | None = None
    """Unit of positions whose columns have none, where the kind of catalogue prescribes another than degrees."""
    frame: str = ""
    of_image: Mapping[str, Any] = field(default_factory=dict)
    """Columns that must have the image's value."""
    dropped: Mapping[str, Drop] = field(default_factory=dict)
    """Rows that are no detections, by reason."""


class Kind(abc.ABC):
    """A kind of catalogue.

    Attributes
    ----------
    name : str
        As in ``kind:``.
    needs : tuple of tuples of str
        Columns that it must have: one of each group.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[tuple[str, ...], ...]]

    def missing(self, names: frozenset[str]) -> tuple[tuple[str, ...], ...]:
        """Return the groups of columns of which a catalogue has none."""
        return tuple(group for group in self.needs if not any(_has(one, names) for one in group))

    @abc.abstractmethod
    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return which columns to read."""

    @abc.abstractmethod
    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections of the rows in `columns`, whose parent pixels (x, y) are `place`, shape (2, N)."""


def _has(pattern: str, names: Iterable[str]) -> bool:
    """True if a name is there, or one with another start or end, where the pattern has a star."""
    if "*" not in pattern:
        return pattern in names
    expression = re.compile(re.escape(pattern).replace(r"\*", r".*"))
    return any(expression.fullmatch(name) for name in names)


def first_of(names: Iterable[str], *choices: str) -> str:
    """Return the first of some names that is there, or an empty text."""
    known = frozenset(names)
    return next((one for one in choices if one in known), "")


def aperture_radius(kind: str) -> float:
    """Return the radius in pixels of a kind of flux such as ``ap_4_5``; see `skygraft.recovery.settings`."""
    return float(kind.removeprefix("ap_").replace("_", "."))


def calibrated_flux(
    fluxes: dict[str, DetectedFlux], chosen: str | None, order: Iterable[str], context: ImageContext, raw: RawCatalog
) -> dict[str, DetectedFlux]:
    """Add the flux that the calibration is about: the one named, else the calibration aperture's, else by order.

    Parameters
    ----------
    fluxes : dict of str to DetectedFlux
        By kind.
    chosen : str or None
        Its kind or column, as the user says.
    order : iterable of str
        Kinds that stand for it where there is no flux in the calibration aperture.
    context : ImageContext
    raw : RawCatalog

    Returns
    -------
    dict
    """
    if chosen is not None:
        found = [flux for kind, flux in fluxes.items() if chosen in (kind, flux.column)]
        if not found:
            there = ", ".join(f"{kind} ({flux.column})" for kind, flux in fluxes.items())
            raise CatalogError(
                f"calibrated: names {chosen!r}, and there are {there or 'no fluxes'}",
                path=raw.path,
                key="calibrated",
                fix="Name one of these",
            )
        return {"cal": found[0], **fluxes}
    if "cal" in fluxes:
        return fluxes
    if context.radius:
        for kind, flux in fluxes.items():
            if kind.startswith("ap_") and abs(aperture_radius(kind) / context.radius - 1.0) < _SAME_RADIUS:
                return {"cal": flux, **fluxes}
    for kind in order:
        if kind in fluxes:
            return {"cal": fluxes[kind], **fluxes}
    return fluxes


def detections(
    raw: RawCatalog, kind: str, columns: Columns, fluxes: Mapping[str, DetectedFlux], **given: Any
) -> Detections:
    """Return detections in which what is not given is missing."""
    n = len(columns)
    arrays: dict[str, Any] = {name: np.full(n, np.nan) for name in _MISSING}
    arrays |= {"id": np.arange(n), "flags": np.zeros(n, dtype=np.int64)}
    return Detections(raw.path, kind, fluxes=dict(fluxes), **(arrays | given))


_MISSING = ("class_star", "size", "fwhm", "axis_ratio", "position_angle")


def read_flux(columns: Columns, name: str, error: str, unit: Any, zeropoint: float | None = None) -> DetectedFlux:
    """Read a flux and its error, which is NaN where there is no such column; nJy are converted from its unit."""
    wanted = unit if unit == "nJy" else None
    value = columns.floats(name, wanted)
    spread = columns.floats(error, wanted) if error else np.full(len(columns), np.nan)
    return DetectedFlux(value, spread, unit, name, zeropoint)


class Tractor(Kind):
    """Catalogues of the Legacy Surveys' Tractor: nanomaggies by band."""

    name = "tractor"
    needs = (("ra",), ("dec",), ("type",), ("flux_*",), ("flux_ivar_*",))

    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return the columns of the image's band."""
        band = settings.band or context.band
        bands = [name.removeprefix("flux_ivar_") for name in raw.names if name.startswith("flux_ivar_")]
        if band not in bands:
            raise CatalogError(
                f"there are no fluxes of band {band or '(unknown)'!r}, that of the image; there are those of "
                f"{', '.join(bands)}",
                path=raw.path,
                key=f"flux_{band}",
                fix="Say how the catalogue names the image's band: band: in recovery: catalogs:",
            )
        known = [f"flux_{band}", f"flux_ivar_{band}", "type", "brick_primary", "objid", "shape_r", "shape_e1",
                 "shape_e2", f"anymask_{band}", "maskbits"]  # fmt: skip
        dropped: dict[str, Drop] = {"of type DUP": lambda columns: _types(columns) == "DUP"}
        if "brick_primary" in raw.names:
            dropped["not brick_primary"] = lambda columns: ~columns.booleans("brick_primary", False)
        names = [name for name in known if name in raw.names]
        return Wanted((*names, "ra", "dec"), "ra", "dec", dropped=dropped)

    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections; the flux is that of the model, which the PSF's calibration refers to, too."""
        band = settings.band or context.band
        ivar = columns.floats(f"flux_ivar_{band}")
        with np.errstate(divide="ignore"):
            error = np.where(ivar > 0, 1.0 / np.sqrt(np.maximum(ivar, 0.0)), np.nan)
        # A band in which nothing was observed has a flux of 0.
        value = np.where(ivar > 0, columns.floats(f"flux_{band}"), np.nan)
        flux = DetectedFlux(value * NJY_PER_NANOMAGGY, error * NJY_PER_NANOMAGGY, "nJy", f"flux_{band}")
        kinds = _types(columns)
        star = kinds == "PSF"
        fluxes = calibrated_flux({"model": flux}, settings.calibrated, ("model",), context, raw)
        given: dict[str, Any] = {"class_star": star.astype(float)}
        given |= tractor_shape(columns, star)
        if "objid" in columns:
            given["id"] = columns.integers("objid", -1)
        if (flag := f"anymask_{band}") in columns:
            given["flags"] = columns.integers(flag, 0)
        return detections(raw, self.name, columns, fluxes, **given)


def _types(columns: Columns) -> NDArray[np.str_]:
    return np.char.upper(np.char.strip(columns.texts("type")))


class ColumnMap(Kind):
    """Any catalogue, by the names of its columns that the user gives."""

    name = "columns"
    needs = (("columns:",),)

    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return the columns that the map names."""
        assert settings.columns is not None
        given = settings.columns.model_dump(exclude_none=True)
        places = {term: given.get(term, "") for term in ("ra", "dec", "x", "y")}
        return Wanted(tuple(dict.fromkeys(given.values())), **places)

    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections; a flux without unit is in image units, or by the zeropoint given."""
        given = settings.columns.model_dump(exclude_none=True) if settings.columns is not None else {}
        fluxes: dict[str, DetectedFlux] = {}
        error = given.get("error", "")
        if name := given.get("mag"):
            nothing = np.full(len(columns), np.nan)
            value, spread = columns.floats(name, "mag"), columns.floats(error, "mag") if error else nothing
            fluxes["cal"] = DetectedFlux(value, spread, "mag", name)
        elif name := given.get("flux"):
            unit = columns.unit(name)
            absolute = unit is not None and not _is_instrumental(unit)
            if absolute and settings.zeropoint is not None:
                raise CatalogError(
                    f"{name} is in {unit}, and zeropoint: is given", path=raw.path, key="zeropoint", fix="Leave it out"
                )
            zeropoint = settings.zeropoint if isinstance(settings.zeropoint, float) else None
            fluxes["cal"] = read_flux(columns, name, error, "nJy" if absolute else "image", zeropoint)
        terms: dict[str, Any] = {}
        for term in ("size", "fwhm"):
            if name := given.get(term):
                pixels = str(columns.unit(name)) in ("pix", "pixel")
                scale = sky_scale(context, place) if pixels else 1.0
                terms[term] = columns.floats(name, None if pixels else "arcsec") * scale
        if name := given.get("class_star"):
            terms["class_star"] = columns.floats(name, "")
        for term, default in (("id", -1), ("flags", 0)):
            if name := given.get(term):
                terms[term] = columns.integers(name, default)
        return detections(raw, self.name, columns, fluxes, **terms)


def _is_instrumental(unit: Any) -> bool:
    return str(unit) in ("", "adu", "ct", "count", "electron", "DN", "counts")
