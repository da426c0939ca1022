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
from skygraft.psf.wings import WingShape
from skygraft.qa.wing_formula import Stack, fit_formula, tabulated
from skygraft.qa.wing_stars import BrightStar, Field, Profiles, find_stars, measure_profiles, prepare_field
from skygraft.wcs import pixel_scale

__all__ = ["WingFit", "fit_wings"]

type Model = Literal["auto", "power_law", "moffat", "profile"]
type Chosen = Literal["auto", "saturated", "bright"]

_LEAST_STARS = 3
_LEAST_RINGS = 5
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
        curve = tabulated(stack.shape, join_pixels, 1.5 * furthest)
        profiles = measure_profiles(area, found, inner, furthest, lights=lights, curve=curve)
        stack = _fit(profiles, found, exposure, join_pixels, least_stars, model, fwhm)
    _check_gradient(area, stack, furthest, exposure, flatten)
    return _finished(stack, exposure, model, scale, fwhm, kernel, join_pixels, blend_pixels, area, stars)


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
    usual = min(max(0.6 * half, 3.0 * fwhm, 1.5 * fwhm + 5.0), half, max(8.0 * fwhm, 20.0))
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
) -> Stack:
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
    best: Stack | None = None
    for _ in range(3):
        tried = [
            fit_formula(kind, profiles, [found[i] for i in use], use, join, fwhm)
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


def _check_gradient(area: Field, stack: Stack, furthest: float, exposure: Exposure, flatten: bool) -> None:
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
    stack: Stack,
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
    if not area.saturated.any():
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
    stack: Stack,
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
