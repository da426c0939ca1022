"""Poisson numbers that depend on nothing but a key and a pixel's position, at a few nanoseconds each.

Bits come from Philox 4x32-10 (Salmon et al. 2011), a counter-based generator. One call serves two neighbours in a row:
the counter is (x // 2, y, 0, 0) and each takes 64 of the 128 bits. The rare draw that needs more takes it from the
counters (x, y, n, 1), n = 1, 2, ..., which no pair uses.

A mean below 32 is split into the multiple of 1/4 below it and the rest, and so is the number, the sum of
two Poisson numbers. The first is looked up in an alias table (Walker 1977; Vose 1991) of its mean with 32 bits, so that
values rarer than 2^-33 do not occur; the second is 0 or 1 where bounds on the cumulative probability settle that, and
found by inversion in the 2 per cent where they do not.

A larger mean takes a normal number from a ziggurat (Marsaglia & Tsang 2000) to the Poisson quantile, rounded down. The
quantile is expanded in 1 / sqrt(mean), as the gamma distribution's is by Cornish & Fisher; Giles (2016, ACM TOMS 42, 6)
gives it up to 1 / mean, and here are two terms more. With q the probability of a number as drawn and p as it should be,
the sum of (q - p)^2 / p is 1e-10 at 32 and falls with the sixth power of the mean: fewer than 1e10 draws of
one mean do not tell. A bare Gaussian lacks the skewness 1 / sqrt(mean), which makes that sum 1 / (6 mean), and is never
used. Neither is it unrounded: beyond 2^53 rounding down changes nothing by itself.

Everything on the way is the same to the last bit on every processor: see `skygraft.noise.tables`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import int64, uint32, uint64
from numpy.typing import NDArray

from skygraft.jit import compiled, prefetch
from skygraft.noise.tables import STEPS, TABLE_LIMIT, ZIGGURAT_EDGE, exp_minus, exp_minus_small, log

__all__ = ["add_noisy", "fill"]

_BLOCK = 128
"""Pixels that are drawn at a time, at most."""
_GAP = 16
"""So many pixels without flux end a stretch; it divides `_BLOCK`."""
_LINE = 16
"""Pixels that memory hands over at a time."""


@compiled(inline="always")
def _philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: int, k1: int) -> tuple[Any, Any, Any, Any]:
    a, b, c, d = uint32(c0), uint32(c1), uint32(c2), uint32(c3)
    x, y = uint32(k0), uint32(k1)
    for _ in range(10):
        p = uint64(a) * uint64(0xD2511F53)
        q = uint64(c) * uint64(0xCD9E8D57)
        a, b, c, d = uint32(q >> uint64(32)) ^ b ^ x, uint32(q), uint32(p >> uint64(32)) ^ d ^ y, uint32(p)
        x = uint32(x + uint32(0x9E3779B9))
        y = uint32(y + uint32(0xBB67AE85))
    return a, b, c, d


@compiled(inline="always")
def _word(high: Any, low: Any) -> Any:
    return (uint64(high) << uint64(32)) | uint64(low)


@compiled(inline="always")
def _open_uniform(word: Any) -> float:
    """In (0, 1), from the upper 52 bits."""
    return (float(int64(word >> uint64(12))) + 0.5) * 2.0**-52


@compiled
def _more(x: int, y: int, n: int, k0: int, k1: int) -> tuple[Any, Any]:
    """Two further words of a pixel."""
    a, b, c, d = _philox(x, y, n, 1, k0, k1)
    return _word(a, b), _word(c, d)


@compiled
def _fill_words(words: NDArray[np.uint64], n: int, x: int, y: int, k0: int, k1: int) -> None:
    """The words of n pixels from x on, x even; and of some more, to make up whole vectors."""
    first = x >> 1
    for i in range(uint64((n + 7) // 8 * 4)):
        a, b, c, d = _philox(first + int64(i), y, 0, 0, k0, k1)
        words[uint64(2) * i] = _word(a, b)
        words[uint64(2) * i + uint64(1)] = _word(c, d)


@compiled
def _far_normal(
    word: int, x: int, y: int, k0: int, k1: int, edges: NDArray[np.float64], density: NDArray[np.float64]
) -> float:
    """The ziggurat's other 1.2 per cent: wedges between a layer's rectangle and the density, and the tail."""
    n = 0
    while True:
        n += 1
        layer = word & uint64(255)
        size: float = float(word >> uint64(11)) * 2.0**-53 * edges[layer]
        sign = 1.0 - 2.0 * float((word >> uint64(8)) & uint64(1))
        if size < edges[layer + uint64(1)]:
            return sign * size
        first, second = _more(x, y, n, k0, k1)
        if layer == 0:
            while True:
                beyond = -log(_open_uniform(first)) / ZIGGURAT_EDGE
                if -2.0 * log(_open_uniform(second)) > beyond * beyond:
                    return sign * (ZIGGURAT_EDGE + beyond)
                n += 1
                first, second = _more(x, y, n, k0, k1)
        height = density[layer] + _open_uniform(first) * (density[layer + uint64(1)] - density[layer])
        if height < exp_minus(0.5 * size * size):
            return sign * size
        word = second


@compiled(inline="always")
def _quantile(w: float, mean: float) -> float:
    """Poisson quantile, before rounding down, where the normal one is w."""
    root = math.sqrt(mean)
    s = 1.0 / root
    v = w * w
    c2 = 1.0 / 3.0 + v * (1.0 / 6.0)
    c3 = w * (-1.0 / 36.0 - v * (1.0 / 72.0))
    c4 = -8.0 / 405.0 + v * (7.0 / 810.0 + v * (1.0 / 270.0))
    c5 = w * (671.0 / 38880.0 - v * (137.0 / 38880.0 + v * (23.0 / 17280.0)))
    c6 = -16.0 / 25515.0 + v * (-5189.0 / 408240.0 + v * (5.0 / 3024.0 + v * (19.0 / 34020.0)))
    return mean + (root * w + (c2 + s * (c3 + s * (c4 + s * (c5 + s * c6)))))


@compiled
def _invert(u: float, mean: float) -> float:
    """The least n whose cumulative probability exceeds u, for small means."""
    n = 0
    p = exp_minus_small(mean)
    total = p
    while u >= total and n < 60:
        n += 1
        p *= mean / n
        total += p
    return float(n)


@compiled
def _start(
    numbers: NDArray[np.float64],
    rest: NDArray[np.float64],
    uniform: NDArray[np.float64],
    means: NDArray[np.float64],
    words: NDArray[np.uint64],
    n: int,
    x: int,
    y: int,
    k0: int,
    k1: int,
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> bool:
    """Look up numbers for small means, beside what is left of the mean and its uniform, and normals for large ones.

    Says whether there is a large one. What is no positive finite mean is its own number.
    """
    odd, n_large = uint64(x & 1), 0
    # A whole number below 2^52 becomes a float by way of its bits, which compilers turn into vector code: they are put
    # behind those of 1 or 2^52. The first table says 0 whatever the bits are: means that have nothing else get all.
    bits = uniform.view(np.uint64)
    for i in range(uint64(n)):
        mean, word = means[i], words[i + odd]
        small = mean if (mean > 0.0) & (mean < TABLE_LIMIT) else 0.0
        n_large += (mean >= TABLE_LIMIT) & (mean < np.inf)
        row = np.floor(small * STEPS)
        numbers[i], rest[i] = row, small - row * (1.0 / STEPS)
        lower, upper = (word & uint64(0xFFFFFFFF)) | uint64(0x433 << 52), (word >> uint64(12)) | uint64(0x3FF << 52)
        bits[i] = lower if row > 0.0 else upper
    for i in range(uint64(n)):
        u = uniform[i]
        uniform[i] = (u - 2.0**52 + 0.5) * 2.0**-32 if numbers[i] > 0.0 else u - 1.0 + 2.0**-53
    for i in range(uint64(n)):
        mean, word = means[i], words[i + odd]
        column = word >> uint64(57)
        entry = uint64(alias[uint64(int64(numbers[i])), column])
        own = (word >> uint64(25)) & uint64(0xFFFFFF80) < (entry & uint64(0xFFFFFF80))
        number = float(int64(column) if own else int64(entry & uint64(127)))
        numbers[i] = number if (mean > 0.0) & (mean < TABLE_LIMIT) else mean
    if n_large:
        for i in range(n):
            mean, word = means[i], words[uint64(i) + odd]
            if not TABLE_LIMIT <= mean < np.inf:
                continue
            layer = word & uint64(255)
            size = float(int64(word >> uint64(11))) * 2.0**-53 * edges[layer]
            if size < edges[layer + uint64(1)]:
                numbers[i] = size * (1.0 - 2.0 * float(int64((word >> uint64(8)) & uint64(1))))
            else:
                numbers[i] = _far_normal(word, x + i, y, k0, k1, edges, density)
    return n_large > 0


@compiled
def _draw(
    numbers: NDArray[np.float64],
    rest: NDArray[np.float64],
    uniform: NDArray[np.float64],
    means: NDArray[np.float64],
    words: NDArray[np.uint64],
    n: int,
    x: int,
    y: int,
    k0: int,
    k1: int,
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> None:
    """Numbers of the pixels from x on, in steps that compilers turn into vector code."""
    any_large = _start(numbers, rest, uniform, means, words, n, x, y, k0, k1, alias, edges, density)
    for i in range(n):
        r, u = rest[i], uniform[i]
        # exp(-r) is between the first two, exp(-r) (1 + r) above the third
        square = 0.5 * r * r
        most = 1.0 - r + square
        least = most - square * r * (1.0 / 3.0)
        sure_one = 1.0 - square
        numbers[i] += 1.0 if (u >= most) & (u < sure_one) else 0.0
        uniform[i] = u if u >= (sure_one if u >= most else least) else 0.0
    for i in range(n):
        if uniform[i] > 0.0:
            numbers[i] += _invert(uniform[i], rest[i])
    if any_large:
        for i in range(n):
            drawn = max(np.floor(_quantile(numbers[i], means[i])), 0.0)
            numbers[i] = drawn if TABLE_LIMIT <= means[i] < np.inf else numbers[i]


@compiled
def _empty(bits: NDArray[np.uint32], j: int, low: Any, high: Any) -> bool:
    seen = uint32(0)
    for i in range(low, min(high, uint64(bits.shape[1]))):
        seen |= bits[j, i]
    return not seen


@compiled
def _next_stretch(bits: NDArray[np.uint32], j: int, low: Any) -> tuple[Any, Any]:
    """From a row's next pixel that is not 0 to a gap, a block at most; empty at the row's end if there is none."""
    nx, block, gap = uint64(bits.shape[1]), uint64(_BLOCK), uint64(_GAP)
    while low < nx and _empty(bits, j, low, low + block):
        low += block
    while low < nx and _empty(bits, j, low, low + gap):
        low += gap
    while low < nx and not bits[j, low]:
        low += uint64(1)
    high = low + gap
    while high < low + block and not _empty(bits, j, high, high + gap):
        high += gap
    return min(low, nx), min(high, nx)


@compiled
def add_noisy(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    model: NDArray[np.float32],
    bits: NDArray[np.uint32],
    out: NDArray[np.float32],
    apart: bool,
    gain: NDArray[np.float32],
    x0: int,
    y0: int,
    k0: int,
    k1: int,
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> None:
    """`skygraft.noise.add_flux` with a gain.

    Parameters
    ----------
    image, variance, model : ndarray of float32, shape (ny, nx)
        See there; an empty `variance` means none.
    bits : ndarray of uint32, shape (ny, nx)
        The model's bits: whole numbers are searched faster for what is not 0.
    out : ndarray of float32, shape (ny, nx)
        For the sum. It may be the image, or the model: what is written was searched before.
    apart : bool
        Whether `out` is not the image.
    gain : ndarray of float32, shape (ny or 1, nx or 1)
        Electrons per image unit.
    x0, y0 : int
        Parent coordinates of the first pixel.
    k0, k1 : int
        Key of the stream, two 32-bit words.
    alias, edges, density
        See `skygraft.noise.tables.tables`.
    """
    gain_varies_y, gain_varies_x = gain.shape[0] > 1, gain.shape[1] > 1
    words, gains, lights = np.empty(_BLOCK + 16, np.uint64), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    numbers, means, rest, uniform = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for j in range(model.shape[0]):
        gain_row = j if gain_varies_y else 0
        # unsigned indices need no test for being negative, and without that test the loops become vector code
        low, high = _next_stretch(bits, j, uint64(0))
        if apart:
            out[j, :low] = image[j, :low]
        while low < high:
            n, x = int64(high - low), x0 + int64(low)
            # the planes are not in the cache as the model is, which was just searched: ask for them before drawing
            for i in range(low, high + uint64(_LINE - 1), uint64(_LINE)):
                prefetch(image, j, min(i, high - uint64(1)))
                if variance.size:
                    prefetch(variance, j, min(i, high - uint64(1)))
                if gain_varies_x:
                    prefetch(gain, gain_row, min(i, high - uint64(1)))
            _fill_words(words, n + (x & 1), x - (x & 1), y0 + j, k0, k1)
            for i in range(uint64(n)):
                gains[i] = gain[gain_row, low + i if gain_varies_x else uint64(0)]
            for i in range(uint64(n)):
                means[i] = float(model[j, low + i]) * float(gains[i])
            _draw(numbers, rest, uniform, means, words, n, x, y0 + j, k0, k1, alias, edges, density)
            for i in range(uint64(n)):
                flux, light = model[j, low + i], image[j, low + i]
                added = numbers[i] / float(gains[i]) if flux > 0.0 else float(flux)
                lights[i] = np.float32(float(light) + added) if flux != 0.0 else light
            if variance.size:
                for i in range(uint64(n)):
                    flux, spread = model[j, low + i], variance[j, low + i]
                    more = np.float32(float(spread) + float(flux) / float(gains[i]))
                    variance[j, low + i] = more if flux > 0.0 else spread
            out[j, low:high] = lights[:n]
            done = high
            low, high = _next_stretch(bits, j, done)
            if apart:
                out[j, done:low] = image[j, done:low]


@compiled
def fill(
    field: NDArray[np.float64],
    x0: int,
    y0: int,
    k0: int,
    k1: int,
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> None:
    """Put numbers in the place of a field of means; for the parameters see `add_noisy`."""
    words = np.empty(_BLOCK + 16, np.uint64)
    numbers, rest, uniform = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for j in range(field.shape[0]):
        for low in range(0, field.shape[1], _BLOCK):
            means = field[j, low : low + _BLOCK]
            n, x = means.size, x0 + low
            _fill_words(words, n + (x & 1), x - (x & 1), y0 + j, k0, k1)
            _draw(numbers, rest, uniform, means, words, n, x, y0 + j, k0, k1, alias, edges, density)
            means[:] = numbers[:n]
