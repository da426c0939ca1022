"""Wings blurred by galaxies: against a convolution with the galaxy's own profile, ring by ring."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal
from scipy.special import gammaincinv

from skygraft.psf.wings import PowerLawWing, Wings
from skygraft.render import Canvas
from skygraft.render.radial import WIDTHS, gaussian_fluxes
from skygraft.render.wing_painter import WingPainter
from skygraft.render.wing_tables import SIGMAS, blur_of

WINGS = Wings(PowerLawWing(2.6), 15.0, 5.0, 4000.0)
HALF, REACH = 500, 200.0


def on_pixels(brightness) -> np.ndarray:
    """A round profile on pixels, the middle ones as means of 21 by 21 points, with unit flux on an endless plane."""
    at = np.arange(-HALF, HALF + 1)
    with np.errstate(divide="ignore"):
        image = brightness(np.hypot(at, at[:, None]))
    fine = (np.arange(-12, 13)[:, None] + (np.arange(21) - 10) / 21).ravel()
    middle = slice(HALF - 12, HALF + 13)
    image[middle, middle] = brightness(np.hypot(fine, fine[:, None])).reshape(25, 21, 25, 21).mean(axis=(1, 3))
    r = np.geomspace(HALF, 1e6, 4001)
    corners = image[np.hypot(at, at[:, None]) > HALF].sum()
    return image / (image.sum() - corners + np.trapezoid(2 * np.pi * r * brightness(r), r))


def drawn(blur: np.ndarray) -> np.ndarray:
    canvas = Canvas.empty((2 * HALF + 1, 2 * HALF + 1), (-HALF, -HALF))
    painter = WingPainter(canvas, WINGS)
    one, zero = np.ones(1), np.zeros(1)
    deposited, _ = painter.add(zero, zero, one, REACH * one, np.ones(1, np.int64), np.stack([0 * blur, blur]))
    painter.finish()
    assert deposited[0] == pytest.approx(canvas.model.sum(dtype=float), rel=1e-5)
    return canvas.model


@pytest.mark.parametrize(
    ("n", "beta", "radius"), [(0.5, None, 8.0), (1.0, None, 8.0), (4.0, None, 4.0), (1.0, 2.0, 5.0)]
)
def test_blurred_wings_are_those_of_a_convolution(n, beta, radius):
    at = np.arange(-HALF, HALF + 1)
    r = np.hypot(at, at[:, None])
    if beta is None:
        b = float(gammaincinv(2 * n, 0.5))
        profile = on_pixels(lambda s: np.exp(-b * (s / radius) ** (1 / n)))
        fluxes, unit = gaussian_fluxes(np.array([n])), radius
    else:
        core = radius / np.sqrt(2 ** (1 / (beta - 1)) - 1)
        profile = on_pixels(lambda s: (1 + (s / core) ** 2) ** -beta)
        fluxes, unit = gaussian_fluxes(np.ones(1), np.array([beta])), 16.0 / np.sqrt(beta + 2.0) * core
    widths = WIDTHS * unit
    if fluxes.sum() < 0.5:  # a Gaussian
        fluxes, widths = np.ones((1, 1)), np.array([radius / np.sqrt(2 * np.log(2))])
    expected = signal.fftconvolve(WINGS.light(r), profile, mode="same")
    model = drawn(blur_of(fluxes, widths[None])[0])
    for low, high in ((0, 8), (8, 16), (16, 25), (25, 40), (40, 80), (80, 140), (140, 195)):
        ring = (r >= low) & (r < high)
        # Inside the blend there is next to nothing of the wings.
        assert model[ring].sum(dtype=float) == pytest.approx(expected[ring].sum(), rel=0.06 if high == 8 else 0.01)
    assert not model[r > REACH + 1e-3].any()


def test_a_blur_keeps_flux_and_second_moment():
    rng = np.random.default_rng(1)
    fluxes, widths = rng.uniform(size=(3, 7)), rng.uniform(0.0, 90.0, (3, 7))
    found = blur_of(fluxes, widths)
    np.testing.assert_allclose(found.sum(axis=1), fluxes.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found @ SIGMAS**2, (fluxes * widths**2).sum(axis=1), rtol=1e-12)
    assert (found >= 0).all()
