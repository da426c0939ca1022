"""Gravitational lenses of isothermal ellipsoids with shear: images of a source, magnifications, delays, and arcs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog.schema import COLUMNS, is_mag_column, unit_of
from skygraft.disk import atomic_path
from skygraft.errors import CatalogError, OutputExistsError

__all__ = ["Lens", "LensedImages", "lensed_system"]

type Array = NDArray[np.float64]

_STEPS = 8192
"""Directions in which images are looked for."""
_ROUND = 1e-12
"""Below this eccentricity squared, an ellipsoid is round."""


@dataclass(frozen=True, eq=False)
class LensedImages:
    """The images of one source, sorted by arrival.

    Those of another lens model can be put here by hand: the first four are enough.

    Parameters
    ----------
    east, north : ndarray, shape (N,)
        Offsets from the lens, arcsec.
    magnification : ndarray, shape (N,)
        Of the flux; negative where the image is mirrored.
    delay : ndarray, shape (N,)
        Time by which the image is seen after the first, days.
    shear, shear_pa : ndarray, shape (N,), optional
        How a small source is stretched, as in catalogues: reduced shear, and position angle in degrees.
    """

    east: Array
    north: Array
    magnification: Array
    delay: Array
    shear: Array | None = None
    shear_pa: Array | None = None

    def __post_init__(self) -> None:
        for name in ("east", "north", "magnification", "delay", "shear", "shear_pa"):
            given = getattr(self, name)
            if given is None:
                continue
            array = np.atleast_1d(np.asarray(given, dtype=np.float64))
            if array.shape != np.shape(np.atleast_1d(self.east)) or not np.isfinite(array).all():
                raise CatalogError(f"{name} of the images is {given}; finite numbers are needed, one each", key=name)
            object.__setattr__(self, name, array)
        if (self.magnification == 0).any():
            raise CatalogError("an image has the magnification 0", key="magnification", fix="Leave it out")

    def __len__(self) -> int:
        return len(self.east)


@dataclass(frozen=True)
class Lens:
    """A singular isothermal ellipsoid, round or not, in an external shear.

    Convergence and deflection are those of Kormann, Schneider & Bartelmann (1994, A&A 284, 285), normalised so that the
    area inside the critical curve is pi theta_e**2 for every axis ratio.

    Parameters
    ----------
    theta_e : float
        Einstein radius, arcsec.
    q : float
        Axis ratio of the surface density; 1 is a singular isothermal sphere.
    pa : float
        Position angle of its major axis, degrees from North through East.
    shear : float
        External shear.
    shear_pa : float
        Direction in which it stretches images, degrees from North through East.
    z_lens, z_source : float, optional
        Redshifts, needed for delays.
    cosmology : astropy.cosmology.FLRW, optional
        By default that of Planck (2018).
    """

    theta_e: float
    q: float = 1.0
    pa: float = 0.0
    shear: float = 0.0
    shear_pa: float = 0.0
    z_lens: float | None = None
    z_source: float | None = None
    cosmology: Any = None

    def __post_init__(self) -> None:
        allowed = {
            "theta_e": 0 < self.theta_e < np.inf,
            "q": 0.05 <= self.q <= 1,
            "pa": np.isfinite(self.pa),
            "shear": 0 <= self.shear < 1,
            "shear_pa": np.isfinite(self.shear_pa),
        }
        for name, good in allowed.items():
            if not good:
                raise CatalogError(
                    f"{name} of the lens is {getattr(self, name)}",
                    key=name,
                    fix="Give a positive theta_e in arcsec, q in [0.05, 1], shear in [0, 1)",
                )
        if self.z_lens is not None and self.z_source is not None and not 0 < self.z_lens < self.z_source < np.inf:
            raise CatalogError(
                f"the lens is at redshift {self.z_lens} and the source at {self.z_source}",
                key="z_lens",
                fix="Give 0 < z_lens < z_source",
            )

    def deflection(self, east: ArrayLike, north: ArrayLike) -> tuple[Array, Array]:
        """Return the deflection at places in the image plane, to the East and North, arcsec; shear included.

        Parameters
        ----------
        east, north : array_like
            Offsets from the lens, arcsec.

        Returns
        -------
        east, north : ndarray
            Source positions are image positions less these.
        """
        x, y = np.asarray(east, dtype=np.float64), np.asarray(north, dtype=np.float64)
        along, across = self._turned(x, y)
        radius = np.hypot(along, across)
        safe = np.where(radius > 0, radius, 1.0)
        of_mass = self._turned(*self._isothermal(along / safe, across / safe))
        g1, g2 = self._shear_matrix()
        return of_mass[0] - g1 * x + g2 * y, of_mass[1] + g2 * x + g1 * y

    def images(self, east: float, north: float) -> LensedImages:
        """Find all images of a point source.

        The deflection of an isothermal lens depends on the direction only, so that the lens equation is one of a single
        angle; its roots are bracketed and refined to rounding.

        Parameters
        ----------
        east, north : float
            Position of the source from the lens, as seen without it, arcsec.

        Returns
        -------
        LensedImages
            Sorted by arrival; delays are 0 if the lens has no redshifts.

        Raises
        ------
        CatalogError
            If the source is on a caustic, where magnifications are infinite.
        """
        if not (np.isfinite(east) and np.isfinite(north)):
            raise CatalogError(f"the source is at ({east}, {north}) arcsec", key="east")
        angle = np.linspace(0.0, 2.0 * np.pi, _STEPS + 1)
        value = self._equation(angle, east, north)[0]
        value[-1] = value[0]  # an image exactly there is found once
        at = np.flatnonzero((value[:-1] < 0) != (value[1:] < 0))
        low, high = angle[at], angle[at + 1]
        rising = value[at] < 0
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = (self._equation(middle, east, north)[0] < 0) == rising
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        angle = 0.5 * (low + high)
        radius = self._equation(angle, east, north)[1]
        angle, radius = angle[radius > 0], radius[radius > 0]
        x, y = radius * np.sin(angle), radius * np.cos(angle)
        matrix = self._jacobian(x, y)
        determinant = np.linalg.det(matrix)
        if not len(x) or (np.abs(determinant) < 1e-9).any():
            raise CatalogError(
                f"a source at ({east}, {north}) arcsec is on a caustic of the lens, where it has no separate images",
                key="east",
                fix="Move the source a little",
            )
        arrival = self._arrival(x, y, east, north)
        order = np.argsort(arrival, kind="stable")
        size, vectors = np.linalg.eigh(matrix)
        stretched = np.argmin(np.abs(size), axis=1)
        rows = np.arange(len(x))
        small, large = np.abs(size[rows, stretched]), np.abs(size[rows, 1 - stretched])
        axis = vectors[rows, :, stretched]
        return LensedImages(
            x[order],
            y[order],
            1.0 / determinant[order],
            (arrival[order] - arrival[order[0]]) * self._days(),
            ((large - small) / (large + small))[order],
            (np.degrees(np.arctan2(axis[:, 0], axis[:, 1])) % 180.0)[order],
        )

    def _turned(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Turn (East, North) into (along, across) the major axis, or back: a reflection, its own inverse."""
        sine, cosine = np.sin(np.radians(self.pa)), np.cos(np.radians(self.pa))
        return first * sine + second * cosine, first * cosine - second * sine

    def _isothermal(self, along: Array, across: Array) -> tuple[Array, Array]:
        """Return the deflection in a direction, given by a unit vector along and across the major axis."""
        squared = 1.0 - self.q**2
        if squared < _ROUND:
            return self.theta_e * along, self.theta_e * across
        root = np.sqrt(squared)
        scale = self.theta_e * np.sqrt(self.q) / root
        return scale * np.arcsin(root * along), scale * np.arcsinh(root * across / self.q)

    def _shear_matrix(self) -> tuple[float, float]:
        """Return g1, g2 of the matrix ((-g1, g2), (g2, g1)) for (East, North)."""
        twice = 2.0 * np.radians(self.shear_pa)
        return self.shear * np.cos(twice), self.shear * np.sin(twice)

    def _equation(self, angle: Array, east: float, north: float) -> tuple[Array, Array]:
        """Return what is 0 at images in directions (radians from North to East), and their distances from the lens."""
        x, y = np.sin(angle), np.cos(angle)
        alpha = self._turned(*self._isothermal(*self._turned(x, y)))
        g1, g2 = self._shear_matrix()
        left = x + g1 * x - g2 * y, y - g2 * x - g1 * y
        right = east + alpha[0], north + alpha[1]
        value = left[0] * right[1] - left[1] * right[0]
        return value, (left[0] * right[0] + left[1] * right[1]) / (left[0] ** 2 + left[1] ** 2)

    def _jacobian(self, x: Array, y: Array) -> NDArray[np.float64]:
        """Return the derivatives of source by image positions (East, North), shape (N, 2, 2)."""
        along, across = self._turned(x, y)
        radius = np.hypot(x, y)
        q = self.q if 1.0 - self.q**2 >= _ROUND else 1.0
        kappa = self.theta_e * np.sqrt(q) / (2.0 * np.hypot(q * along, across))
        # The Hessian of a potential that grows in proportion to the radius: 2 kappa, across the direction only.
        normal = np.stack([y / radius, -x / radius], axis=-1)
        g1, g2 = self._shear_matrix()
        flat = np.array([[1.0 + g1, -g2], [-g2, 1.0 - g1]])
        return np.asarray(flat - 2.0 * kappa[:, None, None] * normal[:, :, None] * normal[:, None, :])

    def _arrival(self, x: Array, y: Array, east: float, north: float) -> Array:
        """Return Fermat's potential, square arcsec (Narayan & Bartelmann 1996, astro-ph/9606001, equation 62)."""
        radius = np.hypot(x, y)
        alpha = self._turned(*self._isothermal(*self._turned(x / radius, y / radius)))
        g1, g2 = self._shear_matrix()
        potential = x * alpha[0] + y * alpha[1] + 0.5 * (g1 * (y**2 - x**2) + 2.0 * g2 * x * y)
        return np.asarray(0.5 * ((x - east) ** 2 + (y - north) ** 2) - potential)

    def _days(self) -> float:
        """Return days of delay per square arcsec: (1 + z_lens) D_lens D_source / (c D_lens,source)."""
        if self.z_lens is None or self.z_source is None:
            return 0.0
        from astropy import constants
        from astropy.cosmology import Planck18

        cosmology = Planck18 if self.cosmology is None else self.cosmology
        near, far = (cosmology.comoving_transverse_distance(z) for z in (self.z_lens, self.z_source))
        # Hogg (1999, astro-ph/9905116), equation 19: from the lens to the source, in a space of any curvature.
        curved = cosmology.Ok0 / cosmology.hubble_distance**2
        between = far * np.sqrt(1.0 + curved * near**2) - near * np.sqrt(1.0 + curved * far**2)
        # The factors (1 + z) of angular diameter distances cancel but for that of the delay, which they make 1.
        time = near * far / between / constants.c
        return float(time.to_value(u.d)) * float(np.radians(1.0 / 3600.0)) ** 2

    def arc_stamp(
        self,
        path: str | os.PathLike[str],
        source: Mapping[str, Any],
        east: float,
        north: float,
        *,
        pixel: float = 0.03,
        half_size: float | None = None,
        oversampling: int = 4,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write a FITS stamp of the lensed image of a Sérsic galaxy, and return it as a member of a group.

        The surface brightness is that of the source at the place from which the light comes; North is up and East left.

        Parameters
        ----------
        path : path-like
            FITS file to write.
        source : mapping
            The galaxy without the lens: ``n``, ``half_light_radius`` (arcsec), ``q``, ``pa`` and ``mag_<band>``.
        east, north : float
            Its position from the lens, arcsec.
        pixel : float
            Size of the stamp's pixels, arcsec.
        half_size : float, optional
            Half the stamp's side, arcsec; by default as far as the galaxy's light matters.
        oversampling : int
            Points along each side of a pixel.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        dict
            Columns of a row for `lensed_system`: a Stamp, whose magnitudes are those of all its light.
        """
        from astropy.io import fits
        from scipy.special import gamma, gammaincinv

        path = Path(path).absolute()
        if path.exists() and not overwrite:
            raise OutputExistsError("the file is there already", path=path, fix="Choose another, or overwrite=True")
        n, size = float(source.get("n", 1.0)), float(source["half_light_radius"])
        q, pa = float(source.get("q", 1.0)), np.radians(float(source.get("pa", 0.0)))
        if half_size is None:
            half_size = 1.5 * self.theta_e / (1.0 - self.shear) + np.hypot(east, north) + 4.0 * size
        half = int(np.ceil(half_size / pixel))
        b = gammaincinv(2.0 * n, 0.5)
        centre = 1.0 / (
            2.0 * np.pi * n * b ** (-2.0 * n) * gamma(2.0 * n) * size**2
        )  # of a flux of 1, per square arcsec
        steps = (np.arange((2 * half + 1) * oversampling) + 0.5) / oversampling - half - 0.5
        light = np.empty((2 * half + 1, 2 * half + 1))
        for j in range(2 * half + 1):
            y, x = np.meshgrid(steps[j * oversampling : (j + 1) * oversampling] * pixel, -steps * pixel, indexing="ij")
            back = self.deflection(x, y)
            dx, dy = x - back[0] - east, y - back[1] - north
            along, across = dx * np.sin(pa) + dy * np.cos(pa), dx * np.cos(pa) - dy * np.sin(pa)
            radius = np.hypot(along * np.sqrt(q), across / np.sqrt(q)) / size
            bright = centre * np.exp(-b * radius ** (1.0 / n))
            light[j] = bright.reshape(oversampling, -1, oversampling).mean(axis=(0, 2)) * pixel**2
        header = fits.Header(
            {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 0.0, "CRVAL2": 0.0, "CRPIX1": half + 1.0,
             "CRPIX2": half + 1.0, "CD1_1": -pixel / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": pixel / 3600}
        )  # fmt: skip
        with atomic_path(path) as temporary:
            fits.PrimaryHDU(light.astype(np.float32), header).writeto(temporary, overwrite=True)
        brighter = 2.5 * np.log10(light.sum())
        row = {name: float(value) - brighter for name, value in source.items() if is_mag_column(name)}
        return {"source_type": "Stamp", "stamp": str(path), "stamp_alignment": "wcs", **row}


def lensed_system(
    images: LensedImages,
    *,
    source: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
    arc: Mapping[str, Any] | None = None,
    lens: Mapping[str, Any] | None = None,
) -> QTable:
    """Return a lensed source as the members of a group, for `skygraft.generation.groups.place_groups`.

    Parameters
    ----------
    images : LensedImages
        The images of the source.
    source : mapping, optional
        Columns of the point source as it is without the lens, such as ``light_curve``, ``light_curve_mjd`` or
        ``mag_<band>``: a Star at each image, with ``time_delay`` and ``magnification``, all of one ``object_id``.
    host : mapping, optional
        Columns of the galaxy around it, without the lens: at each image one that is magnified and sheared as a small
        source is. What spans a large part of the Einstein ring needs an `arc`.
    arc : mapping, optional
        Columns of the galaxy as it is seen, centred on the lens; see `Lens.arc_stamp`.
    lens : mapping, optional
        Columns of the lens galaxy.

    Returns
    -------
    QTable
        With ``offset_east``, ``offset_north`` and ``object_id``: 0 the lens, 1 the galaxy behind, 2 the point source.

    Raises
    ------
    CatalogError
        If there is nothing, or a column is none of a catalogue's.
    """
    rows: list[dict[str, Any]] = []
    if lens is not None:
        rows.append({**lens, "object_id": 0})
    if arc is not None:
        rows.append({**arc, "object_id": 1})
    for i in range(len(images)):
        place = {"offset_east": images.east[i], "offset_north": images.north[i]}
        bright = {"magnification": abs(images.magnification[i])}
        if host is not None:
            if images.shear is None or images.shear_pa is None:
                raise CatalogError("the images say nothing of the shear of the host", key="host", fix="Give an arc")
            pa = float(host.get("pa", 0.0))
            if images.magnification[i] < 0:  # mirrored along the direction of the shear
                pa = 2.0 * images.shear_pa[i] - pa
            shear = {"shear": images.shear[i], "shear_pa": images.shear_pa[i], "pa": pa}
            rows.append({**host, **place, **bright, **shear, "object_id": 1})
        if source is not None:
            kind = {"source_type": "Star", "time_delay": images.delay[i]}
            rows.append({**kind, **source, **place, **bright, "time_delay": images.delay[i], "object_id": 2})
    if not rows:
        raise CatalogError("the system has neither a source nor a host, an arc or a lens", fix="Give one of them")
    names = list(dict.fromkeys(name for row in rows for name in row))
    strange = [one for one in names if one not in COLUMNS and not is_mag_column(one) and not one.startswith("offset_")]
    if strange:
        raise CatalogError(f"{', '.join(strange)} are no columns of catalogues", key=strange[0])
    out = QTable()
    for name in names:
        spec = COLUMNS.get(name)
        default = spec.default if spec is not None else (0.0 if name.startswith("offset_") else np.nan)
        column = np.array([row.get(name, default) for row in rows])
        unit = "arcsec" if name.startswith("offset_") else unit_of(name)
        out[name] = column * u.Unit(unit) if unit else column
    return out
