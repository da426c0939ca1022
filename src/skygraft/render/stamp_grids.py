"""Stamps made ready for drawing: finer grids of their pixels and of their transform, between which a few taps suffice.

A stamp is a band-limited image: its light between pixels is the sum of sincs through them. Sincs are long, and taps on
the pixels themselves are wrong near the Nyquist frequency whatever their number (see `skygraft.render.shift`). So the
stamp is first brought to a grid of half pixels, divided by the transform of a short window, and at any place the window
then picks 6 by 6 numbers of that grid; likewise its transform, at any frequency, from a grid with twice as many
(Fessler & Sutton 2003, IEEE TSP 51, 560; Barnett et al. 2019, SISC 41, C479: non-uniform Fourier transforms of type 2).

What is neglected, the sidelobes of the window, is 1e-5 of the largest value; sum and mean of the taps are exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.fft is imported when used
from numpy.typing import NDArray

from skygraft.render.shift import taps_table, window_transform
from skygraft.render.stamp_files import ByteCache, Stamp
from skygraft.render.vectors import LANES

__all__ = ["FRAME", "PAD", "TAPS", "FinePixels", "FineSpectrum", "fine_pixels", "fine_spectrum", "table"]

TAPS = 6
_BETA = 2.34
"""Of the window, for each of its taps: for a grid that is twice as fine as what it samples."""
FRAME = 8
"""Pixels of zeros on each side of a stamp, into which it rings where it does not end softly."""
PAD = 4
"""Numbers of a grid that are repeated before its beginning, for taps that reach further; after its end are more."""
_CACHED_BYTES = 128 << 20


@dataclass(frozen=True, eq=False)
class FinePixels:
    """A stamp on a grid of half pixels.

    Parameters
    ----------
    values : ndarray of float32
        Rows of the grid, one after the other: `rows` of `columns` numbers. Pixel (0, 0) is at ``PAD + 2 FRAME`` of
        either axis.
    columns : int
    scale : float
        What the values are to be multiplied by.
    margin : int
        Pixels beyond those of the stamp in which something is to be seen.
    """

    values: NDArray[np.float32]
    columns: int
    scale: float
    margin: int


@dataclass(frozen=True, eq=False)
class FineSpectrum:
    """The transform of a stamp, with its pixel (ny // 2, nx // 2) as the origin.

    Parameters
    ----------
    real, imaginary : ndarray of float32
        Rows of the grid, one after the other. Frequencies along y go from minus Nyquist to Nyquist, those along x from
        0 to Nyquist; frequency 0 is at `PAD` in x, and at ``PAD + size[0] / 2`` in y.
    columns : int
    size : (int, int)
        Numbers (along y, x) in 2 pi.
    scale : float
        What the values are to be multiplied by.
    """

    real: NDArray[np.float32]
    imaginary: NDArray[np.float32]
    columns: int
    size: tuple[int, int]
    scale: float


_pixels: ByteCache[FinePixels] = ByteCache(_CACHED_BYTES)
_spectra: ByteCache[FineSpectrum] = ByteCache(_CACHED_BYTES)


@functools.cache
def table() -> NDArray[np.float32]:
    """Return the taps at equally spaced phases, eight numbers each: see `skygraft.render.shift.taps_table`."""
    taps = taps_table(TAPS, _BETA)
    made = np.zeros((len(taps), LANES), dtype=np.float32)
    made[:, :TAPS] = taps
    return made.ravel()


def _weights(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the window's transform at k radians a number of the grid, 1 at k = 0."""
    return window_transform(np.zeros(1), TAPS, _BETA) / window_transform(k, TAPS, _BETA)


def fine_pixels(stamp: Stamp) -> FinePixels:
    """Return the stamp on a grid of half pixels."""
    return _pixels.made(stamp.key, lambda: _fine_pixels(stamp.pixels), lambda made: made.values.nbytes)


def fine_spectrum(stamp: Stamp) -> FineSpectrum:
    """Return the transform of the stamp."""
    return _spectra.made(stamp.key, lambda: _fine_spectrum(stamp.pixels), lambda made: 2 * made.real.nbytes)


def _unit(pixels: NDArray[np.floating]) -> tuple[NDArray[np.float32], float]:
    """Pixels over the largest of them, which float32 cannot overflow."""
    scale = float(np.abs(pixels).max())
    return (pixels / scale).astype(np.float32), scale


def _fine_pixels(pixels: NDArray[np.floating]) -> FinePixels:
    unit, scale = _unit(pixels)
    ny, nx = unit.shape
    ly, lx = (scipy.fft.next_fast_len(n + 2 * FRAME, real=True) for n in (ny, nx))
    frame = np.zeros((ly, lx), dtype=np.float32)
    frame[FRAME : FRAME + ny, FRAME : FRAME + nx] = unit
    spectrum = scipy.fft.rfft2(frame)
    ky, kx = 2.0 * np.pi * scipy.fft.fftfreq(ly), 2.0 * np.pi * scipy.fft.rfftfreq(lx)
    spectrum *= (4.0 * _weights(ky / 2.0)[:, None] * _weights(kx / 2.0)).astype(np.float32)
    # Twice as many frequencies, of which the new ones are zero; half of what was Nyquist's belongs to either sign.
    whole = np.zeros((2 * ly, lx + 1), dtype=spectrum.dtype)
    half, (_, wide) = (ly + 1) // 2, spectrum.shape
    whole[:half, :wide], whole[half - ly :, :wide] = spectrum[:half], spectrum[half:]
    if ly % 2 == 0:
        whole[half, :wide] = whole[half - ly, :wide] = 0.5 * spectrum[half]
    if lx % 2 == 0:
        whole[:, lx // 2] *= 0.5
    grid = scipy.fft.irfft2(whole, (2 * ly, 2 * lx), overwrite_x=True)
    margin = _margin(grid, ny, nx)
    padded = np.pad(grid, ((PAD, LANES), (PAD, LANES)), mode="wrap")
    return FinePixels(np.ascontiguousarray(padded, dtype=np.float32).ravel(), padded.shape[1], scale, margin)


def _margin(grid: NDArray[np.float32], ny: int, nx: int) -> int:
    """Pixels around those of the stamp, up to its frame's, beyond which its light is less than 1e-6 of its largest."""
    least = 1e-6 * float(np.abs(grid).max())
    first, (end_y, end_x) = 2 * FRAME, (2 * (FRAME + ny - 1) + 1, 2 * (FRAME + nx - 1) + 1)
    for margin in range(FRAME):
        m = 2 * margin
        rim = (grid[: first - m], grid[end_y + m :], grid[:, : first - m], grid[:, end_x + m :])
        if max(float(np.abs(part).max(initial=0.0)) for part in rim) <= least:
            return margin
    return FRAME


def _fine_spectrum(pixels: NDArray[np.floating]) -> FineSpectrum:
    unit, scale = _unit(pixels)
    ny, nx = unit.shape
    my, mx = (2 * scipy.fft.next_fast_len(n + 2, real=True) for n in (ny, nx))
    at_y, at_x = np.arange(ny) - ny // 2, np.arange(nx) - nx // 2
    frame = np.zeros((my, mx), dtype=np.float32)
    weighted = unit * (_weights(2.0 * np.pi / my * at_y)[:, None] * _weights(2.0 * np.pi / mx * at_x)).astype(
        np.float32
    )
    frame[np.ix_(at_y % my, at_x % mx)] = weighted
    spectrum = scipy.fft.rfft2(frame)
    rows = (np.arange(-PAD, my + LANES) - my // 2) % my
    columns = np.arange(-PAD, mx // 2 + LANES) % mx
    there = columns <= mx // 2
    padded = np.empty((len(rows), len(columns)), dtype=spectrum.dtype)
    padded[:, there] = spectrum[np.ix_(rows, columns[there])]
    # The transform of what is real, at the opposite frequency.
    padded[:, ~there] = spectrum[np.ix_(-rows % my, mx - columns[~there])].conj()
    return FineSpectrum(
        np.ascontiguousarray(padded.real).ravel(),
        np.ascontiguousarray(padded.imag).ravel(),
        len(columns),
        (my, mx),
        scale,
    )
