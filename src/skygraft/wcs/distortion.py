"""Distortions between pixels and projection: SIP, IRAF's TNX and ZPX surfaces, plate solutions, and lookup tables.

SIP: Shupe et al. 2005 (ASPC 347, 491). TNX and ZPX: see their descriptions in the registry of FITS conventions.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.polynomial import chebyshev, legendre, polynomial
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "TABLE_NAMES",
    "Distortion",
    "IrafDistortion",
    "IrafSurface",
    "LookupTable",
    "PlateDistortion",
    "SipDistortion",
]

TABLE_NAMES = ("WCSDVARR", "D2IMARR")
"""EXTNAMEs of lookup tables of the distortion (CPDIS) and of the detector (D2IMDIS)."""

type FloatArray = NDArray[Any]

_EVALUATE: dict[int, Any] = {1: chebyshev.chebval2d, 2: legendre.legval2d, 3: polynomial.polyval2d}
_DIFFERENTIATE: dict[int, Any] = {1: chebyshev.chebder, 2: legendre.legder, 3: polynomial.polyder}
_PARAMETERS = 8


class Distortion(abc.ABC):
    """A displacement of pixels as a function of the offset (u, v) from CRPIX, all in pixels."""

    @abc.abstractmethod
    def shift(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the displacements (du, dv) at offsets (u, v), each shape (N,); (u + du, v + dv) are projected."""

    @abc.abstractmethod
    def slopes(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the derivatives d(du)/du, d(du)/dv, d(dv)/du and d(dv)/dv, each shape (N,)."""

    def invert(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the offsets that are displaced to (u, v), by Newton's method; not finite where it fails.

        Parameters
        ----------
        u, v : ndarray, shape (N,)
            Displaced offsets from CRPIX, pixels.

        Returns
        -------
        u, v : ndarray, shape (N,)
            Offsets before the displacement.
        """
        p, q = u.copy(), v.copy()
        open_ = np.flatnonzero(np.isfinite(u) & np.isfinite(v))
        for _ in range(50):
            a, b = p[open_], q[open_]
            da, db = self.shift(a, b)
            ra, rb = a + da - u[open_], b + db - v[open_]
            aa, ab, ba, bb = self.slopes(a, b)
            det = (1 + aa) * (1 + bb) - ab * ba
            step_a, step_b = ((1 + bb) * ra - ab * rb) / det, ((1 + aa) * rb - ba * ra) / det
            p[open_], q[open_] = a - step_a, b - step_b
            size = 1 + np.hypot(a, b)
            # Values that are not finite stay so; the caller's round-trip check turns them into NaN.
            open_ = open_[np.isfinite(step_a) & np.isfinite(step_b) & (np.hypot(step_a, step_b) > 1e-13 * size)]
            if not len(open_):
                break
        return p, q


class SipDistortion(Distortion):
    """The forward SIP polynomials.

    Parameters
    ----------
    a, b : array_like, shape (n, n)
        Coefficients A_p_q and B_p_q of u^p v^q.
    """

    def __init__(self, a: ArrayLike, b: ArrayLike) -> None:
        self._terms = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        self._slopes = [polynomial.polyder(t, axis=axis) for t in self._terms for axis in (0, 1)]

    def shift(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Distortion.shift`."""
        a, b = self._terms
        return polynomial.polyval2d(u, v, a), polynomial.polyval2d(u, v, b)

    def slopes(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """See `Distortion.slopes`."""
        aa, ab, ba, bb = (polynomial.polyval2d(u, v, slope) for slope in self._slopes)
        return aa, ab, ba, bb


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A lookup table of displacements that a header refers to; astropy applies it.

    Parameters
    ----------
    name, version : str, int
        EXTNAME (one of `TABLE_NAMES`) and EXTVER of its HDU.
    data : ndarray of float32, shape (ny, nx)
        Displacements in pixels.
    grid : tuple of (str, float)
        CRPIX, CRVAL and CDELT cards of its HDU.
    """

    name: str
    version: int
    data: NDArray[np.float32] = field(repr=False)
    grid: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, hdu: Any) -> LookupTable:
        """Build the table from an astropy HDU."""
        keys = [f"{name}{axis}" for name in ("CRPIX", "CRVAL", "CDELT") for axis in (1, 2)]
        grid = tuple((key, float(hdu.header[key])) for key in keys if key in hdu.header)
        return cls(str(hdu.name).upper(), int(hdu.ver), np.asarray(hdu.data, dtype=np.float32), grid)

    def hdu(self) -> fits.ImageHDU:
        """Return the table as an HDU."""
        return fits.ImageHDU(self.data, fits.Header(self.grid), name=self.name, ver=self.version)

    @property
    def key(self) -> tuple[Any, ...]:
        """Return its contents as a hashable tuple, for comparison."""
        return (self.name, self.version, self.data.shape, self.data.tobytes(), self.grid)


class IrafSurface:
    """A polynomial surface, as stored by IRAF in the WAT cards of TNX and ZPX images.

    Parameters
    ----------
    numbers : sequence of float
        Kind of basis (1 Chebyshev, 2 Legendre, 3 powers); numbers of terms in x and y; cross-terms (0 none, 1 all,
        2 up to the higher order); lowest and highest x, lowest and highest y; coefficients, with x varying fastest.

    Raises
    ------
    ValueError
        If the numbers are invalid; the message says what is wrong.

    Notes
    -----
    Chebyshev and Legendre polynomials are functions of x and y scaled to [-1, 1] over the range; powers are functions
    of x and y themselves.
    """

    def __init__(self, numbers: Sequence[float]) -> None:
        if len(numbers) < _PARAMETERS:
            raise ValueError(f"a surface begins with {_PARAMETERS} parameters, and {len(numbers)} numbers are given")
        if not np.isfinite(numbers).all():
            raise ValueError("its numbers are not all finite")
        kind, nx, ny, cross = (round(n) for n in numbers[:4])
        x0, x1, y0, y1 = numbers[4:_PARAMETERS]
        if kind not in _EVALUATE or nx < 1 or ny < 1 or cross not in (0, 1, 2):
            raise ValueError(
                f"its kind, orders and cross-terms are {kind}, {nx}, {ny} and {cross}; 1 to 3, at least 1 and 0 to 2 "
                "are allowed"
            )
        if not (x1 > x0 and y1 > y0):
            raise ValueError(f"its range is empty: {x0:g} to {x1:g}, {y0:g} to {y1:g}")
        terms = [
            (i, j)
            for j in range(ny)
            for i in range(nx)
            if cross == 1 or (cross == 0 and (i == 0 or j == 0)) or (cross == 2 and i + j < max(nx, ny))
        ]
        values = numbers[_PARAMETERS:]
        if len(values) != len(terms):
            raise ValueError(f"its orders need {len(terms)} coefficients, and {len(values)} are given")
        self._kind = kind
        self._coefficients = np.zeros((nx, ny))
        for (i, j), value in zip(terms, values, strict=True):
            self._coefficients[i, j] = value
        self._scale = (1.0, 1.0) if kind == 3 else (2 / (x1 - x0), 2 / (y1 - y0))
        self._middle = (0.0, 0.0) if kind == 3 else ((x0 + x1) / 2, (y0 + y1) / 2)
        self._slopes = [_DIFFERENTIATE[kind](self._coefficients, axis=axis) for axis in (0, 1)]

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Evaluate the surface at x and y, each shape (N,)."""
        values: FloatArray = _EVALUATE[self._kind](*self._scaled(x, y), self._coefficients)
        return values

    def slopes(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return its derivatives with respect to x and y, each shape (N,)."""
        s, t = self._scaled(x, y)
        along_x, along_y = (_EVALUATE[self._kind](s, t, slope) for slope in self._slopes)
        return along_x * self._scale[0], along_y * self._scale[1]

    def _scaled(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (x - self._middle[0]) * self._scale[0], (y - self._middle[1]) * self._scale[1]


class IrafDistortion(Distortion):
    """The corrections of TNX and ZPX to the intermediate world coordinates, converted to pixels.

    Parameters
    ----------
    lngcor, latcor : IrafSurface or None
        Corrections (degrees) to the coordinates along longitude and latitude, functions of both (degrees).
    matrix : array_like, shape (2, 2)
        Degrees per pixel: rows (longitude, latitude), columns (x, y).
    """

    def __init__(self, lngcor: IrafSurface | None, latcor: IrafSurface | None, matrix: ArrayLike) -> None:
        self._surfaces = (lngcor, latcor)
        self._matrix = np.asarray(matrix, dtype=np.float64)
        self._inverse = np.linalg.inv(self._matrix)

    def shift(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Distortion.shift`."""
        xi, eta = self._matrix @ np.stack([u, v])
        du, dv = self._inverse @ np.stack(
            [np.zeros_like(xi) if surface is None else surface(xi, eta) for surface in self._surfaces]
        )
        return du, dv

    def slopes(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """See `Distortion.slopes`."""
        xi, eta = self._matrix @ np.stack([u, v])
        none = np.zeros_like(xi)
        slopes = np.stack([(none, none) if surface is None else surface.slopes(xi, eta) for surface in self._surfaces])
        (aa, ab), (ba, bb) = np.einsum("ij,jkn,kl->iln", self._inverse, slopes, self._matrix)
        return aa, ab, ba, bb


class PlateDistortion(Distortion):
    """The distortion of a plate solution, whose intermediate world coordinates are polynomials of pixels.

    Parameters
    ----------
    xi, eta : array_like, shape (n, n)
        Coefficients of u^i v^j along longitude and latitude, degrees. The displacement is their deviation from the
        linear terms.
    """

    def __init__(self, xi: ArrayLike, eta: ArrayLike) -> None:
        planes = [np.array(plane, dtype=np.float64) for plane in (xi, eta)]
        self._inverse = np.linalg.inv([[plane[1, 0], plane[0, 1]] for plane in planes])
        for plane in planes:
            plane[1, 0] = plane[0, 1] = 0.0
        self._terms = planes
        self._slopes = [polynomial.polyder(t, axis=axis) for t in planes for axis in (0, 1)]

    def shift(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Distortion.shift`."""
        du, dv = self._inverse @ np.stack([polynomial.polyval2d(u, v, terms) for terms in self._terms])
        return du, dv

    def slopes(self, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """See `Distortion.slopes`."""
        slopes = np.stack([polynomial.polyval2d(u, v, slope) for slope in self._slopes]).reshape(2, 2, -1)
        (aa, ab), (ba, bb) = np.einsum("ij,jkn->ikn", self._inverse, slopes)
        return aa, ab, ba, bb
