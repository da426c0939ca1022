"""Whether an image's zeropoint belongs to the radius that its record states: everything that can tell."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import SkygraftError
from skygraft.exposure import Exposure
from skygraft.photometry import CalibrationReference, describe_reference
from skygraft.qa.aperture_fit import NO_VERDICT, WRONG, ApertureVerdict
from skygraft.qa.aperture_look import TOLERANCES, ApertureLook, Evidence
from skygraft.qa.aperture_standards import Reference
from skygraft.qa.growth_stars import Stars
from skygraft.wcs import pixel_scale

__all__ = ["ApertureCheck", "check_aperture"]

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ApertureCheck:
    """Whether an image's zeropoint belongs to the stated radius.

    Parameters
    ----------
    image_id : str
    band, instrument : str
        Empty where they are not known.
    stated : dict
        ``kind``, ``radius_pixels``, ``radius_arcsec`` and ``origin`` of what is judged.
    pixel_scale : float
        Arcsec per pixel.
    fwhm : float
        Of the PSF model, or of the stars where there is none; pixels.
    verdict : {"fits", "does not fit", "cannot tell"}
    reason : str
        Why, and where nothing can be told what it would take.
    evidence : tuple of Evidence
        The strongest first; the verdict is that of the first that can tell.
    notes : tuple of str
        Evidence that is not there, and why; disagreement.
    n_stars : int
        Bright, isolated stars found on the image.
    left_out : dict of str to int
        Detections that are none, by reason.
    radii : ndarray, shape (K,)
        Pixels.
    stars, stars_error : ndarray, shape (K,)
        Mean curve of growth of the image's stars, magnitudes relative to the flux in the stated radius; NaN without.
    model : ndarray, shape (K,)
        The same of the PSF model, and so of the fakes drawn with it.
    """

    image_id: str
    band: str
    instrument: str
    stated: dict[str, Any]
    pixel_scale: float
    fwhm: float
    verdict: ApertureVerdict
    reason: str
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    n_stars: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    radii: Floats = field(default_factory=lambda: np.zeros(0))
    stars: Floats = field(default_factory=lambda: np.zeros(0))
    stars_error: Floats = field(default_factory=lambda: np.zeros(0))
    model: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def best(self) -> Evidence | None:
        """The evidence that the verdict is from, or the first with a radius."""
        told = [e for e in self.evidence if e.fit.verdict != NO_VERDICT]
        found = told or [e for e in self.evidence if math.isfinite(e.fit.radius)] or list(self.evidence)
        return found[0] if found else None

    def to_dict(self) -> dict[str, Any]:
        """Describe it by JSON types (NaN stays)."""
        names = ("image_id", "band", "instrument", "stated", "pixel_scale", "fwhm", "verdict", "reason", "n_stars",
                 "left_out")  # fmt: skip
        curves = {n: getattr(self, n).tolist() for n in ("radii", "stars", "stars_error", "model")}
        evidence = [e.to_dict() for e in self.evidence]
        return {**{n: getattr(self, n) for n in names}, "notes": list(self.notes), "evidence": evidence, **curves}


def check_aperture(
    exposure: Exposure,
    *,
    stated: CalibrationReference | None = None,
    catalog: str | os.PathLike[str] | bool = True,
    reference: Reference | None = None,
    tolerances: Mapping[str, float] | None = None,
    largest: int = 200,
    image_id: str | None = None,
) -> ApertureCheck:
    """Tell whether an image's zeropoint belongs to the radius that its record states.

    Parameters
    ----------
    exposure : Exposure
        The image, without fakes (stars that carry the plane ``INJECTED_CORE`` are left out).
    stated : CalibrationAperture, PSF_MODEL or TOTAL, optional
        What to judge; by default what the image records.
    catalog : path-like or bool
        Source catalogue of the pipeline; by default the one beside the image, as the image's format finds it; False for
        none.
    reference : Reference, optional
        Stars of known magnitude; see `skygraft.qa.aperture_standards.read_reference`.
    tolerances : mapping of str to float, optional
        Other values for some of `TOLERANCES`, mag.
    largest : int
        Number of stars to measure, the brightest.
    image_id : str, optional
        Name of the image; by default the exposure's own.

    Returns
    -------
    ApertureCheck

    Notes
    -----
    The shape of a curve of growth says nothing of the zeropoint: it takes stars of known magnitude, or what the
    pipeline measured on them. Without these the verdict is ``cannot tell``.
    """
    name = image_id or exposure.default_image_id()
    ids = (name, exposure.data_id.band or "", exposure.data_id.instrument or "")
    calib = exposure.photo_calib
    what = stated if stated is not None else (calib.reference if calib is not None else None)
    origin = calib.reference_origin if calib is not None and stated is None else ""
    described = describe_reference(what, origin)
    scale = _scale(exposure)
    if calib is None:
        why = "the image has no photometric calibration: give its zeropoint (--zeropoint)"
        return ApertureCheck(*ids, described, scale, math.nan, NO_VERDICT, why)
    look = ApertureLook(exposure, calib, what, scale, dict(TOLERANCES) | dict(tolerances or {}), largest)
    evidence: list[Evidence] = []
    notes: list[str] = []
    for found in (
        look.of_reference(reference),
        *look.of_pipeline(_catalog_path(exposure, catalog)),
        look.of_correction(),
    ):
        if isinstance(found, Evidence):
            evidence.append(found)
        elif found:
            notes.append(found)
    if look.scene.problem:
        notes.insert(0, look.scene.problem)
    elif not len(look.stars):
        notes.insert(0, f"no bright, isolated star is found ({_left_out(look.stars)})")
    verdict, reason = _conclude(what, evidence, notes, look)
    stars, stars_error, model = look.shapes()
    return ApertureCheck(
        *ids, described, scale, look.fwhm, verdict, reason, tuple(evidence), tuple(notes), len(look.stars),
        look.stars.left_out, look.radii, stars, stars_error, model,
    )  # fmt: skip


def _conclude(
    what: CalibrationReference | None, evidence: list[Evidence], notes: list[str], look: ApertureLook
) -> tuple[ApertureVerdict, str]:
    told = [e for e in evidence if e.fit.verdict != NO_VERDICT]
    if what is None:
        first = next((e.fit for e in evidence if math.isfinite(e.fit.radius)), None)
        fits = "" if first is None else f"; its zeropoint would fit {first.radius:.2f} ± {first.radius_error:.2f} pix"
        how = "" if evidence else ": say what it is (--aperture), and give stars of known magnitude (--reference)"
        return NO_VERDICT, f"the image records no radius{fits}{how}"
    if told:
        best = told[0]
        against = [e for e in told[1:] if e.fit.verdict != best.fit.verdict]
        notes.extend(f"disagrees: by its {e.kind} ({e.origin}) it {e.fit.verdict}: {e.fit.reason}" for e in against)
        reason = best.fit.reason
        if best.fit.verdict == WRONG and not math.isfinite(best.fit.radius):
            reason += "; no radius would fit: is the zeropoint that of this image, and are the magnitudes of its band?"
        return best.fit.verdict, reason
    if evidence:
        return NO_VERDICT, evidence[0].fit.reason
    if look.scene.problem:
        return NO_VERDICT, f"{look.scene.problem}, and no catalogue or aperture correction tells without pixels"
    return NO_VERDICT, (
        "the stars on an image cannot tell what its zeropoint is the flux of: give stars of known magnitude "
        "(--reference), or the pipeline's source catalogue (--catalog)"
    )


def _left_out(stars: Stars) -> str:
    found = [f"{n} {name}" for name, n in stars.left_out.items() if n]
    return ", ".join(found) or "no detections"


def _scale(exposure: Exposure) -> float:
    try:
        return float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])
    except (SkygraftError, ArithmeticError, ValueError):
        return math.nan


def _catalog_path(exposure: Exposure, given: str | os.PathLike[str] | bool) -> str | os.PathLike[str] | None:
    from skygraft.formats.afw_names import find_source_catalog

    if not isinstance(given, bool):
        return given
    if not given or exposure.path is None or exposure.format != "lsst_afw":
        return None
    return find_source_catalog(exposure.path)
