"""Catalogues of the LSST pipelines: tables of objects and sources, and those of afw."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError
from skygraft.recovery.catalogs_files import Columns, RawCatalog
from skygraft.recovery.catalogs_kinds import Drop, Kind, Wanted, calibrated_flux, detections, first_of, read_flux
from skygraft.recovery.catalogs_shapes import sky_moments
from skygraft.recovery.catalogs_terms import Array, Detections, ImageContext
from skygraft.recovery.settings import aperture_name

__all__ = ["Afw", "Lsst"]

_LSST_FLUX = r"(?:calibFlux|psfFlux|cModelFlux|ap\d\dFlux|apFlux_\d+_\d)"
_LSST_KIND = {"calibFlux": "cal", "psfFlux": "psf", "cModelFlux": "model"}


class Lsst(Kind):
    """Tables of objects and sources of the LSST pipelines, as the Science Data Model has them."""

    name = "lsst"
    needs = (
        ("coord_ra", "ra"),
        ("coord_dec", "dec"),
        ("psfFlux", "*_psfFlux", "*psfFlux_instFlux", "*calibFlux", "*cModelFlux", "ap*Flux", "*_ap??Flux",
         "*apFlux_*_instFlux"),
    )  # fmt: skip

    def missing(self, names: frozenset[str]) -> tuple[tuple[str, ...], ...]:
        """Return the groups of columns of which a catalogue has none; a flux's name is matched exactly."""
        lacking: list[tuple[str, ...]] = [g for g in self.needs[:2] if not any(one in names for one in g)]
        fluxes = (re.fullmatch(rf"(?:(\w+)_)?{_LSST_FLUX}(?:_instFlux)?", name) for name in names)
        # afw's tables have them, too, under names of their plugins.
        is_afw = any(name.startswith(("base_", "slot_")) for name in names)
        if is_afw or not any(match is not None and match[1] != "deblend" for match in fluxes):
            lacking.append(("psfFlux", "<band>_psfFlux", "cModelFlux"))
        return tuple(lacking)

    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return the columns of the image's band."""
        prefix = self._prefix(raw, settings, context)
        names = {name for flux in self._fluxes(raw, prefix, context) for name in flux[2:] if name}
        ra, dec = ("ra", "dec") if {"ra", "dec"} <= set(raw.names) else ("coord_ra", "coord_dec")
        for one in ("extendedness", "ixx", "iyy", "ixy", "psfFlux_flag"):
            names |= {name for name in (f"{prefix}{one}", one) if name in raw.names}
        if "refExtendedness" in raw.names:
            names.add("refExtendedness")
        number = first_of(raw.names, "objectId", "sourceId", "diaSourceId", "id")
        of_image: dict[str, int | str] = {
            name: value
            for name, value in (("visit", context.visit), ("detector", _number(context.detector)))
            if name in raw.names and value is not None
        }
        band = settings.band or context.band
        if (column := first_of(raw.names, "band", "filter")) and band and not prefix:
            of_image[column] = band
        dropped = _lsst_dropped(raw.names)
        extra = {*of_image, number, *(name for name in _DROP_COLUMNS if name in raw.names)} - {""}
        return Wanted((*sorted(names | extra), ra, dec), ra, dec, of_image=of_image, dropped=dropped)

    def _prefix(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> str:
        single = [name for name in raw.names if re.fullmatch(rf"{_LSST_FLUX}(?:_instFlux)?", name)]
        if single:
            return ""
        found = (re.fullmatch(rf"(\w+?)_{_LSST_FLUX}(?:_instFlux)?", name) for name in raw.names)
        bands = sorted({match[1] for match in found if match is not None and not match[1].endswith("free")})
        band = settings.band or context.band
        if band not in bands:
            raise CatalogError(
                f"there are no fluxes of band {band or '(unknown)'!r}, that of the image; there are those of "
                f"{', '.join(bands) or 'none'}",
                path=raw.path,
                key=f"{band}_psfFlux",
                fix="Say how the catalogue names the image's band: band: in recovery: catalogs:",
            )
        return f"{band}_"

    def _fluxes(self, raw: RawCatalog, prefix: str, context: ImageContext) -> list[tuple[str, str, str, str]]:
        """Kind, unit, column and column of the error of each flux."""
        found: list[tuple[str, str, str, str]] = []
        for name in raw.names:
            match = re.fullmatch(rf"{re.escape(prefix)}({_LSST_FLUX})(_instFlux)?", name)
            if match is None:
                continue
            error = first_of(raw.names, f"{name}Err")
            if (kind := _LSST_KIND.get(match[1])) is None:
                radius = _radius(match[1])
                if not context.is_wanted(radius):
                    continue
                kind = aperture_name(radius)
            # What is calibrated counts more than what is not.
            if any(one[0] == kind for one in found):
                if match[2]:
                    continue
                found = [one for one in found if one[0] != kind]
            found.append((kind, "image" if match[2] else "nJy", name, error))
        return found

    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections; fluxes are nJy unless their names say that they are instrumental."""
        prefix = self._prefix(raw, settings, context)
        fluxes = {
            kind: read_flux(columns, name, error, "nJy" if unit == "nJy" else "image")
            for kind, unit, name, error in self._fluxes(raw, prefix, context)
        }
        first = ("psf",) if context.reference == "psf_model" else ()
        fluxes = calibrated_flux(fluxes, settings.calibrated, (*first, "model", "psf"), context, raw)
        given: dict[str, Any] = {}
        extended = first_of(columns.table.colnames, f"{prefix}extendedness", "extendedness", "refExtendedness")
        if extended:
            given["class_star"] = 1.0 - columns.floats(extended)
        moments = [first_of(columns.table.colnames, f"{prefix}{m}", m) for m in ("ixx", "iyy", "ixy")]
        if all(moments):
            given |= sky_moments(context, place, *(columns.floats(m) for m in moments))
        if number := first_of(columns.table.colnames, "objectId", "sourceId", "diaSourceId", "id"):
            given["id"] = columns.integers(number, -1)
        if flag := first_of(columns.table.colnames, f"{prefix}psfFlux_flag"):
            given["flags"] = columns.booleans(flag, False).astype(np.int64)
        return detections(raw, self.name, columns, fluxes, **given)


def _number(detector: str | None) -> int | None:
    """Detectors that have names have numbers in LSST's tables, which are not known here."""
    return int(detector) if detector is not None and detector.isdigit() else None


def _radius(name: str) -> float:
    """Radius in pixels of an aperture's name: ap12Flux, apFlux_12_0, base_CircularApertureFlux_4_5."""
    if (match := re.search(r"ap(\d\d)Flux", name)) is not None:
        return float(match[1])
    match = re.search(r"(\d+)_(\d)$", name)
    assert match is not None
    return float(f"{match[1]}.{match[2]}")


_DROP_COLUMNS = (
    "detect_isPrimary", "detect_isTractInner", "detect_isPatchInner", "deblend_nChild", "sky_object", "sky_source",
)  # fmt: skip


def _lsst_dropped(names: Iterable[str]) -> dict[str, Drop]:
    """Rows that are parents of deblended ones, sky objects, or of the outer part of a tract or patch."""
    known, dropped = frozenset(names), {}

    def is_not(column: str, default: bool) -> Drop:
        return lambda columns: ~columns.booleans(column, default)

    for column in ("sky_object", "sky_source"):
        if column in known:
            dropped["sky objects"] = _is_true(column)
    if "deblend_nChild" in known:
        dropped["deblended parents"] = _has_children
    if "detect_isPrimary" in known:
        dropped["not primary"] = is_not("detect_isPrimary", False)
    else:
        for column in ("detect_isTractInner", "detect_isPatchInner"):
            if column in known:
                dropped[f"not {column.removeprefix('detect_is')}"] = is_not(column, False)
    return dropped


def _is_true(column: str) -> Drop:
    return lambda columns: columns.booleans(column, False)


def _has_children(columns: Columns) -> NDArray[np.bool_]:
    return np.asarray(columns.integers("deblend_nChild", 0) > 0)


class Afw(Kind):
    """Source catalogues of LSST's afw: instrumental fluxes, positions in radians, slots that are aliases."""

    name = "afw"
    needs = (
        ("coord_ra",),
        ("coord_dec",),
        ("base_PsfFlux_instFlux", "base_PsfFlux_flux", "base_CircularApertureFlux_*", "slot_*Flux*"),
    )

    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return the columns of slots, and of apertures that are wanted."""
        names = {name for flux in self._fluxes(raw, context) for name in flux[1:] if name}
        names |= {name for name in self._shape(raw) if name}
        names |= {n for n in (self._resolve(raw, "base_ClassificationExtendedness_value"), "id") if n in raw.names}
        names |= {n for n in _DROP_COLUMNS if n in raw.names}
        of_image = {k: v for k, v in (("visit", context.visit),) if k in raw.names and v is not None}
        return Wanted(
            (*sorted(names | set(of_image)), "coord_ra", "coord_dec"),
            "coord_ra",
            "coord_dec",
            angle="rad",
            of_image=of_image,
            dropped=_lsst_dropped(raw.names),
        )

    @staticmethod
    def _resolve(raw: RawCatalog, name: str) -> str:
        """Return the column of a name that may begin with an alias."""
        for _ in range(4):
            if name in raw.names:
                return name
            for alias in raw.header.get("ALIAS", ()):
                old, _, new = alias.partition(":")
                if new and (name == old or name.startswith(f"{old}_")):
                    name = new + name[len(old) :]
                    break
        return ""

    def _column(self, raw: RawCatalog, base: str) -> tuple[str, str]:
        for flux, errors in (("instFlux", ("instFluxErr", "instFluxSigma")), ("flux", ("fluxErr", "fluxSigma"))):
            if column := self._resolve(raw, f"{base}_{flux}"):
                return column, next((e for one in errors if (e := self._resolve(raw, f"{base}_{one}"))), "")
        return "", ""

    def _fluxes(self, raw: RawCatalog, context: ImageContext) -> list[tuple[str, str, str]]:
        found = []
        for kind, bases in (
            ("cal", ("slot_CalibFlux",)),
            ("psf", ("slot_PsfFlux", "base_PsfFlux")),
            ("kron", ("ext_photometryKron_KronFlux",)),
            ("model", ("modelfit_CModel", "slot_ModelFlux")),
        ):
            column = next((c for base in bases if (c := self._column(raw, base))[0]), ("", ""))
            if column[0]:
                found.append((kind, *column))
        circles = {m[1] for n in raw.names if (m := re.fullmatch(r"(base_CircularApertureFlux_\d+_\d)_\w*[fF]lux", n))}
        for base in sorted(circles, key=_radius):
            if context.is_wanted(radius := _radius(base)):
                found.append((aperture_name(radius), *self._column(raw, base)))
        return found

    def _shape(self, raw: RawCatalog) -> tuple[str, str, str]:
        for base in ("slot_Shape", "ext_shapeHSM_HsmSourceMoments", "base_SdssShape"):
            names = [self._resolve(raw, f"{base}_{m}") for m in ("xx", "yy", "xy")]
            if all(names):
                return names[0], names[1], names[2]
        return "", "", ""

    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections; fluxes are instrumental."""
        zeropoint = settings.zeropoint if isinstance(settings.zeropoint, float) else None
        fluxes = {k: read_flux(columns, name, err, "image", zeropoint) for k, name, err in self._fluxes(raw, context)}
        fluxes = calibrated_flux(fluxes, settings.calibrated, ("psf", "model"), context, raw)
        given: dict[str, Any] = {}
        if extended := self._resolve(raw, "base_ClassificationExtendedness_value"):
            given["class_star"] = 1.0 - columns.floats(extended)
        if all(moments := self._shape(raw)):
            given |= sky_moments(context, place, *(columns.floats(m) for m in moments))
        if "id" in columns:
            given["id"] = columns.integers("id", -1)
        return detections(raw, self.name, columns, fluxes, **given)
