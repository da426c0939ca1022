"""The sums of `skygraft.psf.linear.combine_into` in numpy, to the last bit: for a few kernels.

To load its compiled code takes half a second, in which the PSF of an image is looked at a hundred times. The one
operation that numpy lacks is a product and a sum that are rounded once (fused multiply-add). It is put together from
exact ones: the product and the sum of two numbers are each the sum of two, and of what is left over, rounding to odd
keeps what decides the last rounding (Boldo & Melquiond 2008, IEEE Transactions on Computers 57, 462).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["combine_few"]

type _Numbers = NDArray[np.float64]

_SPLIT = 134217729.0
"""Two to the power 27, plus one: cuts a number into halves whose products are exact."""
_SMALLEST, _LARGEST = 2.0**-480, 2.0**480
"""Numbers whose products keep all their digits, and do not overflow."""
_FIVE, _TEN = 5, 10


def combine_few(weights: _Numbers, basis: _Numbers, out: _Numbers) -> bool:
    """Combine images as `combine_into` does; returns False, without having done it, where numbers are too extreme."""
    for numbers in (weights, basis):
        size = np.abs(numbers)
        if not ((size == 0) | ((size > _SMALLEST) & (size < _LARGEST))).all():
            return False

    def five(b: int) -> _Numbers:
        total: _Numbers = weights[:, b, None] * basis[b]
        for k in range(b + 1, b + _FIVE):
            total = _fused(weights[:, k, None], basis[k], total)
        return total

    n, b = len(basis), 0
    out[:] = 0.0
    if n >= _TEN:
        out[:] = five(0) + five(_FIVE)
        b = _TEN
    while b + _FIVE <= n:
        out += five(b)
        b += _FIVE
    for k in range(b, n):
        out[:] = _fused(weights[:, k, None], basis[k], out)
    return True


def _fused(a: _Numbers, b: _Numbers, c: _Numbers) -> _Numbers:
    """Round a b + c once."""
    product, left = _product(a, b)
    low, lower = _sum(c, left)
    high, middle = _sum(product, low)
    return high + _to_odd(*_sum(middle, lower))


def _product(a: _Numbers, b: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The product of two numbers, and what its rounding leaves over (Dekker 1971)."""
    product = a * b
    (a0, a1), (b0, b1) = _halves(a), _halves(b)
    return product, a1 * b1 - (((product - a0 * b0) - a1 * b0) - a0 * b1)


def _halves(a: _Numbers) -> tuple[_Numbers, _Numbers]:
    large = _SPLIT * a
    high = large - (large - a)
    return high, a - high


def _sum(a: _Numbers, b: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The sum of two numbers, and what its rounding leaves over (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _to_odd(total: _Numbers, left: _Numbers) -> _Numbers:
    """Round a sum to the neighbour whose last bit is one, unless it is exact."""
    even = (total.view(np.int64) & 1) == 0
    return np.where((left != 0) & even, np.nextafter(total, np.copysign(np.inf, left)), total)
