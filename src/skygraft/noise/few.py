"""The draws and sums of `skygraft.noise.poisson.add_noisy` in numpy, to the last bit: for a few pixels.

To compile that function takes three seconds, in which a first, small injection is done a hundred times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import plain
from skygraft.noise import poisson
from skygraft.noise.tables import STEPS, TABLE_LIMIT

__all__ = ["add_noisy_to_few"]

_32_BITS = 0xFFFFFFFF


def add_noisy_to_few(
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
    """Do what `skygraft.noise.poisson.add_noisy` does, which see."""
    j, i = np.nonzero(bits)
    flux, light, gains = model[j, i], image[j, i], np.broadcast_to(gain, model.shape)[j, i]
    if apart[0]:
        out[:] = image
    with np.errstate(all="ignore"):
        means = flux * gains
        numbers = _draw(means, x0 + i, y0 + j, (k0, k1), alias, edges, density)
        lit = flux > 0.0
        added = np.where(lit | (means >= np.float32(TABLE_LIMIT)), numbers / gains, flux.astype(np.float64))
        out[j, i] = np.where(flux != 0.0, (light + added).astype(np.float32), light)
        if variance.size:
            if apart[1]:
                variance_out[:] = variance
            spread = variance[j, i]
            variance_out[j, i] = np.where(lit, spread + flux / gains, spread)


def _draw(
    means: NDArray[np.float32],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    key: tuple[int, int],
    alias: NDArray[np.uint32],
    edges: NDArray[np.float64],
    density: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Draw the numbers of pixels x, y, as `skygraft.noise.poisson` says it."""
    y = y & _32_BITS
    a, b, c, d = _philox((x >> 1) & _32_BITS, y, *key)
    odd = (x & 1).astype(bool)
    upper, lower = np.where(odd, c, a), np.where(odd, d, b)
    words = (upper << np.uint64(32)) | lower
    f = np.float32
    small = np.where((means > 0.0) & (means < f(TABLE_LIMIT)), means, f(0.0))
    row = np.floor(small * f(STEPS))
    rest, which = small - row * f(1.0 / STEPS), row.astype(np.intp)
    word = np.where(which > 0, lower, upper)
    u = ((word >> np.uint64(9)) | np.uint64(0x3F800000)).astype(np.uint32).view(np.float32) - f(1.0)
    square = f(0.5) * rest * rest
    most = f(1.0) - rest + square
    least = most - square * rest * f(1.0 / 3.0)
    one = (u >= most + f(poisson.DOUBT)) & (u < f(1.0 - poisson.DOUBT) - square)
    doubt = ~(one | (u < least - f(poisson.DOUBT)))
    column = upper >> np.uint64(25)
    entry = alias[which, column.astype(np.intp)]
    own = ((upper << np.uint64(7)) & np.uint64(_32_BITS)) < (entry & np.uint32(0xFFFFFF80))
    numbers: NDArray[np.float64] = one + np.where(own, column, entry & np.uint32(127)).astype(np.float64)
    invert, far_normal = plain(poisson.invert), plain(poisson.far_normal)
    for k in np.flatnonzero(doubt):
        numbers[k] += invert(float(means[k]), words[k])
    large = np.flatnonzero(means >= f(TABLE_LIMIT))
    word, mean = words[large], means[large].astype(np.float64)
    layer = (word & np.uint64(255)).astype(np.intp)
    size = (word >> np.uint64(11)).astype(np.float64) * 2.0**-53 * edges[layer]
    normal = size * (1.0 - 2.0 * ((word >> np.uint64(8)) & np.uint64(1)).astype(np.float64))
    for k in np.flatnonzero(size >= edges[layer + 1]):
        at = large[k]
        normal[k] = far_normal(word[k], int(x[at] & _32_BITS), int(y[at]), *key, edges, density)
    quantile = np.maximum(np.floor(plain(poisson.quantile)(normal, mean)), 0.0)
    numbers[large] = np.where(mean < np.inf, quantile, mean)
    return numbers


def _philox(x: NDArray[np.int64], y: NDArray[np.int64], k0: int, k1: int) -> list[Any]:
    """Return the four words of the counters (x, y, 0, 0)."""
    bits, shift = np.uint64(_32_BITS), np.uint64(32)
    a, b = x.astype(np.uint64), y.astype(np.uint64)
    c = d = np.zeros_like(a)
    for _ in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (q >> shift) ^ b ^ np.uint64(k0), q & bits, (p >> shift) ^ d ^ np.uint64(k1), p & bits
        k0, k1 = (k0 + 0x9E3779B9) & _32_BITS, (k1 + 0xBB67AE85) & _32_BITS
    return [a, b, c, d]
