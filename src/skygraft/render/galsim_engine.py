"""Drawing by GalSim (Rowe et al. 2015): what the native engine cannot draw, or all sources if asked for.

A profile is built on the sky (arcsec, u towards East, v towards North), taken to pixels through the image's local
Jacobian, convolved with the effective PSF kernel at the source, scaled as for stars, and drawn without any further
pixel response. The stamp is as large as the flux tolerance asks for.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import galsim
import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag
from skygraft.catalog.schema import SPERGEL_RANGE
from skygraft.errors import InjectionError
from skygraft.render.knots import knot_offsets
from skygraft.render.profiles import LEAST_GALSIM_RATIO, MAX_STAMP
from skygraft.render.reach import moffat_beta, reach_pixels, trail_vector, value_within
from skygraft.render.real_galaxies import real_galaxy
from skygraft.render.sources import Sources
from skygraft.render.stamp_placing import place_stamps

__all__ = ["LEAST_GALSIM_RATIO", "DrawnStamp", "bounded_transforms", "draw_extended"]

_PARAMS = galsim.GSParams(
    folding_threshold=1e-3,
    kvalue_accuracy=1e-5,
    xvalue_accuracy=1e-5,
    stepk_minimum_hlr=5.0,
    maximum_fft_size=2 * MAX_STAMP,
)
_TRAIL_WIDTH = 1e-3
"""Width of a trail before the PSF, in pixels: too thin to be seen."""


class _Bounded:
    """Number of threads inside `bounded_transforms`, and the value of GalSim's switch before the first of them."""

    lock = threading.Lock()
    inside = 0
    before = True


@contextlib.contextmanager
def bounded_transforms() -> Iterator[None]:
    """Let GalSim raise GalSimFFTSizeError for a transform that is larger than its `maximum_fft_size`.

    Since version 2.8 it only warns, and a single large source can take all memory. The switch is GalSim's own and
    global in the process; it is restored when the last thread leaves.
    """
    with _Bounded.lock:
        if _Bounded.inside == 0:
            _Bounded.before = getattr(galsim.errors, "raise_fft_size_error", True)
        _Bounded.inside += 1
        galsim.errors.raise_fft_size_error = True
    try:
        yield
    finally:
        with _Bounded.lock:
            _Bounded.inside -= 1
            if _Bounded.inside == 0:
                galsim.errors.raise_fft_size_error = _Bounded.before


@dataclass(frozen=True)
class DrawnStamp:
    """A source drawn in full, before it is cut at the image's edge.

    Parameters
    ----------
    image : ndarray of float64, shape (ny, nx)
        Image units.
    x0, y0 : int
        Parent coordinates of its first pixel.
    flags : int
        Bits of `skygraft.catalog.flags.Flag`.
    """

    image: NDArray[np.float64]
    x0: int
    y0: int
    flags: int


def draw_extended(
    sources: Sources,
    i: int,
    kernel: NDArray[np.float64] | None,
    flux_tolerance: float,
    step: float = 1.0,
    *,
    largest: int = MAX_STAMP,
) -> DrawnStamp:
    """Draw source `i`.

    Parameters
    ----------
    sources : Sources
    i : int
        Which one.
    kernel : ndarray, shape (ny, nx), or None
        Effective PSF at the source, scaled so that a star of flux F is ``F * kernel``; None only for stamps that are
        convolved already.
    flux_tolerance : float
        Part of the flux that the stamp may leave out.
    step : float, optional
        Pixels from one place of the kernel to the next, of one that is given on a grid finer than pixels.
    largest : int, optional
        Longest side that the stamp may have, pixels, where it is not cut at `MAX_STAMP` or the source's draw_size.

    Returns
    -------
    DrawnStamp

    Raises
    ------
    InjectionError
        If the profile cannot be built or transformed, or its pixels are not finite.
    """
    x, y = float(sources.x[i]), float(sources.y[i])
    convolve = kernel is not None and sources.text("stamp_psf", i) != "none"
    half_kernel = int(max(kernel.shape) // 2 * step) if kernel is not None and convolve else 1
    reach = reach_pixels(sources, i, flux_tolerance)
    if not math.isfinite(reach):
        raise InjectionError(
            f"the {sources.source_type[i]} has no size (half_light_radius, or trail_length)",
            row=f"injection_id {sources.injection_id[i]}",
            fix="Give it one in the catalogue",
        )
    if sources.value("trunc", i, 0.0) > 0 and reach > MAX_STAMP / 2:
        raise InjectionError(
            f"the {sources.source_type[i]} ends {reach:.0f} pixels from its centre, where no transform reaches",
            row=f"injection_id {sources.injection_id[i]}",
            fix="Leave trunc empty for sources that are larger than images",
        )
    half = math.ceil(reach) + half_kernel + 1
    flags = 0
    cut = int(sources.value("draw_size", i, 0)) or MAX_STAMP
    if 2 * half + 1 > cut:
        half = max((cut - 1) // 2, 1)
        flags |= Flag.STAMP_TRUNCATED
    if 2 * half + 1 > max(largest, 2 * half_kernel + 3):
        raise InjectionError(
            f"the {sources.source_type[i]} needs a stamp of {2 * half + 1} pixels a side; {largest} are allowed on "
            "this image",
            row=f"injection_id {sources.injection_id[i]}",
            fix="Leave out sources that are much larger than the image",
        )
    cx, cy = round(x), round(y)
    bounds = galsim.BoundsI(cx - half, cx + half, cy - half, cy + half)
    image = galsim.ImageD(bounds)
    try:
        profile = _pixel_profile(sources, i) * float(sources.flux[i])
        if convolve and kernel is not None:
            psf = galsim.InterpolatedImage(
                galsim.ImageD(np.ascontiguousarray(kernel, dtype=np.float64)),
                scale=step,
                flux=float(kernel.sum()) * step**2,
                x_interpolant="lanczos15",
                gsparams=_PARAMS,
            )
            profile = galsim.Convolve(profile, psf, gsparams=_PARAMS.withParams(maximum_fft_size=2 * largest))
        with bounded_transforms():
            profile.drawImage(image=image, method="no_pixel", scale=1.0, center=galsim.PositionD(x, y))
    except InjectionError:
        raise
    except Exception as error:  # GalSim raises anything from TypeError to MemoryError
        raise InjectionError(
            f"the {sources.source_type[i]} cannot be drawn ({error})",
            row=f"injection_id {sources.injection_id[i]}",
            fix="Check the source's size and shape in the catalogue",
        ) from error
    if not np.abs(image.array).max() < np.finfo(np.float32).max:
        raise InjectionError(
            f"the {sources.source_type[i]} has pixels that are not finite",
            row=f"injection_id {sources.injection_id[i]}",
            key="mag",
            fix="Check the source's flux and shape in the catalogue",
        )
    total = float(sources.flux[i]) * (float(kernel.sum()) * step**2 if kernel is not None and convolve else 1.0)
    own_flux = sources.text("stamp_flux", i) == "stamp"
    if total != 0.0 and not own_flux and image.array.sum() / total < 1.0 - flux_tolerance:
        flags |= Flag.STAMP_TRUNCATED
    return DrawnStamp(image.array, cx - half, cy - half, int(flags))


def _pixel_profile(sources: Sources, i: int) -> Any:
    """The source's profile in pixels, flux 1, drawn along its trail if it has one."""
    kind = str(sources.source_type[i])
    if kind == "Trail":
        return _trail_profile(sources, i)
    profile = _profile_at_rest(sources, i, kind)
    if sources.value("trail_length", i, 0.0) > 0:
        return galsim.Convolve(profile, _trail_profile(sources, i), gsparams=_PARAMS)
    return profile


def _profile_at_rest(sources: Sources, i: int, kind: str) -> Any:
    jacobian = sources.jacobian[i]
    to_pixels = galsim.JacobianWCS(*(float(v) for v in jacobian.ravel()))
    if kind == "Star":
        return galsim.DeltaFunction(gsparams=_PARAMS)
    if kind == "Stamp":
        return _stamp_profile(sources, i)
    if kind == "BulgeDisk":
        fraction = sources.value("bulge_fraction", i, 0.5)
        # What has no light needs no size either.
        parts = [
            share * _sersic(sources, i, f"{part}_", n)
            for part, n, share in (("bulge", 4.0, fraction), ("disk", 1.0, 1.0 - fraction))
            if share != 0
        ]
        return to_pixels.profileToImage(galsim.Add(parts, gsparams=_PARAMS))
    if kind == "RandomKnots":
        return _knots(sources, i)
    if kind == "RealGalaxy":
        galaxy = real_galaxy(sources.text("real_galaxy_catalog", i), int(sources.value("real_galaxy", i, -1)))
        turned = galaxy.profile(_PARAMS).rotate(-sources.value("pa", i, 0.0) * galsim.degrees)
        return to_pixels.profileToImage(turned)
    if kind in ("InclinedExponential", "InclinedSersic"):
        return to_pixels.profileToImage(_inclined(sources, i, kind))
    if kind == "Sersic":
        return to_pixels.profileToImage(_sersic(sources, i, "", 1.0))
    return to_pixels.profileToImage(_sheared(_round_profile(sources, i, kind), sources, i, ""))


def _round_profile(sources: Sources, i: int, kind: str) -> Any:
    radius = _half_light_radius(sources, i, "")
    if kind == "Gaussian":
        return galsim.Gaussian(half_light_radius=radius, gsparams=_PARAMS)
    if kind == "Moffat":
        return galsim.Moffat(moffat_beta(sources, i), half_light_radius=radius, gsparams=_PARAMS)
    if kind == "Spergel":
        nu = value_within(sources, i, "spergel_nu", *SPERGEL_RANGE)
        return galsim.Spergel(nu, half_light_radius=radius, gsparams=_PARAMS)
    if kind == "Kolmogorov":
        return galsim.Kolmogorov(half_light_radius=radius, gsparams=_PARAMS)
    raise InjectionError(f"there is no way to draw a {kind}", row=f"injection_id {sources.injection_id[i]}")


def _inclined(sources: Sources, i: int, kind: str) -> Any:
    radius = _half_light_radius(sources, i, "")
    angle = value_within(sources, i, "inclination", 0.0, 90.0) * galsim.degrees
    height = sources.value("scale_h_over_r", i, 0.1)
    shape = {"half_light_radius": radius, "scale_h_over_r": height, "gsparams": _PARAMS}
    if kind == "InclinedExponential":
        disk = galsim.InclinedExponential(angle, **shape)
    else:
        disk = galsim.InclinedSersic(_index(sources, i, ""), angle, trunc=_truncation(sources, i, "", radius), **shape)
    # The disk's major axis is along u, East.
    return disk.rotate((90.0 - sources.value("pa", i, 0.0)) * galsim.degrees)


def _knots(sources: Sources, i: int) -> Any:
    """Knots one by one: only what is not drawn as stars."""
    offsets = knot_offsets(sources, i)
    knot = galsim.DeltaFunction(flux=1.0 / len(offsets), gsparams=_PARAMS)
    return galsim.Add([knot.shift(dx, dy) for dx, dy in offsets.tolist()], gsparams=_PARAMS)


def _half_light_radius(sources: Sources, i: int, prefix: str) -> float:
    radius = sources.value(f"{prefix}half_light_radius", i, math.nan)
    if not radius > 0:
        raise InjectionError(
            f"{prefix}half_light_radius is {radius}; a positive number of arcsec is needed",
            row=f"injection_id {sources.injection_id[i]}",
            key=f"{prefix}half_light_radius",
        )
    return radius


def _index(sources: Sources, i: int, prefix: str, default: float = math.nan) -> float:
    # GalSim caches tables per (n, trunc / r_half): n to six digits makes them shareable without changing anything seen.
    return round(sources.value(f"{prefix}n", i, default), 6)


def _truncation(sources: Sources, i: int, prefix: str, radius: float) -> float:
    trunc = sources.value(f"{prefix}trunc", i, 0.0)
    if trunc != 0 and not trunc > LEAST_GALSIM_RATIO * radius:
        # Next to a flat disk GalSim fails in many ways, a segmentation fault among them.
        raise InjectionError(
            f"trunc is {trunc} at a half-light radius of {radius}; GalSim draws profiles that end beyond "
            f"{LEAST_GALSIM_RATIO} half-light radii",
            row=f"injection_id {sources.injection_id[i]}",
            key=f"{prefix}trunc",
        )
    return trunc


def _sersic(sources: Sources, i: int, prefix: str, default_n: float) -> Any:
    radius = _half_light_radius(sources, i, prefix)
    n, trunc = _index(sources, i, prefix, default_n), _truncation(sources, i, prefix, radius)
    return _sheared(galsim.Sersic(n, half_light_radius=radius, trunc=trunc, gsparams=_PARAMS), sources, i, prefix)


def _sheared(profile: Any, sources: Sources, i: int, prefix: str) -> Any:
    q = sources.value(f"{prefix}q", i, 1.0)
    if q == 1.0:
        return profile
    # u is East and v North here, so an angle from North through East is 90 degrees minus GalSim's from u towards v.
    beta = 90.0 - sources.value(f"{prefix}pa", i, 0.0)
    return profile.shear(q=q, beta=beta * galsim.degrees)


def _trail_profile(sources: Sources, i: int) -> Any:
    dx, dy = trail_vector(sources, i)
    length = max(math.hypot(dx, dy), _TRAIL_WIDTH)
    box = galsim.Box(width=length, height=_TRAIL_WIDTH, gsparams=_PARAMS)
    return box.rotate(math.atan2(dy, dx) * galsim.radians)


def _stamp_profile(sources: Sources, i: int) -> Any:
    placed = place_stamps(sources, np.array([i]))
    stamp = placed.stamps[0]
    if isinstance(stamp, Exception):
        raise stamp
    options = {"x_interpolant": "lanczos15", "gsparams": _PARAMS}
    if placed.own_flux[0]:
        # Their sum may be nothing, of which GalSim knows no size.
        options |= {"calculate_stepk": False, "calculate_maxk": False}
    else:
        options["flux"] = 1.0
    picture = galsim.InterpolatedImage(galsim.ImageD(stamp.pixels.astype(np.float64)), scale=1.0, **options)
    if placed.is_unit[0]:
        return picture
    return galsim.JacobianWCS(*placed.inverse[0].ravel().tolist()).profileToWorld(picture)
