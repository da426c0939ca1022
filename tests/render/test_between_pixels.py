"""PSFs that pixels are too coarse for: stars and galaxies against the models themselves, evaluated at their places."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from skygraft.catalog import Flag
from skygraft.psf import (
    Box,
    DoubleGaussianPSF,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    MoffatPSF,
    PsfexPSF,
    read_psfex,
)
from skygraft.render import Canvas, Sources, render

SIZE = 96
BOX = Box(-0.5, SIZE - 0.5, -0.5, SIZE - 0.5)
JACOBIAN = np.array([[-0.2, 0.0], [0.0, 0.2]])
PARTS = st.floats(-0.499, 0.499)
ENGINES = ("precise", "fast")


class AsGiven:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def draw(psf, x, y, kind="Star", box=BOX, xy0=(0, 0), size=SIZE, flux=1.0, **options):
    """One source of flux 1, and its flags."""
    shape = {name: np.array([options.pop(name)]) for name in list(options) if name not in ("stars", "galaxies")}
    sources = Sources(
        np.arange(1), np.array([kind]), np.array([x]), np.array([y]), np.array([flux]), JACOBIAN[None], shape
    )  # fmt: skip
    canvas = Canvas.empty((size, size), xy0)
    report = render(sources, psf, canvas, box, AsGiven(), **options)
    assert not report.messages
    return canvas.model.astype(float), Flag(int(report.flags[0]))


# -- formulas, each written down here again


def gaussian(sigma, dx, dy, integrated, half=SIZE // 2):
    rows, columns = (np.arange(-half, half) - d for d in (dy, dx))
    if integrated:
        root = np.sqrt(2) * sigma
        return np.outer(*((erf((a + 0.5) / root) - erf((a - 0.5) / root)) / 2 for a in (rows, columns)))
    return np.outer(*(np.exp(-0.5 * (a / sigma) ** 2) for a in (rows, columns)))


def moffat(fwhm, beta, dx, dy, integrated, half=SIZE // 2):
    nodes, weights = np.polynomial.legendre.leggauss(16) if integrated else (np.zeros(1), np.full(1, 2.0))
    rows, columns = ((np.arange(-half, half)[:, None] + nodes / 2 - d).ravel() ** 2 for d in (dy, dx))
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    fine = (1 + (rows[:, None] + columns) / alpha**2) ** -beta * (beta - 1) / (np.pi * alpha**2)
    shape = 2 * half, nodes.size
    return np.einsum("iajb,a,b->ij", fine.reshape(*shape, *shape), weights / 2, weights / 2)


def inside(image, psf, ix=SIZE // 2, iy=SIZE // 2):
    """The pixels of a kernel about (ix, iy)."""
    hy, hx = (n // 2 for n in psf.shape)
    return image[iy - hy : iy + hy + 1, ix - hx : ix + hx + 1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("integrated", [False, True])
@settings(max_examples=20)
@given(st.floats(1.5, 2.35), PARTS, PARTS)
def test_a_gaussian_at_any_phase(engine, integrated, fwhm, fx, fy):
    psf = GaussianPSF(fwhm=fwhm, pixel_integrated=integrated)
    found, flags = draw(psf, SIZE // 2 + fx, SIZE // 2 + fy, stars=engine)
    scale = 1.0 if integrated else 1.0 / inside(gaussian(psf.sigma, 0, 0, False), psf).sum()
    expected = scale * gaussian(psf.sigma, fx, fy, integrated)
    # A star ends where its kernel does, six sigma away.
    assert np.abs(found - expected).max() < 3e-5 * scale * gaussian(psf.sigma, 0, 0, integrated).max()
    assert not flags & Flag.PSF_UNDERSAMPLED


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("integrated", [False, True])
@settings(max_examples=10)
@given(st.floats(1.5, 3.0), st.floats(2.2, 5.0), PARTS, PARTS)
def test_a_moffat_at_any_phase(engine, integrated, fwhm, beta, fx, fy):
    psf = MoffatPSF(fwhm, beta, pixel_integrated=integrated, shape=(25, 25))
    found, flags = draw(psf, SIZE // 2 + fx, SIZE // 2 + fy, stars=engine)
    found, half = found[SIZE // 2 - 13 : SIZE // 2 + 13, SIZE // 2 - 13 : SIZE // 2 + 13], 13
    scale = 1.0 if integrated else 1.0 / inside(moffat(fwhm, beta, 0, 0, False, half), psf, half, half).sum()
    expected = scale * moffat(fwhm, beta, fx, fy, integrated, half)
    peak = scale * moffat(fwhm, beta, 0, 0, integrated, half).max()
    # Where pixels sample the PSF well enough, a band-limited shift may do.
    wrong = np.abs(inside(found - expected, psf, half, half))
    assert wrong.max() < 1e-3 * peak
    assert not flags & Flag.PSF_UNDERSAMPLED
    if fwhm < 2:
        assert wrong.max() < 3e-5 * peak


@pytest.mark.parametrize("engine", ENGINES)
def test_a_double_gaussian_and_sharper_ones(engine):
    psf = DoubleGaussianPSF(0.7, 1.6, 0.1, pixel_integrated=True)
    found, _ = draw(psf, SIZE // 2 + 0.5, SIZE // 2 - 0.3, stars=engine)
    parts = [(0.7**2, 0.7), (0.1 * 1.6**2, 1.6)]
    expected = sum(w * gaussian(s, 0.5, -0.3, True) for w, s in parts) / sum(w for w, _ in parts)
    assert np.abs(found - expected).max() < 3e-5 * expected.max()
    for fwhm in (0.5, 1.0):
        found, _ = draw(GaussianPSF(fwhm=fwhm, pixel_integrated=True, shape=(9, 9)), 48.5, 47.9, stars=engine)
        expected = gaussian(fwhm / 2.354820045, 0.5, -0.1, True)
        assert np.abs(found - expected).max() < 3e-4 * gaussian(fwhm / 2.354820045, 0, 0, True).max()


# -- PSFEx models, by their definition in float64


def psfex_there(psf, x, y, ix, iy, half):
    """The model's samples, interpolated at the pixels about (ix, iy) by Lanczos's function scaled to sum one."""
    terms = []
    u, v = ((p - z) / s for p, z, s in zip((x, y), psf._zero, psf._scale, strict=True))
    terms = [u**i * v**j for j in range(psf._degree + 1) for i in range(psf._degree + 1 - j)]
    model = np.tensordot(terms, psf._samples.astype(float), 1)
    order = {"psfex": 4, "lsst": 5}[psf.convention]
    weights = []
    for n, p, i in ((model.shape[0], y, iy), (model.shape[1], x, ix)):
        offsets = i + np.arange(-half, half + 1) - p
        distance = np.arange(n) - (n // 2 + offsets[:, None] / psf.step)
        w = np.where(np.abs(distance) <= order, np.sinc(distance) * np.sinc(distance / order), 0.0)
        total = w.sum(axis=1, keepdims=True)
        w /= np.where(total != 0, total, 1.0)
        # pixels whose centres are not among the samples have nothing
        w[(offsets < -(n // 2) * psf.step - 1e-6) | (offsets > (n - 1 - n // 2) * psf.step + 1e-6)] = 0.0
        weights.append(w)
    return weights[0] @ model @ weights[1].T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_real_psfex_model_of_few_pixels(data_dir, engine, number):
    psf = read_psfex(data_dir / "video_H" / f"image_{number}.psf")
    box, half = Box(-0.5, 1849.5, -0.5, 1819.5), psf.shape[0] // 2
    for ix, iy, fx, fy in (
        (900, 910, -0.5, -0.5),
        (60, 1700, 0.25, -0.25),
        (1500, 300, 0.0, 0.0),
        (1000, 40, 0.4, 0.1),
    ):
        x, y = ix + fx, iy + fy
        found, flags = draw(psf, x, y, box=box, xy0=(ix - 40, iy - 40), size=81, stars=engine)
        expected = np.zeros((81, 81))
        expected[40 - half : 41 + half, 40 - half : 41 + half] = psfex_there(psf, x, y, ix, iy, half)
        assert np.abs(found - expected).max() < 1e-5 * expected.max()
        negative = -found[found < 0].sum(), -expected[expected < 0].sum()
        assert negative[0] == pytest.approx(negative[1], abs=1e-5)
        assert not flags & Flag.PSF_UNDERSAMPLED


@pytest.mark.parametrize("convention", ["psfex", "lsst"])
@settings(max_examples=20)
@given(st.integers(9, 24), st.integers(9, 24), st.floats(0.3, 0.95), PARTS, PARTS)
def test_psfex_models_of_any_size_and_step(convention, my, mx, step, fx, fy):
    rng = np.random.default_rng(my * 100 + mx)
    y, x = (np.arange(n) - n // 2 for n in (my, mx))
    core = np.exp(-0.5 * ((y[:, None] * step / 0.8) ** 2 + (x * step / 0.7) ** 2))
    basis = np.array([core, 0.1 * core * x, 0.1 * core * y[:, None]]) + 1e-4 * rng.normal(size=(3, my, mx))
    psf = PsfexPSF(basis, 1, (50.0, 40.0), (100.0, 80.0), step, convention=convention)
    if min(psf.shape) < 5:
        return
    sx, sy = 48 + fx, 45 + fy
    found, _ = draw(psf, sx, sy)
    kernel = psf.kernels([sx], [sy])[0]
    half = max(psf.shape) // 2 - 2  # away from the edges, where conventions differ in what is still among the samples
    expected = psfex_there(psf, sx, sy, 48, 45, half)
    if convention == "lsst":
        expected /= (psf._terms([sx], [sy]) @ psf.basis.reshape(3, -1)).sum()
    hy, hx = (min(half, n // 2 - 2) for n in psf.shape)
    middle = slice(half - hy, half + hy + 1), slice(half - hx, half + hx + 1)
    cut = found[45 - hy : 46 + hy, 48 - hx : 49 + hx]
    assert np.abs(cut - expected[middle]).max() < 1e-5 * kernel.max()


# -- galaxies and others, convolved with the PSF itself


def galsim_there(profile, psf_profile, x, y, integrated):
    """GalSim's own convolution, with tight parameters, at pixel centres."""
    params = galsim.GSParams(
        folding_threshold=1e-4, kvalue_accuracy=1e-7, maxk_threshold=1e-5, maximum_fft_size=1 << 14
    )
    parts = [profile.withGSParams(params), psf_profile.withGSParams(params)]
    whole = galsim.Convolve([*parts, galsim.Pixel(1.0)] if integrated else parts, gsparams=params)
    image = galsim.ImageD(SIZE, SIZE, xmin=0, ymin=0)
    return whole.drawImage(image=image, scale=1.0, method="no_pixel", center=galsim.PositionD(x, y)).array


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 6e-5), ("galsim", 5e-4)])
@pytest.mark.parametrize("fwhm", [1.5, 2.0])
@pytest.mark.parametrize(
    ("n", "radius", "q"), [(1.0, 0.05, 1.0), (1.0, 0.3, 0.5), (0.5, 0.2, 0.8), (4.0, 0.3, 0.7), (2.5, 0.8, 0.3)]
)
def test_galaxies_of_an_undersampled_gaussian(galaxies, bound, fwhm, n, radius, q):
    psf = GaussianPSF(fwhm=fwhm, pixel_integrated=True, shape=(25, 25))
    x, y = 47.5, 48.3
    found, _ = draw(
        psf, x, y, "Sersic", flux_tolerance=1e-3, galaxies=galaxies, n=n, half_light_radius=radius, q=q, pa=30.0
    )  # fmt: skip
    profile = galsim.Sersic(n, half_light_radius=radius).shear(q=q, beta=(90 - 30) * galsim.degrees)
    profile = galsim.JacobianWCS(*JACOBIAN.ravel()).profileToImage(profile)
    expected = galsim_there(profile, galsim.Gaussian(fwhm=fwhm), x, y, True)
    assert np.abs(found - expected).max() < bound * expected.max()


def test_truncated_moffat_and_bulge_disk_are_no_exception():
    psf = GaussianPSF(fwhm=1.6, pixel_integrated=True, shape=(25, 25))
    point = galsim.Gaussian(fwhm=1.6)
    to_pixels = galsim.JacobianWCS(*JACOBIAN.ravel()).profileToImage
    x, y = 47.7, 48.5
    for kind, shape, profile in (
        ("Moffat", {"half_light_radius": 0.2, "moffat_beta": 3.0}, galsim.Moffat(3.0, half_light_radius=0.2)),
        ("Gaussian", {"half_light_radius": 0.15}, galsim.Gaussian(half_light_radius=0.15)),
        (
            "Sersic", {"half_light_radius": 0.3, "n": 1.0, "trunc": 0.7},
            galsim.Sersic(1.0, half_light_radius=0.3, trunc=0.7),
        ),
        (
            "BulgeDisk", {"bulge_fraction": 0.4, "bulge_half_light_radius": 0.2, "disk_half_light_radius": 0.5},
            0.4 * galsim.Sersic(4.0, half_light_radius=0.2) + 0.6 * galsim.Sersic(1.0, half_light_radius=0.5),
        ),
    ):  # fmt: skip
        found, _ = draw(psf, x, y, kind, **shape)
        expected = galsim_there(to_pixels(profile), point, x, y, True)
        assert np.abs(found - expected).max() < 3.5e-4 * expected.max(), kind


def test_trails_are_convolved_with_the_psf_itself():
    psf = GaussianPSF(fwhm=1.5, pixel_integrated=True, shape=(25, 25))
    x, y = 47.5, 48.5
    found, _ = draw(psf, x, y, "Trail", trail_length_pix=12.0, trail_angle_pix=0.0)
    # Along x the integral of pixel and Gaussian over the trail, across it pixel and Gaussian.
    sigma, fine = 1.5 / 2.354820045, (np.arange(400) + 0.5) / 400 * 12.0 - 6.0
    expected = np.mean([gaussian(sigma, -0.5 + d, 0.5, True) for d in fine], axis=0)
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


def test_a_galaxy_of_a_real_psfex_model(data_dir):
    psf = read_psfex(data_dir / "video_H" / "image_3.psf")
    x, y = 900.5, 910.5
    box = Box(-0.5, 1849.5, -0.5, 1819.5)
    # The model at tenths of pixels is a picture that GalSim can convolve.
    half, fine = 9, 10
    offsets = np.arange(-half * fine, half * fine + 1)
    terms = [1.0, (x - psf._zero[0]) / psf._scale[0], (y - psf._zero[1]) / psf._scale[1]]
    model = np.tensordot(terms, psf._samples.astype(float), 1)
    n = model.shape[0]
    distance = np.arange(n) - (n // 2 + offsets[:, None] / fine / psf.step)
    w = np.where(np.abs(distance) <= 4, np.sinc(distance) * np.sinc(distance / 4), 0.0)
    total = w.sum(axis=1, keepdims=True)
    w = np.divide(w, total, out=np.zeros_like(w), where=np.abs(total) > 1e-9)
    w[np.abs(offsets) / fine > (n // 2) * psf.step] = 0.0
    picture = w @ model @ w.T
    point = galsim.InterpolatedImage(
        galsim.ImageD(picture), scale=1 / fine, flux=picture.sum() / fine**2, x_interpolant="lanczos15"
    )
    to_pixels = galsim.JacobianWCS(*JACOBIAN.ravel()).profileToImage
    for n_index, radius in ((1.0, 0.1), (1.0, 0.5), (4.0, 0.4)):
        found, _ = draw(
            psf, x, y, "Sersic", box=box, xy0=(852, 862), n=n_index, half_light_radius=radius, flux_tolerance=1e-3
        )  # fmt: skip
        profile = to_pixels(galsim.Sersic(n_index, half_light_radius=radius))
        expected = galsim_there(profile, point, 48.5, 48.5, False)
        assert np.abs(found - expected).max() < 3.5e-4 * expected.max()


# -- models that are known on pixels only


@pytest.mark.parametrize(("fwhm", "coarse"), [(1.5, True), (2.0, True), (2.25, True), (3.0, False), (4.0, False)])
@pytest.mark.parametrize("kind", ["Star", "Sersic", "Trail"])
def test_models_of_pixels_are_flagged_where_they_are_undersampled(fwhm, coarse, kind):
    kernel = gaussian(fwhm / 2.354820045, 0, 0, True)[33:64, 33:64]
    shape = (
        {"half_light_radius": 0.5, "n": 1.0}
        if kind == "Sersic"
        else {"trail_length_pix": 5.0}
        if kind == "Trail"
        else {}
    )
    for psf in (
        FixedKernelPSF(kernel),
        KernelBasisPSF(kernel[None], [[1.0]]),
        PsfexPSF(kernel[None], 0, step=1.0),
    ):
        for engine in ("fast", "galsim"):
            option = {"stars": engine} if kind == "Star" else {"galaxies": engine} if kind == "Sersic" else {}
            _, flags = draw(psf, 48.4, 48.2, kind, **shape, **option)
            assert bool(flags & Flag.PSF_UNDERSAMPLED) == coarse


def test_flags_follow_a_psf_that_varies():
    narrow, wide = (gaussian(f / 2.354820045, 0, 0, True)[33:64, 33:64] for f in (1.8, 4.0))
    psf = KernelBasisPSF(np.array([wide, narrow - wide]), [[1.0], [0.0, 1.0 / SIZE, 0.0]])
    flags = [draw(psf, x, 48.0)[1] for x in (5.0, 90.0)]
    assert [bool(f & Flag.PSF_UNDERSAMPLED) for f in flags] == [False, True]
