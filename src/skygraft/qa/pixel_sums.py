"""Compare planes of an image before and after injection pixel by pixel, in one pass, and sum by blocks.

With D = after - before and M the noise-free light drawn again, R = D - M is photon noise of variance V = q P where
P > 0, with P the light that noise was drawn of and q the variance per flux, and zero elsewhere, up to the rounding of
single precision and of what the file can store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = [
    "BLOCK",
    "HALF_ULP",
    "IMAGE_SUMS",
    "MASK_SUMS",
    "VARIANCE_SUMS",
    "image_sums",
    "mask_sums",
    "total",
    "variance_sums",
]

BLOCK = 64
"""Side of the blocks, pixels."""

IMAGE_SUMS = (
    "changed",  # pixels that no light reaches and that changed
    "lost",  # pixels that became finite, or no longer are
    "wrong",  # pixels without noise that are not before + light
    "touched",  # pixels that light reaches
    "touched_flux",  # sum of D over these
    "touched_light",  # sum of M over these
    "noisy",  # pixels with noise
    "flux",  # sum of D over these
    "light",  # sum of M
    "variance",  # sum of V
    "squares",  # sum of R^2
    "squares_variance",  # its variance
    "slack",  # largest systematic error by rounding
    "rounding",  # variance of D by rounding
    "stars_stars",  # normal equations of D = a stars + b others
    "stars_others",
    "others_others",
    "stars_flux",
    "others_flux",
)
VARIANCE_SUMS = ("changed", "lost", "touched", "added", "expected", "before")
MASK_SUMS = ("changed", "missing", "surplus", "core_missing", "core_surplus")

HALF_ULP = 6.0e-8
"""Relative error of a number that is rounded to single precision."""


@compiled(reads=("before", "after", "stars", "others", "lit", "quantum"))
def image_sums(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    stars: NDArray[np.float32],
    others: NDArray[np.float32],
    lit: NDArray[np.float32],
    quantum: NDArray[np.float32],
    step: float,
    precision: float,
    side: int,
) -> NDArray[np.float64]:
    """Compare image planes; the sums are those of `IMAGE_SUMS`, by blocks.

    Parameters
    ----------
    before, after, stars, others : ndarray of float32, shape (ny, nx)
        The image, and the light drawn again.
    lit : ndarray of float32, shape (ny, nx) or (0, 0)
        Light that noise was drawn of; of size 0 where that is stars + others.
    quantum : ndarray of float32, shape (ny, nx) or (1, 1)
        Variance per flux.
    step : float
        Step between two values that the file can hold, beyond single precision.
    precision : float
        Error of the light drawn again, image units.
    side : int
        Of the blocks, pixels.

    Returns
    -------
    ndarray, shape (blocks along y, blocks along x, 19)
    """
    ny, nx = before.shape
    sums = np.zeros((-(-ny // side), -(-nx // side), 19))
    apart = lit.size > 0
    single = quantum.size == 1
    for j in range(ny):
        row = sums[j // side]
        for start in range(0, nx, side):
            out = row[start // side]
            end = min(nx, start + side)
            some = False
            for i in range(start, end):
                some |= (stars[j, i] != 0.0) | (others[j, i] != 0.0)
            for i in range(start, end if apart else start):
                some |= lit[j, i] != 0.0
            if not some:
                for i in range(start, end):
                    a, b = after[j, i], before[j, i]
                    out[0] += (a != b) and not (np.isnan(a) and np.isnan(b))
                continue
            for i in range(start, end):
                s, o = float(stars[j, i]), float(others[j, i])
                a, b = float(after[j, i]), float(before[j, i])
                if s == 0.0 and o == 0.0 and not (apart and lit[j, i] != 0.0):
                    out[0] += (a != b) and not (np.isnan(a) and np.isnan(b))
                    continue
                if not (np.isfinite(a) and np.isfinite(b)):
                    out[1] += np.isfinite(a) != np.isfinite(b)
                    continue
                m = s + o
                p = float(lit[j, i]) if apart else m
                d = a - b
                r = d - m
                v = float(quantum[0, 0] if single else quantum[j, i]) * max(p, 0.0)
                half = HALF_ULP * max(abs(a), abs(b))
                out[3] += 1
                out[4] += d
                out[5] += m
                if v <= 0.0 and abs(r) > 2 * half + 1.001 * step + 1e-5 * abs(m) + precision:
                    out[2] += 1
                rounding = half * half / 3 + step * step / 4
                if abs(m) < 2 * half:
                    out[12] += min(abs(m), half)
                out[13] += rounding
                if v > 0.0:
                    q = v / p
                    out[6] += 1
                    out[7] += d
                    out[8] += m
                    out[9] += v
                    out[10] += r * r - rounding
                    out[11] += 2 * v * v + v * q * q + rounding * rounding + 4 * v * rounding
                if m > 0.0:
                    w = 1.0 / (v + rounding) if v > 0.0 or step > 0.0 else 1.0 / m
                    out[14] += w * s * s
                    out[15] += w * s * o
                    out[16] += w * o * o
                    out[17] += w * s * d
                    out[18] += w * o * d
    return sums


@compiled(reads=("before", "after", "stars", "others", "expected", "per_flux", "image_before", "image_after"))
def variance_sums(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    stars: NDArray[np.float32],
    others: NDArray[np.float32],
    expected: NDArray[np.float32],
    per_flux: NDArray[np.float32],
    image_before: NDArray[np.float32],
    image_after: NDArray[np.float32],
    side: int,
) -> NDArray[np.float64]:
    """Compare variance planes; the sums are those of `VARIANCE_SUMS`, by blocks.

    Parameters
    ----------
    before, after, stars, others : ndarray of float32, shape (ny, nx)
        The planes, and the light drawn again.
    expected : ndarray of float32, shape (ny, nx) or (0, 0)
        Light that variance was added for; of size 0 where that is stars + others.
    per_flux : ndarray of float32, shape (ny, nx) or (1, 1)
        Variance added per flux.
    image_before, image_after : ndarray of float32, shape (ny, nx) or (0, 0)
        Image planes, where variance was added for the flux as drawn; else of size 0.
    side : int
        Of the blocks, pixels.

    Returns
    -------
    ndarray, shape (blocks along y, blocks along x, 6)
    """
    ny, nx = before.shape
    sums = np.zeros((-(-ny // side), -(-nx // side), 6))
    apart, single, drawn = expected.size > 0, per_flux.size == 1, image_after.size > 0
    for j in range(ny):
        row = sums[j // side]
        for i in range(nx):
            out = row[i // side]
            a, b = after[j, i], before[j, i]
            s, o = float(stars[j, i]), float(others[j, i])
            if s == 0.0 and o == 0.0 and not (apart and expected[j, i] != 0.0):
                out[0] += (a != b) and not (np.isnan(a) and np.isnan(b))
                continue
            # Infinite where a weight is zero.
            if not (np.isfinite(a) and np.isfinite(b)):
                out[1] += np.isfinite(a) != np.isfinite(b)
                continue
            light = float(expected[j, i]) if apart else s + o
            if drawn:
                light = float(image_after[j, i]) - float(image_before[j, i])
            out[2] += 1
            if not light > 0.0:
                continue
            out[3] += float(a) - float(b)
            out[4] += light * float(per_flux[0, 0] if single else per_flux[j, i])
            out[5] += float(b)
    return sums


@compiled(reads=("before", "after", "stars", "others", "lit", "variance", "core"))
def mask_sums(
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    stars: NDArray[np.float32],
    others: NDArray[np.float32],
    lit: NDArray[np.float32],
    variance: NDArray[np.float32],
    core: NDArray[np.uint8],
    bits: NDArray[np.int64],
    threshold: float,
    side: int,
) -> NDArray[np.float64]:
    """Compare mask planes; the sums are those of `MASK_SUMS`, by blocks.

    Parameters
    ----------
    before, after : ndarray of int32, shape (ny, nx)
        The masks.
    stars, others : ndarray of float32, shape (ny, nx)
        The light drawn again.
    lit : ndarray of float32, shape (ny, nx) or (0, 0)
        Light of the sources in the image itself, where some are in the template of a difference image.
    variance : ndarray of float32, shape (ny, nx) or (1, 1)
        Of the image before injection.
    core : ndarray of uint8, shape (ny, nx)
        1 where INJECTED_CORE is to be set.
    bits : ndarray of int64, shape (4,)
        Values of INJECTED and INJECTED_CORE after and before, 0 where there is no such plane.
    threshold : float
        Standard deviations from which on a pixel is INJECTED.
    side : int
        Of the blocks, pixels.

    Returns
    -------
    ndarray, shape (blocks along y, blocks along x, 5)
    """
    ny, nx = before.shape
    sums = np.zeros((-(-ny // side), -(-nx // side), 5))
    apart, single = lit.size > 0, variance.size == 1
    new, old = bits[0] | bits[1], bits[2] | bits[3]
    squared = threshold * threshold
    for j in range(ny):
        row = sums[j // side]
        for i in range(nx):
            out = row[i // side]
            a, b = np.int64(after[j, i]), np.int64(before[j, i])
            out[0] += ((a ^ b) & ~(new | old)) != 0
            light = float(stars[j, i]) + float(others[j, i])
            if light == 0.0 and core[j, i] == 0 and ((a & new) == 0):
                continue
            if apart:
                light = max(abs(light), abs(float(lit[j, i])), abs(light - float(lit[j, i])))
            known = float(variance[0, 0] if single else variance[j, i])
            known = known if known > 0.0 and known < np.inf else 0.0
            power = light * light
            has, had = (a & bits[0]) != 0, (b & bits[2]) != 0
            # Within a part in a thousand of the threshold either is right.
            out[1] += (power > 1.001 * squared * known + 1e-30) and not has
            out[2] += has and not had and not power > 0.999 * squared * known
            has, had = (a & bits[1]) != 0, (b & bits[3]) != 0
            out[3] += core[j, i] != 0 and not has
            out[4] += has and not had and core[j, i] == 0
    return sums


def total(sums: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, Any]:
    """Sums over all blocks, by name."""
    return dict(zip(names, sums.sum(axis=(0, 1)).tolist(), strict=True))
