"""PSFs given as images on a grid of their own, finer than the pixels, which may vary over a grid of positions.

Such images come in two kinds, which look alike:

* Samples of the *effective* PSF: each is the light that a whole detector pixel receives that is centred there
  (Anderson & King 2000, PASP 112, 1360). STDPSF files, STPSF's grids and photutils' models are of this kind. Samples
  over an unlimited area sum to the number of samples in a pixel.
* Samples of the *optical* PSF, the image before the detector: STPSF's and WebbPSF's ``OVERSAMP`` and ``OVERDIST``
  images. It must still be integrated over detector pixels. Used as if it were effective, it is too sharp.

Between samples the model is the cubic spline through them (that of photutils), and an optical PSF is integrated over
pixels exactly. The model is thus known at any offset from the source: where pixels are too coarse for it, each source
is drawn from its values at the source's own sub-pixel place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf.base import Box, check_kernel_shape
from skygraft.psf.fine import SubPixelBasis
from skygraft.psf.linear import LinearPSF, combine, frozen, positions
from skygraft.psf.sampled import SampledAxis, SplineBasis

__all__ = ["GriddedPSF", "OversampledPSF"]


class OversampledPSF(LinearPSF):
    """A PSF given as an image with a pixel scale of its own, the same everywhere.

    Parameters
    ----------
    image : array_like, shape (my, mx)
        Samples of the PSF.
    oversampling : float or (float, float), optional
        Samples per pixel of the exposure, or those along y and x. They need not be whole, nor more than one.
    pixel_integrated : bool, optional
        Whether samples are those of the effective PSF, the light that a detector pixel centred there receives (True),
        or of the optical PSF, which is then integrated over pixels here (False).
    center : (float, float), optional
        Column and row (x, y) of the source in `image`, counted from 0; by default its middle
        ``((mx - 1) / 2, (my - 1) / 2)``, which is between samples where the size is even.
    normalize : bool, optional
        Scale the image to a total light of one; by default samples are light per pixel as they are, so that an image
        that holds all the light sums to the number of samples in a pixel.
    fraction_of_total : bool, optional
        Whether the image's light is the fraction that it holds of all the light of a source, so that one minus it lies
        outside (see `flux_outside`); by default nothing is claimed of what is outside.
    valid_box : Box, optional
        Where the PSF holds, parent pixels; None for everywhere.
    average_position : (float, float), optional
        The position (x, y) that stands for the whole image.
    name : str, optional
        What people know the model by.

    Raises
    ------
    ConfigError
        If image, oversampling and centre do not go together.
    PsfError
        If the image holds no light, or values that are not finite.

    Notes
    -----
    With more than one sample a pixel the model between samples is the bicubic spline through them, as in
    ``scipy.interpolate.RectBivariateSpline`` and photutils' ``ImagePSF``; beyond the outermost samples it is zero. With
    one sample a pixel or less it is known on pixels only: the image is its kernel, moved by band-limited interpolation
    where its centre is between samples.

    References
    ----------
    Anderson & King 2000, "Toward High-Precision Astrometry with WFPC2", PASP 112, 1360.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[-20:21, -20:21] / 4  # four samples a pixel
    >>> psf = OversampledPSF(np.exp(-(x**2 + y**2)), 4, normalize=True)
    >>> psf.shape
    (11, 11)
    """

    def __init__(
        self,
        image: ArrayLike,
        oversampling: float | Sequence[float] = 1.0,
        *,
        pixel_integrated: bool = True,
        center: tuple[float, float] | None = None,
        normalize: bool = False,
        fraction_of_total: bool = False,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
        name: str = "",
    ) -> None:
        values = np.asarray(image, dtype=np.float64)
        if values.ndim != 2 or values.size == 0:
            raise ConfigError(f"a PSF image has two axes (ny, nx), not the shape {values.shape}")
        kernels = self._prepare(
            values[None], oversampling, pixel_integrated, center, normalize, fraction_of_total, name
        )
        super().__init__(kernels, valid_box=valid_box, average_position=average_position)

    def _prepare(
        self,
        images: NDArray[np.float64],
        oversampling: float | Sequence[float],
        pixel_integrated: bool,
        center: tuple[float, float] | None,
        normalize: bool,
        fraction_of_total: bool,
        name: str,
    ) -> NDArray[np.float64]:
        """Keep images (B, my, mx), and return their kernels on pixels."""
        steps = _pair(oversampling)
        my, mx = images.shape[1:]
        at = ((mx - 1) / 2, (my - 1) / 2) if center is None else center
        if not np.isfinite(images).all():
            raise PsfError(
                f"the PSF image holds {int((~np.isfinite(images)).sum())} values that are not finite",
                fix="Fill them in (with zeros if they are in the outskirts), or give another PSF for this image",
            )
        if not (0 <= at[0] <= mx - 1 and 0 <= at[1] <= my - 1):
            raise ConfigError(
                f"the centre ({at[0]:g}, {at[1]:g}) is outside of the image of {mx} x {my} samples", key="center"
            )
        light = images.sum(axis=(1, 2)) / (steps[0] * steps[1])
        if not (light > 0).all():
            raise PsfError(
                f"the PSF image sums to {light.min():g}: it holds no light",
                fix="Give another PSF for this image",
            )
        if normalize:
            images = images / light[:, None, None]
        self._images = frozen(images)
        self._oversampling, self._center = steps, (float(at[0]), float(at[1]))
        self._integrated, self._fraction, self._name = bool(pixel_integrated), bool(fraction_of_total), name
        y, x = self._axes
        check_kernel_shape((y.kernel_size, x.kernel_size), name or "the PSF image")
        kernels = self._model.values(y.pixels, x.pixels)
        self._sums = frozen(kernels.sum(axis=(1, 2)))
        return kernels

    @property
    def _axes(self) -> tuple[SampledAxis, SampledAxis]:
        _, my, mx = self._images.shape
        return (
            SampledAxis(my, self._oversampling[0], self._center[1], self._integrated),
            SampledAxis(mx, self._oversampling[1], self._center[0], self._integrated),
        )

    @functools.cached_property
    def _model(self) -> SplineBasis:
        return SplineBasis(self._images, *self._axes, few=len(self._images) > 4)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_model"}

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the weight of the one image, which is one everywhere.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
            Weights of the basis images.
        """
        return np.ones((positions(x, y)[0].size, 1))

    def flux_outside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the flux per unit source flux that lies outside the kernel, as far as the images tell.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
            One minus the kernel's sum where the images are fractions of a source's total light; else zero.
        """
        if not self._fraction:
            return np.zeros(positions(x, y)[0].size)
        return np.maximum(1.0 - combine(self.coefficients(x, y), self._sums), 0.0)

    @property
    def sub_pixel(self) -> SubPixelBasis | None:
        """The images as a function of sub-pixel offset; None where their samples are not closer than pixels."""
        return self._model if all(axis.fine for axis in self._axes) else None

    @property
    def images(self) -> NDArray[np.float64]:
        """The samples, light per pixel, shape (B, my, mx), read-only."""
        return self._images

    @property
    def oversampling(self) -> tuple[float, float]:
        """Samples per pixel of the exposure, along y and x."""
        return self._oversampling

    @property
    def center(self) -> tuple[float, float]:
        """Column and row (x, y) of the source in the images, counted from 0."""
        return self._center

    @property
    def pixel_integrated(self) -> bool:
        """Whether samples are of the effective PSF (True), or of the optical PSF and integrated here (False)."""
        return self._integrated

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        return f"{self._name or self._kind}, {self._sampling}, {nx} x {ny} pixels"

    @property
    def _kind(self) -> str:
        return "PSF image"

    @property
    def _sampling(self) -> str:
        along_y, along_x = self._oversampling
        samples = f"{along_x:g}" if along_x == along_y else f"{along_x:g} x {along_y:g}"
        what = "effective PSF" if self._integrated else "optical PSF, integrated over pixels"
        return f"{samples} sample{'' if samples == '1' else 's'} a pixel of the {what}"


class GriddedPSF(OversampledPSF):
    """A PSF given as oversampled images on a rectangular grid of positions, linear between them.

    This is what photutils' ``GriddedPSFModel`` computes, and STPSF's grids and the STDPSF files of HST and JWST hold.

    Parameters
    ----------
    images : array_like, shape (N, my, mx)
        Samples of the PSF at N positions.
    grid_xypos : array_like, shape (N, 2)
        Positions (x, y) of the images, 0-based pixels of the parent frame, in any order. They are all crossings of some
        columns and some rows, whose distances may vary.
    oversampling : float or (float, float)
        Samples per pixel of the exposure, or those along y and x.
    pixel_integrated, center, normalize, fraction_of_total, average_position, name
        As for `OversampledPSF`.
    valid_box : Box, optional
        Where the PSF holds; by default the grid, grown by half the distance of its outermost lines on each side.

    Raises
    ------
    ConfigError
        If the positions are no rectangular grid of N places.
    PsfError
        If an image holds no light, or values that are not finite.

    Notes
    -----
    At a position between four of the grid the model is their images, weighted bilinearly; outside of the grid it is
    that of the nearest place on its edge.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[-20:21, -20:21] / 4
    >>> images = [np.exp(-(x**2 + y**2) / width) for width in (1.0, 1.1, 1.2, 1.3)]
    >>> psf = GriddedPSF(images, [(0, 0), (99, 0), (0, 99), (99, 99)], 4, normalize=True)
    >>> psf.coefficients([49.5], [0.0])
    array([[0.5, 0.5, 0. , 0. ]])
    """

    def __init__(
        self,
        images: ArrayLike,
        grid_xypos: ArrayLike,
        oversampling: float | Sequence[float],
        *,
        pixel_integrated: bool = True,
        center: tuple[float, float] | None = None,
        normalize: bool = False,
        fraction_of_total: bool = False,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
        name: str = "",
    ) -> None:
        values, places = np.asarray(images, dtype=np.float64), np.asarray(grid_xypos, dtype=np.float64)
        if values.ndim != 3 or values.size == 0:
            raise ConfigError(
                f"PSFs on a grid are a stack of images (N, ny, nx), not an array of shape {values.shape}",
                fix="Reshape a cube with more axes, so that its first has one image for each position",
            )
        if places.shape != (len(values), 2):
            raise ConfigError(f"{len(values)} images need as many positions (x, y), not an array of {places.shape}")
        columns, rows, order = _grid(places)
        self._grid_x, self._grid_y = frozen(columns), frozen(rows)
        kernels = self._prepare(
            values[order], oversampling, pixel_integrated, center, normalize, fraction_of_total, name
        )
        if valid_box is None and len(values) > 1:
            (x_min, x_max), (y_min, y_max) = _grown(columns), _grown(rows)
            valid_box = Box(x_min, x_max, y_min, y_max)
        LinearPSF.__init__(self, kernels, valid_box=valid_box, average_position=average_position)

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the bilinear weights of the images.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
            Weights of the images, by rows of the grid.
        """
        x, y = positions(x, y)
        i, fx = _cell(self._grid_x, x)
        j, fy = _cell(self._grid_y, y)
        n_x, n_y, each = len(self._grid_x), len(self._grid_y), np.arange(len(x))
        weights = np.zeros((len(x), n_y, n_x))
        for di, wx in ((0, 1 - fx), (1, fx)):
            for dj, wy in ((0, 1 - fy), (1, fy)):
                weights[each, np.minimum(j + dj, n_y - 1), np.minimum(i + di, n_x - 1)] += wx * wy
        return weights.reshape(len(x), n_y * n_x)

    @property
    def grid_xypos(self) -> NDArray[np.float64]:
        """Positions (x, y) of the images, by rows of the grid, shape (B, 2), parent pixels."""
        x, y = np.meshgrid(self._grid_x, self._grid_y)
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        places.setflags(write=False)
        return places

    @property
    def _kind(self) -> str:
        return f"PSFs on a grid of {len(self._grid_x)} x {len(self._grid_y)}"


def _pair(oversampling: float | Sequence[float]) -> tuple[float, float]:
    """Samples per pixel along y and x."""
    try:
        pair = np.broadcast_to(np.asarray(oversampling, dtype=np.float64), (2,))
    except (TypeError, ValueError):
        pair = np.full(2, np.nan)
    if not (np.isfinite(pair).all() and (pair > 0).all()):
        raise ConfigError(
            f"oversampling is {oversampling!r}; a positive number, or those along y and x, is needed",
            key="oversampling",
            fix="Give the samples per pixel, such as oversampling=4",
        )
    return float(pair[0]), float(pair[1])


def _grid(
    places: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Find columns and rows of a grid, and the order that sorts its places by row, then by column."""
    columns, rows = np.unique(places[:, 0]), np.unique(places[:, 1])
    order = np.lexsort((places[:, 0], places[:, 1]))
    x, y = np.meshgrid(columns, rows)
    whole = np.isfinite(places).all() and x.size == len(places)
    if not (whole and np.array_equal(places[order], np.stack([x.ravel(), y.ravel()], axis=1))):
        raise ConfigError(
            f"the positions of {len(places)} PSFs are no rectangular grid: they have {columns.size} different x and "
            f"{rows.size} different y",
            key="grid_xypos",
            fix="Give one PSF at each crossing of some columns and some rows",
        )
    return columns, rows, order


def _grown(lines: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a grid's lines, grown by half the outermost distances; unlimited for one line."""
    if lines.size == 1:
        return -math.inf, math.inf
    return float(lines[0] - (lines[1] - lines[0]) / 2), float(lines[-1] + (lines[-1] - lines[-2]) / 2)


def _cell(lines: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the line before each place, and the part of the way to the next one, 0 to 1."""
    if lines.size == 1:
        return np.zeros(at.size, dtype=np.int64), np.zeros(at.size)
    i = np.clip(np.searchsorted(lines, at, side="right") - 1, 0, lines.size - 2)
    return i, np.clip((at - lines[i]) / (lines[i + 1] - lines[i]), 0.0, 1.0)
