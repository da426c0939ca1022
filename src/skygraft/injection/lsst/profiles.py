"""GalSim objects of the sources, built as the package builds them, and which sources it cannot build."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import galsim
import numpy as np

from skygraft.catalog import Flag
from skygraft.errors import InjectionError
from skygraft.fitsfile.open import open_fits
from skygraft.render import Sources
from skygraft.render.profiles import LEAST_GALSIM_RATIO

__all__ = ["LIMITS_OF_N", "build_profile", "refusals"]

_BUILT = ("Star", "Sersic", "BulgeDisk", "Gaussian", "Moffat", "Trail", "Stamp")
LIMITS_OF_N = (0.3, 6.2)
"""Sérsic indices between these are drawn, but not these themselves."""
_TRAIL_WIDTH = 1e-6
"""Pixels."""
_WCS_KEYS = ("GS_WCS", "CD1_1", "CDELT1", "PC1_1", "PC001001")


def refusals(sources: Sources) -> dict[int, tuple[Flag, str]]:
    """Find the sources that the package cannot draw: row to the flag that it gets, and why.

    Parameters
    ----------
    sources : Sources
        In any order; those that cannot be drawn by anybody are not among them.
    """
    found: dict[int, tuple[Flag, str]] = {}
    for i, kind in enumerate(sources.source_type.tolist()):
        if kind not in _BUILT:
            found[i] = (
                Flag.TYPE_UNKNOWN,
                f"how it draws a {kind} is not reproduced here; skygraft's own conventions draw it",
            )
        elif kind not in ("Star", "Trail") and (
            sources.value("shear", i, 0.0) or sources.value("magnification", i, 1.0) != 1
        ):
            found[i] = Flag.PARAMETERS_BAD, "its shear and magnification are no columns of that package"
        elif kind not in ("Star", "Trail") and sources.value("trail_length", i, 0.0) > 0:
            found[i] = Flag.PARAMETERS_BAD, f"it moves during the exposure; a {kind} has no trail there"
        elif kind == "BulgeDisk":
            found[i] = Flag.TYPE_UNKNOWN, "it has no source_type BulgeDisk; give bulge and disk as two Sersics"
        elif kind == "Moffat" and sources.value("q", i, 1.0) != 1.0:
            q = sources.value("q", i, 1.0)
            found[i] = Flag.PARAMETERS_BAD, f"q is {q:g}; a Moffat is round there: its column beta is the exponent"
        elif kind == "Stamp" and sources.text("stamp_psf", i) == "none":
            found[i] = Flag.PARAMETERS_BAD, "stamp_psf is none; every stamp is convolved with the PSF there"
        elif kind == "Stamp" and (given := _not_of_package(sources, i)):
            found[i] = Flag.PARAMETERS_BAD, f"it has no column {given}"
        elif kind == "Sersic":
            n, trunc = sources.value("n", i, math.nan), sources.value("trunc", i, 0.0)
            radius = sources.value("half_light_radius", i, math.nan)
            if not LIMITS_OF_N[0] < n < LIMITS_OF_N[1]:
                low, high = LIMITS_OF_N
                found[i] = Flag.SERSIC_EXTREME, f"n is {n:g}; it draws indices between {low} and {high}, without both"
            elif trunc != 0 and not trunc > LEAST_GALSIM_RATIO * radius:
                least = f"GalSim draws profiles that end beyond {LEAST_GALSIM_RATIO} half-light radii"
                found[i] = Flag.PARAMETERS_BAD, f"trunc is {trunc:g} at a half-light radius of {radius:g}; {least}"
    return found


def _not_of_package(sources: Sources, i: int) -> str:
    """Name of the first column of a stamp that says what the package does not know; empty for none."""
    said = {
        "stamp_index": sources.value("stamp_index", i, -1.0) >= 0,
        "stamp_rotation": sources.value("stamp_rotation", i, 0.0) != 0,
        "stamp_flux": sources.text("stamp_flux", i) == "stamp",
        "shear": sources.value("shear", i, 0.0) != 0,
        "magnification": sources.value("magnification", i, 1.0) != 1,
    }
    return next((name for name, is_said in said.items() if is_said), "")


def build_profile(sources: Sources, i: int) -> Any:
    """Build the GalSim object of source `i`, in arcsec (East, North), with its flux.

    Parameters
    ----------
    sources : Sources
        With Jacobians of `forward_jacobians`.
    i : int
        Which one.

    Raises
    ------
    InjectionError
        If a stamp cannot be used.
    """
    kind, flux = str(sources.source_type[i]), float(sources.flux[i])
    if kind == "Star":
        return galsim.DeltaFunction().withFlux(flux)
    if kind == "Trail":
        return _trail(sources, i).withFlux(flux)
    if kind == "Stamp":
        return _stamp(sources, i).withFlux(flux)
    radius = {"half_light_radius": sources.value("half_light_radius", i, math.nan)}
    if kind == "Gaussian":
        return _sheared(galsim.Gaussian(**radius), sources, i).withFlux(flux)
    if kind == "Moffat":
        return galsim.Moffat(beta=sources.value("moffat_beta", i, math.nan), **radius).withFlux(flux)
    trunc = sources.value("trunc", i, 0.0)
    return _sheared(galsim.Sersic(n=sources.value("n", i, math.nan), trunc=trunc, **radius), sources, i).withFlux(flux)


def _sheared(profile: Any, sources: Sources, i: int) -> Any:
    # Its angle beta is from East to North.
    return profile.shear(q=sources.value("q", i, 1.0), beta=(90.0 - sources.value("pa", i, 0.0)) * galsim.degrees)


def _trail(sources: Sources, i: int) -> Any:
    """Build a trail: a very thin box in pixels, mapped to the sky by the Jacobian."""
    jacobian = sources.jacobian[i]
    length, angle = sources.value("trail_length_pix", i, math.nan), sources.value("trail_angle_pix", i, 0.0)
    if not math.isfinite(length):
        on_sky, pa = sources.value("trail_length", i, math.nan), math.radians(sources.value("trail_pa", i, 0.0))
        dx, dy = np.linalg.solve(jacobian, [on_sky * math.sin(pa), on_sky * math.cos(pa)]).tolist()
        length, angle = math.hypot(dx, dy), math.degrees(math.atan2(dy, dx))
    box = galsim.Box(length, _TRAIL_WIDTH).rotate(angle * galsim.degrees)
    return box.transform(*jacobian.ravel().tolist())


def _stamp(sources: Sources, i: int) -> Any:
    path = Path(sources.text("stamp", i))
    try:
        image, has_wcs = _read_stamp(path, path.stat().st_mtime_ns)
    except Exception as error:  # a header can make GalSim raise anything
        raise _stamp_error(f"the stamp cannot be read ({error})", sources, i) from error
    if sources.text("stamp_alignment", i, "pixel") == "pixel":
        image = galsim.Image(image, wcs=galsim.JacobianWCS(*sources.jacobian[i].ravel().tolist()))
    elif not has_wcs:
        raise _stamp_error("the stamp has no WCS to align it by", sources, i)
    return galsim.InterpolatedImage(image, calculate_stepk=False)


@functools.lru_cache(maxsize=256)
def _read_stamp(path: Path, modified: int) -> tuple[Any, bool]:
    """Read the first image of a file with its WCS by GalSim, and whether the file has a WCS."""
    with open_fits(path, memmap=False) as hdus:
        images = [index for index, hdu in enumerate(hdus) if hdu.is_image and hdu.size > 0]
    if not images:
        raise ValueError("no HDU holds an image")
    image = galsim.fits.read(str(path), hdu=images[0], read_header=True)
    # Without a WCS it gets one of an arcsecond a pixel.
    has_wcs = image.wcs != galsim.PixelScale(1.0) or any(key in image.header for key in _WCS_KEYS)
    return image, has_wcs


def _stamp_error(message: str, sources: Sources, i: int) -> InjectionError:
    return InjectionError(
        message,
        path=sources.text("stamp", i),
        row=f"injection_id {sources.injection_id[i]}",
        key="stamp",
        fix="Check the catalogue's stamp column",
    )
