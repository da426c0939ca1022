"""Detections of any catalogue in common terms, and what reading them needs to know of the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.exposure import Exposure
from skygraft.wcs.base import to_vectors

__all__ = ["DetectedFlux", "Detections", "ImageContext"]

Array = NDArray[np.float64]

_MARGIN = 5.0
"""How far outside of the image a detection may lie, arcsec: half of a source at the edge is detected further in."""


@dataclass(frozen=True)
class DetectedFlux:
    """One kind of flux, as the catalogue has it.

    Parameters
    ----------
    value, error : ndarray, shape (N,)
        Fluxes or magnitudes, and their errors.
    unit : {"image", "nJy", "mag"}
        Units of the image, nanojansky, or AB magnitudes.
    column : str
        Where it comes from.
    zeropoint : float, optional
        AB magnitude of one image unit, where it is not the image's.
    """

    value: Array
    error: Array
    unit: Literal["image", "nJy", "mag"]
    column: str
    zeropoint: float | None = None

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the flux of some rows."""
        return dataclasses.replace(self, value=self.value[rows], error=self.error[rows])


@dataclass(frozen=True)
class Detections:
    """Detections of one image.

    Parameters
    ----------
    path : Path
        The catalogue.
    kind : str
        What made it.
    id : ndarray of int, shape (N,)
        Number of the detection: the catalogue's, or that of its row.
    ra, dec : ndarray, shape (N,)
        Degrees, ICRS.
    fluxes : mapping of str to DetectedFlux
        By kind: ``cal``, ``kron``, ``psf``, ``model``, ``ap_<pixels>``.
    class_star, flags : ndarray, shape (N,)
        Star classifier from 0 to 1, and flags; NaN and 0 where there are none.
    size, fwhm : ndarray, shape (N,)
        Half-light radius and full width at half maximum, arcsec; NaN where there is none.
    axis_ratio, position_angle : ndarray, shape (N,)
        Of the shape on the sky, degrees from north through east; NaN where there is none.
    counts : mapping of str to int
        Rows that were read, and rows left out, by reason.
    """

    path: Path
    kind: str
    id: NDArray[np.int64]
    fluxes: Mapping[str, DetectedFlux]
    class_star: Array
    flags: NDArray[np.int64]
    size: Array
    fwhm: Array
    axis_ratio: Array
    position_angle: Array
    ra: Array = field(default_factory=lambda: np.empty(0))
    dec: Array = field(default_factory=lambda: np.empty(0))
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def at(self, ra: Array, dec: Array) -> Self:
        """Return the detections at these positions."""
        return dataclasses.replace(self, ra=ra, dec=dec)

    def counted(self, counts: Mapping[str, int]) -> Self:
        """Return the detections with these counts, without those that are 0."""
        return dataclasses.replace(self, counts={k: n for k, n in counts.items() if n or k == "rows"})

    def take(self, rows: NDArray[Any]) -> Self:
        """Return some of the detections."""
        arrays = {
            one.name: value[rows]
            for one in dataclasses.fields(self)
            if isinstance(value := getattr(self, one.name), np.ndarray)
        }
        return dataclasses.replace(self, fluxes={k: f.take(rows) for k, f in self.fluxes.items()}, **arrays)


@dataclass(frozen=True)
class ImageContext:
    """What reading a catalogue needs to know of its image."""

    image_id: str
    exposure: Exposure
    band: str
    visit: int | None
    detector: str | None
    radius: float | None
    """Calibration radius, pixels; None where the calibration refers to no aperture."""
    reference: str
    """Kind of the calibration reference: aperture, psf_model, total."""
    radii: tuple[float, ...] = ()
    """Radii of further apertures that are wanted, pixels."""

    @classmethod
    def of(cls, pair: ImagePair, radii: Sequence[float] = ()) -> Self:
        """Return that of a pair of images."""
        calibration = pair.record.get("calibration") or {}
        image = pair.image
        return cls(
            image_id=image.image_id,
            exposure=pair.after,
            band=image.band or pair.record.get("band") or "",
            visit=image.visit,
            detector=image.detector,
            radius=calibration.get("radius_pixels"),
            reference=calibration.get("kind") or "",
            radii=tuple(radii),
        )

    def is_wanted(self, radius: float) -> bool:
        """True for the calibration radius, and those that are wanted."""
        radii = (*self.radii, *((self.radius,) if self.radius else ()))
        return any(abs(radius / one - 1.0) < 0.02 for one in radii)

    @property
    def wcs(self) -> BaseLowLevelWCS:
        """Parent pixels to ICRS degrees."""
        return self.exposure.wcs

    def to_sky(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Convert pixels of the array (the first one's centre is 0) to ICRS degrees."""
        x0, y0 = self.exposure.xy0
        ra, dec = self.wcs.pixel_to_world_values(x + x0, y + y0)
        return np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)

    def pixels(self, ra: Array, dec: Array) -> tuple[Array, Array]:
        """Convert ICRS degrees to parent pixels; NaN where they cannot be on the image."""
        x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
        # A projection gives pixels to some positions on the other side of the sky.
        close = self._apart(ra, dec) <= self._reach
        if close.any():
            x[close], y[close] = self.wcs.world_to_pixel_values(ra[close], dec[close])
        return x, y

    def near(self, ra: Array, dec: Array) -> NDArray[np.bool_]:
        """Find the positions on the image, or a few arcsec from it."""
        x, y = self.pixels(ra, dec)
        box, (_, _, scale) = self.exposure.box, self._centre
        margin = _MARGIN / scale
        inside: NDArray[np.bool_] = (x >= box.x_min - margin) & (x <= box.x_max + margin)
        return inside & (y >= box.y_min - margin) & (y <= box.y_max + margin)

    def distance(self, ra: Array, dec: Array) -> float:
        """Return the distance of the nearest position to the image's centre, degrees."""
        return float(np.nanmin(self._apart(ra, dec)))

    def _apart(self, ra: Array, dec: Array) -> Array:
        lon, lat, _ = self._centre
        with np.errstate(invalid="ignore"):
            chord = np.linalg.norm(to_vectors(ra, dec) - to_vectors(lon, lat), axis=-1)
            return np.asarray(np.degrees(2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))))

    @property
    def _centre(self) -> tuple[float, float, float]:
        """Centre of the image in degrees, and the pixel scale there in arcsec."""
        from skygraft.wcs.local import pixel_scale

        box = self.exposure.box
        x, y = (box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2
        ra, dec = self.wcs.pixel_to_world_values(x, y)
        return float(ra), float(dec), float(pixel_scale(self.wcs, x, y)[0])

    @property
    def _reach(self) -> float:
        """Radius of a circle about the centre that holds the image, degrees."""
        box = self.exposure.box
        xs = np.array([box.x_min, box.x_min, box.x_max, box.x_max])
        ys = np.array([box.y_min, box.y_max, box.y_min, box.y_max])
        ra, dec = self.wcs.pixel_to_world_values(xs, ys)
        return float(np.max(self._apart(np.asarray(ra), np.asarray(dec)))) * 1.2 + 2 * _MARGIN / 3600.0
