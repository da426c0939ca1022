"""Compact Sérsic profiles, drawn by transforms of just the size that each needs.

A profile with half-light ellipse x' P x = 1 (pixels) has the transform T(n, k' inv(P) k) of its radial profile. Times
the transform of the PSF kernel at its place, times the phase of its position, it is brought back by one inverse
transform (`skygraft.render.transforms`), in float32. The kernel contains the pixel, so nothing else is to be done.

A small source whose PSF has light beyond the pixels' Nyquist frequency is drawn on a grid that is finer by a whole
number (its `fold`), of which the pixels are taken: what pixels then fold of it is what an image does.

Sources of one size are drawn a few at a time, so that the sums over the PSF's basis go through it once for all of them
while everything stays in a processor's cache. What is drawn of one does not depend on the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.linear import aligned, combine_into
from skygraft.render.prepared import EvaluatedPsf
from skygraft.render.radial import DENSE, FIRST_OCTAVE, N_PIECES, PIECES, Placed
from skygraft.render.transforms import Plan, plan_of, room_for, to_image
from skygraft.render.vectors import LANES, Eight, cubic_lookup, load, spread, store

__all__ = ["draw_cores"]

_OFFSET = np.float32(2.0**FIRST_OCTAVE)
_HELD = 1 << 16
"""Floats of spectra that are made together, so that they are still in the cache when they are transformed."""

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
    """Draw some of N profiles, the middle pixel of each, the nearest to its position, at [size // 2, size // 2].

    Parameters
    ----------
    images : ndarray of float32
        Where to put the pixels.
    first, size : ndarray of int, shape (M,)
        Where in `images` those of each of them begin, and how many rows and columns there are.
    fold : ndarray of int, shape (M,)
        By how much finer the grid is on which each is drawn, see `skygraft.render.prepared.FOLDS`; there is room in
        `images` for (fold size)^2 numbers of each.
    some : ndarray of int, shape (M,)
        Which of the profiles.
    where : (ndarray, ndarray), each of shape (N,)
        Positions x and y, parent pixels.
    amplitude : ndarray, shape (N,)
        Flux, image units, times what the kernel is multiplied by.
    metric : ndarray, shape (N, 3)
        The half-light ellipse x' P x = 1: xx, xy, yy, per square pixel.
    psf : EvaluatedPsf
        The PSF at some positions.
    owner : ndarray of int, shape (N,)
        Which of them is each profile's.
    placed : Placed
        The tables of T.
    """
    profiles = _Profiles(
        *where, amplitude, metric, placed.pieces.reshape(-1, 4 * N_PIECES), placed.rows, placed.weights, placed.dense,
        placed.ends,
    )  # fmt: skip
    kinds, which = np.unique(np.stack([size, fold], axis=1), axis=0, return_inverse=True)
    for kind, (pixels, finer) in enumerate(kinds.tolist()):
        same = np.flatnonzero(which.reshape(-1) == kind)
        mine = some[same]
        n = pixels * finer
        floats = (n + 2) * n
        shift = n // 2 + psf.origin[0], n // 2 + psf.origin[1]
        into = images, first[same], finer, plan_of(n), room_for(n)
        basis = psf.prepared.basis_transforms(pixels, finer)
        if basis is None or psf.coefficients is None:
            _draw(psf.transforms(owner[mine], pixels, finer).reshape(-1, floats), profiles, mine, shift, *into)
        else:
            spectra = aligned((min(max(1, _HELD // floats), len(mine)), floats))
            weights = basis.weights(psf.coefficients[owner[mine]])
            _draw_sums(weights, basis.rows, spectra, profiles, mine, shift, *into)


class _Profiles(NamedTuple):
    """Positions, amplitudes and half-light ellipses as `draw_cores` has them, and `Placed` tables of their indices."""

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
def _draw_sums(
    psf_weights: NDArray[np.float32],
    basis: NDArray[np.float32],
    spectra: NDArray[np.float32],
    profiles: _Profiles,
    mine: NDArray[np.int64],
    shift: tuple[int, int],
    images: NDArray[np.float32],
    first: NDArray[np.int64],
    fold: int,
    plan: Plan,
    room: NDArray[np.float32],
) -> None:
    """`_draw` with spectra that are sums of a basis (Q, floats or more), as many at a time as `spectra` holds."""
    for start in range(0, len(mine), len(spectra)):
        stop = min(start + len(spectra), len(mine))
        sums = spectra[: stop - start]
        combine_into(psf_weights[start:stop], basis, sums)
        _draw(sums, profiles, mine[start:stop], shift, images, first[start:stop], fold, plan, room)


@compiled
def _draw(
    spectra: NDArray[np.float32],
    profiles: _Profiles,
    mine: NDArray[np.int64],
    shift: tuple[int, int],
    images: NDArray[np.float32],
    first: NDArray[np.int64],
    fold: int,
    plan: Plan,
    room: NDArray[np.float32],
) -> None:
    """Draw those profiles whose kernels have these `spectra`, each moved by `shift` pixels; spectra are changed."""
    x, y, amplitude, metric, pieces, rows, weights, dense, ends = profiles
    n = plan.n
    half = n // 2
    table = np.empty(4 * N_PIECES, dtype=np.float32)
    form = np.empty(3)
    # Frequencies 0 ... n/2 - 1, and phases of those from 0 to n - 1.
    waves = np.arange(half).astype(np.float32)
    x_phases, y_phases = np.empty((2, n), dtype=np.float32), np.empty((2, n), dtype=np.float32)
    for k in range(len(mine)):
        s = mine[k]
        ix, iy = np.rint(x[s]), np.rint(y[s])
        unit = (2.0 * np.pi * fold / n) ** 2 / (metric[s, 0] * metric[s, 2] - metric[s, 1] ** 2)
        form[0], form[1], form[2] = metric[s, 2] * unit, -metric[s, 1] * unit, metric[s, 0] * unit
        _make_phases(x_phases, fold * (x[s] - ix), shift[0], amplitude[s] * (fold / n) ** 2)
        _make_phases(y_phases, fold * (y[s] - iy), shift[1], 1.0)
        if ends[s, 1] > 0:
            _multiply_dense(spectra[k], dense[ends[s, 0] : ends[s, 1]], form, x_phases, y_phases)
        else:
            _make_table(table, pieces, rows[s], weights[s], form, half)
            _multiply(spectra[k], table, form, waves, x_phases, y_phases)
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
def _make_table(
    table: NDArray[np.float32],
    pieces: NDArray[np.float32],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    form: NDArray[np.float64],
    half: int,
) -> None:
    """The table of one profile, as far as it is needed: for kappa = 0, and from the least to the largest other one."""
    middle, spread_of_form = 0.5 * (form[0] + form[2]), np.hypot(0.5 * (form[0] - form[2]), form[1])
    # The smallest eigenvalue, without a difference of large numbers; a little is allowed for rounding.
    least = (form[0] * form[2] - form[1] ** 2) / (middle + spread_of_form)
    most = 2.0 * (middle + spread_of_form) * half * half
    octaves = np.log2(np.array([0.99 * least, 1.01 * most]) + _OFFSET) - FIRST_OCTAVE
    begin = min(max(PIECES * int(octaves[0]), 0), N_PIECES - PIECES)
    end = min(PIECES * (int(octaves[1]) + 1), N_PIECES)
    w0, w1, w2, w3 = np.float32(weights[0]), np.float32(weights[1]), np.float32(weights[2]), np.float32(weights[3])
    a, b, c, d = pieces[rows[0]], pieces[rows[1]], pieces[rows[2]], pieces[rows[3]]
    for p in range(4):
        table[p] = w0 * a[p] + w1 * b[p] + w2 * c[p] + w3 * d[p]
    v0, v1, v2, v3 = spread(w0), spread(w1), spread(w2), spread(w3)
    for p in range(4 * begin, 4 * end, LANES):
        store(table, p, v0 * load(a, p) + v1 * load(b, p) + v2 * load(c, p) + v3 * load(d, p))


@compiled
def _make_phases(phases: NDArray[np.float32], fraction: float, whole: int, amplitude: float) -> None:
    """Real and imaginary parts, times `amplitude`, of exp(-i k (fraction + whole)), k = 2 pi m / n for m < n.

    Real at the Nyquist frequency, which stands for both signs.
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


@compiled
def _multiply(
    spectrum: NDArray[np.float32],
    table: NDArray[np.float32],
    form: NDArray[np.float64],
    waves: NDArray[np.float32],
    x_phases: NDArray[np.float32],
    y_phases: NDArray[np.float32],
) -> None:
    """Multiply a half spectrum, as `skygraft.render.transforms` has it, by the profile's and by the phases."""
    half, n = len(waves), 2 * len(waves)
    x_re, x_im, y_re, y_im = x_phases[0], x_phases[1], y_phases[0], y_phases[1]
    square = spread(np.float32(form[2]))
    for j in range(n):
        m = j if j <= half else j - n
        linear, constant = spread(np.float32(2.0 * form[1] * m)), spread(np.float32(form[0] * m * m + _OFFSET))
        re, im = spread(x_re[j]), spread(x_im[j])
        for i in range(0, half, LANES):
            k = load(waves, i)
            value = _value_at(table, (square * k + linear) * k + constant)
            _multiply_eight(spectrum, j * n + 2 * i, value, re, im, load(y_re, i), load(y_im, i))
    # The Nyquist frequency in y is that of both signs.
    square, constant = spread(np.float32(form[0])), spread(np.float32(form[2] * half * half + _OFFSET))
    linear, zero = spread(np.float32(2.0 * form[1] * half)), spread(np.float32(0.0))
    re = spread(np.float32(0.5) * y_re[half])
    for start in (0, half):
        for i in range(0, half, LANES):
            k = load(waves, i) - spread(np.float32(start))
            one = _value_at(table, (square * k + linear) * k + constant)
            other = _value_at(table, (square * k - linear) * k + constant)
            at = (n + start // half) * n + 2 * i
            _multiply_eight(spectrum, at, one + other, re, zero, load(x_re, start + i), load(x_im, start + i))


@compiled
def _multiply_dense(
    spectrum: NDArray[np.float32],
    table: NDArray[np.float32],
    form: NDArray[np.float64],
    x_phases: NDArray[np.float32],
    y_phases: NDArray[np.float32],
) -> None:
    """`_multiply` with a dense table of T over k."""
    n = x_phases.shape[1]
    half = n // 2
    x_re, x_im, y_re, y_im = x_phases[0], x_phases[1], y_phases[0], y_phases[1]
    values, zero = np.empty(n, dtype=np.float32), spread(np.float32(0.0))
    for j in range(n):
        m = j if j <= half else j - n
        for i in range(half):
            values[i] = _dense_at(table, (form[2] * i + 2.0 * form[1] * m) * i + form[0] * m * m)
        re, im = spread(x_re[j]), spread(x_im[j])
        for i in range(0, half, LANES):
            at = j * n + 2 * i
            _multiply_eight(spectrum, at, load(values, i), re, im, load(y_re, i), load(y_im, i))
    for i in range(n):
        m = i if i < half else i - n
        one = _dense_at(table, (form[0] * m + 2.0 * form[1] * half) * m + form[2] * half * half)
        other = _dense_at(table, (form[0] * m - 2.0 * form[1] * half) * m + form[2] * half * half)
        values[i] = one + other
    re = spread(np.float32(0.5) * y_re[half])
    for i in range(0, n, LANES):
        at = n * n + 2 * i
        _multiply_eight(spectrum, at, load(values, i), re, zero, load(x_re, i), load(x_im, i))


@compiled(inline="always")
def _dense_at(table: NDArray[np.float32], kappa: float) -> float:
    k = DENSE * np.sqrt(kappa)
    piece = int(k)
    if piece >= len(table):
        return 0.0
    t, c = k - piece, table[piece]
    value: float = c[0] + t * (c[1] + t * (c[2] + t * c[3]))
    return value


@compiled(inline="always")
def _multiply_eight(
    spectrum: NDArray[np.float32], at: int, value: Eight, ar: Eight, ai: Eight, br: Eight, bi: Eight
) -> None:
    """Eight numbers of a spectrum times a real one and two complex ones."""
    pr, pi = (ar * br - ai * bi) * value, (ar * bi + ai * br) * value
    c, d = load(spectrum, at), load(spectrum, at + LANES)
    store(spectrum, at, c * pr - d * pi)
    store(spectrum, at + LANES, c * pi + d * pr)
