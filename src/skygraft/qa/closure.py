"""Closure: compare magnitudes measured on the difference of injected image and original with the injected magnitudes.

A star of magnitude m closes if its flux inside the calibration aperture, measured on the difference, is that of
magnitude m in the image's own calibration. The only noise in the difference is the source's own photon noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import ArrayLike, NDArray
from scipy import signal

from skygraft.catalog.flags import Flag, has_flag
from skygraft.conventions import LSST
from skygraft.errors import CalibrationError, ConfigError
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions, inject
from skygraft.injection.coadd_noise import image_noise
from skygraft.injection.roles import Role
from skygraft.jit import compiled
from skygraft.noise import NoiseCorrelation
from skygraft.photometry import aperture_flux, enclosed_flux, parse_radius, require_reference
from skygraft.qa.wing_light import core_sizes, light_of_wings
from skygraft.wcs import pixel_scale

__all__ = ["ClosureSummary", "Verdict", "isolated", "measure_closure", "summarize_closure"]

type Verdict = Literal["closes", "does not close", "too few stars", "no isolated star"]

_MAGNITUDE = 2.5 / np.log(10.0)
_KERNELS_AT_ONCE = 200
_MOST_CELLS = 2000
"""Cells along an axis in which neighbours are looked for."""

TOLERANCE = 1e-3
"""Median residual, mag, up to which a band closes whatever its error."""
RESOLUTION = 0.025
"""Closure is significant if four standard errors of the median are below this, mag.

A wrong or ignored aperture radius causes an offset of 0.01 to 0.08 mag, which must be detectable.
"""


def measure_closure(
    before: Exposure,
    after: Exposure,
    truth: Table,
    *,
    aperture: Any = None,
    catalog: Table | None = None,
    options: InjectionOptions | None = None,
    contamination: float = 1e-3,
    noise: bool | None = None,
    gain: float | NDArray[np.float32] | None = None,
    difference: NDArray[np.float32] | None = None,
    most: int | None = None,
    light_curves: Any = None,
    role: Role = "auto",
) -> QTable:
    """Measure injected stars inside the calibration aperture on ``after - before``.

    Parameters
    ----------
    before, after : Exposure
        The image without and with the sources.
    truth : Table
        Truth table of the image, from `skygraft.inject`.
    aperture : str or mapping, optional
        Radius to measure in (``"12 pix"``), if the image is not calibrated to an aperture.
    catalog : Table, optional
        The injected sources. If given, those that are not stars are drawn without noise and subtracted from the
        difference first, because their wings reach far and would leave few isolated stars.
    options : InjectionOptions, optional
        Options of the injection; needed with `catalog` if they were not the defaults.
    contamination : float
        Largest flux of (other) neighbours in a star's aperture, as a fraction of its own; see `isolated`.
    noise : bool, optional
        Whether photon noise was added; by default, whether the variance planes differ.
    gain : float or ndarray of shape (ny, nx), optional
        Electrons per image unit, for the expected scatter; by default from the variance that injection added, which
        is flux / gain.
    difference : ndarray of float32, shape (ny, nx), optional
        ``after - before`` without the light of sources that are not stars, if the caller has it; `catalog` is then not
        needed.
    most : int, optional
        Largest number of stars to measure: the brightest.
    light_curves, role : optional
        As they were given to `skygraft.inject`; needed with `catalog`.

    Returns
    -------
    QTable
        One row per isolated star whose aperture is inside the image: injection_id, image_id, band, x, y, mag_in,
        flux_in and flux_out (image units, in the aperture), mag_out, residual (mag_out - mag_in), sigma (expected
        standard deviation of the residual; 0 without noise), psf_sum_residual (noise-free residual that a PSF kernel
        scaled to unit sum would give; NaN if the image has no PSF). ``meta`` has radius_pixels, radius_arcsec, origin,
        and the numbers of stars drawn, isolated and measured.

    Raises
    ------
    UncalibratedImageError, UnknownApertureError
        If the image is not calibrated, or its calibration aperture is unknown and none is given.
    CalibrationError
        If the image is calibrated to something else than an aperture, and no aperture is given.
    ConfigError
        If the exposures do not cover the same pixels.

    Notes
    -----
    Aperture fluxes are measured on the difference in double precision, by sinc photometry (Bickerton & Lupton 2013).
    """
    if before.shape != after.shape or before.xy0 != after.xy0:
        raise ConfigError(
            f"the two exposures cover different pixels: {before.shape} from {before.xy0}, "
            f"{after.shape} from {after.xy0}",
            fix="Give the image that the sources were injected into, and the result",
        )
    radius, arcsec, origin = _radius(before, aperture)
    drawn = np.asarray(truth["stamp_size"]) > 0
    # Stars in the template of a difference image do not have their calibrated flux in the image.
    whole = ~has_flag(truth["flags"], Flag.IN_TEMPLATE)
    star = drawn & whole & (np.asarray(truth["source_type"]).astype(str) == "Star")
    stars_only = catalog is not None or difference is not None
    how = options or InjectionOptions()
    sizes = np.asarray(getattr(truth["stamp_size"], "value", truth["stamp_size"]))
    # The wings of other stars are subtracted: only their cores count as neighbours.
    sizes = np.where(star, core_sizes(before, how, sizes), sizes)
    reach = np.where(star | (not stars_only), sizes, 0)
    pixels: NDArray[Any] | None = difference
    if pixels is None:
        pixels = after.image.astype(np.float64) - before.image.astype(np.float64)
        if catalog is not None:
            pixels -= _model(before, catalog, truth, drawn & ~star, options, light_curves, role)
    alone = isolated(truth["x"], truth["y"], truth["inst_flux"], reach, radius, contamination=contamination)
    rows = np.flatnonzero(star & alone)
    if most is not None and rows.size > most:
        rows = np.sort(rows[np.argsort(-_plain(truth["inst_flux"])[rows], kind="stable")][:most])
    x, y = _plain(truth["x"])[rows], _plain(truth["y"])[rows]
    flux = aperture_flux(pixels, x, y, radius, xy0=before.xy0) if rows.size else np.zeros(0)
    flux = flux - light_of_wings(before, how, truth, star, rows, radius)
    measured = np.isfinite(flux) & (flux > 0)
    rows, x, y, flux = rows[measured], x[measured], y[measured], flux[measured]
    calib = before.photo_calib
    assert calib is not None
    # Relative to the expected flux: with the measured flux, stars that fluctuated upwards would seem less noisy.
    flux_in = _plain(truth["inst_flux"])[rows]
    correlation = None
    if gain is None:
        correlation = image_noise(before, "white" if how.conventions == LSST else how.coadd_noise).correlation
    sigma = _expected_flux_error(before, after, x, y, flux_in, radius, noise, gain, correlation)
    mag_in, mag_out = _plain(truth["mag"])[rows], calib.magnitude(flux, x, y)
    table = QTable(
        {
            "injection_id": np.asarray(truth["injection_id"])[rows],
            "image_id": np.asarray(truth["image_id"]).astype(str)[rows],
            "band": np.asarray(truth["band"]).astype(str)[rows],
            "x": x,
            "y": y,
            "mag_in": mag_in,
            "flux_in": flux_in,
            "flux_out": flux,
            "mag_out": mag_out,
            "residual": mag_out - mag_in,
            "sigma": _MAGNITUDE * sigma / flux_in,
            "psf_sum_residual": _psf_sum_residual(before, x, y, radius),
        }
    )
    table.meta |= {
        "radius_pixels": radius,
        "radius_arcsec": arcsec,
        "origin": origin,
        "n_stars": int(star.sum()),
        "n_isolated": int((star & alone).sum()),
        "n_measured": len(table),
    }
    return table


def _psf_sum_residual(
    exposure: Exposure, x: NDArray[np.float64], y: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Return the residual, mag, of stars with a unit-sum kernel, of whose flux a fraction A(r) / S is in the aperture.

    It is computed from the PSF at each star, because the truth table refers to the calibration aperture only.
    """
    if exposure.psf is None:
        return np.full(len(x), np.nan)
    found = np.empty(len(x))
    for start in range(0, len(x), _KERNELS_AT_ONCE):
        some = slice(start, start + _KERNELS_AT_ONCE)
        kernels = exposure.psf.kernels(x[some], y[some])
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = enclosed_flux(kernels, radius) / kernels.sum(axis=(1, 2), dtype=np.float64)
            found[some] = -2.5 * np.log10(np.where(fraction > 0, fraction, np.nan))
    return found


def _model(
    before: Exposure,
    catalog: Table,
    truth: Table,
    which: NDArray[np.bool_],
    options: InjectionOptions | None,
    light_curves: Any,
    role: Role,
) -> NDArray[np.float64]:
    """Return the noise-free image of some of the injected sources."""
    ids = np.asarray(truth["injection_id"])[which]
    table = catalog[np.isin(np.asarray(catalog["injection_id"]), ids)]
    if not len(table):
        return np.zeros(before.shape)
    bands = np.unique(np.asarray(truth["band"]).astype(str))
    again = inject(
        before,
        table,
        options=options,
        noise=False,
        variance=None,
        band=str(bands[0]) or None,
        light_curves=light_curves,
        role=role,
    )
    return np.asarray(again.exposure.image.astype(np.float64) - before.image.astype(np.float64))


def _radius(exposure: Exposure, aperture: Any) -> tuple[float, float, str]:
    """Return the radius to measure in (pixels, arcsec) and its origin."""
    if exposure.photo_calib is None:
        raise CalibrationError(
            "the image is not calibrated", path=exposure.path, fix="Give its zeropoint when it is read (photo_calib=)"
        )
    scale = float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])
    if aperture is not None:
        candidate = parse_radius(aperture)
        if candidate.radius_pixels is not None:
            return candidate.radius_pixels, candidate.radius_pixels * scale, "given"
        if candidate.radius_arcsec is not None:
            return candidate.radius_arcsec / scale, candidate.radius_arcsec, "given"
        raise ConfigError(f"{aperture!r} is not a radius", key="aperture", fix="Give for example '12 pix'")
    reference = require_reference(exposure.photo_calib, exposure.path)
    found = exposure.photo_calib.aperture
    if found is None:
        raise CalibrationError(
            f"the image's calibrated flux is that of '{reference}', not of an aperture",
            path=exposure.path,
            fix="Give a radius to measure in (aperture='12 pix'); the residuals then include the light outside",
        )
    return (
        found.radius_pixels,
        found.radius_arcsec or found.radius_pixels * scale,
        exposure.photo_calib.reference_origin,
    )


def isolated(
    x: ArrayLike, y: ArrayLike, flux: ArrayLike, stamp_size: ArrayLike, radius: float, *, contamination: float
) -> NDArray[np.bool_]:
    """Return which sources have (almost) no light of other injected sources in their aperture.

    Parameters
    ----------
    x, y, flux : array_like, shape (N,)
        Positions in pixels, and fluxes, of all injected sources.
    stamp_size : array_like of int, shape (N,)
        Side of each stamp in pixels, outside which the source is zero; 0 if it was not drawn.
    radius : float
        Radius of the aperture, pixels.
    contamination : float
        Largest sum of the neighbours' flux in the aperture, as a fraction of the source's own.

    Returns
    -------
    ndarray of bool, shape (N,)

    Notes
    -----
    A neighbour of flux F_j at distance d contributes nothing if its stamp does not reach the aperture, and otherwise at
    most F_j r^2 / (d - r)^2: since its brightness decreases outward, its mean over the aperture is at most its mean
    over the disc of radius d - r around it. For a neighbour within 2 r the bound is all of its flux.
    """
    position = np.stack([_plain(x), _plain(y)], axis=1)
    total, size = np.abs(_plain(flux)), _plain(stamp_size)
    keep = (size > 0) & np.isfinite(position).all(axis=1) & np.isfinite(total)
    result = np.zeros(len(position), dtype=bool)
    if not keep.any():
        return result
    total, half = total[keep], size[keep] / 2
    # Cells so large that a stamp that can reach an aperture is in the same one or in one beside it; in each the
    # brightest come first, because one neighbour tells as well as thousands that a source is not alone.
    place = position[keep] - position[keep].min(axis=0)
    extent = place.max(axis=0)
    cell = max(float(half.max()) + radius + 1.0, float(extent.max()) / _MOST_CELLS)
    columns = int(extent[0] / cell) + 1
    cells = (place[:, 1] / cell).astype(np.int64) * columns + (place[:, 0] / cell).astype(np.int64)
    order = np.lexsort((-total, cells))
    starts = np.searchsorted(cells[order], np.arange(columns * (int(extent[1] / cell) + 1) + 1))
    xs, ys, fluxes, halves = (np.ascontiguousarray(v[order]) for v in (place[:, 0], place[:, 1], total, half))
    alone = np.empty(len(order), dtype=np.bool_)
    alone[order] = _alone(xs, ys, fluxes, halves, starts, columns, cell, radius, contamination)
    result[keep] = alone
    return result


@compiled
def _alone(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    total: NDArray[np.float64],
    half: NDArray[np.float64],
    starts: NDArray[np.int64],
    columns: int,
    cell: float,
    radius: float,
    contamination: float,
) -> NDArray[np.bool_]:  # pragma: no cover - compiled
    """Find the sources with little light of others in their aperture; they are sorted by cell, of `starts`."""
    rows = (starts.size - 1) // columns
    alone = np.ones(x.size, np.bool_)
    for i in range(x.size):
        column, row, burden = int(x[i] / cell), int(y[i] / cell), 0.0
        for near_row in range(max(0, row - 1), min(rows, row + 2)):
            for near in range(near_row * columns + max(0, column - 1), near_row * columns + min(columns, column + 2)):
                if not alone[i]:
                    break
                for j in range(starts[near], starts[near + 1]):
                    dx, dy, reach = abs(x[j] - x[i]), abs(y[j] - y[i]), half[j] + radius + 1
                    distance = np.hypot(dx, dy)
                    if j == i or dx >= reach or dy >= reach or distance > half[j] * np.sqrt(2.0) + radius:
                        continue
                    burden += total[j] * min(1.0, (radius / max(distance - radius, radius)) ** 2)
                    if burden > contamination * total[i]:
                        alone[i] = False
                        break
    return alone


def _expected_flux_error(
    before: Exposure,
    after: Exposure,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    radius: float,
    noise: bool | None,
    gain: float | NDArray[np.float32] | None,
    correlation: NoiseCorrelation | None,
) -> NDArray[np.float64]:
    """Return the standard deviation of the aperture flux due to the photon noise that injection added."""
    if isinstance(gain, np.ndarray):
        (x0, y0), (ny, nx) = before.xy0, before.shape
        at = np.clip(np.rint(y).astype(int) - y0, 0, ny - 1), np.clip(np.rint(x).astype(int) - x0, 0, nx - 1)
        gain = gain[at]
    if not len(x) or noise is False:
        return np.zeros(len(x))
    if noise and gain is not None:
        return np.asarray(np.sqrt(flux / gain), dtype=np.float64)
    if before.variance is None or after.variance is None:
        if noise:
            raise ConfigError(
                "there is no variance plane to take the expected noise from", key="gain", fix="Give the gain"
            )
        return np.zeros(len(x))
    added = after.variance.astype(np.float64) - before.variance.astype(np.float64)
    if noise is None:
        noise = bool(np.any(added != 0))
    if not noise:
        return np.zeros(len(x))
    if gain is not None:
        return np.asarray(np.sqrt(flux / gain), dtype=np.float64)
    added[~np.isfinite(added)] = 0.0
    error = np.sqrt(np.clip(aperture_flux(added, x, y, radius, xy0=before.xy0, method="exact"), 0, None))
    if correlation is not None:
        (x0, y0), pixels = before.xy0, np.clip(added, 0, None)
        error *= [_larger_error(pixels, x - x0, y - y0, radius, correlation) for x, y in zip(x, y, strict=True)]
    return np.asarray(error, dtype=np.float64)


def _larger_error(
    added: NDArray[np.float64], x: float, y: float, radius: float, correlation: NoiseCorrelation
) -> float:
    """Return the factor by which noise correlation increases the error of an aperture flux.

    If the noise is white noise filtered by h and scaled by s, its sum over the aperture is the sum of the white noise
    times (h correlated with s).
    """
    half = int(radius) + 1
    rows, columns = (slice(max(0, round(c) - half), round(c) + half + 1) for c in (y, x))
    sigma = np.sqrt(added[rows, columns])
    dy, dx = np.indices(sigma.shape)
    sigma[np.hypot(dx + columns.start - x, dy + rows.start - y) > radius] = 0.0
    total = float((sigma**2).sum())
    # The filter is symmetric: correlating with it is convolving.
    return float(np.sqrt((signal.fftconvolve(sigma, correlation.filters[0]) ** 2).sum() / total)) if total else 1.0


@dataclass(frozen=True)
class ClosureSummary:
    """Summary of closure; magnitudes, except `n` and `pull`.

    Parameters
    ----------
    n : int
        Number of stars measured.
    median : float
        Unweighted median of mag_out - mag_in.
    median_error : float
        Expected standard error of the median, from the photon noise of the stars.
    scatter : float
        Robust standard deviation (1.4826 times the median absolute deviation) of the residuals.
    expected : float
        Expected scatter from photon noise alone (the same estimator, on random numbers with each star's sigma).
    psf_sum_offset : float
        Median residual that a PSF scaled to unit sum would give.
    pull : float
        Robust standard deviation of residual / sigma: 1 if the noise is right; NaN without noise.
    """

    n: int
    median: float
    median_error: float
    scatter: float
    expected: float
    psf_sum_offset: float
    pull: float

    @property
    def verdict(self) -> Verdict:
        """Conclusion from the numbers.

        ``does not close`` if the median deviates by more than a millimagnitude (`TOLERANCE`) and four standard errors;
        otherwise ``too few stars`` if four standard errors exceed 0.025 mag (`RESOLUTION`), so that the usual mistakes
        would not be detected; otherwise ``closes``.
        """
        if self.n == 0:
            return "no isolated star"
        if abs(self.median) > TOLERANCE + 4 * self.median_error:
            return "does not close"
        return "closes" if 4 * self.median_error <= RESOLUTION else "too few stars"

    @property
    def ok(self) -> bool:
        """Whether the verdict is ``closes``; too few stars are not a success."""
        return self.verdict == "closes"

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON types."""
        values = {k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in asdict(self).items()}
        return values | {"ok": self.ok, "verdict": self.verdict}


def summarize_closure(table: Table) -> ClosureSummary:
    """Summarise a table of `measure_closure`, or several of them, stacked.

    Parameters
    ----------
    table : Table
        With columns residual, sigma and psf_sum_residual.

    Returns
    -------
    ClosureSummary
    """
    residual, sigma = _plain(table["residual"]), _plain(table["sigma"])
    n = len(residual)
    if n == 0:
        nan = float("nan")
        return ClosureSummary(0, nan, nan, nan, nan, nan, nan)
    noisy = sigma > 0
    draws = np.random.default_rng(0).standard_normal((200, n)) * sigma
    return ClosureSummary(
        n=n,
        median=float(np.median(residual)),
        median_error=float(np.std(np.median(draws, axis=1))),
        scatter=_mad(residual),
        expected=float(np.mean([_mad(draw) for draw in draws])),
        psf_sum_offset=_median(_plain(table["psf_sum_residual"])),
        pull=_mad(residual[noisy] / sigma[noisy]) if noisy.sum() > 2 else float("nan"),
    )


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _mad(values: NDArray[np.float64]) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _plain(column: Any) -> NDArray[np.float64]:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)
