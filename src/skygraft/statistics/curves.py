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

__all__ = ["MODELS", "Curve", "Maximum", "curve", "maximize", "maximize_many", "solve_level"]

type Array = NDArray[np.float64]

_TINY = 1e-12


def _fermi(t: Array) -> Array:
    """1 / (1 + exp(t)) without overflow."""
    from scipy.special import expit

    return np.asarray(expit(-t))


@dataclass(frozen=True)
class Curve:
    """A family of falling curves.

    Parameters
    ----------
    name : str
        Its name.
    names : tuple of str
        Parameters: ``plateau``, ``center``, then widths, in the units of x.
    value_and_slopes : callable
        Of x and the parameters: the curve, shape (n,), and its derivatives, shape (parameters, n). Parameters of shape
        (parameters, k, 1) give k curves.
    """

    name: str
    names: tuple[str, ...]
    value_and_slopes: Callable[[Array, Array], tuple[Array, Array]]

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
    """The curve of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if model not in MODELS:
        raise ConfigError(
            f"there is no model {model!r}; there are {', '.join(MODELS)}", key="model", fix="Give one of them"
        )
    return MODELS[model]


@dataclass(frozen=True)
class Maximum:
    """Where the likelihood of a curve is largest.

    Parameters
    ----------
    parameters : ndarray
    log_likelihood : float
    at_bound : bool
        The plateau is 1, the largest that it can be.
    """

    parameters: Array
    log_likelihood: float
    at_bound: bool


def maximize(
    shape: Curve, x: Array, total: Array, found: Array, *, start: Array | None = None, wide: float | None = None
) -> Maximum:
    """Fit a curve to counts by maximum likelihood (binomial).

    Parameters
    ----------
    shape : Curve
    x, total, found : ndarray, shape (n,)
        Where, how many (or which sum of weights), and how many of them were found.
    start : ndarray, optional
        Parameters to start from, by default several that follow from the counts.
    wide : float, optional
        Range of x, which bounds the widths; by default that of `x`.

    Returns
    -------
    Maximum
    """
    from scipy.optimize import minimize

    keep = total > 0
    x, total, found = x[keep], total[keep], found[keep]
    size = total.sum()
    low, high = float(x.min()), float(x.max())
    span = wide or max(high - low, 1e-9)
    n_widths = len(shape.names) - 2

    def unpack(u: Array) -> Array:
        return np.concatenate([[u[0]], [low + span * u[1]], span * np.exp(u[2:])])

    def cost(u: Array) -> tuple[float, Array]:
        parameters = unpack(u)
        p, slopes = shape.value_and_slopes(x, parameters)
        safe = np.clip(p, _TINY, 1.0 - _TINY)
        value = -(found * np.log(safe) + (total - found) * np.log1p(-safe)).sum() / size
        pull = -(found / safe - (total - found) / (1.0 - safe)) / size
        gradient = slopes @ pull
        gradient[1] *= span
        gradient[2:] *= parameters[2:]
        return float(value), gradient

    bounds = [(1e-6, 1.0), (-1.0, 2.0), *[(np.log(1e-5), np.log(4.0))] * n_widths]
    starts = _starts(x, total, found, low, span, n_widths) if start is None else [_pack(start, low, span)]
    best = None
    for first in starts:
        done = minimize(
            cost,
            np.clip(first, [b[0] for b in bounds], [b[1] for b in bounds]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 200, "ftol": 1e-8, "gtol": 1e-5, "maxcor": 20},
        )
        if best is None or done.fun < best.fun:
            best = done
    assert best is not None
    # The last digits by Fisher scoring, whose steps are of second order.
    parameters = unpack(best.x)
    refined = maximize_many(shape, x, total[None], found[None], parameters)[0]
    before, after = (_log_likelihood(shape, x, total, found, each)[0] for each in (parameters, refined))
    if after > before:
        parameters = refined
    parameters[2:] = np.sort(parameters[2:])  # one order of two widths
    return Maximum(parameters, float(max(before, after)), bool(parameters[0] > 1.0 - 1e-7))


def maximize_many(shape: Curve, x: Array, total: Array, found: Array, start: Array) -> Array:
    """Fit a curve to many sets of counts that differ little, such as bootstrap replicates, by Fisher scoring.

    Parameters
    ----------
    shape : Curve
    x : ndarray, shape (n,)
    total, found : ndarray, shape (sets, n)
        As in `maximize`, of each set.
    start : ndarray, shape (parameters,)
        A fit to all of them.

    Returns
    -------
    ndarray, shape (sets, parameters)
        NaN where none or all were found.
    """
    sets, size = len(total), len(start)
    # In plateau, centre and the logarithms of the widths.
    apart = np.array([-0.2, 0.2]) if size == 4 and np.ptp(np.log(start[2:])) < 0.4 else 0.0
    at = np.repeat(np.concatenate([start[:2], np.log(start[2:]) + apart])[None], sets, 0)
    worth = (found.sum(1) > 0) & (found.sum(1) < total.sum(1))
    moving = worth.copy()
    reach = np.concatenate([[0.3, 2.0 * start[2:].max()], np.full(size - 2, 0.7)])
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
        step /= np.maximum(1.0, np.abs(step / reach).max(1))[:, None]
        open_rows, part = np.ones(rows.size, bool), 1.0
        for _ in range(12):
            trial = here + part * step
            trial[:, 0] = np.clip(trial[:, 0], 1e-6, 1.0)
            value = _log_likelihood(shape, x, n, k, _plain(trial))
            better = open_rows & (value >= best[rows])
            at[rows[better]], best[rows[better]] = trial[better], value[better]
            open_rows &= ~better
            if not open_rows.any():
                break
            part *= 0.5
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


def _pack(parameters: Array, low: float, span: float) -> Array:
    return np.concatenate([[parameters[0]], [(parameters[1] - low) / span], np.log(parameters[2:] / span)])


def _starts(x: Array, total: Array, found: Array, low: float, span: float, n_widths: int) -> list[Array]:
    """Starts from where the cumulative counts fall to half of their bright plateau."""
    order = np.argsort(x, kind="stable")
    n, k = np.cumsum(total[order]), np.cumsum(found[order])
    plateau = float(np.clip(np.max((k / n)[n >= 0.1 * n[-1]]), 0.05, 0.99))
    # As many are found in all as a step at the centre with this plateau would find.
    center = float(np.interp(k[-1] / plateau, n, x[order]))
    middle = (center - low) / span
    widths = [[0.03], [0.1]] if n_widths == 1 else [[0.02, 0.05], [0.02, 0.3], [0.05, 1.0]]
    return [np.concatenate([[plateau], [middle], np.log(width)]) for width in widths]


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
