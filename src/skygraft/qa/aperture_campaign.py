"""Judge the calibration radius of the images of a campaign, in tasks: one row of the table ``apertures`` an image."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.campaign.sweep import Product
from skygraft.catalog.flags import Flag, has_flag
from skygraft.errors import CatalogError
from skygraft.photometry import CalibrationAperture, parse_radius
from skygraft.photometry.reference import PSF_MODEL, TOTAL, CalibrationReference
from skygraft.qa.aperture_check import ApertureCheck, check_aperture
from skygraft.qa.aperture_fit import FITS, NO_VERDICT, WRONG
from skygraft.qa.aperture_standards import Reference, read_reference
from skygraft.qa.closure import isolated
from skygraft.qa.growth import measure_growth
from skygraft.wcs import pixel_scale

__all__ = [
    "APERTURES_SCHEMA",
    "PRODUCT",
    "ApertureSummary",
    "aperture_row",
    "measure_apertures",
    "settings_of",
    "stated_reference",
    "summarize_apertures",
]

_FAKES = 60
"""Largest number of fakes whose curves of growth are measured, the brightest."""
_CONTAMINATION = 0.02
"""Upper bound of the light of other fakes in their apertures; what it really is, is far less."""


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


_CURVE = pa.list_(pa.float64())
APERTURES_SCHEMA = pa.schema(
    [
        _field("image_id", pa.string()),
        _field("instrument", pa.string()),
        _field("visit", pa.int64()),
        _field("detector", pa.string()),
        _field("band", pa.string()),
        _field("verdict", pa.string()),
        _field("reason", pa.string()),
        _field("kind", pa.string()),
        _field("radius_pixels", pa.float64(), "pix"),
        _field("radius_arcsec", pa.float64(), "arcsec"),
        _field("origin", pa.string()),
        _field("evidence", pa.string()),
        _field("evidence_origin", pa.string()),
        _field("n_stars", pa.int64()),
        _field("offset", pa.float64(), "mag"),
        _field("offset_error", pa.float64(), "mag"),
        _field("threshold", pa.float64(), "mag"),
        _field("fitted_radius_pixels", pa.float64(), "pix"),
        _field("fitted_radius_error", pa.float64(), "pix"),
        _field("fitted_radius_low", pa.float64(), "pix"),
        _field("fitted_radius_high", pa.float64(), "pix"),
        _field("fitted_radius_arcsec", pa.float64(), "arcsec"),
        _field("pixel_scale", pa.float64(), "arcsec / pix"),
        _field("fwhm", pa.float64(), "pix"),
        _field("n_found", pa.int64()),
        _field("notes", pa.string()),
        _field("radii", _CURVE, "pix"),
        _field("offsets", _CURVE, "mag"),
        _field("offset_errors", _CURVE, "mag"),
        _field("stars", _CURVE, "mag"),
        _field("stars_error", _CURVE, "mag"),
        _field("model", _CURVE, "mag"),
        _field("fakes", _CURVE, "mag"),
        _field("n_fakes", pa.int64()),
    ]
)
"""Columns of the table ``apertures``; see `ApertureCheck`. ``fakes`` is the median curve of isolated injected stars:
their flux inside each radius, measured on the difference of the images, relative to the flux asked for."""


def settings_of(
    *,
    stated: str | None = None,
    reference: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    largest: int = 200,
) -> dict[str, Any]:
    """Make the settings of `measure_apertures`, of JSON types, after checking them.

    Parameters
    ----------
    stated : str, optional
        What to judge instead of what the images record: ``"12 pix"``, ``"2 arcsec"``, ``"psf_model"``, ``"total"``.
    reference : path-like, optional
        Catalogue of stars of known magnitude. Its size and time of last change become part of the settings.
    columns : mapping of str to str, optional
        As for `read_reference`.
    tolerance : float, optional
        Offset, mag, that is put down to other causes where magnitudes are compared.
    largest : int
        Number of stars of an image.

    Returns
    -------
    dict

    Raises
    ------
    ConfigError
        If the radius cannot be read.
    CatalogError
        If there is no such catalogue.
    """
    if stated is not None:
        parse_radius(stated)
    content: dict[str, Any] = {"stated": stated, "tolerance": tolerance, "largest": largest, "reference": None}
    if reference is not None:
        path = Path(reference).expanduser().absolute()
        try:
            state = path.stat()
        except OSError as error:
            raise CatalogError(f"the file cannot be read ({error})", path=path, fix="Check the path") from error
        content |= {"reference": str(path), "columns": dict(columns or {}), "stamp": [state.st_size, state.st_mtime_ns]}
    return content


def stated_reference(text: str, scale: float) -> CalibrationReference:
    """Turn ``"12 pix"``, ``"2 arcsec"``, ``"psf_model"`` or ``"total"`` into what it means on an image.

    Parameters
    ----------
    text : str
    scale : float
        Arcsec per pixel.

    Returns
    -------
    CalibrationAperture, PSF_MODEL or TOTAL

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    candidate = parse_radius(text)
    if candidate.kind == "psf_model":
        return PSF_MODEL
    if candidate.kind == "total":
        return TOTAL
    pixels, arcsec = candidate.radius_pixels, candidate.radius_arcsec
    if pixels is None:
        assert arcsec is not None
        return CalibrationAperture(arcsec / scale, arcsec, unit="arcsec")
    return CalibrationAperture(pixels, pixels * scale)


@functools.lru_cache(maxsize=4)
def _reference(path: str, band: str | None, columns: tuple[tuple[str, str], ...], stamp: tuple[int, int]) -> Reference:
    return read_reference(path, band, dict(columns))


def measure_apertures(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Judge the calibration radius of one image of a campaign.

    Parameters
    ----------
    pair : ImagePair
        The image before and after injection. Stars are measured on the former, fakes on the difference.
    settings : mapping
        Of `settings_of`.

    Returns
    -------
    pyarrow.Table
        One row, of `APERTURES_SCHEMA`.
    """
    image, before = pair.image, pair.before
    reference = None
    if path := settings.get("reference"):
        columns = tuple(sorted(settings.get("columns", {}).items()))
        reference = _reference(path, image.band, columns, tuple(settings.get("stamp", ())))
    scale = float(np.ravel(pixel_scale(before.wcs, *before.box.center))[0])
    text = settings.get("stated")
    tolerance = settings.get("tolerance")
    catalog = image.format_options().get("source_catalog")
    check = check_aperture(
        before,
        stated=None if text is None else stated_reference(text, scale),
        catalog=True if catalog is None else catalog,
        reference=reference,
        tolerances={} if tolerance is None else {"reference": tolerance},
        largest=settings.get("largest", 200),
        image_id=image.image_id,
    )
    fakes, n_fakes = _fakes(pair, check)
    row = aperture_row(check) | {
        "band": image.band,
        "visit": image.visit,
        "detector": None if image.detector is None else str(image.detector),
        "fakes": fakes.tolist(),
        "n_fakes": n_fakes,
    }
    return pa.Table.from_pylist([row], schema=APERTURES_SCHEMA)


def aperture_row(check: ApertureCheck) -> dict[str, Any]:
    """Give a check as a row of the table ``apertures``.

    Parameters
    ----------
    check : ApertureCheck

    Returns
    -------
    dict
        By the names of `APERTURES_SCHEMA`.
    """
    best = check.best
    stated = check.stated
    row: dict[str, Any] = dict.fromkeys(APERTURES_SCHEMA.names)
    row |= {
        "image_id": check.image_id,
        "instrument": check.instrument,
        "band": check.band,
        "verdict": check.verdict,
        "reason": check.reason,
        "kind": stated["kind"],
        "radius_pixels": stated["radius_pixels"],
        "radius_arcsec": stated["radius_arcsec"],
        "origin": stated["origin"],
        "evidence": "",
        "evidence_origin": "",
        "n_stars": 0,
        "pixel_scale": check.pixel_scale,
        "fwhm": check.fwhm,
        "n_found": check.n_stars,
        "notes": "; ".join(check.notes),
        "radii": check.radii.tolist(),
        "stars": check.stars.tolist(),
        "stars_error": check.stars_error.tolist(),
        "model": check.model.tolist(),
        "n_fakes": 0,
    }
    if best is not None:
        fit = best.fit
        row |= {
            "evidence": best.kind,
            "evidence_origin": best.origin,
            "n_stars": fit.n,
            "offset": fit.offset,
            "offset_error": fit.offset_error,
            "threshold": fit.threshold,
            "fitted_radius_pixels": fit.radius,
            "fitted_radius_error": fit.radius_error,
            "fitted_radius_low": fit.radius_low,
            "fitted_radius_high": fit.radius_high,
            "fitted_radius_arcsec": fit.radius * check.pixel_scale,
            "offsets": fit.curve.tolist(),
            "offset_errors": fit.curve_error.tolist(),
        }
    return row


PRODUCT = Product("apertures", 1, measure_apertures)
"""What `skygraft.campaign.sweep.sweep` measures: the table ``apertures``, one row an image."""


def _fakes(pair: ImagePair, check: ApertureCheck) -> tuple[NDArray[np.float64], int]:
    """Median curve of growth of isolated injected stars, relative to the flux asked for, mag; and their number."""
    nothing = np.full(len(check.radii), np.nan)
    truth, radius = pair.truth, check.stated["radius_pixels"]
    if not len(check.radii) or not len(truth):
        return nothing, 0
    reach = radius if radius is not None else float(check.radii[-1]) / 3
    alone = isolated(
        truth["x"], truth["y"], truth["inst_flux"], truth["stamp_size"], reach, contamination=_CONTAMINATION
    )
    star = (np.asarray(truth["source_type"]).astype(str) == "Star") & (np.asarray(truth["stamp_size"]) > 0)
    rows = np.flatnonzero(star & alone & ~has_flag(truth["flags"], Flag.IN_TEMPLATE))
    x, y, asked = (_plain(truth[name])[rows] for name in ("x", "y", "inst_flux"))
    order = np.argsort(-asked, kind="stable")[:_FAKES]
    x, y, asked = x[order], y[order], asked[order]
    if not len(x):
        return nothing, 0
    difference = pair.after.image.astype(np.float64) - pair.before.image.astype(np.float64)
    difference[~np.isfinite(difference)] = 0.0
    growth = measure_growth(difference, x, y, check.radii, xy0=pair.before.xy0, local_sky=False)
    with np.errstate(invalid="ignore", divide="ignore"):
        curves = -2.5 * np.log10(growth.flux / asked[:, None])
    found = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else math.nan for c in curves.T])
    return found, len(x)


def _plain(column: Any) -> NDArray[np.float64]:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)


@dataclass(frozen=True)
class ApertureSummary:
    """Verdicts and fitted radii of the images of one instrument and band.

    Parameters
    ----------
    instrument, band : str
    n_images, n_fit, n_wrong, n_unknown : int
        Images in all, and by verdict: fits, does not fit, cannot tell.
    stated : str
        What the images record, or that they differ.
    radius, radius_error : float
        Weighted mean of the fitted radii, pixels, and its error (with the scatter of the images); NaN without any.
    outliers : tuple of str
        Images that do not fit.
    """

    instrument: str
    band: str
    n_images: int
    n_fit: int
    n_wrong: int
    n_unknown: int
    stated: str
    radius: float
    radius_error: float
    outliers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no image was found not to fit."""
        return not self.n_wrong


def summarize_apertures(rows: Sequence[Mapping[str, Any]]) -> list[ApertureSummary]:
    """Summarise the table ``apertures`` by instrument and band.

    Parameters
    ----------
    rows : sequence of mapping
        Of the table, with the names of `APERTURES_SCHEMA`.

    Returns
    -------
    list of ApertureSummary
        Sorted by instrument and band.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["instrument"] or "", row["band"] or ""), []).append(row)
    found = []
    for (instrument, band), own in sorted(groups.items()):
        verdicts = [row["verdict"] for row in own]
        radius, error = _mean_radius(own)
        found.append(
            ApertureSummary(
                instrument, band, len(own), verdicts.count(FITS), verdicts.count(WRONG), verdicts.count(NO_VERDICT),
                _stated(own), radius, error, tuple(row["image_id"] for row in own if row["verdict"] == WRONG),
            )
        )  # fmt: skip
    return found


def _stated(rows: Sequence[Mapping[str, Any]]) -> str:
    texts = {_radius_text(row) for row in rows}
    if len(texts) <= 3:
        return ", ".join(sorted(texts))
    radii = sorted(row["radius_pixels"] for row in rows if row["radius_pixels"] is not None)
    # Of one radius on the sky, pixels of slightly different size make several.
    spanned = list(dict.fromkeys(f"{radius:.4g}" for radius in (radii[0], radii[-1]))) if radii else []
    return f"{' to '.join(spanned)} pix" if spanned else f"{len(texts)} kinds"


def _radius_text(row: Mapping[str, Any]) -> str:
    if row["radius_pixels"] is None:
        return row["kind"] or "nothing"
    arcsec = row["radius_arcsec"]
    return f"{row['radius_pixels']:.5g} pix" + ("" if arcsec is None else f" = {arcsec:.2f} arcsec")


def _mean_radius(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    pairs = [(row["fitted_radius_pixels"], row["fitted_radius_error"]) for row in rows if row["verdict"] != NO_VERDICT]
    good = [(r, max(e, 1e-3 * r)) for r, e in pairs if r is not None and e is not None and math.isfinite(r + e)]
    if not good:
        return math.nan, math.nan
    radii, errors = np.array(good).T
    weight = 1.0 / errors**2
    mean = float((weight * radii).sum() / weight.sum())
    error = 1.0 / math.sqrt(weight.sum())
    if len(radii) > 1:
        error *= max(1.0, math.sqrt(float((weight * (radii - mean) ** 2).sum()) / (len(radii) - 1)))
    return mean, error
