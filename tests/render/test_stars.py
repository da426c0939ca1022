"""Stars: shifted kernels against closed forms, and what lands on the canvas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.oracles import band_limited_aperture_flux
from kits.psf_kit import KINDS, SIDE, psf_of_kind
from skygraft.catalog import Flag
from skygraft.errors import PsfError
from skygraft.psf import PSF, Box, FixedKernelPSF, KernelBasisPSF, LinearPSF
from skygraft.render import Canvas, Sources, render
from skygraft.render.shift import FAST, PRECISE
from skygraft.render.stars import StarPainter

HALF = 22
BOX = Box(-0.5, 299.5, -0.5, 99.5)
MARGIN = {"precise": PRECISE.margin, "fast": FAST.margin}


def moffat(fwhm: float, beta: float, dx: float = 0.0, dy: float = 0.0, half: int = HALF, oversample: int = 9):
    """Moffat integrated over pixels by brute force, its centre moved by (dx, dy)."""
    sub = (np.arange(oversample) + 0.5) / oversample - 0.5
    axis = (np.arange(-half, half + 1)[:, None] + sub[None, :]).ravel()
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    r2 = (axis[:, None] - dy) ** 2 + (axis[None, :] - dx) ** 2
    fine = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    n = 2 * half + 1
    return fine.reshape(n, oversample, n, oversample).mean(axis=(1, 3))


def interpolated(kernel: np.ndarray, fx: float, fy: float, margin: int) -> np.ndarray:
    """The kernel, with a margin of zeros, moved by (fx, fy) by phases on its discrete Fourier transform."""
    frame = np.pad(kernel, margin)
    ky, kx = (2 * np.pi * np.fft.fftfreq(n) for n in frame.shape)
    return np.fft.ifft2(np.fft.fft2(frame) * np.exp(-1j * (fy * ky[:, None] + fx * kx))).real


class AsGiven:
    """Multiplies kernels by one."""

    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


class Varying(KernelBasisPSF):
    """Two Moffats, the wider one's part growing with x."""

    def __init__(self, half: int = HALF) -> None:
        narrow, wide = moffat(3.2, 3.0, half=half), moffat(5.0, 3.0, half=half)
        super().__init__(np.array([narrow, wide - narrow]), [[1.0], [0.1, 2e-3, 1e-3]])


class WithoutBasis(PSF):
    """The same kernels from a model that is not known to be linear."""

    def __init__(self, psf: PSF) -> None:
        self._psf = psf

    @property
    def shape(self):
        return self._psf.shape

    def kernels(self, x, y):
        return self._psf.kernels(x, y)


def drawn(kernel, fx, fy, engine):
    """A stamp of unit amplitude, and its margin."""
    painter = StarPainter(FixedKernelPSF(kernel), BOX, engine)
    margin = MARGIN[engine]
    n = kernel.shape[0] + 2 * margin
    canvas = Canvas.empty((n, n), (0, 0))
    painter.add(canvas, np.array([n // 2 + fx]), np.array([n // 2 + fy]), np.ones(1), AsGiven())
    return canvas.model.astype(float), margin


PARTS = st.floats(-0.499, 0.499)


@settings(max_examples=60, deadline=None)
@given(st.floats(2.5, 6.0), st.floats(2.2, 4.5), PARTS, PARTS)
def test_precise_stars_are_the_band_limited_kernel_moved(fwhm, beta, fx, fy):
    kernel = moffat(fwhm, beta, oversample=3)
    stamp, margin = drawn(kernel, fx, fy, "precise")
    assert np.abs(stamp - interpolated(kernel, fx, fy, margin)).max() < 6e-7 * kernel.max()


@settings(max_examples=60, deadline=None)
@given(st.floats(2.5, 6.0), st.floats(2.2, 4.5), PARTS, PARTS)
def test_fast_stars_are_close_to_it(fwhm, beta, fx, fy):
    kernel = moffat(fwhm, beta, oversample=3)
    stamp, margin = drawn(kernel, fx, fy, "fast")
    assert np.abs(stamp - interpolated(kernel, fx, fy, margin)).max() < 4e-4 * kernel.max()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["precise", "fast"]),
    st.integers(5, 12),
    st.integers(5, 12),
    st.sampled_from([-0.5, -0.25, 0.0, 0.25]) | PARTS,
    st.sampled_from([-0.5, -0.25, 0.0, 0.25]) | PARTS,
)
def test_kernels_of_any_odd_size_are_moved_to_any_fraction(engine, half_y, half_x, fx, fy):
    kernel = moffat(4.0, 4.0, 0.3, -0.2, half=12, oversample=3)[12 - half_y : 13 + half_y, 12 - half_x : 13 + half_x]
    painter, margin = StarPainter(FixedKernelPSF(kernel), BOX, engine), MARGIN[engine]
    ny, nx = (n + 2 * margin for n in kernel.shape)
    canvas = Canvas.empty((ny + 2, nx + 4), (0, 0))
    painter.add(canvas, np.array([nx // 2 + 2 + fx]), np.array([ny // 2 + 1 + fy]), np.full(1, 7.0), AsGiven())
    expected = np.zeros(canvas.model.shape)
    expected[1:-1, 2:-2] = 7.0 * interpolated(kernel, fx, fy, margin)
    own = {"precise": 6e-7, "fast": 4e-4}[engine]
    assert np.abs(canvas.model - expected).max() < own * 7.0 * kernel.max()
    assert not canvas.model[[0, -1]].any() and not canvas.model[:, [0, 1, -2, -1]].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("engine", "bound"), [("precise", 6e-7), ("fast", 4e-4)])
@settings(max_examples=10, deadline=None)
@given(st.floats(30, SIDE - 30), st.floats(30, SIDE - 30))
def test_every_kind_of_psf_at_its_own_place(engine, bound, kind, x, y):
    psf, margin = psf_of_kind(kind, moffat(3.5, 3.0)), MARGIN[engine]
    canvas = Canvas.empty((SIDE, SIDE), (0, 0))
    painter = StarPainter(psf, Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5), engine)
    painter.add(canvas, np.array([x]), np.array([y]), np.ones(1), AsGiven())
    ix, iy, half = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), HALF + margin
    expected = interpolated(psf.kernels([x], [y])[0], x - ix, y - iy, margin)
    box = slice(max(0, iy - half), iy + half + 1), slice(max(0, ix - half), ix + half + 1)
    inside = canvas.model[box]
    cut = expected[max(0, half - iy) :, max(0, half - ix) :][: inside.shape[0], : inside.shape[1]]
    assert np.abs(inside - cut).max() < bound * expected.max()
    assert np.count_nonzero(canvas.model) == np.count_nonzero(inside)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["precise", "fast"]), st.floats(3.0, 6.0), st.floats(2.2, 4.5), PARTS, PARTS)
def test_a_star_is_the_profile_drawn_there(engine, fwhm, beta, fx, fy):
    kernel = moffat(fwhm, beta)
    stamp, margin = drawn(kernel, fx, fy, engine)
    inside = slice(margin + 6, -margin - 6)  # away from the edge, where the kernel ends
    expected = moffat(fwhm, beta, fx, fy)[6:-6, 6:-6]
    # Pixels do not sample a Moffat of 3 pixels FWHM better than so: an exact shift of them misses it by up to 1.5e-3.
    limit = np.abs(interpolated(kernel, fx, fy, margin)[inside, inside] - expected).max()
    own = {"precise": 1e-6, "fast": 2e-4}[engine] * kernel.max()
    assert np.abs(stamp[inside, inside] - expected).max() < limit + own
    assert limit < (1.5e-3 if fwhm < 4 else 3e-4) * kernel.max()


@pytest.mark.parametrize(("engine", "bound"), [("precise", 3e-7), ("fast", 3e-4)])
def test_no_shift_changes_nothing(engine, bound):
    kernel = moffat(3.5, 3.0)
    stamp, margin = drawn(kernel, 0.0, 0.0, engine)
    np.testing.assert_allclose(stamp[margin:-margin, margin:-margin], kernel, rtol=0, atol=bound * kernel.max())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["precise", "fast"]), st.floats(2.5, 6.0), PARTS, PARTS)
def test_the_centroid_moves_by_the_shift(engine, fwhm, fx, fy):
    kernel = moffat(fwhm, 3.5, oversample=3)
    stamp, margin = drawn(kernel, fx, fy, engine)
    axis = np.arange(-HALF - margin, HALF + margin + 1)
    # Gaussian weights of the kernel's width at the place where the star should be: what a fit of the PSF sees
    wx, wy = (np.exp(-0.5 * ((axis - f) / (fwhm / 2.355)) ** 2) for f in (fx, fy))
    weighted = stamp * wy[:, None] * wx
    bound = {"precise": 1e-6, "fast": 1e-4}[engine]
    # the weighted moment of pixels, not of the profile: what the exact image has of it is taken off
    exact = interpolated(kernel, fx, fy, margin) * wy[:, None] * wx
    for along in (0, 1):
        mean, expected = ((w.sum(axis=along) * axis).sum() / w.sum() for w in (weighted, exact))
        assert 2 * mean == pytest.approx(2 * expected, abs=bound)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["precise", "fast"]), st.floats(2.5, 6.0), st.floats(8.0, 14.0), PARTS, PARTS)
def test_the_flux_inside_an_aperture_that_moves_along_stays(engine, fwhm, radius, fx, fy):
    kernel = moffat(fwhm, 3.0, oversample=3)
    stamp, margin = drawn(kernel, fx, fy, engine)
    centre = HALF + 30
    before = band_limited_aperture_flux(np.pad(kernel, 30), centre, centre, radius, half=centre)
    after = band_limited_aperture_flux(np.pad(stamp, 30 - margin), centre + fx, centre + fy, radius, half=centre)
    # what rings is folded back at the frame's edge: it decides where pixels hardly sample the profile
    bound = 1e-4 if fwhm < 3 else 2.5e-5 if fwhm < 4 else {"precise": 2e-6, "fast": 5e-6}[engine]
    assert after == pytest.approx(before, rel=bound)


@pytest.mark.parametrize("engine", ["precise", "fast"])
def test_stars_land_where_they_belong_and_are_cut_at_the_edge(engine):
    kernel = moffat(4.0, 3.0)
    canvas = Canvas.empty((101, 121), (1000, 2000))
    x, y = np.array([1060.3, 999.2, 5000.0]), np.array([2050.8, 2000.1, 5000.0])
    stars = StarPainter(FixedKernelPSF(kernel), BOX, engine).add(canvas, x, y, np.array([100.0, 50.0, 1.0]), AsGiven())
    assert stars.deposited[0] == pytest.approx(100 * kernel.sum(), rel=5e-6)
    assert 0.2 * 50 < stars.deposited[1] < 0.5 * 50
    assert stars.deposited[2] == 0
    assert stars.clipped.tolist() == [False, True, True]
    assert canvas.model.sum(dtype=float) == pytest.approx(stars.deposited.sum(), rel=1e-6)
    j, i = np.unravel_index(np.argmax(canvas.model), canvas.model.shape)
    assert (i, j) == (60, 51)


@pytest.mark.parametrize("engine", ["precise", "fast"])
@pytest.mark.parametrize("wrap", [lambda psf: psf, WithoutBasis])
def test_a_star_is_its_own_kernel_scaled(engine, wrap):
    psf = wrap(Varying())
    canvas = Canvas.empty((99, 99), (0, 0))
    stars = StarPainter(psf, BOX, engine).add(canvas, np.array([50.0]), np.array([48.0]), np.array([-3.0]), AsGiven())
    kernel = psf.kernels([50.0], [48.0])[0]
    expected = np.zeros((99, 99))
    expected[48 - HALF : 48 + HALF + 1, 50 - HALF : 50 + HALF + 1] = -3.0 * kernel
    bound = {"precise": 3e-7, "fast": 3e-4}[engine]
    np.testing.assert_allclose(canvas.model, expected, rtol=0, atol=3 * bound * kernel.max())
    assert 3.2 < stars.fwhm[0] < 5.0


@pytest.mark.parametrize("engine", ["precise", "fast"])
@pytest.mark.parametrize("wrap", [lambda psf: psf, WithoutBasis])
def test_a_pixel_depends_only_on_the_stars_that_touch_it(engine, wrap):
    rng = np.random.default_rng(1)
    painter = StarPainter(wrap(Varying(half=10)), BOX, engine)
    x, y, flux = rng.uniform(0, 300, 60), rng.uniform(0, 100, 60), rng.uniform(1, 100, 60)

    def draw(keep):
        canvas = Canvas.empty((100, 300), (0, 0))
        painter.add(canvas, x[keep], y[keep], flux[keep], AsGiven())
        return canvas.model

    np.testing.assert_array_equal(draw(np.ones(60, bool))[:, :100], draw(x < 130)[:, :100])


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["precise", "fast"]), st.booleans(), st.integers(1, 90), st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_stars_are_summed_one_by_one_in_the_order_given(engine, linear, size, seed):
    rng = np.random.default_rng(seed)
    psf = Varying(half=7) if linear else WithoutBasis(Varying(half=7))
    painter = StarPainter(psf, BOX, engine)
    n = 90
    x, y, flux = rng.uniform(-5, 65, n), rng.uniform(-5, 45, n), rng.uniform(-100, 100, n)
    together, batches = (Canvas.empty((40, 60), (0, 0)) for _ in range(2))
    whole = painter.add(together, x, y, flux, AsGiven())
    one_by_one = np.zeros((40, 60), np.float32)
    for start in range(0, n, size):
        part = slice(start, start + size)
        some = painter.add(batches, x[part], y[part], flux[part], AsGiven())
        for name in ("scale", "fwhm", "deposited", "clipped"):
            np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[part])
    for k in range(n):
        single = Canvas.empty((40, 60), (0, 0))
        painter.add(single, x[k : k + 1], y[k : k + 1], flux[k : k + 1], AsGiven())
        one_by_one += single.model
    np.testing.assert_array_equal(together.model, batches.model)
    np.testing.assert_array_equal(together.model, one_by_one)


def test_stars_whose_psf_fails_are_flagged_and_the_others_drawn_once():
    class Failing(LinearPSF):
        def coefficients(self, x, y):
            if (np.asarray(x) < 0).any():
                raise PsfError("no PSF left of the image")
            return np.ones((len(x), 1))

    kernel = moffat(4.0, 3.0)
    x = np.linspace(-20.0, 80.0, 41)
    n = len(x)
    sources = Sources(
        np.arange(n), np.full(n, "Star"), x, np.full(n, 50.0), np.ones(n), np.zeros((n, 2, 2)), {}
    )  # fmt: skip
    canvas = Canvas.empty((100, 100), (0, 0))
    report = render(sources, Failing(kernel[None]), canvas, Box(-0.5, 99.5, -0.5, 99.5), AsGiven())
    failed = x < 0
    assert ((report.flags & Flag.PSF_COMPUTE_ERROR) != 0).tolist() == failed.tolist()
    assert sorted(report.messages) == np.flatnonzero(failed).tolist()
    assert (report.flux_deposited[failed] == 0).all()
    assert np.isnan(report.psf_fwhm[failed]).all()
    assert (report.stamp_size == np.where(failed, 0, kernel.shape[0])).all()
    assert canvas.model.sum(dtype=float) == pytest.approx(report.flux_deposited.sum(), rel=1e-6)
    assert report.flux_deposited[np.abs(x - 50) < 15] == pytest.approx(kernel.sum(), rel=5e-6)
