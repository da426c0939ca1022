"""Sources on an image whose PSF has extended wings: the tapered kernel as ever, and the wings on top of it.

Kernels are drawn as those of any PSF, tapered to nothing at the radius at which the wings join. The wings are those of
points: of a trail, a row of points; of an extended source, one point whose wings are convolved with a sum of round
Gaussians that has the source's profile. Sources off the image of which only the wings reach it have the PSF of the
nearest place on the image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.flags import NOT_DRAWN, Flag, has_flag
from skygraft.errors import SkygraftError
from skygraft.exposure import Exposure
from skygraft.injection.options import InjectionOptions
from skygraft.injection.placing import subset
from skygraft.injection.reach import Reach, reach_of
from skygraft.injection.winged_scale import WingedNormalisation, WingScale
from skygraft.photometry import CalibrationReference
from skygraft.psf import LinearPSF
from skygraft.psf.tapered import Joined, check_join, measure_join
from skygraft.psf.wings import Wings
from skygraft.render import Canvas, RenderReport, Sources, render
from skygraft.render.components import are_profiles, are_trailed, components
from skygraft.render.prepared import width_meter
from skygraft.render.radial import WIDTHS, gaussian_fluxes
from skygraft.render.trails import MAX_TRAIL, trail_extents
from skygraft.render.wing_painter import WingPainter
from skygraft.render.wing_tables import SIGMAS, blur_of
from skygraft.wcs import pixel_scale

__all__ = ["WingedImage", "describe_wings", "winged_image"]

_AT_ONCE = 64
_FURTHEST = 1e5
"""Pixels beyond which wings without an outer radius are not drawn."""
_HALF_LIGHT = math.sqrt(2.0 * math.log(2.0))
"""Half-light radius of a Gaussian, in standard deviations."""
_BLURRED = (
    *("Sersic", "Gaussian", "Moffat", "Spergel", "Kolmogorov"),
    *("InclinedExponential", "InclinedSersic", "RandomKnots"),
)


class WingedImage:
    """An image, its PSF and the wings that go with it.

    Parameters
    ----------
    exposure : Exposure
        The image, with a PSF and a photometric calibration.
    options : InjectionOptions
        How to inject; with wings.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``.

    Raises
    ------
    PsfError, ConfigError
        If the wings do not go with the PSF.
    """

    def __init__(
        self,
        exposure: Exposure,
        options: InjectionOptions,
        reference: CalibrationReference | None,
        radius: float | None,
    ) -> None:
        psf = exposure.psf
        assert psf is not None
        self._exposure, self._options = exposure, options
        self.settings = options.wings
        self._scale = float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])
        try:
            self.wings: Wings = self.settings.on(self._scale)
            self.joined = Joined(psf, self.wings)
            check_join(self.joined, exposure.box)
        except SkygraftError as error:
            error.path = error.path or (None if exposure.path is None else str(exposure.path))
            raise
        self.normalisation = WingedNormalisation(exposure, options, reference, radius, self.joined)
        self._half_core = max(self.joined.core.shape) // 2
        self._known: dict[tuple[float, float], tuple[float, float, float]] = {}

    def describe(self) -> dict[str, Any]:
        """Describe the wings on this image, as JSON types."""
        found = measure_join(self.joined, self._exposure.box)
        wings = self.wings
        return {
            **self.settings.record(),
            "join_pixels": wings.join,
            "blend_pixels": wings.blend,
            "outer_pixels": wings.reach if math.isfinite(wings.reach) else None,
            "pixel_scale": self._scale,
            **{name: value if math.isfinite(value) else None for name, value in found.items()},
        }

    def note(self, summary: dict[str, Any], truth: QTable) -> None:
        """Write what the wings are into the summary of an injection and the metadata of its truth."""
        summary["wings"] = self.describe()
        truth.meta["wings"] = describe_wings(summary["wings"])

    def _scaled(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> WingScale:
        """Factors at the places of the image that are nearest to some positions; NaN where the PSF has none."""
        box = self._exposure.box
        x, y = np.clip(x, box.x_min, box.x_max), np.clip(y, box.y_min, box.y_max)
        if isinstance(self.joined.core, LinearPSF):
            try:
                return self.normalisation.scales(x, y)
            except SkygraftError:
                pass
        found = np.full((3, len(x)), np.nan)
        for k, place in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            if place not in self._known:
                try:
                    one = self.normalisation.scales(np.array([place[0]]), np.array([place[1]]))
                    self._known[place] = float(one.scale[0]), float(one.fraction[0]), float(one.amplitude[0])
                except Exception:  # of any PSF's own code; drawing flags the source
                    self._known[place] = (math.nan, math.nan, math.nan)
            found[:, k] = self._known[place]
        return WingScale(*found)

    def _reaches(self, sources: Sources, amplitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radii in pixels to which wings are drawn, shape (N,).

        `amplitude` is the surface brightness at the join radius, image units a pixel; NaN means no wings.
        """
        wings, calib = self.wings, self._exposure.photo_calib
        assert calib is not None
        size = np.abs(amplitude)
        if not len(size):
            return np.zeros(0)
        box = self._exposure.box
        x, y = np.clip(sources.x, box.x_min, box.x_max), np.clip(sources.y, box.y_min, box.y_max)
        limit = np.abs(calib.inst_flux(np.full(len(x), self.settings.limit), x, y)) * self._scale**2
        lit = np.isfinite(size) & (size > 0)
        reach = np.zeros(len(size))
        if math.isfinite(wings.reach):
            reach[lit] = wings.reach
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                left = wings.flux_radius(self._options.flux_tolerance * np.abs(sources.flux[lit]) / size[lit])
                faint = wings.brightness_radius(limit[lit] / size[lit])
            reach[lit] = np.minimum(np.maximum(left, faint), _FURTHEST)
        if "draw_size" in sources.shape:
            asked = np.nan_to_num(np.asarray(sources.shape["draw_size"], dtype=np.float64))
            cut = (asked > 0) & (sources.source_type != "Star")
            reach[cut] = np.minimum(reach[cut], 0.5 * asked[cut])
        return reach

    def _has_wings(self, sources: Sources) -> NDArray[np.bool_]:
        """Sources that the PSF's wings belong to: all but stamps that are not convolved."""
        stamps = sources.source_type == "Stamp"
        psfless = np.array([bool(s) and sources.text("stamp_psf", i) == "none" for i, s in enumerate(stamps)], bool)
        return ~psfless

    def reach(self, sources: Sources, **_: Any) -> Reach:
        """Compute how far the light of sources reaches, wings included; see `skygraft.injection.reach.reach_of`."""
        core = self._core_reach(sources)
        fluxes = np.nan_to_num(sources.flux)
        mine = np.flatnonzero(
            self._has_wings(sources) & np.isfinite(sources.x) & np.isfinite(sources.y) & (fluxes != 0)
        )
        if mine.size:
            some = subset(sources, np.isin(np.arange(len(sources)), mine))
            scaled = self._scaled(some.x, some.y)
            reach = self._reaches(some, some.flux * scaled.scale * scaled.amplitude)
            core.pixels[mine] = np.maximum(core.pixels[mine], np.ceil(reach + 0.5 * _lengths(some)))
        return core

    def _core_reach(self, sources: Sources) -> Reach:
        return reach_of(sources, self._half_core, self._options.flux_tolerance)

    def draw(self, sources: Sources, canvas: Canvas, progress: Callable[[int], None] | None = None) -> RenderReport:
        """Add sources with their wings to a canvas.

        Parameters
        ----------
        sources : Sources
            In order of injection id.
        canvas : Canvas
            Changed in place.
        progress : callable, optional
            Called with the number of sources drawn since the last call.

        Returns
        -------
        RenderReport
        """
        options, box = self._options, self._exposure.box
        report = RenderReport.empty(len(sources))
        gap = np.maximum(
            np.maximum(box.x_min - sources.x, sources.x - box.x_max),
            np.maximum(box.y_min - sources.y, sources.y - box.y_max),
        )
        near = gap < self._core_reach(sources).pixels
        rows = np.flatnonzero(near)
        core = render(
            sources if near.all() else subset(sources, near),
            self.joined.core,
            canvas,
            box,
            self.normalisation,
            flux_tolerance=options.flux_tolerance,
            stars=options.stars,
            galaxies=options.galaxies,
            progress=progress,
        )
        for field in dataclasses.fields(RenderReport):
            if field.name != "messages":
                getattr(report, field.name)[rows] = getattr(core, field.name)
        report.messages.update({int(rows[i]): text for i, text in core.messages.items()})
        self._note_far(sources, np.flatnonzero(~near), report)
        if progress is not None and not near.all():
            progress(int(np.count_nonzero(~near)))
        self._add_wings(sources, near, canvas, report)
        return report

    def _note_far(self, sources: Sources, rows: NDArray[np.intp], report: RenderReport) -> None:
        """Report on sources of which only the wings reach the image: by the PSF at the nearest place on it."""
        if not rows.size:
            return
        box = self._exposure.box
        x = np.clip(sources.x[rows], box.x_min, box.x_max)
        y = np.clip(sources.y[rows], box.y_min, box.y_max)
        scaled = self._scaled(x, y)
        known = np.isfinite(scaled.scale)
        report.kernel_scale[rows], report.aperture_fraction[rows] = scaled.scale, scaled.fraction
        report.flags[rows[~known]] |= int(Flag.PSF_COMPUTE_ERROR)
        report.messages.update(dict.fromkeys(rows[~known].tolist(), "the PSF cannot be evaluated at the image's edge"))
        core, meter = self.joined.core, width_meter(self.joined.core, box)
        for start in range(0, len(rows), _AT_ONCE):
            some = np.flatnonzero(known)[start : start + _AT_ONCE]
            if not some.size:
                break
            linear = isinstance(core, LinearPSF)
            coefficients = core.coefficients(x[some], y[some]) if isinstance(core, LinearPSF) else None
            kernels = None if linear else core.kernels(x[some], y[some])
            report.psf_fwhm[rows[some]] = meter(coefficients, kernels)

    def _add_wings(self, sources: Sources, near: NDArray[np.bool_], canvas: Canvas, report: RenderReport) -> None:
        drawn = ~near | (report.stamp_size > 0)
        drawn &= ~has_flag(report.flags, NOT_DRAWN) & np.isfinite(report.kernel_scale) & self._has_wings(sources)
        rows = np.flatnonzero(drawn)
        if not rows.size:
            return
        some = subset(sources, drawn)
        amplitude = some.flux * self._light_of_stamps(some) * report.kernel_scale[rows]
        amplitude = amplitude * self._amplitudes(some, near[rows])
        reach = self._reaches(some, amplitude)
        lit = np.isfinite(amplitude) & (amplitude != 0) & (reach > 0)
        owner, x, y, share = _points(some, 0.5 * self.wings.inner)
        blur, blurs = self._blurs(some)
        keep = lit[owner]
        owner, x, y, share = owner[keep], x[keep], y[keep], share[keep]
        # Sources that share a table together, else in order of injection id.
        order = np.argsort(blur[owner], kind="stable")
        owner, x, y, share = owner[order], x[order], y[order], share[order]
        painter = WingPainter(canvas, self.wings)
        landed, clipped = painter.add(x, y, amplitude[owner] * share, reach[owner], blur[owner], blurs)
        painter.finish()
        report.flux_deposited[rows] += np.bincount(owner, weights=landed, minlength=len(rows))
        cut = np.bincount(owner, weights=clipped, minlength=len(rows)) > 0
        report.flags[rows[cut]] |= int(Flag.TRUNCATED_BY_EDGE)
        sizes = 2 * np.ceil(reach + 0.5 * _lengths(some)).astype(np.int64) + 1
        report.stamp_size[rows[lit]] = np.maximum(report.stamp_size[rows[lit]], sizes[lit])

    def amplitudes(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the amplitude of the wings, per unit of the kernel, at the places of the image nearest to positions.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixels.

        Returns
        -------
        ndarray, shape (N,)
            Flux per square pixel; NaN where the PSF cannot be evaluated.
        """
        return self._scaled(x, y).amplitude

    def _amplitudes(self, sources: Sources, near: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Amplitude a at the places that the sources' kernels are taken from."""
        box = self._exposure.box
        x = np.where(near, sources.x, np.clip(sources.x, box.x_min, box.x_max))
        y = np.where(near, sources.y, np.clip(sources.y, box.y_min, box.y_max))
        found = np.zeros(len(x))
        for start in range(0, len(x), 4096 if isinstance(self.joined.core, LinearPSF) else _AT_ONCE):
            stop = start + (4096 if isinstance(self.joined.core, LinearPSF) else _AT_ONCE)
            found[start:stop] = self.joined.amplitudes(x[start:stop], y[start:stop])
        return found

    @staticmethod
    def _light_of_stamps(sources: Sources) -> NDArray[np.float64]:
        """Light per flux: that of stamps whose pixels are fluxes already is theirs."""
        from skygraft.render.stamp_placing import place_stamps

        ratio = np.ones(len(sources))
        rows = np.flatnonzero(sources.source_type == "Stamp")
        if rows.size:
            placed = place_stamps(sources, rows)
            for k, stamp in enumerate(placed.stamps):
                if not isinstance(stamp, Exception) and placed.own_flux[k]:
                    ratio[rows[k]] = stamp.total
        return ratio

    def _blurs(self, sources: Sources) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which sum of Gaussians stands for each source's own shape, 0 of points, and these sums."""
        kind = sources.source_type
        which, sums = np.zeros(len(sources), dtype=np.int64), [np.zeros((1, len(SIGMAS)))]
        cut = np.nan_to_num(np.asarray(sources.shape.get("trunc", np.zeros(len(sources))), dtype=np.float64)) != 0
        rows = np.flatnonzero(are_profiles(sources) & ~cut)
        if rows.size:
            parts = components(sources, rows, np.ones(len(rows)), 0, self._options.flux_tolerance)
            of, metric = parts.profiles, parts.profiles.metric
            size = (metric[:, 0] * metric[:, 2] - metric[:, 1] ** 2) ** -0.25
            fluxes = np.maximum(gaussian_fluxes(of.n, of.beta, of.nu), 0.0)
            widths = size[:, None] * WIDTHS
            gaussian = fluxes.sum(axis=1) < 0.5  # profiles of a small index are none
            fluxes[gaussian], widths[gaussian] = np.eye(1, len(WIDTHS)), size[gaussian, None] / _HALF_LIGHT
            each = blur_of(of.amplitude[:, None] * fluxes / fluxes.sum(axis=1, keepdims=True), widths)
            sums.append(np.zeros((len(rows), len(SIGMAS))))
            np.add.at(sums[1], parts.owner, each)
            which[rows] = 1 + np.arange(len(rows))
        radius = np.nan_to_num(np.asarray(sources.shape.get("half_light_radius", np.zeros(len(sources))), np.float64))
        others = np.flatnonzero(np.isin(kind, _BLURRED) & (which == 0) & (radius > 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            size = radius[others] / np.sqrt(np.abs(np.linalg.det(sources.jacobian[others])))
        sums.append(blur_of(np.ones((len(others), 1)), np.nan_to_num(size, posinf=0.0)[:, None] / _HALF_LIGHT))
        which[others] = 1 + len(rows) + np.arange(len(others))
        return which, np.concatenate(sums)


def _lengths(sources: Sources) -> NDArray[np.float64]:
    """Lengths of trails in pixels, shape (N,); 0 of what does not move."""
    lengths = np.zeros(len(sources))
    rows = np.flatnonzero(are_trailed(sources) | (sources.source_type == "Trail"))
    if rows.size:
        lengths[rows] = np.nan_to_num(np.hypot(*trail_extents(sources, rows).T))
    return np.minimum(lengths, MAX_TRAIL)


def _points(
    sources: Sources, spacing: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Points whose wings make up those of the sources: which source, x, y, and part of its light.

    A trail is a row of points no further apart than `spacing` pixels.
    """
    lengths = _lengths(sources)
    number = np.maximum(1, np.ceil(lengths / spacing)).astype(np.int64)
    owner = np.repeat(np.arange(len(sources)), number)
    if not (lengths > 0).any():
        return owner, sources.x.copy(), sources.y.copy(), np.ones(len(owner))
    extent = np.zeros((len(sources), 2))
    rows = np.flatnonzero(lengths > 0)
    extent[rows] = trail_extents(sources, rows)
    first = np.cumsum(number) - number
    along = (np.arange(len(owner)) - first[owner] + 0.5) / number[owner] - 0.5
    x, y = sources.x[owner] + along * extent[owner, 0], sources.y[owner] + along * extent[owner, 1]
    return owner, x, y, 1.0 / number[owner]


def winged_image(
    exposure: Exposure, options: InjectionOptions, reference: CalibrationReference | None, radius: float | None
) -> WingedImage | None:
    """Make the `WingedImage` of an image; None without wings, or without a PSF.

    Parameters
    ----------
    exposure, options, reference, radius
        As for `WingedImage`.

    Returns
    -------
    WingedImage or None
    """
    if options.wings is None or exposure.psf is None:
        return None
    return WingedImage(exposure, options, reference, radius)


def describe_wings(record: Mapping[str, Any]) -> str:
    """Put what `WingedImage.describe` gives into words.

    Parameters
    ----------
    record : mapping
        What it gave.

    Returns
    -------
    str
    """
    shape = {"moffat": "Moffat", "power_law": "power law", "profile": "measured profile"}[record["model"]]
    numbers = ", ".join(f"{name} {record[name]:g}" for name in ("alpha", "beta") if name in record)
    end = "" if record["outer_pixels"] is None else f" to {record['outer_pixels']:.4g}"
    what = {"calibrated": "the calibrated flux", "total": "the total flux"}[record["flux"]]
    return f"{shape}{' ' + numbers if numbers else ''} from {record['join_pixels']:.4g} pixels on{end}; {what} is kept"
