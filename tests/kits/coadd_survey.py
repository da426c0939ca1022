"""A survey of a few visits and their coadd, made without skygraft's renderer and coadder: GalSim draws, numpy coadds.

Visits differ in dither, rotation, seeing, zeropoint and noise. The coadder is a plain Lanczos-3 in float64, by formula,
pixel by pixel; the coadd's PSF is what it makes of images of a star in each visit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.typing import NDArray
from photutils.aperture import CircularAperture, aperture_photometry

from skygraft.catalog import write_catalog
from skygraft.exposure import DataId, Exposure, make_planes
from skygraft.photometry import CalibrationAperture, CalibrationReference, PhotoCalib
from skygraft.psf import FixedKernelPSF
from skygraft.wcs import FitsWcs

type Array = NDArray[np.float64]

RA, DEC, SCALE, RADIUS = 150.0, 2.0, 0.2, 12.0
KERNEL = 61
PLANES = {"BAD": 0, "SAT": 1, "CR": 2, "NO_DATA": 3}


def tan_wcs(
    shape: tuple[int, int], *, angle: float = 0.0, offset: tuple[float, float] = (0.0, 0.0), scale=SCALE
) -> WCS:
    """Gnomonic, turned by degrees, its middle off by (x, y) pixels."""
    ny, nx = shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = RA, DEC
    wcs.wcs.crpix = (nx + 1) / 2 + offset[0], (ny + 1) / 2 + offset[1]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs


def star(fwhm: float, beta: float, x: float, y: float, n: int = KERNEL, scale: float = SCALE) -> Array:
    """Image of a star of unit flux, at (x, y) pixels from the middle of the image."""
    drawn = galsim.Moffat(beta=beta, fwhm=fwhm, flux=1.0).drawImage(nx=n, ny=n, scale=scale, offset=(x, y), dtype=float)
    return np.array(drawn.array)


def in_circle(kernel: Array, radius: float) -> float:
    middle = (kernel.shape[1] - 1) / 2
    return float(aperture_photometry(kernel, CircularAperture((middle, middle), radius))["aperture_sum"][0])


@dataclass
class Visit:
    """An image of stars, with what a survey knows of it."""

    wcs: WCS
    fwhm: float
    zeropoint: float
    sigma: float
    number: int
    beta: float = 3.0
    shape: tuple[int, int] = (200, 200)
    image: Array = field(default_factory=lambda: np.zeros((0, 0)))
    mask: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    radius: float = RADIUS
    stars: tuple[Array, Array, Array] = (np.zeros(0), np.zeros(0), np.zeros(0))

    @property
    def kernel(self) -> Array:
        return star(self.fwhm, self.beta, 0.0, 0.0)

    def draw(self, ra: Array, dec: Array, mag: Array, seed: int) -> None:
        """Draw stars with their magnitude inside the calibration radius, and noise."""
        self.stars = ra, dec, mag
        ny, nx = self.shape
        pixels = np.random.default_rng(seed).normal(0.0, self.sigma, self.shape)
        scale = 1 / in_circle(self.kernel, self.radius)
        half = 30
        for x, y, m in zip(*self.wcs.world_to_pixel_values(ra, dec), mag, strict=True):
            i, j = round(float(x)), round(float(y))
            if not (-half < i < nx + half and -half < j < ny + half):
                continue
            flux = 10 ** (0.4 * (self.zeropoint - m)) * scale
            stamp = flux * star(self.fwhm, self.beta, x - i, y - j, 2 * half + 1)
            rows, columns = slice(max(0, j - half), j + half + 1), slice(max(0, i - half), i + half + 1)
            part = pixels[rows, columns]
            first = max(0, half - j), max(0, half - i)
            part += stamp[first[0] : first[0] + part.shape[0], first[1] : first[1] + part.shape[1]]
        self.image, self.mask = pixels, np.zeros(self.shape, np.int32)

    def exposure(self, reference: CalibrationReference | None = None, variance: bool = True) -> Exposure:
        return make(
            self.image,
            self.sigma**2 if variance else None,
            self.mask,
            self.wcs,
            self.kernel,
            self.zeropoint,
            DataId(instrument="testcam", visit=self.number, detector=1, band="r"),
            reference or CalibrationAperture(self.radius),
        )


def make(image, variance, mask, wcs, kernel, zeropoint, data_id, reference) -> Exposure:
    planes = make_planes(
        image.astype(np.float32),
        None if variance is None else np.broadcast_to(np.float32(variance), image.shape).copy(),
        mask,
        mask_planes=PLANES,
    )
    calib = PhotoCalib.from_zeropoint(zeropoint, reference=reference, reference_origin="test")
    return Exposure(
        planes, FitsWcs(wcs.to_header()), FixedKernelPSF(kernel), calib, data_id, gain=1.0, gain_origin="test"
    )


def lanczos(t: Array) -> Array:
    return np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)


def warp(image: Array, bad: NDArray[np.bool_], own: WCS, target: WCS, shape: tuple[int, int]):
    """Lanczos-3 of an image on the pixels of another, times the area of its pixels; and what is seen."""
    ny, nx = image.shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)

    def place(px, py):
        return np.array(own.world_to_pixel_values(*target.pixel_to_world_values(px, py)))

    u, v = place(x, y)
    ux, uy = place(x + 0.5, y) - place(x - 0.5, y), place(x, y + 0.5) - place(x, y - 0.5)
    area = np.abs(ux[0] * uy[1] - ux[1] * uy[0])
    left, low = np.floor(u).astype(int), np.floor(v).astype(int)
    taps = np.arange(-2, 4)
    wx, wy = lanczos(u[..., None] - left[..., None] - taps), lanczos(v[..., None] - low[..., None] - taps)
    wx, wy = wx / wx.sum(axis=-1, keepdims=True), wy / wy.sum(axis=-1, keepdims=True)
    columns, lines = left[..., None] + taps, low[..., None] + taps
    whole = ((columns >= 0) & (columns < nx)).all(axis=-1) & ((lines >= 0) & (lines < ny)).all(axis=-1)
    values = image[np.clip(lines, 0, ny - 1)[..., :, None], np.clip(columns, 0, nx - 1)[..., None, :]]
    out = area * np.einsum("yxj,yxi,yxji->yx", wy, wx, values)
    near = bad[np.clip(lines, 0, ny - 1)[..., 2:4, None], np.clip(columns, 0, nx - 1)[..., None, 2:4]].any(
        axis=(-1, -2)
    )
    return np.where(whole, out, 0.0), whole & ~near


@dataclass
class Coadd:
    wcs: WCS
    zeropoint: float
    image: Array
    kernel: Array
    variance: float
    mask: NDArray[np.int32]

    def exposure(self, reference: CalibrationReference | None = None, **changes) -> Exposure:
        made = replace(self, **changes) if changes else self
        return make(
            made.image, made.variance, made.mask, made.wcs, made.kernel, made.zeropoint,
            DataId(tract=1, patch=2, band="r"), reference or CalibrationAperture(RADIUS),
        )  # fmt: skip


def coadd(visits: list[Visit], shape: tuple[int, int] = (160, 160), zeropoint: float = 27.0) -> Coadd:
    """Coadd visits with inverse-variance weights, without masked pixels; and the PSF in its middle in the same way."""
    target = tan_wcs(shape, offset=(3.0, -2.0))
    total, weights, kernels = np.zeros(shape), np.zeros(shape), np.zeros((KERNEL, KERNEL))
    middle = np.array([shape[1] // 2, shape[0] // 2])
    sky = target.pixel_to_world_values(*middle)
    around = target.deepcopy()
    around.wcs.crpix = target.wcs.crpix - middle + KERNEL // 2
    for visit in visits:
        scale = 10 ** (0.4 * (zeropoint - visit.zeropoint))
        weight = 1 / (visit.sigma * scale) ** 2
        bad = visit.mask != 0
        values, seen = warp(visit.image, bad, visit.wcs, target, shape)
        total += np.where(seen, weight * scale * values, 0.0)
        weights += weight * seen
        x, y = visit.wcs.world_to_pixel_values(*sky)
        i, j = round(float(x)), round(float(y))
        own, n = visit.wcs.deepcopy(), 2 * KERNEL + 1
        own.wcs.crpix = visit.wcs.wcs.crpix - (i, j) + n // 2
        light = star(visit.fwhm, visit.beta, x - i, y - j, n) / in_circle(visit.kernel, visit.radius)
        kernels += weight * warp(light, np.zeros((n, n), bool), own, around, (KERNEL, KERNEL))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.where(weights > 0, total / weights, 0.0)
    mask = np.where(weights > 0, 0, 1 << PLANES["NO_DATA"]).astype(np.int32)
    return Coadd(target, zeropoint, image, kernels / kernels.sum(), float(1 / weights.max()), mask)


def four_visits(seed: int = 1, n_stars: int = 60) -> list[Visit]:
    """Visits of the same stars: dithered, turned, in seeing of 0.75 to 1.0 arcsec."""
    rng = np.random.default_rng(seed)
    ra = RA + rng.uniform(-24, 24, n_stars) / 3600
    dec = DEC + rng.uniform(-24, 24, n_stars) / 3600
    mag = rng.uniform(18.0, 22.0, n_stars)
    shape = (240, 240)
    visits = [
        Visit(tan_wcs(shape, angle=0.0, offset=(0.3, 0.2)), 0.75, 27.0, 3.0, 101, shape=shape),
        Visit(tan_wcs(shape, angle=35.0, offset=(-4.7, 6.1)), 0.85, 26.8, 3.0, 102, shape=shape),
        Visit(tan_wcs(shape, angle=90.0, offset=(2.4, -3.3)), 1.0, 27.3, 4.0, 103, shape=shape),
        Visit(tan_wcs(shape, angle=-12.0, offset=(5.5, 1.5)), 0.9, 27.1, 3.5, 104, shape=shape),
    ]
    for k, visit in enumerate(visits):
        visit.draw(ra, dec, mag, 10 * seed + k)
    return visits


def fakes(n: int = 16, seed: int = 7, kind: str = "Star") -> QTable:
    """Sources on a jittered grid in the middle of the coadd, far enough apart to be isolated."""
    rng = np.random.default_rng(seed)
    side = round(n**0.5)
    at = (np.arange(side) - (side - 1) / 2) * 22.0 / side
    x, y = (one.ravel() + rng.uniform(-0.5, 0.5, n) for one in np.meshgrid(at, at))
    table = QTable(
        {
            "injection_id": np.arange(n) + 5,
            "ra": RA + x / 3600,
            "dec": DEC + y / 3600,
            "source_type": np.full(n, kind),
            "mag_r": rng.uniform(19, 23, n),
        }
    )
    if kind == "Sersic":
        table["half_light_radius"], table["n"], table["q"] = 0.4, 1.0, 0.7
        table["beta"] = rng.uniform(0, 180, n)
    return table


def write_fits(path: Path, image: Array, sigma: float, wcs: WCS, mask: NDArray[np.int32], **cards) -> Path:
    """Write an image with its variance and mask, and these cards."""
    header = wcs.to_header()
    header.update({"CALAPRAD": RADIUS, "GAIN": 1.0, "FILTER": "r", **cards})
    variance = fits.ImageHDU(np.full(image.shape, sigma**2, np.float32), name="VARIANCE")
    planes = fits.ImageHDU(mask, fits.Header({f"HIERARCH MP_{name}": bit for name, bit in PLANES.items()}), name="MASK")
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(image.astype(np.float32), header), variance, planes]).writeto(path)
    return path


def write_survey(folder: Path) -> None:
    """Write four visits of one seeing (0.9 arcsec, a Moffat of beta 3), their coadd, and a catalogue."""
    visits = four_visits()
    for visit in visits:
        visit.fwhm = 0.9
        visit.draw(*visit.stars, seed=visit.number)
        cards = {"MAGZERO": visit.zeropoint, "EXPNUM": visit.number, "CCDNUM": 1, "INSTRUME": "testcam"}
        write_fits(
            folder / f"visits/visit-{visit.number}.fits", visit.image, visit.sigma, visit.wcs, visit.mask, **cards
        )
    made = coadd(visits)
    cards = {"MAGZERO": made.zeropoint}
    write_fits(folder / "coadd.fits", made.image, made.variance**0.5, made.wcs, made.mask, **cards)
    write_catalog(fakes(), folder / "fakes.parquet")
