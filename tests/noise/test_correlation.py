"""Correlated noise: closed forms, covariances over many draws in double precision, and what spoils a measurement."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, signal

from skygraft.noise import CellGrid, Gain, add_flux, measure_correlation
from skygraft.noise import correlation as noise_correlation
from skygraft.noise.correlation import LAGS, filter_of, filtered_field, normal_field

SHAPE = (300, 320)
TAPS = np.array([[0.0, 0.3, 0.1], [0.5, 1.0, 0.4], [0.0, 0.2, 0.2]])


def lanczos(phase: float) -> np.ndarray:
    """Taps of a Lanczos kernel of order 3, which moves pixels by a fraction."""
    x = np.arange(-2, 4) - phase
    taps = np.sinc(x) * np.sinc(x / 3)
    return taps / taps.sum()


def correlation_of(taps: np.ndarray, lags: int = LAGS) -> np.ndarray:
    """The autocorrelation of white noise filtered with taps, by the direct sum."""
    full = signal.correlate(taps, taps, method="direct")
    full = np.pad(full / full.max(), lags)
    middle_y, middle_x = (n // 2 for n in full.shape)
    return full[middle_y - lags : middle_y + lags + 1, middle_x - lags : middle_x + lags + 1]


def noise(taps: np.ndarray = TAPS, shape: tuple[int, int] = SHAPE, seed: int = 1) -> np.ndarray:
    white = np.random.default_rng(seed).normal(size=(shape[0] + taps.shape[0] - 1, shape[1] + taps.shape[1] - 1))
    return signal.convolve(white, taps, mode="valid").astype(np.float32)


def lag(plane: np.ndarray, dy: int, dx: int) -> float:
    """Mean product of pixels at a lag, brute force."""
    ny, nx = plane.shape
    left = plane[max(0, -dy) : ny - max(0, dy), max(0, -dx) : nx - max(0, dx)]
    right = plane[max(0, dy) : ny + min(0, dy), max(0, dx) : nx + min(0, dx)]
    return float((left.astype(float) * right).mean())


@pytest.mark.parametrize(
    ("taps", "within"),
    [
        (np.ones((1, 1)), 1e-6),
        (TAPS, 2e-3),
        (np.outer(lanczos(0.3), lanczos(0.1)), 1e-4),
        # at half a pixel the highest frequencies have no power, and no compact filter is exact
        (np.outer(lanczos(0.5), lanczos(0.5)), 5e-3),
    ],
)
def test_the_filter_has_the_correlation_asked_for(taps, within):
    kernel = filter_of(correlation_of(taps))
    assert (kernel**2).sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    np.testing.assert_allclose(correlation_of(kernel), correlation_of(taps), atol=within)


def test_what_no_noise_can_have_becomes_the_nearest_that_can():
    """A correlation of 0.9 in both directions and none diagonally has frequencies of negative power."""
    asked = np.zeros((11, 11))
    asked[5, 5], asked[[4, 5, 5, 6], [5, 4, 6, 5]] = 1.0, 0.9
    assert np.fft.fft2(np.fft.ifftshift(asked)).real.min() < -1
    kernel = filter_of(asked)
    assert np.isfinite(kernel).all()
    assert (kernel**2).sum() == pytest.approx(1, abs=1e-5)


def test_normal_numbers_are_white_and_normal():
    drawn = normal_field(SHAPE, (3, -5), (1, 2))
    assert drawn.mean() == pytest.approx(0, abs=5 / np.sqrt(drawn.size))
    assert drawn.var() == pytest.approx(1, abs=5 * np.sqrt(2 / drawn.size))
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * np.sqrt(96 / drawn.size))
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2)):
        assert lag(drawn, dy, dx) == pytest.approx(0, abs=5 / np.sqrt(drawn.size))


def test_covariance_over_many_draws():
    """Every pair of pixels of a patch, over 4000 images: variance 1 and the correlation of the filter."""
    kernel = filter_of(correlation_of(TAPS))
    draws = np.array([filtered_field(kernel, (4, 4), (0, 0), (seed, 7)).ravel() for seed in range(4000)])
    found = draws.T @ draws / len(draws)
    expected_lags = correlation_of(TAPS)
    y, x = (v.ravel() for v in np.indices((4, 4)))
    expected = expected_lags[LAGS + y[:, None] - y, LAGS + x[:, None] - x]
    error = np.sqrt((1 + expected**2) / len(draws))
    assert (np.abs(found - expected) < 4.5 * error + 2e-3).all()


def test_a_known_filter_is_measured():
    found = measure_correlation([noise()], np.ones(SHAPE, bool))
    expected = correlation_of(TAPS)
    assert found is not None
    error = 5 / np.sqrt(np.prod(SHAPE))
    assert found.lags["0,1"] == pytest.approx(expected[LAGS, LAGS + 1], abs=error)
    assert found.lags["1,0"] == pytest.approx(expected[LAGS + 1, LAGS], abs=error)
    assert found.lags["1,1"] == pytest.approx(expected[LAGS + 1, LAGS + 1], abs=error)
    assert found.n_pixels == np.prod(SHAPE)
    assert found.misfit < 0.02


@pytest.mark.parametrize("width", [4, 5, 8, 9, 12])
def test_regions_narrower_than_the_lags(width):
    """The last region of an image 4100 pixels wide has 4 columns; the oracle is brute force over pairs of pixels."""
    plane = noise()[:, :width]
    plane = np.vstack([plane] * (-(-640 // len(plane))))[:640]
    found = measure_correlation([plane], np.ones(plane.shape, bool))
    assert found is not None
    sums = {(0, 1): [], (1, 0): [], (1, 1): []}
    for top in range(0, 640, 128):
        region = plane[top : top + 128].astype(float)
        region = region - region.mean()
        for (dy, dx), each in sums.items():
            pairs = region[dy:, dx:] * region[: len(region) - dy, : width - dx]
            each.append(pairs.mean() / (region**2).mean())
    for (dy, dx), each in sums.items():
        assert found.lags[f"{dy},{dx}"] == pytest.approx(np.mean(each), abs=0.01 + found.misfit), (dy, dx)


def test_a_remainder_of_a_few_columns_beside_whole_regions():
    assert measure_correlation([noise(shape=(256, 260))], np.ones((256, 260), bool)) is not None


def test_each_cell_has_its_own():
    plane, white = noise(shape=(200, 300)), noise(np.ones((1, 1)), (200, 300), 2)
    plane[:, 100:200] = white[:, 100:200]
    plane[100:, 200:] = 0.0  # a cell without data
    # the image begins within a cell of its tract's grid
    found = measure_correlation([plane], np.ones(plane.shape, bool), xy0=(900, 400), cells=CellGrid((0, 0), (100, 100)))
    assert found is not None
    assert len(found.which) == 5
    assert (5, 11) not in found.which
    expected = correlation_of(TAPS)[LAGS, LAGS + 1]
    for cell, one in found.which.items():
        measured = correlation_of(found.filters[one])[LAGS, LAGS + 1]
        assert measured == pytest.approx(0 if cell[1] == 10 else expected, abs=0.05)
    tiles = list(found.tiles((900, 400), plane.shape))
    assert len(tiles) == 6
    np.testing.assert_array_equal(tiles[-1][0], found.filters[0])


@pytest.mark.parametrize("taps", [np.ones((1, 1)), TAPS], ids=["white", "correlated"])
def test_sky_with_light_defects_and_a_background(taps):
    """Faint sources that no mask tells of, a slope, bad pixels and NaN: within 0.02 of the noise alone."""
    shape = (640, 640)
    plane = noise(taps, shape) / np.sqrt((taps**2).sum())
    rng = np.random.default_rng(5)
    light = np.zeros(shape)
    light[rng.integers(0, 640, 150), rng.integers(0, 640, 150)] = 10 ** rng.uniform(1, 3.5, 150)
    light = ndimage.gaussian_filter(light, 2.5)
    y, x = np.indices(shape)
    plane += (light + 1e-3 * x - 5e-4 * y).astype(np.float32)
    usable = ndimage.maximum_filter(light < 1.0, 1) & (rng.random(shape) > 0.01)
    plane[~usable & (rng.random(shape) < 0.5)] = 1e4
    plane[300:310, 100:400] = np.nan
    found = measure_correlation([plane], usable, sky=True)
    assert found is not None
    expected = correlation_of(taps)
    assert found.lags["0,1"] == pytest.approx(expected[LAGS, LAGS + 1], abs=0.02)
    assert found.lags["1,0"] == pytest.approx(expected[LAGS + 1, LAGS], abs=0.02)
    # what an aperture sums: the correlation at all lags together
    assert found.filters[0].sum() ** 2 == pytest.approx(expected.sum(), rel=0.25)


@pytest.mark.parametrize("taps", [np.ones((1, 1)), TAPS], ids=["white", "correlated"])
def test_faint_light_everywhere(taps):
    """A third of the noise's amplitude, 8 pixels wide, which else made an aperture's variance eight times too large."""
    shape = (640, 640)
    light = ndimage.gaussian_filter(np.random.default_rng(6).normal(size=shape), 8)
    plane = noise(taps, shape) / np.sqrt((taps**2).sum()) + 0.35 * light / light.std()
    found = measure_correlation([plane.astype(np.float32)], np.ones(shape, bool), sky=True)
    assert found is not None
    expected = correlation_of(taps)
    assert found.lags["0,1"] == pytest.approx(expected[LAGS, LAGS + 1], abs=0.015)
    assert found.filters[0].sum() ** 2 == pytest.approx(expected.sum(), rel=0.25)


@pytest.mark.parametrize(
    "plane",
    [np.zeros(SHAPE, np.float32), np.full(SHAPE, np.nan, np.float32), np.full(SHAPE, 3.25, np.float32)],
    ids=["zeros", "NaN", "a constant"],
)
@pytest.mark.parametrize("sky", [True, False])
def test_what_does_not_vary_tells_nothing(plane, sky):
    assert measure_correlation([plane], np.ones(SHAPE, bool), sky=sky) is None


def test_too_few_pixels_tell_nothing():
    plane, few = noise(), np.zeros(SHAPE, bool)
    few[:40, :60] = True
    assert measure_correlation([plane], few) is None
    few[:45, :60] = True
    assert measure_correlation([plane], few) is not None
    # cells that are too small are put together
    together = measure_correlation([plane], np.ones(SHAPE, bool), cells=CellGrid((0, 0), (6, 6)))
    assert together is not None
    assert not together.which
    assert measure_correlation([plane[:4, :4]], np.ones((4, 4), bool)) is None


class TestAddFlux:
    correlation = measure_correlation([noise(shape=(600, 600))], np.ones((600, 600), bool))

    def added(self, model, gain=2.0, variance=None, seed=0, xy0=(0, 0)):
        image = np.zeros(model.shape, np.float32)
        add_flux(image, variance, model, gain=Gain(gain, "given"), seed=seed, xy0=xy0, correlation=self.correlation)
        return image

    def test_variance_added_is_the_expected_one(self):
        """Over 600 draws of a source: mean, variance and covariance of its pixels, and the plane free of noise."""
        y, x = np.indices((9, 9)) - 4
        model = (200 * np.exp(-(x**2 + y**2) / 8)).astype(np.float32)
        draws = np.array([self.added(model, seed=seed) for seed in range(600)]).reshape(600, -1).astype(float)
        expected = model.ravel().astype(float) / 2.0
        assert draws.mean(0) == pytest.approx(model.ravel(), abs=5 * np.sqrt(expected.max() / 600))
        np.testing.assert_allclose(draws.var(0) / expected, 1, atol=5 * np.sqrt(2 / 600))
        unit = (draws - model.ravel()) / np.sqrt(expected)
        pairs = (unit.reshape(-1, 9, 9)[:, :, 1:] * unit.reshape(-1, 9, 9)[:, :, :-1]).mean()
        assert pairs == pytest.approx(self.correlation.lags["0,1"], abs=0.03)
        variance = np.full(model.shape, 3.0, np.float32)
        self.added(model, variance=variance)
        np.testing.assert_allclose(variance, 3 + model / 2, rtol=1e-6)

    @pytest.mark.parametrize(("i", "j", "width"), [(0, 0, 310), (17, 3, 200), (130, 20, 1), (129, 11, 140)])
    def test_a_cut_out_gets_the_same(self, i, j, width):
        rng = np.random.default_rng(3)
        model = np.where(rng.random((150, 310)) < 0.1, rng.uniform(-2, 50, (150, 310)), 0).astype(np.float32)
        model[140:, 200:] = 7.0
        whole = self.added(model, xy0=(-40, 1000))
        cut = np.s_[j : j + 125, i : i + width]
        np.testing.assert_array_equal(self.added(model[cut].copy(), xy0=(-40 + i, 1000 + j)), whole[cut])

    def test_sources_do_not_change_each_other(self):
        one, two = np.zeros((2, 200, 200), np.float32)
        one[20:30, 20:30], two[100:130, 150:160] = 30.0, 500.0
        np.testing.assert_array_equal(self.added(one) + self.added(two), self.added(one + two))

    def test_negative_flux_and_pixels_without_any(self):
        model = np.zeros((40, 40), np.float32)
        model[3, 3], model[5, 5] = -4.0, 10.0
        image = np.ones((40, 40), np.float32)
        image[8, 8], image[9, 9] = np.nan, -0.0
        variance, out, spread = np.full((3, 40, 40), 2.0, np.float32)
        variance[7, 7] = np.inf
        before = image.copy(), variance.copy()
        planes = {"gain": Gain(np.full((40, 40), 2, np.float32), "a map"), "correlation": self.correlation}
        add_flux(image, variance, model, out=out, variance_out=spread, **planes)
        assert (image.tobytes(), variance.tobytes()) == (before[0].tobytes(), before[1].tobytes())
        assert out[3, 3] == -3.0
        assert out[5, 5] != 11.0
        assert spread[5, 5] == 7.0
        untouched = model == 0
        assert out[untouched].tobytes() == image[untouched].tobytes()
        assert np.delete(spread, 5 * 40 + 5).tobytes() == np.delete(variance, 5 * 40 + 5).tobytes()
        add_flux(image, variance, model, out=model, variance_out=variance, **planes)
        assert (model.tobytes(), variance.tobytes()) == (out.tobytes(), spread.tobytes())

    def test_seeds_images_and_kinds_of_noise_do_not_share_a_stream(self):
        model = np.full((150, 150), 1e6, np.float32)
        drawn = [self.added(model, seed=s).ravel() for s in (0, 1)]
        image = np.zeros_like(model)
        add_flux(image, None, model, gain=Gain(2.0, "given"), seed=0)
        drawn.append(image.ravel())
        for i in range(3):
            for j in range(i):
                assert abs(np.corrcoef(drawn[i], drawn[j])[0, 1]) < 6 / 150


def test_the_filters_are_rounded():
    """Transforms differ in their last bits between processors; pixels must not."""
    kernel = filter_of(correlation_of(TAPS))
    assert (kernel * 2**20 == np.round(kernel * 2**20)).all()
    assert noise_correlation._QUANTUM == 2.0**-20
