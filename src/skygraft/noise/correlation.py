"""Correlated noise of coadds: measured from noise realizations or sky pixels, and drawn with a compact filter.

Warping and averaging correlate the noise of neighbouring pixels of a coadd. The correlation r is measured region by
region, as the mean product of two pixels at each lag over the pairs of good pixels. Noise is white noise w filtered by
a kernel h whose own autocorrelation is r:

    u(x) = sum over d of h(d) w(x - d),    sum of h(d)^2 = 1,    sum over d of h(d) h(d + lag) = r(lag)

so that u has variance 1, and photons that add the variance V(x) add the noise sqrt(V(x)) u(x). w is a function of the
seed, the image's id and the pixel's parent position only (see `skygraft.noise.poisson`), so that u is the same whatever
part of an image is drawn, in whatever order.

h is the transform of the square root of the power spectrum of r. A measured r need not be positive semi-definite:
frequencies of negative power get none, which makes the correlation that is drawn the nearest one that is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.lazy import lazy_module
from skygraft.noise.coadd import CellGrid
from skygraft.noise.poisson import fill
from skygraft.noise.tables import tables

fft = lazy_module("scipy.fft")

__all__ = [
    "LAGS",
    "LEAST_PIXELS",
    "NoiseCorrelation",
    "add_correlated",
    "filter_of",
    "measure_correlation",
    "normal_field",
]

LAGS = 5
"""Largest lag that is measured, pixels: Lanczos kernels of order 3, with which pipelines warp, reach no farther."""
_REACH = 6
"""Half-width of the filter, pixels."""
LEAST_PIXELS = 2500
"""Good pixels that a correlation is measured from, at least: its standard error at any lag is then 0.02."""
_LEAST_OF_REGION = 400
"""Good pixels of a region that counts, where regions are put together."""
_MOST_PIXELS = 1 << 20
"""Pixels that are measured of an image without cells, in regions evenly spread over it."""
_BLOCK = 128
"""Side of the regions of noise without cells, and of the tiles that are drawn."""
_SKY_BLOCK = 32
"""Side of the regions of sky: each loses its mean, and the median over regions passes over those that hold light."""
_CLIP, _GROWN = 4.0, 4
"""Sky pixels off the median by so many standard deviations are light or defects, and all within so many pixels."""
_FARTHEST = 8
"""What sky pixels as far apart as `LAGS`, and up to this, have in common is faint light, not noise."""
_FEW = 9
"""Regions from which on their median is taken instead of their mean."""
_PADDED = 64
_QUANTUM = 2.0**-20
"""To which filters are rounded: transforms differ in their last bits between processors, and outputs must not."""
_NORMAL_MEAN, _NORMAL_SIGMA = 2.0**40, 2.0**20


@dataclass(frozen=True, eq=False)
class NoiseCorrelation:
    """Filters that turn white noise into noise with the correlation of a coadd's.

    Parameters
    ----------
    filters : ndarray, shape (F, 2 reach + 1, 2 reach + 1)
        Of unit energy, symmetric about their middle. The first is that of the whole image.
    grid : CellGrid
        Regions of the image.
    which : dict of (int, int) to int
        Filter of each region (in y and x) that has its own; the others have the first.
    origin : str
        What it was measured from, for people and records.
    n_pixels : int
        Good pixels that it was measured from.
    misfit : float
        Largest difference, over lags, between the correlation measured and that of the first filter.
    """

    filters: NDArray[np.float64]
    grid: CellGrid
    which: dict[tuple[int, int], int]
    origin: str
    n_pixels: int
    misfit: float

    @functools.cached_property
    def lags(self) -> dict[str, float]:
        """Correlation of the noise that is drawn, over the whole image, at lags (rows, columns)."""
        found = _autocorrelation(self.filters[0])
        middle = found.shape[0] // 2
        return {f"{dy},{dx}": float(found[middle + dy, middle + dx]) for dy, dx in ((0, 1), (1, 0), (1, 1))}

    def tiles(self, xy0: tuple[int, int], shape: tuple[int, int]) -> Iterator[tuple[NDArray[np.float64], slice, slice]]:
        """Filter, rows and columns of each tile of an image."""
        grid = self.grid if self.which else CellGrid((0, 0), (_BLOCK, _BLOCK))
        for cell, rows, columns in grid.tiles(xy0, shape):
            yield self.filters[self.which.get(cell, 0)], rows, columns


def normal_field(shape: tuple[int, int], xy0: tuple[int, int], key: tuple[int, int]) -> NDArray[np.float64]:
    """Standard normal numbers, each a function of a key and a pixel's parent position only.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    key : (int, int)
        Two 32-bit words, see `skygraft.noise.stream_key`.

    Returns
    -------
    ndarray, shape `shape`
        Poisson numbers of a mean of 2^40, less the mean and over its root: multiples of 1e-6, of skewness 1e-6.
    """
    drawn = np.full(shape, _NORMAL_MEAN)
    alias, edges, density = tables()
    fill(drawn, *xy0, *key, alias, edges, density)
    return (drawn - _NORMAL_MEAN) / _NORMAL_SIGMA


def filtered_field(
    kernel: NDArray[np.float64], shape: tuple[int, int], xy0: tuple[int, int], key: tuple[int, int]
) -> NDArray[np.float64]:
    """Noise of variance 1 with the autocorrelation of a symmetric kernel; see `normal_field`."""
    (ny, nx), reach = shape, kernel.shape[0] // 2
    white = normal_field((ny + 2 * reach, nx + 2 * reach), (xy0[0] - reach, xy0[1] - reach), key)
    total = np.empty(shape)
    _filter(white, kernel, total)
    return total


@compiled
def _filter(white: NDArray[np.float64], kernel: NDArray[np.float64], total: NDArray[np.float64]) -> None:
    """Convolve with a symmetric kernel, in one order of sums whatever part of an image is asked for."""
    last = kernel.shape[0] - 1
    reach = last // 2
    for y in range(total.shape[0]):
        out = total[y]
        middle = white[y + reach, reach:]
        for x in range(out.size):
            out[x] = kernel[reach, reach] * middle[x]
        for j in range(reach + 1):
            for i in range(last + 1 if j < reach else reach):
                tap = kernel[j, i]
                one, other = white[y + j, i:], white[y + last - j, last - i :]
                for x in range(out.size):
                    out[x] += tap * (one[x] + other[x])


def add_correlated(
    image: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    model: NDArray[np.float32],
    gain: float | NDArray[np.float32],
    correlation: NoiseCorrelation,
    *,
    key: tuple[int, int],
    xy0: tuple[int, int],
    out: NDArray[np.float32],
    variance_out: NDArray[np.float32] | None,
) -> None:
    """Add the model with Gaussian noise of variance model / gain that is correlated, and that variance.

    Takes the arrays of `skygraft.noise.add_flux`; `out` may be the image or the model, `variance_out` the variance.
    """
    per_unit = np.broadcast_to(np.asarray(gain, dtype=np.float32), model.shape)
    for kernel, rows, columns in correlation.tiles(xy0, model.shape):
        tile = rows, columns
        flux, light = model[tile], image[tile]
        touched, lit = flux != 0, flux > 0
        if variance is not None and variance_out is not None and variance_out is not variance:
            variance_out[tile] = variance[tile]
        total = np.where(touched, light + flux.astype(np.float64), light)
        if lit.any():
            # Only the box of pixels that get noise: filtering costs more than all the rest.
            j, i = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
            box = slice(j[0], j[-1] + 1), slice(i[0], i[-1] + 1)
            added = np.where(lit[box], flux[box].astype(np.float64) / per_unit[tile][box], 0.0)
            first = xy0[0] + columns.start + int(i[0]), xy0[1] + rows.start + int(j[0])
            total[box] += np.sqrt(added) * filtered_field(kernel, added.shape, first, key)
            if variance is not None and variance_out is not None:
                variance_out[tile][box] = np.where(lit[box], variance[tile][box] + added, variance[tile][box])
        out[tile] = np.where(touched, total, light)


def measure_correlation(
    planes: Sequence[NDArray[np.float32]],
    usable: NDArray[np.bool_],
    *,
    xy0: tuple[int, int] = (0, 0),
    cells: CellGrid | None = None,
    sky: bool = False,
    what: str = "noise",
) -> NoiseCorrelation | None:
    """Measure how the noise of neighbouring pixels is correlated.

    Parameters
    ----------
    planes : sequence of ndarray, shape (ny, nx)
        Noise, or sky that is mostly noise, in units in which it has about the same variance over a region.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that hold noise only; those that are not finite are left out besides.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    cells : CellGrid, optional
        Regions that each get their own correlation, if they hold `LEAST_PIXELS` good pixels.
    sky : bool
        The planes hold sky, with light and defects that no mask tells of: pixels four standard deviations off the
        median and those around them are left out, the median of small regions is taken, and the correlation of faint
        light, as pixels tell that are farther apart than noise reaches, is taken off.
    what : str
        What the planes are, for the record.

    Returns
    -------
    NoiseCorrelation or None
        None where there are fewer than `LEAST_PIXELS` good pixels.
    """
    shape = usable.shape
    own = cells is not None and cells.size[0] * cells.size[1] >= LEAST_PIXELS
    side = _SKY_BLOCK if sky else _BLOCK
    grid = cells if own and cells is not None else CellGrid(xy0, (side, side))
    regions = list(grid.tiles(xy0, shape))
    if not own and len(regions) * side**2 > _MOST_PIXELS:
        regions = [regions[k] for k in np.linspace(0, len(regions) - 1, _MOST_PIXELS // side**2).round().astype(int)]
    least = LEAST_PIXELS if own else _LEAST_OF_REGION
    found: dict[tuple[int, int], NDArray[np.float64]] = {}
    weights: list[int] = []
    for cell, rows, columns in regions:
        measured = [_measure(plane[rows, columns], usable[rows, columns], sky) for plane in planes]
        kept = [one for one in measured if one is not None]
        n = sum(count for _, count in kept)
        if n >= least:
            found[cell] = sum((count * r for r, count in kept), np.zeros(kept[0][0].shape)) / n
            weights.append(n)
    if sum(weights) < LEAST_PIXELS:
        return None
    each = np.array(list(found.values()))
    pooled = np.average(each, axis=0, weights=weights) if own or len(each) < _FEW else np.median(each, axis=0)
    if sky:
        pooled = _without_light(pooled)
    pooled, each = (_central(r) for r in (pooled, each))
    filters = [filter_of(pooled)]
    which: dict[tuple[int, int], int] = {}
    if own:
        which = {cell: k + 1 for k, cell in enumerate(found)}
        filters += [filter_of(r) for r in each]
    where = f"in each of {len(found)} cells" if own else f"over {len(found)} regions of the image"
    misfit = float(np.abs(_central(_autocorrelation(filters[0])) - pooled).max())
    return NoiseCorrelation(np.array(filters), grid, which, f"{what}, {where}", sum(weights), misfit)


def _central(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lags up to `LAGS` of a correlation, or of several, with more."""
    cut = correlation.shape[-1] // 2 - LAGS
    inner = slice(cut, cut + 2 * LAGS + 1)
    return correlation[..., inner, inner]


def _without_light(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """A correlation without that of faint light: the parabola through lags that noise does not reach."""
    middle = correlation.shape[0] // 2
    dy, dx = np.indices(correlation.shape) - middle
    squared = (dy**2 + dx**2).astype(np.float64)
    far = squared >= LAGS**2
    terms = np.stack([np.ones_like(squared), squared], axis=-1)
    light = terms @ np.linalg.lstsq(terms[far], correlation[far], rcond=None)[0]
    without = (correlation - light) / (1.0 - light[middle, middle])
    without[middle, middle] = 1.0
    return np.asarray(without)


def filter_of(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The compact filter whose autocorrelation is nearest to a correlation.

    Parameters
    ----------
    correlation : ndarray, shape (2 L + 1, 2 L + 1)
        Symmetric about its middle, where it is 1.

    Returns
    -------
    ndarray, shape (13, 13)
        Symmetric about its middle; its squares sum to 1, so that filtered white noise keeps its variance.
    """
    half = correlation.shape[0] // 2
    padded = np.zeros((_PADDED, _PADDED))
    padded[: 2 * half + 1, : 2 * half + 1] = 0.5 * (correlation + correlation[::-1, ::-1])
    power = np.maximum(fft.fft2(np.roll(padded, (-half, -half), axis=(0, 1))).real, 0.0)
    kernel = np.roll(fft.ifft2(np.sqrt(power)).real, (_REACH, _REACH), axis=(0, 1))[: 2 * _REACH + 1, : 2 * _REACH + 1]
    kernel = 0.5 * (kernel + kernel[::-1, ::-1]) / np.sqrt((kernel**2).sum())
    return np.asarray(np.round(kernel / _QUANTUM) * _QUANTUM)


def _autocorrelation(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of products of a kernel with itself at every lag, the middle one 1."""
    n = 2 * kernel.shape[0] - 1
    power = np.abs(fft.fft2(kernel, (n, n))) ** 2
    found = fft.fftshift(fft.ifft2(power).real)
    return np.asarray(found / found.max())


def _measure(
    plane: NDArray[np.float32], usable: NDArray[np.bool_], sky: bool
) -> tuple[NDArray[np.float64], int] | None:
    """Correlation in a region at lags up to `_FARTHEST`, and its good pixels; None where nothing can be measured."""
    good = usable & np.isfinite(plane)
    if not good.any():
        return None
    values = np.where(good, plane, 0.0).astype(np.float64)
    if sky:
        median = np.median(values[good])
        sigma = 1.4826 * np.median(np.abs(values[good] - median))
        off = ~good | (np.abs(values - median) > _CLIP * sigma)
        from scipy import ndimage  # heavy, and needed for sky pixels only

        good = ~ndimage.maximum_filter(off, 2 * _GROWN + 1, mode="constant", cval=False)
        if not good.any():
            return None
    n = int(np.count_nonzero(good))
    values = np.where(good, values - values[good].mean(), 0.0)
    # At least as long as there are lags: the last region of an image may be a few pixels wide.
    size = [fft.next_fast_len(max(length + _FARTHEST, 2 * _FARTHEST + 1), real=True) for length in plane.shape]
    sums, pairs = (_lagged(a, size) for a in (values, good.astype(np.float64)))
    covariance = sums / np.maximum(pairs, 1.0)
    variance = covariance[_FARTHEST, _FARTHEST]
    # A constant, such as the zeros of a cell without data, is no noise.
    if not variance > 1e-12 * max(float(np.abs(plane[good]).max()) ** 2, np.finfo(float).tiny):
        return None
    return np.where(pairs > 0.5, covariance / variance, 0.0), n


def _lagged(array: NDArray[np.float64], size: list[int]) -> NDArray[np.float64]:
    """Sums of products of all pixels at lags up to `_FARTHEST` in both axes, the middle one lag 0."""
    power = np.abs(fft.rfft2(array, size)) ** 2
    sums = np.roll(fft.irfft2(power, size), (_FARTHEST, _FARTHEST), axis=(0, 1))
    return np.asarray(sums[: 2 * _FARTHEST + 1, : 2 * _FARTHEST + 1])
