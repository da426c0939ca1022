"""What the likelihood of a curve of completeness tells: whether it can be fitted, its errors, and whether it fits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.statistics.counts import Counts
from skygraft.statistics.curves import Curve, maximize_many

__all__ = ["FEWEST", "FLAT", "chi_squared", "fisher", "gain", "replicates_of", "too_few"]

FEWEST = 10
"""Found, and missed, that a fit takes at least."""
FLAT = 12.0
"""Twice the gain in log likelihood over a constant that chance exceeds once in 400 times (chi squared, 2 degrees)."""

type Floats = NDArray[np.float64]


def too_few(x: str, n: int, n_found: int, low: float, high: float) -> str:
    """Why a curve against x cannot be fitted to so many rows and found ones from `low` to `high`; empty if it can.

    It says how many fakes it would take.
    """
    if n == 0:
        return "no row has a value"
    span = f"{n:,} fakes of {x} {low:g} to {high:g}"
    if n_found == 0:
        return f"none of {span} was found: brighter ones are needed"
    if n_found == n:
        return f"all of {span} were found: fainter ones are needed"
    fewer = min(n_found, n - n_found)
    if fewer >= FEWEST:
        return ""
    what = "found" if n_found < n - n_found else "missed"
    needed = int(np.ceil(n * FEWEST / fewer))
    return (
        f"only {fewer} of {span} {'was' if fewer == 1 else 'were'} {what}: a fit takes {FEWEST} found and "
        f"{FEWEST} missed, about {needed:,} such fakes"
    )


def replicates_of(
    shape: Curve, x: Floats, n: NDArray[np.int64], groups: Floats, best: Floats, draws: Floats
) -> tuple[Floats, float]:
    """Parameters of a curve in bootstrap replicates.

    Parameters
    ----------
    shape : Curve
    x : ndarray, shape (bins,)
        Middles of the bins.
    n : ndarray of int, shape (bins,)
        Rows in each.
    groups : ndarray, shape (2, bins, groups)
        Weights of the rows of each group, and of those found.
    best : ndarray
        The fit to all rows.
    draws : ndarray, shape (replicates, groups)
        How often each group is drawn.

    Returns
    -------
    parameters : ndarray, shape (up to replicates, parameters)
        Of the replicates that can be fitted; none if there are fewer than two groups.
    few : float
        What variances are multiplied by for the number of groups.
    """
    # Of a small table most bins and groups are empty.
    (filled,), (with_rows,) = np.nonzero(n), np.nonzero(groups[0].sum(0) > 0)
    m = with_rows.size
    if m < 2:
        return np.zeros((0, len(best))), 1.0
    # An eighth of the width is fine enough for errors, and quicker.
    part = np.floor((x - x.min()) / (best[2:].min() / 8.0))
    order = filled[np.argsort(part[filled], kind="stable")]
    first = np.nonzero(np.diff(part[order], prepend=-1.0))[0]
    at = np.add.reduceat((x * n)[order], first) / np.add.reduceat(n[order], first)
    drawn = draws[:, with_rows]
    total, found = (drawn @ np.add.reduceat(each[np.ix_(order, with_rows)], first, axis=0).T for each in groups)
    parameters = maximize_many(shape, at, total, found, best)
    return parameters[np.isfinite(parameters).all(1)], m / (m - 1)


def gain(sums: Counts, log_likelihood: float) -> float:
    """Twice the log likelihood over that of a constant completeness, of equally weighted rows."""
    n, k = sums.weight.sum(), sums.found_weight.sum()
    constant = k * np.log(k / n) + (n - k) * np.log1p(-k / n)
    return float(2.0 * (log_likelihood - constant) * n / sums.square_weight.sum())


def fisher(
    shape: Curve, x: NDArray[np.float64], sums: Counts, best: NDArray[np.float64], at_bound: bool
) -> NDArray[np.float64]:
    """Covariance from the Fisher matrix; with weights, its sandwich form (White 1982, Econometrica 50, 1)."""
    keep = sums.weight > 0
    p, slopes = shape.value_and_slopes(x[keep], best)
    free = np.arange(1 if at_bound else 0, len(best))
    scaled = slopes[free] / np.sqrt(np.clip(p * (1.0 - p), 1e-12, None))
    information = (scaled * sums.weight[keep]) @ scaled.T
    meat = (scaled * sums.square_weight[keep]) @ scaled.T
    out = np.zeros((len(best), len(best)))
    inverse = np.linalg.pinv(information, hermitian=True)
    out[np.ix_(free, free)] = inverse @ meat @ inverse
    return out


def chi_squared(shape: Curve, x: NDArray[np.float64], sums: Counts, best: NDArray[np.float64]) -> tuple[float, int]:
    """Pearson's chi squared of bins of about equally many rows, at least 5 of which should be found and missed."""
    order = np.argsort(x, kind="stable")
    p = shape(x, best)
    n = np.cumsum(sums.n[order])
    part = np.clip((n - 1) * 20 // max(int(n[-1]), 1), 0, 19)
    weight, square = sums.weight[order], sums.square_weight[order]
    expected = np.bincount(part, (weight * p[order]), minlength=20)
    variance = np.bincount(part, square * (p * (1 - p))[order], minlength=20)
    found = np.bincount(part, sums.found_weight[order], minlength=20)
    total = np.bincount(part, weight, minlength=20)
    scale = np.bincount(part, square, minlength=20) / np.maximum(total, 1e-300)
    good = (expected >= 5.0 * scale) & (total - expected >= 5.0 * scale) & (variance > 0)
    chi2 = float((((found - expected) ** 2)[good] / variance[good]).sum())
    return chi2, max(int(good.sum()) - len(best), 0)
