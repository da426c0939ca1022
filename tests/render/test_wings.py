"""Wide Gaussians against their closed form in float64, on the pixels and in cells together."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.render import Canvas
from skygraft.render.coarse import CoarseField
from skygraft.render.wings import add_wings

WIDTHS = np.array([0.7, 1.0, 1.4, 2.0, 2.8])
FLUXES = np.array([0.0, 0.3, 0.3, 0.25, 0.15])


def closed_form(canvas: Canvas, x: float, y: float, metric: np.ndarray, variance: float) -> np.ndarray:
    """The sum of Gaussians, each with the PSF's variance added to its own along either axis."""
    p = np.array([[metric[0], metric[1]], [metric[1], metric[2]]])
    rows, columns = np.mgrid[: canvas.model.shape[0], : canvas.model.shape[1]]
    d = np.stack([columns + canvas.x0 - x, rows + canvas.y0 - y], axis=-1)
    total = np.zeros(canvas.model.shape)
    for width, flux in zip(WIDTHS, FLUXES, strict=True):
        covariance = width**2 * np.linalg.inv(p) + variance * np.eye(2)
        exponent = np.einsum("...i,ij,...j", d, np.linalg.inv(covariance), d)
        total += flux * np.exp(-0.5 * exponent) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    return total


def add(canvas: Canvas, x: float, y: float, metric: np.ndarray, variance: float, reach: float, half: int) -> float:
    coarse = CoarseField(canvas)
    # A Gaussian PSF: the mean of r^4 is eight times the square of its variance along an axis.
    moments = np.array([variance, 0.0, variance, 8 * variance**2])
    peak = float((FLUXES / WIDTHS**2).sum() / (2 * np.pi) * np.sqrt(metric[0] * metric[2] - metric[1] ** 2))
    deposited = add_wings(
        canvas.model, (canvas.x0, canvas.y0), coarse.cells, x, y, 1.0, metric, moments, FLUXES, WIDTHS, reach,
        2e-5 * peak, (round(x), round(y)), half,
    )  # fmt: skip
    coarse.add_to(canvas)
    return deposited


def half_light_ellipse(major: float, q: float, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    a, b = 1 / major**2, 1 / (q * major) ** 2
    return np.array([a * c * c + b * s * s, (a - b) * c * s, a * s * s + b * c * c])


@pytest.mark.parametrize(
    ("major", "q", "angle", "variance", "bound"),
    [
        (6.0, 1.0, 0.0, 2.5, 3e-5),
        (23.0, 1.0, 0.0, 2.5, 3e-5),
        (25.0, 0.4, 0.7, 0.0, 3e-5),
        # Beyond the first order in the part of the variance that is not the ellipse's own shape.
        (30.0, 0.4, 0.7, 2.5, 1e-4),
    ],
)
def test_what_is_drawn_is_the_sum_of_gaussians(major, q, angle, variance, bound):
    canvas = Canvas.empty((500, 480), (37, -21))
    metric = half_light_ellipse(major, q, angle)
    x, y, reach = 281.3, 217.8, 5.0
    deposited = add(canvas, x, y, metric, variance, reach, 230)
    expected = closed_form(canvas, x, y, metric, variance)
    rows, columns = np.mgrid[:500, :480]
    dx, dy = columns + 37 - x, rows - 21 - y
    radius = np.sqrt(metric[0] * dx * dx + 2 * metric[1] * dx * dy + metric[2] * dy * dy)
    drawn = canvas.model != 0
    assert drawn[radius < reach - 1e-3].all()
    assert np.abs(canvas.model - expected)[drawn].max() < bound * expected.max()
    assert deposited == pytest.approx(canvas.model.sum(dtype=float), rel=1e-5)


def test_nothing_is_drawn_beyond_the_stamp():
    canvas = Canvas.empty((300, 300), (0, 0))
    metric = half_light_ellipse(23.0, 1.0, 0.0)
    deposited = add(canvas, 150.4, 140.9, metric, 2.5, 5.0, 61)
    rows, columns = np.nonzero(canvas.model)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (141 - 61, 141 + 61, 150 - 61, 150 + 61)
    expected = closed_form(canvas, 150.4, 140.9, metric, 2.5)
    inside = canvas.model != 0
    assert np.abs(canvas.model - expected)[inside].max() < 3e-5 * expected.max()
    assert deposited == pytest.approx(canvas.model.sum(dtype=float), rel=1e-5)


def test_part_of_a_canvas_is_that_part():
    metric = half_light_ellipse(25.0, 0.4, 0.7)
    whole, part = Canvas.empty((400, 400), (0, 0)), Canvas.empty((110, 93), (141, 207))
    for canvas in (whole, part):
        add(canvas, 200.3, 195.1, metric, 2.0, 5.0, 190)
    np.testing.assert_array_equal(part.model, whole.model[207:317, 141:234])
    assert part.model.any()
