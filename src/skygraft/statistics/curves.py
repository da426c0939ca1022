"""Curves of completeness against magnitude: their forms, derivatives, and the fit of one to counts.

All fall from a plateau to zero. With x the magnitude, A the plateau:

* ``logistic``: A / (1 + exp((x - center) / width)), as in Vereš & Chesley (2017, AJ 154, 12);
* ``tanh``: A/2 (1 - tanh((x - center) / width)), as in Gladman et al. (1998, AJ 116, 2042). It is the same curve as the
  logistic with half its width, so both find the same magnitudes;
* ``double_fermi``: A / (1 + exp((x - center) / width)) / (1 + exp((x - center) / width_2)), a product of two Fermi
  functions with one centre: a slow loss at bright magnitudes and a steep fall. It is the double hyperbolic tangent of
  Petit et al. (2006, MNRAS 365, 429), A/4 (1 - tanh((x - center) / d1)) (1 - tanh((x - center) / d2)), d = 2 width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError

__all__ = ["MODELS", "Curve", "Maximum", "curve", "maximize", "maximize_many", "solve_level", "solve_levels"]

type Array = NDArray[np.float64]

_TINY = 1e-12


def _fermi(t: Array) -> Array:
    """1 / (1 + exp(t)) without overflow."""
    from scipy.special import expit

    return np.asarray(expit(-t))


@dataclass(frozen=True)
class Curve:
    """A family of falling curves."""

    name: str
    names: tuple[str, ...]  # of the parameters: plateau, center, then widths, in the units of x
    value_and_slopes: Callable[[Array, Array], tuple[Array, Array]]
    """Of x and the parameters: the curve, shape (n,), and its derivatives, shape (parameters, n). Parameters of shape
    (parameters, k, 1) give k curves."""

    def __call__(self, x: ArrayLike, parameters: ArrayLike) -> Array:
        """The curve at x."""
        flat = np.asarray(x, np.float64)
        return self.value_and_slopes(flat.ravel(), np.asarray(parameters, np.float64))[0].reshape(flat.shape)


def _single(scale: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    def evaluate(x: Array, parameters: Array) -> tuple[Array, Array]:
        plateau, center, width = parameters
        t = (x - center) / (scale * width)
        f = _fermi(t)
        slope = f * (1.0 - f) / (scale * width)
        return plateau * f, np.stack([f, plateau * slope, plateau * slope * t * scale])

    return evaluate


def _double(x: Array, parameters: Array) -> tuple[Array, Array]:
    plateau, center, width_1, width_2 = parameters
    t_1, t_2 = (x - center) / width_1, (x - center) / width_2
    f_1, f_2 = _fermi(t_1), _fermi(t_2)
    p = plateau * f_1 * f_2
    slope_1, slope_2 = p * (1.0 - f_1) / width_1, p * (1.0 - f_2) / width_2
    return p, np.stack([f_1 * f_2, slope_1 + slope_2, slope_1 * t_1, slope_2 * t_2])


MODELS = {
    "logistic": Curve("logistic", ("plateau", "center", "width"), _single(1.0)),
    "tanh": Curve("tanh", ("plateau", "center", "width"), _single(0.5)),
    "double_fermi": Curve("double_fermi", ("plateau", "center", "width", "width_2"), _double),
}
"""Curves by name."""


def curve(model: str) -> Curve:
    """The curve of a name; a `ConfigError` if there is none."""
    if model not in MODELS:
        raise ConfigError(
            f"there is no model {model!r}; there are {', '.join(MODELS)}", key="model", fix="Give one of them"
        )
    return MODELS[model]


@dataclass(frozen=True)
class Maximum:
    """Where the likelihood of a curve is largest."""

    parameters: Array
    log_likelihood: float
    at_bound: bool  # the plateau is 1, the largest that it can be


def maximize(shape: Curve, x: Array, total: Array, found: Array, *, start: Array | None = None) -> Maximum:
    """Fit a curve to counts by maximum likelihood (binomial).

    Parameters
    ----------
    shape : Curve
    x, total, found : ndarray, shape (n,)
        Where, how many (or which sum of weights), and how many of them were found.
    start : ndarray, optional
        Parameters to start from, by default several that follow from the counts, of which the best is taken.

    Returns
    -------
    Maximum
    """
    keep = total > 0
    x, total, found = x[keep], total[keep], found[keep]
    starts = _starts(shape, x, total, found) if start is None else np.atleast_2d(start)
    totals, founds = (np.broadcast_to(each, (len(starts), x.size)) for each in (total, found))
    ends = maximize_many(shape, x, totals, founds, starts)
    values = _log_likelihood(shape, x, totals, founds, ends)
    best = int(np.argmax(values))
    return Maximum(ends[best], float(values[best]), bool(ends[best, 0] > 1.0 - 1e-7))


def maximize_many(shape: Curve, x: Array, total: Array, found: Array, start: Array) -> Array:
    """Fit a curve to many sets of counts that differ little, such as bootstrap replicates, by Fisher scoring.

    Parameters
    ----------
    shape : Curve
    x : ndarray, shape (n,)
    total, found : ndarray, shape (sets, n)
        As in `maximize`, of each set.
    start : ndarray, shape (parameters,) or (sets, parameters)
        Such as a fit to all of them.

    Returns
    -------
    ndarray, shape (sets, parameters)
        NaN where none or all were found.
    """
    first = np.array(np.broadcast_to(start, (len(total), start.shape[-1])), dtype=np.float64)
    # In plateau, centre and the logarithms of the widths. Two widths that are equal have no slope to part by.
    at = np.concatenate([first[:, :2], np.log(first[:, 2:])], 1)
    if at.shape[1] == 4:
        at[:, 2:] += np.where(np.abs(at[:, 2] - at[:, 3]) < 0.4, 0.2, 0.0)[:, None] * np.array([-1.0, 1.0])
    worth = (found.sum(1) > 0) & (found.sum(1) < total.sum(1))
    moving = worth.copy()
    span = float(np.ptp(x)) or 1e-9
    narrowest, widest = np.log(1e-5 * span), np.log(4.0 * span)
    best = _log_likelihood(shape, x, total, found, _plain(at))
    for _ in range(_MOST_STEPS):
        (rows,) = np.nonzero(moving)
        if not rows.size:
            break
        n, k, here = total[rows], found[rows], at[rows]
        p, slopes = _evaluate(shape, x, here)
        score = np.einsum("prb,rb->rp", slopes, k / p - (n - k) / (1.0 - p))
        information = np.einsum("prb,qrb,rb->rpq", slopes, slopes, n / (p * (1.0 - p)), optimize=True)
        held = (here[:, 0] >= 1.0) & (score[:, 0] > 0)
        score[held, 0] = 0.0
        information[held, 0, :] = information[held, :, 0] = 0.0
        information[held, 0, 0] = 1.0
        scale = np.sqrt(np.maximum(np.einsum("rpp->rp", information), 1e-300))
        # Two widths that are equal cannot be told apart: no step in that direction.
        inverse = np.linalg.pinv(information / scale[:, :, None] / scale[:, None, :], rcond=1e-7, hermitian=True)
        step = np.einsum("rpq,rq->rp", inverse, score / scale) / scale
        gain = np.einsum("rp,rp->r", step, score)
        reach = np.full(step.shape, 1.0)
        reach[:, 0], reach[:, 1] = 0.3, np.maximum(2.0 * np.exp(here[:, 2:].max(1)), 0.01 * span)
        step /= np.maximum(1.0, np.abs(step / reach).max(1))[:, None]
        open_rows, part = np.ones(rows.size, bool), 1.0
        for _ in range(12):
            trial = here + part * step
            trial[:, 0] = np.clip(trial[:, 0], 1e-6, 1.0)
            trial[:, 1] = np.clip(trial[:, 1], x.min() - span, x.max() + span)
            trial[:, 2:] = np.clip(trial[:, 2:], narrowest, widest)
            value = _log_likelihood(shape, x, n, k, _plain(trial))
            better = open_rows & (value >= best[rows])
            at[rows[better]], best[rows[better]] = trial[better], value[better]
            open_rows &= ~better
            if not open_rows.any():
                break
            part *= 0.5
        # Where no step is better, rounding is all that is left.
        moving[rows] = ~open_rows & (gain > _SMALL_GAIN)
    out = _plain(at)
    out[:, 2:] = np.sort(out[:, 2:], 1)
    out[~worth] = np.nan
    return out


_MOST_STEPS = 40
_SMALL_GAIN = 1e-6
"""Of twice the log likelihood: the square of a parameter's step over its error."""


def _plain(at: Array) -> Array:
    """Plateau, centre and widths from plateau, centre and logarithms of widths."""
    return np.concatenate([at[:, :2], np.exp(at[:, 2:])], 1)


def _evaluate(shape: Curve, x: Array, at: Array) -> tuple[Array, Array]:
    """Curves and their derivatives by plateau, centre and logarithms of the widths, of many sets."""
    parameters = _plain(at).T[..., None]
    p, slopes = shape.value_and_slopes(x, parameters)
    slopes[2:] *= parameters[2:]
    return np.clip(p, _TINY, 1.0 - _TINY), slopes


def _log_likelihood(shape: Curve, x: Array, total: Array, found: Array, parameters: Array) -> Array:
    """Of each set of counts and parameters, shape (sets, parameters)."""
    parameters = np.atleast_2d(parameters).T[..., None]
    p = np.clip(shape.value_and_slopes(x, parameters)[0], _TINY, 1.0 - _TINY)
    return np.asarray((found * np.log(p) + (total - found) * np.log1p(-p)).sum(1))


def _starts(shape: Curve, x: Array, total: Array, found: Array) -> Array:
    """Starts with the centre where a step would find as many as were found, and widths from narrow to wide."""
    order = np.argsort(x, kind="stable")
    n, k = np.cumsum(total[order]), np.cumsum(found[order])
    span = float(np.ptp(x)) or 1e-9
    plateau = float(np.clip(np.max((k / n)[n >= 0.1 * n[-1]]), 0.05, 0.99))
    center = float(np.interp(k[-1] / plateau, n, x[order]))
    widths = [[0.003], [0.03], [0.2]] if len(shape.names) == 3 else [[0.005, 0.02], [0.02, 0.06], [0.02, 0.3]]
    return np.array([[plateau, center, *(span * part for part in each)] for each in widths])


def solve_level(shape: Curve, parameters: Array, level: float) -> tuple[float, Array]:
    """Where a curve falls through a level, and the derivatives of that place by the parameters.

    Returns
    -------
    x : float
        NaN if the plateau does not reach the level.
    slopes : ndarray, shape (parameters,)
    """
    from scipy.optimize import brentq

    plateau, center = parameters[:2]
    if not plateau > level:
        return float("nan"), np.full(len(parameters), np.nan)
    reach = 60.0 * parameters[2:].max()
    x = float(brentq(lambda at: float(shape(at, parameters)) - level, center - reach, center + reach, xtol=1e-12))
    _, slopes = shape.value_and_slopes(np.array([x]), parameters)
    # dx/dθ = -(∂p/∂θ) / (∂p/∂x), and a shift of the centre is one of x the other way.
    return x, slopes[:, 0] / slopes[1, 0]


def solve_levels(shape: Curve, parameters: Array, levels: ArrayLike) -> Array:
    """Where many curves fall through levels, by bisection of all at once.

    Parameters
    ----------
    shape : Curve
    parameters : ndarray, shape (sets, parameters)
    levels : array-like, shape (levels,)

    Returns
    -------
    ndarray, shape (sets, levels)
        NaN where the plateau does not reach the level.
    """
    level = np.asarray(levels, np.float64)
    reach = 60.0 * parameters[:, 2:].max(1)
    low, high = (np.repeat((parameters[:, 1] + side * reach)[:, None], level.size, 1) for side in (-1.0, 1.0))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        above = shape.value_and_slopes(middle, parameters.T[..., None])[0] > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(parameters[:, :1] > level, 0.5 * (low + high), np.nan)


_BISECTIONS = 60
"""Of 120 widths: 1e-16 of one."""
