"""Smooth and tabulated functions of position that a photometric calibration is multiplied by.

Positions are 0-based pixels of the parent frame. Fields are immutable, picklable, comparable, and answer for many
positions at once. Outside the region that they were made for (`SpatialField.valid_box`) they extrapolate (polynomials)
or give NaN (maps); a `PhotoCalib` asks at the nearest position inside of it.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, override

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import CalibrationError

if TYPE_CHECKING:
    from astropy.wcs.wcsapi import BaseLowLevelWCS

__all__ = [
    "ChebyshevField",
    "GridField",
    "PixelAreaField",
    "ProductField",
    "SpatialField",
]


type Edges = tuple[float, float, float, float]


class SpatialField(abc.ABC):
    """A scalar function of pixel position."""

    @abc.abstractmethod
    def evaluate(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the field at some positions.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of float64
            One value for each position, of the broadcast shape.
        """

    @property
    def valid_box(self) -> Edges | None:
        """Outer edges (x_min, x_max, y_min, y_max), in pixels, of where the field is valid; None for everywhere."""
        return None

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the field as JSON types, without its bulk.

        Returns
        -------
        dict
        """

    @abc.abstractmethod
    def _state(self) -> tuple[Any, ...]:
        """Collect everything that the values depend on."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, SpatialField)
        mine, theirs = self._state(), other._state()
        return len(mine) == len(theirs) and all(_same(a, b) for a, b in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v}" for k, v in self.describe().items() if k != "kind")
        return f"{type(self).__name__}({inside})"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b, equal_nan=True)
    return bool(a == b)


def _frozen(values: ArrayLike, dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


def _positions(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    px, py = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return px, py


class ChebyshevField(SpatialField):
    """A series of Chebyshev polynomials of the first kind, ``sum_ji c[j, i] T_i(x') T_j(y')``.

    Parameters
    ----------
    coefficients : array_like, shape (ny, nx)
        Row j, column i multiplies ``T_j(y') T_i(x')``.
    box : sequence of int (x_min, x_max, y_min, y_max)
        First and last pixel *index*, inclusive. The arguments x', y' run from -1 to 1 over the outer edges of
        these pixels, ``x_min - 0.5`` to ``x_max + 0.5`` (the convention of LSST's ``ChebyshevBoundedField``).

    Raises
    ------
    CalibrationError
        If the coefficients are not a non-empty two-dimensional array of finite numbers, or the box is empty.
    """

    def __init__(self, coefficients: ArrayLike, box: Sequence[int]) -> None:
        self.coefficients = _frozen(coefficients)
        if self.coefficients.ndim != 2 or not self.coefficients.size:
            raise CalibrationError(f"Chebyshev coefficients have shape {self.coefficients.shape}; (ny, nx) is needed")
        if not np.isfinite(self.coefficients).all():
            raise CalibrationError("a Chebyshev coefficient is not finite")
        self.box = _box(box)

    @property
    @override
    def valid_box(self) -> Edges | None:
        return _edges(self.box)

    @override
    def evaluate(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Sum the series at some positions.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of float64
            One value for each position, of the broadcast shape.
        """
        px, py = _positions(x, y)
        x_min, x_max, y_min, y_max = self.box
        u = (2 * px - (x_min + x_max)) / (x_max - x_min + 1)
        v = (2 * py - (y_min + y_max)) / (y_max - y_min + 1)
        values: NDArray[np.float64] = np.polynomial.chebyshev.chebval2d(v, u, self.coefficients)
        return values

    @override
    def describe(self) -> dict[str, Any]:
        """Describe the field as JSON types, without its bulk.

        Returns
        -------
        dict
        """
        ny, nx = self.coefficients.shape
        return {"kind": "chebyshev", "order_x": nx - 1, "order_y": ny - 1, "box": list(self.box)}

    @override
    def _state(self) -> tuple[Any, ...]:
        return (self.coefficients, self.box)


def _box(box: Sequence[int]) -> tuple[int, int, int, int]:
    x_min, x_max, y_min, y_max = (int(v) for v in box)
    if x_max < x_min or y_max < y_min:
        raise CalibrationError(f"the box {(x_min, x_max, y_min, y_max)} (x_min, x_max, y_min, y_max) is empty")
    return x_min, x_max, y_min, y_max


def _edges(box: tuple[int, int, int, int]) -> Edges:
    x_min, x_max, y_min, y_max = box
    return x_min - 0.5, x_max + 0.5, y_min - 0.5, y_max + 0.5


class ProductField(SpatialField):
    """The product of other fields.

    Parameters
    ----------
    factors : sequence of SpatialField
        At least one.

    Raises
    ------
    CalibrationError
        If there are none, or no position is inside the valid boxes of all.
    """

    def __init__(self, factors: Sequence[SpatialField]) -> None:
        self.factors = tuple(factors)
        if not self.factors:
            raise CalibrationError("a product of fields has no factors")
        boxes = [factor.valid_box for factor in self.factors if factor.valid_box is not None]
        self._valid_box: Edges | None = None
        if boxes:
            left, right, bottom, top = zip(*boxes, strict=True)
            self._valid_box = max(left), min(right), max(bottom), min(top)
            if self._valid_box[0] > self._valid_box[1] or self._valid_box[2] > self._valid_box[3]:
                raise CalibrationError(
                    f"the factors of a calibration field are valid in boxes that share no position: {boxes} "
                    "(x_min, x_max, y_min, y_max)"
                )

    @property
    @override
    def valid_box(self) -> Edges | None:
        return self._valid_box

    @override
    def evaluate(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Multiply the factors at some positions.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of float64
            One value for each position, of the broadcast shape.
        """
        values = self.factors[0].evaluate(x, y)
        for factor in self.factors[1:]:
            values = values * factor.evaluate(x, y)
        return values

    @override
    def describe(self) -> dict[str, Any]:
        """Describe the field as JSON types, without its bulk.

        Returns
        -------
        dict
        """
        return {"kind": "product", "factors": [factor.describe() for factor in self.factors]}

    @override
    def _state(self) -> tuple[Any, ...]:
        return (self.factors,)


class PixelAreaField(SpatialField):
    """The solid angle of a pixel, times a constant: the flux calibration of flat-fielded surface brightness.

    ``scaling * |(s(x+1, y) - s(x, y)) x (s(x, y+1) - s(x, y))|`` with s the unit vector of a pixel position.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels to ICRS degrees.
    scaling : float
        Multiplies the solid angle in steradians, so it carries the unit: ``(180/pi*3600)**2`` for arcsec**2.
    box : sequence of int (x_min, x_max, y_min, y_max), optional
        First and last pixel index for which it was made.
    """

    def __init__(self, wcs: BaseLowLevelWCS, scaling: float = 1.0, box: Sequence[int] | None = None) -> None:
        self.wcs = wcs
        self.scaling = float(scaling)
        self.box = None if box is None else _box(box)

    @property
    @override
    def valid_box(self) -> Edges | None:
        return None if self.box is None else _edges(self.box)

    @override
    def evaluate(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the scaled solid angle of a pixel at some positions.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of float64
            One value for each position, of the broadcast shape.
        """
        px, py = _positions(x, y)
        here, right, up = (self._unit_vectors(px + dx, py + dy) for dx, dy in ((0, 0), (1, 0), (0, 1)))
        area: NDArray[np.float64] = np.linalg.norm(np.cross(right - here, up - here), axis=-1)
        return self.scaling * area

    def _unit_vectors(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = (np.radians(np.asarray(v, dtype=float)) for v in self.wcs.pixel_to_world_values(x, y))
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)

    @override
    def describe(self) -> dict[str, Any]:
        """Describe the field as JSON types, without its bulk.

        Returns
        -------
        dict
        """
        return {
            "kind": "pixel_area",
            "scaling": self.scaling,
            "box": None if self.box is None else list(self.box),
        }

    @override
    def _state(self) -> tuple[Any, ...]:
        # Other WCS classes compare by identity. What counts is their values over the box: those on a grid determine any
        # smooth mapping.
        x_min, x_max, y_min, y_max = self.box or (0, 1024, 0, 1024)
        gx, gy = np.meshgrid(np.linspace(x_min, x_max, 4), np.linspace(y_min, y_max, 4))
        sky = self.wcs.pixel_to_world_values(gx.ravel(), gy.ravel())
        return (self.scaling, self.box, np.asarray(sky, dtype=float))


class GridField(SpatialField):
    """Values tabulated on a regular grid of positions, interpolated bilinearly; NaN outside the grid.

    No format makes one: it is for calibrations that come as a map, such as an illumination correction with one value
    for each pixel of the image, or for each superpixel.

    Parameters
    ----------
    values : array_like, shape (ny, nx)
        The table; at least one row and one column.
    origin : (float, float)
        Position (x, y) of ``values[0, 0]``, in parent pixels.
    step : (float, float)
        Distance in pixels between columns and between rows.

    Raises
    ------
    CalibrationError
        If the table is not two-dimensional and filled, or a step is not positive.

    Examples
    --------
    An image with a map of correction factors:

    >>> from skygraft.photometry import PhotoCalib
    >>> from skygraft.testing import make_exposure
    >>> exposure = make_exposure((40, 50), xy0=(1000, 2000))
    >>> factors = np.linspace(0.99, 1.01, 40 * 50).reshape(40, 50)
    >>> field = GridField(factors, origin=exposure.xy0)
    >>> exposure = exposure.replace(photo_calib=PhotoCalib.from_zeropoint(27.0, field=field))
    """

    def __init__(
        self,
        values: ArrayLike,
        origin: tuple[float, float] = (0.0, 0.0),
        step: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        given = np.asarray(values)
        # A map the size of the image stays in single precision, which halves its memory.
        self.values = _frozen(given, np.float32 if given.dtype == np.float32 else np.float64)
        if self.values.ndim != 2 or not self.values.size:
            raise CalibrationError(f"a grid of calibration values has shape {self.values.shape}; (ny, nx) is needed")
        self.origin = (float(origin[0]), float(origin[1]))
        self.step = (float(step[0]), float(step[1]))
        if not (self.step[0] > 0 and self.step[1] > 0):
            raise CalibrationError(f"the steps of a grid are {self.step}; both must be positive")

    @property
    @override
    def valid_box(self) -> Edges | None:
        (ny, nx), (x0, y0), (dx, dy) = self.values.shape, self.origin, self.step
        return x0 - 0.5 * dx, x0 + (nx - 0.5) * dx, y0 - 0.5 * dy, y0 + (ny - 0.5) * dy

    @override
    def evaluate(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Interpolate the table at some positions; NaN outside of it.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of float64
            One value for each position, of the broadcast shape.
        """
        px, py = _positions(x, y)
        ny, nx = self.values.shape
        u = (px - self.origin[0]) / self.step[0]
        v = (py - self.origin[1]) / self.step[1]
        # The half step around the outermost samples belongs to them, as a map of pixels covers its edge pixels whole; a
        # position on the edge must not be outside by the rounding of a division.
        edge = 0.5 + 1e-9
        with np.errstate(invalid="ignore"):
            inside = (u >= -edge) & (u <= nx - 1 + edge) & (v >= -edge) & (v <= ny - 1 + edge)
        u = np.clip(np.where(inside, u, 0.0), 0, nx - 1)
        v = np.clip(np.where(inside, v, 0.0), 0, ny - 1)
        i0, j0 = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
        i1, j1 = np.minimum(i0 + 1, nx - 1), np.minimum(j0 + 1, ny - 1)
        fu, fv = u - i0, v - j0
        # Zero times NaN is NaN: a neighbour of weight zero is left out.
        total = np.zeros(px.shape)
        for jj, ii, weight in (
            (j0, i0, (1 - fv) * (1 - fu)),
            (j0, i1, (1 - fv) * fu),
            (j1, i0, fv * (1 - fu)),
            (j1, i1, fv * fu),
        ):
            total += np.where(weight > 0, weight * self.values[jj, ii].astype(np.float64), 0.0)
        return np.where(inside, total, np.nan)

    @override
    def describe(self) -> dict[str, Any]:
        """Describe the field as JSON types, without its bulk.

        Returns
        -------
        dict
        """
        return {
            "kind": "grid",
            "shape": list(self.values.shape),
            "origin": list(self.origin),
            "step": list(self.step),
        }

    @override
    def _state(self) -> tuple[Any, ...]:
        return (self.values, self.origin, self.step)
