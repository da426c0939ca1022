"""Sub-pixel shifts of PSF kernels: on a grid of two thirds of a pixel, by a few taps.

A PSF kernel K is a band-limited image sampled at pixels, so its value between pixels is defined: K moved by f pixels
has the transform ``K(k) exp(-ikf)``, |k| < pi in each axis. The flux inside an aperture that moves along is unchanged
(Bickerton & Lupton 2013, MNRAS 431, 1275: their aperture integrates this same interpolation). Here k are the
frequencies of a frame: the kernel with a margin of zeros, an odd number of pixels long, so that there is no Nyquist
frequency to treat specially. A band-limited image that moves rings without end, and the frame folds that back instead
of losing it: the sum is kept, and the flux inside an aperture much better than where ringing is cut off.

Taps on the pixels themselves cannot do that: whatever their number, they are wrong at the Nyquist frequency, where the
phase jumps from exp(-i pi f) to exp(i pi f), and the error falls as one over their number only. On a finer grid the
light ends below *its* Nyquist frequency, and few taps are right for all of it: the gridding of non-uniform Fourier
transforms (Fessler & Sutton 2003, IEEE TSP 51, 560; Barnett et al. 2019, SISC 41, C479). With a window phi that is w
samples wide, and G the image whose transform is K's divided by the window's,

    K(u) ~ sum over q of phi(3u/2 - q) G(2q/3),     G(k) = K(k) / phi(2k/3)    (transforms on the right),

where what is neglected are the window's sidelobes. phi is Kaiser and Bessel's, ``I0(beta sqrt(1 - (2v / w)^2))``. Its
taps are then changed a little, so that at each phase they sum to one and have their mean at the shift: flux and
centroid are right to rounding. Two thirds of a pixel is the cheapest step: G is summed over a PSF's basis for each
star, which takes 1.6 times as long on a grid of half pixels, and that grid saves only one tap in five.

G is linear in K: for a PSF that is a sum of basis images it is computed once, for the basis, by one matrix per axis,
``G = matrix K matrix^T``. There are three samples to two pixels, so that pixel 2m + r has the same taps for all m, on
the samples 3m + k for a few k. Samples are therefore kept as three by three planes, one for each remainder of their
row and column by three: each tap is then a multiple of one plane, moved, and vector code.

The largest errors, in units of the peak, pixels, and the flux inside 12 pixels (Moffat, beta 3, in 45 x 45 pixels):

======================== ========= ========= ========= =========
FWHM (pixels)            2.5       3         4         5
======================== ========= ========= ========= =========
9 taps: a pixel          2e-7      2e-7      2e-7      2e-7
9 taps: a fitted place   6e-8      7e-8      7e-8      6e-8
9 taps: flux             1.5e-5    4e-6      2e-7      4e-8
5 taps: a pixel          1.9e-4    1.6e-4    1.1e-4    8e-5
5 taps: a fitted place   7e-5      4e-5      8e-6      5e-6
5 taps: flux             2.4e-5    6e-6      3e-7      4e-7
======================== ========= ========= ========= =========

The flux is that in a plane of infinite extent. Its error is the frame's, not the taps': where pixels hardly sample the
profile, what rings beyond the frame is folded back to other places. It was 3e-6 for a real kernel of 17 x 17 pixels and
2.3 pixels FWHM, and 6e-7 for one of 41 x 41 and 5.3 (ringing cut off at the same stamp: 1e-4 and 3e-6).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0

from skygraft.jit import compiled, prefetch
from skygraft.psf.linear import combine
from skygraft.render.traced import traced
from skygraft.render.vectors import LANES, between, fused, interleaved, load, spread, store

__all__ = [
    "FAST",
    "PRECISE",
    "Shift",
    "Sizes",
    "add_rows",
    "fine_images",
    "pair_taps",
    "shift_rows",
    "taps_table",
    "window_transform",
]

_PHASES = 2048
_BETA = 2.05
"""Kaiser and Bessel's beta for each sample of the window's width.

A little more makes pixels better and apertures worse: what is left of light at the pixels' Nyquist frequency comes back
at none, as flux, and at this beta the window's transform is nearly zero where that comes from.
"""


@dataclass(frozen=True)
class Shift:
    """How kernels are shifted.

    Parameters
    ----------
    width : int
        Samples that the window is wide, and taps on each axis.
    margin : int
        Pixels by which a stamp reaches further than the kernel on each side: half of the frame's zeros.
    """

    width: int
    margin: int


PRECISE = Shift(width=9, margin=10)
FAST = Shift(width=5, margin=2)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the arrays that are computed from kernels of one shape.

    Parameters
    ----------
    kernel : (int, int)
        Rows and columns (ny, nx) of the kernels, both odd.
    shift : Shift
        How kernels are shifted.
    """

    kernel: tuple[int, int]
    shift: Shift

    @property
    def stamp(self) -> tuple[int, int]:
        """Rows and columns of a stamp."""
        ny, nx = self.kernel
        return ny + 2 * self.shift.margin, nx + 2 * self.shift.margin

    @property
    def pairs(self) -> tuple[int, int]:
        """Pairs of rows and of columns in a stamp; the last pair of each is incomplete."""
        ny, nx = self.stamp
        return ny // 2 + 1, nx // 2 + 1

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of samples with one remainder by three."""
        further = -(-self.shift.width // 3)
        rows, columns = self.pairs
        return rows + further, columns + further

    @property
    def samples(self) -> int:
        """Samples in a plane, padded so that each plane begins at a cache line if the first does."""
        rows, columns = self.plane
        return -(-rows * columns // 16) * 16


def fine_images(kernels: NDArray[np.float64], shift: Shift) -> NDArray[np.float64]:
    """Compute the images G of kernels, sampled every two thirds of a pixel.

    Parameters
    ----------
    kernels : ndarray, shape (N, ny, nx)
        Both sizes odd.
    shift : Shift
        How the kernels are to be shifted.

    Returns
    -------
    ndarray, shape (N, 3, 3, P)
        ``[n, a, b]`` holds the samples in rows 3j + a and columns 3i + b, one row after the other (`Sizes.plane`), and
        zeros after them. Sample 0 lies ``shift.width / 3 + 1/2`` pixels before the stamp's first pixel.
    """
    n, ny, nx = kernels.shape
    sizes = Sizes((ny, nx), shift)
    rows, columns = sizes.plane
    along_y, along_x = (_fine_matrix(size, shift) for size in (ny, nx))
    out = np.zeros((n, 3, 3, sizes.samples))
    for kernel, planes in zip(kernels, out, strict=True):
        fine = combine(along_x, np.ascontiguousarray(combine(along_y, kernel).T)).T
        planes[..., : rows * columns] = fine.reshape(rows, 3, columns, 3).transpose(1, 3, 0, 2).reshape(3, 3, -1)
    return out


@functools.lru_cache(maxsize=16)
def _fine_matrix(size: int, shift: Shift) -> NDArray[np.float64]:
    """Return the matrix from pixels to samples along one axis: (1 / n) sum over k of cos(kx) phi(0) / phi(2k / 3)."""
    n = size + 2 * shift.margin
    rows, _ = Sizes((size, size), shift).plane
    at = 2 * np.arange(3 * rows) / 3 - shift.width / 3 - 0.5 - shift.margin
    k = 2 * np.pi * np.arange(n // 2 + 1) / n
    weights = window_transform(np.zeros(1), shift.width) / window_transform(2 * k / 3, shift.width) / n
    weights[1:] *= 2  # k and -k
    distance = (at[:, None] - np.arange(size)).ravel()
    matrix: NDArray[np.float64] = combine(weights[None], np.cos(k[:, None] * distance))[0].reshape(-1, size)
    matrix.setflags(write=False)
    return matrix


def window_transform(k: NDArray[np.float64], width: int, beta: float = _BETA) -> NDArray[np.float64]:
    """Return the transform of the window at k radians a sample, up to a factor; k is below 2 beta."""
    root = np.sqrt((beta * width) ** 2 - (0.5 * width * k) ** 2)
    transform: NDArray[np.float64] = np.sinh(root) / root
    return transform


@functools.lru_cache(maxsize=4)
def taps_table(width: int, beta: float = _BETA) -> NDArray[np.float64]:
    """Return the taps at equally spaced phases t = 0 ... 1: shape (phases + 1, width).

    Tap j is the weight of sample q + j at the place p, where q is the first with ``q >= p - width / 2``, and t the
    difference of the two.
    """
    t = np.linspace(0.0, 1.0, _PHASES + 1)[:, None]
    offset = np.arange(width) - 0.5 * width + t
    taps: NDArray[np.float64] = i0(beta * width * np.sqrt(np.maximum(1 - (2 * offset / width) ** 2, 0.0)))
    taps /= taps.sum(axis=1, keepdims=True)
    # the least change that puts the mean at the shift and leaves the sum as it is
    mean = (taps * offset).sum(axis=1, keepdims=True)
    lever = offset - offset.mean(axis=1, keepdims=True)
    taps -= mean * lever / (lever**2).sum(axis=1, keepdims=True)
    taps.setflags(write=False)
    return taps


@compiled
def pair_taps(
    table: NDArray[np.float64],
    f: float,
    lead: int,
    factor: float,
    apart: int,
    step: int,
    even: NDArray[np.float32],
    odd: NDArray[np.float32],
    places: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Compute the taps for pixels 2m and 2m + 1, along one axis, at a shift by f within -1/2 ... 1/2 pixel.

    Parameters
    ----------
    table : ndarray, shape (phases + 1, width)
        Table from `taps_table`.
    f : float
        Pixels, towards larger coordinates.
    lead : int
        Pixels that are counted before the stamp's first.
    factor : float
        Factor by which the taps are multiplied.
    apart, step : int
        How far samples are from each other that differ by one in their remainder by three, and those that differ by
        three.
    even, odd : ndarray of float32, shapes (9,) and (10,)
        For pixels 2m, of samples 3m + k, 3m + k + 1, ..., and for pixels 2m + 1, of samples 3m + k + 1 and so on. Those
        begin one or two samples later, which a tap of 0 makes up for; so do others for a window that is not as wide.
    places : ndarray of int64, shape (3,)
        Where samples k, k + 1, and k + 2 are.
    """
    width = table.shape[1]
    even[:], odd[:] = 0, 0
    # two pixels are three samples; if an odd number of them leads, those that were even are odd
    swap = lead % 2
    first = _taps(table, f, swap, factor, even[:width])
    # into the last of them, from where they may move forward: they begin one or two samples after the even ones
    if _taps(table, f, 1 - swap, factor, odd[1 : width + 1]) + 3 * swap == first + 1:
        for j in range(width):
            odd[j] = odd[j + 1]
        odd[width] = 0
    first -= (lead + swap) // 2 * 3
    for k in range(3):
        places[k] = (first + k) % 3 * apart + (first + k) // 3 * step


@compiled
def _taps(
    table: NDArray[np.float64], f: float, odd: int, factor: float, out: NDArray[np.float32]
) -> int:  # pragma: no cover - compiled
    """Compute taps of pixels 2m (2m + 1, if `odd` is one) at a shift by f, and return k of the first sample 3m + k."""
    # p - width / 2 for the first pixel: see where `fine_images` begins; rounding may take f beyond 1/2
    start = 0.75 + 1.5 * (odd - min(max(f, -0.5), 0.5))
    first = int(np.ceil(start))
    position = (first - start) * (table.shape[0] - 1)
    i = min(int(position), table.shape[0] - 2)
    part = position - i
    for j in range(out.size):
        out[j] = np.float32(factor * ((1.0 - part) * table[i, j] + part * table[i + 1, j]))
    return first


@traced(5)
def _held_even(even: NDArray[np.float32]) -> Any:  # pragma: no cover - traced
    """Return the first taps, repeated eight times each, so that loops with stores do not reload them."""
    return [spread(even[k]) for k in range(5)]


@traced(6)
def _held_odd(odd: NDArray[np.float32]) -> Any:  # pragma: no cover - traced
    """Return the first taps of odd pixels."""
    return [spread(odd[k]) for k in range(6)]


@traced(2)
def _five_sums(even: Any, odd: Any, samples: Any, p0: int, p1: int, p2: int, step: int) -> Any:  # pragma: no cover
    """Compute eight pixels 2m and eight pixels 2m + 1 from their first samples: at p0, p1, p2, and `step` further."""
    s0, s1, s2 = load(samples, p0), load(samples, p1), load(samples, p2)
    s3, s4, s5 = load(samples, p0 + step), load(samples, p1 + step), load(samples, p2 + step)
    s6 = load(samples, p0 + 2 * step)
    one = fused(even[4], s4, fused(even[3], s3, fused(even[2], s2, fused(even[1], s1, even[0] * s0))))
    two = fused(odd[3], s4, fused(odd[2], s3, fused(odd[1], s2, odd[0] * s1)))
    return one, fused(odd[5], s6, fused(odd[4], s5, two))


@traced(2)
def _nine_sums(
    held: Any, even: Any, odd: Any, samples: Any, p0: int, p1: int, p2: int, step: int
) -> Any:  # pragma: no cover - traced
    """Compute the same from all samples; `held` are the first taps, of even and odd pixels."""
    one, two = _five_sums(held[0], held[1], samples, p0, p1, p2, step)
    s5, s6 = load(samples, p2 + step), load(samples, p0 + 2 * step)
    s7, s8 = load(samples, p1 + 2 * step), load(samples, p2 + 2 * step)
    s9, s10 = load(samples, p0 + 3 * step), load(samples, p1 + 3 * step)
    one = fused(spread(even[6]), s6, fused(spread(even[5]), s5, one))
    one = fused(spread(even[8]), s8, fused(spread(even[7]), s7, one))
    two = fused(spread(odd[7]), s8, fused(spread(odd[6]), s7, two))
    return one, fused(spread(odd[9]), s10, fused(spread(odd[8]), s9, two))


@traced(1)
def _add_pairs(flat: Any, here: int, one: Any, two: Any) -> Any:  # pragma: no cover - traced
    """Add pixels 2m and 2m + 1 to an image, and return the sum of both."""
    low, high = interleaved(one, two)
    store(flat, here, load(flat, here) + low)
    store(flat, here + LANES, load(flat, here + LANES) + high)
    return low + high


@traced(1)
def _add_some_pairs(flat: Any, here: int, one: Any, two: Any, begin: int, end: int) -> Any:  # pragma: no cover - traced
    """Do the same for those of the sixteen pixels that are from `begin` on and before `end`."""
    low, high = interleaved(one, two)
    low, high = between(low, begin, end), between(high, begin + -LANES, end + -LANES)
    store(flat, here, load(flat, here) + low)
    store(flat, here + LANES, load(flat, here + LANES) + high)
    return low + high


@compiled(inline="always")
def shift_rows(
    planes: NDArray[np.float32],
    columns: int,
    fy: float,
    table: NDArray[np.float64],
    taps: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Move one kernel along y by fy, within -1/2 ... 1/2 pixel.

    Parameters
    ----------
    planes : ndarray of float32, shape (3, 3, P)
        Of `fine_images`.
    columns : int
        Samples in a row of a plane.
    fy : float
        Pixels, towards larger y.
    table : ndarray, shape (phases + 1, width)
        Of `taps_table`.
    taps : tuple
        Scratch: ``even, odd, places`` of `pair_taps`.
    out : ndarray of float32, shape (2, 3, P)
        ``[r, b]`` holds the samples in rows 2j + r of the stamp and columns 3i + b, one row after the other; what is
        there must be finite.
    """
    even, odd, places = taps
    pair_taps(table, fy, 0, 1.0, 3 * planes.shape[2], columns, even, odd, places)
    wide, width = table.shape[1] > 5, table.shape[1]
    samples = planes.reshape(-1)
    held = _held_even(even), _held_odd(odd)
    first, second = out[0].reshape(-1), out[1].reshape(-1)
    # rows, and planes, one after the other are one long row: a loop over it does as well as over each, much faster
    n = first.size - (width + 2) // 3 * columns
    for i in range(0, n, LANES):
        at = min(i, n - LANES)
        p0, p1, p2 = at + places[0], at + places[1], at + places[2]
        if wide:
            one, two = _nine_sums(held, even, odd, samples, p0, p1, p2, columns)
        else:
            one, two = _five_sums(held[0], held[1], samples, p0, p1, p2, columns)
        store(first, at, one)
        store(second, at, two)


@compiled(inline="always")
def add_rows(
    rows: NDArray[np.float32],
    columns: int,
    start: int,
    count: int,
    taps: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]],
    wide: bool,
    lead: int,
    n: int,
    out: NDArray[np.float32],
    place: int,
    step: int,
    ahead: int,
) -> float:  # pragma: no cover - compiled
    """Add every other row of the stamp to the pixels of an image, and return the sum of what was added.

    Parameters
    ----------
    rows : ndarray of float32, shape (3, P)
        Of `shift_rows`; there are eight numbers before it in memory.
    columns : int
        Samples in a row of a plane.
    start, count : int
        Which of the rows to add.
    taps : tuple
        ``even, odd, places`` of `pair_taps`, for the other axis.
    wide : bool
        Whether there are more than five of each.
    lead : int
        Pixels of the image, up to 15, with which to begin before a row of the stamp does: for vectors that lie in one
        line of the cache each.
    n : int
        Pixels in a row of the stamp.
    out : ndarray of float32, shape (1, Q)
        The image, all in one row. What is before and after a row of the stamp, up to a multiple of 16 pixels, is stored
        again as it was.
    place, step : int
        Where to begin in `out` with the first of the rows, and how far from there with the next.
    ahead : int
        How far from there pixels are that are changed next, which are asked for: they are far from the cache.
    """
    even, odd, places = taps
    samples, flat = rows.reshape(-1), out[0]
    held = _held_even(even), _held_odd(odd)
    total = spread(np.float32(0.0))
    for row in range(start, start + count):
        for i in range(0, lead + n, 2 * LANES):
            at, here = row * columns + i // 2, place + i
            prefetch(out, 0, here + ahead)
            p0, p1, p2 = at + places[0], at + places[1], at + places[2]
            if wide:
                one, two = _nine_sums(held, even, odd, samples, p0, p1, p2, 1)
            else:
                one, two = _five_sums(held[0], held[1], samples, p0, p1, p2, 1)
            if i < lead or i + 2 * LANES > lead + n:
                total = total + _add_some_pairs(flat, here, one, two, lead - i, lead + n - i)
            else:
                total = total + _add_pairs(flat, here, one, two)
        place += step
    sums = np.empty(LANES, np.float32)
    store(sums, 0, total)
    added = 0.0
    for i in range(LANES):
        added += sums[i]
    return added
