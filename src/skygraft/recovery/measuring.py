"""Measurement of an image before and after injection: which fakes a detection finds, and what it measures of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.catalog.flags import NOT_DRAWN, Flag, has_flag
from skygraft.errors import CampaignError
from skygraft.exposure import Exposure
from skygraft.injection.coadd_noise import image_noise
from skygraft.noise import NoiseCorrelation
from skygraft.photometry import sinc_coefficients
from skygraft.recovery import conditions, fakes, match, moments, photometry
from skygraft.recovery.detect import Detections, MeasuredImage, detect, image_fwhm, prepare
from skygraft.recovery.settings import RECOVERY_DEFAULTS, RecoverySettings, aperture_name
from skygraft.recovery.table import recovery_table
from skygraft.wcs.local import local_jacobian

__all__ = ["RECOVERY_DEFAULTS", "RECOVERY_VERSION", "measure_pair"]

RECOVERY_VERSION = 2
"""Counts changes of what is measured; results of another version are made again."""

_MAGNITUDE = 2.5 / math.log(10.0)
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_APERTURE_TRUNCATED = 0x10
"""SEP's APER_TRUNC."""

type Floats = NDArray[np.float64]
type Values = dict[str, Any]


def measure_pair(pair: ImagePair, settings: Mapping[str, Any]) -> pa.Table:
    """Detect and measure the fakes of an image.

    Parameters
    ----------
    pair : ImagePair
        The image before and after injection, its truth and its catalogue rows.
    settings : mapping of str to object
        JSON types, by the names of `RecoverySettings`; those not given have their default.

    Returns
    -------
    pyarrow.Table
        One row per row of the truth, in its order; columns of `skygraft.recovery.table.recovery_schema`.

    Raises
    ------
    ConfigError
        If a setting is unknown or not allowed, or names what the image or the catalogue has not.
    CampaignError
        If the two images do not cover the same pixels.
    """
    how = RecoverySettings.from_mapping(settings)
    if pair.before.shape != pair.after.shape or pair.before.xy0 != pair.after.xy0:
        raise CampaignError(
            f"the injected image covers other pixels than the original: {pair.after.shape} from {pair.after.xy0}, "
            f"{pair.before.shape} from {pair.before.xy0}",
            path=pair.after.path,
            fix="Make the image again: skygraft run",
        )
    one = _Measurement.of(pair, how)
    truth = fakes.truth_values(pair.truth)
    rows = fakes.rows_of(pair.sources, truth["injection_id"])
    values: Values = truth | _of_image(pair, len(rows)) | fakes.catalogue_values(pair.sources, rows, truth["mag"])
    values |= one.recover(values)
    extra = fakes.extra_columns(pair, how.columns, rows)
    return recovery_table(values, how.apertures, extra)


def _of_image(pair: ImagePair, n: int) -> Values:
    """Columns that all rows of an image have in common."""
    image = pair.image
    seconds = image.exposure_time if image.exposure_time is not None else pair.before.visit_info.exposure_time
    numbers = {
        "mjd": math.nan if image.mjd is None else image.mjd,
        "exposure_time": math.nan if seconds is None else seconds,
        "airmass": conditions.airmass_of(pair.before.header),
    }
    texts = {
        "visit": pa.repeat(pa.scalar(image.visit, pa.int64()), n),
        "detector": pa.repeat(pa.scalar(image.detector, pa.string()), n),
    }
    return {name: np.full(n, value, dtype=np.float64) for name, value in numbers.items()} | texts


@dataclass(frozen=True, eq=False)
class _Measurement:
    """An image before and after injection with the detections on both."""

    settings: RecoverySettings
    exposure: Exposure
    before: MeasuredImage
    after: MeasuredImage
    originals: Detections
    detections: Detections
    fwhm: float | None
    calibrated: photometry.CalibratedFlux
    correlation: NoiseCorrelation | None

    @classmethod
    def of(cls, pair: ImagePair, settings: RecoverySettings) -> _Measurement:
        fwhm = image_fwhm(pair.before)
        before, after = prepare(pair.before, settings), prepare(pair.after, settings)
        return cls(
            settings,
            pair.before,
            before,
            after,
            detect(before, before.variance, settings, fwhm),
            detect(after, before.variance, settings, fwhm),
            fwhm,
            photometry.calibrated_flux_of(pair.before, fwhm),
            image_noise(pair.before, "correlated").correlation,
        )

    def recover(self, fake: Values) -> Values:
        """Match the fakes and measure those that are found; `fake` has the columns known before."""
        x0, y0 = self.before.xy0
        x, y = fake["x"] - x0, fake["y"] - y0
        n = len(x)
        _, scale = self._jacobians(fake["x"], fake["y"])
        width = self._expected_width(fake, scale)
        found: Values = {}
        matched = self._match(fake, x, y, scale, width, found)
        at = np.flatnonzero(found["found"])
        measured = self._measure(matched.detection[at], fake, at)
        for name, column in measured.items():
            whole = np.full(n, 0 if name == "detection_flags" else np.nan, dtype=column.dtype)
            whole[at] = column
            found[name] = whole
        # Of the measured position, which is better than the detection's.
        found["distance"][at] = (
            np.hypot(measured["x_out"] - fake["x"][at], measured["y_out"] - fake["y"][at]) * scale[at]
        )
        found |= self._conditions(fake, x, y, scale, width, found)
        return found

    def _jacobians(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Jacobians of the WCS, shape (N, 2, 2), and pixel scales, arcsec; NaN at positions that are not finite."""
        if not len(x):
            return np.zeros((0, 2, 2)), np.zeros(0)
        found = local_jacobian(self.exposure.wcs, x, y)
        return found, np.sqrt(np.abs(found[:, 0, 0] * found[:, 1, 1] - found[:, 0, 1] * found[:, 1, 0]))

    def _expected_width(self, fake: Values, scale: Floats) -> Floats:
        """FWHM that each fake is expected to have on the image, arcsec."""
        middle = 4.0 if self.fwhm is None else self.fwhm
        seeing = np.where(np.isfinite(fake["psf_fwhm"]), fake["psf_fwhm"], middle * scale)
        return np.asarray(np.hypot(seeing, 2.0 * np.nan_to_num(fake["half_light_radius"])))

    def _match(self, fake: Values, x: Floats, y: Floats, scale: Floats, width: Floats, out: Values) -> match.Match:
        radius = match.search_radius(width, scale, self.settings.match_radius)
        drawn = (fake["stamp_size"] > 0) & ~has_flag(fake["flags"], NOT_DRAWN)
        inside = conditions.edge_distance(self.before.pixels.shape, x, y) >= 0
        inside &= ~has_flag(fake["flags"], Flag.CENTER_OFF_IMAGE)
        masked = inside & _near_bad(self.before.bad, x, y, inside)
        negative = fake["inst_flux"] < 0
        tried = np.where(drawn & inside & ~negative, 0.0, np.nan)
        objects, originals = self.detections.objects, self.originals.objects
        matched = match.assign(x + tried, y + tried, fake["inst_flux"], radius, objects["x"], objects["y"])
        original, gap = match.nearest(x, y, originals["x"], originals["y"])
        flux = np.full(len(x), np.nan)
        has = original >= 0
        if has.any():
            unique, back = np.unique(original[has], return_inverse=True)
            flux[has] = self._original_fluxes(originals[unique])[back]
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = flux / np.abs(fake["inst_flux"])
            # A detection without a flux cannot be told from a bright one.
            ambiguous = has & (gap <= radius) & ~(fraction < self.settings.ambiguous_fraction)
        covering = _segment_at(self.detections.segments, x, y, drawn & inside)
        shared = self._shared(covering, drawn & inside, x, y)
        recovered, usable, reason = match.decide(
            matched,
            drawn=drawn,
            on_image=inside,
            masked=masked,
            ambiguous=ambiguous,
            covered=covering > 0,
            shared=shared,
            negative=negative,
        )
        x0, y0 = self.before.xy0
        mag = _magnitudes(self.exposure, flux, x + x0, y + y0)
        out |= {
            "found": recovered,
            "usable": usable,
            "reason": reason,
            "distance": matched.distance * scale,
            "detection_id": matched.detection,
            "original_distance": gap * scale,
            "original_flux_fraction": fraction,
            "neighbour_distance": gap * scale,
            "neighbour_mag": mag,
        }
        return matched

    def _original_fluxes(self, objects: NDArray[Any]) -> Floats:
        """Calibrated fluxes of detections on the original image; of its pixels above the threshold at the edge."""
        x, y = (np.ascontiguousarray(objects[name]) for name in ("x", "y"))
        flux = self._calibrated(self.before, x, y).flux
        return np.where(np.isfinite(flux), flux, objects["flux"])

    def _shared(self, covering: NDArray[np.int64], there: NDArray[np.bool_], x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether the detection whose pixels cover a fake's centre has the centre of another source, too."""
        count = np.zeros(len(self.detections) + 1, dtype=np.int64)
        np.add.at(count, covering[there], 1)
        originals = self.originals.objects
        everywhere = np.ones(len(originals), dtype=np.bool_)
        real = _segment_at(self.detections.segments, originals["x"], originals["y"], everywhere)
        np.add.at(count, real, 1)
        count[0] = 0
        return count[covering] > 1

    def _aperture(self, image: MeasuredImage, x: Floats, y: Floats, radius: float) -> photometry.Fluxes:
        factor = photometry.noise_factor(radius, self.correlation)
        return photometry.aperture_fluxes(image, x, y, radius, factor)

    def _psf(self, image: MeasuredImage, x: Floats, y: Floats) -> photometry.Fluxes:
        kernel = None if self.correlation is None else photometry.middle_kernel(self.exposure)
        factor = 1.0 if kernel is None else photometry.spread_factor(kernel, self.correlation)
        return photometry.psf_fluxes(self.exposure, image, self.before.variance, x, y, factor)

    def _calibrated(self, image: MeasuredImage, x: Floats, y: Floats) -> photometry.Fluxes:
        how = self.calibrated
        if how.kind == "psf_model":
            return self._psf(image, x, y)
        if how.kind == "total":
            return self._corrected(image, x, y)
        return self._aperture(image, x, y, how.radius)

    def _corrected(self, image: MeasuredImage, x: Floats, y: Floats) -> photometry.Fluxes:
        """Fluxes in an aperture over the part of a star's light that is inside it."""
        radius, (x0, y0) = self.calibrated.radius, image.xy0
        found = self._aperture(image, x, y, radius)
        inside = photometry.fraction_inside(self.exposure, x + x0, y + y0, radius)
        return photometry.Fluxes(found.flux / inside, found.error / inside)

    def _measure(self, which: NDArray[np.int64], fake: Values, at: NDArray[np.int64]) -> Values:
        """Measure detections on the injected image."""
        image, objects = self.after, self.detections.objects[which]
        segments, numbers = self.detections.segments, which + 1
        factor = photometry.spread_factor(sinc_coefficients(self.calibrated.radius), self.correlation)
        kron, flags = photometry.kron_fluxes(image, segments, objects, numbers, factor)
        half = photometry.half_light_radii(image, segments, objects, numbers, kron.flux)
        x, y, failed = photometry.centroids(image, objects, half)
        flags = flags | np.asarray(objects["flag"], dtype=np.int64) | np.where(failed, photometry.CENTROID_FAILED, 0)
        fluxes = {
            "cal": self._calibrated(image, x, y),
            "kron": kron,
            "psf": self._psf(image, x, y),
        }
        fluxes |= {aperture_name(radius): self._aperture(image, x, y, radius) for radius in self.settings.apertures}
        own_moments = np.column_stack([objects[name] for name in ("x2", "xy", "y2")])
        adapted = moments.adaptive_moments(image.pixels, image.bad, x, y, own_moments)
        no_shape = np.isnan(adapted[:, 0])
        flags |= np.where(no_shape, photometry.SHAPE_FAILED, 0)
        flags |= np.where(np.isnan(fluxes["cal"].flux), _APERTURE_TRUNCATED, 0)
        # Where the calibrated flux is the PSF's, an aperture tells how extended a source is.
        whole = self._corrected(image, x, y) if self.calibrated.kind == "psf_model" else fluxes["cal"]
        px, py = x + image.xy0[0], y + image.xy0[1]
        jacobians, scale = self._jacobians(px, py)
        ratio, angle, sigma = moments.sky_shapes(np.where(no_shape[:, None], own_moments, adapted), jacobians)
        ra, dec = self.exposure.wcs.pixel_to_world_values(px, py) if len(x) else (np.zeros(0), np.zeros(0))
        values: Values = {"x_out": px, "y_out": py, "ra_out": np.asarray(ra), "dec_out": np.asarray(dec)}
        for kind, one in fluxes.items():
            values |= self._flux_values(kind, one, px, py)
        with np.errstate(invalid="ignore", divide="ignore"):
            values |= {
                "snr": fluxes["cal"].flux / fluxes["cal"].error,
                "half_light_radius_out": half * scale,
                "axis_ratio_out": ratio,
                "position_angle_out": angle,
                "fwhm_out": sigma * _FWHM_PER_SIGMA,
                "class_star_out": np.full(len(x), np.nan),
                "concentration_out": fluxes["psf"].flux / whole.flux,
                "detection_flags": flags.astype(np.int64),
            }
        return values

    def _flux_values(self, kind: str, one: photometry.Fluxes, px: Floats, py: Floats) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(one.flux > 0, _MAGNITUDE * one.error / one.flux, np.nan)
        return {
            f"flux_{kind}": one.flux,
            f"flux_{kind}_error": one.error,
            f"mag_{kind}": _magnitudes(self.exposure, one.flux, px, py),
            f"mag_{kind}_error": error,
        }

    def _conditions(self, fake: Values, x: Floats, y: Floats, scale: Floats, width: Floats, found: Values) -> Values:
        before, originals, radius = self.before, self.originals, self.calibrated.radius
        empty = conditions.empty_apertures(before, originals, radius)
        level = conditions.noise_level(*empty, photometry.noise_factor(radius, self.correlation))
        variance = conditions.sky_variance(before, originals, x, y)
        # Apertures, or the pixels that a fit of the PSF amounts to.
        noise = level * np.sqrt(variance * photometry.noise_area(self.exposure, self.calibrated))
        depth = _magnitudes(self.exposure, 5.0 * noise, fake["x"], fake["y"])
        drawn = fake["stamp_size"] > 0
        own = np.abs(fake["inst_flux"])
        real = np.maximum(conditions.real_light(before, originals, x, y, radius), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            other = conditions.fake_light(x, y, np.where(drawn, own, 0.0), width / scale, radius)
            fraction = (real + other) / own
            blended = fraction >= self.settings.blend_fraction
        return {
            "blend": np.where(blended, np.where(other > real, "fake", "real"), ""),
            "blend_fraction": fraction,
            "depth": depth,
            "mag_below_depth": fake["mag"] - depth,
            "noise_level": np.full(len(x), level),
            "sky": _at(before.sky, x, y),
            "sky_rms": _at(before.sky_rms, x, y),
            "seeing": fake["psf_fwhm"],
            "edge_distance": conditions.edge_distance(before.pixels.shape, x, y) * scale,
        }


def _magnitudes(exposure: Exposure, flux: Floats, x: Floats, y: Floats) -> Floats:
    if exposure.photo_calib is None:
        return np.full(len(flux), np.nan)
    mag = np.asarray(exposure.photo_calib.magnitude(flux, x, y), dtype=np.float64)
    return np.where(np.isfinite(mag), mag, np.nan)


def _pixels(shape: tuple[int, ...], x: Floats, y: Floats, there: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Row and column of positions, clipped to the image; 0 where they are not `there`."""
    return tuple(
        np.clip(np.floor(np.where(there, c, 0.0) + 0.5), 0, n - 1).astype(np.int64)
        for c, n in zip((y, x), shape, strict=True)
    )  # type: ignore[return-value]


def _near_bad(bad: NDArray[np.bool_], x: Floats, y: Floats, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether there is a bad pixel among the 3 x 3 at positions."""
    rows, columns = _pixels(bad.shape, x, y, there)
    found = np.zeros(len(x), dtype=np.bool_)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            found |= bad[np.clip(rows + dy, 0, bad.shape[0] - 1), np.clip(columns + dx, 0, bad.shape[1] - 1)]
    return found


def _segment_at(segments: NDArray[np.int32], x: Floats, y: Floats, there: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(there, segments[_pixels(segments.shape, x, y, there)], 0).astype(np.int64)


def _at(plane: NDArray[np.float32], x: Floats, y: Floats) -> Floats:
    """The value at positions, the nearest pixel's; NaN where they are not finite."""
    there = np.isfinite(x) & np.isfinite(y)
    return np.where(there, plane[_pixels(plane.shape, x, y, there)], np.nan).astype(np.float64)
