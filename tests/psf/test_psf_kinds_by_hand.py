"""Stars of each kind of PSF that `psf=` takes, drawn at random phases: against other packages, or evaluated by hand.

By hand is in double precision, from the numbers of the file and the documented formula. A kernel known on pixels is
moved by the phases of its transform, in the frame in which it is defined; one that is known between pixels is
evaluated at each pixel's offset from the star.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import NDData
from photutils.psf import GriddedPSFModel
from scipy.interpolate import RectBivariateSpline

from formats.test_given_psfs import SCALE, SIZE, empty_image, spot, write_grid
from psf.test_psf_image_files import psfield
from skygraft import read_exposure
from skygraft.formats.psf_kinds import KINDS
from skygraft.psf import PSF, Box
from skygraft.render import Canvas, Sources, render

MARGIN, FWHM = 10, 3.4
CORNERS = [(0.0, 0.0), (SIZE - 1.0, 0.0), (0.0, SIZE - 1.0), (SIZE - 1.0, SIZE - 1.0)]

type Star = Callable[[float, float], np.ndarray]
"""Light of a star at (x, y) on the image's pixels, on any scale."""


class AsTheyAre:
    """Kernels with the sum that the model gives them."""

    def __call__(self, kernels: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(len(x)), np.ones(len(x))

    of_coefficients = of_points = __call__


def drawn(psf: PSF, x: float, y: float) -> np.ndarray:
    canvas, box = Canvas.empty((SIZE, SIZE), (0, 0)), Box(-0.5, SIZE - 0.5, -0.5, SIZE - 0.5)
    one, jacobian = np.array([1.0]), np.full((1, 2, 2), np.nan)
    star = Sources(np.array([1]), np.array(["Star"]), np.array([x]), np.array([y]), one, jacobian, {})
    render(star, psf, canvas, box, AsTheyAre(), stars="stamps")
    return canvas.model.astype(np.float64)


def moved(kernel: np.ndarray, x: float, y: float) -> np.ndarray:
    """A kernel on pixels, moved by the phases of its transform in its frame."""
    frame = np.pad(kernel, MARGIN)
    i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    kx, ky = (2 * np.pi * np.fft.fftfreq(n) for n in frame.shape[::-1])
    light = np.fft.ifft2(np.fft.fft2(frame) * np.exp(-1j * ((y - j) * ky[:, None] + (x - i) * kx))).real
    whole = np.zeros((SIZE, SIZE))
    low_j, low_i = j - frame.shape[0] // 2, i - frame.shape[1] // 2
    whole[low_j : low_j + frame.shape[0], low_i : low_i + frame.shape[1]] = light
    return whole


def on_pixels(kernel_at: Callable[[float, float], np.ndarray]) -> Star:
    return lambda x, y: moved(kernel_at(x, y), x, y)


def radii2(n: int) -> np.ndarray:
    y, x = np.mgrid[:n, :n] - n // 2
    return (x**2 + y**2).astype(float)


def gaussian(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    exponent = -4 * np.log(2) / FWHM**2
    given = {"kind": "gaussian", "fwhm": f"{FWHM * SCALE} arcsec"}
    return given, on_pixels(lambda x, y: np.exp(exponent * radii2(n_of(given, image)))), unit


def moffat(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    core2 = (FWHM / 2) ** 2 / (2 ** (1 / 2.8) - 1)
    given = {"kind": "moffat", "fwhm": f"{FWHM * SCALE} arcsec", "beta": 2.8}
    half = n_of(given, image) / 2

    def star(x: float, y: float) -> np.ndarray:
        """Pixels undersample it, if only just: its cusp has more than they hold."""
        dy, dx = np.arange(SIZE) - y, np.arange(SIZE) - x
        inside = (np.abs(dy) <= half)[:, None] & (np.abs(dx) <= half)
        return (1 + (dy[:, None] ** 2 + dx**2) / core2) ** -2.8 * inside

    return given, star, unit


def image_kind(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    """Effective PSF with four samples a pixel, that pixels undersample: the spline of FITPACK."""
    samples = spot(61, 4, 0.6)
    fits.writeto(folder / "psf.fits", samples)
    given = {"path": folder / "psf.fits", "oversampling": 4, "pixel_integrated": True}
    spline = RectBivariateSpline(np.arange(61) - 30, np.arange(61) - 30, samples * 16)

    def star(x: float, y: float) -> np.ndarray:
        dy, dx = 4 * (np.arange(SIZE) - y), 4 * (np.arange(SIZE) - x)
        return spline(dy, dx) * ((np.abs(dy) <= 30)[:, None] & (np.abs(dx) <= 30))

    return given, star, plain


def grid(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    """The same on a grid of positions: photutils."""
    path = write_grid(folder / "grid.fits")
    images = fits.getdata(path).astype(float)
    model = GriddedPSFModel(NDData(images, meta={"grid_xypos": CORNERS, "oversampling": 4}))

    def star(x: float, y: float) -> np.ndarray:
        model.x_0, model.y_0 = x, y
        return model(*np.meshgrid(np.arange(SIZE), np.arange(SIZE)))

    return path, star, unit


def datacube(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    """A plane of STPSF's OVERDIST for several wavelengths: optical samples, integrated over pixels by quadrature."""
    planes = np.stack([spot(60, 4, sigma) for sigma in (0.7, 0.9)])
    cards = {"WAVELN00": 2e-6, "WAVELN01": 3e-6, "PIXELSCL": SCALE / 4, "DET_SAMP": 4, "OVERSAMP": 4}
    hdu = fits.ImageHDU(planes, fits.Header(cards | {"EXTNAME": "OVERDIST"}))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / "cube.fits")
    place = (np.arange(60) - 29.5) / 4
    spline = RectBivariateSpline(place, place, planes[1] * 16)

    def star(x: float, y: float) -> np.ndarray:
        light = np.zeros((SIZE, SIZE))
        rows, columns = (np.flatnonzero(np.abs(np.arange(SIZE) - at) < 6.5) for at in (y, x))
        for j in rows:
            for i in columns:
                light[j, i] = spline.integral(j - y - 0.5, j - y + 0.5, i - x - 0.5, i - x + 0.5)
        return light

    return {"path": folder / "cube.fits", "wavelength": "3 um"}, star, plain


def sdss(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    """photoField's eigenimages: sum over them of the polynomial of rows and columns, scaled by 1e-3 (``psField``)."""
    path = psfield(folder / "psField.fit", np.random.default_rng(1))
    found = {"path": path, "band": "r"}
    model = fits.getdata(path, 3)
    factor = 0.001 ** np.add.outer(np.arange(5), np.arange(5))

    def kernel(x: float, y: float) -> np.ndarray:
        total = 0.0
        for row in model:
            n_row, n_column = int(row["nrow_b"]), int(row["ncol_b"])
            powers = np.outer((y + 0.5) ** np.arange(n_row), (x + 0.5) ** np.arange(n_column))
            c = np.reshape(row["c"], (5, 5))[:n_row, :n_column]
            weight = (powers * factor[:n_row, :n_column] * c).sum()
            total = total + weight * np.asarray(row["RROWS"], float).reshape(int(row["rnrow"]), int(row["rncol"]))
        return total

    return found, on_pixels(kernel), unit


def exposure(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    """An exposure with a Gaussian of LSST's: exp(-r2 / 2 sigma2), scaled to one."""
    path = data / "afw_reference" / "calexp_01_tan_singlegauss.fits"
    kernel = np.load(path.with_name("calexp_01_tan_singlegauss_psf0_kernel.npy"))
    return {"kind": "exposure", "path": path, "insist": True}, on_pixels(lambda x, y: kernel), unit


def kernels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([spot(21, 1, 1.5 + at / 1000) for at in x])


def drifting(image: dict[str, Any]) -> Any:
    return kernels


def function(image: Path, folder: Path, data: Path) -> tuple[Any, Star, Callable[[np.ndarray], np.ndarray]]:
    given = {"kind": "function", "function": f"{__name__}:drifting"}
    return given, on_pixels(lambda x, y: spot(21, 1, 1.5 + x / 1000)), plain


def n_of(given: Any, image: Path) -> int:
    psf = read_exposure(image, psf=given).psf
    assert psf is not None
    return psf.shape[0]


def plain(light: np.ndarray) -> np.ndarray:
    return light


def unit(light: np.ndarray) -> np.ndarray:
    return light / light.sum()


CASES = {
    "gaussian": gaussian,
    "moffat": moffat,
    "image": image_kind,
    "image, grid": grid,
    "image, datacube": datacube,
    "psfield": sdss,
    "exposure": exposure,
    "function": function,
}
ELSEWHERE = {
    "psfex": "tests/psf/test_psf_psfex.py: test_standard_files_against_galsim, test_lsst_convention",
    "piff": "tests/formats/test_given_psfs.py: test_piff_files",
}


def test_every_kind_has_its_oracle() -> None:
    assert {name.split(",")[0] for name in CASES} | set(ELSEWHERE) == set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_stars_at_random_phases_are_the_models_values(name: str, tmp_path: Path, data_dir: Path) -> None:
    image = empty_image(tmp_path / "image.fits")
    given, star, scaled = CASES[name](image, tmp_path, data_dir)
    psf = read_exposure(image, psf=given).psf
    assert psf is not None
    for x, y in np.random.default_rng(5).uniform(40, 55, (3, 2)):
        expected, found = star(x, y), drawn(psf, x, y)
        if scaled is unit:
            expected, found = unit(expected), unit(found)
        assert np.abs(found - expected).max() < 1e-6 * expected.max()
