"""Tables for `skygraft.noise.poisson`: alias tables of Poisson distributions, and a ziggurat for normal numbers.

Both modules use only +, -, *, / and the square root, which IEEE 754 defines to the last bit. A library's exp and log
differ between processors, hence the functions of that name here.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import in_python_too

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


@in_python_too
def exp_minus_small(t: float) -> float:
    """exp(-t) for t in 0 .. 1/4, to a relative error of 1e-15."""
    p = 1.0
    for c in _RECIPROCALS:
        p = 1.0 - p * (t * c)
    return p


@in_python_too
def exp_minus(t: float) -> float:
    """exp(-t) for t in 0 .. 8, to a relative error of 1e-14."""
    p = exp_minus_small(t / 32.0)
    for _ in range(5):
        p *= p
    return p


@in_python_too
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
    """Return the tables for the draws; their numbers are the same on every processor.

    Returns
    -------
    alias : ndarray of uint32, shape (128, 128)
        One row for each mean 0, 1/4, 1/2, ...; see `_alias_rows`.
    edges, density : ndarray, shape (257,)
        Of the ziggurat's layers from the base, which holds the tail, to the top: x where a layer ends, and
        exp(-x^2 / 2) there.
    """
    # In plain Python: to compile loops that run once in a process takes longer than they do.
    edges, density = _ziggurat()
    return np.array(_alias_rows(), dtype=np.uint32), np.array(edges), np.array(density)


def _alias_rows() -> list[list[int]]:
    """Rows of 128 columns, each (threshold << 7 | other number): 25 bits below the threshold mean the column's number.

    Vose's construction in integers: probabilities are rounded to multiples of 2^-32, and the mode takes the remainder.
    """
    rows = []
    zero = 1.0
    for number in range(int(TABLE_LIMIT) * STEPS):
        mean = number / STEPS
        p, weight = zero, []
        for k in range(_COLUMNS):
            weight.append(math.floor(p * 4294967296.0 + 0.5))
            p *= mean / (k + 1)
        weight[int(mean)] += (1 << 32) - sum(weight)
        zero *= 0.7788007830714049  # exp(-1/4)
        poor = [k for k in range(_COLUMNS) if weight[k] < _COLUMN_WEIGHT]
        rich = [k for k in range(_COLUMNS) if weight[k] >= _COLUMN_WEIGHT]
        row = list(range(_COLUMNS))
        while poor:
            k, giver = poor.pop(), rich[-1]
            row[k] = (weight[k] << 7) | giver
            weight[giver] -= _COLUMN_WEIGHT - weight[k]
            if weight[giver] < _COLUMN_WEIGHT:
                poor.append(rich.pop())
        rows.append(row)
    return rows


def _ziggurat() -> tuple[list[float], list[float]]:
    """Edges and densities of layers of equal area; the base is as wide as a rectangle of that area would be."""
    edges, density = [0.0] * (_LAYERS + 1), [0.0] * (_LAYERS + 1)
    edges[1] = ZIGGURAT_EDGE
    density[1] = exp_minus(0.5 * ZIGGURAT_EDGE * ZIGGURAT_EDGE)
    edges[0], density[0] = _LAYER_AREA / density[1], 0.0
    for i in range(1, _LAYERS - 1):
        density[i + 1] = density[i] + _LAYER_AREA / edges[i]
        edges[i + 1] = math.sqrt(-2.0 * log(density[i + 1]))
    edges[_LAYERS], density[_LAYERS] = 0.0, 1.0
    return edges, density
