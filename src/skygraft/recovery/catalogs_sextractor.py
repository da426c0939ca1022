"""Source Extractor's catalogues: pixels from 1, apertures in a vector, magnitudes by a zeropoint of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError
from skygraft.recovery.catalogs_files import Columns, RawCatalog
from skygraft.recovery.catalogs_kinds import Kind, Wanted, calibrated_flux, detections, first_of
from skygraft.recovery.catalogs_shapes import sky_angle, sky_scale
from skygraft.recovery.catalogs_terms import Array, DetectedFlux, Detections, ImageContext
from skygraft.recovery.settings import aperture_name

__all__ = ["SourceExtractor"]

_SKY = (
    ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("ALPHAPSF_J2000", "DELTAPSF_J2000"),
    ("ALPHAMODEL_J2000", "DELTAMODEL_J2000"),
    ("ALPHAWIN_SKY", "DELTAWIN_SKY"),
    ("ALPHA_SKY", "DELTA_SKY"),
    ("X_WORLD", "Y_WORLD"),
)
_OLD_SKY = (("ALPHAWIN_B1950", "DELTAWIN_B1950"), ("ALPHA_B1950", "DELTA_B1950"))
_PIXELS = (("XWIN_IMAGE", "YWIN_IMAGE"), ("X_IMAGE", "Y_IMAGE"), ("XPSF_IMAGE", "YPSF_IMAGE"))
_KINDS = {"AUTO": "kron", "PSF": "psf", "MODEL": "model", "PETRO": "petro", "ISO": "iso", "BEST": "best"}
_NO_MAGNITUDE = 90.0
"""Source Extractor writes 99 for the magnitude of a flux that is not positive."""
_SAME_ZEROPOINT = 0.02
_OTHERS = (
    "NUMBER", "FLAGS", "CLASS_STAR", "FLUX_RADIUS", "FWHM_IMAGE", "FWHM_WORLD", "ELONGATION", "ELLIPTICITY", "A_IMAGE",
    "B_IMAGE", "THETA_J2000", "THETA_SKY", "THETA_IMAGE", "SPREAD_MODEL",
)  # fmt: skip
_LN = 2.5 / np.log(10.0)


class SourceExtractor(Kind):
    """Catalogues of Source Extractor."""

    name = "sextractor"
    needs = (
        (*(ra for ra, _ in (*_SKY, *_OLD_SKY)), *(x for x, _ in _PIXELS)),
        (*(dec for _, dec in (*_SKY, *_OLD_SKY)), *(y for _, y in _PIXELS)),
        ("MAG_AUTO", "FLUX_AUTO", "MAG_*", "FLUX_*"),
    )

    def wanted(self, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext) -> Wanted:
        """Return the columns: positions on the sky, else on the pixels."""
        names = set(raw.names)
        places: dict[str, Any] = {}
        for pairs, terms, frame in ((_SKY, ("ra", "dec"), ""), (_OLD_SKY, ("ra", "dec"), "fk4"), (_PIXELS, "xy", "")):
            both = next((pair for pair in pairs if set(pair) <= names), None)
            if both is not None:
                places = dict(zip(terms, both, strict=True)) | {"frame": frame}
                break
        if not places:
            raise CatalogError(
                "one coordinate of the positions is there, and not the other", path=raw.path, fix="Write both"
            )
        columns = [name for name in _OTHERS if name in names]
        columns += [name for kind in (*_KINDS, "APER") for name in _four(kind) if name in names]
        columns += [value for key, value in places.items() if key != "frame"]
        return Wanted(tuple(dict.fromkeys(columns)), **places)

    def convert(
        self, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext, place: Array
    ) -> Detections:
        """Return the detections; fluxes are in image units."""
        own = _own_zeropoint(columns, raw, settings)
        zeropoint = _zeropoint(own, columns, raw, settings, context)
        fluxes: dict[str, DetectedFlux] = {}
        for kind, term in _KINDS.items():
            if (flux := _read(columns, kind, None, own, raw, zeropoint)) is not None:
                fluxes[term] = flux
        for element, diameter in enumerate(_diameters(columns, raw, settings)):
            if (flux := _read(columns, "APER", element, own, raw, zeropoint)) is not None:
                fluxes[aperture_name(diameter / 2.0)] = flux
        order = ("kron", "best", "model", "psf", "petro", "iso")
        fluxes = calibrated_flux(fluxes, settings.calibrated, order, context, raw)
        for extra in ("petro", "iso", "best"):
            fluxes.pop(extra, None)
        return detections(raw, self.name, columns, fluxes, **_terms(columns, context, place))


def _four(kind: str) -> tuple[str, str, str, str]:
    return f"FLUX_{kind}", f"FLUXERR_{kind}", f"MAG_{kind}", f"MAGERR_{kind}"


def _read(
    columns: Columns, kind: str, element: int | None, own: float | None, raw: RawCatalog, zeropoint: float | None
) -> DetectedFlux | None:
    """Read a flux, or the flux of a magnitude; None where there is neither."""
    flux, error, mag, mag_error = _four(kind)
    nothing = np.full(len(columns), np.nan)

    def get(name: str, unit: str | None = None) -> Array:
        vector = name in columns and columns.width(name) > 1
        there = name in columns and (not vector or (element is not None and element < columns.width(name)))
        values: Array = columns.floats(name, unit, element if vector else None) if there else nothing
        return values

    if flux in columns:
        return DetectedFlux(get(flux), get(error), "image", flux, zeropoint)
    if mag not in columns:
        return None
    magnitude = get(mag, "mag")
    magnitude = np.where(np.abs(magnitude) < _NO_MAGNITUDE, magnitude, np.nan)
    if own is None:
        raise CatalogError(
            f"the zeropoint of {mag} is not known: there is neither SEXMGZPT in a header nor a column of fluxes",
            path=raw.path,
            key=mag,
            fix="Give the MAG_ZEROPOINT that Source Extractor used with zeropoint: in recovery: catalogs:",
        )
    value = 10.0 ** (-0.4 * (magnitude - own))
    return DetectedFlux(value, value * get(mag_error, "mag") / _LN, "image", mag, zeropoint)


def _own_zeropoint(columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs) -> float | None:
    """Return the zeropoint of the catalogue's magnitudes; None where nothing says."""
    card = raw.header.get("SEXMGZPT")
    if isinstance(card, (int, float)):
        return float(card)
    for kind in (*_KINDS, "APER"):
        flux, _, mag, _ = _four(kind)
        if flux in columns and mag in columns and len(columns):
            vector = 0 if columns.width(flux) > 1 else None
            one, two = columns.floats(flux, None, vector), columns.floats(mag, "mag", vector)
            good = (one > 0) & (np.abs(two) < _NO_MAGNITUDE)
            if good.any():
                # Text catalogues have four digits of a magnitude.
                return round(float(np.median(two[good] + 2.5 * np.log10(one[good]))), 3)
    return settings.zeropoint if isinstance(settings.zeropoint, float) else None


def _zeropoint(
    own: float | None, columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs, context: ImageContext
) -> float | None:
    """Return the zeropoint of the fluxes; None for the image's."""
    if isinstance(settings.zeropoint, float):
        return settings.zeropoint
    calib = context.exposure.photo_calib
    magnitudes = [name for name in columns.table.colnames if name.startswith("MAG_")]
    # 0 is what the configuration has where nobody changed it: instrumental magnitudes.
    if settings.zeropoint == "image" or own is None or own == 0.0 or calib is None or not magnitudes:
        return None
    box = context.exposure.box
    image = float(calib.zeropoint((box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2))
    if abs(image - own) > _SAME_ZEROPOINT:
        raise CatalogError(
            f"{magnitudes[0]} was measured with the zeropoint {own:g} (MAG_ZEROPOINT), and the calibration of the "
            f"image {context.image_id} says {image:.4f}",
            path=raw.path,
            key="zeropoint",
            fix=f"Say which holds with zeropoint: {own:g} or zeropoint: image in recovery: catalogs:",
        )
    return None


def _diameters(columns: Columns, raw: RawCatalog, settings: RecoveryCatalogs) -> list[float]:
    """Return the diameters of the apertures, pixels; empty where nothing says."""
    name = first_of(columns.table.colnames, "FLUX_APER", "MAG_APER")
    if not name:
        return []
    width = columns.width(name)
    if given := settings.phot_apertures:
        if len(given) < width:
            raise CatalogError(
                f"{name} has {width} apertures, and phot_apertures names {len(given)}",
                path=raw.path,
                key="phot_apertures",
                fix="Name them all, as PHOT_APERTURES of Source Extractor's configuration",
            )
        return list(given[:width])
    cards = [raw.header.get(f"SEXAPED{i + 1}") for i in range(width)]
    found = [float(card) for card in cards if isinstance(card, (int, float)) and card > 0]
    return found if len(found) == width else []


def _terms(columns: Columns, context: ImageContext, place: Array) -> dict[str, Any]:
    """Return what is not a flux."""
    terms: dict[str, Any] = {}
    if "NUMBER" in columns:
        terms["id"] = columns.integers("NUMBER", -1)
    if "FLAGS" in columns:
        terms["flags"] = columns.integers("FLAGS", 0)
    if "CLASS_STAR" in columns:
        terms["class_star"] = columns.floats("CLASS_STAR")
    scale = sky_scale(context, place)
    if "FLUX_RADIUS" in columns:
        vector = columns.width("FLUX_RADIUS") > 1
        terms["size"] = columns.floats("FLUX_RADIUS", None, 0 if vector else None) * scale
    if "FWHM_IMAGE" in columns:
        terms["fwhm"] = columns.floats("FWHM_IMAGE") * scale
    elif "FWHM_WORLD" in columns:
        terms["fwhm"] = columns.floats("FWHM_WORLD", "arcsec") * (3600.0 if columns.unit("FWHM_WORLD") is None else 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if "ELONGATION" in columns:
            terms["axis_ratio"] = 1.0 / columns.floats("ELONGATION")
        elif "ELLIPTICITY" in columns:
            terms["axis_ratio"] = 1.0 - columns.floats("ELLIPTICITY")
        elif "A_IMAGE" in columns and "B_IMAGE" in columns:
            terms["axis_ratio"] = columns.floats("B_IMAGE") / columns.floats("A_IMAGE")
    # Source Extractor (2.25 at least) takes moments to the sky wrongly where the image's axes are not along North and
    # East, and is then some 10 degrees off; what it says of the pixels is right.
    if "THETA_IMAGE" in columns:
        terms["position_angle"] = sky_angle(context, place, columns.floats("THETA_IMAGE"))
    elif angle := first_of(columns.table.colnames, "THETA_J2000", "THETA_SKY"):
        terms["position_angle"] = np.mod(columns.floats(angle), 180.0)
    return terms
