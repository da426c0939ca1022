"""Recovery from catalogues that the survey's own pipeline made, in place of detections by skygraft."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.io import arrow_array
from skygraft.config.recovery_catalogs import PLACES, RecoveryCatalogs
from skygraft.config.yaml_schema import config_error, describe_problems
from skygraft.errors import CalibrationError, CatalogError
from skygraft.photometry import PhotoCalib
from skygraft.records.plan_file import PlannedImage
from skygraft.recovery import match
from skygraft.recovery.catalogs import read_detections
from skygraft.recovery.catalogs_files import SkyBox
from skygraft.recovery.catalogs_kinds import aperture_radius
from skygraft.recovery.catalogs_terms import DetectedFlux, Detections, ImageContext
from skygraft.recovery.measuring import measure_pair
from skygraft.recovery.settings import RecoverySettings, aperture_name
from skygraft.wcs.local import footprint

__all__ = ["catalog_files", "catalog_path", "measure_from_catalogs", "measure_image", "sky_box"]

_MAGNITUDE = 2.5 / math.log(10.0)
_MARGIN = 30.0
"""Width of the sky around the image that is read of a large catalogue, arcsec."""
_UNMATCHED = ("not drawn", "off the image")

type Floats = NDArray[np.float64]


def catalog_path(template: str, image: PlannedImage) -> Path:
    """Return the catalogue of an image.

    Parameters
    ----------
    template : str
        Path with names of the plan's columns in braces, such as ``cats/{file}.cat``.
    image : PlannedImage

    Returns
    -------
    Path

    Raises
    ------
    CatalogError
        If the image has no such property, as coadds have no visit.
    """
    file = PurePosixPath(image.output)
    values = {name: getattr(image, name, None) for name in PLACES}
    values |= {"file": file.name.partition(".fit")[0] or file.stem, "folder": str(file.parent)}
    unknown = [name for name, value in values.items() if value is None and f"{{{name}" in template]
    if unknown:
        raise CatalogError(
            f"the image {image.image_id} has no {unknown[0]}, which {template} names",
            key="recovery.catalogs",
            fix="Use {file} or {stem}, which every image has",
        )
    try:
        return Path(template.format(**values))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise CatalogError(
            f"{template} cannot be filled in ({error})", key="recovery.catalogs", fix="Write it like cats/{file}.cat"
        ) from None


def measure_image(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Measure the fakes of an image, from catalogues if the settings name any; see `measure_pair`."""
    return (measure_from_catalogs if settings.get("catalogs") else measure_pair)(pair, settings)


def catalog_files(image: PlannedImage, settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """Give number of bytes and time of the last change, ns, of the catalogues of an image; empty without any."""
    found = {}
    for name in ("injected", "original"):
        if template := (settings.get("catalogs") or {}).get(name):
            path = catalog_path(template, image)
            files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
            stats = [file.stat() for file in files if file.exists()]
            found[name] = [sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
    return found


def measure_from_catalogs(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Find the fakes of an image in the catalogue that a pipeline made of it.

    Parameters
    ----------
    pair : ImagePair
        The image before and after injection, its truth and its catalogue rows.
    settings : mapping of str to object
        JSON types: ``catalogs``, by the names of `skygraft.config.recovery_catalogs.RecoveryCatalogs`, and settings of
        `measure_pair`, of which those of matching apply to the catalogues, too.

    Returns
    -------
    pyarrow.Table
        Rows and columns of `measure_pair`. Of the fakes that are found, measured values are the catalogue's, NaN where
        it has none; conditions are those of the images. The metadata ``skygraft.catalogs`` say, in JSON, what was read
        and what was left out.

    Raises
    ------
    ConfigError
        If a setting is unknown or not allowed.
    CatalogError
        If a catalogue is missing or not understood, or is not that of this image.
    """
    given = _catalogs(settings)
    rest = {name: value for name, value in settings.items() if name != "catalogs"}
    how = RecoverySettings.from_mapping(rest)
    context = ImageContext.of(pair, how.apertures)
    box = sky_box(context)
    injected = read_detections(catalog_path(given.injected, pair.image), given, context, box=box)
    original = None
    if given.original is not None:
        original = read_detections(catalog_path(given.original, pair.image), given, context, box=box)
        _refuse_same(injected, original, pair)
    table = measure_pair(pair, rest)
    fake = {name: table[name].to_numpy() for name in _NEEDED}
    values = _Matching(context, how, injected, original, fake).values()
    for name, column in values.items():
        kind = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), kind, arrow_array(column).cast(kind.type))
    notes = {"injected": _notes(injected), "original": None if original is None else _notes(original)}
    return table.replace_schema_metadata({"skygraft.catalogs": json.dumps(notes)})


_NEEDED = (
    "x", "y", "inst_flux", "mag", "reason", "usable", "psf_fwhm", "half_light_radius", "original_distance",
    "original_flux_fraction", "neighbour_distance", "neighbour_mag", "blend_fraction", "mag_below_depth",
)  # fmt: skip


def _catalogs(settings: Mapping[str, Any]) -> RecoveryCatalogs:
    from pydantic import ValidationError

    try:
        return RecoveryCatalogs.model_validate(settings.get("catalogs") or {})
    except ValidationError as error:
        problems = describe_problems(error, RecoveryCatalogs)
    raise config_error([(f"recovery.catalogs.{key}", text) for key, text in problems], "settings of the recovery")


def _notes(found: Detections) -> dict[str, Any]:
    columns = {kind: flux.column for kind, flux in found.fluxes.items()}
    return {"path": str(found.path), "kind": found.kind, "fluxes": columns, "counts": dict(found.counts)}


def _refuse_same(injected: Detections, original: Detections, pair: ImagePair) -> None:
    drawn = int(np.count_nonzero(np.asarray(pair.truth["stamp_size"]) > 0))
    if drawn and len(injected) and np.array_equal(injected.ra, original.ra):
        raise CatalogError(
            f"the catalogues of {pair.image.image_id} before and after injection have the same detections",
            path=injected.path,
            key="recovery.catalogs.injected",
            fix="Run the pipeline on the injected image, or correct the path",
        )


def sky_box(context: ImageContext) -> SkyBox | None:
    """Return the part of the sky that a catalogue is read of; None near a pole."""
    outline = footprint(context.wcs, context.exposure.box)
    margin = _MARGIN / 3600.0
    low, high = float(outline[:, 1].min()) - margin, float(outline[:, 1].max()) + margin
    if max(abs(low), abs(high)) > 85.0:
        return None
    ra = outline[:, 0]
    margin /= math.cos(math.radians(max(abs(low), abs(high))))
    # Catalogues may count right ascension from -180.
    wraps = ra.max() - ra.min() > 180.0 or ra.min() < 1.0 + margin or ra.max() > 180.0 - margin
    return SkyBox((low, high), None if wraps else (float(ra.min()) - margin, float(ra.max()) + margin))


class _Matching:
    """The fakes of an image and the detections of its catalogues."""

    def __init__(
        self,
        context: ImageContext,
        how: RecoverySettings,
        injected: Detections,
        original: Detections | None,
        fake: Mapping[str, NDArray[Any]],
    ) -> None:
        self.context, self.how, self.fake = context, how, fake
        self.injected, self.original = injected, original
        calib = context.exposure.photo_calib
        if calib is None:
            raise CalibrationError("the image has no photometric calibration", path=context.exposure.path)
        self.calib: PhotoCalib = calib
        from skygraft.wcs.local import pixel_scale

        x, y = fake["x"], fake["y"]
        self.scale: Floats = pixel_scale(context.wcs, x, y) if len(x) else np.zeros(0)

    def radius(self) -> Floats:
        """Largest distance of a match, pixels; as `measure_pair` has it."""
        seeing = np.where(np.isfinite(self.fake["psf_fwhm"]), self.fake["psf_fwhm"], 4.0 * self.scale)
        width = np.hypot(seeing, 2.0 * np.nan_to_num(self.fake["half_light_radius"]))
        return match.search_radius(width, self.scale, self.how.match_radius)

    def values(self) -> dict[str, NDArray[Any]]:
        """Columns that the catalogues fill."""
        fake, radius = self.fake, self.radius()
        reason = fake["reason"].astype(str)
        tried = np.where(np.isin(reason, _UNMATCHED), np.nan, 0.0)
        x, y = fake["x"], fake["y"]
        det_x, det_y = self.context.pixels(self.injected.ra, self.injected.dec)
        matched = match.assign(x + tried, y + tried, fake["inst_flux"], radius, det_x, det_y)
        out = self._originals(x, y)
        with np.errstate(invalid="ignore"):
            near = out["original_distance"] <= radius * self.scale
            ambiguous = near & ~(out["original_flux_fraction"] < self.how.ambiguous_fraction)
            buried, bright = fake["blend_fraction"] >= 1.0, fake["mag_below_depth"] < 0.0
        found, usable, why = match.decide(
            matched,
            drawn=reason != "not drawn",
            on_image=reason != "off the image",
            masked=reason == "masked",
            ambiguous=ambiguous,
            covered=buried | bright,
            shared=buried,
            negative=np.zeros(len(x), dtype=np.bool_),  # pipelines detect them in difference images
        )
        at = np.flatnonzero(found)
        which = matched.detection
        number = np.full(len(x), -1, dtype=np.int64)
        number[which >= 0] = self.injected.id[which[which >= 0]]
        out |= {
            "found": found,
            "usable": usable,
            "reason": why,
            "distance": matched.distance * self.scale,
            "detection_id": number,
        }
        for name, column in self._measured(which[at], det_x, det_y).items():
            whole = np.full(len(x), 0 if name == "detection_flags" else np.nan, dtype=column.dtype)
            whole[at] = column
            out[name] = whole
        return out

    def _originals(self, x: Floats, y: Floats) -> dict[str, NDArray[Any]]:
        """What lies next to the fakes on the original image: by its catalogue, else as detected on its pixels."""
        names = ("original_distance", "original_flux_fraction", "neighbour_distance", "neighbour_mag")
        if self.original is None:
            return {name: self.fake[name] for name in names}
        det_x, det_y = self.context.pixels(self.original.ra, self.original.dec)
        index, gap = match.nearest(x, y, det_x, det_y)
        has = index >= 0
        fraction, mag = np.full(len(x), np.nan), np.full(len(x), np.nan)
        if has.any() and (flux := self.original.fluxes.get("cal")) is not None:
            at = index[has]
            light = self._image_flux(flux.take(at), det_x[at], det_y[at])[0]
            with np.errstate(invalid="ignore", divide="ignore"):
                fraction[has] = light / np.abs(self.fake["inst_flux"][has])
            mag[has] = self._magnitude(light, det_x[at], det_y[at])
        distance = gap * self.scale
        return dict(zip(names, (distance, fraction, distance, mag), strict=True))

    def _measured(self, which: NDArray[np.int64], det_x: Floats, det_y: Floats) -> dict[str, NDArray[Any]]:
        """Measured values of the fakes that are found."""
        found, x, y = self.injected.take(which), det_x[which], det_y[which]
        values: dict[str, NDArray[Any]] = {"x_out": x, "y_out": y, "ra_out": found.ra, "dec_out": found.dec}
        nothing = np.full(len(which), np.nan)
        kinds = ["cal", "kron", "psf", *(aperture_name(radius) for radius in self.how.apertures)]
        for kind in kinds:
            flux, error = nothing, nothing
            if (own := _flux_of(found.fluxes, kind)) is not None:
                flux, error = self._image_flux(own, x, y)
            with np.errstate(invalid="ignore", divide="ignore"):
                relative = np.where(flux > 0, error / flux, np.nan)
            values |= {
                f"flux_{kind}": flux,
                f"flux_{kind}_error": error,
                f"mag_{kind}": self._magnitude(flux, x, y),
                f"mag_{kind}_error": _MAGNITUDE * relative,
            }
        with np.errstate(invalid="ignore", divide="ignore"):
            values["snr"] = values["flux_cal"] / values["flux_cal_error"]
            values["concentration_out"] = values["flux_psf"] / values["flux_cal"]
        return values | {
            "half_light_radius_out": found.size,
            "axis_ratio_out": found.axis_ratio,
            "position_angle_out": found.position_angle,
            "fwhm_out": found.fwhm,
            "class_star_out": found.class_star,
            "detection_flags": found.flags,
        }

    def _image_flux(self, flux: DetectedFlux, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return fluxes and their errors in units of the image."""
        if flux.unit == "mag":
            value = np.asarray(self.calib.inst_flux(flux.value, x, y))
            return value, value * flux.error / _MAGNITUDE
        factor: Any = 1.0
        if flux.unit == "nJy":
            factor = 1.0 / self.calib.scale(x, y)
        elif flux.zeropoint is not None:
            factor = self.calib.inst_flux(np.full(len(x), flux.zeropoint), x, y)
        return flux.value * factor, flux.error * factor

    def _magnitude(self, flux: Floats, x: Floats, y: Floats) -> Floats:
        mag = np.asarray(self.calib.magnitude(flux, x, y))
        return np.where(np.isfinite(mag), mag, np.nan)


def _flux_of(fluxes: Mapping[str, DetectedFlux], kind: str) -> DetectedFlux | None:
    """Return the flux of a kind; apertures of nearly the same radius are the same."""
    if kind in fluxes or not kind.startswith("ap_"):
        return fluxes.get(kind)
    radius = aperture_radius(kind)
    apertures = [name for name in fluxes if name.startswith("ap_")]
    near = [name for name in apertures if abs(aperture_radius(name) / radius - 1.0) < 0.02]
    return fluxes[near[0]] if near else None
