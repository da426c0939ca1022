"""What an image's stars, its pipeline's catalogue and its aperture corrections say of the radius of its zeropoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.photometry import (
    PSF_MODEL,
    CalibrationAperture,
    CalibrationReference,
    PhotoCalib,
    kernel_holds_aperture,
)
from skygraft.qa.aperture_fit import FITS, WRONG, ApertureVerdict, RadiusFit, fit_radius
from skygraft.qa.aperture_standards import PipelineFluxes, Reference, read_pipeline_fluxes, read_psf_correction
from skygraft.qa.growth import Growth, growth_radii, measure_growth, psf_fit_flux, psf_fraction
from skygraft.qa.growth_stars import Scene, Stars, choose_stars, prepare_scene

__all__ = ["TOLERANCES", "ApertureLook", "Evidence"]

type Floats = NDArray[np.float64]

_MAGNITUDE = 2.5 / math.log(10.0)

TOLERANCES = {"reference": 0.01, "pipeline": 0.005, "correction": 0.015, "model": 0.03, "column": 0.005}
"""Magnitudes that are put down to other causes than the radius: transformations between bands and systems (reference),
another sky (pipeline), another fit of the PSF (correction), wings that the PSF model lacks (model)."""

_MATCH_PIXELS, _MATCH_ARCSEC = 2.0, 1.0
_LEAST_MODEL_ERROR = 0.002


@dataclass(frozen=True)
class Evidence:
    """What one source of information says.

    Parameters
    ----------
    kind : {"reference", "pipeline", "column", "correction", "model"}
        Magnitudes of a reference catalogue; fluxes that the pipeline calibrated with, measured again; a column of
        fluxes that equals them; the aperture correction of PSF fluxes, with the image's stars or with the PSF model.
    origin : str
        File and column.
    fit : RadiusFit
    """

    kind: str
    origin: str
    fit: RadiusFit

    def to_dict(self) -> dict[str, Any]:
        """Describe it by JSON types."""
        fit = self.fit
        names = (
            "verdict", "reason", "n", "offset", "offset_error", "tolerance", "threshold", "scatter", "radius",
            "radius_error", "radius_low", "radius_high",
        )  # fmt: skip
        curves = {"offsets": fit.curve.tolist(), "offset_errors": fit.curve_error.tolist()}
        return {"kind": self.kind, "origin": self.origin, **{n: getattr(fit, n) for n in names}, **curves}


class ApertureLook:
    """One look at an image: its scene, stars and curves, and what each kind of evidence says."""

    def __init__(
        self,
        exposure: Exposure,
        calib: PhotoCalib,
        what: CalibrationReference | None,
        scale: float,
        tolerances: Mapping[str, float],
        largest: int,
    ) -> None:
        self.exposure, self.calib, self.what, self.scale = exposure, calib, what, scale
        self.tolerances, self.largest = tolerances, largest
        self.scene: Scene = prepare_scene(exposure)
        self.fwhm = self._fwhm()
        self.aperture = what.radius_pixels if isinstance(what, CalibrationAperture) else math.nan
        known = math.isfinite(self.fwhm)
        self.stated = self.aperture if math.isfinite(self.aperture) else (3 * self.fwhm if known else 10.0)
        reach = max(self.stated, 3 * self.fwhm) if known else self.stated
        self.radii = growth_radii(self.stated, self.fwhm)
        self.stars: Stars = choose_stars(exposure, self.scene, reach, largest=largest)
        self.growth = self.measure(self.stars.x, self.stars.y)

    def _fwhm(self) -> float:
        psf = self.exposure.psf
        if psf is not None:
            low, high = psf.fwhm_range(self.exposure.box)
            if math.isfinite(low + high):
                return 0.5 * (low + high)
        sizes = self.scene.half_light[self.scene.flux > 50 * self.scene.noise]
        return float(2 * np.percentile(sizes, 20)) if len(sizes) > 5 else math.nan

    def measure(self, x: Floats, y: Floats) -> Growth:
        """Measure the curves of growth of stars at (x, y), shape (N,), parent pixels."""
        gain = self.exposure.gain
        return measure_growth(
            self.scene.image,
            x,
            y,
            self.radii,
            sky_free=self.scene.sky_free,
            variance=None if self.exposure.variance is None else np.where(self.scene.bad, 0, self.exposure.variance),
            gain=None if gain is None else float(np.median(gain)),
            xy0=self.exposure.xy0,
        )

    def offsets(self, growth: Growth, right: Floats, error: Floats, own: Floats | None = None) -> tuple[Floats, ...]:
        """Offsets (mag) and errors of fluxes inside all radii from what is right, and of the stated flux.

        `right` and `error` (mag) are per star; `own`, shape (N, K), replaces the errors of the curves.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            d = -2.5 * np.log10(growth.flux / right[:, None])
            e = np.hypot(_MAGNITUDE * growth.error / growth.flux, error[:, None]) if own is None else own
        d[~(growth.flux > 0)] = np.nan
        if isinstance(self.what, CalibrationAperture) or self.what is None:
            with np.errstate(invalid="ignore"):
                middle = np.abs([np.nanmedian(c) if np.isfinite(c).any() else np.inf for c in d.T])
            k = int(np.argmin(np.abs(self.radii - self.stated))) if self.what is not None else int(np.argmin(middle))
            return d, e, d[:, k], e[:, k]
        flux = self._stated_flux(growth)
        with np.errstate(invalid="ignore", divide="ignore"):
            d0 = -2.5 * np.log10(np.where(flux > 0, flux, np.nan) / right)
        k = int(np.argmin(np.abs(self.radii - self.stated)))
        return d, e, d0, e[:, k]

    def _stated_flux(self, growth: Growth) -> Floats:
        """Fluxes of the stars that a calibration to the PSF model or to all light is of."""
        if self.exposure.psf is None:
            return np.full(len(growth), np.nan)
        if self.what is PSF_MODEL:
            return psf_fit_flux(self.exposure, self.scene.image, growth.x, growth.y, growth.sky)[0]
        inside = psf_fraction(self.exposure, [self.stated], growth.x, growth.y)
        outside = float(np.median(self.exposure.psf.flux_outside(*self._middle())))
        k = int(np.argmin(np.abs(self.radii - self.stated)))
        return np.asarray(growth.flux[:, k] / (np.median(inside) if len(inside) else np.nan) * (1 + outside))

    def _middle(self) -> tuple[Floats, Floats]:
        x, y = self.exposure.box.center
        return np.array([x]), np.array([y])

    def of_reference(self, reference: Reference | None) -> Evidence | str:
        """Compare with magnitudes that are known; a text says why not (empty where there is no catalogue)."""
        if reference is None:
            return ""
        if not len(self.stars):
            return ""
        with np.errstate(invalid="ignore"):
            rx, ry = self.exposure.wcs.world_to_pixel_values(reference.ra, reference.dec)
        reach = max(_MATCH_PIXELS, _MATCH_ARCSEC / self.scale if self.scale > 0 else 0.0)
        star, row = _match(self.stars.x, self.stars.y, np.asarray(rx), np.asarray(ry), reach)
        if not len(star):
            return (
                f"none of the {len(self.stars)} stars is within {reach:.1f} pixels of one of {reference.origin}: "
                "does the catalogue cover this image, in ICRS degrees?"
            )
        growth = _rows(self.growth, star)
        right = self.calib.inst_flux(reference.mag[row], growth.x, growth.y)
        found = self.offsets(growth, right, reference.mag_error[row])
        fit = fit_radius(self.radii, *found, tolerance=self.tolerances["reference"])
        return Evidence("reference", reference.origin, fit)

    def of_pipeline(self, path: str | os.PathLike[str] | None) -> list[Evidence | str]:
        """Compare with the fluxes that the pipeline calibrated with, on the image and within its catalogue."""
        if path is None:
            return []
        fluxes = read_pipeline_fluxes(path, self.exposure.wcs.world_to_pixel_values)
        if isinstance(fluxes, str):
            return [fluxes]
        return [self._remeasured(fluxes), self._same_column(fluxes)]

    def _remeasured(self, fluxes: PipelineFluxes) -> Evidence | str:
        if self.scene.problem:
            return ""
        x, y, flux = fluxes.x, fluxes.y, fluxes.flux
        if fluxes.selected:
            order = np.argsort(-flux, kind="stable")[: 2 * self.largest]
            order = order[self._clean(x[order], y[order])][: self.largest]
        else:
            _, order = _match(self.stars.x, self.stars.y, x, y, 1.5)
        if not len(order):
            return f"no star of {fluxes.origin} can be measured on the image"
        growth = self.measure(x[order], y[order])
        area = math.pi * self.radii**2
        with np.errstate(invalid="ignore", divide="ignore"):
            # The same pixels: only the sky is another.
            own = _MAGNITUDE * np.clip(area * growth.sky_error[:, None] / growth.flux, 2e-4, None)
        found = self.offsets(growth, flux[order], np.zeros(len(order)), own)
        fit = fit_radius(self.radii, *found, tolerance=self.tolerances["pipeline"])
        return Evidence("pipeline", fluxes.origin, fit)

    def _clean(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether positions have no bad pixel near, and are on the image."""
        import sep

        x, y = x - self.exposure.xy0[0], y - self.exposure.xy0[1]
        ny, nx = self.scene.image.shape
        edge = self.stated
        inside = (x > edge) & (x < nx - 1 - edge) & (y > edge) & (y < ny - 1 - edge)
        touched = np.ones(len(x))
        if inside.any():
            bad = self.scene.bad.astype(np.float32)
            touched[inside] = sep.sum_circle(bad, x[inside], y[inside], self.stated, subpix=1)[0]
        return np.asarray(inside & (touched == 0))

    def _same_column(self, fluxes: PipelineFluxes) -> Evidence | str:
        radius = fluxes.same_as
        if not math.isfinite(radius) or not isinstance(self.what, CalibrationAperture):
            return ""
        ratio = fluxes.by_radius.get(self.aperture)
        offset = math.nan
        if ratio is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                offset = float(np.nanmedian(-2.5 * np.log10(ratio / fluxes.flux)))
        elif self.exposure.psf is not None and len(curves := psf_fraction(self.exposure, [self.aperture, radius])):
            offset = float(np.median(-2.5 * np.log10(curves[:, 0] / curves[:, 1])))
        same = math.isclose(radius, self.aperture, rel_tol=0.005)
        tolerance = self.tolerances["column"]
        small = math.isfinite(offset) and abs(offset) <= tolerance
        verdict: ApertureVerdict = FITS if same or small else WRONG
        reason = f"the calibration flux equals, row for row, that of {radius:g} pix"
        nan = np.full(len(self.radii), np.nan)
        fit = RadiusFit(
            len(fluxes.flux), 0.0 if same else offset, 0.0, tolerance, tolerance, math.nan, radius, 0.0, radius, radius,
            self.radii, nan, nan, verdict, reason,
        )  # fmt: skip
        return Evidence("column", fluxes.origin, fit)

    def of_correction(self) -> Evidence | str:
        """Compare with PSF fluxes that were corrected to the calibration flux."""
        exposure = self.exposure
        if exposure.psf is None or exposure.path is None or exposure.format != "lsst_afw":
            return ""
        if not isinstance(self.what, CalibrationAperture):
            return ""
        if not kernel_holds_aperture(exposure.psf.shape, self.aperture):
            return (
                f"aperture corrections tell nothing here: the PSF's kernels ({exposure.psf.shape[1]} x "
                f"{exposure.psf.shape[0]} pixels) do not reach {self.aperture:g} pix"
            )
        if len(self.growth) >= 10:
            return self._corrected_stars()
        return self._corrected_model()

    def _corrected_stars(self) -> Evidence | str:
        growth = self.growth
        assert self.exposure.path is not None
        found = read_psf_correction(self.exposure.path, growth.x, growth.y)
        if isinstance(found, str):
            return found
        flux, _ = psf_fit_flux(self.exposure, self.scene.image, growth.x, growth.y, growth.sky)
        right = flux * found[0]
        offsets = self.offsets(growth, np.where(right > 0, right, np.nan), np.zeros(len(growth)))
        fit = fit_radius(self.radii, *offsets, tolerance=self.tolerances["correction"])
        return Evidence("correction", "aperture correction of PSF fluxes, and stars", fit)

    def _corrected_model(self) -> Evidence | str:
        assert self.exposure.path is not None and self.exposure.psf is not None
        box = self.exposure.box
        part = (np.arange(4) + 0.5) / 4
        gx, gy = np.meshgrid(box.x_min + part * (box.x_max - box.x_min), box.y_min + part * (box.y_max - box.y_min))
        there = self.exposure.psf.defined(gx.ravel(), gy.ravel())
        x, y = gx.ravel()[there], gy.ravel()[there]
        if not len(x):
            return ""
        found = read_psf_correction(self.exposure.path, x, y)
        if isinstance(found, str):
            return found
        inside = psf_fraction(self.exposure, self.radii, x, y)
        with np.errstate(invalid="ignore", divide="ignore"):
            offsets = -2.5 * np.log10(inside / found[0][:, None])
        offsets[:, self.radii > min(self.exposure.psf.shape) / 2] = np.nan
        k = int(np.argmin(np.abs(self.radii - self.stated)))
        errors = np.full(offsets.shape, _LEAST_MODEL_ERROR)
        fit = fit_radius(
            self.radii, offsets, errors, offsets[:, k], errors[:, k], tolerance=self.tolerances["model"], least=3
        )
        return Evidence("model", "aperture correction of PSF fluxes, and the PSF model", fit)

    def shapes(self) -> tuple[Floats, Floats, Floats]:
        """Mean curves of growth of stars and of the PSF model, magnitudes relative to the stated radius."""
        k = int(np.argmin(np.abs(self.radii - self.stated)))
        stars, error, model = (np.full(len(self.radii), np.nan) for _ in range(3))
        if len(self.growth) >= 3:
            growth = self.growth
            with np.errstate(invalid="ignore", divide="ignore"):
                d = -2.5 * np.log10(growth.flux / growth.flux[:, [k]])
            for i, values in enumerate(d.T):
                column = values[np.isfinite(values)]
                if len(column) >= 0.7 * len(growth):
                    stars[i] = np.median(column)
                    spread = 1.4826 * np.median(np.abs(column - stars[i]))
                    error[i] = 1.2533 * spread / math.sqrt(len(column))
        if self.exposure.psf is not None:
            inside = psf_fraction(self.exposure, self.radii, self.stars.x, self.stars.y)
            if len(inside):
                model = -2.5 * np.log10(np.median(inside / inside[:, [k]], axis=0))
                model[self.radii > min(self.exposure.psf.shape) / 2] = np.nan
        return stars, error, model


def _rows(growth: Growth, rows: NDArray[np.intp]) -> Growth:
    return Growth(
        growth.x[rows], growth.y[rows], growth.radii, growth.flux[rows], growth.error[rows], growth.sky[rows],
        growth.sky_error[rows],
    )  # fmt: skip


def _match(x: Floats, y: Floats, ox: Floats, oy: Floats, reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of nearest neighbours both ways within a distance; rows of the first and of the others."""
    from scipy.spatial import cKDTree

    there = np.flatnonzero(np.isfinite(ox) & np.isfinite(oy))
    if not len(x) or not len(there):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    here, others = np.stack([x, y], axis=1), np.stack([ox[there], oy[there]], axis=1)
    found = cKDTree(others).query(here)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    _, back = cKDTree(here).query(others[nearest])
    good = (distance < reach) & (back == np.arange(len(here)))
    return np.flatnonzero(good), there[nearest[good]]
