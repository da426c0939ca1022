"""What `skygraft.noise.poisson` looks up: alias tables of Poisson distributions, and a ziggurat for normal numbers.

Only +, -, *, / and the square root are used, here and there, which IEEE 754 defines to the last bit: a library's exp
and log differ between processors. Hence the functions of that name.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["STEPS", "TABLE_LIMIT", "ZIGGURAT_EDGE", "exp_minus", "exp_minus_small", "log", "tables"]

TABLE_LIMIT = 32.0
STEPS = 4
"""Tables for each unit of the mean."""
_COLUMNS = 128
_COLUMN_WEIGHT = 1 << 25
_LAYERS = 256
ZIGGURAT_EDGE = 3.6541528853610088
_LAYER_AREA = 0.0049286732339746559
_RECIPROCALS = tuple(1.0 / n for n in range(11, 0, -1))


@compiled
def exp_minus_small(t: float) -> float:
    """exp(-t) for t in 0 .. 1/4, to 1e-15 of it."""
    p = 1.0
    for c in _RECIPROCALS:
        p = 1.0 - p * (t * c)
    return p


@compiled
def exp_minus(t: float) -> float:
    """exp(-t) for t in 0 .. 8, to 1e-14 of it."""
    p = exp_minus_small(t / 32.0)
    for _ in range(5):
        p *= p
    return p


@compiled
def log(u: float) -> float:
    """log(u) for u in (0, 1], to 1e-14."""
    halvings = 0
    while u < 0.7:
        u *= 2.0
        halvings += 1
    s = (u - 1.0) / (u + 1.0)
    p = 0.0
    for n in range(25, 0, -2):
        p = p * s * s + 1.0 / n
    return 2.0 * s * p - halvings * 0.6931471805599453


@functools.cache
def tables() -> tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.float64]]:
    """What the draws look up; the same numbers on every processor.

    Returns
    -------
    alias : ndarray of uint32, shape (128, 128)
        One row for each mean 0, 1/4, 1/2, ...; see `_fill_alias`.
    edges, density : ndarray, shape (257,)
        Of the ziggurat's layers from the base, which holds the tail, to the top: x where a layer ends, and
        exp(-x^2 / 2) there.
    """
    alias = np.empty((int(TABLE_LIMIT) * STEPS, _COLUMNS), np.uint32)
    edges, density = np.empty(_LAYERS + 1), np.empty(_LAYERS + 1)
    _fill_alias(alias)
    _fill_ziggurat(edges, density)
    return alias, edges, density


@compiled
def _fill_alias(alias: NDArray[np.uint32]) -> None:
    """Rows of 128 columns, each (threshold << 7 | other number): 25 bits below the threshold mean the column's number.

    Vose's construction in whole numbers: probabilities are rounded to multiples of 2^-32, and the mode takes what that
    leaves over.
    """
    columns = alias.shape[1]
    weight = np.empty(columns, np.int64)
    poor, rich = np.empty(columns, np.int64), np.empty(columns, np.int64)
    zero = 1.0
    for row in range(alias.shape[0]):
        mean = row / STEPS
        p, left = zero, 1 << 32
        for k in range(columns):
            weight[k] = math.floor(p * 4294967296.0 + 0.5)
            left -= weight[k]
            p *= mean / (k + 1)
        weight[int(mean)] += left
        zero *= 0.7788007830714049  # exp(-1/4)
        n_poor = n_rich = 0
        for k in range(columns):
            if weight[k] < _COLUMN_WEIGHT:
                poor[n_poor] = k
                n_poor += 1
            else:
                rich[n_rich] = k
                n_rich += 1
        while n_poor:
            n_poor -= 1
            k, giver = poor[n_poor], rich[n_rich - 1]
            alias[row, k] = uint32((weight[k] << 7) | giver)
            weight[giver] -= _COLUMN_WEIGHT - weight[k]
            if weight[giver] < _COLUMN_WEIGHT:
                n_rich -= 1
                poor[n_poor] = giver
                n_poor += 1
        for i in range(n_rich):
            alias[row, rich[i]] = uint32(rich[i])


@compiled
def _fill_ziggurat(edges: NDArray[np.float64], density: NDArray[np.float64]) -> None:
    """Layers of equal area; the base is as wide as a rectangle of that area would be."""
    edges[1] = ZIGGURAT_EDGE
    density[1] = exp_minus(0.5 * ZIGGURAT_EDGE * ZIGGURAT_EDGE)
    edges[0], density[0] = _LAYER_AREA / density[1], 0.0
    for i in range(1, _LAYERS - 1):
        density[i + 1] = density[i] + _LAYER_AREA / edges[i]
        edges[i + 1] = math.sqrt(-2.0 * log(density[i + 1]))
    edges[_LAYERS], density[_LAYERS] = 0.0, 1.0
