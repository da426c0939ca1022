"""Poisson random numbers that depend only on a key and the pixel's position, at a few nanoseconds each.

Bits come from Philox 4x32-10 (Salmon et al. 2011), a counter-based generator. One call serves two neighbours in a row:
the counter is (x // 2, y, 0, 0) and each takes 64 of the 128 bits. The rare draw that needs more takes it from the
counters (x, y, n, 1), n = 1, 2, ..., which no pair uses.

A mean below 32 is split into the multiple of 1/4 below it and the rest, and so is the number, the sum of
two Poisson numbers. The first is looked up in an alias table (Walker 1977; Vose 1991) of its mean with 32 bits, so that
values rarer than 2^-33 do not occur; the second is 0 or 1 where bounds on the cumulative probability settle that in
single precision, and found by inversion, in double precision, in the 2 per cent where they do not.

A larger mean takes a normal number from a ziggurat (Marsaglia & Tsang 2000) to the Poisson quantile, rounded down. The
quantile is expanded in 1 / sqrt(mean), as the gamma distribution's is by Cornish & Fisher; Giles (2016, ACM TOMS 42, 6)
gives it up to 1 / mean, and here are two terms more. With q the probability of a number as drawn and p as it should be,
the sum of (q - p)^2 / p is 1e-10 at 32 and falls with the sixth power of the mean: fewer than 1e10 draws of
one mean do not tell. A bare Gaussian lacks the skewness 1 / sqrt(mean), which makes that sum 1 / (6 mean), and is never
used. Neither is it unrounded: beyond 2^53 rounding down changes nothing by itself.

Everything on the way is the same to the last bit on every processor: see `skygraft.noise.tables`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import float32, int32, int64, uint32, uint64
from numpy.typing import NDArray

from skygraft.jit import compiled, prefetch, scratch
from skygraft.noise.tables import STEPS, TABLE_LIMIT, ZIGGURAT_EDGE, exp_minus, exp_minus_small, log

__all__ = ["DOUBT", "add_noisy", "far_normal", "fill", "invert", "quantile"]

_BLOCK = 128
"""Largest number of pixels that are drawn at a time."""
_VECTOR = 32
"""Largest number of pixels in one step of vector code."""
_ROOM = _BLOCK + 2 * _VECTOR
"""Size of the buffers, pixels: a block, the neighbour before an odd pixel, and padding to whole vectors."""
_GAP = 16
"""This many pixels without flux end a run of pixels; it divides `_BLOCK`."""
_LINE = 16
"""Pixels in a cache line."""
_FIRST, _SECOND = (0, 32) if sys.byteorder == "little" else (32, 0)
"""Bit positions of two neighbouring 32-bit numbers in a 64-bit number."""
DOUBT = 2.0**-21
"""Bound on the errors of a probability and of a uniform number in single precision, which are 2^-22."""


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
    """Return a uniform number in (0, 1) from the upper 52 bits."""
    return (float(int64(word >> uint64(12))) + 0.5) * 2.0**-52


@compiled
def _more(x: int, y: int, n: int, k0: int, k1: int) -> tuple[Any, Any]:
    """Return two further random words of a pixel."""
    a, b, c, d = _philox(x, y, n, 1, k0, k1)
    return _word(a, b), _word(c, d)


@compiled(inline="always")
def _pair(first: Any, second: Any) -> Any:
    return (first << uint64(_FIRST)) | (second << uint64(_SECOND))


@compiled(inline="always")
def _fill_words(upper: NDArray[np.uint32], lower: NDArray[np.uint32], n: int, x: int, y: int, k0: int, k1: int) -> None:
    """Compute both halves of the random words of n pixels from x on, x even, and of more, up to whole vectors.

    It runs `_philox` for two counters at a time: each round waits for the one before, and meanwhile the processor works
    on the other counter.
    """
    uppers, lowers = upper.view(np.uint64), lower.view(np.uint64)
    first, half, bits, shift = x >> 1, uint64((n + 15) // 16 * 4), uint64(0xFFFFFFFF), uint64(32)
    for i in range(half):
        # 32 bits of each count; what is above them is dropped where it would
        a, b, c, d = uint64(first + int64(i)), uint64(y), uint64(0), uint64(0)
        e, f, g, h = uint64(first + int64(half + i)), uint64(y), uint64(0), uint64(0)
        u, v = uint64(k0), uint64(k1)
        for _ in range(10):
            p, q = (a & bits) * uint64(0xD2511F53), (c & bits) * uint64(0xCD9E8D57)
            r, s = (e & bits) * uint64(0xD2511F53), (g & bits) * uint64(0xCD9E8D57)
            a, b, c, d = (q >> shift) ^ b ^ u, q, (p >> shift) ^ d ^ v, p
            e, f, g, h = (s >> shift) ^ f ^ u, s, (r >> shift) ^ h ^ v, r
            u, v = (u + uint64(0x9E3779B9)) & bits, (v + uint64(0xBB67AE85)) & bits
        uppers[i], lowers[i] = _pair(a & bits, c & bits), _pair(b & bits, d & bits)
        uppers[half + i], lowers[half + i] = _pair(e & bits, g & bits), _pair(f & bits, h & bits)


@compiled
def far_normal(
    word: int, x: int, y: int, k0: int, k1: int, edges: NDArray[np.float64], density: NDArray[np.float64]
) -> float:
    """Return a normal number in the ziggurat's rare cases (1.2 per cent): the wedges and the tail."""
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
def quantile(w: Any, mean: Any) -> Any:
    """Return the Poisson quantile, not rounded down, that corresponds to the normal quantile w."""
    root = np.sqrt(mean)
    s = 1.0 / root
    v = w * w
    c2 = 1.0 / 3.0 + v * (1.0 / 6.0)
    c3 = w * (-1.0 / 36.0 - v * (1.0 / 72.0))
    c4 = -8.0 / 405.0 + v * (7.0 / 810.0 + v * (1.0 / 270.0))
    c5 = w * (671.0 / 38880.0 - v * (137.0 / 38880.0 + v * (23.0 / 17280.0)))
    c6 = -16.0 / 25515.0 + v * (-5189.0 / 408240.0 + v * (5.0 / 3024.0 + v * (19.0 / 34020.0)))
    return mean + (root * w + (c2 + s * (c3 + s * (c4 + s * (c5 + s * c6)))))


@compiled
def invert(mean: float, word: int) -> float:
    """Return the Poisson number of the rest of a mean by inversion of the cumulative probability."""
    small = mean if 0.0 < mean < TABLE_LIMIT else 0.0
    row = np.floor(small * STEPS)
    rest = small - row * (1.0 / STEPS)
    u = (float(int64(word & uint64(0xFFFFFFFF))) + 0.5) * 2.0**-32 if row > 0.0 else _open_uniform(word)
    n = 0
    p = exp_minus_small(rest)
    total = p
    while u >= total and n < 60:
        n += 1
        p *= rest / n
        total += p
    return float(n)


@compiled(inline="always")
def _make_room() -> Any:
    """Return buffers for a block: numbers, doubts, places, both halves of words, normals, numbers of large means."""
    numbers, doubts, places = scratch(_ROOM, np.float32), scratch(_ROOM, np.uint32), scratch(_ROOM, np.uint32)
    upper, lower = scratch(_ROOM, np.uint32), scratch(_ROOM, np.uint32)
    upper[:], lower[:] = uint32(0), uint32(0)
    return numbers, doubts, places, upper, lower, scratch(_ROOM, np.float64), scratch(_ROOM, np.float64)


@compiled(inline="always")
def _draw(room: Any, means: Any, n: int, x: int, y: int, k0: int, k1: int, alias: Any, edges: Any, density: Any) -> Any:
    """Draw the numbers of n pixels from x on, in loops that the compiler vectorises.

    Numbers for means below the limit go to the first buffer. Numbers for larger means, infinity among them, go to the
    last, and their pixels to the third; their count is returned. Means are in single or double precision, followed by
    zeros up to whole vectors.
    """
    numbers, doubts, places, upper, lower, _, _ = room
    odd, whole = uint64(x & 1), uint64((n + _VECTOR - 1) // _VECTOR * _VECTOR)
    _fill_words(upper, lower, n + (x & 1), x - (x & 1), y, k0, k1)
    bits, any_row, any_large, any_doubt = numbers.view(np.uint32), uint32(0), uint32(0), uint32(0)
    # Eight numbers of single precision make a vector, and only four of double: none of those is let in here.
    for i in range(whole):
        mean = means[i]
        small = mean if (mean > float32(0.0)) & (mean < float32(TABLE_LIMIT)) else float32(0.0)
        row = np.floor(small * float32(STEPS))
        rest, which = float32(small - row * float32(1.0 / STEPS)), uint32(int32(row))
        places[i] = uint32((which << uint32(7)) | (upper[odd + i] >> uint32(25)))
        # the first table says 0 whatever the bits are: means that have nothing else get all of them
        word = lower[odd + i] if which else upper[odd + i]
        bits[i] = (word >> uint32(9)) | uint32(0x3F800000)
        u = numbers[i] - float32(1.0)
        # exp(-rest) is between the first two, exp(-rest) (1 + rest) above the third
        square = float32(0.5) * rest * rest
        most = float32(1.0) - rest + square
        least = most - square * rest * float32(1.0 / 3.0)
        one = (u >= most + float32(DOUBT)) & (u < float32(1.0 - DOUBT) - square)
        doubt = uint32(not (one | (u < least - float32(DOUBT))))
        numbers[i], doubts[i] = float32(1.0) if one else float32(0.0), doubt
        any_row, any_doubt = uint32(any_row | which), uint32(any_doubt | doubt)
        any_large = uint32(any_large | uint32(mean >= float32(TABLE_LIMIT)))
    if any_row:
        entries = alias.reshape(alias.size)
        for i in range(uint64(n)):
            places[i] = entries[places[i]]
        for i in range(whole):
            entry, word = places[i], upper[odd + i]
            own = uint32(word << uint32(7)) < uint32(entry & uint32(0xFFFFFF80))
            numbers[i] += float32(int32(uint32(word >> uint32(25)) if own else uint32(entry & uint32(127))))
    if any_doubt:
        for i in range(uint64(n)):
            if doubts[i]:
                numbers[i] += float32(invert(float(means[i]), _word(upper[odd + i], lower[odd + i])))
    return _draw_large(room, means, n, x, y, k0, k1, edges, density) if any_large else uint64(0)


@compiled(inline="always")
def _draw_large(room: Any, means: Any, n: int, x: int, y: int, k0: int, k1: int, edges: Any, density: Any) -> Any:
    """Gather the large means, draw their numbers, and return how many there are."""
    _, _, places, upper, lower, normals, large = room
    odd, n_large = uint64(x & 1), uint64(0)
    for i in range(uint64(n)):
        places[n_large] = uint32(i)
        n_large += uint64(means[i] >= float32(TABLE_LIMIT))
    for k in range(n_large):
        i = uint64(places[k])
        word = _word(upper[odd + i], lower[odd + i])
        layer = word & uint64(255)
        size = float(int64(word >> uint64(11))) * 2.0**-53 * edges[layer]
        if size < edges[layer + uint64(1)]:
            normals[k] = size * (1.0 - 2.0 * float(int64((word >> uint64(8)) & uint64(1))))
        else:
            normals[k] = far_normal(word, x + int64(i), y, k0, k1, edges, density)
        large[k] = means[i]
    for k in range(n_large):
        mean = large[k]
        large[k] = max(np.floor(quantile(normals[k], mean)), 0.0) if mean < np.inf else mean
    return n_large


@compiled
def _empty(bits: NDArray[np.uint32], j: int, low: Any, high: Any) -> bool:
    seen = uint32(0)
    for i in range(low, min(high, uint64(bits.shape[1]))):
        seen = uint32(seen | bits[j, i])
    return not seen


@compiled(inline="always")
def _next_stretch(bits: NDArray[np.uint32], j: int, low: Any) -> tuple[Any, Any]:
    """Return the next run of pixels that are not 0, up to a gap and at most a block; an empty one at the row's end."""
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
    variance_out: NDArray[np.float32],
    apart: tuple[bool, bool],
    gain: NDArray[np.float32],
    x0: int,
    y0: int,
    k0: int,
    k1: int,
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> None:
    """Add a model and its photon noise to an image: `skygraft.noise.add_flux` with a gain.

    Parameters
    ----------
    image, variance, model : ndarray of float32, shape (ny, nx)
        Planes in image units (squared for `variance`); an empty `variance` means that there is none.
    bits : ndarray of uint32, shape (ny, nx)
        The model's bits, because integers are searched faster for values that are not 0.
    out : ndarray of float32, shape (ny, nx)
        Output for the sum; it may be the image or the model.
    variance_out : ndarray of float32, shape (ny, nx)
        Output for the new variance; it may be `variance`.
    apart : (bool, bool)
        Whether `out` is not the image, and `variance_out` not `variance`.
    gain : ndarray of float32, shape (ny or 1, nx or 1)
        Electrons per image unit.
    x0, y0 : int
        Parent coordinates of the first pixel.
    k0, k1 : int
        Key of the stream, two 32-bit words.
    alias, edges, density
        See `skygraft.noise.tables.tables`.
    """
    gain_varies_y, gain_varies_x, with_variance = gain.shape[0] > 1, gain.shape[1] > 1, variance.size > 0
    room = _make_room()
    numbers, places, large = room[0], room[2], room[6]
    means, gains, sums = scratch(_ROOM, np.float32), scratch(_ROOM, np.float32), scratch(_ROOM, np.float32)
    for j in range(model.shape[0]):
        gain_row = j if gain_varies_y else 0
        # unsigned indices need no check for negative values, without which the compiler can vectorise the loops
        done = uint64(0)
        while True:
            low, high = _next_stretch(bits, j, done)
            for i in range(done, low if apart[0] else done):
                out[j, i] = image[j, i]
            for i in range(done, low if with_variance and apart[1] else done):
                variance_out[j, i] = variance[j, i]
            if low == high:
                break
            n = high - low
            # unlike the model, which was just searched, the planes are not in the cache: fetch them while drawing
            for i in range(low, high + uint64(_LINE - 1), uint64(_LINE)):
                prefetch(image, j, min(i, high - uint64(1)))
                if with_variance:
                    prefetch(variance, j, min(i, high - uint64(1)))
                if gain_varies_x:
                    prefetch(gain, gain_row, min(i, high - uint64(1)))
            for i in range(n if gain_varies_x else uint64(0)):
                gains[i] = gain[gain_row, low + i]
            for i in range(uint64(0) if gain_varies_x else n):
                gains[i] = gain[gain_row, 0]
            for i in range(n):
                means[i] = model[j, low + i] * gains[i]
            means[n : n + uint64(_VECTOR)] = float32(0.0)
            n_large = _draw(room, means, int64(n), x0 + int64(low), y0 + j, k0, k1, alias, edges, density)
            # Sums go through a buffer: conditional stores would be masked stores, which are slow on some processors.
            if with_variance:
                for i in range(n):
                    flux, spread = model[j, low + i], variance[j, low + i]
                    sums[i] = spread + flux / gains[i] if flux > float32(0.0) else spread
                for i in range(n):
                    variance_out[j, low + i] = sums[i]
            for i in range(n):
                flux, light = model[j, low + i], image[j, low + i]
                added = np.float64(numbers[i]) / gains[i] if flux > float32(0.0) else np.float64(flux)
                sums[i] = float32(light + added) if flux != float32(0.0) else light
            for k in range(n_large):
                i = uint64(places[k])
                sums[i] = float32(image[j, low + i] + large[k] / gains[i])
            for i in range(n):
                out[j, low + i] = sums[i]
            done = high


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
    """Replace a field of means by Poisson numbers; for the parameters see `add_noisy`."""
    room = _make_room()
    numbers, places, large = room[0], room[2], room[6]
    means = scratch(_ROOM, np.float64)
    for j in range(field.shape[0]):
        for low in range(0, field.shape[1], _BLOCK):
            block = field[j, low : low + _BLOCK]
            n = block.size
            for i in range(uint64(n)):
                means[i] = block[i]
            means[n : n + _VECTOR] = 0.0
            n_large = _draw(room, means, n, x0 + low, y0 + j, k0, k1, alias, edges, density)
            for i in range(uint64(n)):
                # what is no positive number is its own
                block[i] = numbers[i] if means[i] > 0.0 else means[i]
            for k in range(n_large):
                block[places[k]] = large[k]
