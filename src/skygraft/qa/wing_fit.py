"""Fit the extended wings of a PSF to the bright stars of an image.

Each star's profile is ``A_s P(r) + B_s``: its own amplitude and its own sky. P is first a formula (a power law or a
Moffat), of which the parameters are fitted to all stars together, the 2 S amplitudes and skies being linear; stars of
which little can be told are left out. The stacked profile is then the weighted mean of ``(I_s - B_s) / A_s`` in each
ring, with the errors of the rings and of the skies, and larger where the stars disagree by more than these.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.exposure import Exposure
from skygraft.injection.wing_settings import WingSettings
from skygraft.psf.tapered import Joined, check_join
from skygraft.psf.wings import MoffatWing, PowerLawWing, WingShape
from skygraft.qa.wing_stars import BrightStar, Field, Profiles, find_stars, measure_profiles, prepare_field
from skygraft.wcs import pixel_scale

__all__ = ["WingFit", "fit_wings"]

type Model = Literal["auto", "power_law", "moffat", "profile"]
type Chosen = Literal["auto", "saturated", "bright"]

_LEAST_STARS = 3
_LEAST_RINGS = 5
_FLOOR = 0.02
"""Relative error of any ring that is allowed for: stars are not alike to more than that."""
_GOOD_FIT = 4.0
"""Reduced chi squared up to which a formula stands for the profile."""
_SEEN = 3.0
"""Signal over noise of the stacked profile, to which it is used."""
_ROUNDS = 2
"""Times that stars are measured again without the wings of the others."""
_LARGEST_OUTER = 600.0


@dataclass(frozen=True, eq=False)
class WingFit:
    """Wings that were fitted to an image's stars.

    Parameters
    ----------
    radii, profile, errors : ndarray, shape (K,)
        Stacked profile: radius in pixels, surface brightness in units of that at the join radius, and its error.
    n_stars, n_pixels : ndarray of int, shape (K,)
        Stars and pixels in each ring.
    shape : WingShape
        The formula that was fitted, in pixels.
    parameters, parameter_errors : dict of str to float
        Of the formula: alpha, or beta and core (pixels).
    chi2 : float
        Reduced chi squared of the stacked profile about the formula.
    settings : WingSettings
        What a campaign is to use.
    stars : tuple of BrightStar
        The stars that were used.
    relative : ndarray, shape (S, K)
        The profile of each, less its sky, in the same units.
    kernel : tuple of ndarray, or None
        Radii (pixels) and mean profile of the PSF's kernel, in the same units.
    join, blend : float
        Pixels.
    pixel_scale : float
        Arcsec.
    notes : tuple of str
        What should be known about the fit.
    """

    radii: NDArray[np.float64]
    profile: NDArray[np.float64]
    errors: NDArray[np.float64]
    n_stars: NDArray[np.int64]
    n_pixels: NDArray[np.int64]
    shape: WingShape
    parameters: dict[str, float]
    parameter_errors: dict[str, float]
    chi2: float
    settings: WingSettings
    stars: tuple[BrightStar, ...]
    relative: NDArray[np.float64]
    kernel: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    join: float
    blend: float
    pixel_scale: float
    notes: tuple[str, ...] = field(default=())

    def model(self, radii: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the fitted formula at radii in pixels: one at the join radius."""
        return np.asarray(np.exp(self.shape.logarithm(radii) - self.shape.logarithm(np.array([self.join]))[0]))

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON types."""
        return {
            "model": self.settings.model,
            "wings": self.settings.to_dict(),
            "formula": self.shape.words,
            "parameters": self.parameters,
            "parameter_errors": self.parameter_errors,
            "chi2": self.chi2,
            "n_stars": len(self.stars),
            "n_saturated": sum(star.saturated for star in self.stars),
            "join_pixels": self.join,
            "blend_pixels": self.blend,
            "pixel_scale": self.pixel_scale,
            "notes": list(self.notes),
        }


def fit_wings(
    exposure: Exposure,
    *,
    model: Model = "auto",
    stars: Chosen = "auto",
    join: str | None = None,
    blend: str | None = None,
    outer: str | None = None,
    least_stars: int = _LEAST_STARS,
    flatten: bool = False,
) -> WingFit:
    """Fit the extended wings of an image's PSF to its own saturated or brightest stars.

    Parameters
    ----------
    exposure : Exposure
        The image. If it has a PSF, the wings are checked to go with it.
    model : {"auto", "power_law", "moffat", "profile"}
        What the settings are to be; ``auto`` takes the better formula if it fits, or else the measured profile.
    stars : {"auto", "saturated", "bright"}
        Which stars: saturated ones, the brightest others, or (``auto``) these where there are few of the first.
    join, blend : str, optional
        Where wings are to join the kernel, and over what zone, such as ``"15 pix"``; by default by the kernel's size.
    outer : str, optional
        Largest radius that is measured.
    least_stars : int
        Number of stars that are needed.
    flatten : bool
        Subtract a plane fitted to the sky first.

    Returns
    -------
    WingFit

    Raises
    ------
    PsfError
        If there are no, or too few such stars, the sky has a gradient that exceeds the wings, or the wings do not go
        with the PSF.
    ConfigError
        If a setting is not allowed.
    """
    scale = float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])
    fwhm, kernel = _kernel(exposure)
    join_pixels, blend_pixels = _join(exposure, scale, fwhm, join, blend)
    area = prepare_field(exposure, flatten=flatten)
    furthest = min(_LARGEST_OUTER, 0.45 * min(exposure.shape))
    if outer is not None:
        furthest = _pixels("outer", outer, scale)
    inner = max(2.0, join_pixels - blend_pixels)
    if furthest < 1.8 * join_pixels:
        raise PsfError(
            f"profiles can be measured from {inner:.4g} to {furthest:.4g} pixels, too little beyond the join radius of "
            f"{join_pixels:.4g}",
            path=exposure.path,
            fix="Give a larger image or --outer, or join further in (--join)",
        )
    found = _enough(find_stars(area, stars=stars, fwhm=fwhm), exposure, area, least_stars, stars)
    profiles = measure_profiles(area, found, inner, furthest)
    stack = _fit(profiles, found, exposure, join_pixels, least_stars, model, fwhm)
    for _ in range(_ROUNDS):
        # The wings of the others are as bright as a star's own, half-way between two.
        lights = [(star, float(a)) for star, a in zip(stack.stars, stack.amplitude, strict=True)]
        curve = _tabulated(stack.shape, join_pixels, 1.5 * furthest)
        profiles = measure_profiles(area, found, inner, furthest, lights=lights, curve=curve)
        stack = _fit(profiles, found, exposure, join_pixels, least_stars, model, fwhm)
    _check_gradient(area, stack, furthest, exposure, flatten)
    return _finished(stack, exposure, model, scale, fwhm, kernel, join_pixels, blend_pixels, area, stars)


def _tabulated(shape: WingShape, join: float, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radii, and the formula there in units of its value at the join radius; constant inside half of that."""
    radii = np.concatenate([[0.0], np.geomspace(0.5 * join, end, 400)])
    values = np.exp(shape.logarithm(np.maximum(radii, 0.5 * join)) - shape.logarithm(np.array([join]))[0])
    return radii, np.asarray(values)


@dataclass(eq=False)
class _Stack:
    """Stars that were fitted together."""

    radii: NDArray[np.float64]
    edges: NDArray[np.float64]
    stars: list[BrightStar]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    pixels: NDArray[np.int64]
    shape: WingShape
    parameters: dict[str, float]
    parameter_errors: dict[str, float]
    amplitude: NDArray[np.float64]
    sky: NDArray[np.float64]
    sky_error: NDArray[np.float64]
    profile: NDArray[np.float64]
    profile_error: NDArray[np.float64]
    chi2: float


def _pixels(name: str, text: str, scale: float) -> float:
    """Convert a length to pixels."""
    from skygraft.injection.wing_settings import length_pixels

    return length_pixels(name, text, scale)


def _kernel(exposure: Exposure) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
    """FWHM in pixels (4 without a PSF), and the kernel's mean profile in the middle of the image."""
    if exposure.psf is None:
        return 4.0, None
    from skygraft.psf import kernel_fwhm
    from skygraft.psf.base import defined_position

    place = defined_position(exposure.psf, exposure.box)
    if place is None:
        return 4.0, None
    image = exposure.psf.kernels([place[0]], [place[1]])[0]
    ny, nx = image.shape
    r = np.hypot(*np.meshgrid(np.arange(nx) - nx // 2, np.arange(ny) - ny // 2))
    ring = np.rint(r).astype(int)
    counts = np.bincount(ring.ravel())
    means = np.bincount(ring.ravel(), image.ravel()) / counts
    radii = np.bincount(ring.ravel(), r.ravel()) / counts
    whole = radii <= min(ny, nx) // 2
    width = float(kernel_fwhm(image[None])[0])
    return (width if math.isfinite(width) else 4.0), (radii[whole], means[whole])


def _join(exposure: Exposure, scale: float, fwhm: float, join: str | None, blend: str | None) -> tuple[float, float]:
    """Radius at which the wings join and width of the blend, pixels."""
    half = math.inf if exposure.psf is None else min(exposure.psf.shape) // 2
    # Kernels are least reliable near their edge, and wings begin outside of the core.
    usual = min(max(0.6 * half, 3.0 * fwhm), half, 8.0 * fwhm)
    radius = usual if join is None else _pixels("join", join, scale)
    if radius > half + 0.5:
        raise PsfError(
            f"the wings are to join at {radius:.4g} pixels, outside of the PSF's kernel, which reaches {half}",
            path=exposure.path,
            key="join",
            fix=f"Join them at {half} pixels or less",
        )
    width = max(radius / 3.0, 5.0) if blend is None else _pixels("blend", blend, scale)
    if not 0 < width < radius or radius - width < min(fwhm, 0.999 * radius):
        raise PsfError(
            f"the wings would begin at {radius - width:.4g} pixels, inside the PSF's core: its FWHM is {fwhm:.3g} "
            "pixels",
            path=exposure.path,
            key="join",
            fix="Join them further out (--join), at two FWHM or more, or give a narrower --blend",
        )
    return radius, width


def _enough(found: list[BrightStar], exposure: Exposure, area: Field, least: int, chosen: Chosen) -> list[BrightStar]:
    if len(found) >= least:
        return found
    n = "no" if not found else f"only {len(found)}"
    what = {"saturated": "saturated star", "bright": "bright star"}.get(chosen, "saturated or bright star")
    several = "s" if len(found) != 1 else ""
    flagged = "" if area.saturated.any() else "; no mask plane flags saturated pixels"
    raise PsfError(
        f"{n} {what}{several} to fit wings to; {least} are needed{flagged}",
        path=exposure.path,
        fix="Give an image with more bright stars (a whole detector), "
        + (
            "or take the brightest ones (--stars bright)" if chosen == "saturated" else "or ask for fewer (--min-stars)"
        ),
    )


def _fit(
    profiles: Profiles,
    found: list[BrightStar],
    exposure: Exposure,
    join: float,
    least: int,
    model: Model,
    fwhm: float,
) -> _Stack:
    """Fit formulae to all stars, leaving out those of which little is seen, and stack."""
    values, errors, pixels = profiles.values, profiles.errors, profiles.pixels
    known = np.isfinite(values) & np.isfinite(errors)
    # A star needs rings over a factor of two in radius, and light in them.
    spans = np.array(
        [profiles.radii[k].max() / profiles.radii[k].min() if k.sum() >= _LEAST_RINGS else 0.0 for k in known]
    )
    lit = np.array(
        [
            np.nanmax(values[s] - np.nanmedian(values[s][k][-3:]), initial=0.0) > 5 * np.nanmedian(errors[s][k])
            if k.any()
            else False
            for s, k in enumerate(known)
        ]
    )
    use = np.flatnonzero((spans > 2.0) & lit)
    if len(use) < least:
        raise PsfError(
            f"of {len(found)} bright stars, the wings of only {len(use)} can be seen; {least} are needed",
            path=exposure.path,
            fix="Give a deeper or larger image, a smaller join radius (--join), or ask for fewer stars (--min-stars)",
        )
    best: _Stack | None = None
    for _ in range(3):
        tried = [
            _fit_formula(kind, profiles, [found[i] for i in use], use, join, fwhm)
            for kind in (("power_law", "moffat") if model in ("auto", "profile") else (model,))
        ]
        best = min(tried, key=lambda one: one.chi2 * (1.0 if "alpha" in one.parameters else 1.1))
        # Stars that disagree with the others (double, on a galaxy, badly centred) are left out.
        size = best.amplitude[:, None] * np.where(profiles.edges[:-1] >= join, best.profile, np.nan)
        off = (best.values - best.sky[:, None] - size) / np.sqrt(best.errors**2 + (0.1 * size) ** 2)
        counted = np.maximum(np.isfinite(off).sum(axis=1), 1)
        wrong = np.sqrt(np.nansum(np.minimum(off**2, 100.0), axis=1) / counted)
        usual = float(np.median(wrong))
        keep = (wrong < max(3.0 * usual, 3.0)) & (best.amplitude > 0)
        if keep.all() or keep.sum() < least:
            break
        use = use[keep]
    assert best is not None
    if not (best.amplitude > 0).sum() >= least:
        raise PsfError(
            "the profiles of the bright stars do not fall outwards: their wings cannot be told from the sky",
            path=exposure.path,
            fix="Give a smaller --outer, or remove the gradient of the sky (--flatten)",
        )
    del pixels
    return best


def _shape_of(kind: str, theta: NDArray[np.float64]) -> WingShape:
    if kind == "power_law":
        return PowerLawWing(float(theta[0]))
    return MoffatWing(float(theta[0]), float(np.exp(theta[1])))


def _fit_formula(
    kind: str, profiles: Profiles, stars: list[BrightStar], use: NDArray[np.intp], join: float, fwhm: float
) -> _Stack:
    from scipy.optimize import least_squares

    values, errors = profiles.values[use], profiles.errors[use]
    fine = profiles.radii

    def curve(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = _shape_of(kind, theta)
        at_join = shape.logarithm(np.array([join]))[0]
        return np.asarray(np.exp(shape.logarithm(fine) - at_join))

    # Inside the join radius the profile is the kernel's in part.
    beyond = profiles.edges[:-1] >= 0.999 * join
    weights = np.where(np.isfinite(values) & np.isfinite(errors) & beyond, 1.0 / errors, 0.0)
    start = np.array([3.0]) if kind == "power_law" else np.array([1.5, np.log(max(fwhm, 2.0))])
    bounds = ([0.3], [12.0]) if kind == "power_law" else ([0.3, np.log(0.3)], [8.0, np.log(20.0 * join)])
    theta, amplitude, sky = start, np.ones(len(use)), np.zeros(len(use))
    sky_error = np.zeros(len(use))
    fitted: Any = None
    for _ in range(4):

        def residual(theta: NDArray[np.float64], weights: NDArray[np.float64] = weights) -> NDArray[np.float64]:
            p = curve(theta)
            a, b, _e = _linear(values, weights, p)
            off = weights * (np.nan_to_num(values) - a[:, None] * p - b[:, None])
            return np.asarray(off.ravel())

        fitted = least_squares(residual, theta, bounds=bounds, loss="soft_l1", f_scale=2.0, x_scale="jac")
        theta = fitted.x
        p = curve(theta)
        amplitude, sky, sky_error = _linear(values, weights, p)
        with np.errstate(invalid="ignore"):
            spread = np.sqrt(errors**2 + (_FLOOR * amplitude[:, None] * p) ** 2)
        weights = np.where(np.isfinite(values) & np.isfinite(spread) & beyond, 1.0 / spread, 0.0)
    p = curve(theta)
    with np.errstate(invalid="ignore"):
        near = np.hypot(errors, _FLOOR * np.nan_to_num(values - sky[:, None]))
    weights = np.where(np.isfinite(values) & np.isfinite(near), 1.0 / near, 0.0)
    profile, error = _stack(values, weights, amplitude, sky, sky_error)
    known = np.isfinite(profile) & np.isfinite(error) & beyond
    off = (profile[known] - p[known]) / np.hypot(error[known], 0.5 * _FLOOR * p[known])
    degrees = max(1, int(known.sum()) - len(theta))
    chi2 = float((np.minimum(np.abs(off), 10.0) ** 2).sum() / degrees)
    covariance = np.linalg.pinv(fitted.jac.T @ fitted.jac)
    reduced = 2.0 * float(fitted.cost) / max(1, int((weights > 0).sum()) - 2 * len(use) - len(theta))
    spread_of = np.sqrt(np.maximum(np.diag(covariance), 0.0) * max(1.0, reduced))
    if kind == "power_law":
        parameters, parameter_errors = {"alpha": float(theta[0])}, {"alpha": float(spread_of[0])}
    else:
        core = float(np.exp(theta[1]))
        parameters = {"beta": float(theta[0]), "core": core}
        parameter_errors = {"beta": float(spread_of[0]), "core": float(core * spread_of[1])}
    return _Stack(
        profiles.radii,
        profiles.edges,
        stars,
        values,
        errors,
        profiles.pixels[use],
        _shape_of(kind, theta),
        parameters,
        parameter_errors,
        amplitude,
        sky,
        sky_error,
        profile,
        error,
        chi2,
    )


def _linear(
    values: NDArray[np.float64], weights: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weighted amplitude and sky of each star, and the error of the sky."""
    w, v = weights**2, np.nan_to_num(values)
    s0, s1, s2 = w.sum(axis=1), (w * p).sum(axis=1), (w * p * p).sum(axis=1)
    t0, t1 = (w * v).sum(axis=1), (w * v * p).sum(axis=1)
    det = np.maximum(s0 * s2 - s1 * s1, 1e-300)
    return (s0 * t1 - s1 * t0) / det, (s2 * t0 - s1 * t1) / det, np.sqrt(s2 / det)


def _stack(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    sky: NDArray[np.float64],
    sky_error: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean of the stars' own profiles in each ring, without those that are far off, and its error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = (values - sky[:, None]) / amplitude[:, None]
        w = np.where((weights > 0) & (amplitude > 0)[:, None], (weights * amplitude[:, None]) ** 2, 0.0)
    n_rings = values.shape[1]
    mean, error = np.full(n_rings, np.nan), np.full(n_rings, np.nan)
    for k in range(n_rings):
        keep = w[:, k] > 0
        if keep.sum() < 2:
            continue
        x, wk = own[:, k], w[:, k]
        for _ in range(4):
            middle = float(np.average(x[keep], weights=wk[keep]))
            typical = max(1.0, float(np.sqrt(np.median((x[keep] - middle) ** 2 * wk[keep])) * 1.4826))
            closer = (w[:, k] > 0) & (np.abs(x - middle) * np.sqrt(wk) <= 3.5 * typical)
            if closer.sum() < 2 or (closer == keep).all():
                break
            keep = closer
        total = float(wk[keep].sum())
        middle = float((x[keep] * wk[keep]).sum() / total)
        n = int(keep.sum())
        chi2 = float((wk[keep] * (x[keep] - middle) ** 2).sum()) / max(1, n - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            skies = float(np.sqrt(((wk[keep] * sky_error[keep] / amplitude[keep]) ** 2).sum())) / total
        mean[k], error[k] = middle, math.hypot(math.sqrt(max(1.0, chi2) / total), skies)
    return mean, error


def _check_gradient(area: Field, stack: _Stack, furthest: float, exposure: Exposure, flatten: bool) -> None:
    """Refuse a sky whose slope changes it by more than the wings' own light, where that is seen."""
    if flatten:
        return
    slope = math.hypot(*area.gradient)
    bright = float(np.median(stack.amplitude[stack.amplitude > 0]))
    known = np.isfinite(stack.profile) & (stack.profile > _SEEN * stack.profile_error)
    last = float(stack.radii[known][-1]) if known.any() else furthest
    light = bright * float(np.interp(last, stack.radii[known], stack.profile[known])) if known.any() else 0.0
    change = 2.0 * last * slope
    if change > 3.0 * max(light, 0.0) and change > 0.5 * area.sigma:
        raise PsfError(
            f"the sky has a gradient: it changes by {change:.3g} image units over the {2 * last:.0f} pixels across "
            f"which wings are measured, and the wings of a typical star are {light:.3g} at the end",
            path=exposure.path,
            fix="Subtract the background, let a plane be fitted to it (--flatten), or measure less far (--outer)",
        )


def _finished(
    stack: _Stack,
    exposure: Exposure,
    model: Model,
    scale: float,
    fwhm: float,
    kernel: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    join: float,
    blend: float,
    area: Field,
    chosen: Chosen,
) -> WingFit:
    del fwhm
    # In units of the profile at the join radius.
    at_join = 1.0
    notes = []
    known = np.isfinite(stack.profile) & np.isfinite(stack.profile_error)
    seen = known & (stack.profile > _SEEN * stack.profile_error)
    last = _last_of_run(seen)
    if last < 0 or stack.radii[last] < 1.2 * join:
        raise PsfError(
            f"the stacked profile is not seen beyond {stack.radii[max(last, 0)]:.4g} pixels, and the wings are to join "
            f"at {join:.4g}",
            path=exposure.path,
            fix="Give an image with brighter stars, or join further in (--join)",
        )
    end = float(stack.edges[last + 1])
    kind = model
    if model == "auto":
        kind = "power_law" if "alpha" in stack.parameters else "moffat"
        if stack.chi2 > _GOOD_FIT and last - int(np.argmax(seen)) >= 2 * _LEAST_RINGS:
            kind = "profile"
            notes.append(f"no formula fits well (reduced chi squared {stack.chi2:.1f}): the measured profile is used")
    if "alpha" in stack.parameters and stack.parameters["alpha"] <= 2:
        notes.append("the slope is 2 or flatter: the wings hold as much light as their outer radius lets them")
    n_saturated = sum(star.saturated for star in stack.stars)
    if chosen == "auto" and n_saturated < len(stack.stars):
        notes.append(
            f"{len(stack.stars) - n_saturated} of {len(stack.stars)} stars are bright ones that are not saturated"
        )
    if area.saturated.any() is np.False_ or not area.saturated.any():
        notes.append("no mask plane flags saturated pixels: a star's middle may be used that should not be")
    settings = _settings(kind, stack, seen, last, scale, join, blend, end)
    if exposure.psf is not None:
        wings = settings.on(scale)
        check_join(Joined(exposure.psf, wings), exposure.box)
    shown = None
    if kernel is not None:
        radii, means = kernel
        near = float(np.interp(join, radii, means)) if join <= radii[-1] else float(means[-1])
        if near > 0:
            shown = radii, means / near
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (stack.values - stack.sky[:, None]) / stack.amplitude[:, None]
    counted = np.isfinite(stack.values)
    return WingFit(
        stack.radii[known],
        stack.profile[known] / at_join,
        stack.profile_error[known] / at_join,
        counted.sum(axis=0)[known].astype(np.int64),
        np.where(counted, stack.pixels, 0).sum(axis=0)[known].astype(np.int64),
        stack.shape,
        stack.parameters,
        stack.parameter_errors,
        stack.chi2,
        settings,
        tuple(stack.stars),
        relative[:, known],
        shown,
        join,
        blend,
        scale,
        tuple(notes),
    )


def _last_of_run(seen: NDArray[np.bool_]) -> int:
    """Index of the last ring before two in a row in which nothing is seen; -1 for none."""
    first = np.flatnonzero(seen)
    if not first.size:
        return -1
    last = int(first[0])
    for k in first[1:].tolist():
        if k - last > 2:
            break
        last = k
    return last


def _settings(
    kind: str,
    stack: _Stack,
    seen: NDArray[np.bool_],
    last: int,
    scale: float,
    join: float,
    blend: float,
    end: float,
) -> WingSettings:
    """Make the settings of a campaign; lengths in arcsec, so that they hold for images of other pixels too."""
    arcsec = functools.partial(_arcsec, scale)
    common = {"join": arcsec(join), "blend": arcsec(blend)}
    if kind == "profile":
        use = np.flatnonzero(seen[: last + 1])
        radii, values = stack.radii[use], stack.profile[use]
        if radii[0] > join - blend:  # the formula fills in what no star shows
            start = max(0.9 * (join - blend), 0.5)
            at = np.array([start])
            value = np.exp(stack.shape.logarithm(at) - stack.shape.logarithm(radii[:1])) * values[0]
            radii, values = np.concatenate([at, radii]), np.concatenate([value, values])
        numbers = {"radii": [float(f"{r * scale:.6g}") for r in radii], "values": [float(f"{v:.6g}") for v in values]}
        return WingSettings.of({"model": "profile", **numbers, "unit": "arcsec", **common})
    outer = {"outer": arcsec(end)}
    if kind == "power_law":
        return WingSettings.of({"model": kind, "alpha": round(stack.parameters["alpha"], 4), **common, **outer})
    core = {"core": arcsec(stack.parameters["core"])}
    return WingSettings.of({"model": kind, "beta": round(stack.parameters["beta"], 4), **core, **common, **outer})


def _arcsec(scale: float, pixels: float) -> str:
    return f"{pixels * scale:.5g} arcsec"
