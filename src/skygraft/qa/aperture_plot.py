"""Draw curves of growth of an image's stars and of its fakes, and the fitted radii of a campaign."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from skygraft.qa.aperture_check import ApertureCheck
from skygraft.qa.aperture_fit import FITS, WRONG

__all__ = ["aperture_figure", "campaign_figure"]

STAR, FAKE, STATED = "#2a6fba", "#e07b00", "0.25"
_COLOURS = {FITS: "#2e8b57", WRONG: "#c8352e"}
_NAMES = {
    "reference": "real stars, against reference magnitudes",
    "pipeline": "real stars, against the pipeline's calibration fluxes",
    "column": "calibration flux of the catalogue",
    "correction": "real stars, against corrected PSF fluxes",
    "model": "PSF model, against the recorded aperture correction",
}
_TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300)


def aperture_figure(check: ApertureCheck, fakes: NDArray[np.float64] | None = None) -> Figure:
    """Draw curves of growth against the radius: of real stars and of fakes, with the stated and the fitted radius.

    Parameters
    ----------
    check : ApertureCheck
    fakes : ndarray, shape (K,), optional
        Measured curve of the fakes at the radii of the check, magnitudes; by default only that of the PSF model.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(8.6, 7.4), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    stated = check.stated["radius_pixels"]
    fitted = _draw_evidence(upper, check)
    if np.isfinite(check.model).any():
        label = "fakes: the PSF model" + ("" if stated is None else f", scaled to {stated:g} pix")
        upper.plot(check.radii, check.model, color=FAKE, lw=2, label=label, zorder=3)
    if fakes is not None and np.isfinite(fakes).any():
        upper.plot(check.radii, fakes, "D", ms=4, color=FAKE, mew=0, label="fakes, measured", zorder=4)
    upper.axhline(0, color="0.4", lw=0.8)
    for axis in (upper, lower):
        if stated is not None:
            name = f"stated: {stated:g} pix" if axis is upper else None
            axis.axvline(stated, color=STATED, lw=1.4, ls="--", label=name)
        if fitted is not None and math.isfinite(fitted.fit.radius):
            r, dr = fitted.fit.radius, fitted.fit.radius_error if math.isfinite(fitted.fit.radius_error) else 0.0
            name = f"fitted: {r:.2f} ± {dr:.2f} pix" if axis is upper else None
            axis.axvspan(max(r - dr, 1e-3), r + dr, color=STAR, alpha=0.25, lw=0)
            axis.axvline(r, color=STAR, lw=1.4, label=name)
        axis.spines[["top", "right"]].set_visible(False)
    upper.set_ylabel("flux inside, relative to what the zeropoint promises (mag)")
    upper.invert_yaxis()
    _limits(upper, check)
    upper.legend(loc="lower right", fontsize=9, frameon=False)
    upper.set_title(
        f"{check.image_id}: {check.verdict}", color=_COLOURS.get(check.verdict, "0.3"), loc="left", weight="bold"
    )
    _shape(lower, check)
    _ticks(lower, check.radii)
    arcsec = f" (1 pix = {check.pixel_scale:.3f} arcsec)" if math.isfinite(check.pixel_scale) else ""
    lower.set_xlabel(f"radius (pix){arcsec}")
    return figure


def _draw_evidence(axis: Axes, check: ApertureCheck) -> Any:
    """Curves of what tells; the one that the verdict is from is drawn boldly. Without any, the shape alone."""
    best = check.best
    shown = [e for e in check.evidence if np.isfinite(e.fit.curve).any()]
    for one in shown:
        fit, strong = one.fit, one is best
        axis.errorbar(
            fit.radii, fit.curve, fit.curve_error, fmt="o", ms=5 if strong else 3.5, color=STAR, lw=1,
            alpha=1.0 if strong else 0.45, mfc=STAR if strong else "white", capsize=0, zorder=5 if strong else 2,
            label=f"{_NAMES[one.kind]} ({fit.n})",
        )  # fmt: skip
        if strong and math.isfinite(fit.threshold):
            axis.axhspan(-fit.threshold, fit.threshold, color="0.9", lw=0, zorder=0, label="allowed")
    if not shown and np.isfinite(check.stars).any():
        axis.errorbar(
            check.radii, check.stars, check.stars_error, fmt="o", ms=4, color="0.55", lw=1,
            label=f"real stars ({check.n_stars}): their shape only",
        )  # fmt: skip
    return best


def _limits(axis: Axes, check: ApertureCheck) -> None:
    curves = [e.fit.curve for e in check.evidence] + [check.model, check.stars]
    inside = check.radii >= 0.33 * (check.stated["radius_pixels"] or 3 * check.fwhm or 10.0)
    values = np.concatenate([c[inside] for c in curves if len(c) == len(check.radii)] or [np.zeros(1)])
    values = values[np.isfinite(values)]
    if values.size:
        low, high = min(float(values.min()), -0.02), max(float(values.max()), 0.02)
        axis.set_ylim(high + 0.08 * (high - low), low - 0.12 * (high - low))


def _shape(axis: Axes, check: ApertureCheck) -> None:
    """Stars minus PSF model, both relative to the stated radius: whether the model has the stars' wings."""
    difference = 1e3 * (check.stars - check.model)
    axis.axhline(0, color="0.4", lw=0.8)
    if np.isfinite(difference).any():
        axis.errorbar(check.radii, difference, 1e3 * check.stars_error, fmt="o", ms=4, color="0.4", lw=1)
        there = np.isfinite(difference) & (check.radii > 0.33 * check.radii[-1] / 3)
        reach = max(6.0, 1.4 * float(np.nanmax(np.abs(difference[there]), initial=0.0)))
        axis.set_ylim(reach, -reach)
    else:
        axis.text(0.5, 0.5, "no stars, or no PSF model", transform=axis.transAxes, ha="center", color="0.5")
    axis.set_ylabel("stars − PSF model (mmag)")


def _ticks(axis: Axes, radii: NDArray[np.float64]) -> None:
    axis.set_xscale("log")
    if len(radii):
        axis.set_xlim(0.95 * radii[0], 1.05 * radii[-1])
        axis.xaxis.set_major_locator(FixedLocator([t for t in _TICKS if radii[0] <= t <= radii[-1]]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def campaign_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw the fitted radius of each image, by instrument and band, with the stated one.

    Parameters
    ----------
    rows : list of dict
        Of the table ``apertures``, one an image.

    Returns
    -------
    matplotlib.figure.Figure
    """
    keys = sorted({(r["instrument"] or "", r["band"] or "") for r in rows})
    figure = Figure(figsize=(8.6, 1.6 + 2.3 * max(1, len(keys))), facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(max(1, len(keys)), 1, squeeze=False).ravel())
    for axis, key in zip(axes, keys, strict=False):
        own = [r for r in rows if (r["instrument"] or "", r["band"] or "") == key]
        _radii(axis, own)
        axis.set_title(" ".join(k for k in key if k) or "images", loc="left", fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel("radius (pix)")
    axes[-1].set_xlabel("image, in the order of the table")
    return figure


def _radii(axis: Axes, rows: list[dict[str, Any]]) -> None:
    place = np.arange(len(rows))
    fitted, error, stated = (
        np.array([math.nan if r[name] is None else r[name] for r in rows], dtype=float)
        for name in ("fitted_radius_pixels", "fitted_radius_error", "radius_pixels")
    )
    axis.step(place, stated, where="mid", color=STATED, lw=1.4, ls="--", label="stated")
    for verdict in (FITS, WRONG, "cannot tell"):
        some = np.array([r["verdict"] == verdict for r in rows])
        if some.any():
            axis.errorbar(
                place[some], fitted[some], np.nan_to_num(error[some]), fmt="o", ms=4, lw=1,
                color=_COLOURS.get(verdict, "0.6"), label=f"{verdict} ({int(some.sum())})",
            )  # fmt: skip
    known = np.concatenate([fitted[np.isfinite(fitted)], stated[np.isfinite(stated)]])
    if known.size:
        axis.set_ylim(0, 1.35 * float(np.percentile(known, 98)))
    axis.set_xlim(-0.7, len(rows) - 0.3)
    axis.legend(loc="lower left", fontsize=8.5, frameon=False, ncols=4)
