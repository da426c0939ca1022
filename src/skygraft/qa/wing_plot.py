"""Draw the profiles of stars, their stack, and the wings that were fitted to them."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from skygraft.qa.wing_fit import WingFit

__all__ = ["wing_figure"]

_STARS, _STACK, _FIT, _KERNEL = "0.7", "#2a6fba", "#c8352e", "#2e8b57"


def wing_figure(fit: WingFit, title: str = "") -> Figure:
    """Draw surface brightness against radius, and the stack over the fitted formula.

    Parameters
    ----------
    fit : WingFit
        The fit.
    title : str
        What was fitted.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(8.6, 7.4), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    scale, radii = fit.pixel_scale, fit.radii * fit.pixel_scale
    for k, own in enumerate(fit.relative):
        lit = np.where(own > 0, own, np.nan)
        upper.plot(radii, lit, color=_STARS, lw=0.7, zorder=1, label="stars, less their sky" if k == 0 else None)
    positive = fit.profile > 0
    upper.errorbar(
        radii[positive], fit.profile[positive], np.minimum(fit.errors, 0.999 * np.abs(fit.profile))[positive],
        fmt="o", ms=4, color=_STACK, lw=1.2, label=f"stack of {len(fit.stars)} stars", zorder=3,
    )  # fmt: skip
    at = np.geomspace(min(fit.radii[0], fit.join - fit.blend), fit.radii[-1], 300)
    model = fit.model(at)
    numbers = ", ".join(
        f"{name} {value:.3g} ± {fit.parameter_errors[name]:.2g}" for name, value in fit.parameters.items()
    )
    kind = "power law" if "alpha" in fit.parameters else "Moffat"
    upper.plot(at * scale, model, color=_FIT, lw=1.8, label=f"{kind}: {numbers}", zorder=4)
    if fit.kernel is not None:
        r, value = fit.kernel
        seen = (value > 0) & (r > 0.5)
        upper.plot(r[seen] * scale, value[seen], color=_KERNEL, lw=1.6, ls="--", label="PSF kernel", zorder=2)
    zone = (fit.join - fit.blend) * scale, fit.join * scale
    for axis in (upper, lower):
        axis.axvspan(*zone, color="#f2c14e", alpha=0.3, lw=0, label="blend, join" if axis is upper else None)
        axis.spines[["top", "right"]].set_visible(False)
    ratio = fit.profile / fit.model(fit.radii)
    lower.errorbar(radii, ratio, fit.errors / fit.model(fit.radii), fmt="o", ms=4, color=_STACK, lw=1.2)
    lower.axhline(1.0, color=_FIT, lw=1.4)
    lower.set_ylim(0.0, 2.0)
    upper.set_xscale("log")
    upper.set_yscale("log")
    shown = np.concatenate([fit.profile[positive], model])
    upper.set_ylim(0.3 * float(np.min(shown[shown > 0])), 5.0 * float(np.max(shown)))
    lower.set_xlim(0.6 * radii[0], 1.15 * radii[-1])
    upper.set_ylabel("surface brightness, in units of that at the join radius")
    lower.set_ylabel("stack / fit")
    lower.set_xlabel("radius (arcsec)")
    upper.legend(loc="upper right", fontsize=9, frameon=False)
    if title:
        upper.set_title(title, loc="left", weight="bold")
    return figure
