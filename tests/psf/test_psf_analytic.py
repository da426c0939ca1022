"""Analytic PSFs against closed forms, GalSim, and the pixels of the real LSST classes."""

from __future__ import annotations

import json
from pathlib import Path

import galsim
import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from skygraft.errors import ConfigError
from skygraft.psf import DoubleGaussianPSF, GaussianPSF, MoffatPSF, kernel_fwhm


def one(psf: GaussianPSF | DoubleGaussianPSF | MoffatPSF) -> np.ndarray:
    return psf.kernels([0.0], [0.0])[0]


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "name", "psf"),
    [
        ("afw_reference", "calexp_01_tan_singlegauss", GaussianPSF(1.9, shape=(31, 31))),
        ("afw_reference", "calexp_02_tansip_doublegauss_gzip2", DoubleGaussianPSF(1.7, 4.1, 0.08, shape=(35, 35))),
        ("afw_reference", "calexp_06_tan_afwgaussian", GaussianPSF(2.1, shape=(33, 33))),
    ],
)
def test_lsst_gaussians(data_dir: Path, folder: str, name: str, psf: GaussianPSF | DoubleGaussianPSF) -> None:
    truth = json.loads((data_dir / folder / f"{name}.json").read_text())["psf"]["positions"]
    for position in truth:
        expected = np.load(data_dir / folder / position["kernel_npy"])
        x, y = position["pixel"]
        np.testing.assert_allclose(psf.kernels(x, y)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.data
def test_lsst_gaussian_of_a_tiny_kernel(data_dir: Path) -> None:
    # three by three pixels, sigma from the archive of the file
    from astropy.io import fits

    folder = data_dir / "afw" / "obs_base"
    with fits.open(folder / "calexp.fits") as hdus:
        index = next(i for i, h in enumerate(hdus) if h.name == "ARCHIVE_INDEX")
        entry = next(row for row in hdus[index].data if row["name"].strip() == "GaussianPsf")
        row = hdus[index + entry["cat.archive"]].data[entry["row0"]]
        psf = GaussianPSF(float(row["sigma"]), shape=(int(row["dimensions_y"]), int(row["dimensions_x"])))
    for position in json.loads((folder / "truth_calexp.json").read_text())["psf"]["positions"]:
        np.testing.assert_allclose(one(psf), np.load(folder / position["kernel_npy"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("fwhm", "beta"), [(1.0, 2.5), (2.0, 2.5), (4.0, 3.5), (5.0, 4.765), (0.3, 3.0)])
def test_moffat_pixels_are_integrals(fwhm: float, beta: float) -> None:
    kernel = one(MoffatPSF(fwhm, beta, shape=(7, 9)))
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)

    def profile(y: float, x: float) -> float:
        return float((beta - 1) / (np.pi * alpha**2) * (1 + (x * x + y * y) / alpha**2) ** -beta)

    for i, j in [(0, 0), (0, 1), (1, 2), (3, -4), (-2, 0)]:
        expected = dblquad(profile, j - 0.5, j + 0.5, i - 0.5, i + 0.5, epsabs=1e-12, epsrel=1e-11)[0]
        assert kernel[3 + i, 4 + j] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("fwhm", "beta"), [(2.0, 2.5), (4.0, 3.5)])
def test_moffat_against_galsim(fwhm: float, beta: float) -> None:
    kernel = one(MoffatPSF(fwhm, beta, shape=(31, 31)))
    parameters = galsim.GSParams(maxk_threshold=1e-5, folding_threshold=1e-4)
    drawn = galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=parameters).drawImage(nx=31, ny=31, scale=1, dtype=float)
    np.testing.assert_allclose(kernel, drawn.array, rtol=0, atol=3e-5 * kernel.max())


def test_integrated_gaussian_against_galsim() -> None:
    drawn = galsim.Gaussian(sigma=1.3, flux=1).drawImage(nx=15, ny=13, scale=1, method="real_space", dtype=float)
    np.testing.assert_allclose(one(GaussianPSF(1.3, shape=(13, 15), pixel_integrated=True)), drawn.array, atol=1e-7)


@pytest.mark.parametrize("shape", [(5, 5), (9, 13), (21, 7)])
@pytest.mark.parametrize("integrated", [True, False])
def test_gaussian_flux_outside(shape: tuple[int, int], integrated: bool) -> None:
    # a kernel that holds everything, cut to the shape
    for psf, large in (
        (GaussianPSF(2.2, shape=shape, pixel_integrated=integrated), GaussianPSF(2.2, shape=(61, 61))),
        (
            DoubleGaussianPSF(1.5, 3.0, 0.3, shape=shape, pixel_integrated=integrated),
            DoubleGaussianPSF(1.5, 3.0, 0.3, shape=(81, 81), pixel_integrated=integrated),
        ),
    ):
        if integrated and isinstance(psf, GaussianPSF):
            large = GaussianPSF(2.2, shape=(61, 61), pixel_integrated=True)  # noqa: PLW2901
        (ny, nx), n = shape, large.shape[0] // 2
        inside = one(large)[n - ny // 2 : n + ny // 2 + 1, n - nx // 2 : n + nx // 2 + 1].sum()
        kernel, outside = one(psf), psf.flux_outside([1.0, 2.0], [3.0, 4.0])
        np.testing.assert_allclose(kernel.sum() / (kernel.sum() + outside), inside, rtol=1e-10)
        assert kernel.sum() == pytest.approx(inside if integrated else 1.0, rel=1e-12)


@pytest.mark.parametrize("shape", [(7, 7), (5, 21)])
@pytest.mark.parametrize(("fwhm", "beta"), [(2.0, 1.5), (4.0, 2.5), (3.0, 4.765)])
def test_moffat_flux_outside(shape: tuple[int, int], fwhm: float, beta: float) -> None:
    psf = MoffatPSF(fwhm, beta, shape=shape)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    half_y, half_x = shape[0] / 2, shape[1] / 2

    # what lies in the box, by the closed form of the integral over y of a strip and quadrature over x
    def strip(x: float) -> float:
        c = alpha**2 + x * x
        return quad(lambda y: (1 + y * y / c) ** -beta, 0, half_y, epsabs=1e-13)[0] * (c / alpha**2) ** -beta

    inside = 4 * (beta - 1) / (np.pi * alpha**2) * quad(strip, 0, half_x, epsabs=1e-12)[0]
    assert psf.flux_outside(0, 0)[0] == pytest.approx(1 - inside, abs=1e-9)
    # kernel and outside are computed apart; together they are everything
    assert one(psf).sum() + psf.flux_outside(0, 0)[0] == pytest.approx(1, abs=1e-9)


def test_sampled_moffat_is_the_formula_with_sum_one() -> None:
    kernel = one(MoffatPSF(4.0, 2.5, shape=(41, 41), pixel_integrated=False))
    alpha = 2 / np.sqrt(2**0.4 - 1)
    y, x = np.mgrid[-20:21, -20:21]
    formula = (1 + (x * x + y * y) / alpha**2) ** -2.5
    np.testing.assert_allclose(kernel, formula / formula.sum(), rtol=1e-12)
    # its flux outside is that of the formula, whose sum over all pixels is pi alpha^2 / (beta - 1)
    outside = MoffatPSF(4.0, 2.5, shape=(41, 41), pixel_integrated=False).flux_outside(0, 0)[0]
    assert 1 + outside == pytest.approx(np.pi * alpha**2 / 1.5 / formula.sum(), rel=1e-5)


def test_the_pixel_widens() -> None:
    sharp, wide = (
        kernel_fwhm(MoffatPSF(3.0, 3.5, shape=(41, 41), pixel_integrated=p).kernels(0, 0))[0] for p in (False, True)
    )
    assert sharp == pytest.approx(3.0, rel=0.005)
    assert 3.05 < wide < 3.3


def test_widths() -> None:
    assert GaussianPSF(fwhm=4.0).sigma == pytest.approx(4.0 / 2.354820045030949)
    np.testing.assert_array_equal(one(GaussianPSF(fwhm=4.0)), one(GaussianPSF(4.0 / 2.3548200450309493)))


@pytest.mark.parametrize(
    "make",
    [
        GaussianPSF,
        lambda: GaussianPSF(1.0, fwhm=2.0),
        lambda: GaussianPSF(-1.0),
        lambda: GaussianPSF(float("nan")),
        lambda: GaussianPSF(fwhm=0.0),
        lambda: GaussianPSF(2.0, shape=(10, 11)),
        lambda: GaussianPSF(1e9),
        lambda: DoubleGaussianPSF(1.0, 2.0, -0.1),
        lambda: DoubleGaussianPSF(1.0, 0.0, 0.1),
        lambda: MoffatPSF(4.0, 1.0),
        lambda: MoffatPSF(float("inf")),
    ],
)
def test_bad_parameters_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
