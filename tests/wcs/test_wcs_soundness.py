"""A WCS that cannot place sources on its image is refused, with the numbers; one that cannot at a source flags it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from skygraft import inject
from skygraft.catalog import Flag
from skygraft.errors import WcsError
from skygraft.psf import Box
from skygraft.testing import make_exposure
from skygraft.wcs import FitsWcs, check_pixel_scale, check_wcs_soundness, usable_jacobians

BOX = Box(-0.5, 63.5, -0.5, 63.5)
SCALE = 0.2 / 3600


def tan(cd: list[list[float]]) -> FitsWcs:
    return FitsWcs.tan(150.0, 2.0, crpix=(31.5, 31.5), cd=cd)


@pytest.mark.parametrize("arcsec", [2e-6, 1e-3, 0.2, 30.0, 900.0])
def test_scales_of_real_images_pass(arcsec: float) -> None:
    check_wcs_soundness(tan([[-arcsec / 3600, 0.0], [0.0, arcsec / 3600]]), Box(-0.5, 9.5, -0.5, 9.5))


@pytest.mark.parametrize(
    "cd",
    [
        [[-1e-12, 0.0], [0.0, 1e-12]],
        [[-0.5, 0.0], [0.0, 0.5]],
        [[-SCALE, 0.0], [0.0, 1e-3 * SCALE]],
        [[-SCALE, 1e3 * SCALE], [0.0, SCALE]],
    ],
)
def test_pixels_that_no_image_has(cd: list[list[float]]) -> None:
    with pytest.raises(WcsError, match="arcsec are allowed"):
        check_wcs_soundness(tan(cd), BOX)


def test_a_distortion_that_runs_away_before_the_corner() -> None:
    cards = {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": 32.5, "CRPIX2": 32.5, "CD1_1": -SCALE, "CD2_2": SCALE,
        "A_ORDER": 2, "B_ORDER": 2, "B_0_2": 1e-6, "A_2_0": 1.0,
    }  # fmt: skip
    with pytest.raises(WcsError, match="the WCS makes pixels of"):
        check_wcs_soundness(FitsWcs(cards | {"A_2_0": -2e9}), BOX)
    check_wcs_soundness(FitsWcs(cards | {"A_2_0": 1e-6}), BOX)


def test_an_image_beyond_the_sky() -> None:
    with pytest.raises(WcsError, match=re.escape("the middle of the image, pixel (1e+09, 1e+09), is not on the sky")):
        cards = {
            "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 1.0, "CRPIX2": 1.0,
            "CDELT1": -SCALE, "CDELT2": SCALE,
        }  # fmt: skip
        check_wcs_soundness(FitsWcs(cards), Box(1e9 - 32, 1e9 + 32, 1e9 - 32, 1e9 + 32))


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf, 1e-7, 2e3])
def test_scales_of_footprints(scale: float) -> None:
    with pytest.raises(WcsError, match="1e-06 to 1000 are allowed"):
        check_pixel_scale(scale)


def test_jacobians() -> None:
    turned = 0.2 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    rows = np.array([turned, [[np.nan, 0], [0, 1]], [[0.2, 0.2], [0.2, 0.2]], [[0.2, 50.0], [0.0, 0.2]], 1e4 * turned])
    assert usable_jacobians(rows).tolist() == [True, False, False, False, False]


def test_injection_refuses_it_too() -> None:
    exposure = make_exposure((64, 64))
    bad = exposure.replace(wcs=tan([[-SCALE, 0.0], [0.0, 1e-4 * SCALE]]))
    catalog = {"injection_id": [1], "ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]}
    with pytest.raises(WcsError):
        inject(bad, catalog, band="r")
    assert not inject(exposure, catalog, band="r").truth["flags"][0] & int(Flag.WCS_FAILED)
