"""Sub-pixel shifts of PSF kernels: on a grid of half pixels, by a few taps.

A PSF kernel K is a band-limited image sampled at pixels, so its value between pixels is defined: K moved by f pixels
has the transform ``K(k) exp(-ikf)``, |k| < pi in each axis. The flux inside an aperture that moves along is unchanged
(Bickerton & Lupton 2013, MNRAS 431, 1275: their aperture integrates this same interpolation). Here k are the
frequencies of a frame: the kernel with a margin of zeros, an odd number of pixels long, so that there is no Nyquist
frequency to treat specially. A band-limited image that moves rings without end, and the frame folds that back instead
of losing it: the sum is kept, and the flux inside an aperture much better than where ringing is cut off.

Taps on the pixels themselves cannot do that: whatever their number, they are wrong at the Nyquist frequency, where the
phase jumps from exp(-i pi f) to exp(i pi f), and the error falls as one over their number only. On a grid of half
pixels the light ends at half *its* Nyquist frequency, and few taps are right for all of it: the gridding of non-uniform
Fourier transforms (Fessler & Sutton 2003, IEEE TSP 51, 560; Barnett et al. 2019, SISC 41, C479). With a window phi that
is w half pixels wide, and G the image whose transform is K's divided by the window's,

    K(u) ~ sum over q of phi(2u - q) G(q / 2),     G(k) = K(k) phi(0) / phi(k / 2)    (transforms on the right),

where what is neglected are the window's sidelobes. phi is Kaiser and Bessel's, ``I0(beta sqrt(1 - (2v / w)^2))``. Its
taps are then changed a little, so that at each phase they sum to one and have their mean at the shift: flux and
centroid are right to rounding.

G is linear in K: for a PSF that is a sum of basis images it is made once, for the basis, by one matrix for each axis,
``G = matrix K matrix^T``.

The largest errors, in units of the peak, pixels, and the flux inside 12 pixels (Moffat, beta 3, in 45 x 45 pixels):

======================== ========= ========= ========= =========
FWHM (pixels)            2.5       3         4         5
======================== ========= ========= ========= =========
8 taps: a pixel          3e-7      2e-7      2e-7      2e-7
8 taps: a fitted place   8e-8      7e-8      7e-8      6e-8
8 taps: flux             1.5e-5    4e-6      2e-7      7e-8
4 taps: a pixel          2.4e-4    1.6e-4    1.2e-4    1.0e-4
4 taps: a fitted place   6e-5      3e-5      7e-6      3e-6
4 taps: flux             3e-5      8e-6      7e-7      7e-7
======================== ========= ========= ========= =========

The flux is that in a plane of infinite extent. Its error is the frame's, not the taps': where pixels hardly sample the
profile, what rings beyond the frame is folded back to other places. It was 3e-6 for a real kernel of 17 x 17 pixels and
2.3 pixels FWHM, and 6e-7 for one of 41 x 41 and 5.3 (ringing cut off at the same stamp: 1e-4 and 3e-6).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0

from skygraft.jit import compiled
from skygraft.psf.linear import combine

__all__ = ["FAST", "PRECISE", "Shift", "half_pixel_images", "shift_stamp", "stamp_shape"]

_PHASES = 2048
_BETA = 2.6
"""Kaiser and Bessel's beta for each half pixel of the window's width: the best where light ends at pi / 2."""


@dataclass(frozen=True)
class Shift:
    """How kernels are shifted.

    Parameters
    ----------
    width : int
        Half pixels that the window is wide, and taps on each axis: a multiple of four.
    margin : int
        Pixels by which a stamp reaches further than the kernel on each side: half of the frame's zeros.
    """

    width: int
    margin: int

    @property
    def reach(self) -> int:
        """Pixels by which planes of half pixels reach further than a stamp."""
        return self.width // 4


PRECISE = Shift(width=8, margin=10)
FAST = Shift(width=4, margin=2)


def stamp_shape(shape: tuple[int, int], shift: Shift) -> tuple[int, int]:
    """Rows and columns of the stamp of a kernel of `shape`."""
    return shape[0] + 2 * shift.margin, shape[1] + 2 * shift.margin


def half_pixel_images(kernels: NDArray[np.float64], shift: Shift) -> NDArray[np.float64]:
    """Images G of kernels, at pixels and half way between them.

    Parameters
    ----------
    kernels : ndarray, shape (N, ny, nx)
        Both sizes odd.
    shift : Shift
        How they are to be shifted.

    Returns
    -------
    ndarray, shape (N, 2, 2, ny + 2 (margin + reach), nx + 2 (margin + reach) or a little more)
        ``[n, a, b, j, i]`` belongs to the place (j + a / 2, i + b / 2), counted from the stamp's first pixel less
        `reach`. Rows are filled up with zeros, so that each of the N begins at a cache line if the first does.
    """
    n, ny, nx = kernels.shape
    along_y, along_x = (_half_pixel_matrix(size, shift) for size in (ny, nx))
    rows, columns = len(along_y), len(along_x)
    used = columns // 2
    out = np.zeros((n, 2, 2, rows // 2, -(-used // 4) * 4))
    for kernel, planes in zip(kernels, out, strict=True):
        half = combine(along_y, kernel)
        fine = combine(along_x, np.ascontiguousarray(half.T)).T
        planes[..., :used] = fine.reshape(rows // 2, 2, used, 2).transpose(1, 3, 0, 2)
    return out


@functools.lru_cache(maxsize=16)
def _half_pixel_matrix(size: int, shift: Shift) -> NDArray[np.float64]:
    """What takes `size` pixels to half pixels, along one axis: (1 / n) sum of cos(kx) phi(0) / phi(k / 2)."""
    n, over = size + 2 * shift.margin, shift.margin + shift.reach
    at = np.arange(2 * (n + 2 * shift.reach)) / 2 - over
    k = 2 * np.pi * np.arange(n // 2 + 1) / n
    weights = _window_transform(np.zeros(1), shift.width) / _window_transform(k / 2, shift.width) / n
    weights[1:] *= 2  # k and -k
    waves = np.cos(k[:, None] * np.arange(2 * n) / 2)  # what lies further repeats
    distance = np.round(2 * (at[:, None] - np.arange(size))).astype(np.intp) % (2 * n)
    matrix: NDArray[np.float64] = combine(weights[None], waves)[0][distance]
    matrix.setflags(write=False)
    return matrix


def _window_transform(k: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Transform of the window at k radians for each half pixel, up to a factor; k is below 2 beta / width."""
    root = np.sqrt((_BETA * width) ** 2 - (0.5 * width * k) ** 2)
    transform: NDArray[np.float64] = np.sinh(root) / root
    return transform


@functools.lru_cache(maxsize=4)
def taps_table(width: int) -> NDArray[np.float64]:
    """Taps at equally spaced phases t = 0 ... 1: shape (phases + 1, width).

    Tap j is what the sample at ``floor(p) - width / 2 + 1 + j`` counts at the place p with ``t = p - floor(p)``.
    """
    t = np.linspace(0.0, 1.0, _PHASES + 1)[:, None]
    offset = np.arange(width) - (width // 2 - 1) - t
    taps: NDArray[np.float64] = i0(_BETA * width * np.sqrt(np.maximum(1 - (2 * offset / width) ** 2, 0.0)))
    taps[np.abs(offset) >= width / 2] = 0.0
    taps /= taps.sum(axis=1, keepdims=True)
    # the least change that puts the mean at the shift and leaves the sum as it is
    mean = (taps * offset).sum(axis=1, keepdims=True)
    lever = offset - offset.mean(axis=1, keepdims=True)
    taps -= mean * lever / (lever**2).sum(axis=1, keepdims=True)
    taps.setflags(write=False)
    return taps


@compiled
def shift_stamp(
    planes: NDArray[np.float32],
    fx: float,
    fy: float,
    amplitude: float,
    table: NDArray[np.float64],
    half: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Move one kernel by (fx, fy), each within -1/2 ... 1/2 pixel, and multiply it.

    Parameters
    ----------
    planes : ndarray of float32, shape (2, 2, H, W)
        Of `half_pixel_images`.
    fx, fy : float
        Pixels, towards larger x and y.
    amplitude : float
        What the stamp is multiplied by.
    table : ndarray, shape (phases + 1, width)
        Of `taps_table`.
    half : ndarray of float32, shape (2, (H - width / 2) W)
        Scratch.
    out : ndarray of float32, shape (H - width / 2, W)
        The stamp, in its first columns: what follows them is of no use.
    """
    width = table.shape[1]
    columns = planes.shape[3]
    even, odd = np.empty(width // 2, np.float32), np.empty(width // 2, np.float32)
    # rows one after the other are one long row: a loop over it is as good as one over each, and much faster
    first = _split_taps(table, fy, 1.0, even, odd)
    for b in range(2):
        _weigh(
            planes[0, b].reshape(-1), planes[1, b].reshape(-1), first * columns, (width // 2 - 1) * columns, columns,
            even, odd, half[b],
        )  # fmt: skip
    first = _split_taps(table, fx, amplitude, even, odd)
    _weigh(half[0], half[1], first, width // 2 - 1, 1, even, odd, out.reshape(-1)[: half.shape[1] - width // 2])


@compiled
def _split_taps(
    table: NDArray[np.float64], f: float, factor: float, even: NDArray[np.float32], odd: NDArray[np.float32]
) -> int:  # pragma: no cover - compiled
    """Taps for whole and for half pixels, from the one furthest ahead; returns how far ahead the first whole pixel is.

    The sample q half pixels back counts phi(q - 2f): for f >= 0 the first is an odd number of half pixels ahead, for
    f < 0 an even one.
    """
    width = table.shape[1]
    ahead = f >= 0
    t = min(max(2 * f if ahead else 2 * f + 1, 0.0), 1.0)
    position = t * (table.shape[0] - 1)
    i = min(int(position), table.shape[0] - 2)
    part = position - i
    for j in range(width):
        tap = np.float32(factor * ((1.0 - part) * table[i, j] + part * table[i + 1, j]))
        if (j % 2 == 0) == ahead:
            odd[j // 2] = tap
        else:
            even[j // 2] = tap
    first: int = width // 2 - 1 if ahead else width // 2
    return first


@compiled
def _weigh(
    whole: NDArray[np.float32],
    halves: NDArray[np.float32],
    w: int,
    h: int,
    step: int,
    even: NDArray[np.float32],
    odd: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Sums of samples `step` apart, back from w + p in `whole` and from h + p in `halves`, for each p of `out`."""
    n = out.size
    for j in range(0, even.size, 2):
        e0, e1, o0, o1 = even[j], even[j + 1], odd[j], odd[j + 1]
        w0, h0 = w - j * step, h - j * step
        a0, a1 = whole[w0 : w0 + n], whole[w0 - step : w0 - step + n]
        b0, b1 = halves[h0 : h0 + n], halves[h0 - step : h0 - step + n]
        if j == 0:
            for p in range(n):
                out[p] = e0 * a0[p] + e1 * a1[p] + o0 * b0[p] + o1 * b1[p]
        else:
            for p in range(n):
                out[p] = out[p] + e0 * a0[p] + e1 * a1[p] + o0 * b0[p] + o1 * b1[p]
