"""The demo's sky and telescope: stars and galaxies, and the geometry and conditions of each visit, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

__all__ = [
    "APERTURE_RADIUS",
    "CENTER",
    "PIXEL_SCALE",
    "Detector",
    "Sky",
    "SurveySpec",
    "Visit",
    "make_sky",
    "make_visits",
]

CENTER = (150.1163, 2.2058)
"""Centre of the demo's tract: RA and Dec in degrees."""

PIXEL_SCALE = 0.2
"""Arcsec per pixel at the boresight."""

APERTURE_RADIUS = 12.0
"""Radius in pixels of the aperture that the demo's survey calibrates to."""

SERSIC_INDICES = (0.8, 1.0, 1.5, 2.5, 4.0)
INSTRUMENT = "DemoCam"
EXPOSURE_TIME = 120.0
GAP = 100  # pixels between the two detectors
# Barrel distortion as r -> r (1 + k r^2), r in pixels: 1 pixel at 1200.
DISTORTION = 5e-10
# Zeropoint of a perfect, spatially uniform detector, and sky brightness, per band.
ZEROPOINTS = {"g": 30.05, "r": 30.1, "i": 29.9, "z": 29.5}
SKY_MAGNITUDES = {"g": 22.0, "r": 21.0, "i": 20.3, "z": 19.4}


@dataclass(frozen=True)
class SurveySpec:
    """Parameters of the survey.

    Parameters
    ----------
    seed : int
        Seed of everything random.
    bands : sequence of str
        Some of "g", "r", "i", "z".
    visits_per_band : int
        Number of dithered visits, each with its own rotator angle.
    detector_size : int
        Rows and columns of each of the two detectors of a visit, pixels.
    patch_size : int
        Side of a patch, pixels; the tract has 2 x 2 patches.
    star_density : float
        Stars per square arcminute. A small detector needs a higher density, to have enough stars for its calibration.
    """

    seed: int = 1
    bands: Sequence[str] = ("g", "r")
    visits_per_band: int = 2
    detector_size: int = 1024
    patch_size: int = 1000
    star_density: float = 16.0

    @property
    def skymap(self) -> dict[str, Any]:
        """Sky map of one tract of 2 x 2 patches, for `skygraft.skymap.get_skymap`."""
        tract = {
            "ra": CENTER[0], "dec": CENTER[1], "pixel_scale": PIXEL_SCALE,
            "size": 2 * self.patch_size, "patches": [2, 2], "border": 50,
        }  # fmt: skip
        return {"kind": "explicit", "tracts": [tract]}


@dataclass(frozen=True)
class Sky:
    """Stars and galaxies; all arrays have one element per object.

    ``mags`` contains the AB magnitudes by band; ``half_light_radius`` (arcsec, circularised), ``n``, ``q`` and ``pa``
    (degrees, North through East) apply to galaxies only (``is_star`` is false).
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    is_star: NDArray[np.bool_]
    mags: dict[str, NDArray[np.float64]]
    half_light_radius: NDArray[np.float64]
    n: NDArray[np.float64]
    q: NDArray[np.float64]
    pa: NDArray[np.float64]


@dataclass(frozen=True)
class Visit:
    """One pointing: time, position, band and observing conditions."""

    number: int
    band: str
    ra: float
    dec: float
    rotation: float
    mjd: float
    seeing: float
    zeropoint: float
    sky: float
    psf_terms: tuple[float, ...]
    throughput_terms: tuple[float, ...]

    def cards(self, detector: int) -> dict[str, Any]:
        """Return primary header cards like those of an observatory."""
        time = Time(self.mjd, format="mjd", scale="tai")
        return {
            "EXPTIME": EXPOSURE_TIME, "DARKTIME": EXPOSURE_TIME + 1.5,
            "DATE-AVG": time.isot, "TIMESYS": "TAI", "MJD-AVG-UT1": float(time.utc.mjd),
            "BORE-RA": self.ra, "BORE-DEC": self.dec, "BORE-AIRMASS": 1.2, "BORE-ROTANG": self.rotation,
            "ROTTYPE": "SKY", "INSTRUMENT": INSTRUMENT, "IDNUM": self.number, "OBSTYPE": "science",
            "OBJECT": "demo field", "HAS-SIMULATED-CONTENT": False, "EXPID": self.number * 10 + detector,
            "DETNAME": f"S{detector:02d}", "DETSER": f"demo-{detector:02d}",
        }  # fmt: skip


@dataclass(frozen=True)
class Detector:
    """One detector of one visit: its geometry, PSF and throughput.

    Detector 1 is mirrored relative to detector 0, as occurs in real cameras.
    """

    visit: Visit
    number: int
    size: int

    @property
    def parity(self) -> int:
        """-1 if the columns run backwards across the focal plane, otherwise 1."""
        return -1 if self.number == 1 else 1

    @property
    def _center_x(self) -> float:
        return (self.number - 0.5) * (self.size + GAP)

    def focal(self, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert 0-based pixels to focal plane coordinates, about -1..1 over the two detectors."""
        half = (self.size - 1) / 2
        u = self.parity * (np.asarray(x, dtype=float) - half) + self._center_x
        v = np.asarray(y, dtype=float) - half
        return u / self.size, v / self.size

    @cached_property
    def header(self) -> fits.Header:
        """Return the header of the TAN-SIP WCS."""
        half = (self.size - 1) / 2
        turn = np.deg2rad(self.visit.rotation)
        rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        # x of the unrotated camera points West; that of a mirrored detector East.
        cd = PIXEL_SCALE / 3600 * rotate @ np.diag([-1.0, 1.0]) @ np.diag([self.parity, 1.0])
        header = fits.Header()
        header["WCSAXES"] = 2
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
        header["CRPIX1"], header["CRPIX2"] = half - self.parity * self._center_x + 1, half + 1
        header["CRVAL1"], header["CRVAL2"] = self.visit.ra, self.visit.dec
        header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
        for i in (0, 1):
            for j in (0, 1):
                header[f"CD{i + 1}_{j + 1}"] = float(cd[i, j])
        header["RADESYS"] = "ICRS"
        for axis, terms in (("A", ("3_0", "1_2")), ("B", ("0_3", "2_1"))):
            header[f"{axis}_ORDER"] = 3
            for term in terms:
                header[f"{axis}_{term}"] = DISTORTION
        return header

    @cached_property
    def wcs(self) -> WCS:
        """The WCS as an astropy object (wcslib)."""
        return WCS(self.header)

    def jacobian(self, x: float, y: float) -> NDArray[np.float64]:
        """Return the Jacobian at a position, arcsec per pixel: rows (East, North), columns (x, y)."""
        corners = [[x - 0.5, y], [x + 0.5, y], [x, y - 0.5], [x, y + 0.5]]
        ra, dec = self.wcs.all_pix2world(corners, 0).T
        east = (ra - ra[0] + 180) % 360 - 180
        d_east = np.array([east[1] - east[0], east[3] - east[2]]) * np.cos(np.deg2rad(dec.mean()))
        d_north = np.array([dec[1] - dec[0], dec[3] - dec[2]])
        return 3600 * np.array([d_east, d_north])

    def psf_parameters(self, x: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return FWHM (pixels) and the two shear components (pixel frame) of the PSF at positions."""
        u, v = self.focal(x, y)
        t = self.visit.psf_terms
        fwhm = self.visit.seeing / PIXEL_SCALE * (1 + 0.04 * (u * u + v * v) + t[0] * u + t[1] * v)
        g1 = t[2] + 0.025 * (u * u - v * v) + t[3] * u
        g2 = t[4] + 0.05 * u * v + t[5] * v
        return fwhm, g1, self.parity * g2

    def throughput(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Return the throughput at positions; it varies by a few per cent, like flat-field errors."""
        u, v = self.focal(x, y)
        t = self.visit.throughput_terms
        return np.asarray(1 + t[0] * u + t[1] * v - 0.02 * (u * u + v * v) + t[2] * u * v)


def make_sky(spec: SurveySpec) -> Sky:
    """Generate stars and galaxies over slightly more than the tract, at the density of a high-latitude field."""
    rng = np.random.default_rng([spec.seed, 1])
    side = (2 * spec.patch_size + 1.2 * spec.detector_size) * PIXEL_SCALE / 3600
    arcmin2 = (side * 60) ** 2
    n_stars, n_galaxies = rng.poisson(spec.star_density * arcmin2), rng.poisson(14 * arcmin2)
    n = n_stars + n_galaxies
    is_star = np.arange(n) < n_stars
    dec = CENTER[1] + side * (rng.random(n) - 0.5)
    ra = CENTER[0] + side * (rng.random(n) - 0.5) / np.cos(np.deg2rad(CENTER[1]))
    r = np.where(is_star, _counts(rng, n, 15.0, 23.5, 0.15), _counts(rng, n, 17.0, 24.5, 0.35))
    red = np.where(is_star, rng.choice([0.45, 1.35], n, p=[0.6, 0.4]) + 0.1 * rng.standard_normal(n),
                   0.65 + 0.25 * rng.standard_normal(n))  # fmt: skip
    mags = {"g": r + red, "r": r, "i": r - 0.45 * red, "z": r - 0.75 * red}
    size = 0.75 * 10 ** (-0.11 * (r - 21)) * np.exp(0.35 * rng.standard_normal(n))
    return Sky(
        ra=ra,
        dec=dec,
        is_star=is_star,
        mags={band: mags[band] for band in spec.bands},
        half_light_radius=np.clip(size, 0.12, 4.0),
        n=rng.choice(SERSIC_INDICES, n, p=[0.2, 0.35, 0.2, 0.1, 0.15]),
        q=rng.uniform(0.25, 1.0, n),
        pa=rng.uniform(0, 180, n),
    )


def _counts(rng: np.random.Generator, n: int, bright: float, faint: float, slope: float) -> NDArray[np.float64]:
    """Draw magnitudes with number counts proportional to 10**(slope m)."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.asarray(np.log10(low + (high - low) * rng.random(n)) / slope)


def make_visits(spec: SurveySpec) -> list[Visit]:
    """Return the dithered visits of all bands."""
    rng = np.random.default_rng([spec.seed, 2])
    visits = []
    reach = 0.3 * spec.patch_size * PIXEL_SCALE / 3600
    for b, band in enumerate(spec.bands):
        for i in range(spec.visits_per_band):
            zeropoint = ZEROPOINTS[band] + 0.05 * rng.standard_normal()
            sky_magnitude = SKY_MAGNITUDES[band] + 0.1 * rng.standard_normal()
            offset = rng.uniform(-reach, reach, 2)
            visits.append(
                Visit(
                    number=1000 * (b + 1) + 2 * i + 2,
                    band=band,
                    ra=float(CENTER[0] + offset[0] / np.cos(np.deg2rad(CENTER[1]))),
                    dec=float(CENTER[1] + offset[1]),
                    rotation=float(rng.uniform(0, 360)),
                    mjd=60400.25 + 30 * b + 0.9 * i,
                    seeing=float(np.clip(rng.lognormal(np.log(0.85), 0.15), 0.65, 1.2)),
                    zeropoint=float(zeropoint),
                    sky=float(10 ** (-0.4 * (sky_magnitude - zeropoint)) * PIXEL_SCALE**2),
                    psf_terms=tuple(float(t) for t in 0.015 * rng.standard_normal(6)),
                    throughput_terms=tuple(float(t) for t in 0.012 * rng.standard_normal(3)),
                )
            )
    return visits
