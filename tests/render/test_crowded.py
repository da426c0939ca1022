"""Stars drawn together on a grid: against a transform of each in double precision, and against stamps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from skygraft.catalog import Flag
from skygraft.errors import PsfError
from skygraft.psf import (
    PSF,
    Box,
    CellPSF,
    FixedKernelPSF,
    GaussianPSF,
    GriddedPSF,
    LinearPSF,
    MoffatPSF,
    OversampledPSF,
    PsfexPSF,
)
from skygraft.render import Canvas, Sources, render
from skygraft.render.crowded import MOST_RING

SIDE = 200
BOX = Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5)
MARGIN = 10
"""Pixels by which the frame of a kernel, in which its image between pixels is defined, is larger on each side."""


class Twice:
    """A normalisation that differs from star to star and is known to this test: by the kernel's first coefficient."""

    def __call__(self, kernels, x, y):
        return np.full(len(x), 2.0), np.full(len(x), 0.5)

    def of_coefficients(self, coefficients, x, y):
        return 2.0 + 0.001 * np.asarray(x), np.full(len(x), 0.5)


def moffat(fwhm: float, n: int = 31, beta: float = 3.0):
    return MoffatPSF(fwhm, beta, shape=(n, n)).kernels(0, 0)[0]


def psfex(fwhm: float = 4.0) -> PsfexPSF:
    """A polynomial of degree two: six images, of which all but the first change the core."""
    core = moffat(fwhm)
    y, x = np.mgrid[-15:16, -15:16] / fwhm
    window = np.exp(-0.3 * (x**2 + y**2))
    terms = [core, *(0.1 * core * window * x**i * y**j for i, j in ((1, 0), (2, 0), (0, 1), (1, 1), (0, 2)))]
    return PsfexPSF(np.array(terms), 2, (SIDE / 2, SIDE / 2), (float(SIDE), float(SIDE)))


def stars_at(x, y, flux) -> Sources:
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    n = len(x)
    unused = np.broadcast_to(np.nan, (n, 2, 2))
    return Sources(np.arange(n), np.full(n, "Star"), x, y, np.broadcast_to(np.asarray(flux, float), n), unused, {})


def drawn(sources, psf, how, side=SIDE, xy0=(0, 0)):
    canvas = Canvas.empty((side, side), xy0)
    x0, y0 = xy0
    box = Box(x0 - 0.5, x0 + side - 0.5, y0 - 0.5, y0 + side - 0.5)
    report = render(sources, psf, canvas, box, Twice(), stars=how)
    return canvas.model, report


def brute_force(sources, psf, side=SIDE, margin=MARGIN):
    """Each star's kernel moved by its phase in Fourier space, in its frame, and summed in double precision."""
    image = np.zeros((side, side))
    scales, _ = Twice().of_coefficients(None, sources.x, sources.y)
    for x, y, flux, scale in zip(sources.x, sources.y, sources.flux, scales, strict=True):
        frame = np.pad(psf.kernels([x], [y])[0], margin)
        i, j = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        kx, ky = (2 * np.pi * np.fft.fftfreq(n) for n in frame.shape[::-1])
        moved = np.fft.ifft2(np.fft.fft2(frame) * np.exp(-1j * ((y - j) * ky[:, None] + (x - i) * kx))).real
        low_j, low_i = j - frame.shape[0] // 2, i - frame.shape[1] // 2
        j0, i0 = max(0, low_j), max(0, low_i)
        j1, i1 = min(side, low_j + frame.shape[0]), min(side, low_i + frame.shape[1])
        if j0 < j1 and i0 < i1:
            image[j0:j1, i0:i1] += flux * scale * moved[j0 - low_j : j1 - low_j, i0 - low_i : i1 - low_i]
    return image


PSFS = {
    "PSFEx polynomial": psfex(),
    "Moffat": MoffatPSF(3.5, 3.0, shape=(31, 31)),
    "undersampled kernel": FixedKernelPSF(moffat(1.5)),
    "kernel that is not square": FixedKernelPSF(moffat(4.0)[:, 5:-5]),
}


@pytest.mark.parametrize("name", PSFS)
def test_each_star_is_its_kernel_moved_to_its_phase(name: str):
    psf, rng = PSFS[name], np.random.default_rng(3)
    for x, y in [(100.0, 100.0), (80.5, 99.5), *rng.uniform(40, 160, (5, 2))]:
        one = stars_at(x, y, 1000.0)
        model, report = drawn(one, psf, "grid")
        exact = brute_force(one, psf)
        assert np.abs(model - exact).max() < 5e-7 * exact.max()
        assert report.flux_deposited[0] == pytest.approx(exact.sum(), rel=3e-7)
        half_y, half_x = (n // 2 + MARGIN for n in psf.shape)
        j, i = np.nonzero(model)
        assert (np.abs(j - np.floor(y + 0.5)) <= half_y).all() and (np.abs(i - np.floor(x + 0.5)) <= half_x).all()
        assert (report.kernel_scale[0], report.aperture_fraction[0]) == (2.0 + 0.001 * x, 0.5)


def test_many_stars_of_fifteen_magnitudes_are_their_sum():
    rng = np.random.default_rng(8)
    many = stars_at(*rng.uniform(-10, SIDE + 10, (2, 800)), 10 ** rng.uniform(0, 6, 800))
    psf = psfex(5.0)
    model, report = drawn(many, psf, "grid")
    exact = brute_force(many, psf)
    peak = psf.kernels([100.0], [100.0]).max() * 2
    # a pixel's rounding, and what a few stars leave outside of their frames, each no more than is allowed
    assert np.abs(model - exact).max() < 2e-7 * exact.max() + 3 * MOST_RING * np.median(many.flux) * peak
    stamps, by_stamps = drawn(many, psf, "stamps")
    np.testing.assert_allclose(report.flux_deposited, by_stamps.flux_deposited, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(report.flags, by_stamps.flags)
    np.testing.assert_array_equal(report.stamp_size, by_stamps.stamp_size)
    np.testing.assert_array_equal(report.psf_fwhm, by_stamps.psf_fwhm)
    assert np.abs(stamps - exact).max() < 2e-6 * exact.max()


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
def test_the_grid_is_as_near_to_interpolation_without_a_frame_as_stamps_are(fwhm: float):
    """A kernel between pixels rings without end: a stamp cuts that off, and on the grid it fades."""
    rng = np.random.default_rng(4)
    psf = FixedKernelPSF(moffat(fwhm))
    many = stars_at(*rng.uniform(70, SIDE - 70, (2, 150)), rng.uniform(0.5, 1.5, 150))
    ideal = brute_force(many, psf, margin=(201 - 31) // 2)
    missed = [np.abs(drawn(many, psf, how)[0] - ideal) for how in ("grid", "stamps")]
    assert missed[0].max() < 1.2 * missed[1].max()
    assert np.sqrt((missed[0] ** 2).mean()) < 1.2 * np.sqrt((missed[1] ** 2).mean())


def test_where_a_kernel_does_not_ring_the_sum_is_right_to_rounding():
    rng = np.random.default_rng(8)
    many = stars_at(*rng.uniform(0, SIDE, (2, 800)), 10 ** rng.uniform(0, 6, 800))
    psf = FixedKernelPSF(GaussianPSF(fwhm=4.0, shape=(31, 31)).kernels(0, 0)[0])
    model, _ = drawn(many, psf, "grid")
    exact = brute_force(many, psf)
    assert np.abs(model - exact).max() < 2e-7 * exact.max()
    assert np.median(np.abs(model - exact) / exact) < 1e-6


def test_a_faint_star_does_not_suffer_from_a_bright_one_of_its_tile():
    psf, faint = FixedKernelPSF(moffat(5.0)), stars_at([60.3, 61.7, 70.2], [60.8, 72.1, 65.5], 1.0)
    both = stars_at([60.3, 61.7, 70.2, 140.4], [60.8, 72.1, 65.5, 139.1], [1.0, 1.0, 1.0, 1e6])
    alone, _ = drawn(faint, psf, "grid")
    beside, _ = drawn(both, psf, "grid")
    here = np.s_[30:105, 30:105]
    assert np.abs(beside[here] - alone[here]).max() <= 1e-7 * alone.max()


def test_stars_at_edges_corners_and_beyond():
    psf = psfex()
    at = np.array([-15.6, -8.2, -0.5, 0.0, 3.3, 14.9, 15.5, 25.5, 99.9])
    at = np.concatenate([at, SIDE - 1 - at])
    x, y = (v.ravel() for v in np.meshgrid(at, at))
    sources = stars_at(x + 1000, y - 500, 100.0)
    grid, of_grid = drawn(sources, psf, "grid", xy0=(1000, -500))
    stamps, of_stamps = drawn(sources, psf, "stamps", xy0=(1000, -500))
    peak = stamps.max()
    assert np.abs(grid - stamps).max() < 2e-4 * peak
    np.testing.assert_allclose(of_grid.flux_deposited, of_stamps.flux_deposited, rtol=3e-6, atol=3e-6 * 200)
    np.testing.assert_array_equal(of_grid.flags, of_stamps.flags)
    assert (of_grid.flags & int(Flag.TRUNCATED_BY_EDGE)).any()
    assert grid.sum(dtype=float) == pytest.approx(of_grid.flux_deposited.sum(), rel=1e-5)


def test_small_catalogues_are_drawn_star_by_star_and_crowded_tiles_are_not():
    rng, psf = np.random.default_rng(5), FixedKernelPSF(moffat(4.0))
    few = stars_at(*rng.uniform(0, SIDE, (2, 4000)), rng.uniform(1, 2, 4000))
    assert drawn(few, psf, "precise")[0].tobytes() == drawn(few, psf, "stamps")[0].tobytes()
    many = stars_at(*rng.uniform(0, SIDE, (2, 30_000)), rng.uniform(1, 2, 30_000))
    model = drawn(many, psf, "precise")[0]
    assert model.tobytes() == drawn(many, psf, "grid")[0].tobytes()
    stamps = drawn(many, psf, "stamps")[0]
    np.testing.assert_allclose(drawn(many, psf, "fast")[0][60:-60, 60:-60], model[60:-60, 60:-60], rtol=1e-6)
    assert model.tobytes() != stamps.tobytes()
    np.testing.assert_allclose(model, stamps, rtol=1e-4)


def test_what_has_no_star_remains_zero():
    rng = np.random.default_rng(6)
    left = stars_at(rng.uniform(20, 90, 300), rng.uniform(0, SIDE, 300), 1e8)
    model, _ = drawn(left, FixedKernelPSF(moffat(4.0)), "grid")
    assert (model[:, 90 + 1 + 15 + MARGIN :] == 0).all()
    assert (model[:, 30:80] != 0).all()


def oversampled(width: float = 1.1, n: int = 60) -> np.ndarray:
    """Four samples a pixel of a profile that pixels undersample."""
    y, x = np.mgrid[-n : n + 1, -n : n + 1] / 4.0
    return (1 + (x**2 + y**2) / width**2) ** -2.5


CORNERS = [(0.0, 0.0), (199.0, 0.0), (0.0, 199.0), (199.0, 199.0)]
BETWEEN = {
    "effective PSF": OversampledPSF(oversampled(), 4, normalize=True),
    "optical PSF, of an even size": OversampledPSF(oversampled()[1:, 3:], 4, pixel_integrated=False, normalize=True),
    "grid of positions": GriddedPSF([oversampled(w) for w in (1.0, 1.1, 1.2, 1.3)], CORNERS, 4, normalize=True),
    "formula": GaussianPSF(fwhm=1.5, shape=(31, 31)),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_stars_that_pixels_undersample_are_their_models_values_at_their_own_places(name: str):
    """Against the model evaluated in double precision at each star's own sub-pixel place, and against stamps."""
    psf, rng = BETWEEN[name], np.random.default_rng(3)
    stars = stars_at(*rng.uniform(-3, SIDE + 3, (2, 150)), 10 ** rng.uniform(0, 3, 150))
    model, report = drawn(stars, psf, "grid")
    stamps, by_stamps = drawn(stars, psf, "stamps")
    assert model.tobytes() != stamps.tobytes()
    exact, ends, half = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), psf.shape[0] // 2
    scales, _ = Twice().of_coefficients(None, stars.x, stars.y)
    (y_low, y_high), (x_low, x_high) = psf.sub_pixel.reach
    for x, y, flux in zip(stars.x, stars.y, stars.flux * scales, strict=True):
        dy, dx = np.arange(SIDE) - y, np.arange(SIDE) - x
        of_star = np.einsum("b,bij->ij", psf.coefficients([x], [y])[0], psf.sub_pixel.values(dy, dx)) * flux
        exact += of_star
        last = np.abs(of_star[(np.abs(dy) < half)[:, None] & (np.abs(dx) < half)])
        beyond = ((dy < y_low) | (dy > y_high))[:, None] | (dx < x_low) | (dx > x_high)
        near = (np.abs(dy) < half + 3)[:, None] & (np.abs(dx) < half + 3)
        ends += np.where(beyond & near, 1e-5 * last.max(initial=0.0), 0.0)
    # beyond its last samples a spline fades within a pixel on the grid, and ends with a stamp
    assert (np.abs(model - exact) <= 3e-7 * exact.max() + ends).all()
    np.testing.assert_allclose(report.flux_deposited, by_stamps.flux_deposited, rtol=1e-4, atol=1e-6)
    assert model.sum(dtype=float) == pytest.approx(report.flux_deposited.sum(), rel=1e-6)
    np.testing.assert_array_equal(report.flags, by_stamps.flags)
    np.testing.assert_array_equal(report.psf_fwhm, by_stamps.psf_fwhm)


def test_few_stars_between_pixels_are_drawn_star_by_star_and_crowded_tiles_are_not():
    rng, psf = np.random.default_rng(5), BETWEEN["effective PSF"]
    few = stars_at(*rng.uniform(0, SIDE, (2, 4000)), rng.uniform(1, 2, 4000))
    assert drawn(few, psf, "precise")[0].tobytes() == drawn(few, psf, "stamps")[0].tobytes()
    many = stars_at(*rng.uniform(0, SIDE, (2, 30_000)), rng.uniform(1, 2, 30_000))
    model = drawn(many, psf, "precise")[0]
    assert model.tobytes() == drawn(many, psf, "grid")[0].tobytes()
    np.testing.assert_allclose(model, drawn(many, psf, "stamps")[0], rtol=1e-4, atol=1e-5 * model.max())


def cells(present: bool = True) -> CellPSF:
    round_ones = [GaussianPSF(fwhm=fwhm, shape=(31, 31)).kernels(0, 0)[0] for fwhm in (4.0, 5.0, 4.5, 4.2)]
    kernels = np.reshape(round_ones, (2, 2, 31, 31))
    if not present:
        kernels[1, 0] = np.nan
    return CellPSF(kernels, (0, 0), (SIDE // 2, SIDE // 2))


def test_each_cell_of_a_coadd_has_a_grid_of_its_own():
    rng = np.random.default_rng(7)
    stars = stars_at(*rng.uniform(0, SIDE - 1, (2, 200)), 10 ** rng.uniform(0, 3, 200))
    model, report = drawn(stars, cells(), "grid")
    stamps, by_stamps = drawn(stars, cells(), "stamps")
    exact = brute_force(dataclasses.replace(stars, flux=stars.flux * 2.0 / (2.0 + 0.001 * stars.x)), cells())
    for drawn_so in (model, stamps):
        assert np.abs(drawn_so - exact).max() < 3e-7 * exact.max()
    assert model.tobytes() != stamps.tobytes()
    np.testing.assert_allclose(report.flux_deposited, by_stamps.flux_deposited, rtol=3e-6)
    for name in ("flags", "psf_fwhm", "kernel_scale", "stamp_size"):
        np.testing.assert_array_equal(getattr(report, name), getattr(by_stamps, name), err_msg=name)


def test_stars_in_cells_without_a_psf_are_flagged_and_the_others_drawn_together():
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, SIDE - 1, (2, 12_000))
    model, report = drawn(stars_at(x, y, 10.0), cells(present=False), "precise")
    lost = (np.rint(x) < SIDE // 2) & (np.rint(y) >= SIDE // 2)
    assert ((report.flags & int(Flag.PSF_COMPUTE_ERROR)) > 0).tolist() == lost.tolist()
    stamps, _ = drawn(stars_at(x, y, 10.0), cells(present=False), "stamps")
    assert model.tobytes() != stamps.tobytes()
    np.testing.assert_allclose(model, stamps, rtol=1e-3, atol=1e-4 * stamps.max())


class Drifting(PSF):
    """A PSF that is another one at every place, and no sum of basis images."""

    shape, description = (31, 31), "drifting"

    def kernels(self, x, y):
        return np.stack([moffat(4.0 + 0.001 * one) for one in np.atleast_1d(x)])


@pytest.mark.parametrize(
    "psf",
    [Drifting(), OversampledPSF(oversampled(), 4.3, normalize=True)],
    ids=["its own kernel everywhere", "a broken number of samples a pixel"],
)
def test_other_psfs_are_drawn_star_by_star(psf):
    stars = stars_at(*np.random.default_rng(7).uniform(0, SIDE, (2, 50)), 10.0)
    assert drawn(stars, psf, "grid")[0].tobytes() == drawn(stars, psf, "stamps")[0].tobytes()


class TornPsf(LinearPSF):
    """A PSF that is not known in a strip between those places where an image's PSF is looked at."""

    def coefficients(self, x, y):
        if (np.abs(np.asarray(x) - 66) < 3).any():
            raise PsfError("no PSF here")
        return np.ones((np.size(x), 1))


def test_stars_on_the_grid_whose_psf_fails_are_left_out_and_flagged():
    rng = np.random.default_rng(10)
    x, y = rng.uniform(20, 180, (2, 400))
    psf = TornPsf(moffat(4.0)[None])
    lost = np.abs(x - 66) < 3
    model, report = drawn(stars_at(x, y, 10.0), psf, "grid")
    assert ((report.flags & int(Flag.PSF_COMPUTE_ERROR)) > 0).tolist() == lost.tolist()
    kept, _ = drawn(stars_at(x[~lost], y[~lost], 10.0), psf, "grid")
    assert model.tobytes() == kept.tobytes()
    assert (report.flux_deposited[lost] == 0).all()


def test_progress_counts_every_star_once():
    stars = stars_at(*np.random.default_rng(11).uniform(0, SIDE, (2, 3000)), 10.0)
    counted = []
    canvas = Canvas.empty((SIDE, SIDE), (0, 0))
    render(stars, FixedKernelPSF(moffat(4.0)), canvas, BOX, Twice(), stars="grid", progress=counted.append)
    assert sum(counted) == 3000
