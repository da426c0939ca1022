from __future__ import annotations

import types

import numpy as np
import pytest
from astropy.nddata import NDData
from photutils.psf import GriddedPSFModel, ImagePSF
from scipy.interpolate import RectBivariateSpline

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import Box, FixedKernelPSF, GriddedPSF, OversampledPSF, basis_between_pixels, check_psf
from skygraft.render.fine_stars import FineStars

BOX = Box(-0.5, 99.5, -0.5, 99.5)
CORNERS = [(0, 0), (99, 0), (0, 99), (99, 99)]


def gaussian(shape, sampling, sigma, center=None):
    """An elliptical Gaussian of sigma pixels, light per pixel."""
    (ny, nx), (along_y, along_x) = shape, np.broadcast_to(sampling, 2)
    cx, cy = ((nx - 1) / 2, (ny - 1) / 2) if center is None else center
    y, x = np.mgrid[:ny, :nx]
    x, y = (x - cx) / along_x, (y - cy) / along_y
    scale = np.sqrt(1.1 * 0.9 - 0.05**2) / (2 * np.pi * sigma**2)
    return scale * np.exp(-(1.1 * x**2 + 0.9 * y**2 + 0.1 * x * y) / (2 * sigma**2))


def star(psf, x, y):
    """A star drawn at (x, y) on 100 by 100 pixels, by what draws undersampled PSFs."""
    between = basis_between_pixels(psf, BOX)
    canvas = types.SimpleNamespace(model=np.zeros((100, 100), np.float32), x0=0, y0=0)
    one = np.ones(1)
    FineStars(between).add(
        canvas, psf.coefficients([x], [y]), np.array([x]), np.array([y]), one, np.zeros(1), np.zeros(1, bool)
    )
    return canvas.model


PLACES = np.random.default_rng(4).uniform(20, 80, (3, 2))


@pytest.mark.parametrize(("shape", "oversampling"), [((81, 81), 4), ((60, 61), 4), ((41, 40), 2), ((81, 60), (5, 3))])
def test_stars_are_photutils_gridded_model(shape, oversampling):
    # An F150W star of NIRCam is as narrow as this: 1.4 pixels FWHM.
    images = np.array([gaussian(shape, oversampling, 0.6 * s) for s in (1, 1.1, 1.2, 1.3)])
    psf = GriddedPSF(images, CORNERS, oversampling)
    model = GriddedPSFModel(NDData(images, meta={"grid_xypos": CORNERS, "oversampling": oversampling}))
    y, x = np.mgrid[:100, :100]
    for x0, y0 in PLACES:
        model.x_0, model.y_0 = x0, y0
        expected = model(x, y)
        assert np.abs(star(psf, x0, y0) - expected).max() < 5e-7 * expected.max()


@pytest.mark.parametrize(("shape", "oversampling"), [((81, 81), 4), ((60, 61), 4), ((75, 75), 5), ((75, 75), 3.3)])
def test_optical_images_are_integrated_over_pixels(shape, oversampling):
    image = gaussian(shape, oversampling, 0.5)
    psf = OversampledPSF(image, oversampling, pixel_integrated=False)
    spline = RectBivariateSpline(np.arange(shape[0]), np.arange(shape[1]), image, s=0)
    cy, cx = (n / 2 - 0.5 for n in shape)
    for x0, y0 in PLACES:
        drawn = star(psf, x0, y0)
        for j, i in np.ndindex(7, 7):
            row, column = int(y0) - 3 + j, int(x0) - 3 + i
            edges = [c + oversampling * (at - 0.5 + np.arange(2)) for c, at in ((cy, row - y0), (cx, column - x0))]
            expected = spline.integral(*edges[0], *edges[1]) / oversampling**2
            assert abs(drawn[row, column] - expected) < 8e-7 * image.max()


def test_light_of_a_star_does_not_depend_on_its_phase():
    psf = OversampledPSF(gaussian((121, 121), 4, 0.45), 4, pixel_integrated=False)
    sums = [star(psf, x, y).sum(dtype=float) for x, y in PLACES]
    assert np.ptp(sums) < 1e-6
    assert psf.kernels([50], [50]).sum() == pytest.approx(sums[0], abs=1e-6)
    # used as if it were the effective PSF it would be too sharp, and its light would vary
    sharp = OversampledPSF(gaussian((121, 121), 4, 0.45), 4)
    assert np.ptp([star(sharp, x, y).sum(dtype=float) for x, y in PLACES]) > 0.01


def test_kernel_is_the_model_on_pixels():
    image = gaussian((60, 61), 4, 0.8)
    psf = OversampledPSF(image, 4)
    ny, nx = psf.shape
    model = ImagePSF(image, oversampling=4, x_0=nx // 2, y_0=ny // 2)
    y, x = np.mgrid[:ny, :nx]
    assert np.abs(psf.kernels([3.0], [4.0])[0] - model(x, y)).max() < 1e-12


def test_one_sample_a_pixel_is_the_kernel_itself():
    image = gaussian((21, 23), 1, 1.5)
    assert np.array_equal(OversampledPSF(image).kernels([0], [0])[0], image)
    assert OversampledPSF(image).sub_pixel is None
    # an even size, centred on a sample
    even = gaussian((20, 20), 1, 1.5, center=(10, 10))
    kernel = OversampledPSF(even, center=(10, 10)).kernels([0], [0])[0]
    assert np.array_equal(kernel, FixedKernelPSF(even, pad_even=True).kernels([0], [0])[0])


def test_a_center_between_samples_is_moved_to_a_pixel():
    image = gaussian((40, 40), 1, 1.6)
    kernel = OversampledPSF(image).kernels([0], [0])[0]
    assert np.abs(kernel - gaussian(kernel.shape, 1, 1.6)).max() < 3e-5 * image.max()


def test_samples_coarser_than_pixels():
    psf = OversampledPSF(gaussian((41, 41), 0.7, 4.0), 0.7)
    kernel = psf.kernels([0], [0])[0]
    assert np.abs(kernel - gaussian(kernel.shape, 1, 4.0)).max() < 1e-6
    assert psf.sub_pixel is None


def test_bilinear_weights_and_the_edge_of_the_grid():
    images = np.array([gaussian((41, 41), 4, s) for s in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)])
    # positions in no order, and columns at unequal distances
    places = np.array([(70, 10), (0, 10), (20, 10), (20, 60), (70, 60), (0, 60)])
    psf = GriddedPSF(images, places, 4)
    sorted_images = images[[1, 2, 0, 5, 3, 4]]
    assert np.array_equal(psf.images, sorted_images)
    expected = 0.4 * (0.5 * sorted_images[0] + 0.5 * sorted_images[1]) + 0.6 * (
        0.5 * sorted_images[3] + 0.5 * sorted_images[4]
    )
    assert np.allclose(np.tensordot(psf.coefficients([10], [40])[0], psf.images, 1), expected, rtol=1e-14)
    assert psf.coefficients([-30, 500], [-1, 800]).argmax(axis=1).tolist() == [0, 5]
    assert psf.valid_box == Box(-10, 95, -15, 85)
    check_psf(psf, [1.0, 33.3, 90.0], [4.0, 55.5, 90.0])


def test_normalisation_and_light_outside():
    image = gaussian((81, 81), 4, 1.2)
    scaled = OversampledPSF(37 * image, 4, normalize=True)
    assert scaled.kernels([0], [0]).sum() == pytest.approx(1.0, abs=1e-9)
    assert scaled.flux_outside([0], [0]) == 0
    psf = OversampledPSF(0.97 * image, 4, fraction_of_total=True)
    assert psf.flux_outside([0, 1], [0, 1]) == pytest.approx(0.03, abs=1e-6)
    check_psf(psf, [1.0, 2.0], [3.0, 4.0])


@pytest.mark.parametrize(
    ("images", "places", "match"),
    [
        (np.ones((3, 9, 9)), [(0, 0), (1, 0), (0, 1)], "no rectangular grid"),
        (np.ones((4, 9, 9)), [(0, 0), (1, 0), (0, 1)], "as many positions"),
        (np.ones((2, 2, 9, 9)), CORNERS, "stack of images"),
        (np.ones((4, 3, 9)), CORNERS, "needs 4 samples"),
        (np.ones((4, 9, 9)), [(0, 0), (1, 0), (0, 1), (1, np.nan)], "no rectangular grid"),
    ],
)
def test_grids_that_cannot_be(images, places, match):
    with pytest.raises(ConfigError, match=match):
        GriddedPSF(images, places, 2)


def test_images_that_cannot_be():
    image = gaussian((21, 21), 1, 2)
    with pytest.raises(PsfError, match="1 values that are not finite"):
        OversampledPSF(np.where(image == image.max(), np.nan, image))
    with pytest.raises(PsfError, match="holds no light"):
        OversampledPSF(-image)
    with pytest.raises(ConfigError, match="two axes"):
        OversampledPSF(image[None])
    with pytest.raises(ConfigError, match="oversampling is 0"):
        OversampledPSF(image, 0)
    with pytest.raises(ConfigError, match="outside of the image"):
        OversampledPSF(image, center=(30, 3))
    with pytest.raises(ConfigError, match="cannot be integrated"):
        OversampledPSF(image, pixel_integrated=False)
