"""Decide what an image's calibrated flux is the flux of, from everything that was found about it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence

from skygraft.errors import (
    ApertureConflictError,
    CalibrationError,
    UncalibratedImageError,
    UnknownApertureError,
)
from skygraft.photometry.photo_calib import PhotoCalib
from skygraft.photometry.reference import (
    PSF_MODEL,
    TOTAL,
    CalibrationAperture,
    CalibrationReference,
    CandidateLevel,
    ReferenceCandidate,
)

__all__ = ["RADIUS_TOLERANCE", "require_reference", "resolve_reference"]

RADIUS_TOLERANCE = 0.005
"""Relative difference below which two radii agree.

With FWHM 1 arcsec (Moffat, beta 2.5) and a radius of 2 arcsec, the flux inside changes by 0.16 of the relative change
of the radius, so half a per cent is less than a millimagnitude. A radius in arcsec that was rounded by more than
that (HSC's 12 pixels are 2.016 arcsec, not 2) is told apart on purpose.
"""

_LEVELS: dict[CandidateLevel, int] = {"explicit": 0, "header": 1, "schema": 2, "fgcm": 3, "default": 4}
_HOW_TO_SET = (
    "Say what it is: 'survey: calibration: {aperture: 12 pix}' in the campaign's YAML, --aperture '12 pix' on the "
    "command line, aperture='12 pix' in Python (a radius, in pix or arcsec; or 'psf_model', or 'total')"
)


def resolve_reference(
    candidates: Iterable[ReferenceCandidate],
    *,
    pixel_scale: float | None,
    path: str | os.PathLike[str] | None = None,
) -> tuple[CalibrationReference | None, str]:
    """Decide between candidates: all that were found must agree, and defaults count only where nothing was found.

    Parameters
    ----------
    candidates : iterable of ReferenceCandidate
        From the explicit setting, the header, the source catalogue's schema, FGCM, the registered defaults. Hints
        are ignored here.
    pixel_scale : float or None
        Local pixel scale of the image, arcsec per pixel; None where it is not known.
    path : path-like, optional
        The image, for messages.

    Returns
    -------
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What the most specific candidate says (explicit, then header, schema, FGCM, default); None where there is
        no candidate, or the most specific one is unclear. See `require_reference` for where None is not good enough.
    origin : str
        Where it was found; empty for None.

    Raises
    ------
    ApertureConflictError
        If two candidates disagree: different kinds, or radii further apart than `RADIUS_TOLERANCE`.
    CalibrationError
        If a radius is in arcsec and the pixel scale is not known.
    """
    found = sorted((c for c in candidates if c.level != "hint"), key=lambda c: _LEVELS[c.level])
    decisive = [c for c in found if c.level != "default"] or found
    if not decisive or decisive[0].kind == "unclear":
        return None, ""
    decisive = [c for c in decisive if c.kind != "unclear"]
    if pixel_scale is not None and not 0 < pixel_scale < math.inf:
        raise CalibrationError(
            f"the pixel scale is {pixel_scale!r} arcsec; a positive, finite number is needed", path=path
        )
    references = [_reference(c, pixel_scale, path) for c in decisive]
    for candidate, reference in zip(decisive[1:], references[1:], strict=True):
        if not _agree(references[0], reference):
            raise _conflict(decisive[0], references[0], candidate, reference, path)
    return references[0], decisive[0].origin


def _reference(
    candidate: ReferenceCandidate, pixel_scale: float | None, path: str | os.PathLike[str] | None
) -> CalibrationReference:
    if candidate.kind != "aperture":
        return PSF_MODEL if candidate.kind == "psf_model" else TOTAL
    pixels, arcsec = candidate.radius_pixels, candidate.radius_arcsec
    if pixels is None:
        if pixel_scale is None or arcsec is None:
            raise CalibrationError(
                f"the calibration radius {candidate} cannot be turned into pixels: the pixel scale is not known",
                path=path,
                fix="Give the radius in pixels, or an image with a celestial WCS",
            )
        return CalibrationAperture(arcsec / pixel_scale, arcsec, candidate.origin, unit="arcsec")
    if pixel_scale is None:
        return CalibrationAperture(pixels, arcsec, candidate.origin)
    sky = pixels * pixel_scale
    if arcsec is not None and not math.isclose(sky, arcsec, rel_tol=RADIUS_TOLERANCE):
        raise CalibrationError(
            f"the calibration radius {candidate} contradicts itself: {pixels:g} pix are {sky:.4g} arcsec here "
            f"({pixel_scale:.4g} arcsec per pixel)",
            path=path,
            fix="Give one of the two",
        )
    return CalibrationAperture(pixels, sky, candidate.origin)


def _agree(a: CalibrationReference, b: CalibrationReference) -> bool:
    if isinstance(a, CalibrationAperture) and isinstance(b, CalibrationAperture):
        return math.isclose(a.radius_pixels, b.radius_pixels, rel_tol=RADIUS_TOLERANCE)
    return a is b


def _conflict(
    first: ReferenceCandidate,
    first_reference: CalibrationReference,
    second: ReferenceCandidate,
    second_reference: CalibrationReference,
    path: str | os.PathLike[str] | None,
) -> ApertureConflictError:
    def statement(candidate: ReferenceCandidate, reference: CalibrationReference) -> str:
        value = candidate.value
        if isinstance(reference, CalibrationAperture):
            value = f"{reference.radius_pixels:.5g} pix"
            if reference.radius_arcsec is not None:
                value += f" = {reference.radius_arcsec:.4g} arcsec"
        return f"{value} according to {candidate.origin}"

    if first.level == "explicit":
        fix = (
            "Correct or remove the setting; if the image's own record is wrong, correct it there, or ask for that "
            "radius by itself (flux_mode: aperture)"
        )
    else:
        fix = "Correct the one that is wrong"
        if second.level != "default":
            fix += ", or ask for the radius that you mean by itself (flux_mode: aperture)"
    if isinstance(first_reference, CalibrationAperture) and isinstance(second_reference, CalibrationAperture):
        ratio = second_reference.radius_pixels / first_reference.radius_pixels
        if abs(ratio - 1) < 0.02:
            fix += f". They differ by {100 * abs(ratio - 1):.1f} %: if one was rounded, give it exactly"
        elif math.isclose(ratio, 2, rel_tol=0.02) or math.isclose(ratio, 0.5, rel_tol=0.02):
            fix += ". One is twice the other: is it a diameter"
            fix += " (then give it as {diameter: ...})"
    return ApertureConflictError(
        "two places disagree about what the calibrated flux is the flux of: "
        f"{statement(first, first_reference)}; {statement(second, second_reference)}",
        path=path,
        key="aperture",
        fix=fix,
    )


def require_reference(
    photo_calib: PhotoCalib | None, path: str | os.PathLike[str] | None = None
) -> CalibrationReference:
    """Give the reference of a calibration, or raise an error that says how to set it.

    Parameters
    ----------
    photo_calib : PhotoCalib or None
        The image's calibration.
    path : path-like, optional
        The image, for messages.

    Returns
    -------
    CalibrationAperture, PSF_MODEL or TOTAL

    Raises
    ------
    UncalibratedImageError
        If there is no calibration.
    UnknownApertureError
        If nothing says what the calibrated flux is the flux of.
    """
    if photo_calib is None:
        raise UncalibratedImageError(
            "the image has no photometric calibration",
            path=path,
            fix="Calibrate it, or give its zeropoint (photo_calib=PhotoCalib.from_zeropoint(...))",
        )
    if photo_calib.reference is not None:
        return photo_calib.reference
    unclear = [c.origin for c in photo_calib.candidates if c.kind == "unclear"]
    if unclear:
        raise UnknownApertureError(
            "what the calibrated flux is the flux of cannot be told, and skygraft does not guess: "
            + "; ".join(unclear),
            path=path,
            key="aperture",
            fix=_HOW_TO_SET,
        )
    hints = _hints(photo_calib.candidates)
    raise UnknownApertureError(
        f"nothing says what the calibrated flux is the flux of, and skygraft does not guess{hints}",
        path=path,
        key="aperture",
        fix=_HOW_TO_SET,
    )


def _hints(candidates: Sequence[ReferenceCandidate]) -> str:
    hints = [str(c) for c in candidates if c.level == "hint"]
    return f" (a hint, not proof: {'; '.join(hints)})" if hints else ""
