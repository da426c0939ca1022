"""Sums over circles, moments and Lanczos-3, against Gaussians, whose values are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.qa.consistency.grids import Grid, measure, moments
from skygraft.qa.consistency.resampling import LANCZOS, aperture_table, warp_stamps

SIGMA = 1.8


def gaussian(shape: tuple[int, int], x: float, y: float, matrix: np.ndarray) -> np.ndarray:
    """Unit flux on pixels q, a circle of SIGMA in the coadd's pixels p = matrix^-1 q."""
    j, i = np.mgrid[: shape[0], : shape[1]]
    inverse = np.linalg.inv(matrix)
    u, v = np.einsum("ab,bji->aji", inverse, np.stack([i - x, j - y]))
    return (np.exp(-0.5 * (u**2 + v**2) / SIGMA**2) / (2 * np.pi * SIGMA**2) * abs(np.linalg.det(inverse))).astype("f4")


def turned(degrees: float, scale: float, shear: float = 0.0) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return scale * np.array([[c, -s], [s, c]]) @ np.array([[1 + shear, 0], [0, 1 - shear]])


def grid(x: float, y: float, matrix: np.ndarray) -> Grid:
    det = np.array([abs(np.linalg.det(matrix))])
    return Grid(np.array([[x, y]]), matrix[None], np.linalg.inv(matrix)[None], det)


@pytest.mark.parametrize("matrix", [turned(0, 1.0), turned(33, 1.17), turned(-70, 0.9, 0.02)])
@pytest.mark.parametrize("radius", [3.0, 5.3])
def test_flux_and_moments_do_not_depend_on_the_pixels(matrix: np.ndarray, radius: float) -> None:
    x, y = 40.37, 39.81
    light = gaussian((81, 81), x, y, matrix)
    sums = measure(light[None], np.zeros(1, np.int64), grid(x, y, matrix), radius, 2.0, 20.0)
    found = moments(sums, 2.0)
    assert found.flux[0] == pytest.approx(1 - np.exp(-0.5 * (radius / SIGMA) ** 2), abs=2e-4)
    assert found.size[0] == pytest.approx(SIGMA, rel=1e-4)
    assert np.hypot(found.x[0], found.y[0]) < 1e-4


def test_the_centroid_is_where_the_light_is() -> None:
    matrix = turned(20, 1.0)
    light = gaussian((81, 81), 40.0, 40.0, matrix)
    shift = matrix @ np.array([0.3, -0.2])
    sums = measure(light[None], np.zeros(1, np.int64), grid(40 - shift[0], 40 - shift[1], matrix), 6.0, 2.0, 20.0)
    found = moments(sums, 2.0)
    assert (found.x[0], found.y[0]) == pytest.approx((0.3, -0.2), abs=1e-3)


def test_nothing_has_no_size() -> None:
    sums = measure(np.zeros((1, 30, 30), "f4"), np.zeros(1, np.int64), grid(15, 15, np.eye(2)), 5.0, 2.0, 10.0)
    found = moments(sums, 2.0)
    assert found.flux[0] == 0 and np.isnan([found.x[0], found.size[0]]).all()
    assert measure(np.zeros((1, 3, 3), "f4"), np.zeros(0, np.int64), grid(1, 1, np.eye(2))[:0], 5, 2, 9).shape == (0, 7)


def test_the_weights_of_a_circle_sum_to_its_area() -> None:
    table = aperture_table(4.0, 30.0)
    step = 0.05
    distance = step * (np.arange(table.shape[1]) - 1)
    inside = distance >= 0
    # The integral over the plane converges slowly, as the weights ring: smoothed by a wide Gaussian it is the area.
    smooth = np.exp(-0.5 * (distance / 8.0) ** 2)
    area = (2 * np.pi * distance * table[0] * smooth)[inside].sum() * step
    expected = 2 * np.pi * 64 * (1 - np.exp(-0.5 * (4.0 / 8.0) ** 2))
    assert area == pytest.approx(expected, rel=1e-3)
    # The derivative by the radius is that of tables of two radii.
    slope = (aperture_table(4.01, 30.0)[0] - aperture_table(3.99, 30.0)[0]) / 0.02
    np.testing.assert_allclose(table[1], slope, atol=2e-4)


def test_warping_gives_the_surface_brightness_times_the_area_of_a_pixel() -> None:
    matrix, size, half = turned(33, 1.17), 41, 20
    light = gaussian((121, 121), 60.3, 59.7, matrix)
    bad = np.zeros((1, 121, 121), np.bool_)
    bad[0, 60, 70] = True
    out, seen = np.empty((1, size, size), "f4"), np.empty((1, size, size), np.bool_)
    first = np.array([[-half + 0.2, -half - 0.4]])
    place = np.array([[60.3, 59.7]])
    warp_stamps(light[None], bad, np.zeros(1, np.int64), place, matrix[None], first, LANCZOS.table, out, seen)
    expected = gaussian((size, size), half - 0.2, half + 0.4, np.eye(2))
    assert np.abs(out[0] - expected).max() < 5e-3 * expected.max()
    assert out.sum() == pytest.approx(1.0, abs=2e-3)
    # About one pixel of the image is bad: those pixels are left out of which it is one of the four nearest.
    lost = np.argwhere(~seen[0])
    j, i = lost.T
    q = np.einsum("ab,bn->an", matrix, np.stack([i + first[0, 0], j + first[0, 1]])) + place.T
    assert 1 <= len(lost) <= 4 and (np.abs(q - np.array([[70], [60]])) < 1).all()


def test_off_the_image_nothing_is_seen() -> None:
    light, bad = np.ones((1, 20, 20), "f4"), np.zeros((1, 20, 20), np.bool_)
    out, seen = np.empty((1, 9, 9), "f4"), np.empty((1, 9, 9), np.bool_)
    first = np.full((1, 2), -4.0)
    for x, some in ((-200.0, False), (0.0, True), (10.0, True)):
        at = np.array([[x, 10.0]])
        warp_stamps(light, bad, np.zeros(1, np.int64), at, np.eye(2)[None], first, LANCZOS.table, out, seen)
        assert seen.any() == some and seen.all() == (x == 10.0)
    np.testing.assert_allclose(out, 1.0, rtol=1e-6)
