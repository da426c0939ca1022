"""Shapes on the sky against calculations that share no code with the injector: Hankel transforms, spherical offsets."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import gamma, gammainc, gammaincinv, j0

from skygraft.exposure import Exposure
from skygraft.injection import inject
from skygraft.psf import GaussianPSF
from skygraft.testing import make_exposure

ZEROPOINT = 27.0


def one(exposure: Exposure, x: float, y: float, source_type: str, **columns: float) -> np.ndarray:
    """What a source of unit flux at (x, y) adds, with a PSF that sums to one."""
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    row = {"injection_id": 1, "ra": float(ra), "dec": float(dec), "source_type": source_type, "mag_r": ZEROPOINT}
    catalog = Table({name: [value] for name, value in (row | columns).items()})
    out = inject(exposure, catalog, noise=False, flux_mode="psf_sum", flux_tolerance=1e-4)
    return out.exposure.image.astype(float)


def tangent_plane(exposure: Exposure, x: float, y: float) -> np.ndarray:
    """Arcsec per pixel: rows (East, North), columns (x, y), by spherical offsets."""
    here = SkyCoord(*exposure.wcs.pixel_to_world_values(x, y), unit="deg")
    columns = []
    for dx, dy in ((0.5, 0.0), (0.0, 0.5)):
        ends = [SkyCoord(*exposure.wcs.pixel_to_world_values(x + s * dx, y + s * dy), unit="deg") for s in (1, -1)]
        east, north = ([float(v.arcsec) for v in here.spherical_offsets_to(end)] for end in ends)
        columns.append([east[0] - north[0], east[1] - north[1]])
    return np.array(columns).T


def sersic_transform(k: np.ndarray, n: float, trunc: float) -> np.ndarray:
    """Hankel transform of a Sersic profile of flux 1 and half-light radius 1, which ends at `trunc` (0: nowhere)."""
    b = gammaincinv(2 * n, 0.5)
    if trunc:
        b = brentq(lambda v: gammainc(2 * n, v) - 0.5 * gammainc(2 * n, v * trunc ** (1 / n)), 1e-6, b)
    top = b * trunc ** (1 / n) if trunc else gammaincinv(2 * n, 1 - 1e-8)
    edges, end = [0.0, 1e-5], (top / b) ** n
    while edges[-1] < end:
        edges.append(min(edges[-1] * 1.25, edges[-1] + 12 / k.max(), end))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(edges) / 2, (np.array(edges[1:]) + edges[:-1]) / 2
    r = (half[:, None] * nodes + middle[:, None]).ravel()
    t = b * r ** (1 / n)
    light = (half[:, None] * weights).ravel() * np.exp(-t) * t ** (2 * n) / (gamma(2 * n) * n * r)
    r, light = r[light > 1e-12], light[light > 1e-12] / gammainc(2 * n, top)
    return np.array([(j0(v * r) * light).sum() for v in k])


@pytest.mark.parametrize(
    ("n", "radius", "q", "pa", "trunc"),
    [
        (0.5, 1.0, 0.5, 30.0, 0.0),
        (1.0, 0.6, 0.1, 70.0, 0.0),
        (2.5, 0.3, 0.6, 130.0, 0.0),
        (4.0, 0.8, 0.5, 20.0, 2.5),
        (0.3, 3.0, 0.7, 110.0, 4.3),
        (1.0, 1.5, 1.0, 0.0, 4.5),
        (0.5, 1.2, 0.1, 50.0, 1.71),
        (6.0, 0.5, 0.4, 160.0, 5.0),
        (1.0, 0.6, 0.5, 0.0, 9.0),
    ],
)
def test_a_sersic_galaxy_is_its_hankel_transform(n: float, radius: float, q: float, pa: float, trunc: float) -> None:
    size, x, y = 301, 150.37, 149.81
    exposure = make_exposure((size, size), rotation=25.0, mirrored=n > 1)
    image = one(exposure, x, y, "Sersic", n=n, half_light_radius=radius, q=q, pa=pa, trunc=trunc or np.nan)
    length, margin = 605, 152
    freq = 2 * np.pi * np.fft.fftfreq(length)
    kx, ky = np.meshgrid(freq, freq)
    inverse = np.linalg.inv(tangent_plane(exposure, x, y))
    east, north = inverse[0, 0] * kx + inverse[1, 0] * ky, inverse[0, 1] * kx + inverse[1, 1] * ky
    p = np.radians(pa)
    along, across = east * np.sin(p) + north * np.cos(p), east * np.cos(p) - north * np.sin(p)
    k = np.hypot(along * radius / np.sqrt(q), across * radius * np.sqrt(q))
    grid = np.concatenate([np.linspace(0, 1, 60), np.geomspace(1.02, 1.01 * k.max(), 500)])
    transform = CubicSpline(grid, sersic_transform(grid, n, trunc / radius))(k)
    kernel = exposure.psf.kernels([x], [y])[0]
    rows, columns = kernel.shape
    padded = np.zeros((length, length))
    padded[:rows, :columns] = kernel / kernel.sum()
    padded = np.roll(padded, (-(rows // 2), -(columns // 2)), (0, 1))
    phase = np.exp(-1j * (kx * (x + margin) + ky * (y + margin)))
    expected = np.fft.ifft2(np.fft.fft2(padded) * transform * phase).real[margin:-margin, margin:-margin]
    assert np.abs(image - expected).max() < 2e-4 * expected.max()
    yy, xx = np.mgrid[:size, :size]
    for r in (4, 8, 16, 32, 64):
        inside = np.hypot(xx - x, yy - y) < r
        assert image[inside].sum() == pytest.approx(expected[inside].sum(), abs=3e-4)


@pytest.mark.parametrize("center", [(150.0, 85.0), (0.0, 2.0), (359.9999, -89.9)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_position_angles_hold_near_the_poles_and_across_right_ascension_zero(
    center: tuple[float, float], mirrored: bool
) -> None:
    """Stars along a position angle lie on the axis of a galaxy of that angle; so does a trail, which is their sum."""
    size, x, y, pa = 201, 95.3, 108.6, 125.0
    psf = GaussianPSF(fwhm=2.4, shape=(31, 31))
    exposure = make_exposure((size, size), center=center, rotation=33.0, mirrored=mirrored, psf=psf)
    here = SkyCoord(*exposure.wcs.pixel_to_world_values(x, y), unit="deg")
    galaxy = one(exposure, x, y, "Gaussian", half_light_radius=1.2, q=0.3, pa=pa)
    yy, xx = np.mgrid[:size, :size]
    cx, cy = (galaxy * xx).sum() / galaxy.sum(), (galaxy * yy).sum() / galaxy.sum()
    assert (cx, cy) == (pytest.approx(x, abs=1e-3), pytest.approx(y, abs=1e-3))
    near = np.hypot(xx - x, yy - y) < 40
    dx, dy = (xx - cx)[near], (yy - cy)[near]
    light = galaxy[near]
    measured = 0.5 * np.arctan2(2 * (light * dx * dy).sum(), (light * (dx**2 - dy**2)).sum())
    end = here.directional_offset_by(pa * u.deg, 2 * u.arcsec)
    ex, ey = (float(v) for v in exposure.wcs.world_to_pixel_values(end.ra.deg, end.dec.deg))
    assert np.abs(np.sin(measured - np.arctan2(ey - y, ex - x))) < 1e-3

    trail = one(exposure, x, y, "Trail", trail_length=6.0, trail_pa=pa)
    steps = (np.arange(241) + 0.5) / 241 - 0.5
    points = here.directional_offset_by(pa * u.deg, 6.0 * steps * u.arcsec)
    stars = Table(
        {
            "injection_id": np.arange(241),
            "ra": points.ra.deg,
            "dec": points.dec.deg,
            "source_type": ["Star"] * 241,
            "mag_r": np.full(241, ZEROPOINT + 2.5 * np.log10(241)),
        }
    )
    drawn = inject(exposure, stars, noise=False, flux_mode="psf_sum").exposure.image.astype(float)
    assert trail.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(trail - drawn).max() < 5e-4 * drawn.max()
