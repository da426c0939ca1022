"""Compact Sérsic profiles, drawn by transforms of just the size that each needs.

A profile with half-light ellipse x' P x = 1 (pixels) has the transform T(n, k' inv(P) k) of its radial profile. This is
multiplied by the transform of the PSF kernel at the source and by the phase of its position, and one inverse transform
(`skygraft.render.transforms`), in float32, gives the pixels. The kernel includes the pixel response, so no other step
is needed.

A small source whose PSF has light beyond the pixels' Nyquist frequency is drawn on a grid that is finer by an integer
factor (its `fold`), and the pixels are sampled from that grid: they alias what is beyond their Nyquist frequency, as a
real image does.

Sources of one size are drawn a few at a time, so that the sums over the PSF's basis read it once for all of them while
everything stays in the processor's cache. The result for one source does not depend on the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.linear import aligned, combine_into
from skygraft.render.prepared import EvaluatedPsf
from skygraft.render.radial import DENSE, FIRST_OCTAVE, N_PIECES, PIECES, Placed
from skygraft.render.traced import traced
from skygraft.render.transforms import Plan, plan_of, room_for, to_image
from skygraft.render.vectors import LANES, Eight, cubic_lookup, load, spread, store

__all__ = ["draw_cores"]

_OFFSET = np.float32(2.0**FIRST_OCTAVE)
_HELD = 1 << 16
"""Floats of spectra that are computed together, few enough that they are still in the cache when transformed."""

_value_at = cubic_lookup(FIRST_OCTAVE, PIECES, N_PIECES)


def draw_cores(
    images: NDArray[np.float32],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
    fold: NDArray[np.int64],
    some: NDArray[np.int64],
    where: tuple[NDArray[np.float64], NDArray[np.float64]],
    amplitude: NDArray[np.float64],
    metric: NDArray[np.float64],
    psf: EvaluatedPsf,
    owner: NDArray[np.int64],
    placed: Placed,
) -> None:
    """Draw M of N profiles, each into an image of its own.

    The pixel nearest to a profile's position is at ``[size // 2, size // 2]`` of its image.

    Parameters
    ----------
    images : ndarray of float32
        Buffer for the pixels of all images.
    first, size : ndarray of int, shape (M,)
        Index in `images` of each image's first pixel, and its number of rows and columns.
    fold : ndarray of int, shape (M,)
        Factor by which the grid is finer on which each is drawn, see `skygraft.render.prepared.FOLDS`; `images` has
        room for (fold size)^2 numbers of each.
    some : ndarray of int, shape (M,)
        Indices of the profiles to draw.
    where : (ndarray, ndarray), each of shape (N,)
        Positions x and y, parent pixels.
    amplitude : ndarray, shape (N,)
        Flux, image units, times the scale of the kernel.
    metric : ndarray, shape (N, 3)
        The half-light ellipse x' P x = 1: xx, xy, yy, per square pixel.
    psf : EvaluatedPsf
        The PSF at the positions of the sources.
    owner : ndarray of int, shape (N,)
        Index in `psf` of each profile's source.
    placed : Placed
        The tables of T.
    """
    profiles = _Profiles(
        *where, amplitude, metric, placed.pieces.reshape(-1, 4 * N_PIECES), placed.rows, placed.weights, placed.dense,
        placed.ends,
    )  # fmt: skip
    is_dense = placed.ends[some, 1] > 0
    kinds, which = np.unique(np.stack([size, fold, is_dense], axis=1), axis=0, return_inverse=True)
    for kind, (pixels, finer, dense) in enumerate(kinds.tolist()):
        same = np.flatnonzero(which.reshape(-1) == kind)
        mine, to = some[same], first[same]
        n = pixels * finer
        floats = (n + 2) * n
        shift = n // 2 + psf.origin[0], n // 2 + psf.origin[1]
        plan, room = plan_of(n), room_for(n)
        # Two functions, so that dense tables, which are rare, are compiled only where they are used.
        multiply = _multiply_dense if dense else _multiply
        basis = psf.prepared.basis_transforms(pixels, finer)
        if basis is None or psf.coefficients is None:
            spectra = psf.transforms(owner[mine], pixels, finer).reshape(-1, floats)
            multiply(spectra, profiles, mine, shift, finer)
            _to_images(spectra, images, to, finer, plan, room)
            continue
        held = min(max(1, _HELD // floats), len(mine))
        spectra = aligned((held, floats))
        weights = basis.weights(psf.coefficients[owner[mine]])
        for start in range(0, len(mine), held):
            part = slice(start, start + held)
            sums = spectra[: len(mine[part])]
            combine_into(weights[part], basis.rows, sums)
            multiply(sums, profiles, mine[part], shift, finer)
            _to_images(sums, images, to[part], finer, plan, room)


class _Profiles(NamedTuple):
    """Positions, amplitudes and half-light ellipses as in `draw_cores`, and their `Placed` tables."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    metric: NDArray[np.float64]
    pieces: NDArray[np.float32]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    dense: NDArray[np.float32]
    ends: NDArray[np.int64]


@compiled
def _to_images(
    spectra: NDArray[np.float32],
    images: NDArray[np.float32],
    first: NDArray[np.int64],
    fold: int,
    plan: Plan,
    room: NDArray[np.float32],
) -> None:
    """Transform spectra (M, floats) back, and keep every `fold`-th row and column; spectra are overwritten."""
    n = plan.n
    for k in range(len(first)):
        image = images[first[k] : first[k] + n * n]
        to_image(spectra[k], image, plan, room)
        if fold > 1:
            # The middle is a pixel of either grid.
            to = 0
            for j in range(0, n, fold):
                for i in range(j * n, (j + 1) * n, fold):
                    image[to] = image[i]
                    to += 1


@compiled
def _multiply(
    spectra: NDArray[np.float32], profiles: _Profiles, mine: NDArray[np.int64], shift: tuple[int, int], fold: int
) -> None:
    """Multiply half spectra (M, floats) of kernels by the transforms of profiles `mine`, moved by `shift` pixels.

    Half spectra are stored as `skygraft.render.transforms` describes.
    """
    n = int(np.sqrt(spectra.shape[1] + 1.0)) - 1
    half = n // 2
    table, form = np.empty(4 * N_PIECES, dtype=np.float32), np.empty(3)
    waves = np.empty(half, dtype=np.float32)
    for i in range(half):
        waves[i] = i
    x_phases, y_phases = np.empty((2, n), dtype=np.float32), np.empty((2, n), dtype=np.float32)
    x_re, x_im, y_re, y_im = x_phases[0], x_phases[1], y_phases[0], y_phases[1]
    for k in range(len(mine)):
        spectrum, s = spectra[k], mine[k]
        _prepare(form, x_phases, y_phases, profiles, s, shift, fold)
        _make_table(table, profiles.pieces, profiles.rows[s], profiles.weights[s], form, half)
        square = spread(np.float32(form[2]))
        for j in range(n):
            m = j if j <= half else j - n
            linear, constant = spread(np.float32(2.0 * form[1] * m)), spread(np.float32(form[0] * m * m + _OFFSET))
            re, im = spread(x_re[j]), spread(x_im[j])
            for i in range(0, half, LANES):
                wave = load(waves, i)
                value = _value_at(table, (square * wave + linear) * wave + constant)
                _multiply_eight(spectrum, j * n + 2 * i, value, re, im, load(y_re, i), load(y_im, i))
        # The Nyquist frequency in y stands for both signs.
        square, constant = spread(np.float32(form[0])), spread(np.float32(form[2] * half * half + _OFFSET))
        linear, zero = spread(np.float32(2.0 * form[1] * half)), spread(np.float32(0.0))
        re = spread(np.float32(0.5) * y_re[half])
        for start in range(0, n, half):
            for i in range(0, half, LANES):
                wave = load(waves, i) - spread(np.float32(start))
                one = _value_at(table, (square * wave + linear) * wave + constant)
                other = _value_at(table, (square * wave - linear) * wave + constant)
                at = n * n + 2 * (start + i)
                _multiply_eight(spectrum, at, one + other, re, zero, load(x_re, start + i), load(x_im, start + i))


@compiled
def _multiply_dense(
    spectra: NDArray[np.float32], profiles: _Profiles, mine: NDArray[np.int64], shift: tuple[int, int], fold: int
) -> None:
    """Do the same as `_multiply` for profiles that have dense tables of T over k."""
    n = int(np.sqrt(spectra.shape[1] + 1.0)) - 1
    half = n // 2
    form, values, zero = np.empty(3), np.empty(n, dtype=np.float32), spread(np.float32(0.0))
    x_phases, y_phases = np.empty((2, n), dtype=np.float32), np.empty((2, n), dtype=np.float32)
    x_re, x_im, y_re, y_im = x_phases[0], x_phases[1], y_phases[0], y_phases[1]
    for k in range(len(mine)):
        spectrum, s = spectra[k], mine[k]
        _prepare(form, x_phases, y_phases, profiles, s, shift, fold)
        table = profiles.dense[profiles.ends[s, 0] : profiles.ends[s, 1]]
        for j in range(n):
            m = j if j <= half else j - n
            for i in range(half):
                values[i] = _dense_at(table, (form[2] * i + 2.0 * form[1] * m) * i + form[0] * m * m)
            re, im = spread(x_re[j]), spread(x_im[j])
            for i in range(0, half, LANES):
                _multiply_eight(spectrum, j * n + 2 * i, load(values, i), re, im, load(y_re, i), load(y_im, i))
        for i in range(n):
            m = i if i < half else i - n
            one = _dense_at(table, (form[0] * m + 2.0 * form[1] * half) * m + form[2] * half * half)
            other = _dense_at(table, (form[0] * m - 2.0 * form[1] * half) * m + form[2] * half * half)
            values[i] = one + other
        re = spread(np.float32(0.5) * y_re[half])
        for i in range(0, n, LANES):
            _multiply_eight(spectrum, n * n + 2 * i, load(values, i), re, zero, load(x_re, i), load(x_im, i))


@compiled(inline="always")
def _prepare(
    form: NDArray[np.float64],
    x_phases: NDArray[np.float32],
    y_phases: NDArray[np.float32],
    profiles: _Profiles,
    s: int,
    shift: tuple[int, int],
    fold: int,
) -> None:
    """Compute the quadratic form kappa(kx, ky) of profile `s`, per frequency step, and the phases of its position."""
    x, y, metric = profiles.x[s], profiles.y[s], profiles.metric
    n = x_phases.shape[1]
    unit = (2.0 * np.pi * fold / n) ** 2 / (metric[s, 0] * metric[s, 2] - metric[s, 1] ** 2)
    form[0], form[1], form[2] = metric[s, 2] * unit, -metric[s, 1] * unit, metric[s, 0] * unit
    _make_phases(x_phases, fold * (x - np.rint(x)), shift[0], profiles.amplitude[s] * (fold / n) ** 2)
    _make_phases(y_phases, fold * (y - np.rint(y)), shift[1], 1.0)


@compiled(inline="always")
def _make_table(
    table: NDArray[np.float32],
    pieces: NDArray[np.float32],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    form: NDArray[np.float64],
    half: int,
) -> None:
    """Compute the table of one profile where it is needed: at kappa = 0, and from the smallest other to the largest."""
    middle, spread_of_form = 0.5 * (form[0] + form[2]), np.hypot(0.5 * (form[0] - form[2]), form[1])
    # The smallest eigenvalue, without a difference of large numbers; 1 per cent is allowed for rounding.
    least = (form[0] * form[2] - form[1] ** 2) / (middle + spread_of_form)
    most = 2.0 * (middle + spread_of_form) * half * half
    first_octave = int(np.log2(0.99 * least + _OFFSET) - FIRST_OCTAVE)
    last_octave = int(np.log2(1.01 * most + _OFFSET) - FIRST_OCTAVE)
    begin = min(max(PIECES * first_octave, 0), N_PIECES - PIECES)
    end = min(PIECES * (last_octave + 1), N_PIECES)
    w0, w1, w2, w3 = np.float32(weights[0]), np.float32(weights[1]), np.float32(weights[2]), np.float32(weights[3])
    a, b, c, d = pieces[rows[0]], pieces[rows[1]], pieces[rows[2]], pieces[rows[3]]
    for p in range(4):
        table[p] = w0 * a[p] + w1 * b[p] + w2 * c[p] + w3 * d[p]
    v0, v1, v2, v3 = spread(w0), spread(w1), spread(w2), spread(w3)
    for p in range(4 * begin, 4 * end, LANES):
        _blend(table, p, (v0, v1, v2, v3), a, b, c, d)


@traced()
def _blend(table: Any, p: int, weights: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Store the weighted sum of eight numbers of each table."""
    v0, v1, v2, v3 = weights
    store(table, p, v0 * load(a, p) + v1 * load(b, p) + v2 * load(c, p) + v3 * load(d, p))


@compiled
def _make_phases(phases: NDArray[np.float32], fraction: float, whole: int, amplitude: float) -> None:
    """Compute `amplitude` times exp(-i k (fraction + whole)), k = 2 pi m / n for m < n: real parts, imaginary parts.

    It is real at the Nyquist frequency, which stands for both signs.
    """
    n = phases.shape[1]
    angle = 2.0 * np.pi / n * (fraction + whole)
    c, s = np.cos(angle), -np.sin(angle)
    re, im = amplitude, 0.0
    phases[0, 0], phases[1, 0] = re, im
    for m in range(1, n // 2):
        re, im = re * c - im * s, re * s + im * c
        phases[0, m], phases[1, m] = re, im
        phases[0, n - m], phases[1, n - m] = re, -im
    phases[0, n // 2] = amplitude * np.cos(np.pi * fraction) * (1.0 - 2.0 * (whole % 2))
    phases[1, n // 2] = 0.0


@compiled(inline="always")
def _dense_at(table: NDArray[np.float32], kappa: float) -> float:
    """Value of T at kappa in a dense table; 0 beyond its end."""
    k = DENSE * np.sqrt(kappa)
    piece = int(k)
    if piece >= len(table):
        return 0.0
    t, c = k - piece, table[piece]
    value: float = c[0] + t * (c[1] + t * (c[2] + t * c[3]))
    return value


@traced()
def _multiply_eight(
    spectrum: NDArray[np.float32], at: int, value: Eight, ar: Eight, ai: Eight, br: Eight, bi: Eight
) -> None:
    """Multiply eight numbers of a spectrum by a real factor and two complex ones."""
    pr, pi = (ar * br - ai * bi) * value, (ar * bi + ai * br) * value
    c, d = load(spectrum, at), load(spectrum, at + LANES)
    store(spectrum, at, c * pr - d * pi)
    store(spectrum, at + LANES, c * pi + d * pr)
