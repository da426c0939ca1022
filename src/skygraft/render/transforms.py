"""Many small real images brought back from Fourier space, eight lines of an image at a time.

An image of n by n pixels, n = 16 m, has n frequencies in x times n/2 in y; the others follow from these because the
image is real. First the lines along x are transformed, many side by side: what is done to one element of a
line is done to the same element of the others, which are beside it in memory, with vectors (see
`skygraft.render.vectors`). Nothing is rearranged on the way, as in Stockham's autosorting transform with factors of 5,
4, 3 and 2 (Cochran et al. 1967; Van Loan 1992, chapter 1.7). Then the image is transposed, and the lines along y are
transformed likewise. They are real: even pixels are made the real parts of a line of half the length, odd ones the
imaginary parts (Press et al. 2007, chapter 12.3).

A half spectrum is an array of float32 of shape (n + 2, n). In row j there is the frequency j (of n) in x, and along it
those from 0 to n/2 - 1 in y: eight real parts, the imaginary parts of the same eight, and so on. The last two rows have
the Nyquist frequency in y, and along them those in x, half of them in each row. Both columns of frequencies that are
their own opposites in y, 0 and Nyquist, have real transforms along x, and are transformed as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # scipy.fft is imported when used
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.linear import aligned
from skygraft.render.traced import number, traced
from skygraft.render.vectors import LANES, load, spread, store, transpose

__all__ = ["Plan", "half_spectra", "plan_of", "room_for", "spectra_between_pixels", "to_image"]

_PAIR = 2 * LANES
"""Floats that eight complex numbers take."""
_BLOCK = 1 << 12
"""Floats of lines that are transformed together: twice as many fit into the first-level cache."""


class Plan(NamedTuple):
    """Constants of `to_image` for images of n by n pixels.

    Parameters
    ----------
    n : int
        Pixels a side.
    factors, half_factors : ndarray of int
        Factors of n and of n/2.
    turns, half_turns : ndarray of float32
        Twiddle factors: cosine and sine for each output of each factor but its first, factor by factor.
    pair_turns : ndarray of float32
        Cosine and sine of 2 pi k / n, k = 0 ... n/4, which join the transforms of even and odd pixels.
    """

    n: int
    factors: NDArray[np.int64]
    turns: NDArray[np.float32]
    half_factors: NDArray[np.int64]
    half_turns: NDArray[np.float32]
    pair_turns: NDArray[np.float32]


@functools.cache
def plan_of(n: int) -> Plan:
    """Return the plan for images of n by n pixels; n is 16 times factors of 2, 3 and 5."""
    return Plan(n, *_factors(n), *_factors(n // 2), _turns(2.0 * np.pi * np.arange(n // 4 + 1) / n))


def _factors(length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    factors, turns = [], [np.empty(0, dtype=np.float32)]
    for factor in (5, 3, 4, 2):
        while length % factor == 0:
            factors.append(factor)
            left = length // factor
            turns.append(_turns(2.0 * np.pi / length * np.arange(left)[:, None] * np.arange(1, factor)))
            length = left
    assert length == 1
    return np.array(factors, dtype=np.int64), np.concatenate(turns)


def _turns(angles: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel().astype(np.float32)


def room_for(n: int) -> NDArray[np.float32]:
    """Return an uninitialised buffer for `to_image` with n by n pixels."""
    return aligned((n * n + 2 * max(_BLOCK, n * _PAIR),))


def half_spectra(images: NDArray[np.float64], n: int) -> NDArray[np.float32]:
    """Compute the transforms of small images, with the first pixel of each as the origin.

    Parameters
    ----------
    images : ndarray, shape (N, ny, nx)
        Images of at most n by n pixels.
    n : int
        Pixels a side of the box.

    Returns
    -------
    ndarray of float32, shape (N, n + 2, n)
        Half spectra.
    """
    # Columns that are zero need no transform along y.
    columns = scipy.fft.rfft(images.astype(np.float32), n, axis=1)
    return _packed(scipy.fft.fft(columns, n, axis=2, overwrite_x=True))


def spectra_between_pixels(images: NDArray[np.float64], per_pixel: int, n: int, fold: int) -> NDArray[np.float32]:
    """Compute the transforms of small images that are sampled more finely than pixels, in boxes of n by n pixels.

    Parameters
    ----------
    images : ndarray, shape (N, my, mx)
        Flux per pixel at `per_pixel` samples a pixel; both sizes odd. The middle sample is the origin.
    per_pixel : int
        Samples a pixel along each axis; enough that higher frequencies are not aliased onto those asked for.
    n : int
        Pixels a side of the box.
    fold : int
        Highest frequency, in units of the pixels' Nyquist frequency.

    Returns
    -------
    ndarray of float32, shape (N, fold n + 2, fold n)
        Half spectra of images with `fold` samples a pixel.
    """
    size = n * fold
    waves = 2.0 * np.pi / n * np.arange(size // 2 + 1)
    y, x = ((np.arange(m) - m // 2) / per_pixel for m in images.shape[1:])
    along_y, along_x = (np.exp(-1j * waves[:, None] * at) / per_pixel for at in (y, x))
    # The last frequency stands for both signs.
    along_y[-1], along_x[-1] = along_y[-1].real, along_x[-1].real
    along_x = np.concatenate([along_x, along_x[-2:0:-1].conj()])
    made = np.empty((len(images), size // 2 + 1, size), dtype=np.complex64)
    for image, into in zip(images, made, strict=True):
        into[:] = (along_y @ image) @ along_x.T
    return _packed(made)


def _packed(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Pack frequencies 0 ... n/2 in y and n in x, shape (N, n/2 + 1, n), as half spectra."""
    count, _, n = spectra.shape
    half = n // 2
    made = np.empty((count, n + 2, half // LANES, 2, LANES), dtype=np.float32)
    most = spectra[:, :half].transpose(0, 2, 1).reshape(count, n, half // LANES, LANES)
    last = spectra[:, half].reshape(count, 2, half // LANES, LANES)
    made[:, :n, :, 0], made[:, :n, :, 1] = most.real, most.imag
    made[:, n:, :, 0], made[:, n:, :, 1] = last.real, last.imag
    return made.reshape(count, n + 2, n)


@compiled(inline="always")
def to_image(spectrum: NDArray[np.float32], image: NDArray[np.float32], plan: Plan, room: NDArray[np.float32]) -> None:
    """Compute the inverse transform of a half spectrum, without dividing by the number of pixels.

    Parameters
    ----------
    spectrum : ndarray of float32, shape ((n + 2) * n,)
        Overwritten.
    image : ndarray of float32, shape (n * n,)
        Output; x changes fastest.
    plan : Plan
    room : ndarray
        Buffer from `room_for`.
    """
    n, half, row = plan.n, plan.n // 2, 2 * plan.n
    between, room = room[: n * n], room[n * n :]
    one, other = room[: len(room) // 2], room[len(room) // 2 :]
    for j in range(n):
        at = n * n + j // LANES * _PAIR + j % LANES
        spectrum[j * n] -= spectrum[at + LANES]
        spectrum[j * n + LANES] += spectrum[at]
    # Afterwards the frequencies in y are rows of 2 n floats.
    most = max(1, _BLOCK // (n * _PAIR))
    for first in range(0, half // LANES, most):
        wide = min(most, half // LANES - first)
        done = _transform_lines(spectrum, first * _PAIR, n, one, other, plan.factors, plan.turns, wide)
        for v in range(wide):
            for i in range(n // LANES):
                at, to = (i * LANES * wide + v) * _PAIR, (first + v) * LANES * row + i * _PAIR
                transpose(done, at, wide * _PAIR, between, to, row)
                transpose(done, at + LANES, wide * _PAIR, between, to + LANES, row)
    most = max(1, _BLOCK // (half * _PAIR))
    for first in range(0, n // LANES, most):
        wide = min(most, n // LANES - first)
        _join_pairs(between, first * _PAIR, row, plan.pair_turns, half, wide)
        done = _transform_lines(between, first * _PAIR, row, one, other, plan.half_factors, plan.half_turns, wide)
        for j in range(half):
            for v in range(wide):
                at, to = (j * wide + v) * _PAIR, 2 * j * n + (first + v) * LANES
                store(image, to, load(done, at))
                store(image, to + n, load(done, at + LANES))


@compiled(inline="always")
def _join_pairs(
    lines: NDArray[np.float32], at: int, step: int, pair_turns: NDArray[np.float32], half: int, wide: int
) -> None:
    """Turn X, the half spectrum of real lines, into that of complex lines of even (real) and odd (imaginary) pixels.

    It is A + C at k and the conjugate of A - C at n/2 - k; A is the sum of X there and the conjugate of X here, and
    C their difference times i exp(2 pi i k / n).
    """
    for t in range(at, at + wide * _PAIR, _PAIR):
        _join_ends(lines, t)
    for k in range(1, half // 2 + 1):
        for t in range(at, at + wide * _PAIR, _PAIR):
            _join_pair(lines, k * step + t, (half - k) * step + t, pair_turns, 2 * k)


@traced()
def _join_ends(lines: NDArray[np.float32], t: int) -> None:
    zero, nyquist = load(lines, t), load(lines, t + LANES)
    store(lines, t, zero + nyquist)
    store(lines, t + LANES, zero - nyquist)


@traced()
def _join_pair(lines: NDArray[np.float32], i: int, o: int, turns: NDArray[np.float32], turn: int) -> None:
    c, s = spread(turns[turn]), spread(turns[turn + 1])
    xr, xi, yr, yi = load(lines, i), load(lines, i + LANES), load(lines, o), load(lines, o + LANES)
    ar, ai, br, bi = xr + yr, xi - yi, xr - yr, xi + yi
    cr, ci = s * br + c * bi, c * br - s * bi
    store(lines, i, ar - cr)
    store(lines, i + LANES, ai + ci)
    store(lines, o, ar + cr)
    store(lines, o + LANES, ci - ai)


@compiled
def _transform_lines(
    source: NDArray[np.float32],
    at: int,
    step: int,
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    factors: NDArray[np.int64],
    turns: NDArray[np.float32],
    wide: int,
) -> NDArray[np.float32]:
    """Transform `wide` vectors of lines, whose elements are `step` apart, and return the buffer with the result."""
    m, s, turn, into = 1, 1, 0, True
    for factor in factors:
        m *= factor
    for factor in factors:
        m //= factor
        target = one if into else other
        apart, out = s * m * step, s * wide * _PAIR
        for p in range(m):
            i, o = at + s * p * step, factor * p * out
            if factor == 2:
                for t in range(0, s * wide * _PAIR, _PAIR):
                    if p == 0:
                        _first_by_two(source, i + t, apart, target, o + t, out, turns, turn)
                    else:
                        _by_two(source, i + t, apart, target, o + t, out, turns, turn)
            elif factor == 3:
                for t in range(0, s * wide * _PAIR, _PAIR):
                    if p == 0:
                        _first_by_three(source, i + t, apart, target, o + t, out, turns, turn)
                    else:
                        _by_three(source, i + t, apart, target, o + t, out, turns, turn)
            elif factor == 4:
                for t in range(0, s * wide * _PAIR, _PAIR):
                    if p == 0:
                        _first_by_four(source, i + t, apart, target, o + t, out, turns, turn)
                    else:
                        _by_four(source, i + t, apart, target, o + t, out, turns, turn)
            else:
                for t in range(0, s * wide * _PAIR, _PAIR):
                    if p == 0:
                        _first_by_five(source, i + t, apart, target, o + t, out, turns, turn)
                    else:
                        _by_five(source, i + t, apart, target, o + t, out, turns, turn)
            turn += 2 * (factor - 1)
        s *= factor
        source, at, step = target, 0, wide * _PAIR
        into = not into
    return source


def _butterfly(formula: Callable[[Any], list[Any]], n: int, turned: bool) -> Any:
    """Return a function that reads n complex numbers, and stores what the formula makes of them, turned or not."""

    @traced()
    def butterfly(
        source: Any, i: Any, apart: Any, target: Any, o: Any, out: Any, turns: Any, turn: Any
    ) -> None:  # pragma: no cover - traced
        given: list[Any] = []
        for k in range(n):
            given += [load(source, i + k * apart), load(source, i + k * apart + LANES)]
        made = formula(given)
        for k in range(n):
            re, im = made[2 * k], made[2 * k + 1]
            if turned and k:
                c, s = spread(turns[turn + 2 * (k - 1)]), spread(turns[turn + 2 * (k - 1) + 1])
                re, im = c * re - s * im, c * im + s * re
            store(target, o + k * out, re)
            store(target, o + k * out + LANES, im)

    return butterfly


def _two(given: Any) -> list[Any]:
    ar, ai, br, bi = given
    return [ar + br, ai + bi, ar - br, ai - bi]


def _three(given: Any) -> list[Any]:
    ar, ai, br, bi, cr, ci = given
    half, root = number(ar, 0.5), number(ar, np.sqrt(0.75))
    sr, si = br + cr, bi + ci
    dr, di = root * (br - cr), root * (bi - ci)
    er, ei = ar - half * sr, ai - half * si
    return [ar + sr, ai + si, er - di, ei + dr, er + di, ei - dr]


def _four(given: Any) -> list[Any]:
    ar, ai, br, bi, cr, ci, dr, di = given
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return [er + gr, ei + gi, fr - hi, fi + hr, er - gr, ei - gi, fr + hi, fi - hr]


def _five(given: Any) -> list[Any]:
    ar, ai, br, bi, cr, ci, dr, di, er, ei = given
    c1, c2, s1, s2 = (number(ar, f(a * np.pi)) for f, a in ((np.cos, 0.4), (np.cos, 0.8), (np.sin, 0.4), (np.sin, 0.8)))
    fr, fi, gr, gi = br + er, bi + ei, cr + dr, ci + di
    hr, hi, kr, ki = br - er, bi - ei, cr - dr, ci - di
    xr, xi = ar + (c1 * fr + c2 * gr), ai + (c1 * fi + c2 * gi)
    yr, yi = ar + (c2 * fr + c1 * gr), ai + (c2 * fi + c1 * gi)
    ur, ui = s1 * hr + s2 * kr, s1 * hi + s2 * ki
    vr, vi = s2 * hr - s1 * kr, s2 * hi - s1 * ki
    ends = [xr - ui, xi + ur, yr - vi, yi + vr, yr + vi, yi - vr, xr + ui, xi - ur]
    return [ar + (fr + gr), ai + (fi + gi), *ends]


_first_by_two, _by_two = (_butterfly(_two, 2, turned) for turned in (False, True))
_first_by_three, _by_three = (_butterfly(_three, 3, turned) for turned in (False, True))
_first_by_four, _by_four = (_butterfly(_four, 4, turned) for turned in (False, True))
_first_by_five, _by_five = (_butterfly(_five, 5, turned) for turned in (False, True))
