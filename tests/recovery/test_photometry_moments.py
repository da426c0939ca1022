"""Shapes on the sky: elliptical Gaussians in turned and mirrored images, against their closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.exposure import Exposure
from skygraft.recovery.moments import adaptive_moments, sky_shapes
from skygraft.testing import make_exposure
from skygraft.wcs.local import local_jacobian

SIZE = 121


def gaussian(exposure: Exposure, major: float, ratio: float, angle: float) -> np.ndarray:
    """A Gaussian with its major axis (sigma, arcsec) at an angle north through east, at the middle of the image.

    Written in sky coordinates of each pixel, by the WCS itself: offsets to the east and the north.
    """
    y, x = np.indices((SIZE, SIZE)).astype(float)
    ra, dec = (np.asarray(c).reshape(SIZE, SIZE) for c in exposure.wcs.pixel_to_world_values(x.ravel(), y.ravel()))
    middle = SIZE // 2
    east = (ra - ra[middle, middle]) * np.cos(np.radians(dec)) * 3600
    north = (dec - dec[middle, middle]) * 3600
    turn = np.radians(angle)
    along, across = north * np.cos(turn) + east * np.sin(turn), -north * np.sin(turn) + east * np.cos(turn)
    return np.exp(-0.5 * ((along / major) ** 2 + (across / (ratio * major)) ** 2)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    rotation=st.floats(0.0, 360.0),
    mirrored=st.booleans(),
    angle=st.floats(0.0, 179.0),
    ratio=st.floats(0.3, 0.95),
)
def test_a_gaussian_has_its_own_shape(rotation: float, mirrored: bool, angle: float, ratio: float) -> None:
    exposure = make_exposure((SIZE, SIZE), rotation=rotation, mirrored=mirrored, pixel_scale=0.2)
    image = gaussian(exposure, 1.2, ratio, angle)
    at = np.array([60.0])
    bad = np.zeros(image.shape, dtype=bool)
    # A first guess that is far off: a round, small weight.
    found = adaptive_moments(image, bad, at, at, np.array([[4.0, 0.0, 4.0]]))
    ratio_out, angle_out, sigma = sky_shapes(found, local_jacobian(exposure.wcs, at, at))
    assert ratio_out[0] == pytest.approx(ratio, abs=2e-3)
    assert abs((angle_out[0] - angle + 90.0) % 180.0 - 90.0) < 0.3
    assert sigma[0] == pytest.approx(1.2 * np.sqrt(ratio), rel=2e-3)


def test_a_bad_pixel_does_not_enter() -> None:
    exposure = make_exposure((SIZE, SIZE))
    image = gaussian(exposure, 0.8, 0.5, 20.0)
    bad = np.zeros(image.shape, dtype=bool)
    image[63, 58], bad[63, 58] = 1e6, True
    at, first = np.array([60.0]), np.array([[9.0, 0.0, 9.0]])
    ratio, angle, _ = sky_shapes(adaptive_moments(image, bad, at, at, first), local_jacobian(exposure.wcs, at, at))
    assert ratio[0] == pytest.approx(0.5, abs=0.02) and angle[0] == pytest.approx(20.0, abs=1.0)


def test_what_has_no_moments_is_nan() -> None:
    nothing, bad = np.zeros((50, 50), dtype=np.float32), np.zeros((50, 50), dtype=bool)
    at = np.array([25.0, np.nan, -500.0])
    assert np.isnan(adaptive_moments(nothing, bad, at, at, np.ones((3, 3)))).all()
    assert adaptive_moments(nothing, bad, at[:0], at[:0], np.ones((0, 3))).shape == (0, 3)


def test_noise_alone_gives_no_error() -> None:
    noise = np.random.default_rng(1).normal(size=(80, 80)).astype(np.float32)
    at = np.linspace(5, 75, 20)
    found = adaptive_moments(noise, np.zeros(noise.shape, dtype=bool), at, at[::-1], np.tile([3.0, 0.5, 2.0], (20, 1)))
    good = np.isfinite(found[:, 0])
    assert (found[good, 0] * found[good, 2] > found[good, 1] ** 2).all()
