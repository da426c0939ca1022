"""Inject sources into one exposure: a pure function, no files, no Dask.

The order of things: place the sources on the image, turn magnitudes into image flux, scale the PSF at each place to
what the image's calibration is the flux of, draw, add with photon noise, mark the mask, and report every source.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import astropy.units as u
import numpy as np
import xarray as xr
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog import Flag, band_column, bands_of, count_flags, normalize_catalog, positions_at, values
from skygraft.catalog.schema import strings
from skygraft.errors import ConfigError, InjectionError, SkygraftError, UncalibratedImageError
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure, add_mask_plane
from skygraft.noise import Gain, add_flux, estimate_gain
from skygraft.photometry import (
    FLUX_MODES,
    CalibrationAperture,
    CalibrationReference,
    PhotoCalib,
    kernel_holds_aperture,
    kernel_scale,
    parse_radius,
    require_reference,
)
from skygraft.psf import PSF
from skygraft.render import SHAPE_COLUMNS, Canvas, RenderReport, Sources, reach_pixels, render
from skygraft.wcs import local_jacobian, pixel_scale

__all__ = ["Injection", "InjectionOptions", "inject"]

_CORE = 1
"""Half-width of the INJECTED_CORE square: 3 x 3 pixels."""
_UNFIT_PLANES = (
    "BAD",
    "SAT",
    "CR",
    "NO_DATA",
    "INTRP",
    "SUSPECT",
    "EDGE",
    "UNMASKEDNAN",
    "STREAK",
    "SATURATED",
)


@dataclass(frozen=True)
class InjectionOptions:
    """How to inject.

    Parameters
    ----------
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        What a source's flux is the flux of: the image's own calibration reference (default), the flux inside
        `aperture`, the sum of the PSF kernel, or everything in an infinite plane.
    aperture : str or mapping, optional
        For ``flux_mode="aperture"`` alone: ``"12 pix"``, ``"2 arcsec"`` or ``{"diameter": "4 arcsec"}``.
    position : {"source", "image"}
        Where the PSF is normalised: at each source, or for all of them at the position that the PSF model names as
        its average (the image's centre where it names none).
    noise : bool
        Add the photon noise of the sources, and its variance.
    seed : int
        Campaign seed of the noise.
    gain : float, optional
        Electrons per image unit; None takes the image's own, or the slope of its variance against its flux.
    flux_tolerance : float
        Part of a source's flux that its stamp may leave out.
    mask_threshold : float
        INJECTED marks pixels changed by more than this fraction of their noise (standard deviation).
    stars : {"fourier", "taps", "galsim"}
        How stars are moved by fractions of a pixel: exactly; fast, at a cost of up to 1e-3 of their flux in images
        sampled at less than 3 pixels per FWHM; or by GalSim.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed.
    """

    flux_mode: Literal["calibrated", "aperture", "psf_sum", "total"] = "calibrated"
    aperture: Any = None
    position: Literal["source", "image"] = "source"
    noise: bool = True
    seed: int = 0
    gain: float | None = None
    flux_tolerance: float = 1e-3
    mask_threshold: float = 0.1
    stars: Literal["fourier", "taps", "galsim"] = "fourier"

    def __post_init__(self) -> None:
        _one_of("flux_mode", self.flux_mode, FLUX_MODES)
        _one_of("position", self.position, ("source", "image"))
        _one_of("stars", self.stars, ("fourier", "taps", "galsim"))
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ConfigError(
                f"flux_mode is {self.flux_mode!r} and aperture is {self.aperture!r}",
                key="aperture",
                fix="Give an aperture with flux_mode 'aperture', and only then; to say what aperture an image was "
                "calibrated in, give it when the image is read",
            )
        if not 0 < self.flux_tolerance < 0.5:
            raise ConfigError(f"{self.flux_tolerance!r} is not between 0 and 0.5", key="flux_tolerance")
        if not (np.isfinite(self.mask_threshold) and self.mask_threshold >= 0):
            raise ConfigError(f"{self.mask_threshold!r} is not a number of at least 0", key="mask_threshold")
        if self.gain is not None and not (np.isfinite(self.gain) and self.gain > 0):
            raise ConfigError(f"{self.gain!r} is not a positive number of electrons per image unit", key="gain")

    @classmethod
    def from_kwargs(cls, base: InjectionOptions | None = None, **changes: Any) -> InjectionOptions:
        """Options with some changed; an unknown name is an error that names the nearest known one."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"unknown injection option {name!r}; known are {', '.join(known)}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        return dataclasses.replace(base or cls(), **changes)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(allowed)}",
            key=name,
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )


@dataclass(frozen=True, eq=False)
class Injection:
    """What `inject` returns.

    Parameters
    ----------
    exposure : Exposure
        The exposure with new planes; the one given is unchanged.
    truth : QTable
        One row per source given, in order of injection id: injection_id, image_id, ra, dec (deg), x, y (pixel, parent
        frame), source_type, band, mag, inst_flux (image units, what the calibration says), flux_deposited (image
        units, noise-free, what landed on the image), aperture_fraction, kernel_scale, psf_fwhm (arcsec), stamp_size
        (pixel), flags (`skygraft.catalog.flags.Flag`).
    summary : dict
        What goes into the record: counts, flux mode, calibration, gain, seed.
    """

    exposure: Exposure
    truth: QTable
    summary: dict[str, Any]


def inject(
    exposure: Exposure,
    catalog: Table,
    *,
    options: InjectionOptions | None = None,
    image_id: str | None = None,
    band: str | None = None,
    progress: Callable[[int], None] | None = None,
    **overrides: Any,
) -> Injection:
    """Inject the sources of a catalogue into an exposure.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    catalog : Table
        Sources, canonical or in a dialect that `skygraft.catalog.normalize_catalog` recognises. Sources off the image
        are allowed: they are flagged, and those whose light reaches the image are drawn.
    options : InjectionOptions, optional
        How to inject.
    image_id : str, optional
        Name of the image in truth and random streams; the exposure's data id by default.
    band : str, optional
        Whose magnitudes to use; the exposure's band by default.
    progress : callable, optional
        Called with the number of sources drawn since the last call.
    **overrides
        Fields of `InjectionOptions` to change, for example ``noise=False, seed=1``.

    Returns
    -------
    Injection

    Raises
    ------
    UnknownApertureError
        If nothing says what the image's calibrated flux is the flux of, and `flux_mode` is ``"calibrated"``.
    UncalibratedImageError
        If the image has no zeropoint.
    CalibrationError
        If noise is wanted and there is no gain to be had.
    CatalogError
        If a row cannot be used, or the catalogue has no magnitude for the image's band.
    InjectionError
        If the image has no PSF and the catalogue's sources need one.

    Notes
    -----
    A galaxy is scaled like a star of its magnitude, as the field does: its flux before convolution is F / A(r), with A
    the part of the PSF inside the calibration aperture.
    """
    opts = InjectionOptions.from_kwargs(options, **overrides)
    name = str(exposure.data_id) if image_id is None else image_id
    photo_calib = _photo_calib(exposure)
    reference = (
        require_reference(photo_calib, exposure.path) if opts.flux_mode == "calibrated" else photo_calib.reference
    )
    band = band or exposure.data_id.band
    table = _canonical(catalog, band)
    truth, sources, rows = _place(exposure, table, photo_calib, band, name)
    _require_psf(exposure, sources)
    radius = _aperture_radius(exposure, opts)
    normalisation = _Normalisation(exposure, opts, reference, radius)
    drawn = _within_reach(exposure, sources, opts.flux_tolerance)
    gain = _gain(exposure, opts) if opts.noise and drawn.any() else None

    canvas = Canvas.empty(exposure.shape, exposure.xy0)
    report = render(
        _subset(sources, drawn),
        exposure.psf,
        canvas,
        exposure.box,
        normalisation,
        flux_tolerance=opts.flux_tolerance,
        stars=opts.stars,
        progress=progress,
    )
    planes = _new_planes(exposure, copy_variance=gain is not None)
    _mark(planes, canvas, exposure, sources, drawn, report, opts.mask_threshold)
    variance = planes["variance"].values if gain is not None and "variance" in planes else None
    add_flux(
        planes["image"].values,
        variance,
        canvas.model,
        gain=gain,
        seed=opts.seed,
        image_id=name,
        xy0=exposure.xy0,
    )
    _flag_small_kernel(exposure, reference if opts.flux_mode == "calibrated" else None, radius, report)
    _report_into(truth, rows[drawn], report, exposure)
    truth["flags"][rows[~drawn]] |= int(Flag.NO_OVERLAP)
    summary = _summary(name, opts, photo_calib, reference, gain, truth, report, sources.injection_id[drawn], band)
    return Injection(exposure.replace(planes=planes), truth, summary)


def _photo_calib(exposure: Exposure) -> PhotoCalib:
    if exposure.photo_calib is None:
        reason = exposure.extra.get(NO_PHOTO_CALIB)
        if isinstance(reason, SkygraftError):
            raise reason
        raise UncalibratedImageError(
            "the image carries no zeropoint",
            path=exposure.path,
            fix="Calibrate it, or give its zeropoint (photo_calib=, --zeropoint, survey: calibration: zeropoint)",
        )
    return exposure.photo_calib


def _canonical(catalog: Table, band: str | None) -> QTable:
    """The catalogue in canonical form; one that was read or normalised before has its flags already."""
    if "flags" in catalog.colnames and "source_type" in catalog.colnames:
        return catalog
    return normalize_catalog(catalog, band=band)


def _place(
    exposure: Exposure, table: QTable, photo_calib: PhotoCalib, band: str | None, image_id: str
) -> tuple[QTable, Sources, NDArray[np.intp]]:
    """Start the truth table, and place the usable sources; the last are their rows in it."""
    table = table[np.argsort(values(table, "injection_id"), kind="stable")]
    mag = band_column(table, band)
    ra, dec = positions_at(table, exposure.visit_info.mjd)
    x, y = (np.asarray(v, dtype=float) for v in exposure.wcs.world_to_pixel_values(ra, dec))
    n = len(table)
    flags = values(table, "flags")
    flags[~np.isfinite(mag)] |= int(Flag.MAG_BAD)
    flags[~(np.isfinite(x) & np.isfinite(y))] |= int(Flag.WCS_FAILED | Flag.NO_OVERLAP)
    if exposure.data_id.visit is not None:
        visit = values(table, "visit")
        flags[(visit >= 0) & (visit != exposure.data_id.visit)] |= int(Flag.NO_OVERLAP)
    inst_flux = np.full(n, np.nan)
    rows = np.flatnonzero(flags == 0)
    if rows.size:
        inst_flux[rows] = photo_calib.inst_flux(mag[rows], x[rows], y[rows])
        flags[rows[~np.isfinite(inst_flux[rows])]] |= int(Flag.MAG_BAD)
        rows = np.flatnonzero(flags == 0)
    inst_flux[rows] *= _magnitude_lengths(table)[rows]
    sources = Sources(
        values(table, "injection_id")[rows],
        strings(table, "source_type")[rows],
        x[rows],
        y[rows],
        inst_flux[rows],
        local_jacobian(exposure.wcs, x[rows], y[rows]) if rows.size else np.empty((0, 2, 2)),
        {name: values(table, name)[rows] for name in SHAPE_COLUMNS if name in table.colnames},
    )
    truth = QTable(
        {
            "injection_id": values(table, "injection_id"),
            "image_id": np.full(n, image_id),
            "ra": np.asarray(ra, dtype=float) * u.deg,
            "dec": np.asarray(dec, dtype=float) * u.deg,
            "x": x,
            "y": y,
            "source_type": strings(table, "source_type"),
            "band": np.full(n, band or next(iter(bands_of(table)), "")),
            "mag": mag,
            "inst_flux": inst_flux,
            "flux_deposited": np.zeros(n),
            "aperture_fraction": np.full(n, np.nan),
            "kernel_scale": np.full(n, np.nan),
            "psf_fwhm": np.full(n, np.nan) * u.arcsec,
            "stamp_size": np.zeros(n, dtype=np.int64),
            "flags": flags,
        }
    )
    truth.meta["image_units"] = str(exposure.planes["image"].attrs.get("units", ""))
    return truth, sources, rows


def _magnitude_lengths(table: QTable) -> NDArray[np.float64]:
    """What turns the flux of a magnitude into a total: the length in pixels of trails that say it per pixel, else 1."""
    length = values(table, "trail_length_pix")
    per_pixel = values(table, "mag_per_pixel") & (strings(table, "source_type") == "Trail") & np.isfinite(length)
    return np.where(per_pixel, length, 1.0)


def _subset(sources: Sources, keep: NDArray[np.bool_]) -> Sources:
    arrays = {f.name: getattr(sources, f.name)[keep] for f in dataclasses.fields(Sources) if f.name != "shape"}
    return Sources(**arrays, shape={name: column[keep] for name, column in sources.shape.items()})


def _within_reach(exposure: Exposure, sources: Sources, flux_tolerance: float) -> NDArray[np.bool_]:
    """Whose light reaches the image: those whose stamp overlaps it."""
    box = exposure.box
    kernel = max(exposure.psf.shape) // 2 + 1 if exposure.psf is not None else 1
    distance = np.maximum(
        np.maximum(box.x_min - sources.x, sources.x - box.x_max),
        np.maximum(box.y_min - sources.y, sources.y - box.y_max),
    )
    near = distance < kernel
    for i in np.flatnonzero(~near):
        if sources.source_type[i] != "Star":
            near[i] = distance[i] < kernel + reach_pixels(sources, int(i), flux_tolerance)
    return near


def _require_psf(exposure: Exposure, sources: Sources) -> None:
    if exposure.psf is not None or len(sources) == 0:
        return
    needs = [
        i for i in range(len(sources)) if sources.source_type[i] != "Stamp" or sources.text("stamp_psf", i) != "none"
    ]
    if needs:
        reason = exposure.extra.get(NO_PSF)
        if isinstance(reason, SkygraftError):
            raise reason
        raise InjectionError(
            f"the image has no PSF, and {len(needs)} of {len(sources)} sources need one",
            path=exposure.path,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        )


class _Normalisation:
    """What each kernel is multiplied by; see `skygraft.photometry.kernel_scale`."""

    def __init__(
        self,
        exposure: Exposure,
        options: InjectionOptions,
        reference: CalibrationReference | None,
        radius: float | None,
    ) -> None:
        self._psf = exposure.psf
        self._mode, self._reference, self._radius = options.flux_mode, reference, radius
        self._fixed: tuple[float, float] | None = None
        if options.position == "image" and self._psf is not None:
            box = exposure.box
            place = self._psf.average_position or (0.5 * (box.x_min + box.x_max), 0.5 * (box.y_min + box.y_max))
            x, y = np.array([place[0]]), np.array([place[1]])
            scale, fraction = self._at(self._psf, self._psf.kernels(x, y), x, y)
            self._fixed = float(scale[0]), float(fraction[0])

    def _at(
        self, psf: PSF, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = kernel_scale(self._mode, self._reference, kernels, psf.flux_outside(x, y), radius=self._radius)
        return scale.scale, scale.aperture_fraction

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._psf is None:
            return np.ones(len(x)), np.full(len(x), np.nan)
        if self._fixed is not None:
            return np.full(len(x), self._fixed[0]), np.full(len(x), self._fixed[1])
        return self._at(self._psf, kernels, x, y)


def _aperture_radius(exposure: Exposure, options: InjectionOptions) -> float | None:
    """Radius in pixels of ``flux_mode="aperture"``; None in the other modes."""
    if options.aperture is None:
        return None
    candidate = parse_radius(options.aperture)
    if candidate.radius_pixels is not None:
        return candidate.radius_pixels
    if candidate.radius_arcsec is None:
        raise ConfigError(
            f"{options.aperture!r} is not a radius",
            key="aperture",
            fix="Give, for example, '12 pix' or '2 arcsec'",
        )
    box = exposure.box
    centre = np.array([0.5 * (box.x_min + box.x_max)]), np.array([0.5 * (box.y_min + box.y_max)])
    return candidate.radius_arcsec / float(pixel_scale(exposure.wcs, *centre)[0])


def _flag_small_kernel(
    exposure: Exposure, reference: CalibrationReference | None, radius: float | None, report: RenderReport
) -> None:
    """Flag every source whose aperture flux is of a kernel that does not fill the aperture."""
    if isinstance(reference, CalibrationAperture):
        radius = reference.radius_pixels
    if radius is not None and exposure.psf is not None and not kernel_holds_aperture(exposure.psf.shape, radius):
        report.flags[np.isfinite(report.aperture_fraction)] |= int(Flag.KERNEL_SMALLER_THAN_APERTURE)


def _gain(exposure: Exposure, options: InjectionOptions) -> Gain:
    if options.gain is not None:
        return Gain(options.gain, "given")
    if exposure.gain is not None:
        return Gain(exposure.gain, exposure.gain_origin or "recorded in the image")
    bits = sum(v for n, v in exposure.mask_planes.items() if n in _UNFIT_PLANES)
    return estimate_gain(exposure.image, exposure.variance, (exposure.mask & bits) == 0)


def _new_planes(exposure: Exposure, *, copy_variance: bool) -> xr.Dataset:
    """The exposure's planes, copied where injection writes to them."""
    planes = exposure.planes.copy(deep=False)
    for name in ("image", "mask", *(("variance",) if copy_variance and "variance" in planes else ())):
        old = planes[name]
        planes[name] = (old.dims, old.values.copy(), dict(old.attrs))
    return planes


def _mark(
    planes: xr.Dataset,
    canvas: Canvas,
    exposure: Exposure,
    sources: Sources,
    drawn: NDArray[np.bool_],
    report: RenderReport,
    threshold: float,
) -> None:
    """Set INJECTED where the model stands out of the noise, and INJECTED_CORE on 3 x 3 pixels at each source drawn."""
    injected = np.int32(1 << add_mask_plane(planes, "INJECTED"))
    core = np.int32(1 << add_mask_plane(planes, "INJECTED_CORE"))
    mask = planes["mask"].values
    touched = np.flatnonzero(canvas.model)
    model = np.abs(canvas.model.ravel()[touched])
    if exposure.variance is not None:
        variance = exposure.variance.ravel()[touched]
        sigma = np.sqrt(np.where(np.isfinite(variance) & (variance > 0), variance, 0.0))
    else:
        sigma = np.full(touched.size, _image_sigma(exposure.image))
    mask.ravel()[touched[model > threshold * sigma]] |= injected
    on_canvas = report.stamp_size > 0
    ny, nx = mask.shape
    for x, y in zip(sources.x[drawn][on_canvas], sources.y[drawn][on_canvas], strict=True):
        i, j = round(x) - canvas.x0, round(y) - canvas.y0
        j0, i0 = max(0, j - _CORE), max(0, i - _CORE)
        if j + _CORE >= 0 and i + _CORE >= 0 and j0 < ny and i0 < nx:
            mask[j0 : j + _CORE + 1, i0 : i + _CORE + 1] |= core


def _image_sigma(image: NDArray[np.float32]) -> float:
    """Robust standard deviation of an image without a variance plane."""
    sample = image.ravel()[:: max(1, image.size // 200_000)]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(sample - np.median(sample))))


def _report_into(truth: QTable, rows: NDArray[np.intp], report: RenderReport, exposure: Exposure) -> None:
    for name in ("flux_deposited", "aperture_fraction", "kernel_scale", "stamp_size"):
        truth[name][rows] = getattr(report, name)
    truth["flags"][rows] |= report.flags
    if rows.size:
        scale = pixel_scale(exposure.wcs, truth["x"][rows], truth["y"][rows])
        truth["psf_fwhm"][rows] = report.psf_fwhm * scale * u.arcsec


def _summary(
    image_id: str,
    options: InjectionOptions,
    photo_calib: PhotoCalib,
    reference: CalibrationReference | None,
    gain: Gain | None,
    truth: QTable,
    report: RenderReport,
    drawn_ids: NDArray[np.int64],
    band: str | None,
) -> dict[str, Any]:
    calibration: dict[str, Any] = {"kind": None, "radius_pixels": None, "radius_arcsec": None}
    if isinstance(reference, CalibrationAperture):
        calibration = {
            "kind": "aperture",
            "radius_pixels": reference.radius_pixels,
            "radius_arcsec": reference.radius_arcsec,
        }
    elif reference is not None:
        calibration["kind"] = reference.value
    calibration["origin"] = photo_calib.reference_origin
    fraction = report.aperture_fraction[np.isfinite(report.aperture_fraction)]
    return {
        "image_id": image_id,
        "band": band,
        "n_sources": len(truth),
        "n_drawn": int((report.stamp_size > 0).sum()),
        "flux_mode": options.flux_mode,
        "aperture": options.aperture,
        "calibration": calibration,
        "aperture_method": "sinc",
        "correction_position": options.position,
        "aperture_fraction_median": float(np.median(fraction)) if fraction.size else None,
        "noise": options.noise,
        "seed": options.seed,
        "gain": None if gain is None else gain.median,
        "gain_origin": None if gain is None else gain.origin,
        "flux_tolerance": options.flux_tolerance,
        "flags": count_flags(truth["flags"]),
        "messages": [f"injection_id {drawn_ids[i]}: {text}" for i, text in sorted(report.messages.items())][:20],
    }
