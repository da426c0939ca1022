r"""The difference of coadd and visits as a sum of terms, each from changing one thing, and the reasons that they name.

All are :math:`-2.5 \log_{10} F(I)/F(J)` of fluxes in the calibration aperture on the coadd's pixels:

=========  ================================================================  ==========================================
term       from                                                              to
=========  ================================================================  ==========================================
psf        C, the coadd's injection                                          the visits' light, not interpolated, in
                                                                             the coadd's reference and magnitudes, with
                                                                             the weights that the coadd's pixels show
warping    that                                                              the same, warped by Lanczos-3
magnitude  that                                                              with the visits' own magnitudes
reference  that                                                              with the visits' own references
weights    that                                                              with the assumed weights, of all visits
clipping   that                                                              R: without masked pixels
=========  ================================================================  ==========================================

Fluxes are sums over pixels, so every step but the last is a weighted mean of what was measured in each visit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.qa.consistency.comparison import Comparison
from skygraft.qa.consistency.grids import moments
from skygraft.qa.consistency.pixels import PixelFindings
from skygraft.qa.consistency.settings import REASONS, ConsistencySettings

__all__ = ["SCHEMA", "TERMS", "VERDICTS", "consistency_table", "missing_visits"]

type FloatArray = NDArray[np.float64]

TERMS = ("psf", "warping", "magnitude", "reference", "weights", "clipping")
"""Names of the terms, in the order of the chain."""
VERDICTS = ("agrees", "differs", "cannot tell")

_ABSENT, _PRESENT_ERROR = 0.3, 0.15
"""A visit with less than this of its weight in the coadd, known to this error, is not in it."""
_SIGNIFICANT = 4.0
_LEAST_CORE = 0.01
_NOT_GIVEN = "is not given"


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


_NUMBER = pa.float64()
SCHEMA = pa.schema(
    [
        _field("injection_id", pa.int64()),
        _field("image_id", pa.string()),
        _field("band", pa.string()),
        _field("source_type", pa.string()),
        _field("ra", _NUMBER, "deg"),
        _field("dec", _NUMBER, "deg"),
        _field("x", _NUMBER, "pix"),
        _field("y", _NUMBER, "pix"),
        _field("mag", _NUMBER, "mag"),
        _field("radius", _NUMBER, "pix"),
        _field("coadd_flux", _NUMBER),
        _field("reference_flux", _NUMBER),
        _field("difference", _NUMBER, "mag"),
        *(_field(f"{name}_term", _NUMBER, "mag") for name in TERMS),
        _field("remainder", _NUMBER, "mag"),
        _field("centroid_offset", _NUMBER, "pix"),
        _field("size_ratio", _NUMBER),
        _field("psf_size_ratio", _NUMBER),
        _field("clipping_size_ratio", _NUMBER),
        _field("n_visits", pa.int64()),
        _field("visits", pa.list_(pa.string())),
        _field("weights", pa.list_(_NUMBER)),
        _field("zeropoint_offset", _NUMBER, "mag"),
        _field("zeropoint_error", _NUMBER, "mag"),
        _field("wcs_dx", _NUMBER, "pix"),
        _field("wcs_dy", _NUMBER, "pix"),
        _field("wcs_error", _NUMBER, "pix"),
        _field("reasons", pa.list_(pa.string())),
        _field("note", pa.string()),
        _field("verdict", pa.string()),
    ]
)
"""Columns of the table: a row for each source and coadd."""


@dataclass(frozen=True, eq=False)
class _Means:
    """Weighted means over the visits, for each source: sums (N, 7)."""

    ideal: FloatArray
    warped: FloatArray
    own_magnitudes: FloatArray
    own_references: FloatArray
    assumed: FloatArray


def missing_visits(found: PixelFindings) -> list[str]:
    """Name the visits that the coadd's pixels do not hold.

    Parameters
    ----------
    found : PixelFindings
        Of the coadd.

    Returns
    -------
    list of str
    """
    return [
        name
        for name, value in found.present.items()
        if value < _ABSENT and found.present_error[name] < _PRESENT_ERROR and found.present_error[name] * 3 < 1 - value
    ]


def consistency_table(work: Comparison, found: PixelFindings, given: Mapping[str, str] | None = None) -> pa.Table:
    """Judge every source of a coadd.

    Parameters
    ----------
    work : Comparison
        With all visits added.
    found : PixelFindings
        What the images' own pixels say.
    given : mapping of str to str, optional
        Image ids of visits by the names that coadds list their inputs by, to tell which inputs are missing.

    Returns
    -------
    pyarrow.Table
        Columns of `SCHEMA`, rows in order of ``injection_id``.
    """
    settings, n = work.settings, len(work)
    absent = set(missing_visits(found))
    means, names, weights = _means(work, found)
    reference, covered = work.reference_sums()
    flux = {
        "coadd": work.coadd_sums[:, 0],
        "reference": reference[:, 0],
    }
    chain = [
        work.coadd_sums, means.ideal, means.warped, means.own_magnitudes, means.own_references, means.assumed, reference
    ]  # fmt: skip
    terms = {name: _mag(chain[i][:, 0], chain[i + 1][:, 0]) for i, name in enumerate(TERMS)}
    difference = _mag(flux["coadd"], flux["reference"])
    size = {
        name: moments(sums, work.sigma)
        for name, sums in (
            ("coadd", work.coadd_sums), ("reference", reference), ("warped", means.warped), ("assumed", means.assumed),
        )
    }  # fmt: skip
    centroid = np.hypot(size["coadd"].x - size["reference"].x, size["coadd"].y - size["reference"].y)
    n_visits = np.array([len(one) for one in names], dtype=np.int64)
    columns: dict[str, Any] = {
        "difference": difference,
        **{f"{name}_term": values for name, values in terms.items()},
        "remainder": difference - sum(terms.values()),
        "centroid_offset": centroid,
        "size_ratio": size["coadd"].size / size["reference"].size,
        "psf_size_ratio": size["coadd"].size / size["warped"].size,
        "clipping_size_ratio": size["reference"].size / size["assumed"].size,
    }
    missing = _missing(work, names, absent, given or {})
    crossed = np.zeros(n, np.bool_)
    for one in work.visits:
        crossed[one.rows[one.crossed]] = True
    shifted = _shifted(work, found, settings)
    reasons = _reasons(columns, found, missing, crossed, np.array([bool(one) for one in shifted]), settings)
    note = _notes(work, n_visits, covered, [a + b for a, b in zip(missing, shifted, strict=True)])
    differs = np.array([bool(one) for one in reasons], dtype=np.bool_)
    # A PSF model ends with its visit, and the visit's light does not: there is no verdict on that.
    unknown = (n_visits == 0) | ~covered | ~np.isfinite(difference) | np.array([one == ["EDGE"] for one in reasons])
    verdict = np.where(unknown | (differs & work.blended), VERDICTS[2], np.where(differs, VERDICTS[1], VERDICTS[0]))
    truth = work.coadd.truth
    columns |= {
        "injection_id": work.ids,
        "image_id": [work.coadd.image_id] * n,
        "band": [str(one) for one in truth["band"][work.rows]],
        "source_type": np.asarray(truth["source_type"]).astype(str)[work.rows].tolist(),
        "ra": work.ra,
        "dec": work.dec,
        "x": work.x,
        "y": work.y,
        "mag": work.mag,
        "radius": np.full(n, work.radius),
        "coadd_flux": flux["coadd"],
        "reference_flux": flux["reference"],
        "n_visits": n_visits,
        "visits": names,
        "weights": weights,
        "zeropoint_offset": np.full(n, found.zeropoint),
        "zeropoint_error": np.full(n, found.zeropoint_error),
        "wcs_dx": np.full(n, found.dx),
        "wcs_dy": np.full(n, found.dy),
        "wcs_error": np.full(n, found.shift_error),
        "reasons": reasons,
        "note": note,
        "verdict": verdict.tolist(),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)


def _mag(one: FloatArray, other: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((one > 0) & (other > 0), one / other, np.nan)
        return np.asarray(-2.5 * np.log10(ratio))


def _means(work: Comparison, found: PixelFindings) -> tuple[_Means, list[list[str]], list[list[float]]]:
    """Weighted means over visits; and the names and assumed weights (of sum one) of those that hold each source."""
    shape = work.coadd_sums.shape
    sums = np.zeros((5, *shape))
    totals = np.zeros((2, shape[0]))
    names: list[list[str]] = [[] for _ in range(shape[0])]
    weights: list[list[float]] = [[] for _ in range(shape[0])]
    for one in work.visits:
        rows, weight = one.rows, one.weight
        real = weight * max(found.present.get(one.name, 1.0), 0.0)
        reference, magnitude = one.reference[:, None], one.magnitude[:, None]
        # The coadd's magnitude in the coadd's reference; then the visit's own, one after the other.
        sums[0, rows] += real * one.ideal * reference * magnitude
        sums[1, rows] += real * one.warped * reference * magnitude
        sums[2, rows] += real * one.warped * reference
        sums[3, rows] += real * one.warped
        sums[4, rows] += weight * one.warped
        totals[0, rows] += real
        totals[1, rows] += weight
        for row in rows.tolist():
            names[row].append(one.name)
            weights[row].append(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums[:4] /= totals[0][:, None]
        sums[4] /= totals[1][:, None]
    shares = [[w / sum(own) for w in own] for own in weights]
    return _Means(*sums), names, shares


def _missing(work: Comparison, names: list[list[str]], absent: set[str], given: Mapping[str, str]) -> list[list[str]]:
    """Which visits of each source are not in the coadd, or listed by it and not given."""
    missing = [[f"{name} is not in the coadd" for name in own if name in absent] for own in names]
    if work.listed_at is None or not given:
        return missing
    for own, listed in zip(missing, work.listed_at, strict=True):
        own += [f"input {name} {_NOT_GIVEN}" for name in listed if name not in given]
    return missing


def _shifted(work: Comparison, found: PixelFindings, settings: ConsistencySettings) -> list[list[str]]:
    """Which visits of each source have a WCS that the coadd's light contradicts."""
    texts: list[list[str]] = [[] for _ in range(len(work))]
    for one in work.visits:
        dx, dy, error = found.visit_shifts.get(one.name, (0.0, 0.0, 0.0))
        offset = float(np.hypot(dx, dy))
        if _exceeds(offset, error, 2 * settings.position_tolerance):
            for row in one.rows.tolist():
                texts[row].append(f"the WCS of {one.name} is {offset:.2f} pix off the coadd's light")
    return texts


def _reasons(
    columns: Mapping[str, FloatArray],
    found: PixelFindings,
    missing: list[list[str]],
    crossed: NDArray[np.bool_],
    shifted: NDArray[np.bool_],
    settings: ConsistencySettings,
) -> list[list[str]]:
    """The reasons of each source, in the order of `REASONS`."""
    tolerance, size = settings.tolerance, settings.size_tolerance
    with np.errstate(invalid="ignore"):
        large = {name: np.abs(columns[f"{name}_term"]) > tolerance for name in TERMS}
        n = len(columns["difference"])
        lost = np.array([bool(one) for one in missing], dtype=np.bool_).reshape(n)
        # The mean of the visits lacks what is in the coadd's PSF.
        lacking = np.array([any(_NOT_GIVEN in text for text in one) for one in missing], dtype=np.bool_).reshape(n)
        clipped = large["clipping"] | (np.abs(columns["clipping_size_ratio"] - 1) > size)
        moved = columns["centroid_offset"] > settings.position_tolerance
        off = {
            "PSF_MODEL": (large["psf"] | (np.abs(columns["psf_size_ratio"] - 1) > size)) & ~lacking,
            "WARPING": large["warping"],
            "CALIBRATION": large["reference"],
            "MAGNITUDE": large["magnitude"],
            "WEIGHTS": large["weights"] & ~lost,
            "MISSING_VISITS": lost,
            "CLIPPING": (clipped & ~crossed) | _clipped(found),
            "ZEROPOINT": np.full(n, _exceeds(found.zeropoint, found.zeropoint_error, tolerance)),
            "WCS_OFFSET": shifted
            | _exceeds(float(np.hypot(found.dx, found.dy)), found.shift_error, settings.position_tolerance),
            "POSITION": moved & ~crossed,
            "EDGE": crossed & (clipped | moved),
        }
        explained = np.any(list(off.values()), axis=0)
        unexplained = (np.abs(columns["difference"]) > tolerance) & ~explained
        off["REMAINDER"] = unexplained | (np.abs(columns["remainder"]) > tolerance)
    order = [name for name in REASONS if name in off]
    table = np.stack([np.broadcast_to(off[name], n) for name in order], axis=1)
    return [[name for name, here in zip(order, row, strict=True) if here] for row in table.tolist()]


def _exceeds(value: float, error: float, tolerance: float) -> bool:
    return bool(np.isfinite(value) and abs(value) > tolerance and not abs(value) < _SIGNIFICANT * error)


def _clipped(found: PixelFindings) -> bool:
    """Whether the coadd's own objects lack light in their cores."""
    return _exceeds(min(found.core, 0.0) if np.isfinite(found.core) else np.nan, found.core_error, _LEAST_CORE)


def _notes(
    work: Comparison, n_visits: NDArray[np.int64], covered: NDArray[np.bool_], missing: list[list[str]]
) -> list[str]:
    """What else is to be said of each source."""
    notes = []
    for n, whole, clipped, blended, lost in zip(
        n_visits.tolist(), covered.tolist(), work.clipped.tolist(), work.blended.tolist(), missing, strict=True
    ):
        some = list(lost)
        if not n:
            some.append("no visit holds its aperture")
        elif not whole:
            some.append("pixels of its aperture are in no visit, or masked in all")
        if clipped:
            some.append("the coadd marks pixels at its place as clipped")
        if len(work) < work.n_sources:
            some.append(f"a sample of {len(work):,} of the {work.n_sources:,} sources of the coadd")
        if blended:
            some.append("light of other injected sources in its aperture")
        notes.append("; ".join(some))
    return notes
